//! Times as stored: whole nanoseconds since 1970, in UTC.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The present.
pub(crate) fn now_nanos() -> i64 {
    to_nanos(SystemTime::now())
}

/// `time` as stored; one outside the years 1678 to 2262 becomes the nearest that fits.
pub(crate) fn to_nanos(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_nanos()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |nanos| -nanos),
    }
}

/// The time stored as `nanos`.
pub(crate) fn from_nanos(nanos: i64) -> SystemTime {
    let distance = Duration::from_nanos(nanos.unsigned_abs());
    if nanos < 0 { UNIX_EPOCH - distance } else { UNIX_EPOCH + distance }
}
