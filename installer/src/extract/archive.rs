//! Reads the entries of a tar stream: ustar, GNU long names, pax.
//!
//! Promise: every length is checked before anything of that length is held in memory, and pax
//! values are taken by their stated lengths, so that binary ones (a file capability may hold a line
//! feed) come out whole. Not here: what an entry may do (`tree`).
//! See pax(1), tar(5).

use std::io::{self, BufRead, BufReader, Read};
use std::ops::Range;

use rustix::fs::Timespec;
use tar::Header;

use super::Limits;
use super::error::{EntryName, ExtractError};

const BLOCK: u64 = 512;
const BUFFER: usize = 1 << 20;
/// A pax header or a long name larger than this is not one.
const MAX_EXTENSION: u64 = 1 << 20;
// Where the numbers are in a header.
const MODE: Range<usize> = 100..108;
const UID: Range<usize> = 108..116;
const GID: Range<usize> = 116..124;
const SIZE: Range<usize> = 124..136;
const MTIME: Range<usize> = 136..148;
const DEVICE_MAJOR: Range<usize> = 329..337;
const DEVICE_MINOR: Range<usize> = 337..345;
const PAX_XATTR: &[u8] = b"SCHILY.xattr.";

/// One entry, all extensions applied. Its content is read next.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) path: Vec<u8>,
    pub(crate) kind: EntryKind,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Timespec,
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum EntryKind {
    File { size_bytes: u64 },
    Directory,
    Symlink { target: Vec<u8> },
    HardLink { target: Vec<u8> },
    Fifo,
    CharDevice { major: u32, minor: u32 },
    BlockDevice { major: u32, minor: u32 },
    Unknown(u8),
}

impl Entry {
    pub(crate) fn name(&self) -> EntryName {
        EntryName(self.path.clone())
    }
}

/// A tar stream and the position in it.
pub(crate) struct Archive<R> {
    reader: BufReader<R>,
    /// Content of the current entry that was not read yet, without the padding.
    content: u64,
    padding: u64,
    entries: u64,
    bytes: u64,
    limits: Limits,
}

/// What extension headers said of the entry that follows them.
#[derive(Default)]
struct Extensions {
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    path: Option<Vec<u8>>,
    linkpath: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u32>,
    gid: Option<u32>,
    mtime: Option<Timespec>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    sparse: bool,
    any: bool,
}

impl<R: Read> Archive<R> {
    pub(crate) fn new(reader: R, limits: &Limits) -> Self {
        Self {
            reader: BufReader::with_capacity(BUFFER, reader),
            content: 0,
            padding: 0,
            entries: 0,
            bytes: 0,
            limits: limits.clone(),
        }
    }

    /// How many entries were read, and how much content they have.
    pub(crate) fn totals(&self) -> (u64, u64) {
        (self.entries, self.bytes)
    }

    /// Reads what follows the archive's end.
    pub(crate) fn drain(&mut self) -> Result<(), ExtractError> {
        let entries = self.entries;
        loop {
            let n = fill(&mut self.reader)
                .map_err(|cause| ExtractError::Read { entries, cause })?
                .len();
            if n == 0 {
                return Ok(());
            }
            self.reader.consume(n);
        }
    }

    /// The next entry; what is left of the one before is skipped.
    pub(crate) fn next_entry(&mut self) -> Result<Option<Entry>, ExtractError> {
        let mut extensions = Extensions::default();
        loop {
            self.skip(self.content + self.padding)?;
            self.content = 0;
            self.padding = 0;
            let Some(header) = self.header()? else {
                if extensions.any {
                    return Err(self.malformed(b"", "it ends after an extension header"));
                }
                return Ok(None);
            };
            let name = header.path_bytes().into_owned();
            let size = blank_is_zero(&header, SIZE, header.entry_size())
                .map_err(|e| self.malformed(&name, e))?;
            match header.entry_type().as_byte() {
                b'L' => extensions.long_name = Some(self.long_value(&name, size)?),
                b'K' => extensions.long_link = Some(self.long_value(&name, size)?),
                b'x' => {
                    let records = self.extension(&name, size)?;
                    self.pax(&name, &records, &mut extensions)?;
                }
                // Global headers carry a comment in practice (git's commit id).
                b'g' => drop(self.extension(&name, size)?),
                _ => return self.entry(&header, size, extensions).map(Some),
            }
            extensions.any |= header.entry_type().as_byte() != b'g';
        }
    }

    /// A further piece of the current entry's content; empty at its end. Follow with [`Self::consume`].
    pub(crate) fn content(&mut self) -> Result<&[u8], ExtractError> {
        let (entries, left) = (self.entries, self.content);
        if left == 0 {
            return Ok(&[]);
        }
        let piece = fill(&mut self.reader)
            .and_then(|piece| if piece.is_empty() { Err(truncated()) } else { Ok(piece) })
            .map_err(|cause| ExtractError::Read { entries, cause })?;
        Ok(&piece[..piece.len().min(usize::try_from(left).unwrap_or(usize::MAX))])
    }

    pub(crate) fn consume(&mut self, n: usize) {
        self.reader.consume(n);
        self.content -= n as u64;
    }

    fn entry(
        &mut self,
        header: &Header,
        header_size: u64,
        extensions: Extensions,
    ) -> Result<Entry, ExtractError> {
        let path = extensions
            .path
            .or(extensions.long_name)
            .unwrap_or_else(|| header.path_bytes().into_owned());
        let bad = |why: io::Error| ExtractError::Malformed {
            entry: EntryName(path.clone()),
            why: why.to_string(),
        };
        if extensions.sparse || header.entry_type().is_gnu_sparse() {
            return Err(bad(io::Error::other("sparse entries are not supported in layers")));
        }
        let target = || {
            let linkname = header.link_name_bytes().map(std::borrow::Cow::into_owned);
            extensions.linkpath.clone().or(extensions.long_link.clone()).or(linkname)
        };
        let device = || -> Result<(u32, u32), ExtractError> {
            let major = blank_is_zero(header, DEVICE_MAJOR, header.device_major()).map_err(bad)?;
            let minor = blank_is_zero(header, DEVICE_MINOR, header.device_minor()).map_err(bad)?;
            Ok((major.unwrap_or(0), minor.unwrap_or(0)))
        };
        let size_bytes = extensions.size.unwrap_or(header_size);
        let kind = match header.entry_type().as_byte() {
            // Archives of the seventies mark a directory by its name alone.
            0 | b'0' | b'7' if path.ends_with(b"/") => EntryKind::Directory,
            0 | b'0' | b'7' => EntryKind::File { size_bytes },
            b'1' => EntryKind::HardLink { target: target().unwrap_or_default() },
            b'2' => EntryKind::Symlink { target: target().unwrap_or_default() },
            b'3' => device().map(|(major, minor)| EntryKind::CharDevice { major, minor })?,
            b'4' => device().map(|(major, minor)| EntryKind::BlockDevice { major, minor })?,
            b'5' => EntryKind::Directory,
            b'6' => EntryKind::Fifo,
            other => EntryKind::Unknown(other),
        };
        let id = |value: io::Result<u64>| -> Result<u32, ExtractError> {
            let value = value.map_err(bad)?;
            u32::try_from(value).map_err(|_| bad(io::Error::other(format!("owner {value}"))))
        };
        let mtime = match extensions.mtime {
            Some(mtime) => mtime,
            None => {
                let seconds = blank_is_zero(header, MTIME, header.mtime()).map_err(bad)?;
                let tv_sec = i64::try_from(seconds).unwrap_or(i64::MAX);
                Timespec { tv_sec, tv_nsec: 0 }
            }
        };
        let entry = Entry {
            kind,
            mode: blank_is_zero(header, MODE, header.mode()).map_err(bad)? & 0o7777,
            uid: match extensions.uid {
                Some(uid) => uid,
                None => id(blank_is_zero(header, UID, header.uid()))?,
            },
            gid: match extensions.gid {
                Some(gid) => gid,
                None => id(blank_is_zero(header, GID, header.gid()))?,
            },
            mtime,
            xattrs: extensions.xattrs,
            path,
        };
        // Links may state the size of what they link to, without any content following.
        self.content = match entry.kind {
            EntryKind::HardLink { .. } | EntryKind::Symlink { .. } => 0,
            _ => size_bytes,
        };
        self.padding = padding(self.content);
        self.count(&entry)?;
        Ok(entry)
    }

    fn count(&mut self, entry: &Entry) -> Result<(), ExtractError> {
        let limit = |limit, unit| ExtractError::Limit { entry: entry.name(), limit, unit };
        self.entries += 1;
        self.bytes = self.bytes.saturating_add(self.content);
        if self.entries > self.limits.max_entries {
            return Err(limit(self.limits.max_entries, "entries"));
        }
        if self.bytes > self.limits.max_bytes {
            return Err(limit(self.limits.max_bytes, "bytes"));
        }
        Ok(())
    }

    fn header(&mut self) -> Result<Option<Header>, ExtractError> {
        let mut header = Header::new_old();
        let mut filled = 0;
        while filled < BLOCK as usize {
            let entries = self.entries;
            let piece =
                fill(&mut self.reader).map_err(|cause| ExtractError::Read { entries, cause })?;
            if piece.is_empty() {
                if filled == 0 {
                    return Ok(None); // archives without the two empty blocks at the end are common
                }
                return Err(ExtractError::Read { entries, cause: truncated() });
            }
            let n = piece.len().min(BLOCK as usize - filled);
            header.as_mut_bytes()[filled..filled + n].copy_from_slice(&piece[..n]);
            self.reader.consume(n);
            filled += n;
        }
        let bytes = header.as_bytes();
        if bytes.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let sum = |of: &[u8]| of.iter().map(|byte| u32::from(*byte)).sum::<u32>();
        let sum = sum(&bytes[..148]) + 8 * u32::from(b' ') + sum(&bytes[156..]);
        match header.cksum() {
            Ok(stated) if stated == sum => Ok(Some(header)),
            _ => Err(self.malformed(b"", "the header's checksum does not match")),
        }
    }

    fn extension(&mut self, name: &[u8], size: u64) -> Result<Vec<u8>, ExtractError> {
        if size > MAX_EXTENSION {
            return Err(ExtractError::Limit {
                entry: EntryName(name.to_vec()),
                limit: MAX_EXTENSION,
                unit: "bytes in an extension header",
            });
        }
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

    fn pax(
        &self,
        name: &[u8],
        records: &[u8],
        extensions: &mut Extensions,
    ) -> Result<(), ExtractError> {
        let bad = |key: &[u8]| {
            self.malformed(name, format!("pax record {:?}", String::from_utf8_lossy(key)))
        };
        let mut rest = records;
        while !rest.is_empty() {
            let Some((key, value, after)) = pax_record(rest) else {
                return Err(self.malformed(name, "a pax record's length does not match"));
            };
            rest = after;
            match key {
                b"path" => extensions.path = Some(value.to_vec()),
                b"linkpath" => extensions.linkpath = Some(value.to_vec()),
                b"size" => extensions.size = Some(number(value).ok_or_else(|| bad(key))?),
                b"uid" => extensions.uid = Some(number(value).ok_or_else(|| bad(key))?),
                b"gid" => extensions.gid = Some(number(value).ok_or_else(|| bad(key))?),
                b"mtime" => extensions.mtime = Some(time(value).ok_or_else(|| bad(key))?),
                _ if key.starts_with(b"GNU.sparse.") => extensions.sparse = true,
                _ => {
                    if let Some(attribute) = key.strip_prefix(PAX_XATTR) {
                        extensions.xattrs.push((attribute.to_vec(), value.to_vec()));
                    }
                }
            }
        }
        Ok(())
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

/// A number that a header states; writers may leave fields that do not matter blank.
fn blank_is_zero<N: Default>(
    header: &Header,
    field: Range<usize>,
    number: io::Result<N>,
) -> io::Result<N> {
    number.or_else(|error| {
        let blank = header.as_bytes()[field].iter().all(|byte| matches!(byte, 0 | b' '));
        if blank { Ok(N::default()) } else { Err(error) }
    })
}

/// Splits `LENGTH KEY=VALUE\n` off the front.
fn pax_record(records: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = records.iter().take(20).position(|byte| *byte == b' ')?;
    let length: usize = number(&records[..space])?;
    if length <= space + 1 || length > records.len() || records[length - 1] != b'\n' {
        return None;
    }
    let record = &records[space + 1..length - 1];
    let equals = record.iter().position(|byte| *byte == b'=')?;
    Some((&record[..equals], &record[equals + 1..], &records[length..]))
}

fn number<N: std::str::FromStr>(digits: &[u8]) -> Option<N> {
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// A pax time: seconds with an optional sign and fraction.
fn time(value: &[u8]) -> Option<Timespec> {
    let (negative, value) = match value.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, value),
    };
    let (whole, fraction) = match value.iter().position(|byte| *byte == b'.') {
        Some(dot) => (&value[..dot], &value[dot + 1..]),
        None => (value, &[][..]),
    };
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let seconds: i64 = number(whole)?;
    let mut nanoseconds = 0;
    for place in 0..9 {
        let digit = fraction.get(place).map_or(0, |byte| i64::from(byte - b'0'));
        nanoseconds = nanoseconds * 10 + digit;
    }
    Some(match (negative, nanoseconds) {
        (false, _) => Timespec { tv_sec: seconds, tv_nsec: nanoseconds },
        (true, 0) => Timespec { tv_sec: -seconds, tv_nsec: 0 },
        (true, _) => Timespec { tv_sec: -seconds - 1, tv_nsec: 1_000_000_000 - nanoseconds },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pax_values_may_hold_line_feeds() {
        let records = b"22 SCHILY.xattr.a=1\n2\n\n11 mtime=1\n";
        let (key, value, rest) = pax_record(records).unwrap();
        assert_eq!((key, value), (&b"SCHILY.xattr.a"[..], &b"1\n2"[..]));
        assert_eq!(rest, b"\n11 mtime=1\n");
    }

    #[test]
    fn pax_lengths_that_lie_are_refused() {
        for bad in [&b"0 a=b\n"[..], b"9999 a=b\n", b"5 a=b\n", b"x a=b\n", b"6 a-b\n", b"3 =\n"] {
            assert!(pax_record(bad).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn times_have_signs_and_fractions() {
        let parts = |text: &str| time(text.as_bytes()).map(|time| (time.tv_sec, time.tv_nsec));
        assert_eq!(parts("12"), Some((12, 0)));
        assert_eq!(parts("12.5"), Some((12, 500_000_000)));
        assert_eq!(parts("12.1234567891"), Some((12, 123_456_789)));
        assert_eq!(parts("-1.25"), Some((-2, 750_000_000)));
        assert_eq!(parts("-3"), Some((-3, 0)));
        assert_eq!(parts("1e9"), None);
        assert_eq!(parts("1.x"), None);
    }
}
