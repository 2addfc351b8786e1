//! Everything the services translate to, opened in the order in which it depends on each other.

use std::io;
use std::path::Path;

use shim_sdk::error::report;

use crate::config::DaemonConfig;
use crate::container::Containers;
use crate::error::DaemonError;
use crate::events::Bus;
use crate::metadata::Database;
use crate::task::{Place, Tasks};

/// The domain of one root; clones are handles to the same.
#[derive(Clone)]
pub(crate) struct Domain {
    pub(crate) config: DaemonConfig,
    /// Tells this root from every other.
    pub(crate) uuid: String,
    pub(crate) events: Bus,
    pub(crate) containers: Containers,
    pub(crate) tasks: Tasks,
}

impl Domain {
    /// Opens the root, whose lock the caller holds.
    pub(super) fn open(config: &DaemonConfig) -> Result<Self, DaemonError> {
        let failed = |what: &'static str| {
            move |error: crate::metadata::MetadataError| DaemonError::Open {
                what,
                cause: report(&error),
            }
        };
        let events = Bus::new();
        let database =
            Database::open(config.root.join("metadata.db")).map_err(failed("metadata"))?;
        Ok(Self {
            config: config.clone(),
            uuid: uuid(&config.root)?,
            containers: Containers::new(database, events.clone()),
            tasks: Tasks::new(Place::new(config), events.clone()),
            events,
        })
    }
}

/// The root's own identifier, made when it is first served.
fn uuid(root: &Path) -> Result<String, DaemonError> {
    let path = root.join("uuid");
    let made = match std::fs::read_to_string(&path) {
        Ok(text) if !text.trim().is_empty() => Ok(text.trim().to_owned()),
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => std::fs::read_to_string("/proc/sys/kernel/random/uuid").and_then(|text| {
            std::fs::write(&path, text.trim())?;
            Ok(text.trim().to_owned())
        }),
    };
    made.map_err(|cause| DaemonError::File { what: "keep the identifier in", path, cause })
}
