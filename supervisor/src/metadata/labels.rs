//! Labels: what clients hang on every record, and what garbage collection reads.

use std::collections::BTreeMap;

/// Labels by key.
pub(crate) type Labels = BTreeMap<String, String>;

/// Key and value together may be this long, as in containerd.
pub(crate) const MAX_BYTES: usize = 4096;
const KEY_SHOWN: usize = 64;

/// A label that cannot be accepted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LabelError {
    /// Key and value together are too long.
    #[error(
        "label key and value length ({bytes} bytes) greater than maximum size ({MAX_BYTES} bytes), \
         key: {key}: invalid argument"
    )]
    TooLong {
        /// The beginning of the key.
        key: String,
        /// The length found.
        bytes: usize,
    },
}

/// Checks every label's length.
pub(crate) fn validate(labels: &Labels) -> Result<(), LabelError> {
    for (key, value) in labels {
        let bytes = key.len() + value.len();
        if bytes > MAX_BYTES {
            return Err(LabelError::TooLong { key: key.chars().take(KEY_SHOWN).collect(), bytes });
        }
    }
    Ok(())
}

/// Sets, replaces or (with an empty value) removes one label, as an update of `labels.KEY` does.
pub(crate) fn set(labels: &mut Labels, key: &str, value: Option<&String>) {
    match value {
        Some(value) if !value.is_empty() => {
            labels.insert(key.to_owned(), value.clone());
        }
        _ => {
            labels.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_of_4096_bytes_is_taken_and_one_more_is_not() {
        let value = "v".repeat(MAX_BYTES - 1);
        assert!(validate(&Labels::from([("k".into(), value.clone())])).is_ok());
        assert!(validate(&Labels::from([("kk".into(), value)])).is_err());
    }
}
