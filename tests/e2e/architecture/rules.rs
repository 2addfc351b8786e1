//! The rules as tables, each row with its reason.

/// Which crate may import which of ours, with which features; `None` is any.
///
/// `default` stands for a crate that has no features. `.github/CONTRIBUTING.md` shows the same table.
pub(super) const IMPORTS: &[Imports] = &[
    Imports { of: "protos", allowed: Some(&[]), reason: "it decides nothing" },
    Imports { of: "installer", allowed: Some(&[]), reason: "it is useful alone" },
    Imports {
        of: "shim-sdk",
        allowed: Some(&[("protos", &["ttrpc"])]),
        reason: "a shim should link little",
    },
    Imports {
        of: "shim-runc",
        allowed: Some(&[("shim-sdk", &["serve"])]),
        reason: "a runtime sees domain types, no wire types",
    },
    Imports {
        of: "supervisor",
        allowed: Some(&[
            ("protos", &["grpc", "ttrpc"]),
            ("installer", &["default"]),
            ("shim-sdk", &[]),
        ]),
        reason: "it meets a shim as a process and a socket, and never links one",
    },
    Imports { of: "tests", allowed: None, reason: "nothing imports it" },
    Imports { of: "examples", allowed: None, reason: "nothing imports it" },
    Imports { of: "fuzz", allowed: Some(&[]), reason: "targets are unit tests of the crates" },
    Imports {
        of: "conformance",
        allowed: Some(&[("shim-sdk", &[])]),
        reason: "its suites are in domain types, and run on what a crate or a daemon has",
    },
];

pub(super) struct Imports {
    pub(super) of: &'static str,
    pub(super) allowed: Option<&'static [(&'static str, &'static [&'static str])]>,
    pub(super) reason: &'static str,
}

/// Crates that every crate may have as a dependency of its tests.
pub(super) const OF_TESTS: &[&str] = &["fuzz", "conformance"];

/// Where the names of a library may stand in a crate.
pub(super) const PLACES: &[Place] = &[
    Place {
        of: "shim-sdk",
        names: MESSAGES,
        allowed: &["wire/", "messages.rs", "command/"],
        reason: "a runtime sees domain types; `command/` prints messages on standard output",
    },
    Place {
        of: "supervisor",
        names: MESSAGES,
        allowed: &["api/", "cli/", "task/shim_client/", "task/event_server.rs", "any.rs"],
        reason: "the domain keeps its types when a wire changes; the others speak gRPC or ttrpc",
    },
    Place {
        of: "supervisor",
        names: &["tonic", "tonic_prost"],
        allowed: &["api/", "cli/", "daemon/"],
        reason: "`daemon/` opens the server and the connections to it; the domain knows no gRPC",
    },
];

/// What the files of a folder may need of their own crate.
pub(super) const FOLDERS: &[Folder] = &[Folder {
    of: "supervisor",
    folder: "cli/",
    allowed: &[
        "api/mod.rs",
        "config.rs",
        "content/digest.rs",
        "content/mod.rs",
        "daemon/",
        "daemon.rs",
        "error.rs",
        "image/",
        "creator.rs",
        "text.rs",
    ],
    reason: "a command is a client of the API; it does not know the daemon's state or directories",
}];

/// The crates of generated messages and of their encoding.
const MESSAGES: &[&str] =
    &["protos", "containerd_shim_protos", "prost", "prost_types", "protobuf", "ttrpc"];

/// Parts of these crates that are not generated.
pub(super) const DOMAIN: &[&[&str]] = &[&["protos", "any"]];

pub(super) struct Folder {
    pub(super) of: &'static str,
    pub(super) folder: &'static str,
    /// Folders and files below the crate's `src/`, as in [`Place`].
    pub(super) allowed: &'static [&'static str],
    pub(super) reason: &'static str,
}

pub(super) struct Place {
    pub(super) of: &'static str,
    pub(super) names: &'static [&'static str],
    /// Folders and files below the crate's `src/`.
    pub(super) allowed: &'static [&'static str],
    pub(super) reason: &'static str,
}

/// What product code takes from nix; every other call is rustix's.
///
/// A path stands for all that begins with it.
pub(super) const NIX: &[(&str, &str)] = &[
    ("nix::fcntl::Flock", "a lock that its owner's drop releases; rustix has the call alone"),
    ("nix::mount", "mount(2) with the flags of a specification's options, by path"),
    ("nix::errno::Errno", "the error of nix's calls"),
    ("nix::Error", "the error of nix's calls"),
    ("nix::Result", "the result of nix's calls"),
    ("nix::unistd::mkfifo", "rustix has mknodat(2) alone"),
    ("nix::unistd::mkdtemp", "rustix has none"),
    ("nix::unistd::execve", "rustix has none that takes C strings"),
    ("nix::unistd::setgroups", "of all threads; rustix has the thread's own"),
    ("nix::sys::signal", "handlers and sets of signals; rustix leaves them to libc"),
    ("nix::sys::stat", "the mode of mkfifo(3), and umask(2)"),
    ("nix::sys::termios", "the modes of a terminal, as termios(3) names them"),
    ("nix::sched", "unshare(2), which is unsafe in rustix"),
    ("nix::ioctl_read_bad", "an ioctl that no library wraps; in a `sys` file"),
    ("nix::libc", "the number of that ioctl"),
];
