//! Which containers share a shim.

use std::collections::HashMap;

/// The annotations that name a group, in containerd's order of precedence.
pub const LABELS: [&str; 2] = ["io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id"];

/// The group that a spec's annotations name.
pub fn from_annotations(annotations: &HashMap<String, String>) -> Option<String> {
    LABELS
        .iter()
        .find_map(|label| annotations.get(*label))
        .filter(|group| !group.is_empty())
        .cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_runtimes_own_label_wins_over_the_pods() {
        let mut annotations = HashMap::from([(LABELS[1].to_owned(), "pod".to_owned())]);
        assert_eq!(from_annotations(&annotations).as_deref(), Some("pod"));
        annotations.insert(LABELS[0].to_owned(), "group".to_owned());
        assert_eq!(from_annotations(&annotations).as_deref(), Some("group"));
        assert_eq!(from_annotations(&HashMap::new()), None);
    }
}
