//! Mounts as snapshotters describe them, for others to make.

use std::path::PathBuf;

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Mount {
    /// The file system type, or `bind`.
    pub(crate) kind: String,
    /// What is mounted.
    pub(crate) source: String,
    /// Where, below the root it is for; empty for the root itself.
    pub(crate) target: String,
    /// Options as in fstab(5).
    pub(crate) options: Vec<String>,
}

impl Mount {
    /// A bind mount of `source`.
    pub(crate) fn bind(source: PathBuf, access: &str) -> Self {
        Self {
            kind: "bind".to_owned(),
            source: source.to_string_lossy().into_owned(),
            target: String::new(),
            options: vec![access.to_owned(), "rbind".to_owned()],
        }
    }

    /// The value of `name=value` among the options.
    pub(crate) fn option(&self, name: &str) -> Option<&str> {
        self.options
            .iter()
            .find_map(|option| option.strip_prefix(name).and_then(|rest| rest.strip_prefix('=')))
    }

    /// Whether the option `name` is there.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.options.iter().any(|option| option == name)
    }
}
