//! The server: one thread that owns every container of the shim until the last one is gone.

use std::rc::Rc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::task::LocalSet;

use super::args::Args;
use super::endpoint::Endpoint;
use super::signals;
use crate::event::EventQueue;
use crate::process::shim::{Job, ShimState};
use crate::wire::{publish, server};
use crate::{Error, Result, Runtime, reaper, stdio};

/// How long a server without a container waits for a request before it stops. A daemon sends Create at
/// once. If it was killed before that, it may find the server again when it is back, and never use it.
const IDLE_EXIT: Duration = Duration::from_secs(15);
/// How often a server in which no process runs checks that its bundle exists. Without a bundle no
/// Create can come, and no client asks for an exit.
const LOOK: Duration = Duration::from_secs(1);

/// How long the shim waits for loggers that were asked to end before.
const LAST_LOGGERS: Duration = Duration::from_secs(3);

/// How long the daemon may take to accept the last events.
const LAST_EVENTS: Duration = Duration::from_secs(5);

/// Serves until there is nothing left to do.
pub(crate) fn serve<R: Runtime>(args: &Args, make: impl FnOnce() -> Result<R>) -> Result<()> {
    // Before anything else opens a descriptor.
    let endpoint = Endpoint::take_over(args)?;
    // One thread. Threads for blocking calls are started when needed, and end soon afterwards.
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
        run(args, made, endpoint).await
    });
    // A call that still blocks, on storage that hangs, is not waited for.
    drop(local);
    runtime.shutdown_background();
    result
}

async fn run<R: Runtime>(args: &Args, runtime: R, mut endpoint: Endpoint) -> Result<()> {
    reaper::start()?;
    // Before the event loop makes other threads: it also raises this thread's priority.
    #[cfg(unix)]
    crate::spawn::start_thread()?;
    let events = EventQueue::default();
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
                // Enters the loop again: the next arm may apply from now on.
                () = owner.wait_for_container_end() => {}
                // A daemon that died after `start` has left a server that no client knows.
                () = tokio::time::sleep(LOOK), if owner.nothing_runs() => {
                    unused += LOOK;
                    if owner.bundles_are_gone() {
                        owner.delete_created_and_stop();
                    } else if unused >= IDLE_EXIT {
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
    signals::handle_signals(&shim)?;

    let listener = endpoint.listen().map_err(|cause| Error::io("serve", cause))?;
    let server = server::serve(listener, &jobs, capabilities);
    stop.notified().await;

    endpoint.remove_path();
    if tokio::time::timeout(LAST_EVENTS, events.drained()).await.is_err() {
        log::warn!("{} events could not be delivered", events.len());
    }
    // A task on this thread still has to write the answer to Shutdown.
    tokio::time::sleep(Duration::from_millis(2)).await;
    drop(server);
    stdio::end_loggers(LAST_LOGGERS).await;
    Ok(())
}
