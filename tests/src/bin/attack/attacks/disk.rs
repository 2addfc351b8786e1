//! A full disk, a lost database, a power cut.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use harness::image::Image;
use harness::wait;
use harness::{Disk, Supervisor, run};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::Signal;

use crate::attack::{Attack, attack, within};
use crate::fixture::{Fixture, IMAGE, SOON, brief, succeeded};

pub(crate) fn attacks() -> Vec<Attack> {
    [
        within(
            120,
            attack(
                "C.14",
                "disk-filled-by-a-container",
                "a container that filled the disk is removed, and its bytes with it",
                filled_by_container,
            ),
        ),
        within(
            120,
            attack(
                "C.14",
                "disk-filled-by-another",
                "on a full disk the daemon starts, and removes images and snapshots",
                filled_by_another,
            ),
        ),
        within(
            120,
            attack(
                "C.15",
                "database-lost",
                "with its database lost, empty or damaged a start destroys nothing",
                database,
            ),
        ),
        attack("C.15", "odd-directory", "an odd entry in a store is set aside, not fatal", odd),
        attack(
            "C.15",
            "blob-truncated",
            "importing an image again repairs a lost or truncated blob",
            truncated,
        ),
        within(
            120,
            attack(
                "C.18",
                "power-cut",
                "an import that was acknowledged is whole after a power cut",
                power_cut,
            ),
        ),
    ]
    .concat()
}

/// A small file system of memory at a directory, for as long as it lives.
struct Memory(PathBuf);

impl Memory {
    fn at(directory: PathBuf) -> Self {
        fs::create_dir_all(&directory).expect("make a mount point");
        let none = MsFlags::empty();
        mount(Some("tmpfs"), &directory, Some("tmpfs"), none, Some("size=48m")).expect("mount");
        Self(directory)
    }

    /// Fills it to the last byte.
    fn fill(&self) {
        let mut file = File::create(self.0.join("filler")).expect("make a file");
        for size in [1 << 20, 4096, 1] {
            while file.write_all(&vec![1; size]).is_ok() {}
        }
    }

    fn free_mb(&self) -> u64 {
        let about = nix::sys::statvfs::statvfs(&self.0).expect("statvfs");
        about.blocks_free() * about.fragment_size() / (1 << 20)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

fn on_memory(fixture: &Fixture) -> (Supervisor<'_>, Memory) {
    let mut supervisor = Supervisor::new(fixture.root());
    let memory = Memory::at(supervisor.root());
    supervisor.serve();
    supervisor.import(&image(fixture));
    (supervisor, memory)
}

fn image(fixture: &Fixture) -> PathBuf {
    Image::busybox(IMAGE).write(&fixture.root().path().join("image.tar"))
}

fn filled_by_container(fixture: &Fixture) {
    let (mut supervisor, memory) = on_memory(fixture);
    let before = memory.free_mb();
    let id = fixture.root().id("fill");
    let script = "dd if=/dev/zero of=/fill bs=65536; : >/full; exec sleep 1000";
    let _ = fixture.run(&supervisor, &["-d", "--name", &id], &["/bin/sh", "-c", script]).success();
    harness::eventually(SOON, "the container fills the disk", || {
        (memory.free_mb() == 0).then_some(())
    });
    let removed = supervisor.run(&["rm", "-f", &id]);
    succeeded(&removed, "rm -f on a full disk");
    harness::eventually(SOON, "the container's bytes are free again", || {
        (memory.free_mb() + 2 >= before).then_some(())
    });
    let done = fixture.run(&supervisor, &["--rm"], &["true"]);
    succeeded(&done, "the next container");
    supervisor.stop(Signal::SIGTERM);
}

fn filled_by_another(fixture: &Fixture) {
    let (mut supervisor, memory) = on_memory(fixture);
    memory.fill();
    supervisor.stop(Signal::SIGTERM);
    supervisor.serve();
    let listed = supervisor.run(&["images"]);
    assert!(listed.code() == 0 && listed.out().contains("attack"), "images: {}", brief(&listed));
    // Of another name, so that there is something to write.
    let other = Image::busybox("example.test/other:1")
        .layer(harness::image::Layer::new().file("more", 0o644, &vec![7; 1 << 20]))
        .write(&fixture.root().path().join("other.tar"));
    let mut import = supervisor.cli(&["import"]);
    let import = run(import.arg(other));
    assert!(import.code() != 0, "an import on a full disk");
    let ctr = |words: &[&str]| run(&mut supervisor.ctr(words));
    let active = ctr(&["content", "active"]).success().out();
    assert_eq!(active.lines().count(), 1, "a failed import left {active}");
    let removed = ctr(&["images", "rm", "--sync", IMAGE]);
    succeeded(&removed, "images rm on a full disk");
    harness::eventually(SOON, "the image's bytes are free", || {
        (memory.free_mb() > 0).then_some(())
    });
    supervisor.stop(Signal::SIGTERM);
}

/// The names of blobs and the files of snapshots.
fn kept(root: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut directories = vec![root.join("content/blobs"), root.join("snapshots")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => directories.push(entry.path()),
                Ok(kind) if kind.is_file() => drop(found.insert(entry.path())),
                _ => {}
            }
        }
    }
    found
}

/// The files of the database.
fn databases(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let head = fs::read(entry.path()).unwrap_or_default();
        let name = entry.file_name().to_string_lossy().into_owned();
        if head.starts_with(b"SQLite format") || name.ends_with("-wal") || name.ends_with("-shm") {
            found.push(entry.path());
        }
    }
    assert!(!found.is_empty(), "there is a database in {}", root.display());
    found
}

fn database(fixture: &Fixture) {
    for fault in ["lost", "empty", "damaged", "newer"] {
        let mut supervisor = Supervisor::named(fixture.root(), fault);
        supervisor.serve();
        supervisor.import(&image(fixture));
        let id = fixture.root().id(fault);
        let _ = fixture.run(&supervisor, &["-d", "--name", &id], &["sleep", "1000"]).success();
        supervisor.stop(Signal::SIGKILL);
        let before = kept(&supervisor.root());
        let aside = fixture.root().dir("aside");
        for path in databases(&supervisor.root()) {
            let to = aside.join(path.file_name().expect("a file"));
            fs::copy(&path, &to).expect("keep the database");
            match fault {
                "lost" => fs::remove_file(&path).expect("remove it"),
                "empty" => fs::write(&path, "").expect("empty it"),
                "damaged" => fs::write(&path, vec![0x5a; 40_000]).expect("damage it"),
                _ => {
                    // The number that says which release has written it (PRAGMA user_version).
                    let mut bytes = fs::read(&path).expect("read it");
                    if bytes.starts_with(b"SQLite format") {
                        bytes[60..64].copy_from_slice(&99_999u32.to_be_bytes());
                        fs::write(&path, bytes).expect("write it");
                    } else {
                        fs::remove_file(&path).expect("remove it");
                    }
                }
            }
        }
        // It may refuse to start, or start and say so; either way nothing is to go.
        let started = supervisor.run(&["ps", "-a"]);
        wait::pass(Duration::from_secs(2));
        let after = kept(&supervisor.root());
        let lost = before.difference(&after).count();
        supervisor.stop(Signal::SIGKILL);
        // As it was, so that the container can be ended in the ordinary way.
        for entry in fs::read_dir(&aside).expect("made above").flatten() {
            let to = supervisor.root().join(entry.file_name());
            fs::copy(entry.path(), to).expect("put the database back");
        }
        fs::remove_dir_all(&aside).expect("made above");
        let removed = supervisor.run(&["rm", "-f", &id]);
        supervisor.stop(Signal::SIGTERM);
        assert_eq!(
            lost,
            0,
            "with its database {fault}, a start removed {lost} files of {}",
            before.len()
        );
        assert!(!started.err().contains("panicked"), "{started:?}");
        succeeded(&removed, "rm -f");
    }
}

fn odd(fixture: &Fixture) {
    let mut supervisor = Supervisor::new(fixture.root());
    supervisor.serve();
    supervisor.import(&image(fixture));
    supervisor.stop(Signal::SIGTERM);
    let root = supervisor.root();
    for path in ["content/blobs/sha256/odd", "content/ingests/odd/deeper", "snapshots/odd/fs"] {
        fs::create_dir_all(root.join(path)).expect("make a directory");
    }
    fs::write(root.join("snapshots/file"), "").expect("write a file");
    fs::write(root.join("content/blobs/sha256/.tmp"), "").expect("write a file");
    supervisor.serve();
    let done = fixture.run(&supervisor, &["--rm"], &["true"]);
    succeeded(&done, "a container, with odd entries in the stores");
    supervisor.stop(Signal::SIGTERM);
}

fn truncated(fixture: &Fixture) {
    let mut supervisor = Supervisor::new(fixture.root());
    let archive = image(fixture);
    for fault in ["truncated", "lost", "snapshot"] {
        supervisor.serve();
        supervisor.import(&archive);
        supervisor.stop(Signal::SIGTERM);
        let blobs = supervisor.root().join("content/blobs/sha256");
        if fault == "snapshot" {
            let snapshots = supervisor.root().join("snapshots");
            for entry in fs::read_dir(&snapshots).expect("snapshots").flatten() {
                let files = entry.path().join("fs");
                if files.is_dir() {
                    fs::remove_dir_all(&files).expect("lose a snapshot");
                }
            }
        } else {
            for entry in fs::read_dir(&blobs).expect("blobs").flatten() {
                match fault {
                    "lost" => fs::remove_file(entry.path()).expect("lose a blob"),
                    _ => fs::write(entry.path(), "").expect("truncate a blob"),
                }
            }
        }
        supervisor.serve();
        let mut import = supervisor.cli(&["import"]);
        let import = run(import.arg(&archive));
        let done = fixture.run(&supervisor, &["--rm"], &["true"]);
        let exported = fixture.root().path().join("out.tar");
        let export = ["images", "export", exported.to_str().expect("a plain path"), IMAGE];
        let export = run(&mut supervisor.ctr(&export));
        supervisor.stop(Signal::SIGTERM);
        succeeded(&import, &format!("importing again, {fault}"));
        succeeded(&done, &format!("a container, {fault}"));
        if fault != "snapshot" {
            let whole = fs::metadata(&exported).map(|about| about.len()).unwrap_or(0);
            assert!(
                export.code() == 0 && whole > 500_000,
                "an export, {fault}: {}",
                brief(&export)
            );
        }
    }
}

fn power_cut(fixture: &Fixture) {
    let file = fixture.root().path().join("disk");
    let mut supervisor = Supervisor::new(fixture.root());
    let disk = Disk::new(&file, 256 << 20, supervisor.root());
    supervisor.serve();
    supervisor.import(&image(fixture));
    // What had reached the disk when the answer came is what a power cut leaves.
    let copy = fixture.root().path().join("copy");
    fs::copy(&file, &copy).expect("copy the disk");
    supervisor.stop(Signal::SIGTERM);
    drop(disk);
    let cut = Disk::mount(&copy, supervisor.root());
    let busybox = fs::read("/bin/busybox").expect("busybox").len() as u64;
    let sizes: Vec<u64> = kept(&supervisor.root())
        .iter()
        .filter(|path| path.ends_with("bin/busybox"))
        .map(|path| fs::metadata(path).map(|about| about.len()).unwrap_or(0))
        .collect();
    supervisor.serve();
    let done = fixture.run(&supervisor, &["--rm"], &["true"]);
    supervisor.stop(Signal::SIGTERM);
    drop(cut);
    assert_eq!(sizes, [busybox], "sizes of the snapshot's busybox after a power cut");
    succeeded(&done, "a container after a power cut");
}
