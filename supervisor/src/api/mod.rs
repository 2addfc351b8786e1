//! containerd's gRPC services, one file each.
//!
//! Each translates between the wire and the domain and decides nothing. Errors become codes in
//! `status`, namespaces come from the one function here, and [`routes`] is the list of what is
//! served; a service or method that is not in it answers UNIMPLEMENTED.

pub(crate) mod check;
pub(crate) mod containers;
pub(crate) mod content;
pub(crate) mod database_guard;
pub(crate) mod diff;
pub(crate) mod event_message;
mod events;
pub(crate) mod health;
pub(crate) mod images;
pub(crate) mod install;
pub(crate) mod introspection;
pub(crate) mod leases;
pub(crate) mod namespaces;
pub(crate) mod snapshots;
pub(crate) mod status;
pub(crate) mod streaming;
pub(crate) mod tasks;
pub(crate) mod transfer;
pub(crate) mod translate;
pub(crate) mod version;

use protos::grpc::containerd::services;
use tonic::service::Routes;
use tonic::{Request, Status};

use crate::domain::Domain;
use crate::metadata::Namespace;

/// The header that carries a request's namespace.
pub(crate) const NAMESPACE: &str = "containerd-namespace";

/// As much as containerd takes in one message, and its clients send.
pub(crate) const MESSAGE_BYTES: usize = 16 << 20;

/// Every service, ready to be served.
pub(crate) fn routes(domain: &Domain) -> Routes {
    let mut routes = Routes::builder();
    /// Adds a generated server with containerd's limits on messages.
    macro_rules! serve {
        ($server:path, $service:expr) => {
            routes.add_service(
                <$server>::new($service)
                    .max_decoding_message_size(MESSAGE_BYTES)
                    .max_encoding_message_size(MESSAGE_BYTES),
            );
        };
    }
    serve!(
        services::events::v1::events_server::EventsServer<_>,
        events::Events::new(domain.events.clone())
    );
    serve!(
        services::tasks::v1::tasks_server::TasksServer<_>,
        tasks::Tasks::new(domain.tasks.clone(), domain.containers.clone())
    );
    serve!(
        services::introspection::v1::introspection_server::IntrospectionServer<_>,
        introspection::Introspection::new(
            &domain.config,
            domain.uuid.clone(),
            domain.tasks.clone()
        )
    );
    let collector = &domain.collector;
    serve!(
        services::namespaces::v1::namespaces_server::NamespacesServer<_>,
        namespaces::Namespaces::new(domain.namespaces.clone(), domain.events.clone())
    );
    serve!(
        services::content::v1::content_server::ContentServer<_>,
        content::Content::new(domain.content.clone(), collector.clone())
    );
    serve!(
        services::images::v1::images_server::ImagesServer<_>,
        images::Images::new(domain.images.clone(), collector.clone())
    );
    serve!(
        services::containers::v1::containers_server::ContainersServer<_>,
        containers::Containers::new(domain.containers.clone(), collector.clone())
    );
    serve!(
        services::leases::v1::leases_server::LeasesServer<_>,
        leases::Leases::new(domain.leases.clone(), collector.clone())
    );
    serve!(
        services::snapshots::v1::snapshots_server::SnapshotsServer<_>,
        snapshots::Snapshots::new(domain.snapshots.clone(), collector.clone())
    );

    serve!(
        protos::grpc::supervisor::install::v1::install_server::InstallServer<_>,
        install::Install::new(domain.installer.clone())
    );
    serve!(
        protos::grpc::supervisor::check::v1::check_server::CheckServer<_>,
        check::Check::new(domain.checker())
    );
    serve!(services::diff::v1::diff_server::DiffServer<_>, diff::Diff::new(domain.content.clone()));
    let streams = streaming::Streams::default();
    serve!(
        services::streaming::v1::streaming_server::StreamingServer<_>,
        streaming::Streaming::new(streams.clone())
    );
    serve!(
        services::transfer::v1::transfer_server::TransferServer<_>,
        transfer::Transfer::new(domain.importer(), streams)
    );
    serve!(services::version::v1::version_server::VersionServer<_>, version::Version);
    serve!(protos::grpc::grpc::health::v1::health_server::HealthServer<_>, health::Health);
    routes.routes()
}

/// The namespace that a request names; containerd refuses one without.
pub(crate) fn namespace<T>(request: &Request<T>) -> Result<Namespace, Status> {
    let name = request
        .metadata()
        .get(NAMESPACE)
        .ok_or_else(|| Status::failed_precondition("namespace is required"))?
        .to_str()
        .map_err(|_| Status::invalid_argument("namespace header is not text"))?;
    if name.is_empty() {
        return Err(Status::failed_precondition("namespace is required"));
    }
    Namespace::new(name).map_err(|error| Status::invalid_argument(error.to_string()))
}

#[cfg(test)]
mod tests {
    use tonic::body::Body;
    use tower::ServiceExt as _;

    use super::*;
    use crate::config::{DaemonConfig, Flags};

    /// The code and the message that a call with an empty request is answered with.
    async fn call(path: &str, namespace: Option<&str>) -> (String, String) {
        let place = tempfile::tempdir().unwrap();
        let flags = Flags {
            root: Some(place.path().join("root")),
            state: Some(place.path().join("state")),
            config: Some("/dev/null".into()),
            ..Flags::default()
        };
        std::fs::create_dir(place.path().join("root")).unwrap();
        let domain = Domain::open(&DaemonConfig::resolve(&flags).unwrap()).unwrap();
        let mut request = tonic::codegen::http::Request::post(format!("http://x{path}"))
            .header("content-type", "application/grpc");
        if let Some(namespace) = namespace {
            request = request.header(NAMESPACE, namespace);
        }
        // One message of no bytes, not compressed.
        let request = request.body(Body::new("\0\0\0\0\0".to_owned())).unwrap();
        let response = routes(&domain).oneshot(request).await.unwrap();
        let header = |name| {
            let value = response.headers().get(name);
            value.map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
        };
        (header("grpc-status"), header("grpc-message"))
    }

    #[tokio::test]
    async fn what_is_not_served_is_unimplemented() {
        for path in [
            "/containerd.services.sandbox.v1.Store/List",
            "/containerd.services.tasks.v1.Tasks/NoSuchMethod",
            "/no.such.Service/Method",
        ] {
            assert_eq!(call(path, Some("default")).await.0, "12", "{path}");
        }
    }

    #[tokio::test]
    async fn a_request_names_a_namespace_that_is_an_identifier() {
        let list = "/containerd.services.tasks.v1.Tasks/List";
        let (code, message) = call(list, None).await;
        assert_eq!((code.as_str(), message.as_str()), ("9", "namespace%20is%20required"));
        assert_eq!(call(list, Some("../etc")).await.0, "3");
        assert_eq!(call(list, Some("k8s.io")).await.0, "", "the code is in the trailers");
    }
}
