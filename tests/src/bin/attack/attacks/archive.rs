//! Small archives that expand to much data, and names that are not valid.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use harness::image::{Image, Layer};
use harness::wait;
use harness::{Supervisor, programs, run};
use serde_json::json;

use crate::attack::{Attack, attack, within};
use crate::fixture::{Fixture, IMAGE, SOON, succeeded};

/// What a daemon may hold during any import.
const MEMORY_KB: u64 = 100 * 1024;

pub(crate) fn attacks() -> Vec<Attack> {
    [
        within(120, attack("B.11", "long-name", "a name of a gigabyte costs no memory", long_name)),
        within(
            120,
            attack("B.11", "extended-headers", "a chain of pax headers costs no memory", headers),
        ),
        within(
            120,
            attack(
                "B.11",
                "fanning-index",
                "documents that fan out are visited once each",
                fan_out,
            ),
        ),
        attack("B.11", "sparse-entry", "a sparse entry fills no disk", sparse),
        within(
            240,
            attack("B.11", "zeros-at-the-end", "what follows an archive's end is bounded", zeros),
        ),
        within(
            90,
            attack("B.11", "client-goes", "a transfer whose client has gone leaves nothing", gone),
        ),
        attack("B.12", "escapes-in-a-name", "no control character of a name is printed", escapes),
        attack("B.12", "name-of-megabytes", "errors are short, also about a long name", long_error),
        within(
            180,
            attack("B.13", "deep-tree", "60,000 nested directories are removed like others", deep),
        ),
    ]
    .concat()
}

/// Writes through gzip, which makes much of the same small.
struct Packed {
    child: Child,
}

impl Packed {
    fn new(to: &Path) -> Self {
        let file = File::create(to).expect("make an archive");
        let mut gzip = Command::new(programs::system("gzip"));
        gzip.arg("-1").stdin(Stdio::piped()).stdout(file);
        Self { child: gzip.spawn().expect("start gzip") }
    }

    fn write(&mut self, bytes: &[u8]) {
        self.child.stdin.as_mut().expect("piped").write_all(bytes).expect("write an archive");
    }

    /// Writes `bytes` again and again, `megabytes` in all.
    fn repeat(&mut self, byte: u8, megabytes: usize) {
        let block = vec![byte; 1 << 20];
        for _ in 0..megabytes {
            self.write(&block);
        }
    }

    fn finish(mut self) {
        drop(self.child.stdin.take());
        assert!(self.child.wait().expect("wait for gzip").success());
    }
}

/// A header of any type and size.
fn header(kind: tar::EntryType, name: &str, size: u64) -> [u8; 512] {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_mode(0o644);
    header.set_size(size);
    header.set_cksum();
    *header.as_bytes()
}

/// Imports an archive, with any result, and checks what the daemon held and how long it took.
fn import(fixture: &Fixture, archive: &Path, limit: Duration) {
    let mut supervisor = Supervisor::new(fixture.root());
    supervisor.serve();
    let began = Instant::now();
    let mut command = supervisor.cli(&["import"]);
    let done = run(command.arg(archive));
    let took = began.elapsed();
    let daemons = supervisor.daemons();
    assert_eq!(daemons.len(), 1, "the daemon is there after {done:?}");
    let held = peak_kb(daemons[0]);
    let alive = supervisor.run(&["ps"]);
    succeeded(&alive, "the daemon answers");
    supervisor.stop(nix::sys::signal::Signal::SIGTERM);
    assert!(held < MEMORY_KB, "the daemon held {} MB", held / 1024);
    assert!(took < limit, "the import took {took:?}");
    let error = done.err();
    assert!(error.len() < 8 * 1024, "the error has {} bytes", error.len());
}

fn peak_kb(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

fn archive(fixture: &Fixture) -> PathBuf {
    fixture.root().path().join("bad.tar.gz")
}

fn long_name(fixture: &Fixture) {
    let path = archive(fixture);
    let mut packed = Packed::new(&path);
    packed.write(&header(tar::EntryType::GNULongName, "././@LongLink", 600 << 20));
    packed.repeat(b'a', 600);
    packed.write(&header(tar::EntryType::Regular, "a", 0));
    packed.write(&[0; 1024]);
    packed.finish();
    import(fixture, &path, SOON);
}

fn headers(fixture: &Fixture) {
    let path = archive(fixture);
    let mut packed = Packed::new(&path);
    for _ in 0..300 {
        packed.write(&header(tar::EntryType::XHeader, "pax", 1 << 20));
        // A record of one megabyte: its length, a key, a value, a line's end.
        packed.write(b"1048576 comment=");
        packed.write(&vec![b'a'; (1 << 20) - 17]);
        packed.write(b"\n");
    }
    packed.write(&header(tar::EntryType::Regular, "a", 0));
    packed.write(&[0; 1024]);
    packed.finish();
    import(fixture, &path, SOON);
}

/// An index of indexes that all lead to one of many manifests.
fn fan_out(fixture: &Fixture) {
    let mut layout = Image::busybox(IMAGE).layout();
    let text = |value: &serde_json::Value| serde_json::to_vec(value).expect("JSON");
    let index: serde_json::Value =
        serde_json::from_slice(&layout.files["index.json"]).expect("its index");
    let manifest = index["manifests"][0].clone();
    let link = |bytes: &[u8]| {
        json!({ "mediaType": "application/vnd.oci.image.index.v1+json",
                "digest": format!("sha256:{}", harness::image::hex(bytes)), "size": bytes.len() })
    };
    let mut put = |bytes: &[u8]| {
        let name = format!("blobs/sha256/{}", harness::image::hex(bytes));
        layout.files.insert(name, bytes.to_vec());
        link(bytes)
    };
    let inner = text(&json!({ "schemaVersion": 2, "manifests": vec![&manifest; 3000] }));
    let inner = put(&inner);
    let middle = text(&json!({ "schemaVersion": 2, "manifests": vec![&inner; 300] }));
    let mut outer = put(&middle);
    outer["annotations"] = manifest["annotations"].clone();
    layout.files.insert(
        "index.json".to_owned(),
        text(&json!({ "schemaVersion": 2, "manifests": [outer] })),
    );
    let path = layout.write(&fixture.root().path().join("bad.tar"));
    import(fixture, &path, SOON);
}

/// One and a half kilobytes that stand for a terabyte.
fn sparse(fixture: &Fixture) {
    let mut entry = tar::Header::new_gnu();
    entry.set_entry_type(tar::EntryType::GNUSparse);
    entry.set_mode(0o644);
    entry.set_size(0);
    let gnu = entry.as_gnu_mut().expect("made as one");
    gnu.name[..9].copy_from_slice(b"layer.tar");
    gnu.realsize = *b"00007777777\0";
    gnu.sparse[0].offset = *b"00007777777\0";
    gnu.sparse[0].numbytes = *b"00000000000\0";
    entry.set_cksum();
    let mut bytes = entry.as_bytes().to_vec();
    bytes.extend(header(tar::EntryType::Regular, "manifest.json", 2));
    bytes.extend(b"[]");
    bytes.resize(bytes.len().next_multiple_of(512) + 1024, 0);
    let path = archive(fixture);
    fs::write(&path, bytes).expect("write an archive");
    let supervisor = Supervisor::new(fixture.root()).with_idle_timeout(2);
    let began = Instant::now();
    let used = std::thread::scope(|scope| {
        let import = scope.spawn(|| {
            let mut command = supervisor.cli(&["import"]);
            run(command.arg(&path))
        });
        let mut used = 0;
        while !import.is_finished() && began.elapsed() < SOON {
            used = used.max(blocks_mb(&supervisor.root()));
            wait::pass(Duration::from_millis(20));
        }
        let _ = import.join();
        used
    });
    assert!(used < 100, "an archive of 3 kB took {used} MB of the disk");
    assert!(began.elapsed() < SOON, "the import took {:?}", began.elapsed());
}

/// What a tree takes of the disk, in megabytes.
fn blocks_mb(of: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    fs::read_dir(of)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(about) if about.is_dir() => blocks_mb(&entry.path()),
            Ok(about) => about.blocks() / 2048,
            Err(_) => 0,
        })
        .sum()
}

fn zeros(fixture: &Fixture) {
    let image = Image::busybox(IMAGE).write(&fixture.root().path().join("image.tar"));
    let path = archive(fixture);
    let mut packed = Packed::new(&path);
    packed.write(&fs::read(image).expect("read the image"));
    packed.repeat(0, 3 << 10);
    packed.finish();
    import(fixture, &path, Duration::from_secs(12));
}

/// A pipe as an archive: its writer stops in the middle, and the client is killed.
fn gone(fixture: &Fixture) {
    let mut supervisor = Supervisor::new(fixture.root());
    supervisor.serve();
    let image = Image::busybox(IMAGE).write(&fixture.root().path().join("image.tar"));
    let bytes = fs::read(image).expect("read the image");
    let mut client = supervisor.cli(&["import", "/dev/stdin"]);
    let mut client = client
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("start a client");
    let half = bytes.len() * 3 / 4;
    let sent = client.stdin.as_mut().expect("piped").write_all(&bytes[..half]);
    wait::pass(Duration::from_millis(500));
    let _ = client.kill();
    let _ = client.wait();
    sent.expect("the client reads from a pipe");
    let ctr = |words: &[&str]| run(&mut supervisor.ctr(words)).success().out();
    harness::eventually(SOON, "ingests of a client that has gone are removed", || {
        (ctr(&["content", "active"]).lines().count() == 1).then_some(())
    });
    harness::eventually(SOON, "blobs of a client that has gone are removed", || {
        ctr(&["content", "ls", "-q"]).is_empty().then_some(())
    });
    assert_eq!(ctr(&["leases", "ls", "-q"]), "", "a lease is left");
    supervisor.stop(nix::sys::signal::Signal::SIGTERM);
}

fn escapes(fixture: &Fixture) {
    let supervisor = Supervisor::new(fixture.root()).with_idle_timeout(2);
    for (number, name) in [
        "example.test/\u{1b}[2Jevil:1",
        "example.test/a\u{202e}b:1",
        "example.test/a\nb:1",
        "é\u{7}:1",
    ]
    .into_iter()
    .enumerate()
    {
        let path = Image::busybox(name).write(&fixture.root().path().join(format!("{number}.tar")));
        let mut command = supervisor.cli(&["import"]);
        let import = run(command.arg(path));
        let words = [vec!["run", "--rm", name], vec!["images"], vec!["ps"], vec!["kill", name]];
        let shown = words.iter().map(|words| supervisor.run(words));
        for done in std::iter::once(import).chain(shown) {
            for text in [done.out(), done.err()] {
                let bad = text.chars().find(|c| {
                    (c.is_control() && *c != '\n' && *c != '\t')
                        || matches!(*c, '\u{202a}'..='\u{202e}')
                });
                assert!(
                    bad.is_none(),
                    "`{}` printed {bad:?} of a name",
                    done.command.escape_debug()
                );
                assert!(!text.contains("panicked"), "{text}");
            }
        }
    }
}

fn long_error(fixture: &Fixture) {
    let name = format!("example.test/{}:1", "a".repeat(3_000_000));
    let path = Image::busybox(&name).write(&fixture.root().path().join("long.tar"));
    import(fixture, &path, SOON);
}

fn deep(fixture: &Fixture) {
    let mut supervisor = Supervisor::new(fixture.root());
    supervisor.serve();
    let image = Image::busybox(IMAGE).layer(Layer::new().dir("deep/", 0o755));
    supervisor.import(&image.write(&fixture.root().path().join("image.tar")));
    let own = std::env::current_exe().expect("this program has a path");
    let volumes = [
        format!("{}:/attack:ro", own.display()),
        format!("{}:/shared", fixture.shared().display()),
    ];
    let flags = ["--rm", "-v", &volumes[0], "-v", &volumes[1]];
    let words = ["/attack", "--in-container", "deep", "60000"];
    let done = fixture.run(&supervisor, &flags, &words);
    succeeded(&done, "a container makes directories");
    let daemons = supervisor.daemons();
    assert_eq!(daemons.len(), 1, "the daemon has died of it");
    let snapshots = supervisor.root().join("snapshots");
    harness::eventually(Duration::from_secs(60), "the snapshot is removed", || {
        let left = fs::read_dir(&snapshots).ok()?.flatten().count();
        (left <= 2).then_some(())
    });
    // A restart sweeps what is left, and starts another container.
    supervisor.stop(nix::sys::signal::Signal::SIGTERM);
    supervisor.serve();
    let done = fixture.run(&supervisor, &["--rm"], &["true"]);
    succeeded(&done, "the next container");
    supervisor.stop(nix::sys::signal::Signal::SIGTERM);
}
