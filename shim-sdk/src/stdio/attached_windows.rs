//! Opens a process's streams. On Windows the SDK keeps no end of them.
//!
//! A client's stream is a named pipe that the client serves. The SDK opens it, and the process gets
//! that end. So there is nothing to copy, and nothing to wait for after the exit. Terminals and
//! loggers are not supported yet.

use std::fs::{self, File, OpenOptions};
use std::os::windows::io::OwnedHandle;
use std::path::Path;
use std::time::Duration;

use super::uri::StdioUri;
use super::{Io, Owner, Stdio, Stream, Streams};
use crate::{Error, Result};

/// The SDK's ends.
#[derive(Debug)]
pub(crate) struct Attached(());

/// Opens what the client named.
pub(crate) async fn open(stdio: &Stdio, _owner: Owner<'_>) -> Result<(Io, Attached)> {
    if stdio.terminal {
        return Err(Error::unimplemented("a terminal on Windows"));
    }
    let stdin = StdioUri::parse(&stdio.stdin)?;
    let stdout = StdioUri::parse(&stdio.stdout)?;
    let stderr = StdioUri::parse(&stdio.stderr)?;
    let shared = stdout != StdioUri::Null && stdout.path() == stderr.path();
    let mut streams = Streams::default();
    if let Some(path) = stdin.path() {
        streams.stdin = Some(stream(path, OpenOptions::new().read(true))?);
    }
    let out = output(&stdout)?;
    streams.stderr = match &out {
        // As in containerd, a file for stdout takes stderr as well if that has no URI.
        Some(out)
            if shared || matches!((&stdout, &stderr), (StdioUri::File(_), StdioUri::Null)) =>
        {
            let again = out.try_clone().map_err(|cause| Error::io("duplicate stdout", cause))?;
            Some(Stream::from(OwnedHandle::from(again)))
        }
        _ => output(&stderr)?.map(|file| Stream::from(OwnedHandle::from(file))),
    };
    streams.stdout = out.map(|file| Stream::from(OwnedHandle::from(file)));
    Ok((Io::Streams(streams), Attached(())))
}

impl Attached {
    /// Does nothing: there is no terminal to wait for.
    pub(crate) async fn ready(&self) -> Result<()> {
        Ok(())
    }

    /// Does nothing: the process reads the client's pipe itself.
    pub(crate) fn begin_input(&self) -> Result<()> {
        Ok(())
    }

    /// Does nothing: the process sees when the client closes its end.
    pub(crate) fn close_input(&self) {}

    /// Does nothing: there is no terminal.
    pub(crate) fn resize(&self, _columns: u16, _rows: u16) -> Result<()> {
        Ok(())
    }

    /// Does nothing: the SDK has no ends to close.
    pub(crate) fn process_exited(&self) {}

    /// Does nothing: the client's pipe has the output already.
    pub(crate) async fn drain(&self, _limit: Duration) {}
}

/// Does nothing: there are no loggers.
pub(crate) async fn end_loggers(_grace: Duration) {}

fn output(uri: &StdioUri) -> Result<Option<File>> {
    match uri {
        StdioUri::Null => Ok(None),
        StdioUri::Fifo(path) => file(path, OpenOptions::new().write(true)).map(Some),
        StdioUri::File(path) => {
            if let Some(parent) = path.parent() {
                let made = fs::create_dir_all(parent);
                made.map_err(|cause| Error::io(format!("make {}", parent.display()), cause))?;
            }
            file(path, OpenOptions::new().append(true).create(true)).map(Some)
        }
        StdioUri::Logger(_) => Err(Error::unimplemented("a logger on Windows")),
    }
}

fn stream(path: &Path, options: &OpenOptions) -> Result<Stream> {
    file(path, options).map(|file| Stream::from(OwnedHandle::from(file)))
}

fn file(path: &Path, options: &OpenOptions) -> Result<File> {
    options.open(path).map_err(|cause| Error::io(format!("open {}", path.display()), cause))
}
