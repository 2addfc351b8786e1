//! A program to run: its arguments, environment and descriptors.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use crate::{Stream, Streams};

/// A program to run, by [`spawn_process`](crate::spawn_process) or, for a helper of the shim, by
/// `spawn`.
///
/// By default it has the shim's environment and working directory. A stream that is not set is the
/// null device.
#[derive(Debug)]
pub struct Program {
    pub(crate) executable: Executable,
    pub(crate) arguments: Vec<OsString>,
    /// Changes to the shim's environment, in order; `None` removes a variable.
    pub(crate) environment: Vec<(OsString, Option<OsString>)>,
    /// Whether the environment starts empty, not with the shim's.
    pub(crate) bare: bool,
    pub(crate) directory: Option<PathBuf>,
    pub(crate) stdin: Option<Stream>,
    pub(crate) stdout: OutputMode,
    pub(crate) stderr: OutputMode,
    /// Its descriptors 3, 4, and so on.
    #[cfg(unix)]
    pub(crate) descriptors: Vec<std::os::fd::OwnedFd>,
    /// Whether it survives the thread that spawns it.
    #[cfg(unix)]
    pub(crate) survives: bool,
}

/// The executable of a program.
#[derive(Debug)]
pub(crate) enum Executable {
    /// A path, or a name that is searched in PATH.
    Named(OsString),
    /// A path, and the name for `argv[0]`.
    #[cfg(all(feature = "serve", unix))]
    At(PathBuf, OsString),
    /// An open file, and the name for `argv[0]`.
    #[cfg(unix)]
    File(std::os::fd::OwnedFd, OsString),
}

/// Where an output of a program goes.
#[derive(Debug)]
pub(crate) enum OutputMode {
    /// The null device.
    Null,
    /// A pipe, kept for [`Child::output`](crate::Child::output).
    #[cfg_attr(windows, allow(dead_code))]
    // only helpers have it, and Windows has no helpers yet
    Captured,
    /// A stream that the caller gives.
    Given(Stream),
}

impl Program {
    /// The program at a path, or with a name that is searched in PATH.
    pub fn new(name: impl AsRef<OsStr>) -> Self {
        Self::of(Executable::Named(name.as_ref().to_owned()))
    }

    /// The program in an open file, which may have no path. The name becomes `argv[0]`.
    #[cfg(unix)]
    pub fn in_file(file: std::os::fd::OwnedFd, name: impl AsRef<OsStr>) -> Self {
        Self::of(Executable::File(file, name.as_ref().to_owned()))
    }

    /// The program at a path. The name becomes `argv[0]`.
    #[cfg(all(feature = "serve", unix))]
    pub(crate) fn at(path: PathBuf, name: OsString) -> Self {
        Self::of(Executable::At(path, name))
    }

    fn of(executable: Executable) -> Self {
        Self {
            executable,
            arguments: Vec::new(),
            environment: Vec::new(),
            bare: false,
            directory: None,
            stdin: None,
            stdout: OutputMode::Null,
            stderr: OutputMode::Null,
            #[cfg(unix)]
            descriptors: Vec::new(),
            #[cfg(unix)]
            survives: false,
        }
    }

    /// Adds arguments. `argv[0]` is not one of them.
    pub fn args(mut self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.arguments.extend(arguments.into_iter().map(|one| one.as_ref().to_owned()));
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        let (name, value) = (name.as_ref().to_owned(), value.as_ref().to_owned());
        self.environment.push((name, Some(value)));
        self
    }

    /// Removes an environment variable.
    pub fn without_env(mut self, name: impl AsRef<OsStr>) -> Self {
        self.environment.push((name.as_ref().to_owned(), None));
        self
    }

    /// Starts with an empty environment, not with the shim's.
    pub fn bare_env(mut self) -> Self {
        self.bare = true;
        self
    }

    /// Sets the working directory.
    pub fn directory(mut self, directory: impl AsRef<Path>) -> Self {
        self.directory = Some(directory.as_ref().to_owned());
        self
    }

    /// Sets the streams. The shim's own descriptors of them are closed when the program is spawned.
    pub fn streams(mut self, streams: Streams) -> Self {
        let output = |stream: Option<Stream>| stream.map_or(OutputMode::Null, OutputMode::Given);
        self.stdin = streams.stdin;
        self.stdout = output(streams.stdout);
        self.stderr = output(streams.stderr);
        self
    }

    /// Captures its standard output, for [`Child::output`](crate::Child::output).
    #[cfg(unix)]
    pub fn capture_stdout(mut self) -> Self {
        self.stdout = OutputMode::Captured;
        self
    }

    /// Captures its standard error, for [`Child::output`](crate::Child::output).
    #[cfg(unix)]
    pub fn capture_stderr(mut self) -> Self {
        self.stderr = OutputMode::Captured;
        self
    }

    /// Adds a descriptor: the first one becomes descriptor 3 of the program, the next 4, and so on.
    #[cfg(unix)]
    pub fn descriptor(mut self, descriptor: std::os::fd::OwnedFd) -> Self {
        self.descriptors.push(descriptor);
        self
    }

    /// Lets it survive the thread that spawns it.
    #[cfg(all(feature = "serve", unix))]
    pub(crate) fn surviving(mut self) -> Self {
        self.survives = true;
        self
    }

    /// Its name in errors.
    pub(crate) fn name(&self) -> String {
        match &self.executable {
            Executable::Named(name) => name.to_string_lossy().into_owned(),
            #[cfg(all(feature = "serve", unix))]
            Executable::At(_, name) => name.to_string_lossy().into_owned(),
            #[cfg(unix)]
            Executable::File(_, name) => name.to_string_lossy().into_owned(),
        }
    }

    /// The whole environment, computed from the shim's.
    #[cfg(unix)]
    pub(crate) fn whole_environment(
        &self,
        shim: impl Iterator<Item = (OsString, OsString)>,
    ) -> std::collections::BTreeMap<OsString, OsString> {
        let mut whole: std::collections::BTreeMap<_, _> =
            if self.bare { Default::default() } else { shim.collect() };
        for (name, value) in &self.environment {
            match value {
                Some(value) => whole.insert(name.clone(), value.clone()),
                None => whole.remove(name),
            };
        }
        whole
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_on_a_variable_counts() {
        let shim = || [("A", "1"), ("B", "2")].map(|(a, b)| (a.into(), b.into())).into_iter();
        let told = |program: Program| -> Vec<(String, String)> {
            let text = |text: OsString| text.to_string_lossy().into_owned();
            let whole = program.whole_environment(shim());
            whole.into_iter().map(|(name, value)| (text(name), text(value))).collect()
        };
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let program = Program::new("x").env("C", "3").without_env("A").env("B", "4");
        assert_eq!(told(program), [pair("B", "4"), pair("C", "3")]);
        assert_eq!(told(Program::new("x").bare_env().env("C", "3")), [pair("C", "3")]);
    }
}
