//! What is answered while the root's database cannot be used.
//!
//! Promise: no request reads or changes a store whose records are not known, and each that is
//! refused says why and how to go on. A request that needs no records is answered: tasks (from
//! their bundles and shims), the containers that bundles tell of, events, versions, and the check.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tower::Service;

/// Services and methods that are answered all the same. A whole service ends with a slash.
const OPEN: &[&str] = &[
    "/containerd.services.tasks.v1.Tasks/",
    "/containerd.services.containers.v1.Containers/Get",
    "/containerd.services.containers.v1.Containers/List",
    "/containerd.services.containers.v1.Containers/ListStream",
    "/containerd.services.containers.v1.Containers/Delete",
    "/containerd.services.namespaces.v1.Namespaces/Get",
    "/containerd.services.namespaces.v1.Namespaces/List",
    "/containerd.services.events.v1.Events/",
    "/containerd.services.introspection.v1.Introspection/",
    "/containerd.services.version.v1.Version/",
    "/grpc.health.v1.Health/",
    "/supervisor.check.v1.Check/",
];
/// Needs a root file system, whose snapshot is not known.
const CLOSED: &[&str] = &["/containerd.services.tasks.v1.Tasks/Create"];

/// Puts the guard before the services.
#[derive(Clone)]
pub(crate) struct DatabaseGuard {
    refusal: Option<Arc<str>>,
}

impl DatabaseGuard {
    /// Refuses with `refusal`; lets everything through when there is none.
    pub(crate) fn new(refusal: Option<Arc<str>>) -> Self {
        Self { refusal }
    }
}

impl<S> tower::Layer<S> for DatabaseGuard {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded { refusal: self.refusal.clone(), inner }
    }
}

/// Services behind the guard.
#[derive(Clone)]
pub(crate) struct Guarded<S> {
    refusal: Option<Arc<str>>,
    inner: S,
}

impl<S, B> Service<Request<B>> for Guarded<S>
where
    S: Service<Request<B>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        match &self.refusal {
            Some(refusal) if !is_open(request.uri().path()) => {
                let refused = Status::failed_precondition(&**refusal).into_http();
                Box::pin(std::future::ready(Ok(refused)))
            }
            _ => Box::pin(self.inner.call(request)),
        }
    }
}

fn is_open(path: &str) -> bool {
    !CLOSED.contains(&path)
        && OPEN.iter().any(
            |open| {
                if open.ends_with('/') { path.starts_with(open) } else { path == *open }
            },
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_needs_no_records_passes_and_nothing_else_does() {
        for path in [
            "/containerd.services.tasks.v1.Tasks/Kill",
            "/containerd.services.containers.v1.Containers/List",
            "/supervisor.check.v1.Check/Check",
        ] {
            assert!(is_open(path), "{path}");
        }
        for path in [
            "/containerd.services.tasks.v1.Tasks/Create",
            "/containerd.services.containers.v1.Containers/Create",
            "/containerd.services.images.v1.Images/List",
            "/containerd.services.content.v1.Content/Delete",
            "/containerd.services.snapshots.v1.Snapshots/Prepare",
            "/containerd.services.leases.v1.Leases/Create",
            "/containerd.services.transfer.v1.Transfer/Transfer",
        ] {
            assert!(!is_open(path), "{path}");
        }
    }
}
