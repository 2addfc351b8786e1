//! The socket that clients come through: bound, counted, and closed without losing one.
//!
//! ```text
//!          client            quiet for the idle time
//!   open ────────► open ──────────────────────────────► leaving: the socket has another name,
//!    ▲                                                     │     the backlog is still answered
//!    └──────────── a connection after all ─────────────────┤
//!                                                          └─► closed
//! ```
//!
//! While leaving the daemon holds the start lock, so that a client that finds no socket waits
//! until the root is free instead of starting a daemon that is refused.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};
use tonic::transport::server::Connected;

use super::authority::Authority;
use super::lock::{self, Attempt, Lock};

/// How long the backlog is watched after the socket's name has gone.
const DRAIN: Duration = Duration::from_millis(30);

/// Root, and the group that an administrator gives a socket to, whatever the umask.
const SOCKET_MODE: u32 = 0o660;

/// Where clients come in.
pub(super) struct Listener {
    listener: UnixListener,
    /// The socket's path; `None` when it is the service manager's.
    address: Option<PathBuf>,
    clients: Arc<watch::Sender<usize>>,
}

/// When to leave for want of clients.
pub(super) struct IdleExit {
    pub(super) after: Duration,
    pub(super) start_lock: PathBuf,
}

/// A client's connection, which counts as long as it lives.
pub(super) struct Client {
    stream: UnixStream,
    authority: Authority,
    clients: Arc<watch::Sender<usize>>,
}

impl Listener {
    /// Binds the socket. From its first moment only root and its group can use it.
    ///
    /// The caller holds the root's lock, so whatever has the name already is stale.
    pub(super) fn bind(address: &Path) -> io::Result<Self> {
        Ok(Self {
            listener: UnixListener::from_std(bind_private(address)?)?,
            address: Some(address.to_owned()),
            clients: Arc::new(watch::Sender::new(0)),
        })
    }

    /// Takes over a socket from a service manager.
    pub(super) fn inherit(listener: StdListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self {
            listener: UnixListener::from_std(listener)?,
            address: None,
            clients: Arc::new(watch::Sender::new(0)),
        })
    }

    /// Accepts clients until it must stop or, with `idle_exit`, until none has come for a while.
    ///
    /// The lock that is returned belongs to a daemon that is leaving; keep it until the root is
    /// free.
    pub(super) async fn accept(
        self,
        idle_exit: Option<IdleExit>,
        incoming: mpsc::Sender<io::Result<Client>>,
        mut stop: watch::Receiver<bool>,
    ) -> Option<Lock> {
        let lock = loop {
            let quiet = async {
                match &idle_exit {
                    Some(idle_exit) => self.quiet(idle_exit.after).await,
                    None => std::future::pending().await,
                }
            };
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = quiet => match self.close_gently(idle_exit.as_ref()).await {
                    Ok(lock) => break lock,
                    Err(Some(stream)) => Ok(stream),
                    Err(None) => continue,
                },
                () = stopped(&mut stop) => break None,
            };
            match accepted {
                Ok((stream, _)) => {
                    self.clients.send_modify(|clients| *clients += 1);
                    let (authority, clients) = (Authority::new(), self.clients.clone());
                    let client = Client { stream, authority, clients };
                    if incoming.send(Ok(client)).await.is_err() {
                        break None;
                    }
                }
                Err(error) => {
                    // Out of descriptors, most likely; trying again at once would only spin.
                    log::warn!("accept(): {error}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        };
        if let Some(address) = &self.address {
            // A name that has gone already, or was never taken, is as good.
            let _ = std::fs::remove_file(address);
            let _ = std::fs::remove_file(away(address));
        }
        lock
    }

    /// Ends when there has been no client for `after`.
    async fn quiet(&self, after: Duration) {
        let mut clients = self.clients.subscribe();
        loop {
            if clients.wait_for(|clients| *clients == 0).await.is_err() {
                return std::future::pending().await;
            }
            tokio::select! {
                () = tokio::time::sleep(after) => return,
                _ = clients.wait_for(|clients| *clients > 0) => {}
            }
        }
    }

    /// Hides the socket and waits for a client that had found it before; gives up leaving if one
    /// comes (`Err` with its connection) or a process is about to start a daemon (`Err(None)`).
    async fn close_gently(
        &self,
        idle_exit: Option<&IdleExit>,
    ) -> Result<Option<Lock>, Option<(UnixStream, tokio::net::unix::SocketAddr)>> {
        let (Some(idle_exit), Some(address)) = (idle_exit, &self.address) else { return Err(None) };
        let lock = match lock::attempt(&idle_exit.start_lock) {
            Ok(Attempt::Locked(lock)) => lock,
            // The state directory was removed: no client can find this daemon or wait for its lock.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Ok(Attempt::Held(_)) | Err(_) => {
                tokio::time::sleep(DRAIN).await;
                return Err(None);
            }
        };
        let hidden = away(address);
        if let Err(error) = std::fs::rename(address, &hidden) {
            log::warn!("rename({address:?}): {error}: leaving without the socket");
            return Ok(Some(lock));
        }
        match tokio::time::timeout(DRAIN, self.listener.accept()).await {
            Err(_) => Ok(Some(lock)),
            Ok(accepted) => {
                if let Err(error) = std::fs::rename(&hidden, address) {
                    log::error!(
                        "rename({hidden:?}): {error}: new clients will not find the socket"
                    );
                }
                Err(accepted.ok())
            }
        }
    }
}

/// Ends when it must stop, or when the sender of that message is gone.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// The socket's name while leaving.
fn away(address: &Path) -> PathBuf {
    let mut name = address.as_os_str().to_owned();
    name.push("~");
    name.into()
}

/// A listening socket with mode 0660 under `address`, whatever was there before.
pub(super) fn bind_private(address: &Path) -> io::Result<StdListener> {
    let new = away(address);
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = StdListener::bind(&new)?;
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(SOCKET_MODE))?;
    std::fs::rename(&new, address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

impl Drop for Client {
    fn drop(&mut self) {
        self.clients.send_modify(|clients| *clients -= 1);
    }
}

impl Connected for Client {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Client {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.authority.poll_read(Pin::new(&mut this.stream), context, buffer)
    }
}

impl AsyncWrite for Client {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Paths {
        _directory: tempfile::TempDir,
        address: PathBuf,
        start_lock: PathBuf,
    }

    fn paths() -> Paths {
        let directory = tempfile::tempdir().unwrap();
        let address = directory.path().join("socket");
        let start_lock = directory.path().join("start.lock");
        Paths { _directory: directory, address, start_lock }
    }

    #[tokio::test]
    async fn an_idle_door_closes_and_its_socket_is_gone() {
        let paths = paths();
        let listener = Listener::bind(&paths.address).unwrap();
        let (incoming, mut clients) = mpsc::channel(1);
        let (_stop, stopped) = watch::channel(false);
        let idle_exit =
            IdleExit { after: Duration::from_millis(40), start_lock: paths.start_lock.clone() };
        let closing = tokio::spawn(listener.accept(Some(idle_exit), incoming, stopped));
        let visitor = UnixStream::connect(&paths.address).await.unwrap();
        let client = clients.recv().await.unwrap().unwrap();
        tokio::time::sleep(Duration::from_millis(120)).await;
        assert!(paths.address.exists(), "a connected client keeps the daemon");
        drop((visitor, client));
        let lock = closing.await.unwrap();
        assert!(lock.is_some());
        assert!(!paths.address.exists());
        assert!(matches!(lock::attempt(&paths.start_lock).unwrap(), Attempt::Held(_)));
    }

    /// A daemon whose directories were removed never ended, and no client could reach it.
    #[tokio::test]
    async fn an_idle_door_closes_also_when_its_directory_was_removed() {
        let paths = paths();
        let listener = Listener::bind(&paths.address).unwrap();
        let (incoming, _clients) = mpsc::channel(1);
        let (_stop, stopped) = watch::channel(false);
        let idle_exit =
            IdleExit { after: Duration::from_millis(1), start_lock: paths.start_lock.clone() };
        drop(paths);
        let closing = listener.accept(Some(idle_exit), incoming, stopped);
        let lock = tokio::time::timeout(Duration::from_secs(10), closing).await.unwrap();
        assert!(lock.is_none());
    }

    #[tokio::test]
    async fn a_client_in_the_backlog_cancels_the_leaving() {
        let paths = paths();
        let listener = Listener::bind(&paths.address).unwrap();
        let idle_exit = IdleExit { after: Duration::ZERO, start_lock: paths.start_lock.clone() };
        let closing = listener.close_gently(Some(&idle_exit));
        let address = away(&paths.address);
        let late = async {
            while !address.exists() {
                tokio::task::yield_now().await;
            }
            UnixStream::connect(&address).await.unwrap()
        };
        let (closed, _late) = tokio::join!(closing, late);
        assert!(matches!(closed, Err(Some(_))));
        assert!(paths.address.exists());
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_by_one_that_only_root_can_use() {
        let paths = paths();
        drop(StdListener::bind(&paths.address).unwrap());
        let _door = Listener::bind(&paths.address).unwrap();
        let mode = std::fs::metadata(&paths.address).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, SOCKET_MODE);
        UnixStream::connect(&paths.address).await.unwrap();
    }
}
