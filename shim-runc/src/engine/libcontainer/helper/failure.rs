//! Turns an error into the [`Failure`] that the helper answers with.
//!
//! Promise: the text is one line and has all causes of the error. An error of libcontainer keeps what
//! it says about the request: the container exists already, does not exist, has the wrong state, or
//! its spec is wrong.

use std::error::Error;
use std::fmt::{Display, Write};

use libcontainer::error::LibcontainerError;

use super::super::wire::{Failure, Reason};

/// A system call or an operation on a file that failed; `what` names it.
pub(super) fn failed(what: &str, error: &dyn Display) -> Failure {
    Failure::new(Reason::System, format!("{what}: {error}"))
}

/// An error with all its causes on one line. An error of libcontainer has a reason of its own;
/// `reason` is for every other error.
pub(super) fn failure(reason: Reason, error: &(dyn Error + 'static)) -> Failure {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            let _ = write!(text, ": {cause_text}");
        }
        source = cause.source();
    }
    let reason = error.downcast_ref::<LibcontainerError>().map_or(reason, reason_of);
    Failure::new(reason, text.replace('\n', " "))
}

fn reason_of(error: &LibcontainerError) -> Reason {
    match error {
        LibcontainerError::Exist => Reason::AlreadyExists,
        LibcontainerError::NoDirectory => Reason::NoSuchContainer,
        LibcontainerError::IncorrectStatus(_) => Reason::WrongState,
        LibcontainerError::InvalidInput(_)
        | LibcontainerError::InvalidID(_)
        | LibcontainerError::MissingSpec(_)
        | LibcontainerError::InvalidSpec(_)
        | LibcontainerError::Spec(_) => Reason::InvalidRequest,
        LibcontainerError::CgroupManager(_)
        | LibcontainerError::CgroupCreate(_)
        | LibcontainerError::CgroupGet(_)
        | LibcontainerError::OtherCgroup(_) => Reason::Cgroup,
        LibcontainerError::Hook(_) => Reason::Hook,
        LibcontainerError::OtherSyscall(_) | LibcontainerError::OtherIO(_) => Reason::System,
        _ => Reason::Library,
    }
}
