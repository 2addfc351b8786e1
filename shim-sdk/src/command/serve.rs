//! The server: one thread that owns every container of the shim, and stops after the last one.

use std::rc::Rc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::task::LocalSet;

use super::args::Args;
use super::endpoint::Endpoint;
use super::signals;
use crate::event::EventQueue;
use crate::notifier::Note;
use crate::process::shim::{Job, ShimState};
use crate::wire::{publish, server};
use crate::{Error, Result, Runtime, reaper, stdio};

/// How long a server without a container waits for a request before it stops. A daemon sends Create
/// at once. If it was killed before that, it may find the server again when it is back, and never
/// use it.
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
    let (notes, noted) = mpsc::unbounded_channel();
    let namespace = args.namespace.clone();
    let shim = ShimState::new(runtime, namespace.clone(), events.clone(), notes, Rc::clone(&stop));
    let shim = Rc::new(shim);
    let capabilities = shim.capabilities;

    let (jobs, asked) = mpsc::unbounded_channel::<Job<R>>();
    tokio::task::spawn_local(own(Rc::clone(&shim), asked, noted));
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

/// Owns the containers: runs each job that a connection sends, and stops the server when no client
/// can have a use for it any more.
async fn own<R: Runtime>(
    shim: Rc<ShimState<R>>,
    mut jobs: mpsc::UnboundedReceiver<Job<R>>,
    mut notes: mpsc::UnboundedReceiver<Note>,
) {
    let mut unused = Duration::ZERO;
    loop {
        tokio::select! {
            Some(job) = jobs.recv() => {
                unused = Duration::ZERO;
                job(&shim);
            }
            Some(note) = notes.recv() => shim.kill_container(&note),
            // Enters the loop again: the next arm may apply from now on.
            () = shim.wait_for_container_end() => {}
            // A daemon that died after `start` has left a server that no client knows.
            () = tokio::time::sleep(LOOK), if shim.nothing_runs() => {
                unused += LOOK;
                if shim.bundles_are_gone() {
                    shim.delete_created_and_stop();
                } else if unused >= IDLE_EXIT {
                    shim.shutdown();
                }
            }
            else => return,
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use tokio::time::{Instant, sleep};

    use super::*;
    use crate::{Bundle, Capabilities, ContainerId, Create, Created, Description, Exec, Io, Pid};

    /// A runtime without a container.
    struct Unused;

    impl Runtime for Unused {
        type Container = ();

        fn describe(&self) -> Description {
            let capabilities = Capabilities::default();
            Description { name: "unused", version: "", revision: "", capabilities, features: None }
        }

        async fn create(&self, _: Create, _: Io) -> Result<Created<()>> {
            Ok(Created { container: (), pid: None })
        }

        async fn start(&self, (): &()) -> Result<Pid> {
            Err(Error::unimplemented("start"))
        }

        async fn exec(&self, (): &(), _: Exec, _: Io) -> Result<Pid> {
            Err(Error::unimplemented("exec"))
        }

        async fn delete(&self, (): &()) -> Result<()> {
            Ok(())
        }

        async fn clean_up(&self, _: &ContainerId, _: &Bundle) -> Result<()> {
            Ok(())
        }
    }

    /// How long a server without a container runs, if a job comes after each of these times.
    async fn lifetime(jobs_after: &[Duration]) -> Duration {
        let stop = Rc::new(Notify::new());
        let (notes, noted) = mpsc::unbounded_channel();
        let (jobs, asked) = mpsc::unbounded_channel::<Job<Unused>>();
        let events = EventQueue::default();
        let shim = ShimState::new(Unused, "n".to_owned(), events, notes, Rc::clone(&stop));
        let begin = Instant::now();
        LocalSet::new()
            .run_until(async {
                tokio::task::spawn_local(own(Rc::new(shim), asked, noted));
                for &after in jobs_after {
                    sleep(after).await;
                    jobs.send(Box::new(|_| ())).unwrap_or_else(|_| panic!("it has ended"));
                }
                stop.notified().await;
            })
            .await;
        begin.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_without_a_container_stops_after_a_while() {
        let lived = lifetime(&[]).await;
        assert!((IDLE_EXIT..IDLE_EXIT + 2 * LOOK).contains(&lived), "{lived:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_keeps_a_server_without_a_container() {
        let just_before = IDLE_EXIT - LOOK / 2;
        let lived = lifetime(&[just_before, just_before]).await;
        let last = 2 * just_before + IDLE_EXIT;
        assert!((last..last + 2 * LOOK).contains(&lived), "{lived:?}");
    }
}
