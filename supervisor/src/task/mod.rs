//! Tasks: containers that run, each in its shim.

use std::path::Path;

/// Whether there is a bundle of any container under a state directory.
pub(crate) fn any_bundle(state: &Path) -> bool {
    let entries = |path: &Path| std::fs::read_dir(path).into_iter().flatten().flatten();
    entries(&state.join("tasks")).any(|namespace| entries(&namespace.path()).next().is_some())
}
