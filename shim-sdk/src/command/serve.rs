//! The server: one thread that owns every container of the shim until the last one is gone.

use std::rc::Rc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::task::LocalSet;

use super::args::Args;
use super::host;
use crate::event::Queue;
use crate::process::shim::{Job, ShimState};
use crate::wire::{publish, server};
use crate::{Error, Result, Runtime, reaper, stdio};

/// The file in the bundle that names the socket; containerd's own shims look there too.
pub(crate) const ADDRESS_FILE: &str = "address";

/// Tells the server its socket's path.
pub(crate) const SOCKET_ENV: &str = "SHIM_SOCKET";

/// How long a server without a container waits for a request before it leaves. A daemon asks for a
/// Create at once; one that was killed before that may know the server again when it is back, and have
/// no use for it.
const FORGOTTEN: Duration = Duration::from_secs(15);
/// How often a server in which nothing runs looks whether its bundle is still there. Without it no
/// Create can come, and nobody asks for what has ended.
const LOOK: Duration = Duration::from_secs(1);

/// How long loggers may take that had their output's end, and were asked, before.
const LAST_LOGGERS: Duration = Duration::from_secs(3);

/// How long the daemon may take over the last events.
const LAST_EVENTS: Duration = Duration::from_secs(5);

/// Serves until there is nothing left to do.
pub(crate) fn serve<R: Runtime>(args: &Args, make: impl FnOnce() -> Result<R>) -> Result<()> {
    // Before anything else opens a descriptor.
    let place = host::take_place(args)?;
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
        run(args, made, place).await
    });
    // What still blocks, on storage that hangs, is not waited for.
    drop(local);
    runtime.shutdown_background();
    result
}

async fn run<R: Runtime>(args: &Args, runtime: R, mut place: host::Place) -> Result<()> {
    reaper::start()?;
    host::take_lead()?;
    let events = Queue::default();
    let stop = Rc::new(Notify::new());
    let (notes, mut noted) = mpsc::unbounded_channel();
    let namespace = args.namespace.clone();
    let shim = ShimState::new(runtime, namespace.clone(), events.clone(), notes, Rc::clone(&stop));
    let shim = Rc::new(shim);
    let capabilities = shim.capabilities;

    let (jobs, mut asked) = mpsc::unbounded_channel::<Job<R>>();
    let owner = Rc::clone(&shim);
    tokio::task::spawn_local(async move {
        let mut unused = Duration::ZERO;
        loop {
            tokio::select! {
                Some(job) = asked.recv() => {
                    unused = Duration::ZERO;
                    job(&owner);
                }
                Some(note) = noted.recv() => owner.kill_container(&note),
                // From now on it may have to look.
                () = owner.wait_for_container_end() => {}
                // A daemon that died after `start` has left a server that nobody knows of.
                () = tokio::time::sleep(LOOK), if owner.nothing_runs() => {
                    unused += LOOK;
                    if owner.bundles_are_gone() {
                        owner.delete_created_and_stop();
                    } else if unused >= FORGOTTEN {
                        owner.shutdown();
                    }
                }
                else => return,
            }
        }
    });
    let trimmed = Rc::clone(&shim);
    tokio::task::spawn_local(async move { trimmed.trim_heap_when_idle().await });
    let events_address = std::env::var("TTRPC_ADDRESS").unwrap_or_default();
    tokio::task::spawn_local(publish::publish(events.clone(), namespace, events_address));
    host::watch_signals(&shim)?;

    let listener = place.listen().map_err(|cause| Error::io("serve", cause))?;
    let server = server::serve(listener, &jobs, capabilities);
    stop.notified().await;

    place.give_up();
    if tokio::time::timeout(LAST_EVENTS, events.drained()).await.is_err() {
        log::warn!("{} events could not be delivered", events.len());
    }
    // The answer to Shutdown is on its way out: written by a task of this same thread.
    tokio::time::sleep(Duration::from_millis(2)).await;
    drop(server);
    stdio::end_loggers(LAST_LOGGERS).await;
    Ok(())
}
