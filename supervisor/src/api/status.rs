//! Kinds of error as gRPC codes: the one place where the daemon's answers get theirs.

use std::error::Error;

use shim_sdk::Kind;
use shim_sdk::error::report;
use tonic::codegen::http::{HeaderValue, Response};
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
        return Status::new(Code::ResourceExhausted, report(error) + MAKE_ROOM);
    }
    Status::new(code(kind), report(error))
}

/// As much of an error as is sent, percent-encoded: clients refuse headers of more than 8 KiB.
const MESSAGE_BYTES: usize = 4096;

/// Shortens the message of an answer that is an error: it may quote what was asked, of any length.
pub(crate) fn shorten<B>(mut answer: Response<B>) -> Response<B> {
    let headers = answer.headers_mut();
    if let Some(message) = headers.get(Status::GRPC_MESSAGE)
        && message.len() > MESSAGE_BYTES
        && let Ok(short) = HeaderValue::from_bytes(cut(message.as_bytes()))
    {
        headers.insert(Status::GRPC_MESSAGE, short);
    }
    answer
}

/// The first bytes of a percent-encoded text, up to the end of a character.
fn cut(encoded: &[u8]) -> &[u8] {
    let mut end = MESSAGE_BYTES.min(encoded.len());
    // Not within an escape, nor before one that continues a character.
    while end > 0 {
        let within = encoded[end.saturating_sub(2)..end].contains(&b'%');
        let continues =
            matches!(&encoded[end..], [b'%', b'8' | b'9' | b'A' | b'B' | b'a' | b'b', ..]);
        if !within && !continues {
            break;
        }
        end -= 1;
    }
    &encoded[..end]
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
    crate::image::ImageError,
    crate::install::ImageInstallError,
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
    fn a_message_of_megabytes_is_shortened_at_a_character() {
        for (letter, most) in
            [("x", MESSAGE_BYTES), ("\u{1b}", MESSAGE_BYTES / 3), ("é", 682), ("日", 455)]
        {
            let long = Status::not_found(letter.repeat(3_000_000));
            let answer = shorten(long.into_http::<()>());
            let told = Status::from_header_map(answer.headers()).unwrap();
            assert_eq!(told.code(), Code::NotFound);
            assert_eq!(told.message(), letter.repeat(most), "{letter:?}");
        }
        let short = shorten(Status::not_found("é").into_http::<()>());
        assert_eq!(Status::from_header_map(short.headers()).unwrap().message(), "é");
    }

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
