//! The connection of a command to the daemon: every service, in one namespace.

use std::path::PathBuf;

use protos::grpc::containerd::services;
use protos::grpc::supervisor::check::v1::check_client::CheckClient;
use protos::grpc::supervisor::install::v1::install_client::InstallClient;
use services::containers::v1::containers_client::ContainersClient;
use services::content::v1::content_client::ContentClient;
use services::diff::v1::diff_client::DiffClient;
use services::images::v1::images_client::ImagesClient;
use services::snapshots::v1::snapshots_client::SnapshotsClient;
use services::streaming::v1::streaming_client::StreamingClient;
use services::tasks::v1::tasks_client::TasksClient;
use services::transfer::v1::transfer_client::TransferClient;
use services::version::v1::version_client::VersionClient;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::{Request, Status};

use super::error::CliError;
use crate::api;
use crate::config::DaemonConfig;
use crate::daemon::{self, RetryingChannel};

/// A connection whose requests carry a namespace.
pub(crate) type Connection = InterceptedService<RetryingChannel, InNamespace>;

/// Adds the namespace to each request.
#[derive(Clone)]
pub(crate) struct InNamespace(MetadataValue<Ascii>);

impl Interceptor for InNamespace {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert(api::NAMESPACE, self.0.clone());
        Ok(request)
    }
}

/// A connection to a daemon that answered.
#[derive(Clone)]
pub(crate) struct Client {
    connection: Connection,
    config: DaemonConfig,
    pub(crate) namespace: String,
}

impl Client {
    /// Connects. Starts the daemon if none listens.
    pub(crate) async fn connect(config: DaemonConfig, namespace: &str) -> Result<Self, CliError> {
        let value = MetadataValue::try_from(namespace)
            .map_err(|_| CliError::BadNamespace { namespace: namespace.to_owned() })?;
        let channel = daemon::connect(&config).await?;
        let connection = InterceptedService::new(channel, InNamespace(value));
        Ok(Self { connection, config, namespace: namespace.to_owned() })
    }

    /// A new connection with the same configuration. Starts the daemon if none listens.
    pub(crate) async fn reconnect(&self) -> Result<Self, CliError> {
        Self::connect(self.config.clone(), &self.namespace).await
    }

    /// Where this process makes fifos for the shims.
    pub(crate) fn fifo_directory(&self) -> PathBuf {
        self.config.fifo_directory()
    }

    /// The directory for a runtime's records, for the options of its shim.
    pub(crate) fn runtime_root(&self, runtime: &str) -> PathBuf {
        self.config.runtime_root(runtime)
    }
}

/// One method for each service.
macro_rules! services {
    ($($name:ident: $client:ident,)*) => {
        impl Client {
            $(pub(crate) fn $name(&self) -> $client<Connection> {
                $client::new(self.connection.clone())
                    .max_decoding_message_size(api::MESSAGE_BYTES)
                    .max_encoding_message_size(api::MESSAGE_BYTES)
            })*
        }
    };
}

services! {
    check: CheckClient,
    containers: ContainersClient,
    content: ContentClient,
    diff: DiffClient,
    images: ImagesClient,
    install: InstallClient,
    snapshots: SnapshotsClient,
    streaming: StreamingClient,
    tasks: TasksClient,
    transfer: TransferClient,
    version: VersionClient,
}
