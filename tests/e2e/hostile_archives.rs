//! Small archives that expand to much data, and trees deeper than a stack, against the daemon.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use harness::fixtures::{self, APP};
use harness::{Root, Supervisor, eventually, image, proc, programs, run, wait};
use nix::fcntl::{OFlag, openat};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::Pid;
use serde_json::json;
use tar::{EntryType, Header};

/// What an import may take, the daemon's own needs included.
const MOST_KIB: u64 = 100 * 1024;

/// The most memory that a process had.
fn most_memory_kib(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the daemon runs");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("the kernel says");
    line.split_whitespace().nth(1).expect("a number").parse().expect("a number")
}

/// How long a process was at work: other tests may load the machine.
fn processor_time(pid: i32) -> Duration {
    let ticks = |number| proc::stat::<u64>(pid, number).expect("the daemon runs");
    Duration::from_millis((ticks(14) + ticks(15)) * 10)
}

fn header(name: &str, kind: u8, size: u64) -> Vec<u8> {
    let mut header = Header::new_ustar();
    header.set_entry_type(EntryType::new(kind));
    header.set_path(name).expect("a plain name");
    header.set_mode(0o644);
    header.set_size(size);
    header.set_cksum();
    header.as_bytes().to_vec()
}

fn padded(mut content: Vec<u8>) -> Vec<u8> {
    content.resize(content.len().next_multiple_of(512), 0);
    content
}

/// Writes an archive through gzip, which makes kilobytes of what repeats.
fn packed(root: &Root, name: &str, write: impl FnOnce(&mut dyn std::io::Write)) -> PathBuf {
    let path = root.path().join(name);
    let file = fs::File::create(&path).expect("make an archive");
    let mut gzip = root
        .command(programs::system("gzip"))
        .arg("-1")
        .stdin(Stdio::piped())
        .stdout(file)
        .spawn()
        .expect("start gzip");
    let mut input = gzip.stdin.take().expect("piped");
    write(&mut input);
    drop(input);
    assert!(gzip.wait().expect("wait for gzip").success());
    path
}

fn pax(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let length = (rest..).find(|length| length.to_string().len() + rest == *length).expect("one");
    let record = [format!("{length} {key}=").as_bytes(), value, b"\n"].concat();
    [header("x", b'x', record.len() as u64), padded(record)].concat()
}

fn hostile(root: &Root) -> Vec<(&'static str, PathBuf, &'static str)> {
    const MIB: u64 = 1 << 20;
    let long_name = packed(root, "long-name.tar.gz", |out| {
        out.write_all(&header("././@LongLink", b'L', 100 * MIB)).expect("gzip reads");
        for _ in 0..100 {
            out.write_all(&[b'a'; MIB as usize]).expect("gzip reads");
        }
    });
    let many_headers = packed(root, "headers.tar.gz", |out| {
        let record = pax("SCHILY.xattr.user.a", &[b'v'; 1000]);
        for _ in 0..30_000 {
            out.write_all(&record).expect("gzip reads");
        }
        out.write_all(&header("f", b'0', 0)).expect("gzip reads");
    });
    let zeros = packed(root, "zeros.tar.gz", |out| {
        out.write_all(&header("f", b'0', 0)).expect("gzip reads");
        for _ in 0..150 {
            out.write_all(&[0; MIB as usize]).expect("gzip reads");
        }
    });
    let names = packed(root, "names.tar.gz", |out| {
        for number in 0..10_000 {
            let name = format!("{number}/{}", "n".repeat(3900));
            let entry = [pax("path", name.as_bytes()), pax("linkpath", name.as_bytes())].concat();
            out.write_all(&entry).expect("gzip reads");
            out.write_all(&header("f", b'2', 0)).expect("gzip reads");
        }
    });
    let documents = packed(root, "documents.tar.gz", |out| {
        let links = r#"{"digest":"","size":0,"annotations":{"a":"b"}},"#.repeat(150_000);
        let index = format!("{{\"manifests\":[{links}0]}}").into_bytes();
        out.write_all(&header("index.json", b'0', index.len() as u64)).expect("gzip reads");
        out.write_all(&padded(index)).expect("gzip reads");
    });
    vec![
        ("a GNU long name of 100 MB", long_name, "extension headers of one entry"),
        ("45 MB of pax headers before one entry", many_headers, "extension headers of one entry"),
        ("zeros behind the end", zeros, "behind the end mark"),
        ("names to be kept", names, "kept in memory"),
        ("an index of 150,000 links", documents, "more than 10000 items"),
        ("an index that fans out", fan(root), "kept in memory"),
    ]
}

/// An index of indexes, each of which has the same manifest some thousand times.
fn fan(root: &Root) -> PathBuf {
    let mut layout = image::Image::busybox("example.test/fan:1").layout();
    let index = &layout.files["index.json"];
    let index: serde_json::Value = serde_json::from_slice(index).expect("just made");
    let mut link = index["manifests"][0].clone();
    link["annotations"] = json!({});
    let mut put = |document: &serde_json::Value| {
        let bytes = document.to_string().into_bytes();
        let digest = image::hex(&bytes);
        let link = json!({
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "digest": format!("sha256:{digest}"),
            "size": bytes.len(),
        });
        layout.files.insert(format!("blobs/sha256/{digest}"), bytes);
        link
    };
    let links = vec![link; 3000];
    let indexes: Vec<_> = (0..60)
        .map(|n| put(&json!({"manifests": links, "annotations": {"n": n.to_string()}})))
        .collect();
    let top = put(&json!({ "manifests": indexes }));
    let mut named = top;
    named["annotations"] = json!({"io.containerd.image.name": "example.test/fan:1"});
    layout.files.insert("index.json".into(), json!({"manifests": [named]}).to_string().into());
    layout.write(&root.path().join("fan.tar"))
}

fn assert_nothing_stored(supervisor: &Supervisor<'_>, after: &str) {
    for directory in ["content/blobs/sha256", "content/ingests", "snapshots"] {
        let directory = supervisor.root().join(directory);
        let count = || fs::read_dir(&directory).map_or(0, Iterator::count);
        eventually(wait::SOON, &format!("{} is empty after {after}", directory.display()), || {
            (count() == 0).then_some(())
        });
    }
    let leases = run(&mut supervisor.ctr(&["leases", "ls", "-q"])).success().out();
    assert_eq!(leases, "", "a lease after {after}");
}

/// 101 kB of zstd made 12.6 GB of memory, 13.9 MB of headers 3.1 GB, an index took 46 s.
#[test]
fn no_import_takes_a_hundred_megabytes_or_much_time() {
    let root = Root::new();
    let mut supervisor = Supervisor::new(&root);
    supervisor.serve();
    let daemon = supervisor.daemon();
    for (what, archive, why) in hostile(&root) {
        let before = processor_time(daemon);
        let done = run(supervisor.cli(&["import"]).arg(&archive)).ended_with(125);
        done.complains_of(&[why]);
        assert!(done.err().len() < 2000, "{what}: an error of {} bytes", done.err().len());
        let took = processor_time(daemon) - before;
        assert!(took < Duration::from_secs(20), "{what} took {took:?} of the processor");
        let most = most_memory_kib(daemon);
        assert!(most < MOST_KIB, "{most} KiB after {what}");
        assert_nothing_stored(&supervisor, what);
    }
    // And it goes on as ever.
    supervisor.import(&fixtures::images().app());
    let done = supervisor.run(&["run", "--rm", APP, "/bin/sh", "-c", "cat /returns"]).success();
    assert_eq!(done.out(), "third");
    assert_eq!(supervisor.daemon(), daemon, "the same daemon");
    assert!(most_memory_kib(daemon) < MOST_KIB);
}

#[test]
fn an_import_whose_client_is_killed_stops_and_leaves_nothing() {
    let root = Root::new();
    let mut supervisor = Supervisor::new(&root);
    supervisor.serve();
    // Large enough for an import to be seen at work.
    let large = vec![7; 64 << 20];
    let layer = |name: &str| image::Layer::new().file(name, 0o644, &large);
    let archive = image::Image::new("example.test/large:1")
        .layer(layer("a"))
        .layer(layer("b").file("c", 0o644, b"c"))
        .write(&root.path().join("large.tar"));
    for directory in ["content/ingests", "snapshots"] {
        let mut command = supervisor.cli(&["import"]);
        let mut client = command.arg(&archive).spawn().expect("start a client");
        let at_work = supervisor.root().join(directory);
        eventually(Duration::from_secs(60), "the import is at work", || {
            fs::read_dir(&at_work).ok()?.next().map(drop)
        });
        kill(Pid::from_raw(client.id().cast_signed()), Signal::SIGKILL).expect("it runs");
        let _ = client.wait();
        assert_nothing_stored(&supervisor, "a client that was killed");
    }
    assert_eq!(supervisor.run(&["images"]).success().out().lines().count(), 1, "a heading");
}

/// Makes directories within each other, without a path.
fn dig(at: &Path, depth: usize) {
    let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut here = openat(nix::fcntl::AT_FDCWD, at, flags, Mode::empty()).expect("open it");
    for _ in 0..depth {
        mkdirat(&here, "d", Mode::S_IRWXU).expect("make a directory");
        here = openat(&here, "d", flags, Mode::empty()).expect("open a directory");
    }
}

/// A container without privileges made 60,000 directories within each other: the daemon's stack
/// overflowed at its removal, and each later start failed with too many open files.
#[test]
fn a_tree_deeper_than_any_stack_is_measured_and_removed() {
    let root = Root::new();
    let mut supervisor = Supervisor::new(&root);
    supervisor.serve();
    supervisor.import(&fixtures::images().app());
    let daemon = supervisor.daemon();
    let snapshots = supervisor.root().join("snapshots");
    let homes = || {
        let mut found: Vec<PathBuf> =
            fs::read_dir(&snapshots).expect("list").flatten().map(|entry| entry.path()).collect();
        found.sort();
        found
    };
    let before = homes();
    let id = root.id("deep");
    let _ = supervisor.run(&["run", "-d", "--name", &id, APP, "/bin/sleep", "1000"]).success();
    let ours = homes().into_iter().find(|home| !before.contains(home)).expect("its snapshot");
    dig(&ours.join("fs"), 3_000);
    // What a client asks for goes through all of it.
    let usage = run(&mut supervisor.ctr(&["snapshots", "usage"])).success().out();
    assert!(usage.contains(&id), "{usage}");
    let _ = supervisor.run(&["rm", "-f", &id]).success();
    eventually(Duration::from_secs(120), "the tree is gone", || (!ours.exists()).then_some(()));
    assert_eq!(supervisor.daemon(), daemon, "the same daemon");

    // Left by a crash: the next start removes it, and starts. It bears a number that was given, or
    // the database would be taken for one that is older than it.
    supervisor.stop(Signal::SIGTERM);
    let orphan = ours;
    fs::create_dir_all(orphan.join("fs")).expect("make a snapshot's directory");
    dig(&orphan.join("fs"), 3_000);
    supervisor.serve();
    // Its number is free at once, the rest goes behind the first answers.
    eventually(Duration::from_secs(120), "the orphan is gone", || {
        (homes() == before).then_some(())
    });
    assert!(supervisor.run(&["images"]).success().out().contains(APP));
    let descriptors = fs::read_dir(format!("/proc/{}/fd", supervisor.daemon())).expect("it runs");
    assert!(descriptors.count() < 100);
}
