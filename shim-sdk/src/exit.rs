//! How and when a process ended.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// The exit of a process: its status as a shell reports it, and the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// The exit code, or 128 and the number of the signal that ended it.
    pub status: u32,
    /// When the exit was seen.
    #[serde(with = "timestamp")]
    pub at: SystemTime,
}

impl Exit {
    /// The status of a process that has died, when nothing else is known.
    pub const KILLED: u32 = 137;

    /// An exit at this moment.
    pub fn now(status: u32) -> Self {
        Self { status, at: SystemTime::now() }
    }

    /// A death at this moment, when nothing else is known.
    pub fn killed() -> Self {
        Self::now(Self::KILLED)
    }

    /// Seconds and nanoseconds since 1970, as in protobuf's `Timestamp`.
    pub fn unix_time(&self) -> (i64, i32) {
        let since = self.at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        (since.as_secs() as i64, since.subsec_nanos() as i32)
    }
}

/// `[seconds, nanoseconds]` since 1970.
mod timestamp {
    use std::time::{Duration, SystemTime, UNIX_EPOCH};

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(at: &SystemTime, to: S) -> Result<S::Ok, S::Error> {
        let since = at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        (since.as_secs(), since.subsec_nanos()).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<SystemTime, D::Error> {
        let (seconds, nanos) = <(u64, u32)>::deserialize(from)?;
        // Checked: the file may be damaged, and a sum out of range would panic.
        Duration::from_secs(seconds)
            .checked_add(Duration::from_nanos(u64::from(nanos)))
            .and_then(|since| UNIX_EPOCH.checked_add(since))
            .ok_or_else(|| serde::de::Error::custom("time out of range"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_survives_the_journal() {
        let exit = Exit::now(42);
        let json = serde_json::to_string(&exit).expect("plain data");
        assert_eq!(serde_json::from_str::<Exit>(&json).expect("just written"), exit);
        assert!(
            serde_json::from_str::<Exit>(r#"{"status":1,"at":[18446744073709551615,0]}"#).is_err()
        );
    }
}
