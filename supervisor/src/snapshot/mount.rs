//! Mounts as snapshotters describe them, for others to make.

use std::path::PathBuf;

pub(crate) use shim_sdk::Mount;

/// A bind mount of `source`, `rw` or `ro`.
pub(super) fn bind(source: PathBuf, access: &str) -> Mount {
    Mount {
        kind: "bind".to_owned(),
        source: source.to_string_lossy().into_owned(),
        target: String::new(),
        options: vec![access.to_owned(), "rbind".to_owned()],
    }
}

/// The value of `name=value` among the options of `mount`.
pub(crate) fn option<'a>(mount: &'a Mount, name: &str) -> Option<&'a str> {
    let value = |option: &'a String| option.strip_prefix(name)?.strip_prefix('=');
    mount.options.iter().find_map(value)
}
