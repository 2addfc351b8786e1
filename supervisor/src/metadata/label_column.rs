//! Labels as a column of the database: JSON.

use super::{Labels, MetadataError};

/// Labels as they are stored.
pub(crate) fn encode(labels: &Labels) -> Result<String, MetadataError> {
    serde_json::to_string(labels)
        .map_err(|cause| MetadataError::Damaged { what: "label", cause: cause.into() })
}

/// Labels read back.
pub(crate) fn decode(stored: &str) -> Result<Labels, MetadataError> {
    serde_json::from_str(stored)
        .map_err(|cause| MetadataError::Damaged { what: "label", cause: cause.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_survive_storage() {
        let labels = Labels::from([("a.b/\"c\"".into(), "\u{1f980}\n".into())]);
        assert_eq!(decode(&encode(&labels).unwrap()).unwrap(), labels);
    }
}
