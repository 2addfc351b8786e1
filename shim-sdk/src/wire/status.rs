//! Converts an error to a ttrpc status. No other code chooses a status code.

use protos::ttrpc::ttrpc::{Code, Status, get_status};

use crate::{Error, Kind};

/// The code of a kind.
fn code(kind: Kind) -> Code {
    match kind {
        Kind::Unknown => Code::UNKNOWN,
        Kind::InvalidArgument => Code::INVALID_ARGUMENT,
        Kind::NotFound => Code::NOT_FOUND,
        Kind::AlreadyExists => Code::ALREADY_EXISTS,
        Kind::PermissionDenied => Code::PERMISSION_DENIED,
        Kind::ResourceExhausted => Code::RESOURCE_EXHAUSTED,
        Kind::FailedPrecondition => Code::FAILED_PRECONDITION,
        Kind::Aborted => Code::ABORTED,
        Kind::OutOfRange => Code::OUT_OF_RANGE,
        Kind::Unimplemented => Code::UNIMPLEMENTED,
        Kind::Internal => Code::INTERNAL,
        Kind::Unavailable => Code::UNAVAILABLE,
        Kind::DataLoss => Code::DATA_LOSS,
        Kind::Cancelled => Code::CANCELLED,
        Kind::DeadlineExceeded => Code::DEADLINE_EXCEEDED,
    }
}

/// An error as a ttrpc status.
pub(crate) fn to_wire(error: &Error) -> Status {
    get_status(code(error.kind()), error.report())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_reads_the_message_with_its_causes() {
        let error = Error::io("open /x", std::io::Error::from_raw_os_error(libc::ENOENT));
        let status = to_wire(&error);
        assert_eq!(status.code(), Code::NOT_FOUND);
        assert_eq!(status.message, "open /x: No such file or directory (os error 2)");
    }
}
