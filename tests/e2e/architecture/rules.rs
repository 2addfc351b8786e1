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
];

pub(super) struct Imports {
    pub(super) of: &'static str,
    pub(super) allowed: Option<&'static [(&'static str, &'static [&'static str])]>,
    pub(super) reason: &'static str,
}

/// A crate that every crate may have as a dependency of its tests.
pub(super) const OF_TESTS: &str = "fuzz";

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

/// The crates of generated messages and of their encoding.
const MESSAGES: &[&str] =
    &["protos", "containerd_shim_protos", "prost", "prost_types", "protobuf", "ttrpc"];

/// Parts of these crates that are not generated.
pub(super) const DOMAIN: &[&[&str]] = &[&["protos", "any"]];

pub(super) struct Place {
    pub(super) of: &'static str,
    pub(super) names: &'static [&'static str],
    /// Folders and files below the crate's `src/`.
    pub(super) allowed: &'static [&'static str],
    pub(super) reason: &'static str,
}
