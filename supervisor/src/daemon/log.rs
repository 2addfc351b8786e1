//! The daemon's log: a line a record, with its time, on standard error.

use std::io::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::text::escaped;

/// As much as one record shows.
const RECORD_BYTES: usize = 16 << 10;

/// Begins to log; what is logged is set by `RUST_LOG`, `info` and above when it is not.
pub(crate) fn log_to_stderr() {
    let level = env_logger::Env::default().default_filter_or("info");
    let mut builder = env_logger::Builder::from_env(level);
    // The journal has a time of its own for each line.
    let timed = std::env::var_os("JOURNAL_STREAM").is_none();
    builder.format(move |line, record| {
        if timed {
            write!(line, "{} ", Utc(SystemTime::now()))?;
        }
        // Names from outside must not forge lines, nor reach the terminal that shows them.
        let text = record.args().to_string();
        let text = escaped(&text, RECORD_BYTES);
        writeln!(line, "{:<5} {}: {text}", record.level(), record.target())
    });
    // Only tests begin twice, and the first is as good.
    let _ = builder.try_init();
}

/// A time as RFC 3339 writes it, to the millisecond.
struct Utc(SystemTime);

impl std::fmt::Display for Utc {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let since = self.0.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
        let (year, month, day) = date(days);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        let millis = since.subsec_millis();
        write!(
            formatter,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z"
        )
    }
}

/// The Gregorian date a number of days after 1970 began.
fn date(days: u64) -> (u64, u64, u64) {
    let leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let (mut year, mut rest) = (1970, days);
    while rest >= 365 + u64::from(leap(year)) {
        rest -= 365 + u64::from(leap(year));
        year += 1;
    }
    let february = 28 + u64::from(leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if rest < length {
            break;
        }
        rest -= length;
        month += 1;
    }
    (year, month, rest + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_rfc_3339_has_them() {
        let at = |seconds| Utc(UNIX_EPOCH + Duration::from_secs(seconds)).to_string();
        assert_eq!(at(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00.000Z");
        assert_eq!(at(1_767_225_599), "2025-12-31T23:59:59.000Z");
        assert_eq!(at(4_107_542_400), "2100-03-01T00:00:00.000Z");
    }
}
