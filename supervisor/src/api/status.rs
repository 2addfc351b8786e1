//! Kinds of error as gRPC codes: the one place where the daemon's answers get theirs.

use std::error::Error;

use shim_sdk::Kind;
use tonic::{Code, Status};

/// The code of a kind.
pub(crate) fn code(kind: Kind) -> Code {
    match kind {
        Kind::Unknown => Code::Unknown,
        Kind::InvalidArgument => Code::InvalidArgument,
        Kind::NotFound => Code::NotFound,
        Kind::AlreadyExists => Code::AlreadyExists,
        Kind::PermissionDenied => Code::PermissionDenied,
        Kind::ResourceExhausted => Code::ResourceExhausted,
        Kind::FailedPrecondition => Code::FailedPrecondition,
        Kind::Aborted => Code::Aborted,
        Kind::OutOfRange => Code::OutOfRange,
        Kind::Unimplemented => Code::Unimplemented,
        Kind::Internal => Code::Internal,
        Kind::Unavailable => Code::Unavailable,
        Kind::DataLoss => Code::DataLoss,
        Kind::Cancelled => Code::Cancelled,
        Kind::DeadlineExceeded => Code::DeadlineExceeded,
    }
}

/// What to do about a full file system: nothing else that fails says it.
const MAKE_ROOM: &str = "; make room: remove containers (supervisor rm) and images (supervisor \
                         images rm) that are not needed, which works without a free block";

/// `error` as an answer: its kind's code, and its text with those of its causes.
///
/// A full file system is RESOURCE_EXHAUSTED wherever it was met (containerd answers UNKNOWN), and
/// the answer says what to do.
pub(crate) fn status(kind: Kind, error: &(dyn Error + 'static)) -> Status {
    if crate::metadata::is_full(error) {
        return Status::new(Code::ResourceExhausted, chain(error) + MAKE_ROOM);
    }
    Status::new(code(kind), chain(error))
}

/// The text of `error` and of its causes, outermost first, joined by colons.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// An error that knows its kind, so that `?` and `map_err(refuse)` suffice in the services.
pub(crate) trait HasKind: Error {
    /// Its kind.
    fn kind_of(&self) -> Kind;
}

/// `error` as an answer.
pub(crate) fn refuse(error: impl HasKind + 'static) -> Status {
    status(error.kind_of(), &error)
}

macro_rules! has_kind {
    ($($error:ty),* $(,)?) => {
        $(impl HasKind for $error {
            fn kind_of(&self) -> Kind {
                self.kind()
            }
        })*
    };
}

has_kind!(
    crate::check::CheckError,
    crate::content::ContentError,
    crate::gc::CollectError,
    crate::install::InstallError,
    crate::metadata::MetadataError,
    crate::metadata::RecordError,
    crate::snapshot::SnapshotError,
    crate::task::TaskError,
    crate::transfer::LayerError,
    crate::transfer::TransferError,
);

impl HasKind for crate::metadata::InvalidIdentifier {
    fn kind_of(&self) -> Kind {
        Kind::InvalidArgument
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::RecordError;

    #[test]
    fn a_full_file_system_is_told_with_what_to_do() {
        let failure = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_FULL);
        let status = refuse(RecordError::from(rusqlite::Error::SqliteFailure(failure, None)));
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert!(status.message().contains("supervisor rm"), "{}", status.message());
    }

    #[test]
    fn an_answer_carries_the_code_and_every_cause() {
        let cause = rusqlite::Error::QueryReturnedNoRows;
        let status = refuse(RecordError::from(cause));
        assert_eq!(status.code(), Code::Internal);
        assert_eq!(status.message(), "metadata statement: Query returned no rows");
    }
}
