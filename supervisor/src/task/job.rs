//! Work on a task that runs beside the call that asked for it.

use std::future::Future;

use super::error::TaskError;

/// Runs to its end even if the caller does not stay.
pub(super) async fn detached<T: Send + 'static>(
    what: &'static str,
    job: impl Future<Output = Result<T, TaskError>> + Send + 'static,
) -> Result<T, TaskError> {
    tokio::spawn(job).await.unwrap_or(Err(TaskError::Interrupted { what }))
}

/// Runs what blocks beside the runtime.
pub(super) async fn blocking<T: Send + 'static>(
    what: &'static str,
    job: impl FnOnce() -> Result<T, TaskError> + Send + 'static,
) -> Result<T, TaskError> {
    tokio::task::spawn_blocking(job).await.unwrap_or(Err(TaskError::Interrupted { what }))
}
