//! The one error type that crosses from a runtime to the SDK and from there to the client.
//!
//! An [`Error`] is a [`Kind`], which becomes the status code, and a message for a human being.
//! Everything inside the SDK that has a richer error converts into it at its own boundary.

use std::error::Error as StdError;
use std::fmt;
use std::io;

use crate::Kind;

/// What a runtime's method answers.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure as the client will see it: a kind, a message, perhaps a cause.
///
/// `Display` prints the message alone; [`Error::report`] adds the causes, once each.
pub struct Error {
    kind: Kind,
    message: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of a kind with a message that says what was attempted.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    /// A call or an option that the runtime does not offer.
    pub fn unimplemented(what: impl fmt::Display) -> Self {
        Self::new(Kind::Unimplemented, format!("{what} is not supported by this runtime"))
    }

    /// The object does not exist, or no longer does.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(Kind::NotFound, message)
    }

    /// The request itself is malformed.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Kind::InvalidArgument, message)
    }

    /// The object is in a state that does not allow this.
    pub fn precondition(message: impl Into<String>) -> Self {
        Self::new(Kind::FailedPrecondition, message)
    }

    /// An I/O error, with what was attempted; the kind is the I/O error's.
    pub fn io(attempt: impl Into<String>, cause: io::Error) -> Self {
        Self::new(Kind::from_io(&cause), attempt).with_source(cause)
    }

    /// The same error with its cause.
    #[must_use]
    pub fn with_source(mut self, cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(cause.into());
        self
    }

    /// The same error, with what was attempted in front of the message.
    #[must_use]
    pub fn context(mut self, attempt: impl fmt::Display) -> Self {
        self.message = format!("{attempt}: {}", self.message);
        self
    }

    /// What went wrong, in containerd's terms.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The message without its causes.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The message and its causes, joined by colons, as the client reads it.
    pub fn report(&self) -> String {
        report(self)
    }
}

/// An error and its causes on one line; a cause that its parent already prints is left out.
pub fn report(error: &(dyn StdError + 'static)) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !line.contains(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        cause = error.source();
    }
    line
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.report())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_prints_each_cause_once() {
        let error = Error::io("open /x", io::Error::from_raw_os_error(2));
        assert_eq!(error.to_string(), "open /x");
        assert_eq!(error.report(), "open /x: No such file or directory (os error 2)");
        assert_eq!(error.kind(), Kind::NotFound);
        let outer = Error::new(Kind::Unknown, error.report()).with_source(error);
        assert_eq!(outer.report().matches("os error 2").count(), 1);
    }
}
