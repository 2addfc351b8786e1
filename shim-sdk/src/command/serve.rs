//! The server: one thread that owns every container of the shim until the last one is gone.

use std::fs;
use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use nix::sys::stat::{Mode, umask};
use tokio::io::Interest;
use tokio::net::UnixListener;
use tokio::sync::{Notify, mpsc};
use tokio::task::LocalSet;

use super::args::Args;
use crate::event::Queue;
use crate::process::core::{Core, Job};
use crate::wire::{publish, server};
use crate::{Error, Result, Runtime, address, log_fifo, reaper, stdio, sys};

/// The file in the bundle that names the socket; containerd's own shims look there too.
pub(crate) const ADDRESS_FILE: &str = "address";

/// Tells the server its socket's path.
pub(crate) const SOCKET_ENV: &str = "SHIM_SOCKET";

/// How long a server without a container waits for a request before it leaves.
const FORGOTTEN: Duration = Duration::from_secs(300);
/// How often such a server looks whether its bundle is still there. Without it no Create can come.
const LOOK: Duration = Duration::from_secs(1);

/// How long loggers may take that had their output's end, and were asked, before.
const LAST_LOGGERS: Duration = Duration::from_secs(3);

/// How long the daemon may take over the last events.
const LAST_EVENTS: Duration = Duration::from_secs(5);

/// Serves until there is nothing left to do.
pub(crate) fn serve<R: Runtime>(args: &Args, make: impl FnOnce() -> Result<R>) -> Result<()> {
    // Before anything else opens a descriptor.
    sys::close_inherited();
    let listener = sys::take_listener()
        .map_err(|cause| Error::io("take over the listener, descriptor 3", cause))?;
    sys::one_malloc_arena();
    // Whoever started us may have had a narrower one; directories and sockets set their own modes.
    umask(Mode::from_bits_truncate(0o022));
    let socket = std::env::var_os(SOCKET_ENV).map(PathBuf::from);
    log_fifo::install(Path::new("log"), args.debug);
    super::placement::adjust_oom_score();
    if let Some(socket) = &socket
        && let Err(cause) = fs::write(ADDRESS_FILE, address::unix(socket))
    {
        log::warn!("write {ADDRESS_FILE}: {cause}");
    }
    // One thread; a second one for what may block comes when it is needed, and goes.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(4)
        .thread_keep_alive(Duration::from_millis(200))
        .thread_stack_size(256 << 10)
        .build()
        .map_err(|cause| Error::io("start the event loop", cause))?;
    let local = LocalSet::new();
    let result = local.block_on(&runtime, async {
        let made = make()?;
        run(args, made, listener, socket).await
    });
    // What still blocks, on storage that hangs, is not waited for.
    drop(local);
    runtime.shutdown_background();
    result
}

async fn run<R: Runtime>(
    args: &Args,
    runtime: R,
    listener: std::os::unix::net::UnixListener,
    socket: Option<PathBuf>,
) -> Result<()> {
    let attempt = |cause| Error::io("serve", cause);
    reaper::start()?;
    let events = Queue::default();
    let stop = Rc::new(Notify::new());
    let (notes, mut noted) = mpsc::unbounded_channel();
    let namespace = args.namespace.clone();
    let core = Core::new(runtime, namespace.clone(), events.clone(), notes, Rc::clone(&stop));
    let core = Rc::new(core);
    let capabilities = core.capabilities;

    let (jobs, mut asked) = mpsc::unbounded_channel::<Job<R>>();
    let owner = Rc::clone(&core);
    tokio::task::spawn_local(async move {
        let mut unused = Duration::ZERO;
        loop {
            tokio::select! {
                Some(job) = asked.recv() => {
                    unused = Duration::ZERO;
                    job(&owner);
                }
                Some(note) = noted.recv() => owner.fatal(&note),
                // A daemon that died after `start` has left a server that nobody knows of.
                () = tokio::time::sleep(LOOK), if owner.is_empty() => {
                    unused += LOOK;
                    if unused >= FORGOTTEN || std::env::current_dir().is_err() {
                        owner.shutdown();
                    }
                }
                else => return,
            }
        }
    });
    let tidied = Rc::clone(&core);
    tokio::task::spawn_local(async move { tidied.tidy().await });
    let events_address = std::env::var("TTRPC_ADDRESS").unwrap_or_default();
    tokio::task::spawn_local(publish::publish(events.clone(), namespace, events_address));
    on_signals(&[libc::SIGUSR1], {
        let core = Rc::clone(&core);
        move || core.dump()
    })?;
    on_signals(&[libc::SIGTERM, libc::SIGINT], {
        let core = Rc::clone(&core);
        move || core.leave()
    })?;

    listener.set_nonblocking(true).map_err(attempt)?;
    let listener = UnixListener::from_std(listener).map_err(attempt)?;
    let mut server = server::serve(listener, &jobs, capabilities).await?;
    stop.notified().await;

    // The name goes before the listener: a refused connection must mean that nobody is there.
    if let Some(socket) = socket
        && let Err(cause) = fs::remove_file(&socket)
    {
        log::debug!("remove {}: {cause}", socket.display());
    }
    if tokio::time::timeout(LAST_EVENTS, events.drained()).await.is_err() {
        log::warn!("{} events could not be delivered", events.len());
    }
    // The answer to Shutdown is on its way out: written by a task of this same thread.
    tokio::time::sleep(Duration::from_millis(2)).await;
    server.stop_listen().await;
    stdio::end_loggers(LAST_LOGGERS).await;
    Ok(())
}

/// Calls back for each of some signals.
fn on_signals(signals: &[i32], mut call: impl FnMut() + 'static) -> Result<()> {
    let attempt = |cause: io::Error| Error::io("watch for signals", cause);
    let (mut reader, writer) = UnixStream::pair().map_err(attempt)?;
    reader.set_nonblocking(true).map_err(attempt)?;
    for &signal in signals {
        let writer = writer.try_clone().map_err(attempt)?;
        signal_hook::low_level::pipe::register(signal, writer).map_err(attempt)?;
    }
    let arrived = reader.try_clone().map_err(attempt)?;
    let arrived = sys::async_fd(arrived.into(), Interest::READABLE).map_err(attempt)?;
    tokio::task::spawn_local(async move {
        let mut drained = [0; 16];
        while let Ok(mut ready) = arrived.readable().await {
            ready.clear_ready();
            if reader.read(&mut drained).is_ok_and(|read| read > 0) {
                call();
            }
        }
    });
    Ok(())
}
