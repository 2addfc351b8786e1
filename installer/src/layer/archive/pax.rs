//! The records of a pax header.
//!
//! Values are taken by their stated lengths, so that binary ones (a file capability may hold a line
//! feed) come out whole. An empty value says that nothing is overridden; a negative owner, which
//! chown(2) takes for "as it is", too.
//! See pax(1), "pax Extended Header".

use rustix::fs::Timespec;

use super::number::decimal;
use super::sparse::Told;

const XATTR: &[u8] = b"SCHILY.xattr.";
const SPARSE: &[u8] = b"GNU.sparse.";

/// What extension headers said of the entry that follows them.
#[derive(Default)]
pub(super) struct Extensions {
    pub(super) long_name: Option<Vec<u8>>,
    pub(super) long_link: Option<Vec<u8>>,
    pub(super) path: Option<Vec<u8>>,
    pub(super) linkpath: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) mtime: Option<Timespec>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) sparse: Option<Told>,
    pub(super) any: bool,
}

/// A record that makes no sense.
pub(super) enum BadRecord<'a> {
    /// Its length does not match.
    Length,
    /// The value of this key.
    Value(&'a [u8]),
}

impl Extensions {
    /// Takes in the records of one header.
    pub(super) fn take<'a>(&mut self, records: &'a [u8]) -> Result<(), BadRecord<'a>> {
        let mut rest = records;
        while !rest.is_empty() {
            let (key, value, after) = record(rest).ok_or(BadRecord::Length)?;
            rest = after;
            self.record(key, value).ok_or(BadRecord::Value(key))?;
        }
        Ok(())
    }

    fn record(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        let given = !value.is_empty();
        match key {
            b"path" => self.path = given.then(|| value.to_vec()),
            b"linkpath" => self.linkpath = given.then(|| value.to_vec()),
            b"size" => self.size = if given { Some(decimal(value)?) } else { None },
            b"uid" => self.uid = owner(value)?,
            b"gid" => self.gid = owner(value)?,
            b"mtime" => self.mtime = if given { Some(time(value)?) } else { None },
            _ => {
                if let Some(attribute) = key.strip_prefix(XATTR) {
                    self.xattrs.push((attribute.to_vec(), value.to_vec()));
                } else if let Some(key) = key.strip_prefix(SPARSE) {
                    self.sparse.get_or_insert_default().record(key, value)?;
                }
            }
        }
        Some(())
    }
}

/// An owner; the outer `None` is a value that is no number.
fn owner(value: &[u8]) -> Option<Option<u32>> {
    match value {
        [] => Some(None),
        [b'-', digits @ ..] => decimal::<u64>(digits).map(|_| None),
        digits => decimal(digits).map(Some),
    }
}

/// Splits `LENGTH KEY=VALUE\n` off the front.
fn record(records: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = records.iter().take(20).position(|byte| *byte == b' ')?;
    let length: usize = decimal(&records[..space])?;
    if length <= space + 1 || length > records.len() || records[length - 1] != b'\n' {
        return None;
    }
    let record = &records[space + 1..length - 1];
    let equals = record.iter().position(|byte| *byte == b'=')?;
    Some((&record[..equals], &record[equals + 1..], &records[length..]))
}

/// A pax time: seconds with an optional sign and fraction.
fn time(value: &[u8]) -> Option<Timespec> {
    let (negative, value) = match value.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, value),
    };
    let (whole, fraction) = match value.iter().position(|byte| *byte == b'.') {
        Some(dot) => (&value[..dot], &value[dot + 1..]),
        None => (value, &[][..]),
    };
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let seconds: i64 = decimal(whole)?;
    let mut nanoseconds = 0;
    for place in 0..9 {
        let digit = fraction.get(place).map_or(0, |byte| i64::from(byte - b'0'));
        nanoseconds = nanoseconds * 10 + digit;
    }
    Some(match (negative, nanoseconds) {
        (false, _) => Timespec { tv_sec: seconds, tv_nsec: nanoseconds },
        (true, 0) => Timespec { tv_sec: -seconds, tv_nsec: 0 },
        (true, _) => Timespec { tv_sec: -seconds - 1, tv_nsec: 1_000_000_000 - nanoseconds },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_may_hold_line_feeds() {
        let records = b"22 SCHILY.xattr.a=1\n2\n\n11 mtime=1\n";
        let (key, value, rest) = record(records).unwrap();
        assert_eq!((key, value), (&b"SCHILY.xattr.a"[..], &b"1\n2"[..]));
        assert_eq!(rest, b"\n11 mtime=1\n");
    }

    #[test]
    fn lengths_that_lie_are_refused() {
        for bad in [&b"0 a=b\n"[..], b"9999 a=b\n", b"5 a=b\n", b"x a=b\n", b"6 a-b\n", b"3 =\n"] {
            assert!(record(bad).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn times_have_signs_and_fractions() {
        let parts = |text: &str| time(text.as_bytes()).map(|time| (time.tv_sec, time.tv_nsec));
        assert_eq!(parts("12"), Some((12, 0)));
        assert_eq!(parts("12.5"), Some((12, 500_000_000)));
        assert_eq!(parts("12.1234567891"), Some((12, 123_456_789)));
        assert_eq!(parts("-1.25"), Some((-2, 750_000_000)));
        assert_eq!(parts("-3"), Some((-3, 0)));
        assert_eq!(parts("1e9"), None);
        assert_eq!(parts("1.x"), None);
    }

    #[test]
    fn empty_values_and_negative_owners_override_nothing() {
        let mut extensions = Extensions::default();
        let records = b"11 path=xy\n10 uid=12\n8 path=\n9 mtime=\n10 uid=-1\n7 gid=\n8 size=\n";
        assert!(extensions.take(records).is_ok());
        assert!(extensions.path.is_none() && extensions.mtime.is_none());
        assert!(extensions.uid.is_none() && extensions.gid.is_none());
        assert!(extensions.size.is_none());
        assert!(extensions.take(b"10 uid=-x\n").is_err());
    }
}
