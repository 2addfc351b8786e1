//! What several services translate alike: descriptors, mounts, times, labels, masks, the lease
//! header, and calls that block.

use std::collections::HashMap;
use std::time::SystemTime;

use installer::budget::Budget;
use prost_types::{FieldMask, Timestamp};
use protos::grpc::containerd::types;
use tonic::{Request, Status};

use super::status::{HasKind, refuse};
use crate::content::{Descriptor, Digest};
use crate::lease::LeaseId;
use crate::metadata::Labels;
use crate::snapshot::Mount;

/// The header that carries a request's lease.
pub(crate) const LEASE: &str = "containerd-lease";

/// The lease that a request names, if any.
pub(crate) fn lease<T>(request: &Request<T>) -> Result<Option<LeaseId>, Status> {
    let Some(value) = request.metadata().get(LEASE) else { return Ok(None) };
    let id = value.to_str().map_err(|_| Status::invalid_argument("lease header is not text"))?;
    Ok((!id.is_empty()).then(|| LeaseId::new(id)))
}

/// A call that is being answered: dropped with it when its client goes, it stops the transfer that
/// runs for it. Dropping it behind the end of the transfer does nothing.
pub(crate) struct Unfinished(Budget);

impl Unfinished {
    /// Stops `budget` when dropped.
    pub(crate) fn new(budget: &Budget) -> Self {
        Self(budget.clone())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// Runs `call`, which blocks, on a blocking thread.
pub(crate) async fn blocking<T, E>(
    call: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, Status>
where
    T: Send + 'static,
    E: HasKind + Send + 'static,
{
    match tokio::task::spawn_blocking(call).await {
        Ok(outcome) => outcome.map_err(refuse),
        Err(error) => Err(Status::internal(error.to_string())),
    }
}

/// A digest that a client gave.
pub(crate) fn digest(text: &str) -> Result<Digest, Status> {
    Digest::parse(text).map_err(|error| Status::invalid_argument(error.to_string()))
}

/// A digest that a client may have left out.
pub(crate) fn some_digest(text: &str) -> Result<Option<Digest>, Status> {
    if text.is_empty() { Ok(None) } else { digest(text).map(Some) }
}

/// A size or offset that a client gave.
pub(crate) fn unsigned(what: &str, value: i64) -> Result<u64, Status> {
    u64::try_from(value)
        .map_err(|_| Status::invalid_argument(format!("{what} {value} must not be negative")))
}

/// A size or offset as sent.
pub(crate) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Labels that a client gave.
pub(crate) fn labels(wire: HashMap<String, String>) -> Labels {
    wire.into_iter().collect()
}

/// Labels as sent.
pub(crate) fn wire_labels(labels: Labels) -> HashMap<String, String> {
    labels.into_iter().collect()
}

/// The paths of a mask that a client may have left out.
pub(crate) fn paths(mask: Option<FieldMask>) -> Vec<String> {
    mask.map(|mask| mask.paths).unwrap_or_default()
}

/// A time as sent.
pub(crate) fn wire_time(time: SystemTime) -> Option<Timestamp> {
    Some(Timestamp::from(time))
}

/// A time that a client may have left out.
pub(crate) fn time(wire: Option<Timestamp>) -> Result<Option<SystemTime>, Status> {
    wire.map(SystemTime::try_from)
        .transpose()
        .map_err(|error| Status::invalid_argument(format!("timestamp: {error}")))
}

/// A descriptor that a client gave.
pub(crate) fn descriptor(wire: Option<types::Descriptor>) -> Result<Descriptor, Status> {
    let wire = wire.ok_or_else(|| Status::invalid_argument("descriptor must be set"))?;
    Ok(Descriptor {
        digest: digest(&wire.digest)?,
        size_bytes: unsigned("descriptor size", wire.size)?,
        media_type: wire.media_type,
        annotations: labels(wire.annotations),
    })
}

/// A descriptor as sent.
pub(crate) fn wire_descriptor(descriptor: Descriptor) -> types::Descriptor {
    types::Descriptor {
        media_type: descriptor.media_type,
        digest: descriptor.digest.to_string(),
        size: signed(descriptor.size_bytes),
        annotations: wire_labels(descriptor.annotations),
    }
}

/// Mounts that a client gave.
pub(crate) fn mounts(wire: Vec<types::Mount>) -> Vec<Mount> {
    let mount = |wire: types::Mount| Mount {
        kind: wire.r#type,
        source: wire.source,
        target: wire.target,
        options: wire.options,
    };
    wire.into_iter().map(mount).collect()
}

/// Mounts as sent.
pub(crate) fn wire_mounts(mounts: Vec<Mount>) -> Vec<types::Mount> {
    let wire = |mount: Mount| types::Mount {
        r#type: mount.kind,
        source: mount.source,
        target: mount.target,
        options: mount.options,
    };
    mounts.into_iter().map(wire).collect()
}
