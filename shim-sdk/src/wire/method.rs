//! One call of a service, from bytes to bytes, by way of the shim.
//!
//! The table of methods is built here rather than by the generated code, whose defaults answer
//! NOT_FOUND for what is not offered, which daemons take for "already gone". What is not in the
//! table answers UNIMPLEMENTED.
//!
//! # Cancel safety
//!
//! A handler may be dropped at its deadline or when its client goes. It only sends a job to the
//! shim and waits for the answer, so being dropped loses the answer and nothing else.

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

/// The way to the shim.
pub(crate) type Jobs<R> = mpsc::UnboundedSender<Job<R>>;

/// A call that only looks: answered at once, whatever else is under way.
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
            // A handler that is gone needs no answer.
            let _ = reply.send(look(shim, request));
        }));
        async move {
            sent.map_err(|_| leaving())?;
            answer.await.map_err(|_| leaving())?
        }
    })
}

/// A call that does something: a task of its own, which goes on without the handler.
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
        // A handler that is gone needs no answer.
        let _ = reply.send(job.await);
    })
}

/// A call that waits and changes nothing: given up with the handler, so that clients who come,
/// wait and go leave nothing behind.
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
            // Boxed: a call is several kilobytes, and each move of it would take as much stack,
            // which stays with the process.
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

/// Decodes a request, has it answered, encodes the answer.
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

/// An answer as the server sends it.
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
