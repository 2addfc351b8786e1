//! The SDK's ends of a process's streams.
//!
//! Promise: opening never blocks, whoever is or is not at the other end of a fifo. The SDK holds a
//! writer of the input fifo until the client closes the input. Output ends when everybody who could write has gone, or some
//! time after the process has.
//! Not here: when output is done (`output`), the logger's life (`logger`), the terminal's hand-over
//! (`console`).
//! See fifo(7), pipe(7).

use std::cell::{Cell, RefCell};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
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
    /// Where input comes from once the process starts, and where it goes: a pipe, or the terminal.
    awaited_input: RefCell<Option<(Source, Option<Polled>)>>,
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

/// Where input comes from.
#[derive(Debug)]
enum Source {
    /// A fifo that is opened when the process starts.
    Fifo(PathBuf),
    /// A file, read from where it is.
    File(File),
    /// A terminal or the null device.
    Device(OwnedFd),
}

/// What a client names for its input, opened.
#[derive(Debug)]
enum Input {
    /// What is copied to the process. It never gets a file itself: a runtime gives a process's
    /// streams to the process's user.
    Copied(Source),
    /// A terminal or the null device.
    Device(OwnedFd),
}

impl Input {
    fn open(path: &Path) -> Result<Self> {
        if is_fifo(path)? {
            return Ok(Self::Copied(Source::Fifo(path.to_owned())));
        }
        let attempt = |cause| Error::io(format!("open {}", path.display()), cause);
        let mut options = OpenOptions::new();
        // A terminal is not to become the shim's own, and what is at the path by now is not to be
        // waited for.
        let file = options.read(true).custom_flags(libc::O_NOCTTY | libc::O_NONBLOCK).open(path);
        let file = file.map_err(attempt)?;
        let kind = file.metadata().map_err(attempt)?.file_type();
        if kind.is_file() || kind.is_block_device() {
            return Ok(Self::Copied(Source::File(file)));
        }
        if kind.is_char_device() {
            rustix::io::ioctl_fionbio(&file, false).map_err(|cause| attempt(cause.into()))?;
            return Ok(Self::Device(file.into()));
        }
        Err(Error::invalid(format!("{} can be no process's input", path.display())))
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
            let source = match Input::open(path)? {
                Input::Copied(source) => source,
                Input::Device(device) => Source::Device(device),
            };
            *attached.awaited_input.borrow_mut() = Some((source, None));
        }
        console.accept(target, Rc::clone(&attached.exited));
        attached.console = Some(console);
        return Ok((io, attached));
    }
    let mut streams = Streams::default();
    if let Place::Fifo(path) = &stdin {
        match Input::open(path)? {
            Input::Copied(source) => {
                let (read, write) = pipe()?;
                let write = register(write, Interest::WRITABLE)?;
                *attached.awaited_input.borrow_mut() = Some((source, Some(write)));
                streams.stdin = Some(Stream::from(read));
            }
            Input::Device(device) => streams.stdin = Some(Stream::from(device)),
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

    /// Opens an input fifo and starts copying. Called when the process is about to start
    /// and not before: a client whose input ends at once tells so by CloseIO, and some (ctr among
    /// them) can do so only after Create has been answered.
    pub(crate) fn begin_input(&self) -> Result<()> {
        let Some((source, pipe)) = self.awaited_input.borrow_mut().take() else { return Ok(()) };
        let path = match source {
            Source::Fifo(path) => path,
            Source::File(file) => return self.begin_file(file, pipe),
            Source::Device(device) => return self.begin_device(device, pipe),
        };
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

    /// Starts copying from a file, to the process's pipe or by a pipe of its own to the terminal.
    fn begin_file(&self, file: File, pipe: Option<Polled>) -> Result<()> {
        let pipe = match (pipe, &self.console) {
            (Some(pipe), _) => pipe,
            (None, Some(console)) => {
                let (read, write) = self::pipe()?;
                console.begin_input(register(read, Interest::READABLE)?);
                register(write, Interest::WRITABLE)?
            }
            (None, None) => return Ok(()),
        };
        // The process may stop reading at any time; that is its affair.
        let task = async move {
            if let Err(cause) = copy::copy_file(file, &Sink::Polled(pipe)).await {
                log::debug!("copy input: {cause}");
            }
        };
        *self.input.borrow_mut() = Some(tokio::task::spawn_local(task));
        Ok(())
    }

    /// Starts copying from a device; the null device, which cannot be polled, is read as a file.
    fn begin_device(&self, device: OwnedFd, pipe: Option<Polled>) -> Result<()> {
        let again = device.try_clone().map_err(|cause| Error::io("dup the input", cause))?;
        match (register(device, Interest::READABLE), &self.console) {
            (Ok(reader), Some(console)) => {
                console.begin_input(reader);
                Ok(())
            }
            (Ok(_) | Err(_), _) => self.begin_file(again.into(), pipe),
        }
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
    use std::fs;
    use std::io::{Read, Write};

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
    fn a_file_as_input_is_copied_and_never_handed_over() {
        // A runtime gave the client's file to the container's user, who then wrote to it.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        let text = "line\n".repeat(50_000);
        file.write_all(text.as_bytes()).expect("write");
        let names = Names { stdin: file.path().display().to_string(), ..Names::default() };
        let read = tokio::task::LocalSet::new().block_on(runtime.as_ref().expect("one"), async {
            let (io, attached) =
                open(&names, Owner { namespace: "n", id: "i" }).await.expect("open");
            let Io::Streams(streams) = io else { panic!("no terminal was asked for") };
            let stdin = OwnedFd::from(streams.stdin.expect("asked for"));
            let kind = File::from(stdin.try_clone().expect("dup")).metadata().expect("fstat");
            assert!(kind.file_type().is_fifo(), "{kind:?}");
            attached.begin_input().expect("begin");
            let reader = tokio::task::spawn_blocking(move || {
                let mut text = String::new();
                File::from(stdin).read_to_string(&mut text).expect("read");
                text
            });
            reader.await.expect("read")
        });
        assert!(read == text);
    }

    #[test]
    fn a_device_as_input_is_passed_and_a_directory_refused() {
        let null = Input::open(Path::new("/dev/null")).expect("a device");
        assert!(matches!(null, Input::Device(_)));
        let folder = tempfile::tempdir().expect("temporary folder");
        let refused = Input::open(folder.path()).expect_err("a directory");
        assert_eq!(refused.kind(), crate::Kind::InvalidArgument);
    }

    #[test]
    fn what_a_runtime_says_while_it_fails_is_not_the_containers_output() {
        assert_eq!(arrived(false), "");
        assert_eq!(arrived(true), "words");
    }
}
