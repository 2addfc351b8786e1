//! The SDK's ends of a process's streams.
//!
//! Promise: opening never blocks, whoever is or is not at the other end of a fifo. The SDK holds a
//! writer of the input fifo until the client closes the input. Output ends when everybody who could write has gone, or some
//! time after the process has.
//! Not here: when output is done (`output`), the logger's life (`logger`), the terminal's hand-over
//! (`console`).
//! See fifo(7), pipe(7).

use std::cell::{Cell, RefCell};
use std::fs::OpenOptions;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::pipe::{PipeFlags, pipe_with};
use tokio::io::Interest;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::console::Console;
use super::copy::{self, Polled, Sink};
use super::logger::Logger;
use super::output::{Output, Progress, Target, is_fifo};
use super::place::Place;
use super::{Io, Stream, Streams, Terminal};
use crate::event::Names;
use crate::{Error, Result};

/// Whose streams these are, as a logger is told.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Owner<'a> {
    pub(crate) namespace: &'a str,
    /// The container's identifier, or the exec's.
    pub(crate) id: &'a str,
}

/// How long output is held back while a process is being made. It is bounded, so that a runtime
/// that says more than a pipe holds is not stuck for ever.
const HOLD: Duration = Duration::from_secs(5);

/// The SDK's ends.
#[derive(Debug)]
pub(crate) struct Attached {
    /// Closed, and so passable, once the process is made. What comes before is the runtime's own
    /// words (runc repeats its error there), which the client gets as an error or not at all.
    made: Rc<Semaphore>,
    /// Copies that end when the process's output does.
    outputs: RefCell<Vec<Output>>,
    /// An input fifo that is to be opened when the process starts, and where it goes: a pipe, or
    /// the terminal.
    awaited_input: RefCell<Option<(PathBuf, Option<Polled>)>>,
    /// The copy to the process's input.
    input: RefCell<Option<JoinHandle<()>>>,
    /// Whether the client has said that it will write no more.
    input_closed: Cell<bool>,
    /// Keeps the input fifo from ending between two clients.
    input_writer: RefCell<Option<OwnedFd>>,
    logger: RefCell<Option<Logger>>,
    console: Option<Console>,
    /// Whether the process has exited, so that a terminal nobody has open is at its end.
    exited: Rc<Cell<bool>>,
}

impl Default for Attached {
    fn default() -> Self {
        Self {
            made: Rc::new(Semaphore::new(0)),
            outputs: RefCell::default(),
            awaited_input: RefCell::default(),
            input: RefCell::default(),
            input_closed: Cell::default(),
            input_writer: RefCell::default(),
            logger: RefCell::default(),
            console: None,
            exited: Rc::default(),
        }
    }
}

/// Opens what the client named.
pub(crate) async fn open(names: &Names, owner: Owner<'_>) -> Result<(Io, Attached)> {
    let stdin = Place::parse(&names.stdin)?;
    let stdout = Place::parse(&names.stdout)?;
    let mut stderr = Place::parse(&names.stderr)?;
    // As containerd has it: a file or a logger for the output takes the errors as well.
    if matches!(stdout, Place::File(_)) && stderr == Place::Null
        || matches!(stdout, Place::Logger(_))
    {
        stderr = stdout.clone();
    }
    let mut attached = Attached::default();
    if names.terminal {
        let console = Console::listen()?;
        let io = Io::Terminal(Terminal::new(console.socket_path().to_owned()));
        let target = match &stdout {
            Place::Null => None,
            Place::Logger(place) => {
                let (read, write) = pipe()?;
                let logger = Logger::start(place, owner, Some(read), None).await?;
                *attached.logger.borrow_mut() = Some(logger);
                Some(Target::Sink(Sink::Polled(register(write, Interest::WRITABLE)?)))
            }
            place => Some(Target::new(place)?),
        };
        if let Place::Fifo(path) = &stdin {
            is_fifo(path)?;
            *attached.awaited_input.borrow_mut() = Some((path.clone(), None));
        }
        console.accept(target, Rc::clone(&attached.exited));
        attached.console = Some(console);
        return Ok((io, attached));
    }
    let mut streams = Streams::default();
    if let Place::Fifo(path) = &stdin {
        if is_fifo(path)? {
            let (read, write) = pipe()?;
            let write = register(write, Interest::WRITABLE)?;
            *attached.awaited_input.borrow_mut() = Some((path.clone(), Some(write)));
            streams.stdin = Some(Stream::from(read));
        } else {
            // A terminal is not to become the shim's own.
            let mut options = OpenOptions::new();
            let file = options.read(true).custom_flags(libc::O_NOCTTY).open(path);
            let file =
                file.map_err(|cause| Error::io(format!("open {}", path.display()), cause))?;
            streams.stdin = Some(Stream::from(OwnedFd::from(file)));
        }
    }
    if let Place::Logger(place) = &stdout {
        let (out_read, out_write) = pipe()?;
        let (err_read, err_write) = pipe()?;
        let logger = Logger::start(place, owner, Some(out_read), Some(err_read)).await?;
        *attached.logger.borrow_mut() = Some(logger);
        streams.stdout = Some(Stream::from(out_write));
        streams.stderr = Some(Stream::from(err_write));
        return Ok((Io::Streams(streams), attached));
    }
    // One description where both go to one file, so that neither overwrites the other.
    let shared = stdout != Place::Null && stdout.path() == stderr.path();
    if stdout != Place::Null {
        let (read, write) = pipe()?;
        let target = Target::new(&stdout)?;
        if shared {
            let again = write.try_clone().map_err(|cause| Error::io("dup a pipe", cause))?;
            streams.stderr = Some(Stream::from(again));
        }
        attached.copy_output(read, target)?;
        streams.stdout = Some(Stream::from(write));
    }
    if stderr != Place::Null && !shared {
        let (read, write) = pipe()?;
        attached.copy_output(read, Target::new(&stderr)?)?;
        streams.stderr = Some(Stream::from(write));
    }
    Ok((Io::Streams(streams), attached))
}

impl Attached {
    /// The process is made: waits for what the runtime has to hand over by now, a terminal, and
    /// lets output through.
    pub(crate) async fn ready(&self) -> Result<()> {
        self.made.close();
        match &self.console {
            Some(console) => console.ready().await,
            None => Ok(()),
        }
    }

    /// Opens the input fifo and starts copying from it. Called when the process is about to start
    /// and not before: a client whose input ends at once tells so by CloseIO, and some (ctr among
    /// them) can do so only after Create has been answered.
    pub(crate) fn begin_input(&self) -> Result<()> {
        let Some((path, pipe)) = self.awaited_input.borrow_mut().take() else { return Ok(()) };
        let attempt = |cause| Error::io(format!("open {}", path.display()), cause);
        let mut options = OpenOptions::new();
        options.custom_flags(libc::O_NONBLOCK);
        let reader = options.clone().read(true).open(&path).map_err(attempt)?;
        if !self.input_closed.get() {
            let writer = options.write(true).open(&path).map_err(attempt)?;
            *self.input_writer.borrow_mut() = Some(OwnedFd::from(writer));
        }
        let reader = register(OwnedFd::from(reader), Interest::READABLE)?;
        match (pipe, &self.console) {
            (Some(pipe), _) => {
                let task = async move {
                    let (reader, pipe) = (reader, Sink::Polled(pipe));
                    // The process may stop reading at any time; that is its affair.
                    let _ = copy::copy(&reader, &pipe).await;
                };
                *self.input.borrow_mut() = Some(tokio::task::spawn_local(task));
            }
            (None, Some(console)) => console.begin_input(reader),
            (None, None) => {}
        }
        Ok(())
    }

    /// The client will write no more; what it wrote is still read. May be called again.
    pub(crate) fn close_input(&self) {
        self.input_closed.set(true);
        self.input_writer.borrow_mut().take();
    }

    /// Changes the terminal's size, now or when there is one. Without a terminal, nothing.
    pub(crate) fn resize(&self, columns: u16, rows: u16) -> Result<()> {
        match &self.console {
            Some(console) => console.resize(columns, rows),
            None => Ok(()),
        }
    }

    /// The process has exited.
    pub(crate) fn process_exited(&self) {
        self.exited.set(true);
        self.awaited_input.borrow_mut().take();
        self.close_input();
        if let Some(input) = self.input.borrow_mut().take() {
            input.abort();
        }
    }

    /// Waits until all output is where it belongs, or for as long as is allowed, then closes
    /// everything.
    pub(crate) async fn drain(&self, limit: Duration) {
        self.process_exited();
        let mut outputs = std::mem::take(&mut *self.outputs.borrow_mut());
        outputs.extend(self.console.as_ref().and_then(Console::take_output));
        let logger = self.logger.borrow_mut().take();
        // One after the other is as good as all at once: each has the same end in time.
        let deadline = Instant::now() + limit;
        for output in outputs {
            if !output.finish(deadline.saturating_duration_since(Instant::now())).await {
                log::info!("output did not end in time after the process's exit; closed");
            }
        }
        if let Some(console) = &self.console {
            console.close();
        }
        if let Some(logger) = logger {
            logger.finish(limit).await;
        }
    }

    fn copy_output(&self, read: OwnedFd, target: Target) -> Result<()> {
        let read = register(read, Interest::READABLE)?;
        let made = Rc::clone(&self.made);
        let progress = Progress::new();
        let told = progress.clone();
        let task = async move {
            // Before there is anything to copy: the client's own opening waits for this one, and a
            // client that is not done with it when a short process ends has nothing to read from.
            let opened = target.open(&told).await;
            // Passes by the semaphore's closing or by the time, both of which are errors.
            let _ = tokio::time::timeout(HOLD, made.acquire()).await;
            let copied = match opened {
                Ok(open) => {
                    let copied = copy::copy(&read, &open.sink).await;
                    // Closing is how the client sees the end.
                    open.close(&told).await;
                    copied.map_err(|cause| Error::io("copy output", cause))
                }
                Err(error) => Err(error),
            };
            if let Err(error) = copied {
                log::warn!("{}", error.report());
                // The process is not to be stopped by a full disk: what it writes is discarded.
                let _ = copy::discard(&read).await;
            }
        };
        let task = tokio::task::spawn_local(task);
        self.outputs.borrow_mut().push(Output { task, progress });
        Ok(())
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        if let Some(input) = self.input.borrow_mut().take() {
            input.abort();
        }
    }
}

fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    pipe_with(PipeFlags::CLOEXEC).map_err(|cause| Error::io("pipe2(O_CLOEXEC)", cause.into()))
}

fn register(fd: OwnedFd, interest: Interest) -> Result<Polled> {
    copy::polled(fd, interest).map_err(|cause: io::Error| Error::io("poll a stream", cause))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io::Write;

    use super::*;

    /// Opens streams to a file, writes to them, makes the process or not, and tells what arrived.
    fn arrived(made: bool) -> String {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let file = tempfile::NamedTempFile::new().expect("a file");
        let names = Names { stdout: file.path().display().to_string(), ..Names::default() };
        tokio::task::LocalSet::new().block_on(runtime.as_ref().expect("a runtime"), async {
            let owner = Owner { namespace: "n", id: "i" };
            let (io, attached) = open(&names, owner).await.expect("open");
            let Io::Streams(streams) = io else { panic!("no terminal was asked for") };
            let mut stdout = File::from(OwnedFd::from(streams.stdout.expect("asked for")));
            stdout.write_all(b"words").expect("write");
            drop(stdout);
            tokio::time::sleep(Duration::from_millis(20)).await;
            assert_eq!(fs::read_to_string(file.path()).expect("read"), "");
            if made {
                attached.ready().await.expect("no terminal to wait for");
                attached.drain(Duration::from_secs(5)).await;
            }
        });
        fs::read_to_string(file.path()).expect("read")
    }

    #[test]
    fn what_a_runtime_says_while_it_fails_is_not_the_containers_output() {
        assert_eq!(arrived(false), "");
        assert_eq!(arrived(true), "words");
    }
}
