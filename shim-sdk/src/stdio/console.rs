//! A terminal. The runtime sends its controlling side over a socket, as `runc --console-socket`
//! does.
//!
//! See the OCI runtime command line's description of terminals, pty(7), unix(7) SCM_RIGHTS.

use std::cell::{Cell, RefCell};
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use nix::sys::termios::{LocalFlags, SpecialCharacterIndices, tcgetattr};
use nix::unistd::mkdtemp;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::copy::{self, Polled, Sink};
use super::output::{CopyProgress, OutputCopy, OutputTarget};
use crate::sys;
use crate::{Error, Kind, Result};

/// How long a runtime may take to send the terminal.
const HAND_OVER: Duration = Duration::from_secs(30);

/// The time between two reads of a terminal that no process has open, while the process runs.
const REOPENED: Duration = Duration::from_millis(50);

/// A terminal, which may not have arrived yet.
#[derive(Debug)]
pub(super) struct Console(Rc<SharedConsole>);

#[derive(Debug)]
struct SharedConsole {
    /// Removed when the terminal has arrived.
    socket: RefCell<Option<SocketFile>>,
    socket_path: PathBuf,
    listener: RefCell<Option<UnixListener>>,
    state: RefCell<TerminalState>,
    changed: Notify,
    /// The size of a resize request before the terminal arrived.
    wanted: Cell<Option<(u16, u16)>>,
    tasks: RefCell<Vec<JoinHandle<()>>>,
    output: RefCell<Option<OutputCopy>>,
}

#[derive(Debug)]
enum TerminalState {
    Awaited,
    Here(Polled),
    Failed(String),
    Closed,
}

/// A socket in its own directory. Drop removes both.
#[derive(Debug)]
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Another process may have removed them already.
        let _ = fs::remove_file(&self.0);
        if let Some(directory) = self.0.parent() {
            let _ = fs::remove_dir(directory);
        }
    }
}

impl Console {
    /// Listens for a terminal.
    pub(super) fn listen() -> Result<Self> {
        // Not in the bundle: its path may be too long for a socket. The name is random, because
        // every user can make files in this directory.
        let template = std::env::temp_dir().join("pty-XXXXXX");
        let failed = |path: &Path| {
            let what = format!("make a console socket in {}", path.display());
            move |cause: io::Error| Error::io(what, cause)
        };
        let directory = mkdtemp(&template).map_err(|errno| failed(&template)(errno.into()))?;
        let attempt = failed(&directory);
        let socket = SocketFile(directory.join("s"));
        let listener = UnixListener::bind(&socket.0).map_err(attempt)?;
        Ok(Self(Rc::new(SharedConsole {
            socket_path: socket.0.clone(),
            socket: RefCell::new(Some(socket)),
            listener: RefCell::new(Some(listener)),
            state: RefCell::new(TerminalState::Awaited),
            changed: Notify::new(),
            wanted: Cell::new(None),
            tasks: RefCell::new(Vec::new()),
            output: RefCell::new(None),
        })))
    }

    pub(super) fn socket_path(&self) -> &Path {
        &self.0.socket_path
    }

    /// Starts to wait for the terminal. Its output is copied to the target.
    pub(super) fn accept(&self, target: Option<OutputTarget>, exited: Rc<Cell<bool>>) {
        let shared = Rc::clone(&self.0);
        let Some(listener) = shared.listener.borrow_mut().take() else { return };
        let task = tokio::task::spawn_local(async move {
            let arrived = tokio::time::timeout(HAND_OVER, receive(&listener)).await;
            drop(listener);
            shared.socket.borrow_mut().take();
            let arrived = match arrived {
                Ok(Ok(terminal)) => Ok(terminal),
                Ok(Err(cause)) => Err(format!("receive the terminal: {cause}")),
                Err(_) => Err(format!("no terminal within {HAND_OVER:?}")),
            };
            match arrived {
                Ok(terminal) => shared.arrived(terminal, target, exited),
                Err(reason) => *shared.state.borrow_mut() = TerminalState::Failed(reason),
            }
            shared.changed.notify_waiters();
        });
        self.0.tasks.borrow_mut().push(task);
    }

    /// Waits until the terminal has arrived.
    pub(super) async fn ready(&self) -> Result<()> {
        loop {
            let changed = self.0.changed.notified();
            match &*self.0.state.borrow() {
                TerminalState::Awaited => {}
                TerminalState::Here(_) => return Ok(()),
                TerminalState::Failed(reason) => {
                    return Err(Error::new(Kind::DeadlineExceeded, reason.clone()));
                }
                TerminalState::Closed => {
                    return Err(Error::new(Kind::Cancelled, "terminal closed"));
                }
            }
            changed.await;
        }
    }

    /// Copies an input to the terminal, now or when it arrives.
    pub(super) fn begin_input(&self, input: Polled) {
        let shared = Rc::clone(&self.0);
        let task = async move {
            let Some(terminal) = shared.terminal().await else { return };
            let copied = copy::copy(&input, &Sink::Polled(Rc::clone(&terminal))).await;
            if copied.is_ok() {
                end_of_input(&terminal).await;
            }
        };
        self.0.tasks.borrow_mut().push(tokio::task::spawn_local(task));
    }

    /// Changes the size, now or when the terminal arrives.
    pub(super) fn resize(&self, columns: u16, rows: u16) -> Result<()> {
        match &*self.0.state.borrow() {
            TerminalState::Here(terminal) => set_size(terminal, columns, rows),
            TerminalState::Awaited => {
                self.0.wanted.set(Some((columns, rows)));
                Ok(())
            }
            // The process ends, so the size does not matter.
            TerminalState::Failed(_) | TerminalState::Closed => Ok(()),
        }
    }

    /// The copy of the output, for the caller to wait for.
    pub(super) fn take_output(&self) -> Option<OutputCopy> {
        self.0.output.borrow_mut().take()
    }

    /// Closes the controlling side, which hangs the terminal up.
    pub(super) fn close(&self) {
        self.0.tasks.borrow_mut().drain(..).for_each(|task| task.abort());
        self.0.output.borrow_mut().take();
        *self.0.state.borrow_mut() = TerminalState::Closed;
        self.0.changed.notify_waiters();
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        self.close();
    }
}

impl SharedConsole {
    /// Waits for the terminal; `None` if it does not come.
    async fn terminal(&self) -> Option<Polled> {
        loop {
            let changed = self.changed.notified();
            match &*self.state.borrow() {
                TerminalState::Awaited => {}
                TerminalState::Here(terminal) => return Some(Rc::clone(terminal)),
                TerminalState::Failed(_) | TerminalState::Closed => return None,
            }
            changed.await;
        }
    }

    fn arrived(
        self: &Rc<Self>,
        terminal: OwnedFd,
        target: Option<OutputTarget>,
        exited: Rc<Cell<bool>>,
    ) {
        let polled = copy::polled(terminal, Interest::READABLE | Interest::WRITABLE);
        let terminal = match polled {
            Ok(terminal) => terminal,
            Err(cause) => {
                *self.state.borrow_mut() =
                    TerminalState::Failed(format!("poll the terminal: {cause}"));
                return;
            }
        };
        if let Some((columns, rows)) = self.wanted.take()
            && let Err(error) = set_size(&terminal, columns, rows)
        {
            log::warn!("{}", error.report());
        }
        let source = Rc::clone(&terminal);
        let progress = CopyProgress::new();
        let told = progress.clone();
        let task = tokio::task::spawn_local(async move {
            let open = match target {
                Some(target) => target.open(&told).await.map(Some),
                None => Ok(None),
            };
            let open = open.unwrap_or_else(|error| {
                log::warn!("{}", error.report());
                None
            });
            copy_output(&source, open.as_ref().map(|open| &open.sink), &exited).await;
            if let Some(open) = open {
                open.close(&told).await;
            }
        });
        *self.output.borrow_mut() = Some(OutputCopy { task, progress });
        *self.state.borrow_mut() = TerminalState::Here(terminal);
    }
}

/// Copies the terminal's output until the process has exited and no process has the terminal open.
async fn copy_output(source: &AsyncFd<OwnedFd>, sink: Option<&Sink>, exited: &Cell<bool>) {
    loop {
        let copied = match sink {
            Some(sink) => copy::copy(source, sink).await,
            None => copy::discard(source).await,
        };
        match copied {
            Ok(()) => return,
            // No process has the terminal open. The running process may open it again, as getty
            // does.
            Err(cause) if copy::is_hang_up(&cause) && !exited.get() => {
                tokio::time::sleep(REOPENED).await;
            }
            Err(cause) => {
                if !copy::is_hang_up(&cause) {
                    log::warn!("copy a terminal's output: {cause}");
                }
                return;
            }
        }
    }
}

/// Signals the end of input to the terminal's readers, by its EOF character. See termios(3) VEOF.
async fn end_of_input(terminal: &Rc<AsyncFd<OwnedFd>>) {
    let Ok(modes) = tcgetattr(terminal.get_ref()) else { return };
    if modes.local_flags.contains(LocalFlags::ICANON) {
        let end = modes.control_chars[SpecialCharacterIndices::VEOF as usize];
        // It fails if the terminal is hung up; then there is no reader.
        let _ = Sink::Polled(Rc::clone(terminal)).write_all(vec![end]).await;
    }
}

fn set_size(terminal: &AsyncFd<OwnedFd>, columns: u16, rows: u16) -> Result<()> {
    sys::set_window_size(terminal.get_ref().as_fd(), columns, rows)
        .map_err(|cause| Error::io(format!("resize the terminal to {columns}x{rows}"), cause))
}

/// Receives one descriptor from the first process that connects.
async fn receive(listener: &UnixListener) -> io::Result<OwnedFd> {
    let (stream, _) = listener.accept().await?;
    loop {
        stream.readable().await?;
        match stream.try_io(Interest::READABLE, || receive_descriptor(&stream)) {
            Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => {}
            other => return other,
        }
    }
}

fn receive_descriptor(stream: &UnixStream) -> io::Result<OwnedFd> {
    let mut name = [0; 4096];
    let mut parts = [io::IoSliceMut::new(&mut name)];
    let mut space = nix::cmsg_space!([std::os::fd::RawFd; 4]);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(stream.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
    let mut first = None;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(descriptors) = control {
            // Each one is owned, so that surplus ones are closed.
            for descriptor in descriptors.into_iter().map(sys::received) {
                first.get_or_insert(descriptor);
            }
        }
    }
    first.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no descriptor was sent"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Any user could make directories with the next names, and then no exec got its terminal.
    #[test]
    fn the_sockets_directory_has_a_random_name_and_no_access_for_others() {
        use std::os::unix::fs::PermissionsExt;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let _inside = runtime.as_ref().expect("a runtime").enter();
        let taken: Vec<_> = (0..64)
            .map(|number| format!("pty-{}-{number}", std::process::id()))
            .map(|name| std::env::temp_dir().join(name))
            .filter(|path| fs::create_dir(path).is_ok())
            .collect();
        let console = Console::listen();
        taken.iter().for_each(|path| fs::remove_dir(path).expect("remove what was made"));
        let console = console.expect("listen whatever names are taken");
        let directory = console.socket_path().parent().expect("has one");
        let mode = fs::metadata(directory).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }

    #[test]
    fn the_socket_and_its_directory_go_with_the_console() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let _inside = runtime.as_ref().expect("a runtime").enter();
        let console = Console::listen().expect("listen");
        let path = console.socket_path().to_owned();
        assert!(path.exists());
        drop(console);
        assert!(!path.parent().expect("has one").exists());
    }
}
