//! A file system in a file: what a test can fill, copy, and look at after its power is cut.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::command::run;
use crate::programs;

/// A file system in a file, mounted for as long as it lives.
pub struct Disk(PathBuf);

impl Disk {
    /// Makes an ext4 file system of `bytes` in `file`, and mounts it at `at`.
    pub fn new(file: &Path, bytes: u64, at: PathBuf) -> Self {
        File::create(file).and_then(|file| file.set_len(bytes)).expect("make a disk");
        let mut make = Command::new(programs::system("mkfs.ext4"));
        let _ = run(make.arg("-q").arg(file)).success();
        Self::mount(file, at)
    }

    /// Mounts the file system in `file` at `at`.
    pub fn mount(file: &Path, at: PathBuf) -> Self {
        fs::create_dir_all(&at).expect("make a mount point");
        let mut mount = Command::new(programs::system("mount"));
        let _ = run(mount.args(["-o", "loop"]).arg(file).arg(&at)).success();
        Self(at)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Not lazily: its loop device is to go with it.
        let mut unmount = Command::new(programs::system("umount"));
        let _ = run(unmount.arg(&self.0));
    }
}
