//! A client's channel to its daemon, which outlives the daemon.
//!
//! Promise: a call whose daemon goes away before it has answered is made again, of the next daemon,
//! where asking twice does what asking once does: what only reads, and what removes. Others fail
//! with the transport's error, from which [`super::went_away`] tells that whether they were done is
//! not known. What was not sent is sent to the next daemon in any case: the channel connects again,
//! which starts one.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body::{Body as _, Frame};
use tonic::body::Body;
use tonic::codegen::Bytes;
use tonic::codegen::http::{Request, Response, request};
use tonic::transport::{Channel, Error};
use tower::{Service, ServiceExt as _};

/// How often a call is made.
const ATTEMPTS: u32 = 8;
/// How long a killed daemon's root may take to be free again.
const PAUSE: Duration = Duration::from_millis(50);

/// Marks a request that may be made twice although its method's name does not say so.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Idempotent;

/// The channel.
#[derive(Debug, Clone)]
pub(crate) struct RetryingChannel(pub(super) Channel);

impl Service<Request<Body>> for RetryingChannel {
    type Response = Response<Body>;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        // The call waits for the channel itself, each time that it is made.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let channel = self.0.clone();
        Box::pin(async move {
            if !is_idempotent(&request) {
                return once(channel, request).await;
            }
            let (head, body) = request.into_parts();
            let body = whole(body).await;
            let mut attempt = 1;
            loop {
                let body = Body::new(Once(Some(body.clone())));
                let request = Request::from_parts(again(&head), body);
                match once(channel.clone(), request).await {
                    Err(error) if attempt < ATTEMPTS => {
                        log::debug!("{}: {error}; asking again", head.uri.path());
                    }
                    Ok(answer) if attempt < ATTEMPTS && is_unavailable(&answer) => {
                        log::debug!("{}: unavailable; asking again", head.uri.path());
                    }
                    answer => return answer,
                }
                tokio::time::sleep(PAUSE * attempt).await;
                attempt += 1;
            }
        })
    }
}

/// Whether a daemon says that it is stopping, or has not reached a shim again yet.
fn is_unavailable(answer: &Response<Body>) -> bool {
    let status = answer.headers().get(tonic::Status::GRPC_STATUS);
    status.is_some_and(|status| {
        tonic::Code::from_bytes(status.as_bytes()) == tonic::Code::Unavailable
    })
}

async fn once(channel: Channel, request: Request<Body>) -> Result<Response<Body>, Error> {
    channel.oneshot(request).await
}

/// Whether a call does the same when it is made twice. All of these have one message for a request;
/// what Delete and Remove answer of something that is gone, their callers take for success.
fn is_idempotent(request: &Request<Body>) -> bool {
    let method = request.uri().path().rsplit('/').next().unwrap_or_default();
    let reads = [
        "Get",
        "List",
        "Info",
        "Status",
        "ListStatuses",
        "Stat",
        "Mounts",
        "Usage",
        "Version",
        "Server",
        "Plugins",
        "ListPids",
        "Metrics",
        "Wait",
        "ListResources",
        "Check",
    ];
    let removes = ["Delete", "DeleteProcess", "Remove", "Abort"];
    let is_marked = request.extensions().get::<Idempotent>().is_some();
    reads.contains(&method) || removes.contains(&method) || is_marked
}

/// The head of a request, for another attempt.
fn again(head: &request::Parts) -> request::Parts {
    let mut request = Request::new(());
    *request.method_mut() = head.method.clone();
    *request.uri_mut() = head.uri.clone();
    *request.version_mut() = head.version;
    *request.headers_mut() = head.headers.clone();
    request.into_parts().0
}

/// The bytes of a request. A message of ours, which is encoded already, cannot fail.
async fn whole(mut body: Body) -> Bytes {
    let mut bytes = Vec::new();
    while let Some(Ok(frame)) =
        std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await
    {
        if let Ok(piece) = frame.into_data() {
            bytes.extend_from_slice(&piece);
        }
    }
    bytes.into()
}

/// A body of one piece.
struct Once(Option<Bytes>);

impl http_body::Body for Once {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.take().map(|bytes| Ok(Frame::data(bytes))))
    }
}
