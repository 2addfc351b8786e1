//! Turns a layer as it is stored into a plain tar stream.
//!
//! Promise: what a stream is, its first bytes say, not a media type. Decompression runs in a thread
//! of its own, so that it overlaps with the caller's writing; what it has ahead is bounded, and so
//! is its memory. What comes in and what comes out is charged to the transfer's budget.

use std::io::{self, BufReader, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use flate2::read::MultiGzDecoder;

use crate::budget::{Budget, Cost};

/// How a stream is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// RFC 1952, perhaps in several members.
    Gzip,
    /// RFC 8878, perhaps with skippable frames (as zstd:chunked has them).
    Zstd,
}

const GZIP: [u8; 3] = [0x1f, 0x8b, 0x08];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
const XZ: [u8; 6] = [0xfd, b'7', b'z', b'X', b'Z', 0];
const BZIP2: [u8; 3] = *b"BZh";
/// What follows bzip2's level: the digits of pi, or of its square root in an empty stream.
const BZIP2_BLOCKS: [[u8; 6]; 2] =
    [[0x31, 0x41, 0x59, 0x26, 0x53, 0x59], [0x17, 0x72, 0x45, 0x38, 0x50, 0x90]];
const HEAD: usize = 10;
/// zstd's window is memory. 32 MiB is what `zstd --ultra -20` and the best level of Go's encoder
/// use; the library's own limit of 128 MiB is more than a daemon may take for one stream.
const ZSTD_WINDOW_LOG: u32 = 25;
const CHUNK: usize = 512 * 1024;
const CHUNKS_AHEAD: usize = 4;

impl Compression {
    /// Tells the compression from the first bytes of a stream (four are enough).
    pub fn detect(head: &[u8]) -> Self {
        // Skippable zstd frames begin with 0x184D2A50 to 0x184D2A5F, little-endian.
        let skippable =
            head.len() >= 4 && head[0] & 0xf0 == 0x50 && head[1..4] == [0x2a, 0x4d, 0x18];
        if head.starts_with(&GZIP) {
            Self::Gzip
        } else if head.starts_with(&ZSTD) || skippable {
            Self::Zstd
        } else {
            Self::None
        }
    }
}

/// Reads `reader` decompressed, by magic: gzip, zstd or as it is, within a budget of its own.
pub fn decompressed(reader: impl Read + Send + 'static) -> io::Result<Box<dyn Read + Send>> {
    decompressed_within(reader, &Budget::default())
}

/// [`decompressed`], charged to `budget`.
pub fn decompressed_within(
    reader: impl Read + Send + 'static,
    budget: &Budget,
) -> io::Result<Box<dyn Read + Send>> {
    let mut reader = budget.meter(reader, Cost::Input);
    let mut head = [0; HEAD];
    let mut filled = 0;
    while filled < head.len() {
        match reader.read(&mut head[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    if let Some(name) = unsupported(&head[..filled]) {
        let text = format!("{name} compression is not supported: compress with gzip or zstd");
        return Err(io::Error::new(io::ErrorKind::Unsupported, text));
    }
    let compression = Compression::detect(&head[..filled]);
    let whole = io::Cursor::new(head).take(filled as u64).chain(reader);
    Ok(match compression {
        Compression::None => Box::new(budget.meter(whole, Cost::Output)),
        Compression::Gzip => {
            let decoder = MultiGzDecoder::new(BufReader::with_capacity(CHUNK, whole));
            Box::new(Ahead::of(budget.meter(decoder, Cost::Output))?)
        }
        Compression::Zstd => {
            let mut decoder = zstd::Decoder::new(whole)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG)?;
            Box::new(Ahead::of(budget.meter(Window(decoder), Cost::Output))?)
        }
    })
}

/// The name of a compression that is known by its magic and not supported.
fn unsupported(head: &[u8]) -> Option<&'static str> {
    if head.starts_with(&XZ) {
        return Some("xz");
    }
    let bzip2 = head.starts_with(&BZIP2)
        && head.get(4..10).is_some_and(|block| BZIP2_BLOCKS.iter().any(|known| known == block));
    bzip2.then_some("bzip2")
}

/// Says what to do about a frame whose window is too large.
struct Window<R>(R);

impl<R: Read> Read for Window<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.read(into).map_err(|error| {
            if error.to_string().contains("too much memory") {
                let most = (1 << ZSTD_WINDOW_LOG) / (1 << 20);
                let text = format!(
                    "its zstd window is larger than {most} MiB: compress again without --long and \
                     with a level of at most 20"
                );
                return io::Error::new(io::ErrorKind::OutOfMemory, text);
            }
            error
        })
    }
}

/// The reading end of a thread that reads ahead.
struct Ahead {
    chunks: Receiver<io::Result<Vec<u8>>>,
    spent: SyncSender<Vec<u8>>,
    current: Vec<u8>,
    position: usize,
    ended: bool,
}

impl Ahead {
    /// Reads from `source` in a thread, which ends with the stream or when this is dropped.
    fn of(source: impl Read + Send + 'static) -> io::Result<Self> {
        let (full, chunks) = sync_channel(CHUNKS_AHEAD);
        let (spent, empty) = sync_channel::<Vec<u8>>(CHUNKS_AHEAD + 2);
        thread::Builder::new()
            .name("decompress".into())
            .spawn(move || read_ahead(source, &full, &empty))?;
        Ok(Self { chunks, spent, current: Vec::new(), position: 0, ended: false })
    }
}

fn read_ahead(
    mut source: impl Read,
    full: &SyncSender<io::Result<Vec<u8>>>,
    empty: &Receiver<Vec<u8>>,
) {
    loop {
        let mut chunk = empty.try_recv().unwrap_or_default();
        chunk.resize(CHUNK, 0);
        let mut filled = 0;
        let outcome = loop {
            if filled == CHUNK {
                break Ok(false);
            }
            match source.read(&mut chunk[filled..]) {
                Ok(0) => break Ok(true),
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Err(error),
            }
        };
        chunk.truncate(filled);
        // A receiver that is gone wants no more: nothing is lost by stopping.
        if filled > 0 && full.send(Ok(chunk)).is_err() {
            return;
        }
        match outcome {
            Ok(false) => {}
            Ok(true) => return,
            Err(error) => {
                let _ = full.send(Err(error));
                return;
            }
        }
    }
}

impl Read for Ahead {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.position == self.current.len() {
            if self.ended || into.is_empty() {
                return Ok(0);
            }
            match self.chunks.recv() {
                Ok(Ok(chunk)) => {
                    let used = std::mem::replace(&mut self.current, chunk);
                    self.position = 0;
                    let _ = self.spent.try_send(used); // only saves an allocation
                }
                Ok(Err(error)) => {
                    self.ended = true;
                    return Err(error);
                }
                Err(_) => self.ended = true,
            }
        }
        let n = into.len().min(self.current.len() - self.position);
        into[..n].copy_from_slice(&self.current[self.position..self.position + n]);
        self.position += n;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn sample() -> Vec<u8> {
        (0..400_000u32).flat_map(|n| (n % 251).to_le_bytes()).collect()
    }

    fn read(bytes: Vec<u8>) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        decompressed(io::Cursor::new(bytes))?.read_to_end(&mut out)?;
        Ok(out)
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn every_compression_reads_back() {
        assert_eq!(read(sample()).unwrap(), sample());
        assert_eq!(read(gzip(&sample())).unwrap(), sample());
        assert_eq!(read(zstd::encode_all(&sample()[..], 1).unwrap()).unwrap(), sample());
    }

    #[test]
    fn several_gzip_members_are_one_stream() {
        assert_eq!(read([gzip(b"one"), gzip(b"two")].concat()).unwrap(), b"onetwo");
    }

    #[test]
    fn streams_shorter_than_a_magic_are_read_as_they_are() {
        assert_eq!(read(Vec::new()).unwrap(), b"");
        assert_eq!(read(vec![0x1f, 0x8b]).unwrap(), [0x1f, 0x8b]);
    }

    #[test]
    fn a_truncated_stream_is_an_error() {
        let whole = gzip(&sample());
        assert!(read(whole[..whole.len() / 2].to_vec()).is_err());
        let whole = zstd::encode_all(&sample()[..], 1).unwrap();
        assert!(read(whole[..whole.len() / 2].to_vec()).is_err());
    }

    #[test]
    fn a_window_that_needs_too_much_memory_is_refused_with_what_to_do() {
        let packed = |log: u32| {
            let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
            encoder.window_log(log).unwrap();
            encoder.long_distance_matching(true).unwrap();
            encoder.write_all(&sample()).unwrap();
            encoder.finish().unwrap()
        };
        assert_eq!(read(packed(25)).unwrap(), sample());
        let error = read(packed(27)).unwrap_err();
        assert!(error.to_string().contains("32 MiB"), "{error}");
    }

    #[test]
    fn what_is_packed_otherwise_is_refused_by_name() {
        for (bytes, name) in [
            (&b"\xfd7zXZ\0\0\x04\xe6\xd6\xb4F"[..], "xz"),
            (b"BZh91AY&SY\xca\xbe", "bzip2"),
            (b"BZh9\x17\x72\x45\x38\x50\x90\0\0\0\0", "bzip2"),
        ] {
            let error = read(bytes.to_vec()).unwrap_err();
            assert!(error.to_string().starts_with(name), "{error}");
        }
        assert_eq!(read(b"BZh9 is a name".to_vec()).unwrap(), b"BZh9 is a name");
    }

    #[test]
    fn zeros_that_need_no_input_are_charged() {
        use crate::budget::{Exhausted, Limits};
        let packed = zstd::encode_all(&vec![0; 8 << 20][..], 1).unwrap();
        let limits = Limits { free_expansion_bytes: 1 << 20, ..Limits::default() };
        let budget = Budget::new(limits);
        let mut reader = decompressed_within(io::Cursor::new(packed), &budget).unwrap();
        let error = io::copy(&mut reader, &mut io::sink()).unwrap_err();
        assert!(matches!(Exhausted::within(&error), Some(Exhausted::Expansion { .. })), "{error}");
    }

    #[test]
    fn a_reader_dropped_early_ends_its_thread() {
        let mut reader = decompressed(io::Cursor::new(gzip(&sample()))).unwrap();
        let mut byte = [0; 1];
        reader.read_exact(&mut byte).unwrap();
    }
}
