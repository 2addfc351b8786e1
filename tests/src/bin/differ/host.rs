//! Which control groups the host has, and so which specs say something on it.
//!
//! Everything runs on a host of version 1. One of version 2 is the nested machine, where a container
//! takes long: there run the variations of which control groups are a part.

use std::path::Path;

/// What begins the name of each feature that is tried on version 2 alone.
const UNIFIED: &str = "cgroup v2: ";

/// A version of control groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hierarchy {
    /// One hierarchy for each controller, maybe with version 2 beside them.
    V1,
    /// Version 2 alone.
    V2,
}

impl Hierarchy {
    /// This machine's.
    pub(crate) fn of_host() -> Self {
        if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() { Self::V2 } else { Self::V1 }
    }

    /// Whether a feature is tried on it.
    pub(crate) fn has(self, feature: &str) -> bool {
        feature.starts_with(UNIFIED) == (self == Self::V2)
    }

    /// How many combinations are made of what is tried on it.
    pub(crate) fn combinations(self) -> usize {
        match self {
            // Enough for each pair of features to meet a few times.
            Self::V1 => 80,
            Self::V2 => 0,
        }
    }
}
