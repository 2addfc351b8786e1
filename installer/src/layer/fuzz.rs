//! Hostile layers: what `tests/fuzz` makes of headers, links, sparse files and compressed streams.

use std::fs;
use std::io::{self, Cursor, Read};

use ::fuzz::Target;

use super::{Applied, Limits, Whiteouts, apply, decompressed};

/// What overlay and attributes are called, and where an attack would like to go.
const WORDS: &[&str] = &[
    "../",
    "/",
    "./",
    ".wh.",
    ".wh..wh..opq",
    ".wh.file",
    "link",
    "dir/",
    "outside",
    "ustar",
    "0",
    "1",
    "2",
    "3",
    "4",
    "5",
    "7",
    "L",
    "K",
    "S",
    "x",
    "g",
    "12 path=a\n",
    "20 linkpath=../../x\n",
    "25 GNU.sparse.major=1\n",
    "30 SCHILY.xattr.user.a=bbbbb\n",
    "18 size=77777777\n",
    "\u{80}",
];

#[test]
fn layers_stay_inside_and_within_their_limits() {
    let base = tempfile::tempdir().unwrap();
    fs::write(base.path().join("outside"), "untouched").unwrap();
    let limits = Limits { max_entries: 64, max_bytes: 1 << 20, max_depth: 16, ..Limits::default() };
    Target::new("layer").words(WORDS).repair(::fuzz::tar::repair).max_bytes(32 * 1024).run(
        |layer| {
            for whiteouts in [Whiteouts::Overlay, Whiteouts::Remove] {
                let into = base.path().join("into");
                fs::create_dir(&into).unwrap();
                let outcome = apply(layer, &into, &[], whiteouts, &limits);
                if let Ok(Applied { size_bytes, entries }) = outcome {
                    assert!(size_bytes <= limits.max_bytes && entries <= limits.max_entries);
                }
                fs::remove_dir_all(&into).unwrap();
                let mut left: Vec<_> = fs::read_dir(base.path())
                    .unwrap()
                    .map(|entry| entry.unwrap().file_name())
                    .collect();
                assert_eq!(left.pop().unwrap(), "outside");
                assert!(left.is_empty(), "{left:?}");
                assert_eq!(fs::read(base.path().join("outside")).unwrap(), b"untouched");
            }
        },
    );
}

#[test]
fn compressed_streams_are_read_in_bounded_memory() {
    Target::new("compressed").words(&["\u{1f}", "(\u{b5}/\u{fd}", "BZh", "zeros"]).run(|stream| {
        let Ok(reader) = decompressed(Cursor::new(stream.to_vec())) else { return };
        // What comes out may be a thousand times as much; the reader of it sets the limit.
        let _ = io::copy(&mut reader.take(16 << 20), &mut io::sink());
    });
}
