//! The known differences from runc, each with its reason; RUNC.md lists them.
//!
//! A pattern is the beginning of what it matches. One that matches nothing in a whole run is out of
//! date, and the run fails.

use crate::compare::Difference;
use crate::host::Hierarchy;

/// A difference that is not a failure.
pub(crate) struct Known {
    /// Which cases, alone or in a combination.
    pub(crate) case: &'static str,
    /// Which places in the observation, of init or of an exec.
    pub(crate) place: &'static str,
    /// Why.
    pub(crate) why: &'static str,
    /// Whether it shows every time.
    pub(crate) always: bool,
    /// The only control groups with which it does, where it is about them.
    pub(crate) host: Option<Hierarchy>,
}

impl Known {
    /// Whether it must be seen where everything is run that a host runs.
    pub(crate) fn shows_on(&self, host: Hierarchy) -> bool {
        self.always && self.host.unwrap_or(Hierarchy::V1) == host
    }

    /// The specs in which it is seen, in words.
    pub(crate) fn specs(&self) -> String {
        match (self.case, self.host) {
            ("", Some(Hierarchy::V1)) => "all, on cgroup v1".to_owned(),
            ("", Some(Hierarchy::V2)) => "all, on cgroup v2".to_owned(),
            ("", None) => "all".to_owned(),
            (case, _) => case.to_owned(),
        }
    }
}

const fn known(case: &'static str, place: &'static str, why: &'static str) -> Known {
    Known { case, place, why, always: true, host: None }
}

const fn on(host: Hierarchy, case: &'static str, place: &'static str, why: &'static str) -> Known {
    Known { case, place, why, always: true, host: Some(host) }
}

const fn sometimes(case: &'static str, place: &'static str, why: &'static str) -> Known {
    Known { case, place, why, always: false, host: None }
}

const UNNAMED: &str = "a container joins the groups of controllers; in named hierarchies \
    (systemd's) and in a hybrid host's version 2 it stays in its shim's";
const SYS: &str = "sysfs is read-only by its mount, in runc by its file system too, which is \
    another error to those who could not write anyhow";
const MODE: &str = "a tmpfs has the mode that its options say, or else that of the directory below, \
    which is an option too, as in runc 1.2; runc 1.1 gives it that of the directory afterwards";
const OURS_CAN: &str = "done as the specification says, where runc 1.1 does not";
const SCORE: &str = "without a score in the spec it is inherited, here from a shim, whose own is \
    one above the daemon's";

/// All of them.
pub(crate) const KNOWN: &[Known] = &[
    sometimes(
        "rlimits",
        "limits NOFILE",
        "as the spec says; in runc the Go runtime now and then raises the soft limit",
    ),
    known("oom score: 500", "oom", "a score of the exec's own is set; runc 1.1 gives it init's"),
    known("", "oom", SCORE),
    on(Hierarchy::V1, "", "outside in ", UNNAMED),
    on(Hierarchy::V1, "", "cgroup", UNNAMED),
    known(
        "mount kinds: cgroup",
        "mounts /sys/fs/cgroup/systemd",
        "a named hierarchy, in which \
        the container has no group, is not shown to it",
    ),
    known("", "mounts /sys #0 super", SYS),
    known("", "paths /sys writable", SYS),
    known("", "paths /sys/fs/cgroup writable", SYS),
    known("mount options: size and mode", "paths /mnt mode", MODE),
    known("mount", "mounts /mnt #0 super", MODE),
    known(
        "rootfs propagation: unbindable",
        "outcome",
        "the root becomes unbindable after everything is mounted; runc fails over bind mounts",
    ),
    known("mount points: through a link", "mounts /mnt/inner #0 super", MODE),
    known("mount points: through a link that leads out", "mounts /etc #0 super", MODE),
    known(
        "mount points: in proc",
        "outcome",
        "refused, as by runc 1.2: only what is in its list is mounted over anything in /proc",
    ),
    known(
        "mount kinds: cgroup",
        "mounts /sys/fs/cgroup #0 options",
        "read-only as a whole where that was asked for; in runc 1.1 the directory of the \
        hierarchies is not",
    ),
    known(
        "mount options: defaults",
        "outcome",
        "the word is taken to say nothing; runc hands it \
        to the file system",
    ),
    known("bind mounts: by its type alone", "outcome", "bound; runc looks at the options alone"),
    known(
        "bind mounts: idmapped",
        "outcome",
        "refused: this engine has no idmapped mounts; runc 1.1 ignores the mappings",
    ),
    known(
        "bind mounts: of one file",
        "env",
        "a passwd without the user gives / as HOME; runc \
        gives nothing",
    ),
    known("mount kinds: no mounts", "outcome", "runs without /proc; runc cannot"),
    known("mount propagation: rshared, below a shared root", "mounts / #0 peers", OURS_CAN),
    known("mount propagation: rprivate, below a shared root", "mounts / #0 peers", OURS_CAN),
    known("rootfs propagation: ", "mounts / #0 peers", OURS_CAN),
    known(
        "root file system: by a path with dots",
        "outcome",
        "refused: a name before `..` must \
        exist",
    ),
    known(
        "masked paths: what is not there",
        "outcome",
        "skipped; runc fails over a file that is \
        taken for a directory",
    ),
    known("devices: no path", "outcome", "refused"),
    known("", "dev /dev/mqueue", "in a user namespace its group is root's; in runc nobody's"),
    known(
        "command: text without an interpreter",
        "outcome",
        "start fails and tells why; with \
        runc init ends with 1",
    ),
    known(
        "command: a NUL in an argument",
        "outcome",
        "refused at create; with runc init ends \
        with 1",
    ),
    known("version: 2.0.0", "outcome", "refused"),
    known("version: none", "outcome", "refused"),
    known("version: nonsense", "outcome", "refused"),
    known("environment: without a", "outcome", "passed on as it is; runc refuses"),
    known("user and groups: groups twice", "ids groups", "given twice, as listed"),
    known("user and groups: the highest", "outcome", "taken; runc ends at 2147483647"),
    known("umask: ", "umask", "an exec has the mask that its own spec says; runc 1.1 ignores it"),
    known("names: domain name", "name domain", OURS_CAN),
    known("names: domain name", "sysctl kernel/domainname", OURS_CAN),
    known("personality: 32 bits", "name machine", OURS_CAN),
    known("scheduler: batch", "nice", OURS_CAN),
    known("capabilities: an unknown one", "outcome", "refused; runc leaves it out"),
    known("seccomp: flags", "outcome", OURS_CAN),
    known("namespaces, new or the host's: a time namespace", "outcome", OURS_CAN),
    known(
        "namespaces, new or the host's: offsets without a time namespace",
        "outcome",
        "refused; \
        runc 1.1 ignores them",
    ),
    known("namespaces, joined: time", "outcome", OURS_CAN),
    known(
        "user namespace: of two ranges",
        "outcome",
        "refused: libcontainer leaves several \
        ranges to newuidmap(1) and does not look at its exit",
    ),
    known(
        "user namespace: mappings without the namespace",
        "outcome",
        "refused; runc ignores them",
    ),
    known("cgroup v1: memory: for sockets", "outside values memory.kmem", OURS_CAN),
    known(
        "cgroup v1: cpu: hardly any shares",
        "outcome",
        "the kernel's least is taken; runc \
        refuses",
    ),
    known("cgroup v1: cpu: a burst", "outside values cpu.cfs_burst_us", OURS_CAN),
    known("cgroup v1: cpu: idle", "outside values cpu.", OURS_CAN),
    on(Hierarchy::V2, "cgroup v2: cpu: a burst", "outside values cpu.max.burst", OURS_CAN),
    on(Hierarchy::V2, "cgroup v2: cpu: idle", "outside values cpu.", OURS_CAN),
    on(Hierarchy::V2, "cgroup v2: cpu: realtime", "outcome", "refused; runc ignores it"),
    on(
        Hierarchy::V2,
        "cgroup v2: other: rdma",
        "outcome",
        "ignored where the host has no such device; runc refuses",
    ),
    on(Hierarchy::V2, "cgroup v2: path: with dots", "outcome", "refused"),
    known("cgroup path: with dots", "outcome", "refused"),
    known(
        "hooks: createContainer",
        "hooks #0 has pid",
        "init runs it itself, and does not know \
        its pid outside",
    ),
    known("hooks: startContainer", "hooks #0 has pid", "as createContainer"),
    known("hooks: all, in their order", "hooks #2 has pid", "as createContainer"),
    known("hooks: all, in their order", "hooks #3 has pid", "as createContainer"),
    known("hooks: ", "hooks #0 status", "poststart gets `running`; in runc 1.1 `created`"),
    known("hooks: all, in their order", "hooks #4 status", "as poststart"),
    known(
        "hooks that fail: startContainer",
        "outcome",
        "start fails and tells why; with runc \
        init ends with 1",
    ),
];

/// Single variations in which ours falls short of the specification.
const SHORTFALLS: &[&str] = &[
    // Refused, with a word why: see above.
    "user namespace: of two ranges",
    "bind mounts: idmapped by mappings",
];

/// The first that covers a difference.
pub(crate) fn find(host: Hierarchy, case: &str, difference: &Difference) -> Option<usize> {
    let place = difference.place.strip_prefix("exec ").unwrap_or(&difference.place);
    let parts: Vec<_> =
        match case.strip_prefix("combination ").and_then(|rest| rest.split_once(": ")) {
            Some((_, parts)) => parts.split(" + ").collect(),
            None => vec![case],
        };
    KNOWN.iter().position(|known| {
        known.host.is_none_or(|its| its == host)
            && parts.iter().any(|part| part.starts_with(known.case))
            && place.starts_with(known.place)
    })
}

/// Whether ours is known to fall short in a case.
pub(crate) fn falls_short(case: &str) -> bool {
    SHORTFALLS.contains(&case)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(place: &str) -> Difference {
        Difference { place: place.to_owned(), theirs: String::new(), ours: String::new() }
    }

    #[test]
    fn a_part_of_a_combination_is_known_as_it_is_alone() {
        let alone = find(Hierarchy::V1, "scheduler: batch", &at("nice"));
        assert!(alone.is_some());
        assert_eq!(
            find(Hierarchy::V1, "combination 7: umask: 0 + scheduler: batch", &at("nice")),
            alone
        );
        assert_eq!(find(Hierarchy::V1, "combination 7: umask: 0", &at("nice")), None);
    }

    #[test]
    fn an_exec_differs_as_init_does() {
        assert_eq!(
            find(Hierarchy::V1, "umask: 0", &at("exec umask")),
            find(Hierarchy::V1, "umask: 0", &at("umask"))
        );
        assert_eq!(find(Hierarchy::V1, "umask: 0", &at("caps effective")), None);
    }
}
