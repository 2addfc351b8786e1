//! `supervisor serve`: claims the root, opens the domain, adopts the shims, answers clients.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::net::UnixListener;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;

use super::autostart::{READY, log_path};
use super::detach::detach;
use super::listener::{IdleExit, Listener, bind_private};
use super::lock::Lock;
use super::log::own as own_log;
use super::root::{self, RootLock};
use super::{Mode, maintenance, sys};
use crate::api;
use crate::config::DaemonConfig;
use crate::domain::Domain;
use crate::error::DaemonError;
use crate::task;

/// How much of a stream a client may send ahead: an image comes in one, and every pause for an
/// acknowledgement costs two switches of context.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;

/// How long calls in progress may take when the daemon stops.
const GRACE: Duration = Duration::from_secs(3);

/// Serves a root until a signal stops it, or until no client needs it.
pub(crate) fn serve(config: DaemonConfig, mode: Mode) -> Result<(), DaemonError> {
    if !nix::unistd::geteuid().is_root() {
        return Err(DaemonError::NotRoot { what: "supervisor serve" });
    }
    let inherited = sys::inherited_listener()
        .map_err(|cause| DaemonError::System { what: "take over the socket", cause })?;
    detach(mode);
    if mode == Mode::OnDemand {
        own_log(&log_path(&config));
    }
    let lock = match root::lock_root(&config, mode)? {
        RootLock::Ours(lock) => lock,
        RootLock::Answered => return announce(mode),
    };
    root::check_mount_namespace(&config)?;
    let served = loop {
        // One runtime a turn: what watched the shims of the last turn ends with it.
        match turn(&config, mode, inherited.as_ref()) {
            Ok(End::Again) => log::info!("opening {} anew", config.root.display()),
            Ok(End::Left(start_lock)) => break Ok(start_lock),
            Err(error) => break Err(error),
        }
    };
    // The order matters: a client that waits for the start lock must find the root free.
    drop(lock);
    served.map(drop)
}

/// Why a turn of serving ended.
enum End {
    /// The daemon leaves, with the start lock if it had time to take it.
    Left(Option<Lock>),
    /// The root has another database.
    Again,
}

/// Serves until the daemon leaves or the root is to be opened anew.
fn turn(
    config: &DaemonConfig,
    mode: Mode,
    inherited: Option<&UnixListener>,
) -> Result<End, DaemonError> {
    let own = inherited
        .map(UnixListener::try_clone)
        .transpose()
        .map_err(|cause| DaemonError::System { what: "keep the socket for another turn", cause })?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|cause| DaemonError::System { what: "start the runtime", cause })?;
    let served = runtime.block_on(run(config.clone(), mode, own));
    // A blocking call that hangs must not keep the daemon; what it was doing is journaled.
    runtime.shutdown_timeout(GRACE);
    served
}

async fn run(
    config: DaemonConfig,
    mode: Mode,
    inherited: Option<UnixListener>,
) -> Result<End, DaemonError> {
    let failed = |what| move |cause| DaemonError::System { what, cause };
    let mut terminate = signal(SignalKind::terminate()).map_err(failed("watch for SIGTERM"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed("watch for SIGINT"))?;

    // A limit on files that a first client has set and that cannot be raised makes large ones fail,
    // and not this process. As a handler, not ignored: children inherit what is ignored.
    let _too_large =
        signal(SignalKind::from_raw(libc::SIGXFSZ)).map_err(failed("watch for SIGXFSZ"))?;

    let domain = Domain::open(&config)?;
    // Once more, for what was made only now.
    root::mend_modes(&config)?;
    // Shims find the new daemon before clients do, so that no event of theirs is late.
    let address = config.event_address();
    let events_listener = bind_private(&address).map_err(|cause| DaemonError::File {
        what: "listen for events on",
        path: address.clone(),
        cause,
    })?;
    let events = task::listen(events_listener, &address, domain.tasks.clone())?;
    // Where the records cannot be used, nothing is swept that they could tell of.
    domain.tasks.recover(domain.unusable.is_none()).await;

    let clients_listener = match inherited {
        Some(listener) => Listener::inherit(listener),
        None => Listener::bind(&config.address),
    }
    .map_err(|cause| DaemonError::File {
        what: "listen on",
        path: config.address.clone(),
        cause,
    })?;
    let idle_exit = (mode == Mode::OnDemand).then(|| IdleExit {
        after: config.idle_timeout,
        start_lock: config.state.join("start.lock"),
    });
    let (incoming, clients) = mpsc::channel(16);
    let (stop, stopped) = watch::channel(false);
    let accepting = tokio::spawn(clients_listener.accept(idle_exit, incoming, stopped.clone()));
    let mut finished = stopped;
    let server = Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(2 * STREAM_WINDOW_BYTES)
        .layer(tower::util::MapResponseLayer::new(api::status::shorten))
        .layer(api::database_guard::DatabaseGuard::new(domain.refusal()))
        .add_routes(api::routes(&domain))
        .serve_with_incoming_shutdown(ReceiverStream::new(clients), async move {
            let _ = finished.wait_for(|stop| *stop).await;
        });
    let maintenance = tokio::spawn(maintenance::run(domain.clone()));
    announce(mode)?;
    log::info!("serving {} on {}", config.root.display(), config.address.display());

    tokio::pin!(server);
    let mut again = false;
    let served = tokio::select! {
        served = &mut server => served,
        (name, rebuilt) = async {
            tokio::select! {
                _ = terminate.recv() => ("SIGTERM", false),
                _ = interrupt.recv() => ("SIGINT", false),
                () = domain.reopen.notified() => ("the database was rebuilt", true),
            }
        } => {
            log::info!("{name}: stopping");
            again = rebuilt;
            if !again {
                notify("STOPPING=1");
            }
            stop.send_replace(true);
            domain.events.close();
            domain.tasks.stop();
            tokio::time::timeout(GRACE, &mut server).await.unwrap_or(Ok(()))
        }
    };
    stop.send_replace(true);
    let lock = accepting.await.unwrap_or_default();
    drop(events);
    // Shims that have events to send then see at once that the socket is closed.
    let _ = std::fs::remove_file(&address);
    maintenance.abort();
    let left = domain.clone();
    if let Err(error) = tokio::task::spawn_blocking(move || left.leave()).await {
        log::error!("leave the root: {error}");
    }
    let served =
        served.map_err(|cause| DaemonError::Serve { address: config.address.clone(), cause });
    log::info!("leaving {}", config.root.display());
    served.map(|()| if again { End::Again } else { End::Left(lock) })
}

/// Tells the process that started this daemon that its socket answers; closes a client's pipe.
fn announce(mode: Mode) -> Result<(), DaemonError> {
    if mode != Mode::OnDemand {
        notify("READY=1");
        return Ok(());
    }
    let told = || -> io::Result<()> {
        let mut stdout = io::stdout();
        // A client that is gone by now (EPIPE) does not need to know.
        let _ = stdout.write_all(READY).and_then(|()| stdout.flush());
        let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
        nix::unistd::dup2_stdout(&null)?;
        Ok(())
    };
    told().map_err(|cause| DaemonError::System { what: "let go of standard output", cause })
}

/// Tells a service manager how far this daemon is, if there is one. See sd_notify(3).
fn notify(state: &str) {
    use std::os::linux::net::SocketAddrExt as _;
    use std::os::unix::ffi::OsStrExt as _;
    use std::os::unix::net::{SocketAddr, UnixDatagram};
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let address = match path.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        _ => SocketAddr::from_pathname(&path),
    };
    let told = address
        .and_then(|address| UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address));
    if let Err(error) = told {
        log::warn!("tell the service manager {state}: {error}");
    }
}
