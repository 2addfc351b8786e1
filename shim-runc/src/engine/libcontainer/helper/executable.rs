//! Finds the command of a process, and reports why it cannot be executed.
//!
//! The texts are runc's: by them clients tell a missing command (exit status 127) from a command that is not
//! executable (126).
//!
//! Promise: the command is not found through a magic link of procfs. It is executed by its path, because the
//! interpreter of a script gets that path. A link that replaces it meanwhile reaches nothing of the host:
//! the process holds no descriptor of the host by then.
//! See execve(2), the OCI runtime specification on `process.args`.

use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, FileType, OFlags, accessat, fstat};
use rustix::io::Errno;

use super::super::wire::{Failure, Reason};
use super::container_path;
use crate::sys;

/// The path to execute for `command`, found with the rights of the calling process.
pub(super) fn find(command: &str, path_variable: Option<&str>) -> Result<PathBuf, Failure> {
    if command.is_empty() {
        return Err(not_found(command, "executable file not found in $PATH"));
    }
    if command.contains('/') {
        return match check(Path::new(command)) {
            Ok(()) => Ok(command.into()),
            Err(Errno::NOENT) => {
                Err(not_found(command, &format!("stat {command}: no such file or directory")))
            }
            Err(error) => Err(not_executable(command, error)),
        };
    }
    let mut found = None;
    for directory in path_variable.unwrap_or_default().split(':').filter(|entry| !entry.is_empty())
    {
        let candidate = Path::new(directory).join(command);
        match check(&candidate) {
            Ok(()) => return Ok(candidate),
            // A later directory may have a command that can be executed; otherwise this is the reason.
            Err(error @ (Errno::ACCESS | Errno::ISDIR)) => found = found.or(Some(error)),
            Err(_) => {}
        }
    }
    match found {
        Some(Errno::ACCESS) => Err(not_executable(command, Errno::ACCESS)),
        _ => {
            Err(not_found(command, "executable file not found in $PATH: no such file or directory"))
        }
    }
}

/// The failure of an execve(2) of a command that was found.
pub(super) fn failed(command: &str, error: nix::errno::Errno) -> Failure {
    use nix::errno::Errno;
    match error {
        // The interpreter of a script or of a dynamically linked program is missing.
        Errno::ENOENT => not_found(command, "no such file or directory"),
        Errno::EACCES | Errno::EPERM => not_executable(command, rustix::io::Errno::ACCESS),
        other => Failure::new(
            Reason::CommandNotExecutable,
            message(command, &other.desc().to_lowercase()),
        ),
    }
}

fn check(path: &Path) -> Result<(), Errno> {
    let file = container_path::open(path, OFlags::PATH)?;
    if FileType::from_raw_mode(fstat(&file)?.st_mode) == FileType::Directory {
        return Err(Errno::ISDIR);
    }
    match sys::process::may_execute(&file) {
        // Before 5.8.
        Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => {
            accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS)
        }
        other => other.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::ACCESS)),
    }
}

fn not_found(command: &str, why: &str) -> Failure {
    Failure::new(Reason::CommandNotFound, message(command, why))
}

fn not_executable(command: &str, error: Errno) -> Failure {
    let why = match error {
        Errno::ISDIR => "is a directory".to_owned(),
        Errno::ACCESS => "permission denied".to_owned(),
        other => nix::errno::Errno::from_raw(other.raw_os_error()).desc().to_lowercase(),
    };
    Failure::new(Reason::CommandNotExecutable, message(command, &why))
}

fn message(command: &str, why: &str) -> String {
    format!("unable to start container process: exec: {command:?}: {why}")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn reason(result: Result<PathBuf, Failure>) -> (Reason, String) {
        let failure = result.unwrap_err();
        (failure.reason, failure.message)
    }

    #[test]
    fn a_command_is_found_along_the_path() {
        assert_eq!(find("busybox", Some("/nonexistent:/bin")).unwrap(), Path::new("/bin/busybox"));
        assert_eq!(find("/bin/busybox", None).unwrap(), Path::new("/bin/busybox"));
    }

    #[test]
    fn a_missing_command_says_so_as_runc_does() {
        let (kind, text) = reason(find("nope", Some("/bin")));
        assert_eq!(kind, Reason::CommandNotFound);
        assert!(text.contains(r#"exec: "nope": executable file not found in $PATH"#), "{text}");
        let (kind, text) = reason(find("/nope", Some("/bin")));
        assert_eq!(kind, Reason::CommandNotFound);
        assert!(
            text.ends_with(r#"exec: "/nope": stat /nope: no such file or directory"#),
            "{text}"
        );
    }

    #[test]
    fn a_file_without_execute_permission_is_refused_even_for_root() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("data");
        fs::write(&file, "#!/bin/sh\n").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        let (kind, text) = reason(find(file.to_str().unwrap(), None));
        assert_eq!(kind, Reason::CommandNotExecutable);
        assert!(text.ends_with("permission denied"), "{text}");
        let (kind, _) = reason(find("data", folder.path().to_str()));
        assert_eq!(kind, Reason::CommandNotExecutable);
    }

    #[test]
    fn a_command_that_only_a_magic_link_leads_to_is_not_found() {
        let folder = tempfile::tempdir().unwrap();
        let bin = fs::File::open("/bin").unwrap();
        let magic = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&bin));
        std::os::unix::fs::symlink(format!("{magic}/busybox"), folder.path().join("tool")).unwrap();
        let (kind, text) = reason(find("tool", folder.path().to_str()));
        assert_eq!(kind, Reason::CommandNotFound, "{text}");
        for command in [format!("{magic}/busybox"), "/proc/self/exe".to_owned()] {
            let (kind, text) = reason(find(&command, None));
            assert_eq!(kind, Reason::CommandNotExecutable, "{text}");
        }
    }

    #[test]
    fn a_directory_is_not_a_command() {
        let (kind, text) = reason(find("/etc", None));
        assert_eq!(kind, Reason::CommandNotExecutable);
        assert!(text.ends_with(r#"exec: "/etc": is a directory"#), "{text}");
    }
}
