//! The command lines of an OCI runtime, as runc and crun understand them alike.
//!
//! Pure: arguments in, arguments out. See RUNC.md for what each is used for.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use shim_sdk::ContainerId;

use crate::options::CheckpointOptions;

/// What every command line begins with.
#[derive(Debug, Clone)]
pub(super) struct Global<'a> {
    /// Where the runtime keeps its records.
    pub(super) root: &'a Path,
    /// Let systemd make the cgroups.
    pub(super) systemd_cgroup: bool,
}

/// Where a process finds its console, for one with a terminal.
type ConsoleSocket<'a> = Option<&'a Path>;

/// One of the runtime's commands.
#[derive(Debug)]
pub(super) enum Command<'a> {
    Create {
        id: &'a ContainerId,
        bundle: &'a Path,
        pid_file: &'a Path,
        console_socket: ConsoleSocket<'a>,
        no_pivot: bool,
        no_new_keyring: bool,
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
        id: &'a ContainerId,
        image: &'a Path,
        work: &'a Path,
        options: &'a CheckpointOptions,
    },
    Restore {
        id: &'a ContainerId,
        bundle: &'a Path,
        pid_file: &'a Path,
        console_socket: ConsoleSocket<'a>,
        image: &'a Path,
        work: &'a Path,
        no_pivot: bool,
    },
}

impl Command<'_> {
    /// All arguments after the program's name.
    pub(super) fn arguments(&self, global: &Global<'_>, log: &Path) -> Vec<OsString> {
        let mut line = Line::default();
        line.option("--root", global.root).option("--log", log).option("--log-format", "json");
        line.flag("--systemd-cgroup", global.systemd_cgroup);
        match self {
            Self::Create { id, bundle, pid_file, console_socket, no_pivot, no_new_keyring } => line
                .word("create")
                .option("--bundle", bundle)
                .option("--pid-file", pid_file)
                .maybe("--console-socket", *console_socket)
                .flag("--no-pivot", *no_pivot)
                .flag("--no-new-keyring", *no_new_keyring)
                .word(id.as_str()),
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
            Self::Checkpoint { id, image, work, options } => line
                .word("checkpoint")
                .option("--image-path", image)
                .option("--work-path", work)
                .flag("--leave-running", !options.exit)
                .flag("--tcp-established", options.open_tcp)
                .flag("--ext-unix-sk", options.external_unix_sockets)
                .flag("--shell-job", options.terminal)
                .flag("--file-locks", options.file_locks)
                .maybe(
                    "--manage-cgroups-mode",
                    Some(options.cgroups_mode.as_str()).filter(|mode| !mode.is_empty()),
                )
                .each("--empty-ns", &options.empty_namespaces)
                .word(id.as_str()),
            Self::Restore { id, bundle, pid_file, console_socket, image, work, no_pivot } => line
                .word("restore")
                .option("--image-path", image)
                .option("--work-path", work)
                .option("--bundle", bundle)
                .option("--pid-file", pid_file)
                .maybe("--console-socket", *console_socket)
                .flag("--no-pivot", *no_pivot)
                // The shim reaps what the restored processes leave.
                .word("--detach")
                .word("--no-subreaper")
                .word(id.as_str()),
        };
        line.0
    }
}

/// A command line being put together.
#[derive(Default)]
struct Line(Vec<OsString>);

impl Line {
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

    fn line(command: &Command<'_>, systemd_cgroup: bool) -> String {
        let global = Global { root: Path::new("/run/r/ns"), systemd_cgroup };
        let words = command.arguments(&global, Path::new("/b/log.json"));
        words.iter().map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" ")
    }

    const GLOBAL: &str = "--root /run/r/ns --log /b/log.json --log-format json";

    #[test]
    fn create_and_exec_carry_what_they_were_asked_for() {
        let id = ContainerId::new("c1").unwrap();
        let create = Command::Create {
            id: &id,
            bundle: Path::new("/b"),
            pid_file: Path::new("/b/init.pid"),
            console_socket: Some(Path::new("/t/s")),
            no_pivot: true,
            no_new_keyring: true,
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
            line(
                &Command::Checkpoint {
                    id: &id,
                    image: Path::new("/i"),
                    work: Path::new("/w"),
                    options,
                },
                false,
            )
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
        let restore = Command::Restore {
            id: &id,
            bundle: Path::new("/b"),
            pid_file: Path::new("/b/init.pid"),
            console_socket: None,
            image: Path::new("/i"),
            work: Path::new("/w"),
            no_pivot: false,
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
