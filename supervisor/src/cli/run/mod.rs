//! `run`: a container from an image, in the foreground or detached.
//!
//! The steps have a file each: a snapshot on the image's layers (`snapshot`), a record with the
//! container's spec (`record`), a task (`task`). Promise: when a step fails, or when INT, TERM, HUP or
//! QUIT arrives before the command runs, what the steps before it made is removed, the newest first.

mod arguments;
mod explain;
mod interrupt;
mod record;
mod snapshot;
mod task;

use std::path::Path;

use protos::grpc::containerd::types;
use tokio::time::timeout;

use super::client::Client;
use super::container::{self, SNAPSHOTTER};
use super::error::CliError;
use super::resolve::{self, RunImage};
use super::rm::PATIENCE;
use super::signals::Signals;
use super::{Context, import, random_hex, rootfs, say, spec, terminal, unfinished};
pub(crate) use arguments::Arguments;
use explain::Attempt;
use interrupt::{interrupted, left_behind, to_its_end};

/// What has to be removed when a later step fails, apart from the task.
enum Made {
    Snapshot,
    SnapshotAndRecord,
}

pub(crate) async fn run(arguments: Arguments, context: Context) -> Result<u8, CliError> {
    if arguments.tty {
        terminal::require()?;
    }
    let id = match &arguments.name {
        Some(name) => name.clone(),
        None => random_hex(8)?,
    };
    let client = context.client().await?;
    let image = image(&client, &arguments.image).await?;
    let labels = unfinished::labels(arguments.rm)?;
    // The next step makes something. From here on a signal does not end this process at once.
    let mut signals = Signals::catch(arguments.tty)?;
    let (mut mounts, signal) = snapshot::make(&client, &id, &image, &labels, &mut signals).await?;
    if arguments.rm {
        rootfs::make_volatile(&mut mounts);
    }
    let mut made = Made::Snapshot;
    let outcome = match signal {
        Some(signal) => Err(interrupted(&id, signal)),
        None => {
            on_snapshot(&client, &id, &image, mounts, &arguments, &mut signals, &mut made).await
        }
    };
    match outcome {
        Ok(status) => Ok(status),
        Err(error) => Err(remove(&client, &id, &made, error).await),
    }
}

/// Finds the image, which is imported first when its name is that of an archive.
async fn image(client: &Client, name: &str) -> Result<RunImage, CliError> {
    if !import::is_archive(name) {
        return resolve::resolve(client, name).await;
    }
    let names = import::import(client, Path::new(name), None).await?;
    let first = names.first().ok_or_else(|| CliError::BadImage {
        name: name.to_owned(),
        why: "the archive has no image".into(),
    })?;
    resolve::resolve(client, first).await
}

/// The steps after the snapshot: record and task. Says in `made` what the caller has to remove after
/// an error.
async fn on_snapshot(
    client: &Client,
    id: &str,
    image: &RunImage,
    mounts: Vec<types::Mount>,
    arguments: &Arguments,
    signals: &mut Signals,
    made: &mut Made,
) -> Result<u8, CliError> {
    let mut merged = rootfs::open(&mounts)?;
    let input = record::spec_input(client, id, image, merged.as_mut(), arguments)?;
    let attempt = Attempt::new(merged, &input);
    let spec = spec::build(input);
    let create = record::create(client, id, image, &spec, arguments);
    match to_its_end(signals, id, create).await {
        Ok(((), signal)) => {
            *made = Made::SnapshotAndRecord;
            if let Some(signal) = signal {
                return Err(interrupted(id, signal));
            }
        }
        Err(error) => {
            // The snapshot is ours, so a record that names it was created by this call.
            if error.is_undecided()
                && container::get(client, id).await.is_ok_and(|record| record.snapshot_key == id)
            {
                *made = Made::SnapshotAndRecord;
            }
            return Err(error);
        }
    }
    if arguments.detach {
        let started = task::detached(client, id, mounts, arguments, signals).await;
        started.map_err(|error| attempt.explain(error))?;
        say(id);
        return Ok(0);
    }
    let ended = task::foreground(client, id, mounts, arguments, signals).await;
    let status = ended.map_err(|error| attempt.explain(error))?;
    if arguments.rm {
        container::remove(client, id, SNAPSHOTTER).await?;
    }
    Ok(u8::try_from(status).unwrap_or(u8::MAX))
}

/// Removes what was made, after an error; returns the error.
async fn remove(client: &Client, id: &str, made: &Made, error: CliError) -> CliError {
    let remove = async {
        match made {
            Made::SnapshotAndRecord => container::remove(client, id, SNAPSHOTTER).await,
            // A record of this id would be another client's.
            Made::Snapshot => container::remove_snapshot(client, SNAPSHOTTER, id).await,
        }
    };
    match timeout(PATIENCE, remove).await {
        Ok(Ok(())) => error,
        Ok(Err(also)) => {
            left_behind(error, &format!("its snapshot or record stays: {}", also.report()))
        }
        Err(_) => {
            let seconds = PATIENCE.as_secs();
            left_behind(error, &format!("its snapshot or record stays after {seconds} s"))
        }
    }
}
