//! Fuzz targets: stdin of `start` from a hostile daemon, the socket with a hostile client.

use std::time::Duration;

use ::fuzz::Target;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::wire::bootstrap::StartParams;

#[test]
fn what_stdin_says_is_believed_only_where_it_agrees() {
    Target::new("bootstrap")
        .words(&["c1", "default", "containerd.runc.v1.Options", "unix:///"])
        .run(|stdin| {
            let Ok(request) = StartParams::parse(stdin, "c1", "default") else { return };
            if !request.structured {
                assert!(request.events_address.is_none() && request.socket_dir.is_none());
            }
            let _ = request.shim_cgroup();
        });
}

/// Whole connections: ttrpc frames with requests of the task service. Afterwards the server must
/// still answer other clients.
#[test]
fn a_connection_of_any_bytes_leaves_the_server_answering() {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let local = tokio::task::LocalSet::new();
    let daemon = local.block_on(&runtime, Daemon::new());
    let words = &[
        "containerd.task.v3.Task",
        "containerd.task.v2.Task",
        "Create",
        "State",
        "Exec",
        "Kill",
        "Stats",
    ];
    Target::new("ttrpc").words(words).memory_bytes(32 << 20).run(|bytes| {
        local.block_on(&runtime, async {
            let path = daemon.folder.path().join("s");
            let mut stream = UnixStream::connect(&path).await.expect("connect");
            // The server may have closed the connection already.
            let _ = stream.write_all(bytes).await;
            let _ = stream.shutdown().await;
            let mut answers = Vec::new();
            let mut limited = (&mut stream).take(1 << 20);
            let reading = limited.read_to_end(&mut answers);
            // A request that waits for a process that is never started keeps its connection.
            let _ = tokio::time::timeout(Duration::from_millis(20), reading).await;
            let request = ConnectRequest { id: "none".to_owned(), ..ConnectRequest::default() };
            daemon.task.connect(context::with_duration(LONG), &request).await.expect("it answers");
        });
    });
}
