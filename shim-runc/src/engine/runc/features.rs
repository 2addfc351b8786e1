//! The OCI features of a runtime, for `-info`.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

/// Runs the runtime's command `features`. Returns `None` if it has no such command (crun before 1.9,
/// runc before 1.1); containerd then treats the features as unknown.
///
/// Blocks until the runtime exits; the process that prints the answer to `-info` has no other work.
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
