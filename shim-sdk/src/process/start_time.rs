//! When the kernel started a process: with its pid, what tells it from every other.

use std::fs;

use crate::Pid;

/// Clock ticks between boot and the process's start; `None` once it is gone. See proc(5), stat.
pub(crate) fn start_time(pid: Pid) -> Option<u64> {
    parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse(stat: &str) -> Option<u64> {
    // The second field is the program's name in parentheses, and may hold spaces and parentheses.
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_ascii_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4242 1000 1 18446";
        assert_eq!(parse(stat), Some(4242));
    }

    #[test]
    fn this_process_has_a_start_time() {
        assert!(start_time(Pid::this()).is_some());
    }
}
