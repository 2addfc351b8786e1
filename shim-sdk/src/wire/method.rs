//! The handler of one call: decodes the request, sends a job to the shim, encodes the answer.
//!
//! The table of methods is built here, not by the generated code: that answers NOT_FOUND for a
//! missing method, which a daemon understands as "the task does not exist". A method that is not in
//! this table is answered UNIMPLEMENTED.
//!
//! # Cancel safety
//!
//! A handler may be dropped at its deadline, or when its client disconnects. It only sends a job to
//! the shim and waits for the answer, so only the answer is lost.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;

use protos::ttrpc::protobuf::Message;
use protos::ttrpc::ttrpc::{Code, Response, get_status};
use tokio::sync::{mpsc, oneshot};

use crate::process::shim::{Job, ShimState};
use crate::wire::connection::Handler;
use crate::wire::status::to_wire;
use crate::{Error, Kind, Result, Runtime};

/// The channel to the task that owns the shim's state.
pub(crate) type Jobs<R> = mpsc::UnboundedSender<Job<R>>;

/// A call that only reads the state. It is answered at once, also while other calls are in
/// progress.
pub(crate) fn look<R, I, O>(
    jobs: &Jobs<R>,
    look: impl Fn(&ShimState<R>, I) -> Result<O> + Copy + Send + Sync + 'static,
) -> Handler
where
    R: Runtime,
    I: Message,
    O: Message,
{
    let jobs = jobs.clone();
    boxed(move |request: I| {
        let (reply, answer) = oneshot::channel();
        let sent = jobs.send(Box::new(move |shim| {
            // It fails if the handler was dropped.
            let _ = reply.send(look(shim, request));
        }));
        async move {
            sent.map_err(|_| leaving())?;
            answer.await.map_err(|_| leaving())?
        }
    })
}

/// A call that changes something. It runs as its own task, which continues without the handler.
pub(crate) fn act<R, I, O, F>(
    jobs: &Jobs<R>,
    act: impl Fn(Rc<ShimState<R>>, I) -> F + Copy + Send + Sync + 'static,
) -> Handler
where
    R: Runtime,
    I: Message,
    O: Message,
    F: Future<Output = Result<O>> + 'static,
{
    spawned(jobs, act, |job, reply| async move {
        // It fails if the handler was dropped.
        let _ = reply.send(job.await);
    })
}

/// A call that waits and changes nothing. It is dropped with its handler, so a client that
/// disconnects leaves no task.
pub(crate) fn watch<R, I, O, F>(
    jobs: &Jobs<R>,
    act: impl Fn(Rc<ShimState<R>>, I) -> F + Copy + Send + Sync + 'static,
) -> Handler
where
    R: Runtime,
    I: Message,
    O: Message,
    F: Future<Output = Result<O>> + 'static,
{
    spawned(jobs, act, |job, mut reply| async move {
        tokio::select! {
            answer = job => drop(reply.send(answer)),
            () = reply.closed() => {}
        }
    })
}

fn spawned<R, I, O, F, D>(
    jobs: &Jobs<R>,
    act: impl Fn(Rc<ShimState<R>>, I) -> F + Copy + Send + Sync + 'static,
    drive: impl Fn(Pin<Box<F>>, oneshot::Sender<Result<O>>) -> D + Copy + Send + Sync + 'static,
) -> Handler
where
    R: Runtime,
    I: Message,
    O: Message,
    F: Future<Output = Result<O>> + 'static,
    D: Future<Output = ()> + 'static,
{
    let jobs = jobs.clone();
    boxed(move |request: I| {
        let (reply, answer) = oneshot::channel();
        let sent = jobs.send(Box::new(move |shim| {
            // Boxed: a call has several kilobytes, and each move of it needs as much stack. The
            // process never gives stack pages back to the kernel.
            let job = Box::pin(act(Rc::clone(shim), request));
            tokio::task::spawn_local(drive(job, reply));
        }));
        async move {
            sent.map_err(|_| leaving())?;
            answer.await.map_err(|_| leaving())?
        }
    })
}

fn leaving() -> Error {
    Error::new(Kind::Unavailable, "the shim is shutting down")
}

/// Decodes a request, gets its answer, encodes that.
fn boxed<I, O, F>(answer: impl Fn(I) -> F + Send + Sync + 'static) -> Handler
where
    I: Message,
    O: Message,
    F: Future<Output = Result<O>> + Send + 'static,
{
    Box::new(move |payload| {
        let answer = I::parse_from_bytes(payload)
            .map(&answer)
            .map_err(|cause| Error::invalid("decode the request").with_source(cause));
        Box::pin(async move {
            response(match answer {
                Ok(answer) => answer.await,
                Err(error) => Err(error),
            })
        })
    })
}

/// The response message for an answer.
fn response<O: Message>(answer: Result<O>) -> Response {
    let encoded = answer.and_then(|answer| {
        let encoded = answer.write_to_bytes();
        encoded.map_err(|cause| Error::new(Kind::Internal, "encode the answer").with_source(cause))
    });
    let mut response = Response::new();
    match encoded {
        Ok(payload) => {
            response.set_status(get_status(Code::OK, ""));
            response.payload = payload;
        }
        Err(error) => {
            log::debug!("answered with {error:?}");
            response.set_status(to_wire(&error));
        }
    }
    response
}
