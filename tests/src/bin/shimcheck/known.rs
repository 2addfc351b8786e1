//! What is on record for the shim that containerd itself ships.
//!
//! A row that is broken there and listed here is reported as known, with the record: what was
//! measured on containerd 1.6.20's shim, or the issue in which users met it.

/// What is on record for a row.
pub(crate) fn record(row: &str) -> Option<&'static str> {
    RECORDS.iter().find(|(id, _)| *id == row).map(|(_, record)| *record)
}

const RECORDS: &[(&str, &str)] = &[
    (
        "start-without-log",
        "1.6.20: the server opens `log` first and ends when it cannot; containerd always makes it",
    ),
    (
        "start-log-unread",
        "1.6.20: the server opens `log` for writing and waits for a reader; containerd opens it before",
    ),
    (
        "connections",
        "1.6.20: a connection that ends within a frame, or begins with nonsense, keeps its descriptor",
    ),
    (
        "exec-after-exit",
        "1.6.20: UNKNOWN with runc's words; refusing new execs by code came later (#9828, #10651)",
    ),
    (
        "exec-bad-spec",
        "1.6.20: an exec without a spec is used without a look, and the shim dies of it",
    ),
    (
        "exec-shared-order",
        "1.6.20: init's exit is published before its execs' exits; fixed later (#9828, #10651)",
    ),
    (
        "exec-pid-reuse",
        "1.6.20: exits are matched by the process id alone, and where it comes back one is never \
         told: 6 of 6 runs, none of 3 with numbers that are new",
    ),
    (
        "events-down",
        "1.6.20: each event is requeued on a timer of its own, which reorders them (publisher.go)",
    ),
    (
        "events-long-down",
        "1.6.20: requeued at most five times, each on a timer of its own: reordered, then dropped \
         (publisher.go; #6771, #3177)",
    ),
    (
        "bundle-gone",
        "1.6.20: a server waits for Shutdown for good, whatever became of its bundle (#6860, #10437)",
    ),
    ("stdio-some", "1.6.20: every path is opened as a fifo, the empty one too"),
    ("stdio-file-two", "1.6.20: the file of stdout is used for both"),
    (
        "stdio-file-shared",
        "1.6.20, now and then: the end of stdout closes the file under stderr, since only stderr \
         counts as its user (pkg/process/io.go, copyPipes)",
    ),
    ("stdio-file-alone", "1.6.20: the shim dies in Create"),
    (
        "stdio-binary-unready",
        "1.6.20: Create waits for the logger under the service's lock (#12490, #8557)",
    ),
    (
        "stdio-missing-fifo",
        "1.6.20: streams are opened after `runc create`, and nothing deletes the container when \
         that fails (#4905)",
    ),
    (
        "stdio-unread-fifo",
        "1.6.20: fifos are opened blocking, under the service's lock (#4905, #8557)",
    ),
    (
        "deadline-create",
        "1.6.20: the runtime is killed at the deadline and what it had made stays \
         (#7496, #8931, #9309)",
    ),
    (
        "disconnect-create",
        "1.6.20: as for a deadline, the runtime is killed and what it had made stays (#10437)",
    ),
    ("crash-started", "1.6.20: delete needs the file `runtime`, which Create writes"),
    (
        "crash-mid-create",
        "1.6.20: what runc had made before its state file stays, cgroups first of all (#6860)",
    ),
    ("crash-exit-kept", "1.6.20: delete always says 137 (#4769, #6429; kept since #14113)"),
    ("crash-socket", "1.6.20: delete leaves the socket where it is"),
    (
        "runtime-stale-message",
        "1.6.20: log.json is shared and appended to, so an old error can win",
    ),
    ("runtime-create-hang", "1.6.20: Create holds the service's lock (#8557, fixed by #13483)"),
    ("runtime-start-hang", "1.6.20: Start holds the process's lock, which State wants (#8557)"),
    ("runtime-exec-hang", "1.6.20: an exec's Start holds the container's lock (#2709, #9999)"),
    ("state-during-create", "1.6.20: Create holds the service's lock (#8557, fixed by #13483)"),
];

#[cfg(test)]
mod tests {
    use super::RECORDS;
    use crate::rows;

    #[test]
    fn every_record_is_of_a_row_that_there_is() {
        let ids: Vec<&str> = rows::all().iter().map(|row| row.id).collect();
        for (id, _) in RECORDS {
            assert!(ids.contains(id), "{id} is on record, and no row");
        }
    }
}
