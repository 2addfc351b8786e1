//! The environment of a command: the spec's, and HOME where it is missing.
//!
//! libc would follow the container's own nsswitch.conf, and would wait if the file is a fifo. So the file
//! is read here.
//! See environ(7), passwd(5).

use std::path::Path;

use super::container_path;

/// The list of users.
const PASSWD: &str = "/etc/passwd";

/// The number of its bytes that are searched for a home directory.
const PASSWD_BYTES: u64 = 4 * 1024 * 1024;

/// The spec's environment in its order, with HOME. Of several values of one name, the last counts.
pub(super) fn complete(listed: &[String], uid: u32) -> Vec<String> {
    let mut result: Vec<String> = Vec::new();
    for entry in listed {
        let name = name(entry);
        match result.iter_mut().find(|known| self::name(known) == name) {
            Some(known) => known.clone_from(entry),
            None => result.push(entry.clone()),
        }
    }
    let home = result.iter_mut().find(|entry| name(entry) == "HOME");
    if home.as_ref().is_none_or(|entry| entry.as_str() == "HOME=") {
        let value = format!("HOME={}", home_of(uid));
        match home {
            Some(entry) => *entry = value,
            None => result.push(value),
        }
    }
    result
}

fn name(entry: &str) -> &str {
    entry.split_once('=').map_or(entry, |(name, _)| name)
}

/// The home directory of a user in the container's list. `/` if the list has none, as in runc.
fn home_of(uid: u32) -> String {
    let passwd = container_path::read(Path::new(PASSWD), PASSWD_BYTES).unwrap_or_default();
    find(&passwd, uid).unwrap_or_else(|| "/".to_owned())
}

fn find(passwd: &[u8], uid: u32) -> Option<String> {
    let lines = passwd.split(|byte| *byte == b'\n').filter_map(|line| str::from_utf8(line).ok());
    lines
        .map(|line| line.split(':').collect::<Vec<_>>())
        .filter(|fields| fields.get(2).is_some_and(|id| id.parse() == Ok(uid)))
        .find_map(|fields| {
            fields.get(5).filter(|home| !home.is_empty()).map(|home| (*home).to_owned())
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(env: &[&str]) -> Vec<String> {
        env.iter().map(|entry| (*entry).to_owned()).collect()
    }

    #[test]
    fn the_environment_keeps_its_order_and_the_last_value() {
        let listed = with(&["B=1", "A=2", "B=3", "HOME=/h"]);
        assert_eq!(complete(&listed, 0), ["B=3", "A=2", "HOME=/h"]);
    }

    #[test]
    fn a_missing_or_empty_home_comes_from_passwd() {
        assert_eq!(complete(&with(&["A=1"]), 0), ["A=1", "HOME=/root"]);
        assert_eq!(complete(&with(&["HOME=", "A=1"]), 0), ["HOME=/root", "A=1"]);
        assert_eq!(complete(&with(&[]), 3_999_999_999), ["HOME=/"]);
    }

    #[test]
    fn a_line_that_is_not_text_is_passed_over() {
        let passwd = b"\xff:x:7:7::/no:\nseven:x:7:7::/home/seven:\n";
        assert_eq!(find(passwd, 7).as_deref(), Some("/home/seven"));
    }
}
