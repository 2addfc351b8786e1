//! The address of a shim. The shim and the daemon derive it from the same three names.
//!
//! The socket's name is the SHA-256 of the daemon's address, the namespace and the group. So it is
//! short, and the same for every member of a group. See containerd's `pkg/shim`, unix(7).

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::{Error, Kind};

/// The directory of shims' sockets, unless the daemon gives another one.
pub const DEFAULT_SOCKET_DIR: &str = "/run/containerd/s";

/// The longest socket directory that leaves room for the name in a `sockaddr_un`.
pub const MAX_SOCKET_DIR_BYTES: usize = 42;

/// The longest path that a `sockaddr_un` holds, without its terminator.
pub const MAX_SOCKET_PATH_BYTES: usize = 106;

/// The path of the socket for a group, or for a container that has its own shim.
pub fn socket_path(
    socket_dir: &Path,
    daemon_address: &str,
    namespace: &str,
    group: &str,
) -> Result<PathBuf, Error> {
    let path = socket_dir.join(name(daemon_address, namespace, group));
    let bytes = path.as_os_str().len();
    if bytes > MAX_SOCKET_PATH_BYTES {
        return Err(Error::new(
            Kind::InvalidArgument,
            format!(
                "socket path {} has {bytes} bytes, more than the {MAX_SOCKET_PATH_BYTES} that fit; \
                 a socket directory may have {MAX_SOCKET_DIR_BYTES}",
                path.display(),
            ),
        ));
    }
    Ok(path)
}

/// The named pipe for a group, on Windows.
pub fn pipe(daemon_address: &str, namespace: &str, group: &str) -> String {
    format!(r"\\.\pipe\containerd-shim-{}", name(daemon_address, namespace, group))
}

/// The hash that names a socket or a pipe.
fn name(daemon_address: &str, namespace: &str, group: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(joined(&[daemon_address, namespace, group]));
    let mut name = String::with_capacity(64);
    for byte in hash.finalize() {
        for digit in [byte >> 4, byte & 15] {
            name.push(char::from_digit(u32::from(digit), 16).unwrap_or('0'));
        }
    }
    name
}

/// An address as shims print it.
pub fn unix(path: &Path) -> String {
    format!("unix://{}", path.display())
}

/// The path of an address that names a unix socket; `None` for other schemes.
///
/// A path without a scheme is accepted too, because the daemon's own address has none.
pub fn unix_path(address: &str) -> Option<&Path> {
    let path = match address.split_once("://") {
        Some(("unix", path)) => path,
        Some((scheme, path)) if scheme.ends_with("+unix") => path,
        Some(_) => return None,
        None => address,
    };
    (!path.is_empty()).then(|| Path::new(path))
}

/// Joins names by slashes and cleans the result as Go's `filepath.Join` does. containerd's shims
/// hash that path, and one of them may share a group with a shim of this SDK.
fn joined(names: &[&str]) -> String {
    let path = names.iter().filter(|name| !name.is_empty()).copied().collect::<Vec<_>>().join("/");
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            ".." if rooted => {}
            part => parts.push(part),
        }
    }
    format!("{}{}", if rooted { "/" } else { "" }, parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_containerds() {
        // printf %s /run/containerd/containerd.sock/default/web | sha256sum
        let path = socket_path(
            Path::new(DEFAULT_SOCKET_DIR),
            "/run/containerd/containerd.sock",
            "default",
            "web",
        );
        let want = "/run/containerd/s/".to_owned() + WEB;
        assert_eq!(path.expect("short enough"), Path::new(&want));
    }
    const WEB: &str = "2cde4450fa38c74f53603e01d2afd903b315a27a596f12a151414cd59897d883";

    #[test]
    fn a_directory_that_leaves_no_room_is_refused() {
        let dir = format!("/{}", "d".repeat(MAX_SOCKET_DIR_BYTES));
        let error = socket_path(Path::new(&dir), "a", "b", "c").expect_err("107 bytes");
        assert_eq!(error.kind(), Kind::InvalidArgument);
        let dir = format!("/{}", "d".repeat(MAX_SOCKET_DIR_BYTES - 2));
        assert!(socket_path(Path::new(&dir), "a", "b", "c").is_ok());
    }

    #[test]
    fn members_of_a_group_share_a_pipe_and_others_do_not() {
        let daemon = r"\\.\pipe\containerd-containerd";
        let pipe = pipe(daemon, "default", "web");
        assert!(pipe.starts_with(r"\\.\pipe\containerd-shim-"), "{pipe}");
        // A pipe's name may have 256 characters, and no further separator.
        assert!(pipe.len() < 256 && !pipe[9..].contains('\\'), "{pipe}");
        assert_eq!(pipe, super::pipe(daemon, "default", "web"));
        assert_ne!(pipe, super::pipe(daemon, "default", "other"));
        assert_ne!(pipe, super::pipe(daemon, "other", "web"));
    }

    #[test]
    fn addresses_of_unix_sockets_have_paths() {
        assert_eq!(unix_path("unix:///a/b"), Some(Path::new("/a/b")));
        assert_eq!(unix_path("ttrpc+unix:///a"), Some(Path::new("/a")));
        assert_eq!(unix_path("/a"), Some(Path::new("/a")));
        assert_eq!(unix_path("vsock://3:1024"), None);
        assert_eq!(unix_path("unix://"), None);
    }

    #[test]
    fn names_are_joined_as_go_joins_them() {
        assert_eq!(joined(&["/a//b/", "", "c"]), "/a/b/c");
        assert_eq!(joined(&["/a/./b/../c"]), "/a/c");
        assert_eq!(joined(&["", "x"]), "x");
    }
}
