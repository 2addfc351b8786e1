//! Finds the binary of the shim for a runtime's name.
//!
//! `io.containerd.runc.v2` is `containerd-shim-runc-v2`, `containerd-shim-runc-v2.exe` on Windows.
//! It is looked up in the managed directory, in the daemon's own directory, then in PATH. An
//! absolute path is used as it is. The functions are pure: the caller gives the platform and a test
//! for files.

use std::path::{Path, PathBuf};

use crate::Kind;

/// The platform, which decides the form of names and paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Platform {
    /// Linux and other unix systems.
    Unix,
    /// Windows.
    Windows,
}

impl Platform {
    /// The platform that this was built for.
    pub const HERE: Self = if cfg!(windows) { Self::Windows } else { Self::Unix };
}

/// The directories for shims, in the order of the look-up.
#[derive(Debug, Clone, Default)]
pub struct SearchPath {
    /// The `bin` of the managed directory, and other configured directories.
    pub managed: Vec<PathBuf>,
    /// The directory that the daemon's own binary is in.
    pub beside: Option<PathBuf>,
    /// The directories of PATH.
    pub path: Vec<PathBuf>,
}

impl SearchPath {
    /// The search path of this process: the given directories, its own directory, and PATH.
    pub fn of_this_process(managed: Vec<PathBuf>) -> Self {
        let beside = std::env::current_exe().ok();
        let beside = beside.and_then(|exe| exe.parent().map(Path::to_owned));
        let path = std::env::var_os("PATH").unwrap_or_default();
        // An empty element of PATH means the current directory, which must not matter for a daemon.
        let path = std::env::split_paths(&path).filter(|dir| dir.is_absolute()).collect();
        Self { managed, beside, path }
    }

    fn in_order(&self) -> impl Iterator<Item = &PathBuf> {
        self.managed.iter().chain(&self.beside).chain(&self.path)
    }
}

/// Why there is no shim for a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShimPathError {
    /// The name does not have the form of a runtime's name.
    #[error(
        "runtime name {name:?} is neither of the form io.containerd.NAME.VERSION nor an absolute path"
    )]
    BadName {
        /// The name as given.
        name: String,
    },
    /// No such file.
    #[error("no shim for runtime {name}: tried {}", list(.tried))]
    Missing {
        /// The name as given.
        name: String,
        /// Every path that was tried, in order.
        tried: Vec<PathBuf>,
    },
}

impl ShimPathError {
    /// The kind, which decides the status code.
    pub fn kind(&self) -> Kind {
        match self {
            Self::BadName { .. } => Kind::InvalidArgument,
            Self::Missing { .. } => Kind::NotFound,
        }
    }
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// The file name of the shim for a runtime's name. `None` if the name is malformed.
pub fn binary_name(runtime: &str, platform: Platform) -> Option<String> {
    let well_formed = |part: &&str| {
        !part.is_empty()
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    let parts: Vec<&str> = runtime.split('.').collect();
    let [.., name, version] = parts.as_slice() else { return None };
    if !parts.iter().all(well_formed) {
        return None;
    }
    let suffix = match platform {
        Platform::Unix => "",
        Platform::Windows => ".exe",
    };
    Some(format!("containerd-shim-{name}-{version}{suffix}"))
}

/// The path of the shim for a runtime's name or path.
pub fn resolve(
    runtime: &str,
    platform: Platform,
    search_path: &SearchPath,
    exists: impl Fn(&Path) -> bool,
) -> Result<PathBuf, ShimPathError> {
    let missing = |tried| ShimPathError::Missing { name: runtime.to_owned(), tried };
    if is_absolute(runtime, platform) {
        let path = PathBuf::from(runtime);
        return if exists(&path) { Ok(path) } else { Err(missing(vec![path])) };
    }
    let Some(binary) = binary_name(runtime, platform) else {
        return Err(ShimPathError::BadName { name: runtime.to_owned() });
    };
    let mut tried = Vec::new();
    for directory in search_path.in_order() {
        let path = directory.join(&binary);
        if exists(&path) {
            return Ok(path);
        }
        if !tried.contains(&path) {
            tried.push(path);
        }
    }
    Err(missing(tried))
}

/// Whether a path is absolute on a platform, which may be another than this one.
fn is_absolute(path: &str, platform: Platform) -> bool {
    match platform {
        Platform::Unix => path.starts_with('/'),
        Platform::Windows => {
            let bytes = path.as_bytes();
            path.starts_with(r"\\")
                || (bytes.len() > 2
                    && bytes[0].is_ascii_alphabetic()
                    && bytes[1] == b':'
                    && matches!(bytes[2], b'\\' | b'/'))
        }
    }
}

/// Whether a path is a file that this process may execute.
pub fn is_executable(path: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        path.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
    }
    #[cfg(not(unix))]
    {
        path.is_file()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search_path() -> SearchPath {
        SearchPath {
            managed: vec!["/opt/containerd/bin".into()],
            beside: Some("/usr/libexec".into()),
            path: vec!["/usr/bin".into(), "/bin".into()],
        }
    }

    #[test]
    fn the_managed_directory_comes_first_and_path_last() {
        let found = |have: &'static [&'static str]| {
            resolve("io.containerd.runc.v2", Platform::Unix, &search_path(), |path| {
                have.iter().any(|have| path == Path::new(have))
            })
        };
        let managed = "/opt/containerd/bin/containerd-shim-runc-v2";
        let on_path = "/usr/bin/containerd-shim-runc-v2";
        assert_eq!(found(&["/usr/bin/containerd-shim-runc-v2"]), Ok(on_path.into()));
        assert_eq!(
            found(&[
                "/usr/bin/containerd-shim-runc-v2",
                "/opt/containerd/bin/containerd-shim-runc-v2"
            ]),
            Ok(managed.into())
        );
    }

    #[test]
    fn windows_names_end_in_exe() {
        let name = binary_name("io.containerd.runhcs.v1", Platform::Windows);
        assert_eq!(name.as_deref(), Some("containerd-shim-runhcs-v1.exe"));
        let absolute = r"C:\shims\x.exe";
        let found = resolve(absolute, Platform::Windows, &SearchPath::default(), |_| true);
        assert_eq!(found, Ok(absolute.into()));
    }

    #[test]
    fn a_missing_shim_is_reported_with_every_place_tried() {
        let error = resolve("io.containerd.nope.v1", Platform::Unix, &search_path(), |_| false);
        let error = error.expect_err("nothing exists");
        assert_eq!(error.kind(), Kind::NotFound);
        assert_eq!(
            error.to_string(),
            "no shim for runtime io.containerd.nope.v1: tried \
             /opt/containerd/bin/containerd-shim-nope-v1, /usr/libexec/containerd-shim-nope-v1, \
             /usr/bin/containerd-shim-nope-v1, /bin/containerd-shim-nope-v1"
        );
    }

    #[test]
    fn names_that_are_no_names_are_refused() {
        for bad in
            ["", "runc", ".", "a..b", "io.containerd.", "../../bin/sh.v1", "a/b.c", "io.c\0.v"]
        {
            let error = resolve(bad, Platform::Unix, &search_path(), |_| true).expect_err(bad);
            assert_eq!(error.kind(), Kind::InvalidArgument, "{bad}");
        }
    }
}
