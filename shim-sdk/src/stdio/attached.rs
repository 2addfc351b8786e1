//! The SDK's ends of a process's streams, and the copying between them.
//!
//! Promise: the SDK holds a writer of the input fifo until the client closes the input. Output ends
//! when every process that could write has closed it, or some time after the process has exited.
//! Not here: opening (`open`), when output is done (`output`), the logger's life (`logger`), how a
//! runtime hands over a terminal (`console`).
//! See fifo(7), pipe(7).

use std::cell::{Cell, RefCell};
use std::fs::{File, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::Interest;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::console::Console;
use super::copy::{self, Polled, Sink, register};
use super::logger::Logger;
use super::output::{CopyProgress, OutputCopy, OutputTarget};
use crate::{Error, Result};

/// How long output is held back while a process is being made. It is bounded, because a runtime
/// that writes more than a pipe holds would block.
const HOLD: Duration = Duration::from_secs(5);

/// The SDK's ends.
#[derive(Debug)]
pub(crate) struct Attached {
    /// Closed once the process is made, which ends every wait for it. Earlier output is the
    /// runtime's own (runc repeats its error there) and does not go to the client: if making the
    /// process fails, the client gets an error instead.
    made: Rc<Semaphore>,
    /// Copies that end when the process's output does.
    outputs: RefCell<Vec<OutputCopy>>,
    /// The source of input, for the start of the process, and its target: a pipe, or the terminal.
    pub(super) awaited_input: RefCell<Option<(InputSource, Option<Polled>)>>,
    /// The copy to the process's input.
    input: RefCell<Option<JoinHandle<()>>>,
    /// Whether the client has said that it will write no more.
    input_closed: Cell<bool>,
    /// Keeps the input fifo from ending between two clients.
    input_writer: RefCell<Option<OwnedFd>>,
    pub(super) logger: RefCell<Option<Logger>>,
    pub(super) console: Option<Console>,
    /// Whether the process has exited: only then is a terminal without an open end at its end.
    pub(super) exited: Rc<Cell<bool>>,
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
pub(super) enum InputSource {
    /// A fifo that is opened when the process starts.
    Fifo(PathBuf),
    /// A file, read from where it is.
    File(File),
    /// A terminal or the null device.
    Device(OwnedFd),
}

impl Attached {
    /// The process is made. Lets output through, and waits for the terminal if there is one.
    pub(crate) async fn ready(&self) -> Result<()> {
        self.made.close();
        match &self.console {
            Some(console) => console.ready().await,
            None => Ok(()),
        }
    }

    /// Opens an input fifo and starts copying. To be called when the process is about to start, not
    /// earlier: a client whose input ends at once sends CloseIO, and some clients (ctr among them)
    /// can send it only after the answer to Create.
    pub(crate) fn begin_input(&self) -> Result<()> {
        let Some((source, pipe)) = self.awaited_input.borrow_mut().take() else { return Ok(()) };
        let path = match source {
            InputSource::Fifo(path) => path,
            InputSource::File(file) => return self.begin_file(file, pipe),
            InputSource::Device(device) => return self.begin_device(device, pipe),
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
                    // The process may stop reading at any time; that is no error.
                    let _ = copy::copy(&reader, &pipe).await;
                };
                *self.input.borrow_mut() = Some(tokio::task::spawn_local(task));
            }
            (None, Some(console)) => console.begin_input(reader),
            (None, None) => {}
        }
        Ok(())
    }

    /// Starts copying from a file to the process's pipe, or through a new pipe to the terminal.
    fn begin_file(&self, file: File, pipe: Option<Polled>) -> Result<()> {
        let pipe = match (pipe, &self.console) {
            (Some(pipe), _) => pipe,
            (None, Some(console)) => {
                let (read, write) = copy::pipe()?;
                console.begin_input(register(read, Interest::READABLE)?);
                register(write, Interest::WRITABLE)?
            }
            (None, None) => return Ok(()),
        };
        // The process may stop reading at any time; that is no error.
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

    /// The client will write no more. What it wrote is still read. May be called again.
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

    /// Waits until all output has arrived, at most for the limit; then closes everything.
    pub(crate) async fn drain(&self, limit: Duration) {
        self.process_exited();
        let mut outputs = std::mem::take(&mut *self.outputs.borrow_mut());
        outputs.extend(self.console.as_ref().and_then(Console::take_output));
        let logger = self.logger.borrow_mut().take();
        // One after the other takes no longer than all at once: they share one deadline.
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

    pub(super) fn copy_output(&self, read: OwnedFd, target: OutputTarget) -> Result<()> {
        let read = register(read, Interest::READABLE)?;
        let made = Rc::clone(&self.made);
        let progress = CopyProgress::new();
        let told = progress.clone();
        let task = async move {
            // Before there is anything to copy: the client's open(2) waits for this one. If it
            // still waited when a short process ends, the client would have nothing to read from.
            let opened = target.open(&told).await;
            // Ends when the semaphore is closed or the time is over; both are errors, and expected.
            let _ = tokio::time::timeout(HOLD, made.acquire()).await;
            let copied = match opened {
                Ok(open) => {
                    let copied = copy::copy(&read, &open.sink).await;
                    // The client sees the end when the fifo is closed.
                    open.close(&told).await;
                    copied.map_err(|cause| Error::io("copy output", cause))
                }
                Err(error) => Err(error),
            };
            if let Err(error) = copied {
                log::warn!("{}", error.report());
                // A full disk must not stop the process: its output is discarded.
                let _ = copy::discard(&read).await;
            }
        };
        let task = tokio::task::spawn_local(task);
        self.outputs.borrow_mut().push(OutputCopy { task, progress });
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::{Read, Write};
    use std::os::unix::fs::FileTypeExt;

    use super::*;
    use crate::stdio::{Io, Owner, Stdio, open};

    /// Opens streams to a file, writes to them, makes the process or not, and returns what is in
    /// the file after a time. The clock is paused, and advances by itself when all tasks wait.
    fn arrived(made: bool, after: Duration) -> String {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .expect("a runtime");
        let file = tempfile::NamedTempFile::new().expect("a file");
        let stdio = Stdio { stdout: file.path().display().to_string(), ..Stdio::default() };
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let owner = Owner { namespace: "n", id: "i" };
            let (io, attached) = open(&stdio, owner).await.expect("open");
            let Io::Streams(streams) = io else { panic!("no terminal was asked for") };
            let mut stdout = File::from(OwnedFd::from(streams.stdout.expect("asked for")));
            stdout.write_all(b"words").expect("write");
            drop(stdout);
            // In steps, so that tasks that are ready run in between.
            for _ in 0..20 {
                tokio::time::sleep(after / 20).await;
            }
            if made {
                assert_eq!(fs::read_to_string(file.path()).expect("read"), "");
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
        let stdio = Stdio { stdin: file.path().display().to_string(), ..Stdio::default() };
        let read = tokio::task::LocalSet::new().block_on(runtime.as_ref().expect("one"), async {
            let (io, attached) =
                open(&stdio, Owner { namespace: "n", id: "i" }).await.expect("open");
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
    fn what_a_runtime_says_while_it_fails_is_not_the_containers_output() {
        assert_eq!(arrived(false, HOLD / 2), "");
        assert_eq!(arrived(true, HOLD / 2), "words");
    }

    #[test]
    fn output_is_not_held_back_for_longer_than_a_runtime_may_take() {
        assert_eq!(arrived(false, 2 * HOLD), "words");
    }
}
