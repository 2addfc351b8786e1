//! Why a layer was not extracted: which entry, and what about it.

use std::{fmt, io};

use crate::Kind;
use crate::budget::Exhausted;

/// A layer could not be extracted. What was written so far is the caller's to remove.
#[derive(Debug, thiserror::Error)]
pub enum ExtractError {
    /// The archive could not be read; a truncated one ends here.
    #[error("read archive after {entries} entries")]
    Read {
        /// How many entries were read whole.
        entries: u64,
        /// What the reader said.
        #[source]
        cause: io::Error,
    },
    /// A header makes no sense.
    #[error("malformed archive at {entry}: {why}")]
    Malformed {
        /// The entry, or where it would be.
        entry: EntryName,
        /// What is wrong with it.
        why: String,
    },
    /// The entry is well formed, but is not let in.
    #[error("refused entry {entry}: {why}")]
    Refused {
        /// The entry.
        entry: EntryName,
        /// The rule it breaks.
        why: Refusal,
    },
    /// The archive is larger than the caller allows.
    #[error("archive exceeds the limit of {limit} {unit} at {entry}")]
    Limit {
        /// The entry that crossed it.
        entry: EntryName,
        /// How much is allowed.
        limit: u64,
        /// Of what.
        unit: &'static str,
    },
    /// The transfer's budget is used up.
    #[error("at {entry}")]
    Budget {
        /// The entry that crossed it.
        entry: EntryName,
        /// What was refused.
        #[source]
        cause: Exhausted,
    },
    /// The system refused a call.
    #[error("extract {entry}: {call}")]
    System {
        /// The entry being made.
        entry: EntryName,
        /// The call with its arguments.
        call: String,
        /// The answer.
        #[source]
        cause: io::Error,
    },
}

/// The rule that an entry breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The name climbs above the directory with `..`.
    #[error("the name leads outside the layer")]
    Escape,
    /// The name has a NUL byte or is otherwise no file name.
    #[error("the name is not a valid file name")]
    BadName,
    /// A parent is a file.
    #[error("its parent {0} is not a directory")]
    ParentNotDirectory(EntryName),
    /// Symbolic links of lower layers lead round in circles.
    #[error("its parents go through too many symbolic links")]
    TooManyLinks,
    /// A hard link to what does not exist.
    #[error("hard link to {0}, which does not exist")]
    MissingTarget(EntryName),
    /// A hard link to a directory.
    #[error("hard link to {0}, which is a directory")]
    LinkToDirectory(EntryName),
    /// A hard link to its own name.
    #[error("hard link to itself")]
    LinkToItself,
    /// The root of the layer is not a directory.
    #[error("the root of a layer is a directory")]
    RootNotDirectory,
    /// A type of entry that layers do not have.
    #[error("entries of type {0:?} do not belong in a layer")]
    UnknownType(char),
}

/// The name of an entry, printable whatever its bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct EntryName(pub Vec<u8>);

impl fmt::Display for EntryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A hostile name may be as long as the limit on headers.
        let shown = &self.0[..self.0.len().min(300)];
        write!(f, "{:?}", String::from_utf8_lossy(shown))
    }
}

impl fmt::Debug for EntryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl ExtractError {
    /// What this amounts to for a caller.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Read { cause, .. } if let Some(refused) = Exhausted::within(cause) => {
                Kind::of_refused(refused)
            }
            Self::Budget { cause, .. } => Kind::of_refused(cause),
            Self::Read { cause, .. } => match Kind::from_io(cause) {
                Kind::Internal | Kind::InvalidArgument => Kind::DataLoss,
                kind => kind,
            },
            Self::Malformed { .. } => Kind::DataLoss,
            Self::Refused { .. } => Kind::InvalidArgument,
            Self::Limit { .. } => Kind::ResourceExhausted,
            Self::System { cause, .. } => match Kind::from_io(cause) {
                Kind::PermissionDenied => Kind::PermissionDenied,
                Kind::ResourceExhausted => Kind::ResourceExhausted,
                Kind::InvalidArgument => Kind::InvalidArgument,
                _ => Kind::Internal,
            },
        }
    }
}
