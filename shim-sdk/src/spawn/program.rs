//! What is to be run: a program, its arguments, its surroundings.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use crate::{Stream, Streams};

/// A program about to be run, by [`spawn_process`](crate::spawn_process) or, for a helper of the
/// shim, by `spawn`.
///
/// It has the shim's environment and directory unless told otherwise, and the null device for every
/// stream that it is not given.
#[derive(Debug)]
pub struct Program {
    pub(crate) executable: Executable,
    pub(crate) arguments: Vec<OsString>,
    /// Changes to the shim's environment, in order; `None` takes a variable away.
    pub(crate) environment: Vec<(OsString, Option<OsString>)>,
    /// Whether there is nothing of the shim's environment to begin with.
    pub(crate) bare: bool,
    pub(crate) directory: Option<PathBuf>,
    pub(crate) stdin: Option<Stream>,
    pub(crate) stdout: OutputMode,
    pub(crate) stderr: OutputMode,
    /// What it finds on descriptors 3, 4, and so on.
    #[cfg(unix)]
    pub(crate) descriptors: Vec<std::os::fd::OwnedFd>,
    /// Whether it goes on when the thread that makes it ends.
    #[cfg(unix)]
    pub(crate) survives: bool,
}

/// Where a program is found.
#[derive(Debug)]
pub(crate) enum Executable {
    /// A path, or a name to be searched for in PATH.
    Named(OsString),
    /// A path, and what it is called.
    #[cfg(all(feature = "serve", unix))]
    At(PathBuf, OsString),
    /// An open file, and what it is called.
    #[cfg(unix)]
    File(std::os::fd::OwnedFd, OsString),
}

/// Where an output goes.
#[derive(Debug)]
pub(crate) enum OutputMode {
    /// The null device.
    Null,
    /// A pipe, kept for [`Child::output`](crate::Child::output).
    #[cfg_attr(windows, allow(dead_code))] // helpers are spawned on Unix alone, so far
    Captured,
    /// Where the caller says.
    Given(Stream),
}

impl Program {
    /// The program of a path, or of a name that is searched for in PATH.
    pub fn new(name: impl AsRef<OsStr>) -> Self {
        Self::of(Executable::Named(name.as_ref().to_owned()))
    }

    /// The program in an open file, which may have no path at all, under some name.
    #[cfg(unix)]
    pub fn in_file(file: std::os::fd::OwnedFd, name: impl AsRef<OsStr>) -> Self {
        Self::of(Executable::File(file, name.as_ref().to_owned()))
    }

    /// The program of a path, which is called by another name.
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

    /// Adds arguments; the program's own name is not among them.
    pub fn args(mut self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.arguments.extend(arguments.into_iter().map(|one| one.as_ref().to_owned()));
        self
    }

    /// Sets a variable of the environment.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        let (name, value) = (name.as_ref().to_owned(), value.as_ref().to_owned());
        self.environment.push((name, Some(value)));
        self
    }

    /// Takes a variable out of the environment.
    pub fn without_env(mut self, name: impl AsRef<OsStr>) -> Self {
        self.environment.push((name.as_ref().to_owned(), None));
        self
    }

    /// Begins with no environment, where that of the shim is not the program's business.
    pub fn bare_env(mut self) -> Self {
        self.bare = true;
        self
    }

    /// Starts it in this directory.
    pub fn directory(mut self, directory: impl AsRef<Path>) -> Self {
        self.directory = Some(directory.as_ref().to_owned());
        self
    }

    /// Gives it these streams; they are the program's alone from now on.
    pub fn streams(mut self, streams: Streams) -> Self {
        let output = |stream: Option<Stream>| stream.map_or(OutputMode::Null, OutputMode::Given);
        self.stdin = streams.stdin;
        self.stdout = output(streams.stdout);
        self.stderr = output(streams.stderr);
        self
    }

    /// Keeps what it writes to its standard output, to be asked for at its end.
    #[cfg(unix)]
    pub fn capture_stdout(mut self) -> Self {
        self.stdout = OutputMode::Captured;
        self
    }

    /// Keeps what it writes to its standard error, to be asked for at its end.
    #[cfg(unix)]
    pub fn capture_stderr(mut self) -> Self {
        self.stderr = OutputMode::Captured;
        self
    }

    /// Gives it one descriptor more: the first is its descriptor 3, the next 4, and so on.
    #[cfg(unix)]
    pub fn descriptor(mut self, descriptor: std::os::fd::OwnedFd) -> Self {
        self.descriptors.push(descriptor);
        self
    }

    /// Lets it go on when the thread that makes it ends.
    #[cfg(all(feature = "serve", unix))]
    pub(crate) fn surviving(mut self) -> Self {
        self.survives = true;
        self
    }

    /// How errors call it.
    pub(crate) fn name(&self) -> String {
        match &self.executable {
            Executable::Named(name) => name.to_string_lossy().into_owned(),
            #[cfg(all(feature = "serve", unix))]
            Executable::At(_, name) => name.to_string_lossy().into_owned(),
            #[cfg(unix)]
            Executable::File(_, name) => name.to_string_lossy().into_owned(),
        }
    }

    /// The whole environment, given the shim's.
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
