//! INT, TERM, HUP or QUIT while the container is made.

use std::future::Future;

use nix::sys::signal::Signal;
use tokio::time::timeout;

use crate::cli::error::CliError;
use crate::cli::rm::PATIENCE;
use crate::cli::signals::Signals;

/// Does a step, unless a signal arrives first.
pub(super) async fn unless_interrupted<T>(
    signals: &mut Signals,
    id: &str,
    step: impl Future<Output = Result<T, CliError>>,
) -> Result<T, CliError> {
    tokio::select! {
        biased;
        signal = signals.interrupted() => Err(interrupted(id, signal)),
        done = step => done,
    }
}

/// Does a short step to its end, also when a signal arrives: only its answer says what there is to
/// remove. Returns the signal too.
pub(super) async fn to_its_end<T>(
    signals: &mut Signals,
    id: &str,
    step: impl Future<Output = Result<T, CliError>>,
) -> Result<(T, Option<Signal>), CliError> {
    tokio::pin!(step);
    tokio::select! {
        biased;
        signal = signals.interrupted() => match timeout(PATIENCE, step).await {
            Ok(done) => Ok((done?, Some(signal))),
            Err(_) => {
                let error = interrupted(id, signal);
                Err(left_behind(error, "the supervisor did not answer, so its snapshot or record may stay"))
            }
        },
        done = &mut step => Ok((done?, None)),
    }
}

pub(super) fn interrupted(id: &str, signal: Signal) -> CliError {
    let left = "what was created for it is removed".to_owned();
    CliError::Interrupted { id: id.to_owned(), signal, left }
}

/// The error, with what could not be removed after it.
pub(super) fn left_behind(error: CliError, left: &str) -> CliError {
    match error {
        CliError::Interrupted { id, signal, .. } => {
            CliError::Interrupted { id, signal, left: left.to_owned() }
        }
        error => {
            log::warn!("clean up: {left}");
            error
        }
    }
}
