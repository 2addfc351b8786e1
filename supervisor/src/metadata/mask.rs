//! Field masks: which fields an update may touch.

/// One path of a mask, as far as records need to tell paths apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Path<'a> {
    /// A whole field.
    Field(&'a str),
    /// One key of a map field: `labels.KEY`, `extensions.KEY`. The key may hold dots.
    Key(&'a str, &'a str),
}

/// Splits `path` at its first dot when it begins with one of the map fields.
pub(crate) fn path<'a>(path: &'a str, maps: &[&str]) -> Path<'a> {
    match path.split_once('.') {
        Some((field, key)) if maps.contains(&field) => Path::Key(field, key),
        _ => Path::Field(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_with_dots_stay_whole() {
        assert_eq!(path("labels.a.b/c", &["labels"]), Path::Key("labels", "a.b/c"));
        assert_eq!(path("labels", &["labels"]), Path::Field("labels"));
        assert_eq!(path("spec.x", &["labels"]), Path::Field("spec.x"));
    }
}
