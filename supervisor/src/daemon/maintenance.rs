//! What a daemon does now and then beside its clients: removes what killed commands left half made,
//! collects what has expired, keeps the copy of the database fresh.

use std::time::{Duration, Instant, SystemTime};

use shim_sdk::error::report;
use shim_sdk::{ContainerId, Kind};

use crate::container::Container;
use crate::creator::{self, Creator, Fate};
use crate::domain::Domain;
use crate::metadata::{Labels, Namespace, RecordError, RootFiles};
use crate::task::Status;

/// How often. The first time is a moment after the start.
const EVERY: Duration = Duration::from_secs(30);
/// What was made a shorter time ago is left alone: another client may be about to start it.
const SETTLED: Duration = Duration::from_secs(10);
/// Whether a creator in another pid namespace lives cannot be seen. What it made counts as left behind
/// after this time.
const UNKNOWN: Duration = Duration::from_secs(24 * 60 * 60);
/// The signal that ends a container that was never started.
const SIGKILL: u32 = 9;
/// How long a killed task may take to be stopped.
const ENDING: Duration = Duration::from_secs(10);
/// The database is copied after this many changes, or after any when this time has passed; an
/// orderly exit copies it, too.
const CHANGES: u64 = 256;
const COPY_EVERY: Duration = Duration::from_secs(10 * 60);

/// Goes on until it is dropped.
pub(super) async fn run(domain: Domain) {
    if domain.unusable.is_some() {
        // There are no records to look at.
        return;
    }
    let mut ticks = tokio::time::interval(EVERY);
    let mut copied = Instant::now();
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Err(error) = unfinished(&domain).await {
            log::warn!("look for what was left half made: {}", report(&error));
        }
        match domain.collector.is_due().await {
            Ok(true) => domain.collector.schedule(),
            Ok(false) => {}
            Err(error) => log::warn!("look for what has expired: {}", report(&error)),
        }
        let changes = domain.database.changes_since_copy();
        if changes >= CHANGES || (changes > 0 && copied.elapsed() >= COPY_EVERY) {
            copied = Instant::now();
            let (database, root) = (domain.database.clone(), domain.config.root.clone());
            let copy = tokio::task::spawn_blocking(move || {
                database.keep_copy(&RootFiles { root }.copy(), false);
            });
            if let Err(error) = copy.await {
                log::warn!("copy the database: {error}");
            }
        }
    }
}

/// Removes containers and snapshots whose creator was killed before they were of use.
async fn unfinished(domain: &Domain) -> Result<(), RecordError> {
    for (namespace, container) in domain.containers.labelled(creator::LABEL).await? {
        if is_left(&container.labels, container.created)
            && has_same_creator(domain, &namespace, &container).await
        {
            remove_container(domain, &namespace, &container).await;
        }
    }
    let snapshots = match domain.snapshots.unused_labelled(creator::LABEL).await {
        Ok(snapshots) => snapshots,
        Err(error) => {
            log::warn!("look for snapshots that were left: {}", report(&error));
            return Ok(());
        }
    };
    for (namespace, info) in snapshots {
        if is_left(&info.labels, info.created) {
            log::info!("removing snapshot {:?}, whose creator is gone", info.name);
            if let Err(error) = domain.snapshots.remove(&namespace, &info.name, None).await {
                log::warn!("remove snapshot {:?}: {}", info.name, report(&error));
            }
        }
    }
    Ok(())
}

/// Whether what bears these labels has no creator any more that could finish it.
fn is_left(labels: &Labels, created: SystemTime) -> bool {
    let Some(creator) = labels.get(creator::LABEL).and_then(|text| Creator::parse(text)) else {
        return false;
    };
    let age = created.elapsed().unwrap_or_default();
    match creator.fate() {
        Ok(Fate::Gone) => age >= SETTLED,
        Ok(Fate::Unknown) => age >= UNKNOWN,
        Ok(Fate::Lives) => false,
        Err(error) => {
            log::debug!("look for process {creator}: {error}");
            false
        }
    }
}

/// Whether the container's snapshot names the same creator. Labels of a container may come from its
/// image, those of a snapshot do not.
async fn has_same_creator(domain: &Domain, namespace: &Namespace, container: &Container) -> bool {
    let snapshot = domain.snapshots.stat(namespace, &container.snapshot_key).await;
    snapshot
        .is_ok_and(|info| info.labels.get(creator::LABEL) == container.labels.get(creator::LABEL))
}

async fn remove_container(domain: &Domain, namespace: &Namespace, container: &Container) {
    let Ok(id) = ContainerId::new(container.id.clone()) else { return };
    match domain.tasks.state(namespace, &id, None).await {
        Err(error) if error.kind() == Kind::NotFound && !domain.tasks.is_taken(namespace, &id) => {}
        Err(error) => {
            // It may still be in creation.
            log::debug!("{namespace}/{id}: {}: looked at again later", report(&error));
            return;
        }
        Ok(state) => {
            let goes = container.labels.contains_key(creator::GOES_TOO);
            match state.status {
                Status::Created => {
                    let killed = domain.tasks.kill(namespace, &id, None, SIGKILL, true).await;
                    if let Err(error) = killed {
                        log::debug!("kill {namespace}/{id}: {}", report(&error));
                    }
                    let exit = domain.tasks.wait(namespace, &id, None);
                    let _ = tokio::time::timeout(ENDING, exit).await;
                }
                Status::Stopped if goes => {}
                // It was started, so it is in use. It still has its label if the daemon was killed
                // before it could remove the label.
                _ => {
                    let noted = domain.containers.started(namespace, id.as_str()).await;
                    if let Err(error) = noted {
                        log::debug!("note that {namespace}/{id} is started: {error}");
                    }
                    return;
                }
            }
            if let Err(error) = domain.tasks.delete(namespace, &id).await {
                log::warn!("delete task {namespace}/{id}: {}", report(&error));
                return;
            }
        }
    }
    log::info!("removing container {namespace}/{id}, which was never started: its creator is gone");
    if let Err(error) = domain.containers.delete(namespace, id.as_str()).await {
        log::warn!("remove container {namespace}/{id}: {}", report(&error));
    }
    // Its snapshot bears the same label and is not referred to any more.
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_creator_that_is_gone_made_a_while_ago_is_left() {
        let now = SystemTime::now();
        let old = now - Duration::from_secs(60);
        let labels = |text: &str| Labels::from([(creator::LABEL.to_owned(), text.to_owned())]);
        assert!(is_left(&labels("another-boot/1/2/3"), old));
        assert!(!is_left(&labels("another-boot/1/2/3"), now));
        assert!(!is_left(&labels(&Creator::this_process().unwrap().to_string()), old));
        assert!(!is_left(&labels("who knows"), old));
        assert!(!is_left(&Labels::new(), old));
    }
}
