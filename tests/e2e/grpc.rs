//! Connections to a daemon's socket for generated clients.

use std::path::PathBuf;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tonic::Request;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint, Uri};

/// How long any one call may take.
const LIMIT: Duration = Duration::from_secs(60);

/// Connects to a daemon, which listens already.
pub(crate) async fn connect(socket: PathBuf) -> Channel {
    let connector = tower::service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move {
            let stream = tokio::net::UnixStream::connect(socket).await?;
            Ok::<_, std::io::Error>(TokioIo::new(stream))
        }
    });
    // The authority is not used to connect, but HTTP wants one.
    Endpoint::from_static("http://localhost")
        .timeout(LIMIT)
        .connect_with_connector(connector)
        .await
        .expect("the daemon listens")
}

/// A request in a namespace.
pub(crate) fn request<T>(namespace: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let namespace = MetadataValue::try_from(namespace).expect("tokens are plain");
    request.metadata_mut().insert("containerd-namespace", namespace);
    request
}

/// Runs something asynchronous on this thread.
pub(crate) fn wait_for<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("an event loop")
        .block_on(future)
}
