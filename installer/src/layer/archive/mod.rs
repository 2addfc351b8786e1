//! Reads the entries of a tar stream: ustar, GNU long names, pax, sparse files.
//!
//! Promise: every length is checked before anything of that length is held in memory, the headers
//! of one entry are bounded together, however many there are, and all of it is charged to the
//! transfer's budget. Not here: what an entry may do (`tree`).
//! See pax(1), tar(5).

mod number;
mod pax;
mod sparse;

use std::io::{self, BufRead, BufReader, Read};
use std::ops::Range;

use rustix::fs::Timespec;
use tar::Header;

use self::number::numeric;
use self::pax::{BadRecord, Extensions};
use self::sparse::{Lines, Map, Piece};
use super::error::{EntryName, ExtractError};
use crate::budget::{Budget, Cost};

const BLOCK: u64 = 512;
const BUFFER: usize = 1 << 20;
/// Bytes of all extension headers before one entry, and of its map when it is sparse: a name and a
/// link have 4 KiB each, attributes at most 64 KiB a value.
const MAX_EXTENSIONS: u64 = 1 << 20;
/// Bytes behind the end of an archive. Writers fill up to a record, which has 10 KiB, rarely 1 MiB.
const MAX_TRAILER: u64 = 64 << 20;
/// What holes read as.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
// Where the fields are in a header.
const MODE: Range<usize> = 100..108;
const UID: Range<usize> = 108..116;
const GID: Range<usize> = 116..124;
const SIZE: Range<usize> = 124..136;
const MTIME: Range<usize> = 136..148;
const CHECKSUM: Range<usize> = 148..156;
const DEVICE_MAJOR: Range<usize> = 329..337;
const DEVICE_MINOR: Range<usize> = 337..345;
const SPARSE_EXTENTS: Range<usize> = 386..482;
const SPARSE_GOES_ON: usize = 482;
const SPARSE_SIZE: Range<usize> = 483..495;
/// The same in a block that continues a sparse header.
const MORE_EXTENTS: Range<usize> = 0..504;
const MORE_GOES_ON: usize = 504;

/// One entry, all extensions applied. Its content is read next.
#[derive(Debug)]
pub struct Entry {
    /// The name, as the archive has it.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
    /// The permissions.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The owner's group.
    pub gid: u32,
    pub(crate) mtime: Timespec,
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What an entry is.
#[derive(Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File {
        /// Its size, holes counted.
        size_bytes: u64,
    },
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink {
        /// Where it leads.
        target: Vec<u8>,
    },
    /// Another name for an entry before.
    HardLink {
        /// That entry's name.
        target: Vec<u8>,
    },
    /// A named pipe.
    Fifo,
    /// A character device.
    CharDevice {
        /// Its major number.
        major: u32,
        /// Its minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Its major number.
        major: u32,
        /// Its minor number.
        minor: u32,
    },
    /// A type that is not known.
    Unknown(u8),
}

impl Entry {
    /// The name, for an error.
    pub fn name(&self) -> EntryName {
        EntryName(self.path.clone())
    }
}

/// A tar stream and the position in it.
pub struct Archive<R> {
    reader: BufReader<R>,
    /// Content of the current entry in the stream that was not read yet, without the padding.
    stored: u64,
    padding: u64,
    /// What is left of the piece of the file that is being read.
    piece: Piece,
    /// The pieces behind it, last first.
    pieces: Vec<Piece>,
    /// Bytes of extension headers since the last entry.
    extensions: u64,
    entries: u64,
    bytes: u64,
    budget: Budget,
}

impl<R: Read> Archive<R> {
    /// Reads `reader`, which is not compressed. What is read of it is the caller's to charge; the
    /// entries and headers are charged here.
    pub fn new(reader: R, budget: &Budget) -> Self {
        Self {
            reader: BufReader::with_capacity(BUFFER, reader),
            stored: 0,
            padding: 0,
            piece: Piece { hole: 0, data: 0 },
            pieces: Vec::new(),
            extensions: 0,
            entries: 0,
            bytes: 0,
            budget: budget.clone(),
        }
    }

    /// How many entries were read, and how much content they have.
    pub fn totals(&self) -> (u64, u64) {
        (self.entries, self.bytes)
    }

    /// Reads what follows the archive's end: its sender waits for that, a digest covers it, and a
    /// compressed stream proves itself only at its end.
    pub fn drain(&mut self) -> Result<(), ExtractError> {
        let entries = self.entries;
        let mut trailer = 0;
        loop {
            let n = fill(&mut self.reader)
                .map_err(|cause| ExtractError::Read { entries, cause })?
                .len();
            if n == 0 {
                return Ok(());
            }
            trailer += n as u64;
            if trailer > MAX_TRAILER {
                let entry = EntryName(b"its end".to_vec());
                let unit = "bytes behind the end mark";
                return Err(ExtractError::Limit { entry, limit: MAX_TRAILER, unit });
            }
            self.reader.consume(n);
        }
    }

    /// The next entry; what is left of the one before is skipped.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, ExtractError> {
        let mut extensions = Extensions::default();
        self.extensions = 0;
        loop {
            self.skip(self.stored.saturating_add(self.padding))?;
            self.stored = 0;
            self.padding = 0;
            let Some(header) = self.header()? else {
                if extensions.any {
                    return Err(self.malformed(b"", "it ends after an extension header"));
                }
                return Ok(None);
            };
            let name = header.path_bytes().into_owned();
            let size = numeric(&header.as_bytes()[SIZE])
                .and_then(|size| u64::try_from(size).ok())
                .ok_or_else(|| self.malformed(&name, "its size is no number"))?;
            match header.entry_type().as_byte() {
                b'L' => extensions.long_name = Some(self.long_value(&name, size)?),
                b'K' => extensions.long_link = Some(self.long_value(&name, size)?),
                b'x' => {
                    let records = self.extension(&name, size)?;
                    extensions.take(&records).map_err(|bad| match bad {
                        BadRecord::Length => {
                            self.malformed(&name, "a pax record's length does not match")
                        }
                        BadRecord::Value(key) => {
                            let key = EntryName(key.to_vec());
                            self.malformed(&name, format!("pax record {key}"))
                        }
                    })?;
                }
                b'g' => {
                    // Global headers carry a comment in practice (git's commit id).
                    self.count_extension(&name, size)?;
                    (self.stored, self.padding) = (size, padding(size));
                }
                _ => return self.entry(&header, size, extensions).map(Some),
            }
            extensions.any |= header.entry_type().as_byte() != b'g';
        }
    }

    /// A further piece of the current entry's content; empty at its end. Holes read as zeros.
    /// Follow with [`Self::consume`].
    pub fn content(&mut self) -> Result<&[u8], ExtractError> {
        let entries = self.entries;
        let failed = |cause| ExtractError::Read { entries, cause };
        self.advance();
        if self.piece.hole > 0 {
            let n = self.piece.hole.min(ZEROS.len() as u64);
            self.budget.charge(Cost::Output, n).map_err(|refused| failed(refused.into()))?;
            return Ok(&ZEROS[..n as usize]);
        }
        let left = self.piece.data;
        if left == 0 {
            return Ok(&[]);
        }
        let piece = fill(&mut self.reader)
            .and_then(|piece| if piece.is_empty() { Err(truncated()) } else { Ok(piece) })
            .map_err(failed)?;
        Ok(&piece[..piece.len().min(usize::try_from(left).unwrap_or(usize::MAX))])
    }

    /// Takes `n` bytes of what [`Self::content`] showed.
    pub fn consume(&mut self, n: usize) {
        if self.piece.hole > 0 {
            self.piece.hole -= n as u64;
            return;
        }
        self.reader.consume(n);
        self.piece.data -= n as u64;
        self.stored -= n as u64;
    }

    /// Passes over a hole at this place of the content; its size is the answer.
    pub fn skip_hole(&mut self) -> u64 {
        self.advance();
        std::mem::take(&mut self.piece.hole)
    }

    /// Goes to the next piece where one is read to its end.
    fn advance(&mut self) {
        while self.piece == (Piece { hole: 0, data: 0 }) {
            let Some(next) = self.pieces.pop() else { return };
            self.piece = next;
        }
    }

    fn entry(
        &mut self,
        header: &Header,
        header_size: u64,
        mut extensions: Extensions,
    ) -> Result<Entry, ExtractError> {
        let told = extensions.sparse.take();
        let path = told
            .as_ref()
            .and_then(|told| told.name.clone())
            .or(extensions.path)
            .or(extensions.long_name)
            .unwrap_or_else(|| header.path_bytes().into_owned());
        let bad = |why: &str| ExtractError::Malformed {
            entry: EntryName(path.clone()),
            why: why.to_owned(),
        };
        let number = |field: Range<usize>| numeric(&header.as_bytes()[field]);
        let target = || {
            let linkname = header.link_name_bytes().map(std::borrow::Cow::into_owned);
            extensions.linkpath.clone().or(extensions.long_link.clone()).or(linkname)
        };
        let device = || {
            let part = |field| number(field).and_then(|number| u32::try_from(number).ok());
            part(DEVICE_MAJOR).zip(part(DEVICE_MINOR)).ok_or_else(|| bad("no device number"))
        };
        let stored = extensions.size.unwrap_or(header_size);
        let kind = match header.entry_type().as_byte() {
            // Archives of the seventies mark a directory by its name alone.
            0 | b'0' | b'7' if path.ends_with(b"/") => EntryKind::Directory,
            0 | b'0' | b'7' | b'S' => EntryKind::File { size_bytes: stored },
            b'1' => EntryKind::HardLink { target: target().unwrap_or_default() },
            b'2' => EntryKind::Symlink { target: target().unwrap_or_default() },
            b'3' => device().map(|(major, minor)| EntryKind::CharDevice { major, minor })?,
            b'4' => device().map(|(major, minor)| EntryKind::BlockDevice { major, minor })?,
            b'5' => EntryKind::Directory,
            b'6' => EntryKind::Fifo,
            other => EntryKind::Unknown(other),
        };
        let id = |told: Option<u32>, field| match told {
            Some(id) => Ok(id),
            None => number(field)
                .and_then(|id| u32::try_from(id).ok())
                .ok_or_else(|| bad("its owner is no number")),
        };
        let mtime = match extensions.mtime {
            Some(mtime) => mtime,
            None => {
                let tv_sec = number(MTIME).ok_or_else(|| bad("its time is no number"))?;
                Timespec { tv_sec, tv_nsec: 0 }
            }
        };
        let mode = number(MODE).ok_or_else(|| bad("its mode is no number"))?;
        let mut entry = Entry {
            kind,
            mode: (mode & 0o7777) as u32,
            uid: id(extensions.uid, UID)?,
            gid: id(extensions.gid, GID)?,
            mtime,
            xattrs: extensions.xattrs,
            path,
        };
        // Only files have content. Others may state a size all the same: a link that of what it
        // links to, a directory what it may hold.
        self.stored = match entry.kind {
            EntryKind::File { .. } | EntryKind::Unknown(_) => stored,
            _ => 0,
        };
        self.padding = padding(self.stored);
        self.pieces.clear();
        self.piece = Piece { hole: 0, data: self.stored };
        let old = header.entry_type().as_byte() == b'S';
        if matches!(entry.kind, EntryKind::File { .. }) && (old || told.is_some()) {
            let map = match told {
                Some(told) if told.is_in_content() => {
                    let extents = self.lines(&entry)?;
                    told.map(Some(extents), self.stored)
                }
                Some(told) if !old => told.map(None, self.stored),
                _ => self.old_map(header, &entry)?,
            };
            let map = map.ok_or_else(|| self.malformed(&entry.path, "its map does not fit it"))?;
            entry.kind = EntryKind::File { size_bytes: map.size_bytes };
            self.pieces = map.pieces;
            self.pieces.reverse();
            self.piece = Piece { hole: 0, data: 0 };
        }
        self.count(&entry)?;
        Ok(entry)
    }

    /// The map of a sparse entry of the old form, whose further blocks come before the content.
    fn old_map(&mut self, header: &Header, entry: &Entry) -> Result<Option<Map>, ExtractError> {
        let bytes = header.as_bytes();
        let extents = sparse::old_extents(&bytes[SPARSE_EXTENTS], 4);
        let size = numeric(&bytes[SPARSE_SIZE]).and_then(|size| u64::try_from(size).ok());
        let (Some(mut extents), Some(size)) = (extents, size) else { return Ok(None) };
        let mut goes_on = bytes[SPARSE_GOES_ON] != 0;
        while goes_on {
            let block = self.map_block(entry)?;
            let Some(more) = sparse::old_extents(&block[MORE_EXTENTS], 21) else { return Ok(None) };
            extents.extend(more);
            goes_on = block[MORE_GOES_ON] != 0;
        }
        Ok(sparse::map(&extents, size, self.stored))
    }

    /// The map of form 1.0, which is the beginning of the content.
    fn lines(&mut self, entry: &Entry) -> Result<Vec<(u64, u64)>, ExtractError> {
        let mut lines = Lines::default();
        loop {
            let Some(left) = self.stored.checked_sub(BLOCK) else {
                return Err(self.malformed(&entry.path, "its map has no end"));
            };
            let block = self.map_block(entry)?;
            self.stored = left;
            match lines.block(&block) {
                Ok(Some(extents)) => return Ok(extents),
                Ok(None) => {}
                Err(()) => return Err(self.malformed(&entry.path, "its map has no numbers")),
            }
        }
    }

    fn map_block(&mut self, entry: &Entry) -> Result<[u8; BLOCK as usize], ExtractError> {
        self.count_extension(&entry.path, BLOCK)?;
        let mut block = [0; BLOCK as usize];
        if self.block(&mut block)? < block.len() {
            return Err(ExtractError::Read { entries: self.entries, cause: truncated() });
        }
        Ok(block)
    }

    fn count(&mut self, entry: &Entry) -> Result<(), ExtractError> {
        self.entries += 1;
        self.bytes = self.bytes.saturating_add(self.stored);
        let name = || entry.name();
        self.budget
            .charge(Cost::Entries, 1)
            .map_err(|cause| ExtractError::Budget { entry: name(), cause })
    }

    fn header(&mut self) -> Result<Option<Header>, ExtractError> {
        let mut header = Header::new_old();
        match self.block(header.as_mut_bytes())? as u64 {
            BLOCK => {}
            // Archives without the two empty blocks at the end are common.
            0 => return Ok(None),
            _ => return Err(ExtractError::Read { entries: self.entries, cause: truncated() }),
        }
        let bytes = header.as_bytes();
        if bytes.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        if !has_its_checksum(bytes) {
            let why = if self.entries == 0 && self.extensions == 0 {
                "this is no tar archive"
            } else {
                "the header's checksum does not match"
            };
            return Err(self.malformed(b"", why));
        }
        self.budget.charge(Cost::Headers, BLOCK).map_err(|cause| ExtractError::Budget {
            entry: EntryName(header.path_bytes().into_owned()),
            cause,
        })?;
        Ok(Some(header))
    }

    /// Fills a block; fewer bytes are the answer at the end of the stream.
    fn block(&mut self, block: &mut [u8; BLOCK as usize]) -> Result<usize, ExtractError> {
        let entries = self.entries;
        let mut filled = 0;
        while filled < block.len() {
            let piece =
                fill(&mut self.reader).map_err(|cause| ExtractError::Read { entries, cause })?;
            if piece.is_empty() {
                break;
            }
            let n = piece.len().min(block.len() - filled);
            block[filled..filled + n].copy_from_slice(&piece[..n]);
            self.reader.consume(n);
            filled += n;
        }
        Ok(filled)
    }

    /// Counts an extension header before any of it is held.
    fn count_extension(&mut self, name: &[u8], size: u64) -> Result<(), ExtractError> {
        self.extensions = self.extensions.saturating_add(size).saturating_add(BLOCK);
        if self.extensions > MAX_EXTENSIONS {
            return Err(ExtractError::Limit {
                entry: EntryName(name.to_vec()),
                limit: MAX_EXTENSIONS,
                unit: "bytes in the extension headers of one entry",
            });
        }
        self.budget
            .charge(Cost::Headers, size)
            .map_err(|cause| ExtractError::Budget { entry: EntryName(name.to_vec()), cause })
    }

    fn extension(&mut self, name: &[u8], size: u64) -> Result<Vec<u8>, ExtractError> {
        self.count_extension(name, size)?;
        let mut value = Vec::new();
        let entries = self.entries;
        let got = (&mut self.reader).take(size).read_to_end(&mut value);
        match got {
            Ok(n) if n as u64 == size => {}
            Ok(_) => return Err(ExtractError::Read { entries, cause: truncated() }),
            Err(cause) => return Err(ExtractError::Read { entries, cause }),
        }
        self.padding = padding(size);
        Ok(value)
    }

    fn long_value(&mut self, name: &[u8], size: u64) -> Result<Vec<u8>, ExtractError> {
        let mut value = self.extension(name, size)?;
        if let Some(end) = value.iter().position(|byte| *byte == 0) {
            value.truncate(end);
        }
        Ok(value)
    }

    fn skip(&mut self, mut n: u64) -> Result<(), ExtractError> {
        let entries = self.entries;
        while n > 0 {
            let piece = fill(&mut self.reader)
                .and_then(|piece| if piece.is_empty() { Err(truncated()) } else { Ok(piece.len()) })
                .map_err(|cause| ExtractError::Read { entries, cause })?;
            let step = n.min(piece as u64);
            self.reader.consume(step as usize);
            n -= step;
        }
        Ok(())
    }

    fn malformed(&self, name: &[u8], why: impl ToString) -> ExtractError {
        let entry = if name.is_empty() {
            EntryName(format!("entry {}", self.entries + 1).into_bytes())
        } else {
            EntryName(name.to_vec())
        };
        ExtractError::Malformed { entry, why: why.to_string() }
    }
}

fn fill<R: Read>(reader: &mut BufReader<R>) -> io::Result<&[u8]> {
    // The borrow of a successful read cannot leave a loop that may retry: look first, then borrow.
    loop {
        match reader.fill_buf() {
            Ok(_) => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(reader.buffer())
}

fn truncated() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the archive ends in the middle of an entry")
}

fn padding(size: u64) -> u64 {
    (BLOCK - size % BLOCK) % BLOCK
}

/// Whether a header's sum is right. Old writers summed up signed characters.
fn has_its_checksum(bytes: &[u8; BLOCK as usize]) -> bool {
    let others = || bytes[..CHECKSUM.start].iter().chain(&bytes[CHECKSUM.end..]);
    let blank = 8 * i64::from(b' ');
    let unsigned = blank + others().map(|byte| i64::from(*byte)).sum::<i64>();
    let signed = blank + others().map(|byte| i64::from(byte.cast_signed())).sum::<i64>();
    numeric(&bytes[CHECKSUM]).is_some_and(|stated| stated == unsigned || stated == signed)
}
