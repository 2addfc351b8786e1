//! The suites of the crate `conformance`, through the socket of a daemon: of ours, and of Debian's
//! containerd, which shows that the suites ask for what containerd's clients rely on.

mod content;
mod snapshots;

use conformance::{Kind, Refused};
use harness::{Containerd, Root, Supervisor};
use protos::grpc::containerd::services::leases::v1 as leases;
use protos::grpc::containerd::services::leases::v1::leases_client::LeasesClient;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::grpc::{self, wait_for};

/// A daemon, seen through its API by a client that has one namespace. Its lease keeps what it makes:
/// what nothing refers to is garbage.
struct Daemon {
    channel: Channel,
    namespace: String,
}

const LEASE: &str = "conformance";

impl Daemon {
    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = grpc::request(&self.namespace, message);
        request.metadata_mut().insert("containerd-lease", MetadataValue::from_static(LEASE));
        request
    }
}

fn refuse(status: Status) -> Refused {
    let kind = match status.code() {
        Code::InvalidArgument => Kind::InvalidArgument,
        Code::NotFound => Kind::NotFound,
        Code::AlreadyExists => Kind::AlreadyExists,
        Code::FailedPrecondition => Kind::FailedPrecondition,
        Code::OutOfRange => Kind::OutOfRange,
        Code::Unavailable => Kind::Unavailable,
        Code::Unimplemented => Kind::Unimplemented,
        _ => Kind::Unknown,
    };
    Refused { kind, text: status.to_string() }
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

/// Field paths as a mask; no paths are no mask.
fn mask(paths: &[&str]) -> Option<prost_types::FieldMask> {
    (!paths.is_empty()).then(|| prost_types::FieldMask { paths: owned(paths) })
}

fn on(root: &Root, socket: std::path::PathBuf, case: impl AsyncFnOnce(&Daemon)) {
    wait_for(async {
        let channel = grpc::connect(socket).await;
        let lease = leases::CreateRequest { id: LEASE.to_owned(), ..Default::default() };
        let lease = grpc::request(root.namespace(), lease);
        LeasesClient::new(channel.clone()).create(lease).await.expect("make a lease");
        case(&Daemon { channel, namespace: root.namespace().to_owned() }).await;
    });
}

/// The factory of ours: a daemon on fresh directories.
fn on_our_daemon(case: impl AsyncFnOnce(&Daemon)) {
    let root = Root::new();
    let mut supervisor = Supervisor::new(&root);
    supervisor.serve();
    on(&root, supervisor.socket(), case);
}

/// The factory of containerd.
fn on_containerd(case: impl AsyncFnOnce(&Daemon)) {
    let root = Root::new();
    let containerd = Containerd::start(&root, None);
    on(&root, containerd.address(), case);
}

mod ours {
    use super::on_our_daemon;

    mod content {
        conformance::content_store_suite!(super::on_our_daemon);
    }
    mod snapshots {
        conformance::snapshotter_suite!(super::on_our_daemon);
    }
}

mod containerd {
    use super::on_containerd;

    mod content {
        conformance::content_store_suite!(super::on_containerd);
    }
    mod snapshots {
        conformance::snapshotter_suite!(super::on_containerd);
    }
}
