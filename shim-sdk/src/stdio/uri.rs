//! Where the client wants a process's streams: a path or URI for each.
//!
//! See containerd's documentation of runtime v2, section "IO".

use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// The streams of one process as the client asked for them, not parsed yet. The fields are those of
/// `CreateTaskRequest` and `ExecProcessRequest`. containerd's Go code has a type of the same name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Stdio {
    pub(crate) stdin: String,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) terminal: bool,
}

/// A parsed path or URI of one stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum StdioUri {
    /// The null device.
    Null,
    /// A fifo that the client made.
    Fifo(PathBuf),
    /// A file that is appended to.
    File(PathBuf),
    /// A program that reads the output.
    Logger(LoggerUri),
}

/// A `binary://` or `binary-v2://` URI.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LoggerUri {
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<String>,
    /// Whether closing the readiness pipe without a byte means that the logger failed.
    pub(crate) must_write_ready: bool,
}

impl StdioUri {
    /// Parses a path, or a URI with one of containerd's schemes. A path without a scheme is a fifo.
    pub(crate) fn parse(name: &str) -> Result<Self> {
        if name.is_empty() {
            return Ok(Self::Null);
        }
        let Some((scheme, rest)) = name.split_once("://") else {
            return Ok(Self::Fifo(PathBuf::from(name)));
        };
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let path = PathBuf::from(unescape(path));
        if !path.is_absolute() {
            return Err(Error::invalid(format!("stream {name:?} needs an absolute path")));
        }
        match scheme {
            "fifo" => Ok(Self::Fifo(path)),
            "file" => Ok(Self::File(path)),
            "binary" | "binary-v2" => Ok(Self::Logger(LoggerUri {
                program: path,
                arguments: arguments(query),
                must_write_ready: scheme == "binary-v2",
            })),
            _ => Err(Error::invalid(format!("stream {name:?} has an unknown scheme"))),
        }
    }

    /// The path of a fifo or a file.
    pub(crate) fn path(&self) -> Option<&Path> {
        match self {
            Self::Fifo(path) | Self::File(path) => Some(path),
            Self::Null | Self::Logger(_) => None,
        }
    }
}

/// A logger's arguments: each key of the query, then its value, as containerd passes them.
fn arguments(query: &str) -> Vec<String> {
    let mut arguments = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        arguments.push(unescape(&key.replace('+', " ")));
        if !value.is_empty() {
            arguments.push(unescape(&value.replace('+', " ")));
        }
    }
    arguments
}

/// Undoes percent-encoding.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let escaped = (byte == b'%')
            .then(|| tail.get(..2))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match escaped {
            Some(escaped) => {
                bytes.push(escaped);
                rest = &tail[2..];
            }
            None => {
                bytes.push(byte);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_path_is_a_fifo() {
        assert_eq!(StdioUri::parse("/run/f").expect("valid"), StdioUri::Fifo("/run/f".into()));
        assert_eq!(StdioUri::parse("").expect("valid"), StdioUri::Null);
    }

    #[test]
    fn files_are_named_by_uri() {
        assert_eq!(StdioUri::parse("file:///a%20b").expect("valid"), StdioUri::File("/a b".into()));
    }

    #[test]
    fn a_loggers_query_becomes_its_arguments() {
        let uri = StdioUri::parse("binary-v2:///bin/log?-f=x%2fy&verbose").expect("valid");
        let StdioUri::Logger(logger) = uri else { panic!("a logger") };
        assert_eq!(logger.program, Path::new("/bin/log"));
        assert_eq!(logger.arguments, ["-f", "x/y", "verbose"]);
        assert!(logger.must_write_ready);
    }

    #[test]
    fn other_schemes_and_relative_paths_are_refused_by_name() {
        for bad in ["http://x/y", "file://relative"] {
            let error = StdioUri::parse(bad).expect_err(bad);
            assert!(error.to_string().contains(bad), "{error}");
        }
    }
}
