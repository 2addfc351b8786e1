//! `supervisor.check.v1.Check`: ours alone, not containerd's.

use protos::grpc::supervisor::check::v1 as wire;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status};

use super::namespace;
use super::status::refuse;
use crate::check::{self, Checker, Finding};

/// Findings that a slow client may be behind; the check then waits for it.
const BACKLOG: usize = 64;

/// The service.
pub(crate) struct Check {
    checker: Checker,
}

impl Check {
    pub(crate) fn new(checker: Checker) -> Self {
        Self { checker }
    }
}

#[tonic::async_trait]
impl wire::check_server::Check for Check {
    async fn check(
        &self,
        request: Request<wire::CheckRequest>,
    ) -> Result<Response<BoxStream<wire::Finding>>, Status> {
        let namespace = namespace(&request)?;
        let request = request.into_inner();
        let request =
            check::Request { repair: request.repair, read_all: request.read_blobs, namespace };
        let (told, findings) = mpsc::channel(BACKLOG);
        let checker = self.checker.clone();
        tokio::task::spawn_blocking(move || {
            // A client that is gone does not hear of it; a repair goes on to its end.
            let tell = |finding| drop(told.blocking_send(Ok(to_wire(finding))));
            if let Err(error) = checker.check(&request, &tell) {
                drop(told.blocking_send(Err(refuse(error))));
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(findings))))
    }
}

fn to_wire(finding: Finding) -> wire::Finding {
    wire::Finding {
        subject: finding.subject.to_owned(),
        name: finding.name,
        namespace: finding.namespace,
        reason: finding.reason,
        action: finding.action,
        mended: finding.mended,
    }
}
