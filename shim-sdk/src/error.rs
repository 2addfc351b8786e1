//! The error type of the trait `Runtime`. The SDK sends it to the client.
//!
//! An [`Error`] is a [`Kind`], which becomes the status code, and a message for a person. Modules
//! of the SDK with their own error types convert them at their boundary.

use std::error::Error as StdError;
use std::fmt;
use std::io;

use crate::Kind;

/// The result of a runtime's method.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error as the client sees it: a kind, a message, perhaps a cause.
///
/// `Display` prints only the message. [`Error::report`] adds the causes, each once.
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

    /// A call or an option that the runtime does not support.
    pub fn unimplemented(what: impl fmt::Display) -> Self {
        Self::new(Kind::Unimplemented, format!("{what} is not supported by this runtime"))
    }

    /// The object does not exist, or does not exist any more.
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

    /// An I/O error, with what was attempted. The kind follows from the I/O error.
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

    /// The kind, in containerd's terms.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The message without its causes.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The message and its causes, joined by colons, as the client gets it.
    pub fn report(&self) -> String {
        report(self)
    }
}

/// An error and its causes on one line. A cause that is printed already is left out.
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
