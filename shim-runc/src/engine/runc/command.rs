//! The command lines of an OCI runtime that runc and crun both accept.
//!
//! This module only builds arguments. RUNC.md says which command and option is used when.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use shim_sdk::ContainerId;

use crate::engine::{CheckpointRequest, CreateRequest, RestoreRequest};

/// The global options, which every command line begins with.
#[derive(Debug, Clone)]
pub(super) struct Global<'a> {
    /// The directory of the runtime's state.
    pub(super) root: &'a Path,
    /// Let systemd create the cgroups.
    pub(super) systemd_cgroup: bool,
}

/// The socket that the runtime sends the terminal to, for a process with a terminal.
type ConsoleSocket<'a> = Option<&'a Path>;

/// One of the runtime's commands.
#[derive(Debug)]
pub(super) enum Command<'a> {
    Create {
        request: &'a CreateRequest<'a>,
        pid_file: &'a Path,
        console_socket: ConsoleSocket<'a>,
    },
    Start {
        id: &'a ContainerId,
    },
    Exec {
        container: &'a ContainerId,
        process: &'a Path,
        pid_file: &'a Path,
        console_socket: ConsoleSocket<'a>,
    },
    Delete {
        id: &'a ContainerId,
        force: bool,
    },
    Pause {
        id: &'a ContainerId,
    },
    Resume {
        id: &'a ContainerId,
    },
    Update {
        id: &'a ContainerId,
        resources: &'a Path,
    },
    Checkpoint {
        request: &'a CheckpointRequest<'a>,
    },
    Restore {
        request: &'a RestoreRequest<'a>,
        pid_file: &'a Path,
        console_socket: ConsoleSocket<'a>,
    },
}

impl Command<'_> {
    /// All arguments after the program's name.
    pub(super) fn arguments(&self, global: &Global<'_>, log: &Path) -> Vec<OsString> {
        let mut line = CommandLine::default();
        line.option("--root", global.root).option("--log", log).option("--log-format", "json");
        line.flag("--systemd-cgroup", global.systemd_cgroup);
        match self {
            Self::Create { request, pid_file, console_socket } => line
                .word("create")
                .option("--bundle", request.bundle)
                .option("--pid-file", pid_file)
                .maybe("--console-socket", *console_socket)
                .flag("--no-pivot", request.no_pivot_root)
                .flag("--no-new-keyring", request.no_new_keyring)
                .word(request.id.as_str()),
            Self::Start { id } => line.word("start").word(id.as_str()),
            Self::Exec { container, process, pid_file, console_socket } => line
                .word("exec")
                .option("--process", process)
                .option("--pid-file", pid_file)
                .maybe("--console-socket", *console_socket)
                .word("--detach")
                .word(container.as_str()),
            Self::Delete { id, force } => {
                line.word("delete").flag("--force", *force).word(id.as_str())
            }
            Self::Pause { id } => line.word("pause").word(id.as_str()),
            Self::Resume { id } => line.word("resume").word(id.as_str()),
            Self::Update { id, resources } => {
                line.word("update").option("--resources", resources).word(id.as_str())
            }
            Self::Checkpoint { request } => line
                .word("checkpoint")
                .option("--image-path", request.image)
                .option("--work-path", request.work)
                .flag("--leave-running", !request.options.exit)
                .flag("--tcp-established", request.options.open_tcp)
                .flag("--ext-unix-sk", request.options.external_unix_sockets)
                .flag("--shell-job", request.options.terminal)
                .flag("--file-locks", request.options.file_locks)
                .maybe(
                    "--manage-cgroups-mode",
                    Some(request.options.cgroups_mode.as_str()).filter(|mode| !mode.is_empty()),
                )
                .each("--empty-ns", &request.options.empty_namespaces)
                .word(request.id.as_str()),
            Self::Restore { request, pid_file, console_socket } => line
                .word("restore")
                .option("--image-path", request.image)
                .option("--work-path", request.work)
                .option("--bundle", request.bundle)
                .option("--pid-file", pid_file)
                .maybe("--console-socket", *console_socket)
                .flag("--no-pivot", request.no_pivot_root)
                // The shim is the subreaper of the restored processes.
                .word("--detach")
                .word("--no-subreaper")
                .word(request.id.as_str()),
        };
        line.0
    }
}

/// A command line that is being built.
#[derive(Default)]
struct CommandLine(Vec<OsString>);

impl CommandLine {
    fn word(&mut self, word: impl AsRef<OsStr>) -> &mut Self {
        self.0.push(word.as_ref().to_owned());
        self
    }

    fn option(&mut self, name: &str, value: impl AsRef<OsStr>) -> &mut Self {
        self.word(name).word(value)
    }

    fn maybe(&mut self, name: &str, value: Option<impl AsRef<OsStr>>) -> &mut Self {
        match value {
            Some(value) => self.option(name, value),
            None => self,
        }
    }

    fn each(&mut self, name: &str, values: &[String]) -> &mut Self {
        for value in values {
            self.option(name, value);
        }
        self
    }

    fn flag(&mut self, name: &str, set: bool) -> &mut Self {
        if set { self.word(name) } else { self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::CheckpointOptions;

    fn line(command: &Command<'_>, systemd_cgroup: bool) -> String {
        let global = Global { root: Path::new("/run/r/ns"), systemd_cgroup };
        let words = command.arguments(&global, Path::new("/b/log.json"));
        words.iter().map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" ")
    }

    const GLOBAL: &str = "--root /run/r/ns --log /b/log.json --log-format json";

    #[test]
    fn create_and_exec_carry_what_they_were_asked_for() {
        let id = ContainerId::new("c1").unwrap();
        let request = CreateRequest {
            id: &id,
            bundle: Path::new("/b"),
            no_pivot_root: true,
            no_new_keyring: true,
        };
        let create = Command::Create {
            request: &request,
            pid_file: Path::new("/b/init.pid"),
            console_socket: Some(Path::new("/t/s")),
        };
        assert_eq!(
            line(&create, true),
            format!(
                "{GLOBAL} --systemd-cgroup create --bundle /b --pid-file /b/init.pid \
                 --console-socket /t/s --no-pivot --no-new-keyring c1"
            )
        );
        let exec = Command::Exec {
            container: &id,
            process: Path::new("/b/p"),
            pid_file: Path::new("/b/e1.pid"),
            console_socket: None,
        };
        assert_eq!(
            line(&exec, false),
            format!("{GLOBAL} exec --process /b/p --pid-file /b/e1.pid --detach c1")
        );
    }

    #[test]
    fn delete_is_forced_only_on_request() {
        let id = ContainerId::new("c1").unwrap();
        assert_eq!(
            line(&Command::Delete { id: &id, force: false }, false),
            format!("{GLOBAL} delete c1")
        );
        assert_eq!(
            line(&Command::Delete { id: &id, force: true }, false),
            format!("{GLOBAL} delete --force c1")
        );
    }

    #[test]
    fn a_checkpoint_leaves_the_container_running_unless_it_is_to_exit() {
        let id = ContainerId::new("c1").unwrap();
        let options = CheckpointOptions {
            open_tcp: true,
            empty_namespaces: vec!["network".into()],
            cgroups_mode: "soft".into(),
            ..CheckpointOptions::default()
        };
        let checkpoint = |options: &CheckpointOptions| {
            let (image, work) = (Path::new("/i"), Path::new("/w"));
            let request = CheckpointRequest { id: &id, image, work, options };
            line(&Command::Checkpoint { request: &request }, false)
        };
        assert_eq!(
            checkpoint(&options),
            format!(
                "{GLOBAL} checkpoint --image-path /i --work-path /w --leave-running \
                 --tcp-established --manage-cgroups-mode soft --empty-ns network c1"
            )
        );
        let options = CheckpointOptions { exit: true, ..CheckpointOptions::default() };
        assert_eq!(
            checkpoint(&options),
            format!("{GLOBAL} checkpoint --image-path /i --work-path /w c1")
        );
    }

    #[test]
    fn a_restore_detaches_and_leaves_reaping_to_the_shim() {
        let id = ContainerId::new("c1").unwrap();
        let request = RestoreRequest {
            id: &id,
            bundle: Path::new("/b"),
            image: Path::new("/i"),
            work: Path::new("/w"),
            no_pivot_root: false,
        };
        let restore = Command::Restore {
            request: &request,
            pid_file: Path::new("/b/init.pid"),
            console_socket: None,
        };
        assert_eq!(
            line(&restore, false),
            format!(
                "{GLOBAL} restore --image-path /i --work-path /w --bundle /b --pid-file \
                 /b/init.pid --detach --no-subreaper c1"
            )
        );
    }
}
