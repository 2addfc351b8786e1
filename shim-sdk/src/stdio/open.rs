//! Opens what the client asked for, and makes the runtime's ends.
//!
//! Promise: opening never blocks, whether or not the client has its end of a fifo open.
//! Not here: copying, from then on (`attached`).
//! See fifo(7), pipe(7).

use std::fs::OpenOptions;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::rc::Rc;

use tokio::io::Interest;

use super::attached::{Attached, InputSource};
use super::console::Console;
use super::copy::{Sink, pipe, register};
use super::logger::Logger;
use super::output::{OutputTarget, is_fifo};
use super::uri::{LoggerUri, StdioUri};
use super::{Io, Owner, Stdio, Stream, Streams, Terminal};
use crate::{Error, Result};

/// Opens the streams of a process: the runtime's ends, and the SDK's.
pub(crate) async fn open(stdio: &Stdio, owner: Owner<'_>) -> Result<(Io, Attached)> {
    let stdin = StdioUri::parse(&stdio.stdin)?;
    let stdout = StdioUri::parse(&stdio.stdout)?;
    let stderr = StdioUri::parse(&stdio.stderr)?;
    let mut attached = Attached::default();
    let io = if stdio.terminal {
        Io::Terminal(open_terminal(&mut attached, &stdin, &stdout, owner).await?)
    } else {
        Io::Streams(open_streams(&attached, &stdin, &stdout, &stderr, owner).await?)
    };
    Ok((io, attached))
}

async fn open_terminal(
    attached: &mut Attached,
    stdin: &StdioUri,
    stdout: &StdioUri,
    owner: Owner<'_>,
) -> Result<Terminal> {
    let console = Console::listen()?;
    let terminal = Terminal::new(console.socket_path().to_owned());
    let target = match stdout {
        StdioUri::Null => None,
        StdioUri::Logger(uri) => {
            let (read, write) = pipe()?;
            let logger = Logger::start(uri, owner, Some(read), None).await?;
            *attached.logger.borrow_mut() = Some(logger);
            Some(OutputTarget::Sink(Sink::Polled(register(write, Interest::WRITABLE)?)))
        }
        uri => Some(OutputTarget::new(uri)?),
    };
    if let StdioUri::Fifo(path) = stdin {
        let source = match OpenedInput::open(path)? {
            OpenedInput::Copied(source) => source,
            OpenedInput::Device(device) => InputSource::Device(device),
        };
        *attached.awaited_input.borrow_mut() = Some((source, None));
    }
    console.accept(target, Rc::clone(&attached.exited));
    attached.console = Some(console);
    Ok(terminal)
}

async fn open_streams(
    attached: &Attached,
    stdin: &StdioUri,
    stdout: &StdioUri,
    stderr: &StdioUri,
    owner: Owner<'_>,
) -> Result<Streams> {
    let stdin = open_stdin(attached, stdin)?;
    let (stdout, stderr) = match stdout {
        StdioUri::Logger(uri) => open_logger(attached, uri, owner).await?,
        _ => open_outputs(attached, stdout, stderr)?,
    };
    Ok(Streams { stdin, stdout, stderr })
}

fn open_stdin(attached: &Attached, stdin: &StdioUri) -> Result<Option<Stream>> {
    let StdioUri::Fifo(path) = stdin else { return Ok(None) };
    match OpenedInput::open(path)? {
        OpenedInput::Copied(source) => {
            let (read, write) = pipe()?;
            let write = register(write, Interest::WRITABLE)?;
            *attached.awaited_input.borrow_mut() = Some((source, Some(write)));
            Ok(Some(Stream::from(read)))
        }
        OpenedInput::Device(device) => Ok(Some(Stream::from(device))),
    }
}

/// Starts a logger for stdout and stderr. As in containerd, the URI of stderr is ignored then.
async fn open_logger(
    attached: &Attached,
    uri: &LoggerUri,
    owner: Owner<'_>,
) -> Result<(Option<Stream>, Option<Stream>)> {
    let (out_read, out_write) = pipe()?;
    let (err_read, err_write) = pipe()?;
    let logger = Logger::start(uri, owner, Some(out_read), Some(err_read)).await?;
    *attached.logger.borrow_mut() = Some(logger);
    Ok((Some(Stream::from(out_write)), Some(Stream::from(err_write))))
}

/// Makes a pipe for each of stdout and stderr that is asked for, and starts copying.
fn open_outputs(
    attached: &Attached,
    stdout: &StdioUri,
    stderr: &StdioUri,
) -> Result<(Option<Stream>, Option<Stream>)> {
    let open_one = |uri: &StdioUri| -> Result<Option<OwnedFd>> {
        if *uri == StdioUri::Null {
            return Ok(None);
        }
        let (read, write) = pipe()?;
        attached.copy_output(read, OutputTarget::new(uri)?)?;
        Ok(Some(write))
    };
    let out = open_one(stdout)?;
    // As in containerd, a file for stdout takes stderr as well if that has no URI.
    let follows = matches!((stdout, stderr), (StdioUri::File(_), StdioUri::Null));
    let err = match &out {
        // One pipe where both go to one file, so that neither overwrites the other.
        Some(out) if follows || stdout.path() == stderr.path() => {
            Some(out.try_clone().map_err(|cause| Error::io("dup a pipe", cause))?)
        }
        _ => open_one(stderr)?,
    };
    Ok((out.map(Stream::from), err.map(Stream::from)))
}

/// The client's input, opened.
#[derive(Debug)]
enum OpenedInput {
    /// What is copied to the process. It never gets a file itself: a runtime gives a process's
    /// streams to the process's user.
    Copied(InputSource),
    /// A terminal or the null device.
    Device(OwnedFd),
}

impl OpenedInput {
    fn open(path: &Path) -> Result<Self> {
        if is_fifo(path)? {
            return Ok(Self::Copied(InputSource::Fifo(path.to_owned())));
        }
        let attempt = |cause| Error::io(format!("open {}", path.display()), cause);
        let mut options = OpenOptions::new();
        // O_NOCTTY: a terminal must not become the shim's own. O_NONBLOCK: a fifo may stand at the
        // path now, and opening it would wait for a writer.
        let file = options.read(true).custom_flags(libc::O_NOCTTY | libc::O_NONBLOCK).open(path);
        let file = file.map_err(attempt)?;
        let kind = file.metadata().map_err(attempt)?.file_type();
        if kind.is_file() || kind.is_block_device() {
            return Ok(Self::Copied(InputSource::File(file)));
        }
        if kind.is_char_device() {
            rustix::io::ioctl_fionbio(&file, false).map_err(|cause| attempt(cause.into()))?;
            return Ok(Self::Device(file.into()));
        }
        Err(Error::invalid(format!("{} can be no process's input", path.display())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_as_input_is_passed_and_a_directory_refused() {
        let null = OpenedInput::open(Path::new("/dev/null")).expect("a device");
        assert!(matches!(null, OpenedInput::Device(_)));
        let folder = tempfile::tempdir().expect("temporary folder");
        let refused = OpenedInput::open(folder.path()).expect_err("a directory");
        assert_eq!(refused.kind(), crate::Kind::InvalidArgument);
    }
}
