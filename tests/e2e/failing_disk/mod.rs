//! Whole operations with a file call broken at each place in turn, and a kill and a restart after each.
//!
//! What was acknowledged is there afterwards. What was not has left nothing, or all of it: an answer
//! may be lost after the deed. The database is sound. `FAULT_POINTS` says how many places are tried in
//! each operation (12), `all` every one.

mod syscalls;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use harness::image::{Image, Layer, hex};
use harness::{Disk, Finished, Root, Supervisor, eventually, run, run_with_input, wait};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use rusqlite::{Connection, OpenFlags};

use syscalls::Plan;

const ERRORS: [Errno; 3] = [Errno::ENOSPC, Errno::EIO, Errno::ENOSYS];
const BASE: &str = "example.test/base:1";
const ROOT: &str = "containerd.io/gc.root=yes";
/// The digest of what is ingested.
const CONTENT: &str = "sha256:290f493c44f5d63d06b374d0a5abd292fae38b92cab2fae5efefe1b0e9347f56";
const OTHER: &str = "example.test/other:1";

/// An operation: what comes before it, and itself; both as words of `ctr`, or of our own command line
/// where they begin with `import`.
struct Operation {
    before: &'static [&'static [&'static str]],
    itself: &'static [&'static str],
    /// What keeps its result from the collection of garbage, where nothing else does.
    keep: &'static [&'static str],
}

#[test]
fn a_fault_at_any_call_of_an_import_leaves_all_or_nothing() {
    walk(&Operation { before: &[], itself: &["import", "other.tar"], keep: &[] });
}

#[test]
fn a_fault_at_any_call_of_a_prepare_leaves_all_or_nothing() {
    walk(&Operation { before: &[], itself: &["snapshots", "prepare", "key", "CHAIN"], keep: &[] });
}

#[test]
fn a_fault_at_any_call_of_a_snapshots_commit_leaves_all_or_nothing() {
    walk(&Operation {
        before: &[&["snapshots", "prepare", "key", "CHAIN"]],
        itself: &["snapshots", "commit", "name", "key"],
        keep: &["snapshots", "label", "name", ROOT],
    });
}

#[test]
fn a_fault_at_any_call_of_a_snapshots_removal_leaves_all_or_nothing() {
    walk(&Operation {
        before: &[&["snapshots", "prepare", "key", "CHAIN"]],
        itself: &["snapshots", "rm", "key"],
        keep: &[],
    });
}

#[test]
fn a_fault_at_any_call_of_an_ingest_leaves_all_or_nothing() {
    walk(&Operation {
        before: &[],
        itself: &["content", "ingest", "reference"],
        keep: &["content", "label", CONTENT, ROOT],
    });
}

#[test]
fn a_fault_at_any_call_of_a_removal_and_collection_leaves_all_or_nothing() {
    walk(&Operation { before: &[], itself: &["images", "rm", "--sync", BASE], keep: &[] });
}

/// Imports on a disk of its own, and cuts the power at the answer. How many of the image's blobs are
/// whole afterwards, to a daemon that has started from what is left.
fn blobs_after_a_power_cut(lies: bool) -> usize {
    let root = Root::new();
    let mut supervisor = Supervisor::new(&root);
    let (file, copy) = (root.path().join("disk"), root.path().join("copy"));
    let disk = Disk::new(&file, 64 << 20, supervisor.root());
    let archive = image(OTHER, b"of the other").write(&root.path().join("other.tar"));
    let fixture = Fixture { root: &root, supervisor: Supervisor::new(&root), chain: String::new() };
    let daemon = fixture.start();
    if lies {
        syscalls::arm(&supervisor.root(), Plan::without_syncs());
    }
    supervisor.import(&archive);
    // What had reached the disk when the answer came.
    fs::copy(&file, &copy).expect("copy the disk");
    if lies {
        assert!(syscalls::disarm(&supervisor.root()).seen > 2, "its calls are seen");
    }
    kill(daemon);
    drop(disk);

    let cut = Disk::mount(&copy, supervisor.root());
    supervisor.serve();
    let _ = supervisor.run(&["images"]).success();
    supervisor.stop(Signal::SIGTERM);
    let blobs = supervisor.root().join("content/blobs/sha256");
    let whole = fs::read_dir(blobs)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|blob| {
            let name = blob.file_name();
            fs::read(blob.path()).is_ok_and(|bytes| name.to_string_lossy() == hex(&bytes))
        })
        .count();
    drop(cut);
    whole
}

#[test]
fn an_acknowledged_import_is_on_the_disk_and_a_disk_that_lies_is_survived() {
    // A config, a manifest, two layers.
    assert_eq!(blobs_after_a_power_cut(false), 4);
    // Without the syncs some are lost, or this shows nothing; the daemon starts all the same.
    assert!(blobs_after_a_power_cut(true) < 4);
}

/// One root with an image, from which each try begins.
struct Fixture<'r> {
    root: &'r Root,
    supervisor: Supervisor<'r>,
    /// The name of the image's snapshot.
    chain: String,
}

fn image(name: &str, text: &[u8]) -> Image {
    let layer = |file: &str| Layer::new().dir("etc/", 0o755).file(file, 0o644, text);
    Image::new(name).layer(layer("etc/one")).layer(layer("etc/two"))
}

impl<'r> Fixture<'r> {
    fn new(root: &'r Root) -> Self {
        let mut supervisor = Supervisor::new(root);
        let _ = image(OTHER, b"of the other").write(&root.path().join("other.tar"));
        let base = image(BASE, b"of the base").write(&root.path().join("base.tar"));
        supervisor.serve();
        supervisor.import(&base);
        let listed = run(&mut supervisor.ctr(&["snapshots", "ls"])).success().out();
        let named: Vec<Vec<&str>> =
            listed.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
        // The one that has no children.
        let top = named.iter().find(|one| named.iter().all(|other| other[1] != one[0]));
        let chain = top.expect("the image was unpacked")[0].to_owned();
        supervisor.stop(Signal::SIGTERM);
        copy(&supervisor.root(), &root.path().join("template"));
        Self { root, supervisor, chain }
    }

    /// Everything as it was before the first try.
    fn reset(&self) {
        let _ = fs::remove_dir_all(self.supervisor.root());
        copy(&self.root.path().join("template"), &self.supervisor.root());
    }

    /// Starts a daemon whose calls can be broken.
    fn start(&self) -> Child {
        let mut serve = self.supervisor.cli(&["serve"]);
        serve.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = syscalls::start(serve);
        let socket = self.supervisor.socket();
        eventually(wait::SOON, "the daemon listens", || UnixStream::connect(&socket).ok());
        child
    }

    fn perform(&self, words: &[&str]) -> Finished {
        let words: Vec<&str> =
            words.iter().map(|word| if *word == "CHAIN" { &self.chain } else { *word }).collect();
        if words[0] == "import" {
            let mut import = self.supervisor.cli(&["import"]);
            return run(import.arg(self.root.path().join(words[1])));
        }
        let input: &[u8] = if words[1] == "ingest" { b"some content" } else { b"" };
        run_with_input(&mut self.supervisor.ctr(&words), input)
    }

    /// Has the collection of garbage keep what an operation made.
    fn keep(&self, operation: &Operation) {
        if !operation.keep.is_empty() {
            let _ = run(&mut self.supervisor.ctr(operation.keep)).success();
        }
    }

    /// What there is, as clients and as the file system see it.
    fn inventory(&self) -> BTreeSet<String> {
        let ctr = |words: &[&str]| run(&mut self.supervisor.ctr(words)).success().out();
        let lines = |words: &[&str], columns: usize| -> Vec<String> {
            let text = ctr(words);
            let cut = |line: &str| {
                let line: Vec<_> = line.split_whitespace().take(columns).collect();
                format!("{words:?}: {}", line.join(" "))
            };
            text.lines().skip(1).map(cut).collect()
        };
        // Collects what nothing refers to, and waits for it.
        let _ = ctr(&["leases", "create", "--id", "collect"]);
        let _ = ctr(&["leases", "rm", "--sync", "collect"]);
        let mut found: BTreeSet<String> = [
            lines(&["images", "ls"], 3),
            lines(&["content", "ls"], 1),
            lines(&["content", "active"], 1),
            lines(&["snapshots", "ls"], 3),
            lines(&["leases", "ls"], 1),
        ]
        .concat()
        .into_iter()
        .collect();
        files(&self.supervisor.root().join("content"), "content", &mut found);
        // Their directories have numbers, which say nothing.
        let snapshots = self.supervisor.root().join("snapshots");
        let mut count = 0;
        for entry in fs::read_dir(snapshots).expect("list the snapshots").flatten() {
            count += 1;
            files(&entry.path(), "snapshot", &mut found);
        }
        found.insert(format!("{count} directories of snapshots"));
        found
    }

    fn check_database(&self, when: &str) {
        let path = self.supervisor.root().join("metadata.db");
        let database = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE);
        let database = database.expect("open the database");
        for pragma in ["integrity_check", "foreign_key_check"] {
            let mut statement = database.prepare(&format!("PRAGMA {pragma}")).expect("prepare");
            let rows: Result<Vec<String>, _> =
                statement.query_map((), |row| row.get(0)).expect("ask").collect();
            let rows = rows.expect("read");
            assert!(rows.is_empty() || rows == ["ok"], "{when}: {pragma}: {rows:?}");
        }
    }
}

/// Every file and directory below, with what is in it.
fn files(of: &Path, name: &str, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(of).into_iter().flatten().flatten() {
        let name = format!("{name}/{}", entry.file_name().to_string_lossy());
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            files(&entry.path(), &name, found);
            found.insert(name);
        } else {
            let text = fs::read(entry.path()).unwrap_or_default();
            found.insert(format!("{name} {}", &hex(&text)[..12]));
        }
    }
}

fn copy(from: &Path, to: &Path) {
    let mut command = Command::new("cp");
    let _ = run(command.arg("-a").arg(from).arg(to)).success();
}

/// Until every thread has gone, and with it the lock and the socket.
fn kill(mut daemon: Child) {
    daemon.kill().expect("kill the daemon");
    daemon.wait().expect("wait for the daemon");
}

fn walk(operation: &Operation) {
    let root = Root::new();
    let fixture = Fixture::new(&root);
    let mut supervisor = Supervisor::new(&root);
    let store = supervisor.root();

    // Once without a fault, to know what it amounts to and how many calls that takes.
    fixture.reset();
    let daemon = fixture.start();
    for words in operation.before {
        let _ = fixture.perform(words).success();
    }
    let before = fixture.inventory();
    syscalls::arm(&store, Plan::new(0, Errno::EIO, false));
    let _ = fixture.perform(operation.itself).success();
    let calls = syscalls::disarm(&store).seen;
    fixture.keep(operation);
    let after = fixture.inventory();
    kill(daemon);
    assert!(before != after, "{:?} changes something", operation.itself);
    assert!(calls > 2, "{:?} makes calls that can be broken: {calls}", operation.itself);

    let points = std::env::var("FAULT_POINTS").unwrap_or_else(|_| "12".to_owned());
    let points = points.parse().unwrap_or(calls).clamp(1, calls);
    for point in 0..points {
        let at = 1 + point * calls / points;
        let errno = ERRORS[point as usize % ERRORS.len()];
        // Every other disk stays as it is once it is full.
        let plan = Plan::new(at, errno, point / 3 % 2 == 1);
        fixture.reset();
        let daemon = fixture.start();
        for words in operation.before {
            let _ = fixture.perform(words).success();
        }
        syscalls::arm(&store, plan);
        let done = fixture.perform(operation.itself);
        let plan = syscalls::disarm(&store);
        if done.code() == 0 {
            fixture.keep(operation);
        }
        kill(daemon);
        let when = format!(
            "{:?}, {errno} at call {at} of {calls}{} ({})",
            operation.itself,
            if plan.onwards { " and after it" } else { "" },
            plan.broke.as_deref().unwrap_or("which did not come")
        );

        supervisor.serve();
        let found = fixture.inventory();
        supervisor.stop(Signal::SIGTERM);
        // A client may go on with an ingest that failed, or abort it: its record and its bytes stay.
        let found: BTreeSet<String> = if operation.itself[0] == "content" && done.code() != 0 {
            found
                .into_iter()
                .filter(|line| {
                    !line.ends_with(": reference") && !line.starts_with("content/ingests/")
                })
                .collect()
        } else {
            found
        };
        let differs = |from: &BTreeSet<String>| -> Vec<String> {
            let missing = from.difference(&found).map(|line| format!("- {line}"));
            missing.chain(found.difference(from).map(|line| format!("+ {line}"))).collect()
        };
        if done.code() == 0 {
            assert!(found == after, "{when}: acknowledged, and then:\n{:#?}", differs(&after));
        } else {
            let whole = found == before || found == after;
            assert!(
                whole,
                "{when}: not acknowledged, and left:\n{:#?}\n{done:?}",
                differs(&before)
            );
        }
        fixture.check_database(&when);
    }
}
