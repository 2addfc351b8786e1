//! Compares a blob in the store with bytes that come in under its digest.
//!
//! A record alone does not say that its blob is still whole: a disk fails, an operator truncates a
//! file. Where the bytes are at hand anyway, comparing costs no digest.

use std::fs::File;
use std::io::{self, Read};

use super::error::file;
use super::{ContentError, Digest, Store};

const CHUNK_BYTES: usize = 256 * 1024;

/// A comparison under way.
pub(crate) struct Comparison {
    blob: File,
    chunk: Vec<u8>,
    equal: bool,
}

impl Comparison {
    /// Whether the next bytes of the blob are these. It stays unequal from the first difference on;
    /// a blob that cannot be read differs.
    pub(crate) fn next(&mut self, bytes: &[u8]) -> bool {
        for piece in bytes.chunks(CHUNK_BYTES) {
            if !self.equal {
                break;
            }
            let chunk = &mut self.chunk[..piece.len()];
            self.equal = self.blob.read_exact(chunk).is_ok() && chunk == piece;
        }
        self.equal
    }

    /// Whether the blob ends here too.
    pub(crate) fn ends(&mut self) -> bool {
        self.equal && matches!(self.blob.read(&mut self.chunk[..1]), Ok(0))
    }
}

impl Store {
    /// Begins to compare the blob `digest` with bytes that come in.
    pub(crate) fn compare(&self, digest: &Digest) -> Result<Comparison, ContentError> {
        let path = self.path(digest);
        let blob = File::open(&path).map_err(file("open blob", path))?;
        Ok(Comparison { blob, chunk: vec![0; CHUNK_BYTES], equal: true })
    }

    /// Hands the first `size_bytes` of the blob `digest`, which were equal, to `each`.
    pub(crate) fn read_prefix(
        &self,
        digest: &Digest,
        size_bytes: u64,
        mut each: impl FnMut(&[u8]) -> Result<(), ContentError>,
    ) -> Result<(), ContentError> {
        let path = self.path(digest);
        let failed = |cause: io::Error| file("read blob", &path)(cause);
        let mut prefix = File::open(&path).map_err(failed)?.take(size_bytes);
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            match prefix.read(&mut chunk).map_err(failed)? {
                0 => return Ok(()),
                count => each(&chunk[..count])?,
            }
        }
    }

    /// Whether the file of `digest` is there and has the size that its record says.
    pub(super) fn is_whole(&self, digest: &Digest, size_bytes: u64) -> bool {
        self.path(digest)
            .symlink_metadata()
            .is_ok_and(|found| found.is_file() && found.len() == size_bytes)
    }
}
