//! What the runtime says it can do, for `-info`.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

/// Asks the runtime for its OCI features; `None` where it has no such command (crun before 1.9,
/// runc before 1.1), which containerd takes for "unknown".
///
/// Waits for the answer: it is for a process that does nothing else.
pub(crate) fn features(program: &Path) -> Option<Value> {
    let output = Command::new(program)
        .arg("features")
        .env_remove("NOTIFY_SOCKET")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    serde_json::from_slice(&output.stdout).ok().filter(Value::is_object)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtime_without_features_has_none() {
        assert_eq!(features(Path::new("/bin/true")), None);
        assert_eq!(features(Path::new("/no/such/runtime")), None);
    }
}
