//! Power cuts: what was acknowledged is whole on the disk, at that very moment.
//!
//! The supervisor's directories are on a file system in a file. A copy of that file is what a disk
//! holds when the power is cut: the kernel writes what was synced, and nothing else, to it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use harness::image::{Image, Layer};
use harness::{Root, Supervisor, eventually, programs, run, wait};
use nix::sys::signal::Signal;
use rusqlite::{Connection, OpenFlags};

const NAME: &str = "example.test/cut:1";
const LAYERS: usize = 3;
const FILES: usize = 40;
/// The kind of a committed snapshot in its record.
const COMMITTED: i32 = 3;

/// A file system in a file, mounted.
struct Disk<'r> {
    root: &'r Root,
    file: PathBuf,
    mount: PathBuf,
}

impl<'r> Disk<'r> {
    /// An empty one where the supervisor of this name has its directories.
    fn new(root: &'r Root, name: &str) -> Self {
        let file = root.path().join(format!("{name}.disk"));
        fs::File::create(&file).and_then(|file| file.set_len(400 << 20)).expect("make a disk");
        let _ = run(root.command(programs::system("mkfs.ext4")).arg("-qF").arg(&file)).success();
        Self::mounted(root, name, file)
    }

    fn mounted(root: &'r Root, name: &str, file: PathBuf) -> Self {
        let mount = root.dir(name);
        let mut command = root.command(programs::system("mount"));
        let _ = run(command.args(["-o", "loop"]).arg(&file).arg(&mount)).success();
        Self { root, file, mount }
    }

    /// What the disk holds at this moment.
    fn cut(&self, name: &str) -> PathBuf {
        let copy = self.root.path().join(format!("{name}.disk"));
        let mut command = self.root.command(programs::system("cp"));
        let _ = run(command.arg("--sparse=always").arg(&self.file).arg(&copy)).success();
        copy
    }
}

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        let unmount = || {
            let mut command = self.root.command(programs::system("umount"));
            run(command.arg(&self.mount)).code() == 0
        };
        if std::thread::panicking() {
            let mut command = self.root.command(programs::system("umount"));
            let _ = run(command.arg("-l").arg(&self.mount));
        } else {
            eventually(wait::SOON, "the disk is unmounted", || unmount().then_some(()));
        }
        let _ = fs::remove_file(&self.file);
    }
}

fn content(layer: usize, file: usize) -> Vec<u8> {
    format!("layer {layer}, file {file}: ").repeat(500 + file * 20).into_bytes()
}

fn image(root: &Root) -> PathBuf {
    let mut image = Image::busybox(NAME);
    for number in 1..LAYERS {
        let layer = (0..FILES).fold(Layer::new().dir("data/", 0o755), |layer, file| {
            layer.file(&format!("data/{number}-{file}"), 0o644, &content(number, file))
        });
        image = image.layer(layer);
    }
    image
        .layer(Layer::new().file("bin/tool", 0o755, &content(9, 9)))
        .write(&root.path().join("i.tar"))
}

/// A supervisor on what a cut left: its run-time directory was in memory.
fn after_cut<'r>(disk: &Disk<'r>, name: &str) -> Supervisor<'r> {
    let _ = fs::remove_dir_all(disk.mount.join("state"));
    let mut supervisor = Supervisor::named(disk.root, name);
    supervisor.serve();
    supervisor
}

/// Every snapshot that is recorded as committed has all its files; how many there are is the answer.
/// By the records themselves, also before a daemon has started: that would collect what no image
/// refers to yet, and remove its files.
fn committed_are_whole(root: &Path) -> usize {
    let snapshots = root.join("snapshots");
    let database = root.join("metadata.db");
    let database = Connection::open_with_flags(database, OpenFlags::SQLITE_OPEN_READ_WRITE);
    let database = database.expect("open the database");
    let mut query = database
        .prepare("SELECT id FROM snapshots WHERE kind = ?1 ORDER BY id")
        .expect("there is a table");
    let homes = query.query_map([COMMITTED], |row| row.get(0)).expect("ask");
    let homes: Vec<i64> = homes.collect::<Result<_, _>>().expect("read");
    for (layer, home) in homes.iter().enumerate() {
        let fs_root = snapshots.join(home.to_string()).join("fs");
        match layer {
            0 => same(&fs_root.join("bin/busybox"), &fs::read("/bin/busybox").expect("installed")),
            layer if layer < LAYERS => {
                for file in 0..FILES {
                    let path = fs_root.join(format!("data/{layer}-{file}"));
                    same(&path, &content(layer, file));
                }
            }
            _ => same(&fs_root.join("bin/tool"), &content(9, 9)),
        }
    }
    homes.len()
}

fn same(path: &Path, expected: &[u8]) {
    let found = fs::read(path).unwrap_or_else(|why| panic!("{}: {why}", path.display()));
    assert!(
        found == expected,
        "{} has {} bytes of {}",
        path.display(),
        found.len(),
        expected.len()
    );
}

fn names_image(supervisor: &Supervisor<'_>) -> bool {
    supervisor.run(&["images"]).success().out().contains(NAME)
}

/// Looks at what a cut left: an image that is named is whole, and what is there hinders nothing.
fn check(root: &Root, name: &str, file: PathBuf, archive: &Path) -> bool {
    let disk = Disk::mounted(root, name, file);
    let committed = committed_are_whole(&disk.mount.join("root"));
    let mut supervisor = after_cut(&disk, name);
    let named = names_image(&supervisor);
    if named {
        assert_eq!(committed, LAYERS + 1);
        let script = format!("cat /data/{}-7", LAYERS - 1);
        let done = supervisor.run(&["run", "--rm", NAME, "/bin/sh", "-c", &script]).success();
        let expected = String::from_utf8(content(LAYERS - 1, 7)).expect("it is text");
        assert!(done.out().trim() == expected.trim(), "{} bytes", done.out().len());
    }
    supervisor.import(archive);
    assert_eq!(committed_are_whole(&supervisor.root()), LAYERS + 1);
    supervisor.stop(Signal::SIGTERM);
    named
}

/// Every file of the snapshots of an acknowledged import was empty.
#[test]
fn what_is_acknowledged_survives_a_power_cut_whole() {
    let root = Root::new();
    let archive = image(&root);
    let disk = Disk::new(&root, "s");
    let mut supervisor = Supervisor::new(&root);
    supervisor.serve();
    supervisor.import(&archive);
    let imported = disk.cut("imported");

    // A container, running.
    let id = root.id("cut");
    let _ = supervisor.run(&["run", "-d", "--name", &id, NAME, "/bin/sleep", "1000"]).success();
    let ran = disk.cut("ran");
    let _ = supervisor.run(&["rm", "-f", &id]).success();
    let removed = disk.cut("removed");
    let _ = supervisor.run(&["install", NAME]).success();
    let installed = disk.cut("installed");
    let _ = supervisor.run(&["images", "rm", NAME]).success();
    let deleted = disk.cut("deleted");
    supervisor.stop(Signal::SIGTERM);
    drop(supervisor);
    drop(disk);

    assert!(check(&root, "imported", imported, &archive), "the image is named");
    {
        let disk = Disk::mounted(&root, "ran", ran);
        let mut supervisor = after_cut(&disk, "ran");
        let _ = committed_are_whole(&supervisor.root());
        assert!(supervisor.run(&["ps", "-a"]).success().out().contains(&id));
        let _ = supervisor.run(&["rm", "-f", &id]).success();
        supervisor.stop(Signal::SIGTERM);
    }
    for (name, file, named) in [("removed", removed, true), ("deleted", deleted, false)] {
        let disk = Disk::mounted(&root, name, file);
        let mut supervisor = after_cut(&disk, name);
        assert!(!supervisor.run(&["ps", "-a"]).success().out().contains(&id), "{name}");
        assert_eq!(names_image(&supervisor), named, "{name}");
        supervisor.stop(Signal::SIGTERM);
    }
    let disk = Disk::mounted(&root, "installed", installed);
    let mut supervisor = after_cut(&disk, "installed");
    same(&supervisor.opt().join("bin/tool"), &content(9, 9));
    same(&supervisor.opt().join("bin/busybox"), &fs::read("/bin/busybox").expect("installed"));
    supervisor.stop(Signal::SIGTERM);
}

/// containerd's client unpacks with Snapshots.Prepare, Diff.Apply and Snapshots.Commit.
#[test]
fn layers_that_a_client_applies_and_commits_survive_a_power_cut() {
    let root = Root::new();
    let archive = image(&root);
    let disk = Disk::new(&root, "s");
    let mut supervisor = Supervisor::new(&root);
    supervisor.serve();
    let mut import = supervisor.ctr(&["images", "import"]);
    let _ = run(import.arg(&archive)).success();
    let committed = disk.cut("committed");
    supervisor.stop(Signal::SIGTERM);
    drop(supervisor);
    drop(disk);
    let disk = Disk::mounted(&root, "committed", committed);
    let mut supervisor = after_cut(&disk, "committed");
    assert_eq!(committed_are_whole(&supervisor.root()), LAYERS + 1);
    assert!(names_image(&supervisor));
    supervisor.stop(Signal::SIGTERM);
}

#[test]
fn a_power_cut_in_the_middle_leaves_no_record_of_what_is_not_whole() {
    let root = Root::new();
    let archive = image(&root);
    let disk = Disk::new(&root, "s");
    let mut supervisor = Supervisor::new(&root);
    supervisor.serve();
    let mut cuts = Vec::new();
    let mut during = |command: &mut Command, what: &str| {
        let mut child =
            command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("start a client");
        let mut number = 0;
        while child.try_wait().expect("wait for a client").is_none() {
            number += 1;
            let name = format!("{what}{number}");
            let file = disk.cut(&name);
            if number % 3 == 1 && number < 12 {
                cuts.push((name, file));
            } else {
                fs::remove_file(file).expect("a copy that is not wanted");
            }
            wait::pass(Duration::from_millis(10));
        }
    };
    during(supervisor.cli(&["import"]).arg(&archive), "import");
    during(&mut supervisor.cli(&["install", NAME]), "install");
    during(&mut supervisor.cli(&["images", "rm", NAME]), "delete");
    supervisor.stop(Signal::SIGTERM);
    drop(supervisor);
    drop(disk);
    assert!(!cuts.is_empty());
    for (name, file) in cuts {
        let _ = check(&root, &name, file, &archive);
    }
}
