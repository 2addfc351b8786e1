//! Lists and maps of documents, bounded while they are parsed.
//!
//! A document of 8 MiB can name half a million links or annotations, which are a hundred megabytes
//! once parsed. `null` stands for an empty one, as Go writes it.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// A list of at most `N` items.
#[derive(Debug, Clone)]
pub(crate) struct List<T, const N: usize>(pub(crate) Vec<T>);

impl<T, const N: usize> Default for List<T, N> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T, const N: usize> std::ops::Deref for List<T, N> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T: serde::Serialize, const N: usize> serde::Serialize for List<T, N> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de, T: Deserialize<'de>, const N: usize> Deserialize<'de> for List<T, N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Items<T, const N: usize>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>, const N: usize> Visitor<'de> for Items<T, N> {
            type Value = List<T, N>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(formatter, "a list of at most {N} items, or null")
            }

            fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
                Ok(List::default())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = items.next_element()? {
                    if list.len() == N {
                        return Err(A::Error::custom(format!("a list of more than {N} items")));
                    }
                    list.push(item);
                }
                Ok(List(list))
            }
        }
        deserializer.deserialize_any(Items(PhantomData))
    }
}

/// Annotations: at most [`MAX_ANNOTATIONS`], of [`MAX_ANNOTATION_BYTES`] together.
#[derive(Debug, Clone, Default)]
pub(crate) struct Annotations(pub(crate) BTreeMap<String, String>);

const MAX_ANNOTATIONS: usize = 1024;
/// Signatures with their certificates are the largest; those have some 10 KiB.
const MAX_ANNOTATION_BYTES: usize = 256 << 10;

impl serde::Serialize for Annotations {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Annotations {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = Annotations;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("annotations, or null")
            }

            fn visit_unit<E: Error>(self) -> Result<Annotations, E> {
                Ok(Annotations::default())
            }

            fn visit_map<A: MapAccess<'de>>(self, mut pairs: A) -> Result<Annotations, A::Error> {
                let (mut found, mut bytes) = (BTreeMap::new(), 0);
                while let Some((key, value)) = pairs.next_entry::<String, Option<String>>()? {
                    let value = value.unwrap_or_default();
                    bytes += key.len() + value.len();
                    found.insert(key, value);
                    if found.len() > MAX_ANNOTATIONS || bytes > MAX_ANNOTATION_BYTES {
                        return Err(A::Error::custom(
                            "more annotations than a descriptor may have",
                        ));
                    }
                }
                Ok(Annotations(found))
            }
        }
        deserializer.deserialize_any(Pairs)
    }
}

/// A field for which `null` means that it is not given.
pub(crate) fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longer_lists_end_the_parse() {
        let parse = |text: &str| serde_json::from_str::<List<u8, 3>>(text);
        assert_eq!(parse("[1,2,3]").unwrap().0, [1, 2, 3]);
        assert!(parse("null").unwrap().is_empty());
        // What comes behind is not even looked at.
        assert!(parse("[1,2,3,4,").unwrap_err().to_string().contains("more than 3"));
    }

    #[test]
    fn annotations_are_bounded_in_number_and_size() {
        let parse = |text: &str| serde_json::from_str::<Annotations>(text).map(|found| found.0);
        assert_eq!(parse(r#"{"a":"b","c":null}"#).unwrap().len(), 2);
        assert!(parse("null").unwrap().is_empty());
        let many: Vec<_> = (0..2000).map(|n| format!("\"{n}\":\"\"")).collect();
        parse(&format!("{{{}}}", many.join(","))).unwrap_err();
        parse(&format!("{{\"a\":\"{}\"}}", "x".repeat(300 << 10))).unwrap_err();
    }
}
