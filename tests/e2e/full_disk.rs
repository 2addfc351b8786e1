//! A full disk can be mended: what makes room works on a file system with no free block, the
//! daemon starts on one, and what fails gives its bytes back.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use harness::image::{Image, Layer};
use harness::{Root, Supervisor, eventually, run, wait};
use nix::mount::{MsFlags, mount, umount};
use nix::sys::signal::Signal;
use nix::sys::statvfs::statvfs;

const SMALL: &str = "example.test/small:1";
const MIB: u64 = 1 << 20;

/// A small file system at a supervisor's root directory, gone when dropped.
struct Disk {
    at: PathBuf,
}

impl Disk {
    fn tmpfs(at: &Path) -> Self {
        fs::create_dir_all(at).expect("make the mount point");
        mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::empty(), Some("size=48m,mode=0711"))
            .expect("mount a tmpfs");
        Self { at: at.to_owned() }
    }

    /// Nothing is kept back for root: a block that is free is free for all.
    fn ext4(at: &Path, root: &Root) -> Self {
        fs::create_dir_all(at).expect("make the mount point");
        let image = root.path().join("disk.img");
        let file = File::create(&image).expect("make the image");
        file.set_len(64 * MIB).expect("enlarge the image");
        let mut mkfs = root.command("/sbin/mkfs.ext4");
        let _ = run(mkfs.args(["-q", "-m", "0"]).arg(&image)).success();
        let mut mount = root.command("/bin/mount");
        let _ = run(mount.args(["-o", "loop"]).args([&image, at])).success();
        Self { at: at.to_owned() }
    }

    fn free(&self) -> u64 {
        let found = statvfs(&self.at).expect("the disk is mounted");
        found.blocks_available() * found.fragment_size()
    }

    /// Fills it to the last byte, as another program would; the files are the answer.
    fn fill(&self) -> PathBuf {
        let path = self.at.join("another-program");
        let mut file = File::create(&path).expect("there is an inode");
        let mut chunk = vec![7; 1 << 20];
        while !chunk.is_empty() {
            if file.write_all(&chunk).and_then(|()| file.sync_data()).is_err() {
                chunk.truncate(chunk.len() / 2);
            }
        }
        // Other writers take the last bytes, such as the log of a daemon.
        assert!(self.free() < 4096, "{} bytes are free", self.free());
        path
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // The removal of trees goes on in the background of a daemon that has ended by now.
        wait::until(wait::SOON, || umount(&self.at).ok());
    }
}

/// Runs a test on a tmpfs and on an ext4 at the root directory, and on an ext4 that has the state
/// directory as well.
fn on_each_disk(test: fn(&mut Supervisor<'_>, &Disk, &Root)) {
    for (ext4, with_state) in [(false, false), (true, false), (true, true)] {
        let root = Root::new();
        // Dropped after the supervisor, whose daemon has files open on it.
        let disk;
        let mut supervisor = Supervisor::new(&root);
        let mut at = supervisor.root();
        if with_state {
            at.pop();
        }
        disk = if ext4 { Disk::ext4(&at, &root) } else { Disk::tmpfs(&at) };
        supervisor.import(&Image::busybox(SMALL).write(&root.path().join("small.tar")));
        test(&mut supervisor, &disk, &root);
        supervisor.stop(Signal::SIGTERM);
        drop(disk);
    }
}

/// An image that does not fit: 64 MiB, not compressed.
fn large(root: &Root) -> PathBuf {
    let layer = Layer::new().file("large", 0o644, &vec![7; 64 << 20]);
    Image::busybox("example.test/large:1").layer(layer).write(&root.path().join("large.tar"))
}

fn works_again(supervisor: &Supervisor<'_>, root: &Root) {
    supervisor.import(&root.path().join("small.tar"));
    let _ = supervisor.run(&["run", "--rm", SMALL, "/bin/true"]).success();
}

#[test]
fn a_container_that_filled_the_disk_is_removed_by_a_daemon_that_starts_on_it() {
    on_each_disk(|supervisor, disk, root| {
        let script = "dd if=/dev/zero of=/a bs=1048576; dd if=/dev/zero of=/b bs=1024; \
                      dd if=/dev/zero of=/c bs=16; sleep 1000";
        let id = root.id("filler");
        let words = ["run", "--detach", "--name", &id, SMALL, "/bin/sh", "-c", script];
        let _ = supervisor.run(&words).success();
        eventually(wait::SOON, "the disk is full", || (disk.free() < 4096).then_some(()));
        supervisor.stop(Signal::SIGKILL);
        // What a file system keeps for itself may be enough for a container's directories.
        let another = supervisor.run(&["run", "--rm", SMALL, "/bin/true"]);
        if another.code() != 0 {
            another.complains_of(&["make room"]);
        }
        assert!(supervisor.run(&["ps"]).success().out().contains(&id));
        let _ = supervisor.run(&["rm", "--force", &id]).success();
        eventually(wait::SOON, "the disk has room", || (disk.free() > 16 * MIB).then_some(()));
        works_again(supervisor, root);
    });
}

#[test]
fn containers_snapshots_and_images_are_removed_while_another_program_fills_the_disk() {
    on_each_disk(|supervisor, disk, root| {
        let id = root.id("kept");
        let words = [
            "run",
            "--name",
            &id,
            SMALL,
            "/bin/dd",
            "if=/dev/zero",
            "of=/x",
            "bs=1048576",
            "count=4",
        ];
        let _ = supervisor.run(&words).success();
        supervisor.stop(Signal::SIGKILL);
        let other = disk.fill();
        let before = disk.free();
        let _ = supervisor.run(&["rm", &id]).success();
        eventually(wait::SOON, "the container's bytes are free", || {
            (disk.free() >= before + 4 * MIB).then_some(())
        });
        let more = {
            let path = disk.at.join("one-more-program");
            fs::rename(&other, &path).expect("a rename needs no block");
            disk.fill()
        };
        let _ = supervisor.run(&["images", "rm", SMALL]).success();
        eventually(wait::SOON, "the image's bytes are free", || (disk.free() >= MIB).then_some(()));
        for path in [more, disk.at.join("one-more-program")] {
            fs::remove_file(path).expect("remove it");
        }
        works_again(supervisor, root);
    });
}

#[test]
fn an_import_that_does_not_fit_says_what_to_do_and_gives_its_bytes_back() {
    on_each_disk(|supervisor, disk, root| {
        let large = large(root);
        let before = disk.free();
        let mut import = supervisor.cli(&["import"]);
        let failed = run(import.arg(&large));
        failed.complains_of(&["No space left on device", "make room", "supervisor rm"]);
        eventually(wait::SOON, "what came of it is gone", || {
            (disk.free() + MIB >= before).then_some(())
        });
        works_again(supervisor, root);
    });
}
