//! The SDK's ends of a process's streams: there are none.
//!
//! A client's stream is a named pipe that the client serves; the SDK opens it and the process is
//! given that very end. So there is nothing to copy, and nothing to wait for after the exit.
//! Terminals and loggers are not offered yet.

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
        // As containerd has it: a file for the output takes the errors as well.
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
    /// There is nothing that a runtime would hand over.
    pub(crate) async fn ready(&self) -> Result<()> {
        Ok(())
    }

    /// The process reads for itself.
    pub(crate) fn begin_input(&self) -> Result<()> {
        Ok(())
    }

    /// The client closes its own end, and the process sees that.
    pub(crate) fn close_input(&self) {}

    /// There is no terminal.
    pub(crate) fn resize(&self, _columns: u16, _rows: u16) -> Result<()> {
        Ok(())
    }

    /// Nothing of the process's is kept here.
    pub(crate) fn process_exited(&self) {}

    /// What was written is the client's already.
    pub(crate) async fn drain(&self, _limit: Duration) {}
}

/// There are no loggers.
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
