//! Turns a layer as it is stored into a plain tar stream.
//!
//! Promise: what a stream is, its first bytes say, not a media type. Decompression runs in a thread
//! of its own, so that it overlaps with the caller's writing; what it has ahead is bounded.

use std::io::{self, BufReader, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use flate2::read::MultiGzDecoder;

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

/// Reads `reader` decompressed, by magic: gzip, zstd or as it is.
pub fn decompressed(mut reader: impl Read + Send + 'static) -> io::Result<Box<dyn Read + Send>> {
    let mut head = [0; 4];
    let mut filled = 0;
    while filled < head.len() {
        match reader.read(&mut head[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let compression = Compression::detect(&head[..filled]);
    let whole = io::Cursor::new(head).take(filled as u64).chain(reader);
    Ok(match compression {
        Compression::None => Box::new(whole),
        Compression::Gzip => {
            Box::new(Ahead::of(MultiGzDecoder::new(BufReader::with_capacity(CHUNK, whole)))?)
        }
        Compression::Zstd => Box::new(Ahead::of(zstd::Decoder::new(whole)?)?),
    })
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
    fn a_reader_dropped_early_ends_its_thread() {
        let mut reader = decompressed(io::Cursor::new(gzip(&sample()))).unwrap();
        let mut byte = [0; 1];
        reader.read_exact(&mut byte).unwrap();
    }
}
