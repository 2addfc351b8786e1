//! The process: arguments, environment, working directory, limits.

use std::path::{Path, PathBuf};

use installer::layer::merged::Merged;
use oci_spec::runtime::{PosixRlimit, PosixRlimitBuilder, PosixRlimitType};

use super::{CommandFault, SpecError};

const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const S_IFMT: u32 = 0o170_000;
const S_IFREG: u32 = 0o100_000;
const OPEN_FILES: u64 = 1024;

/// The command of an image, and what the command line replaces of it.
pub(crate) struct Command<'a> {
    /// From the command line; replaces the image's entrypoint and its command.
    pub(crate) entrypoint: Option<&'a str>,
    /// From the command line; replaces the image's command.
    pub(crate) args: &'a [String],
    pub(crate) image_entrypoint: &'a [String],
    pub(crate) image_args: &'a [String],
}

impl Command<'_> {
    /// The argument vector.
    pub(crate) fn resolve(&self) -> Result<Vec<String>, SpecError> {
        let entrypoint = match self.entrypoint {
            Some("") => Vec::new(),
            Some(entrypoint) => vec![entrypoint.to_owned()],
            None => self.image_entrypoint.to_vec(),
        };
        let args = match (self.entrypoint, self.args) {
            (None, []) => self.image_args,
            (_, args) => args,
        };
        let args = [&entrypoint, args].concat();
        if args.first().is_none_or(String::is_empty) {
            return Err(SpecError::NoCommand);
        }
        Ok(args)
    }
}

/// Environment variables, each name once.
pub(crate) struct Environment(Vec<String>);

impl Environment {
    /// An image's, with a default PATH if it has none.
    pub(crate) fn of_image(variables: &[String]) -> Self {
        let mut environment = Self(Vec::with_capacity(variables.len() + 4));
        environment.0.push(DEFAULT_PATH.to_owned());
        for variable in variables {
            environment.set(variable.clone());
        }
        environment
    }

    /// A process's own, for an exec beside it.
    pub(crate) fn of_process(variables: &[String]) -> Self {
        Self(variables.to_vec())
    }

    /// Replaces the variable of this name, or appends `NAME=VALUE`.
    pub(crate) fn set(&mut self, variable: String) {
        let name = name(&variable);
        match self.0.iter_mut().find(|known| self::name(known) == name) {
            Some(known) => *known = variable,
            None => self.0.push(variable),
        }
    }

    /// Sets `NAME=VALUE`. `NAME` alone takes the value from this process's environment, if it has one.
    pub(crate) fn set_or_inherit(&mut self, text: &str) -> Result<(), SpecError> {
        if name(text).is_empty() {
            return Err(SpecError::BadVariable(text.to_owned()));
        }
        if text.contains('=') {
            self.set(text.to_owned());
        } else if let Ok(value) = std::env::var(text) {
            self.set(format!("{text}={value}"));
        }
        Ok(())
    }

    /// Sets a variable that has no value yet.
    pub(crate) fn default(&mut self, variable: &str) {
        if !self.0.iter().any(|known| name(known) == name(variable)) {
            self.0.push(variable.to_owned());
        }
    }

    pub(crate) fn into_vec(self) -> Vec<String> {
        self.0
    }
}

fn name(variable: &str) -> &str {
    variable.split_once('=').map_or(variable, |(name, _)| name)
}

pub(super) fn open_files_limit() -> PosixRlimit {
    // The builder only fails when a field is missing.
    PosixRlimitBuilder::default()
        .typ(PosixRlimitType::RlimitNofile)
        .hard(OPEN_FILES)
        .soft(OPEN_FILES)
        .build()
        .unwrap_or_default()
}

/// Looks a command up in an image's files: each path that is tried, with the mode of what is there.
pub(crate) fn search_path(
    merged: &mut Merged,
    command: &str,
    env: &[String],
    cwd: &Path,
) -> Vec<(PathBuf, Option<u32>)> {
    let candidates: Vec<PathBuf> = if command.contains('/') {
        vec![cwd.join(command)]
    } else {
        let path = env.iter().find_map(|variable| variable.strip_prefix("PATH="));
        let directories = path.unwrap_or_default().split(':');
        directories.map(|directory| cwd.join(directory).join(command)).collect()
    };
    candidates
        .into_iter()
        .map(|path| {
            let mode = merged.mode(&path).ok().flatten();
            (path, mode)
        })
        .collect()
}

/// Returns the command's own fault if a start failed because of it. The files that were tried show
/// which fault it is; the runtime's message only shows whether it came to execute the command.
pub(crate) fn explain(
    tried: &[(PathBuf, Option<u32>)],
    command: &str,
    message: &str,
) -> Option<CommandFault> {
    const ABOUT_COMMANDS: [&str; 8] = [
        "executable",
        "no such file or directory",
        "enoent",
        "permission denied",
        "eacces",
        "exec format error",
        "enoexec",
        "is a directory",
    ];
    let lower = message.to_lowercase();
    if !ABOUT_COMMANDS.iter().any(|words| lower.contains(words)) {
        return None;
    }
    let (command, reason) = (command.to_owned(), message.to_owned());
    let is_file = |mode: u32| mode & S_IFMT == S_IFREG;
    let modes: Vec<u32> = tried.iter().filter_map(|(_, mode)| *mode).collect();
    let executable = modes.iter().any(|mode| is_file(*mode) && mode & 0o111 != 0);
    if executable {
        // The file exists: its format or its interpreter is at fault.
        let format = lower.contains("exec format error") || lower.contains("enoexec");
        let denied = lower.contains("permission denied") || lower.contains("eacces");
        return (format || denied).then_some(CommandFault::NotExecutable { command, reason });
    }
    // What exists at a path that was given is at fault. On a search path, only a file counts.
    let named = command.contains('/');
    let there = modes.iter().any(|mode| named || is_file(*mode));
    Some(if there {
        CommandFault::NotExecutable { command, reason }
    } else {
        CommandFault::NotFound { command, reason }
    })
}

/// As [`explain`], by the message alone: for commands whose files cannot be looked up.
pub(crate) fn explain_by_words(command: &str, message: &str) -> Option<CommandFault> {
    let lower = message.to_lowercase();
    let any = |words: &[&str]| words.iter().any(|words| lower.contains(words));
    let (command, reason) = (command.to_owned(), message.to_owned());
    if any(&["executable file not found", "no such file or directory", "enoent"]) {
        Some(CommandFault::NotFound { command, reason })
    } else if any(&[
        "permission denied",
        "eacces",
        "exec format error",
        "enoexec",
        "is a directory",
    ]) {
        Some(CommandFault::NotExecutable { command, reason })
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(entrypoint: Option<&str>, args: &[&str], image: (&[&str], &[&str])) -> String {
        let own = |list: &[&str]| list.iter().map(|item| (*item).to_owned()).collect::<Vec<_>>();
        let (args, image_entrypoint, image_args) = (own(args), own(image.0), own(image.1));
        let command = Command {
            entrypoint,
            args: &args,
            image_entrypoint: &image_entrypoint,
            image_args: &image_args,
        };
        command.resolve().map_or_else(|error| error.to_string(), |args| args.join(" "))
    }

    #[test]
    fn arguments_replace_the_images_command_and_follow_its_entrypoint() {
        let image: (&[&str], &[&str]) = (&["/entry"], &["default"]);
        assert_eq!(resolve(None, &[], image), "/entry default");
        assert_eq!(resolve(None, &["x", "y"], image), "/entry x y");
        assert_eq!(resolve(Some("sh"), &[], image), "sh");
        assert_eq!(resolve(Some("sh"), &["-c", "x"], image), "sh -c x");
        assert_eq!(resolve(Some(""), &["x"], image), "x");
        assert_eq!(resolve(None, &[], (&[], &["cmd"])), "cmd");
        assert!(resolve(None, &[], (&[], &[])).contains("no command"));
    }

    #[test]
    fn failures_to_start_are_told_apart_by_the_files_that_were_tried() {
        let code = |mode: Option<u32>, command: &str, message: &str| {
            explain(&[("/bin/x".into(), mode)], command, message).map(|error| error.exit_code())
        };
        let absent = "exec: \"x\": executable file not found in $PATH";
        assert_eq!(code(None, "x", absent), Some(127));
        assert_eq!(code(None, "/bin/x", "No such file or directory"), Some(127));
        assert_eq!(code(Some(0o100_644), "/bin/x", "Permission denied"), Some(126));
        assert_eq!(code(Some(0o040_755), "/bin/x", "permission denied"), Some(126));
        assert_eq!(code(Some(0o040_755), "x", absent), Some(127));
        assert_eq!(code(Some(0o100_755), "/bin/x", "exec format error"), Some(126));
        // Not the command's fault.
        assert_eq!(code(None, "x", "no runtime of that name"), None);
        assert_eq!(code(Some(0o100_755), "/bin/x", "mount /y: no such file or directory"), None);
    }

    #[test]
    fn variables_are_replaced_in_place_and_inherited_by_name() {
        let mut environment = Environment::of_image(&["A=1".into(), "PATH=/x".into()]);
        environment.set("A=2".into());
        environment.set_or_inherit("B=3=4").unwrap();
        environment.set_or_inherit("SURELY_NOT_SET_ANYWHERE").unwrap();
        environment.default("A=9");
        assert!(environment.set_or_inherit("=x").is_err());
        assert_eq!(environment.into_vec(), ["PATH=/x", "A=2", "B=3=4"]);
        assert!(Environment::of_image(&[]).into_vec()[0].starts_with("PATH=/usr/local/sbin"));
    }
}
