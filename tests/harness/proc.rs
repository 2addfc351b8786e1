//! What the kernel shows of processes. See proc(5).

use std::fs;
use std::str::FromStr;

/// A field of a process's `stat`, by its number in proc_pid_stat(5), from the third on; `None` when
/// the process is gone or the field is no `T`.
#[must_use]
pub fn stat<T: FromStr>(pid: i32, number: usize) -> Option<T> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second is a name, which may have anything in it.
    let after_name = stat.rsplit_once(") ")?.1;
    after_name.split_whitespace().nth(number.checked_sub(3)?)?.parse().ok()
}

/// The children of a process.
#[must_use]
pub fn children(parent: i32) -> Vec<i32> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| stat(*pid, 4) == Some(parent))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_have_the_manuals_numbers() {
        let me = i32::try_from(std::process::id()).expect("a pid");
        assert!(stat(me, 3).is_some_and(|state: char| "RS".contains(state)));
        assert_eq!(stat(me, 4), Some(nix::unistd::getppid().as_raw()));
        assert_eq!(stat::<i32>(me, 2), None);
        assert_eq!(stat::<i32>(0, 4), None);
    }
}
