//! Where the holes of a sparse entry are, in each of GNU tar's four forms.
//!
//! Promise: what a map says is checked before it is used: pieces follow each other, end within the
//! file, and have together the bytes that the archive holds. A map is bounded by what one entry's
//! headers may hold.
//! See "Storing Sparse Files" in GNU tar's manual.

use super::number::{decimal, numeric};

/// A piece of a sparse file: a hole, and the data behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) hole: u64,
    pub(super) data: u64,
}

/// A file's pieces, in order, the last of which may be a hole alone.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Map {
    pub(super) pieces: Vec<Piece>,
    pub(super) size_bytes: u64,
}

/// What pax records say of a sparse file.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub(super) name: Option<Vec<u8>>,
    major: u32,
    size: Option<u64>,
    extents: Vec<(u64, u64)>,
    offset: Option<u64>,
}

impl Told {
    /// Takes in one record, whose key comes without `GNU.sparse.`.
    pub(super) fn record(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        match key {
            b"major" => self.major = decimal(value)?,
            b"name" => self.name = Some(value.to_vec()),
            b"size" | b"realsize" => self.size = Some(decimal(value)?),
            b"offset" => self.offset = Some(decimal(value)?),
            b"numbytes" => self.extents.push((self.offset.take()?, decimal(value)?)),
            b"map" => {
                self.extents.clear();
                let mut numbers = value.split(|byte| *byte == b',');
                while let Some(offset) = numbers.next() {
                    self.extents.push((decimal(offset)?, decimal(numbers.next()?)?));
                }
            }
            _ => {} // minor, numblocks
        }
        Some(())
    }

    /// Whether the map is at the beginning of the content (form 1.0).
    pub(super) fn is_in_content(&self) -> bool {
        self.major >= 1
    }

    /// The map, of `stored` bytes of data. In form 1.0 `extents` come from the content.
    pub(super) fn map(self, extents: Option<Vec<(u64, u64)>>, stored: u64) -> Option<Map> {
        map(&extents.unwrap_or(self.extents), self.size?, stored)
    }
}

/// Checks extents of data, and turns them into pieces.
pub(super) fn map(extents: &[(u64, u64)], size_bytes: u64, stored: u64) -> Option<Map> {
    let mut pieces = Vec::with_capacity(extents.len() + 1);
    let (mut at, mut data) = (0u64, 0u64);
    for (offset, length) in extents {
        let hole = offset.checked_sub(at)?;
        at = offset.checked_add(*length)?;
        data = data.checked_add(*length)?;
        if *length > 0 {
            pieces.push(Piece { hole, data: *length });
        } else if hole > 0 {
            pieces.push(Piece { hole, data: 0 });
        }
    }
    let hole = size_bytes.checked_sub(at)?;
    if hole > 0 {
        pieces.push(Piece { hole, data: 0 });
    }
    (data == stored && i64::try_from(size_bytes).is_ok()).then_some(Map { pieces, size_bytes })
}

/// The extents in a header of the old form: `count` pairs of numbers of 12 bytes.
pub(super) fn old_extents(block: &[u8], count: usize) -> Option<Vec<(u64, u64)>> {
    let mut extents = Vec::new();
    for pair in block.chunks_exact(24).take(count) {
        if pair[0] == 0 {
            break; // not used
        }
        let number = |field| numeric(field).and_then(|number| u64::try_from(number).ok());
        extents.push((number(&pair[..12])?, number(&pair[12..])?));
    }
    Some(extents)
}

/// Reads the map of form 1.0 as its blocks come: decimal numbers, one a line, their count first.
#[derive(Debug, Default)]
pub(super) struct Lines {
    count: Option<u64>,
    offset: Option<u64>,
    digits: Vec<u8>,
    extents: Vec<(u64, u64)>,
}

impl Lines {
    /// Takes in one block; the extents are the answer when it was the last. `Err` when it is no map.
    pub(super) fn block(&mut self, block: &[u8]) -> Result<Option<Vec<(u64, u64)>>, ()> {
        for byte in block {
            if *byte != b'\n' {
                if self.digits.len() > 20 {
                    return Err(());
                }
                self.digits.push(*byte);
                continue;
            }
            let number: u64 = decimal(&self.digits).ok_or(())?;
            self.digits.clear();
            match (self.count, self.offset.take()) {
                (None, _) => self.count = Some(number),
                (Some(_), None) => self.offset = Some(number),
                (Some(_), Some(offset)) => self.extents.push((offset, number)),
            }
            if self.count == Some(self.extents.len() as u64) {
                return Ok(Some(std::mem::take(&mut self.extents)));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_that_do_not_fit_are_refused() {
        let good = map(&[(0, 5), (10, 5), (20, 0)], 30, 10).unwrap();
        let piece = |hole, data| Piece { hole, data };
        assert_eq!(good.pieces, [piece(0, 5), piece(5, 5), piece(5, 0), piece(10, 0)]);
        assert_eq!(map(&[], 7, 0).unwrap().pieces, [piece(7, 0)]);
        assert!(map(&[(0, 5), (4, 5)], 30, 10).is_none(), "pieces overlap");
        assert!(map(&[(0, 5), (10, 5)], 14, 10).is_none(), "beyond the end");
        assert!(map(&[(0, 5)], 30, 6).is_none(), "other data");
        assert!(map(&[(1, u64::MAX)], u64::MAX, u64::MAX).is_none(), "overflow");
        assert!(map(&[], u64::MAX, 0).is_none(), "no size of a file");
    }

    #[test]
    fn lines_come_in_blocks() {
        let mut lines = Lines::default();
        assert_eq!(lines.block(b"2\n0\n1"), Ok(None));
        assert_eq!(lines.block(b"0\n100\n7\n\0\0"), Ok(Some(vec![(0, 10), (100, 7)])));
        assert!(Lines::default().block(b"x\n").is_err());
        assert!(Lines::default().block(&[b'1'; 100]).is_err());
        assert_eq!(Lines::default().block(b"0\n"), Ok(Some(Vec::new())));
    }
}
