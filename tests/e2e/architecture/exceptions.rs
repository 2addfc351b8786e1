//! What breaks a rule today, each with its reason. A row that is no longer needed fails the tests.

use super::Rule;

pub(super) struct Exception {
    pub(super) rule: Rule,
    /// As the test prints it.
    pub(super) what: &'static str,
    pub(super) reason: &'static str,
}

const fn except(rule: Rule, what: &'static str, reason: &'static str) -> Exception {
    Exception { rule, what, reason }
}

const EARLIER: &str = "written before the rule; rustix has the same call";

pub(super) const EXCEPTIONS: &[Exception] = &[
    except(
        Rule::Place,
        "supervisor/src/container.rs names prost",
        "the extensions of a container are stored as a message of our own",
    ),
    except(
        Rule::Place,
        "supervisor/src/daemon/autostart.rs names protos",
        "it asks a daemon that it started whether it answers, by a call of the API",
    ),
    except(
        Rule::Place,
        "supervisor/src/error.rs names tonic",
        "the error of the process holds the cause of the server's",
    ),
    except(
        Rule::Place,
        "supervisor/src/lease.rs names prost_types",
        "prost-types parses RFC 3339; a calendar of our own would be a second one",
    ),
    except(
        Rule::Place,
        "supervisor/src/task/shim_command.rs names prost",
        "it writes and reads messages on a shim's standard input and output",
    ),
    except(
        Rule::Place,
        "supervisor/src/task/shim_command.rs names protos",
        "it writes and reads messages on a shim's standard input and output",
    ),
    except(
        Rule::Place,
        "supervisor/src/transfer/import.rs names prost_types",
        "prost-types prints RFC 3339; a calendar of our own would be a second one",
    ),
    except(
        Rule::Unsafe,
        "shim-runc/src/engine/libcontainer/tests/fixture.rs",
        "runs the helper before the test harness has a thread; no product code",
    ),
    except(Rule::SystemCall, "shim-sdk: nix::cmsg_space", EARLIER),
    except(Rule::SystemCall, "shim-sdk: nix::sys::prctl", EARLIER),
    except(Rule::SystemCall, "shim-sdk: nix::sys::socket", EARLIER),
    except(Rule::SystemCall, "shim-sdk: nix::unistd::chdir", EARLIER),
    except(Rule::SystemCall, "shim-sdk: nix::unistd::geteuid", EARLIER),
    except(Rule::SystemCall, "supervisor: nix::fcntl", EARLIER),
    except(Rule::SystemCall, "supervisor: nix::poll", EARLIER),
    except(Rule::SystemCall, "supervisor: nix::sys::resource", EARLIER),
    except(Rule::SystemCall, "supervisor: nix::sys::utsname", EARLIER),
    except(Rule::SystemCall, "supervisor: nix::unistd::dup2_stderr", EARLIER),
    except(Rule::SystemCall, "supervisor: nix::unistd::dup2_stdout", EARLIER),
    except(Rule::SystemCall, "supervisor: nix::unistd::geteuid", EARLIER),
    except(Rule::SystemCall, "supervisor: nix::unistd::read", EARLIER),
    except(Rule::SystemCall, "supervisor: nix::unistd::setsid", EARLIER),
    except(Rule::SystemCall, "supervisor: nix::unistd::write", EARLIER),
    except(
        Rule::Dependency,
        "protos: tonic-prost (normal)",
        "the code that the build script generates names it",
    ),
];
