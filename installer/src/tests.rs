//! Installations from images made in memory.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use crate::error::printed;
use crate::plan::{Image, Layer, Options, hex_digest};
use crate::{InstallError, Kind, ManagedDirectory};

const PLAIN: Options = Options { replace: false, libs: false };
const REPLACE: Options = Options { replace: true, libs: false };
const LIBS: Options = Options { replace: false, libs: true };

/// An entry: name, type, link target, mode, content.
type Entry<'a> = (&'a str, u8, &'a str, u32, &'a str);

fn file<'a>(name: &'a str, content: &'a str) -> Entry<'a> {
    (name, b'0', "", 0o755, content)
}

fn tar(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut tar = Vec::new();
    for (name, kind, link, mode, content) in entries {
        let mut header = tar::Header::new_ustar();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header.as_mut_bytes()[156] = *kind;
        header.set_mode(*mode);
        header.set_uid(1000);
        header.set_gid(1000);
        header.set_mtime(0);
        header.set_size(content.len() as u64);
        header.set_cksum();
        tar.extend_from_slice(header.as_bytes());
        tar.extend_from_slice(content.as_bytes());
        tar.resize(tar.len().next_multiple_of(512), 0);
    }
    tar.extend_from_slice(&[0; 1024]);
    tar
}

fn image(name: &str, layers: &[&[Entry<'_>]]) -> Image {
    let layers = layers.iter().map(|entries| {
        let tar = Arc::new(tar(entries));
        let digest = hex_digest(Sha256::digest(&*tar));
        let open = move || Ok(Box::new(io::Cursor::new(tar.to_vec())) as Box<dyn Read + Send>);
        Layer { digest, open: Box::new(open) }
    });
    Image { name: name.into(), digest: format!("sha256:{name}"), layers: layers.collect() }
}

struct Place {
    root: TempDir,
    managed: ManagedDirectory,
}

impl Place {
    fn new() -> Self {
        let root = TempDir::new().unwrap();
        let managed = ManagedDirectory::new(root.path().join("opt"));
        Self { root, managed }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.managed.path().join(path)
    }

    fn read(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.at(path)).ok()
    }

    fn names(&self, directory: &str) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(self.at(directory))
            .map(|found| found.map(|e| e.unwrap().file_name().into_string().unwrap()).collect())
            .unwrap_or_default();
        names.sort();
        names
    }
}

#[test]
fn what_is_in_bin_is_installed_as_roots_and_receipted() {
    let place = Place::new();
    let image = image(
        "tool",
        &[&[
            ("bin", b'5', "", 0o755, ""),
            file("bin/tool", "v1"),
            ("bin/alias", b'2', "tool", 0o777, ""),
            ("bin/twin", b'1', "bin/tool", 0o755, ""),
            file("lib/tool.so", "so"),
            file("etc/passwd", "no"),
        ]],
    );
    let receipt = place.managed.install(&image, PLAIN).unwrap();
    assert_eq!(place.read("bin/tool").unwrap(), "v1");
    assert_eq!(place.read("bin/alias").unwrap(), "v1");
    assert_eq!(place.read("bin/twin").unwrap(), "v1");
    assert_eq!(place.names("lib"), Vec::<String>::new());
    assert_eq!(place.names(""), [".lock", "bin", "current", "generations", "lib"]);
    let found = fs::metadata(place.at("bin/tool")).unwrap();
    assert_eq!(found.permissions().mode() & 0o7777, 0o755);
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&found), 0);
    let paths: Vec<_> = receipt.files.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(paths, ["bin/alias", "bin/tool", "bin/twin"]);
    assert_eq!(receipt.files[1].digest, hex_digest(Sha256::digest("v1")));
    assert_eq!(place.managed.receipts().unwrap(), [receipt]);
}

/// A file that anybody may write, run by root from then on.
#[test]
fn installed_files_have_one_of_two_modes_whatever_the_image_says() {
    let place = Place::new();
    let modes = [(0o777, 0o755), (0o700, 0o755), (0o001, 0o755), (0o666, 0o644), (0o000, 0o644)];
    let names: Vec<String> = modes.iter().map(|(mode, _)| format!("bin/m{mode:o}")).collect();
    let entries: Vec<Entry<'_>> = std::iter::zip(&names, &modes)
        .map(|(name, (mode, _))| (name.as_str(), b'0', "", *mode, "x"))
        .collect();
    place.managed.install(&image("tool", &[&entries]), PLAIN).unwrap();
    let mode = |path: &str| fs::metadata(place.at(path)).unwrap().permissions().mode() & 0o7777;
    for (name, (_, installed)) in std::iter::zip(&names, &modes) {
        assert_eq!(mode(name), *installed, "{name}");
    }
    assert_eq!((mode("bin"), mode("lib")), (0o755, 0o755));
}

#[test]
fn libraries_come_only_when_asked_for() {
    let place = Place::new();
    let entries = [file("bin/tool", "v1"), file("lib/tool.so", "so")];
    place.managed.install(&image("tool", &[&entries]), LIBS).unwrap();
    assert_eq!(place.read("lib/tool.so").unwrap(), "so");
}

#[test]
fn upper_layers_replace_and_remove_what_lower_ones_have() {
    let place = Place::new();
    let lower = [file("bin/a", "old"), file("bin/b", "b"), file("bin/c", "c")];
    let upper = [file("bin/a", "new"), file("bin/.wh.b", "")];
    place.managed.install(&image("tool", &[&lower, &upper]), PLAIN).unwrap();
    assert_eq!(place.names("bin"), ["a", "c"]);
    assert_eq!(place.read("bin/a").unwrap(), "new");
    let opaque = [file("bin/d", "d"), file("bin/.wh..wh..opq", "")];
    place.managed.install(&image("tool", &[&lower, &opaque]), PLAIN).unwrap();
    assert_eq!(place.names("bin"), ["d"]);
}

#[test]
fn an_image_replaces_its_own_files_and_no_others_unless_told_to() {
    let place = Place::new();
    place
        .managed
        .install(&image("a", &[&[file("bin/x", "1"), file("bin/y", "1")]]), PLAIN)
        .unwrap();
    place.managed.install(&image("a", &[&[file("bin/x", "2")]]), PLAIN).unwrap();
    assert_eq!(place.names("bin"), ["x"]);
    let other = image("b", &[&[file("bin/x", "3"), file("bin/z", "3")]]);
    let error = place.managed.install(&other, PLAIN).unwrap_err();
    assert_eq!(error.kind(), Kind::AlreadyExists);
    assert!(printed(&error).contains("bin/x (of a)"), "{error}");
    assert_eq!(place.names("bin"), ["x"]);
    place.managed.install(&other, REPLACE).unwrap();
    assert_eq!(place.read("bin/x").unwrap(), "3");
    // The file belongs to the other image now, and the first one has none left.
    let images: Vec<_> = place.managed.receipts().unwrap().into_iter().map(|r| r.image).collect();
    assert_eq!(images, ["b"]);
}

#[test]
fn uninstall_and_rollback_show_complete_sets() {
    let place = Place::new();
    place.managed.install(&image("a", &[&[file("bin/a", "1")]]), PLAIN).unwrap();
    place.managed.install(&image("b", &[&[file("bin/b", "1")]]), PLAIN).unwrap();
    place.managed.uninstall("a").unwrap();
    assert_eq!(place.names("bin"), ["b"]);
    let names = |receipts: Vec<crate::Receipt>| {
        receipts.into_iter().map(|receipt| receipt.image).collect::<Vec<_>>()
    };
    assert_eq!(names(place.managed.rollback().unwrap()), ["a", "b"]);
    assert_eq!(place.names("bin"), ["a", "b"]);
    assert_eq!(names(place.managed.rollback().unwrap()), ["a"]);
    assert_eq!(place.names("bin"), ["a"]);
    assert_eq!(place.managed.rollback().unwrap_err().kind(), Kind::NotFound);
    assert_eq!(place.managed.uninstall("b").unwrap_err().kind(), Kind::NotFound);
}

#[test]
fn nothing_is_written_when_anything_is_refused() {
    let long: &[&[Entry<'_>]] = &[
        &[file("../../etc/x", "x")],
        &[file("bin/../../x", "x")],
        &[("bin/dev", b'3', "", 0o600, "")],
        &[("bin/pipe", b'6', "", 0o600, "")],
        &[("bin/su", b'0', "", 0o4755, "x")],
        &[("bin/l", b'2', "/bin/sh", 0o777, "")],
        &[("bin/l", b'2', "../../../bin/sh", 0o777, "")],
        &[("bin/l", b'2', "absent", 0o777, "")],
        &[("bin/l", b'2', "m", 0o777, ""), ("bin/m", b'2', "l", 0o777, "")],
        &[("bin/h", b'1', "etc/passwd", 0o755, "")],
        &[("bin", b'2', "/usr/bin", 0o777, ""), file("bin/x", "x")],
        &[("bin/d", b'5', "", 0o755, "")],
    ];
    for bad in long {
        let place = Place::new();
        let entries = [&[file("bin/good", "good")], *bad].concat();
        let error = place.managed.install(&image("bad", &[&entries]), REPLACE).unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidArgument, "{error}");
        assert!(printed(&error).contains("refused entry"), "{error}");
        assert_eq!(place.names(""), [".lock", "generations"], "{error}");
        assert_eq!(place.names("generations"), Vec::<String>::new());
        assert_eq!(fs::read_dir(place.root.path()).unwrap().count(), 1);
    }
}

#[test]
fn images_without_binaries_and_with_wrong_layers_are_refused() {
    let place = Place::new();
    let nothing = image("data", &[&[file("etc/x", "x")]]);
    assert_eq!(
        place.managed.install(&nothing, PLAIN).unwrap_err().kind(),
        Kind::FailedPrecondition
    );
    let mut wrong = image("tool", &[&[file("bin/x", "x")]]);
    wrong.layers[0].digest = format!("sha256:{}", "0".repeat(64));
    let error = place.managed.install(&wrong, PLAIN).unwrap_err();
    assert!(matches!(error, InstallError::WrongDigest { .. }), "{error}");
    assert_eq!(place.names("generations"), Vec::<String>::new());
}

#[test]
fn files_from_before_are_kept_and_shown_throughout() {
    let place = Place::new();
    fs::create_dir_all(place.at("bin/sub")).unwrap();
    fs::write(place.at("bin/old"), "old").unwrap();
    fs::write(place.at("bin/sub/deep"), "deep").unwrap();
    symlink("old", place.at("bin/link")).unwrap();
    let error =
        place.managed.install(&image("a", &[&[file("bin/old", "new")]]), PLAIN).unwrap_err();
    assert!(printed(&error).contains("of no image"), "{error}");
    place.managed.install(&image("a", &[&[file("bin/a", "1")]]), PLAIN).unwrap();
    assert_eq!(place.names("bin"), ["a", "link", "old", "sub"]);
    assert_eq!(place.read("bin/sub/deep").unwrap(), "deep");
    assert!(fs::symlink_metadata(place.at("bin")).unwrap().is_symlink());
    // A file that another program adds through the shown directory survives the next switch.
    fs::write(place.at("bin/added"), "added").unwrap();
    place.managed.install(&image("b", &[&[file("bin/b", "1")]]), PLAIN).unwrap();
    assert_eq!(place.names("bin"), ["a", "added", "b", "link", "old", "sub"]);
}

#[test]
fn leftovers_of_a_crash_are_swept_and_old_generations_dropped() {
    let place = Place::new();
    place.managed.install(&image("a", &[&[file("bin/a", "0")]]), PLAIN).unwrap();
    fs::create_dir_all(place.at("generations/77/bin")).unwrap();
    symlink("generations/77", place.at(".next")).unwrap();
    for version in ["1", "2", "3", "4", "5", "6"] {
        place.managed.install(&image("a", &[&[file("bin/a", version)]]), PLAIN).unwrap();
    }
    assert_eq!(place.read("bin/a").unwrap(), "6");
    assert_eq!(place.names("generations").len(), 4);
    assert!(!place.at("generations/77").exists());
}

#[test]
fn a_reader_never_sees_an_incomplete_set() {
    let place = Place::new();
    let set = |version: &str| {
        let names: Vec<String> = (0..20).map(|n| format!("bin/f{n}")).collect();
        let entries: Vec<_> = names.iter().map(|name| file(name, version)).collect();
        image("set", &[&entries])
    };
    place.managed.install(&set("0"), PLAIN).unwrap();
    let bin = place.at("bin");
    let done = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let reader = thread::spawn({
        let done = done.clone();
        move || {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                // Through one resolution of the link, as a program that opens the directory has.
                let directory = fs::canonicalize(&bin).unwrap();
                let read = |n| fs::read_to_string(directory.join(format!("f{n}")));
                let versions: Vec<_> = (0..20).map(read).collect();
                if versions.iter().any(Result::is_err) {
                    continue; // swept after three further switches
                }
                let first = versions[0].as_ref().unwrap();
                assert!(versions.iter().all(|version| version.as_ref().unwrap() == first));
            }
        }
    });
    for version in 1..10 {
        place.managed.install(&set(&version.to_string()), PLAIN).unwrap();
    }
    done.store(true, std::sync::atomic::Ordering::Relaxed);
    reader.join().unwrap();
}

#[test]
fn installations_at_the_same_time_all_arrive() {
    let place = Place::new();
    let threads: Vec<_> = (0..8)
        .map(|n| {
            let managed = place.managed.clone();
            thread::spawn(move || {
                let (name, path) = (format!("i{n}"), format!("bin/f{n}"));
                managed.install(&image(&name, &[&[file(&path, "x")]]), PLAIN).unwrap();
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(place.names("bin").len(), 8);
    assert_eq!(place.managed.receipts().unwrap().len(), 8);
}

#[test]
fn receipts_of_a_newer_program_are_refused_not_lost() {
    let place = Place::new();
    place.managed.install(&image("a", &[&[file("bin/a", "1")]]), PLAIN).unwrap();
    let path = fs::canonicalize(place.at("current")).unwrap().join("receipts.json");
    let text = fs::read_to_string(&path).unwrap().replace("\"version\": 1", "\"version\": 2");
    fs::write(&path, text).unwrap();
    let error = place.managed.receipts().unwrap_err();
    assert!(printed(&error).contains("newer"), "{error}");
    assert!(Path::new(&path).exists());
}
