//! What an archive may cost, and sparse entries, which claim much and hold little.

use std::os::unix::fs::MetadataExt as _;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::budget::{Budget, Cost, Exhausted};
use crate::layer::archive::{Archive, EntryKind};
use crate::layer::{apply_within, decompressed_within};

fn error_of(tar: Tar) -> ExtractError {
    let root = TempDir::new().unwrap();
    let limits = Limits::default();
    apply(&tar.end()[..], root.path(), &[], Whiteouts::Overlay, &limits).unwrap_err()
}

/// 13.9 MB of pax headers before one entry made 3.1 GB of memory.
#[test]
fn the_headers_before_one_entry_are_bounded_together() {
    let value = vec![b'v'; 900];
    let chain = |kind: fn(Tar, &[u8]) -> Tar| {
        let tar = (0..1200).fold(Tar::default(), |tar, _| kind(tar, &value));
        printed(&error_of(tar.file("f", "")))
    };
    let x = chain(|tar, value| tar.pax(&[("SCHILY.xattr.user.a", value)]));
    let g = chain(|tar, value| tar.raw(&Tar::header(b"g", b'g', 900, b"", 0), value));
    let long = chain(|tar, value| tar.raw(&Tar::header(b"l", b'L', 900, b"", 0), value));
    for error in [x, g, long] {
        assert!(error.contains("extension headers of one entry"), "{error}");
    }
    // Each entry begins anew.
    let tar = (0..1200).fold(Tar::default(), |tar, n| {
        tar.pax(&[("SCHILY.xattr.user.a", &value)]).file(&format!("f{n}"), "")
    });
    let mut archive = Archive::new(std::io::Cursor::new(tar.end()), &Budget::default());
    while archive.next_entry().unwrap().is_some() {}
    assert_eq!(archive.totals().0, 1200);
}

#[test]
fn headers_are_charged_to_the_transfer_however_many_archives_it_reads() {
    let budget = Budget::new(Limits { max_header_bytes: 5000, ..Limits::default() });
    let layer = || (0..3).fold(Tar::default(), |tar, n| tar.file(&format!("f{n}"), "")).end();
    let mut outcomes = Vec::new();
    for _ in 0..4 {
        let root = TempDir::new().unwrap();
        let layer = layer();
        let whiteouts = Whiteouts::Overlay;
        outcomes.push(apply_within(&layer[..], root.path(), &[], whiteouts, &budget).is_ok());
    }
    assert_eq!(outcomes, [true, true, true, false]);
}

/// Each attribute made a line of the daemon's log: gigabytes of it, from a small archive.
#[test]
fn attributes_that_are_left_out_are_said_once_a_layer() {
    struct Lines;
    static LINES: AtomicUsize = AtomicUsize::new(0);
    impl log::Log for Lines {
        fn enabled(&self, _: &log::Metadata<'_>) -> bool {
            true
        }
        fn log(&self, record: &log::Record<'_>) {
            if record.args().to_string().contains("talkative") {
                LINES.fetch_add(1, Ordering::Relaxed);
            }
        }
        fn flush(&self) {}
    }
    log::set_logger(&Lines).unwrap();
    log::set_max_level(log::LevelFilter::Warn);
    let tar = (0..50).fold(Tar::default(), |tar, n| {
        let own = (0..20).map(|n| format!("SCHILY.xattr.trusted.overlay.talkative{n}"));
        let names: Vec<_> = own.chain(["SCHILY.xattr.talkative.kind".to_owned()]).collect();
        let records: Vec<_> = names.iter().map(|name| (name.as_str(), &b"x"[..])).collect();
        tar.pax(&records).file(&format!("talkative{n}"), "")
    });
    let root = TempDir::new().unwrap();
    let layer = tar.end();
    apply(&layer[..], root.path(), &[], Whiteouts::Overlay, &Limits::default()).unwrap();
    // One for overlayfs's own, one for what no file system has.
    let lines = LINES.load(Ordering::Relaxed);
    assert!((1..=2).contains(&lines), "{lines} lines");
}

/// A layer over `below` of whiteouts alone, behind directories that hide nothing yet.
fn over(below: Tar, tar: Tar, limits: Limits) -> Result<(), ExtractError> {
    let mut layers = Layers::new();
    let below = layers.apply(below).unwrap();
    let into = layers.root.path().join("over");
    fs::create_dir(&into).unwrap();
    let layer = tar.end();
    apply(&layer[..], &into, &[below], Whiteouts::Overlay, &limits).map(drop)
}

/// What whiteouts hide was remembered without an end, when nothing but whiteouts followed.
#[test]
fn what_is_kept_for_whiteouts_is_charged_also_where_no_entry_follows() {
    let directories = |mut tar: Tar| {
        for n in 0..40 {
            tar = tar.directory(&format!("{n}"));
        }
        tar
    };
    let whiteouts = |tar: Tar| (0..40).fold(tar, |tar, n| tar.file(&format!(".wh.{n}"), ""));
    let layer = || whiteouts(directories(Tar::default()));
    over(directories(Tar::default()), layer(), Limits::default()).unwrap();
    let limits = Limits { max_kept_bytes: 1000, ..Limits::default() };
    let error = over(directories(Tar::default()), layer(), limits).unwrap_err();
    assert!(printed(&error).contains("kept in memory"), "{error}");
}

/// Each whiteout, and each name through a link, opened every directory on its way anew: hours of a
/// processor for what fits into a few megabytes.
#[test]
fn directories_that_are_looked_into_are_charged() {
    let deep = vec!["d"; 200].join("/");
    let below = || Tar::default().file(&format!("{deep}/f"), "");
    let limits = |max_steps| Limits { max_steps, ..Limits::default() };
    // A way that is there is one step, however long it is and however often it is gone.
    let again = (0..500).fold(Tar::default(), |tar, n| tar.file(&format!("{deep}/.wh.{n}"), ""));
    over(below(), again, limits(2000)).unwrap();
    // One through links that come and go is not.
    let through = || {
        (0..50).fold(Tar::default(), |tar, n| {
            tar.symlink("link", ".").file(&format!("link/{deep}/{n}"), "")
        })
    };
    over(below(), through(), Limits::default()).unwrap();
    let error = over(below(), through(), limits(2000)).unwrap_err();
    assert_eq!(error.kind(), Kind::ResourceExhausted);
    assert!(printed(&error).contains("directories looked into"), "{error}");
}

/// Zeros behind the end of an archive took 14 s.
#[test]
fn what_is_behind_the_end_is_bounded() {
    let tar = Tar::default().file("f", "x").end();
    let apply = |zeros: u64| {
        let root = TempDir::new().unwrap();
        let stream = tar.chain(std::io::repeat(0).take(zeros));
        apply_within(stream, root.path(), &[], Whiteouts::Overlay, &Budget::default())
    };
    use std::io::Read as _;
    assert!(apply(1 << 20).is_ok());
    let error = apply(1 << 40).unwrap_err();
    assert_eq!(error.kind(), Kind::ResourceExhausted);
    assert!(printed(&error).contains("behind the end"), "{error}");
}

#[test]
fn what_must_be_remembered_is_charged_and_given_back() {
    let limits = Limits { max_kept_bytes: 4000, ..Limits::default() };
    let many = || (0..100).fold(Tar::default(), |tar, n| tar.file(&format!("f{n}"), "")).end();
    let root = TempDir::new().unwrap();
    let budget = Budget::new(limits.clone());
    let apply = |tar: Vec<u8>, into: &Path, budget: &Budget| {
        apply_within(&tar[..], into, &[], Whiteouts::Remove, budget)
    };
    // A base layer on an empty directory needs no memory of what it made.
    apply(many(), root.path(), &budget).unwrap();
    // Over what is there already, whiteouts must know what is old.
    let error = apply(many(), root.path(), &budget).unwrap_err();
    assert!(printed(&error).contains("kept in memory"), "{error}");
    let budget = Budget::new(limits);
    for _ in 0..10 {
        let few = (0..20).fold(Tar::default(), |tar, n| tar.file(&format!("f{n}"), ""));
        apply(few.end(), root.path(), &budget).unwrap();
    }
    budget.charge(Cost::Kept, 4000).unwrap();
}

#[test]
fn a_stopped_transfer_ends_with_its_next_entry() {
    let budget = Budget::default();
    let tar = Tar::default().file("f", "x").end();
    let reader = decompressed_within(std::io::Cursor::new(tar), &budget).unwrap();
    budget.stop();
    let root = TempDir::new().unwrap();
    let error = apply_within(reader, root.path(), &[], Whiteouts::Overlay, &budget).unwrap_err();
    assert_eq!(error.kind(), Kind::Cancelled);
    assert!(fs::read_dir(root.path()).unwrap().next().is_none());
}

/// A file with data at 0 and at 1 MiB, and a hole at its end.
const SIZE: u64 = 3 << 20;

fn sparse_file() -> Vec<u8> {
    let mut whole = vec![0; SIZE as usize];
    whole[..5].copy_from_slice(b"begin");
    whole[1 << 20..(1 << 20) + 6].copy_from_slice(b"middle");
    whole
}

fn octal(value: u64) -> Vec<u8> {
    format!("{value:011o}\0").into_bytes()
}

/// GNU's old form, with its map in the header or, spread out, in a further block too.
fn old_sparse(blocks: bool) -> Tar {
    let mut header = Tar::header(b"f", b'S', 11, b"", 0o644);
    let bytes = header.as_mut_bytes();
    let mut extents = vec![(0, 5), (1 << 20, 6)];
    if blocks {
        extents = vec![(0, 1), (1, 1), (2, 1), (3, 2), (1 << 20, 6)];
    }
    let pair = |(offset, length): &(u64, u64)| [octal(*offset), octal(*length)].concat();
    let (first, more) = extents.split_at(extents.len().min(4));
    let map: Vec<u8> = first.iter().flat_map(pair).collect();
    bytes[386..386 + map.len()].copy_from_slice(&map);
    bytes[482] = u8::from(blocks);
    bytes[483..495].copy_from_slice(&octal(SIZE));
    header.set_cksum();
    let mut content = Vec::new();
    if blocks {
        content = more.iter().flat_map(pair).collect();
        content.resize(512, 0);
    }
    content.extend(b"beginmiddle");
    Tar::default().raw(&header, &content)
}

fn pax_sparse(records: &[(&str, &str)], content: &[u8]) -> Tar {
    let size = SIZE.to_string();
    let mut all: Vec<(&str, &[u8])> = Vec::new();
    for (key, value) in records {
        let value = if *value == "SIZE" { size.as_bytes() } else { value.as_bytes() };
        all.push((key, value));
    }
    let header = Tar::header(b"GNUSparseFile.1/f", b'0', content.len() as u64, b"", 0o644);
    Tar::default().pax(&all).raw(&header, content)
}

fn every_form() -> Vec<(&'static str, Tar)> {
    let mut in_content = b"2\n0\n5\n1048576\n6\n".to_vec();
    in_content.resize(512, 0);
    in_content.extend(b"beginmiddle");
    vec![
        ("old", old_sparse(false)),
        ("old, continued", old_sparse(true)),
        (
            "pax 0.0",
            pax_sparse(
                &[
                    ("GNU.sparse.size", "SIZE"),
                    ("GNU.sparse.numblocks", "2"),
                    ("GNU.sparse.offset", "0"),
                    ("GNU.sparse.numbytes", "5"),
                    ("GNU.sparse.offset", "1048576"),
                    ("GNU.sparse.numbytes", "6"),
                    ("path", "f"),
                ],
                b"beginmiddle",
            ),
        ),
        (
            "pax 0.1",
            pax_sparse(
                &[
                    ("GNU.sparse.size", "SIZE"),
                    ("GNU.sparse.name", "f"),
                    ("GNU.sparse.map", "0,5,1048576,6"),
                ],
                b"beginmiddle",
            ),
        ),
        (
            "pax 1.0",
            pax_sparse(
                &[
                    ("GNU.sparse.major", "1"),
                    ("GNU.sparse.minor", "0"),
                    ("GNU.sparse.name", "f"),
                    ("GNU.sparse.realsize", "SIZE"),
                ],
                &in_content,
            ),
        ),
    ]
}

#[test]
fn sparse_entries_of_every_form_arrive_with_their_holes() {
    for (form, tar) in every_form() {
        let mut layers = Layers::new();
        let into =
            layers.apply(tar.file("behind", "kept")).unwrap_or_else(|e| panic!("{form}: {e}"));
        assert!(fs::read(into.join("f")).unwrap() == sparse_file(), "{form}");
        let blocks = fs::metadata(into.join("f")).unwrap().blocks();
        assert!(blocks < 100, "{form}: {blocks} blocks");
        assert_eq!(fs::read_to_string(into.join("behind")).unwrap(), "kept", "{form}");
    }
}

#[test]
fn holes_read_as_zeros_and_are_charged_where_they_are_written() {
    for (form, tar) in every_form() {
        let limits = Limits { free_expansion_bytes: 1 << 20, ..Limits::default() };
        for (budget, fits) in [(Budget::default(), true), (Budget::new(limits), false)] {
            let tar = Tar(tar.0.clone()).end();
            let mut archive = Archive::new(&tar[..], &budget);
            let entry = archive.next_entry().unwrap().unwrap();
            assert_eq!(entry.kind, EntryKind::File { size_bytes: SIZE }, "{form}");
            let mut whole: Vec<u8> = Vec::new();
            let outcome = loop {
                match archive.content() {
                    Err(error) => break Err(error),
                    Ok([]) => break Ok(()),
                    Ok(piece) => {
                        whole.extend(piece);
                        let n = piece.len();
                        archive.consume(n);
                    }
                }
            };
            assert_eq!(outcome.is_ok(), fits, "{form}");
            assert!(!fits || whole == sparse_file(), "{form}");
        }
    }
}

#[test]
fn sparse_maps_that_lie_are_refused() {
    for map in ["0,5,1048576,7", "0,6,5,5", "0,11,99999999,0", "0,5,x,6", "0,5,6"] {
        let records =
            [("GNU.sparse.size", "SIZE"), ("GNU.sparse.name", "f"), ("GNU.sparse.map", map)];
        let error = error_of(pax_sparse(&records, b"beginmiddle"));
        assert_eq!(error.kind(), Kind::DataLoss, "{map}: {error}");
    }
    // A map in the content without an end.
    let records =
        [("GNU.sparse.major", "1"), ("GNU.sparse.name", "f"), ("GNU.sparse.size", "SIZE")];
    let content = [b"1000000000\n".to_vec(), b"0\n0\n".repeat(1 << 18)].concat();
    error_of(pax_sparse(&records, &content));
}

#[test]
fn a_hard_link_to_a_file_below_copies_its_data_and_charges_it() {
    let mut layers = Layers::new();
    let base = layers.apply(old_sparse(false)).unwrap();
    let into = layers.apply(Tar::default().hard_link("g", "f")).unwrap();
    assert!(fs::read(into.join("g")).unwrap() == sparse_file());
    assert!(fs::metadata(into.join("g")).unwrap().blocks() < 100);
    fs::write(base.join("f"), vec![1; 1 << 20]).unwrap();
    let budget = Budget::new(Limits { free_expansion_bytes: 1 << 19, ..Limits::default() });
    let tar = Tar::default().hard_link("g", "f").end();
    let root = TempDir::new().unwrap();
    let error =
        apply_within(&tar[..], root.path(), &[base], Whiteouts::Overlay, &budget).unwrap_err();
    assert!(
        matches!(error, ExtractError::Budget { cause: Exhausted::Expansion { .. }, .. }),
        "{error}"
    );
}

#[test]
fn directories_state_sizes_and_times_go_back_before_1970() {
    let mut layers = Layers::new();
    let mut old = Tar::header(b"old", b'0', 1, b"", 0o644);
    old.as_mut_bytes()[136..148]
        .copy_from_slice(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xf1, 0xf0]);
    old.set_cksum();
    let tar = Tar::default()
        .raw(&Tar::header(b"d/", b'5', 4096, b"", 0o755), b"")
        .raw(&old, b"x")
        .pax(&[("path", b""), ("mtime", b""), ("gid", b""), ("uid", b"-1")])
        .file("behind", "kept");
    let into = layers.apply(tar).unwrap();
    assert_eq!(fs::read_to_string(into.join("behind")).unwrap(), "kept");
    assert_eq!(fs::metadata(into.join("old")).unwrap().mtime(), -3600);
}

#[test]
fn sums_of_signed_characters_are_accepted() {
    let mut header = Tar::header("ä".as_bytes(), b'0', 0, b"", 0o644);
    let sum: i64 = header
        .as_bytes()
        .iter()
        .enumerate()
        .map(|(at, byte)| if (148..156).contains(&at) { 32 } else { i64::from(byte.cast_signed()) })
        .sum();
    header.as_mut_bytes()[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let into = Layers::new().apply_kept(Tar::default().raw(&header, b""));
    assert!(into.path().join("layer0/ä").exists());
}
