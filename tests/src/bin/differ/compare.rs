//! Where two runs of one spec differ.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::observe::Outcome;

/// One difference: where, what runc has, what ours has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Difference {
    /// A path into the observation, or `outcome`.
    pub(crate) place: String,
    /// What the one has there.
    pub(crate) theirs: String,
    /// What the other has.
    pub(crate) ours: String,
}

/// Every difference between two outcomes.
pub(crate) fn differences(theirs: &Outcome, ours: &Outcome) -> Vec<Difference> {
    let (a, b) = match (theirs, ours) {
        (Outcome::Ran(a), Outcome::Ran(b)) => (flat(a), flat(b)),
        // Why something is refused, each says in words of its own, and whether at create or at
        // start is the same to a client.
        (Outcome::Ran(_) | Outcome::Lost(_), _) | (_, Outcome::Ran(_) | Outcome::Lost(_)) => {
            return vec![Difference {
                place: "outcome".to_owned(),
                theirs: brief(theirs),
                ours: brief(ours),
            }];
        }
        _ => return Vec::new(),
    };
    let mut places: Vec<_> = a.keys().chain(b.keys()).collect();
    places.sort_unstable();
    places.dedup();
    let nothing = || "nothing".to_owned();
    places
        .into_iter()
        .filter(|place| a.get(*place) != b.get(*place))
        .map(|place| Difference {
            place: place.clone(),
            theirs: a.get(place).cloned().unwrap_or_else(nothing),
            ours: b.get(place).cloned().unwrap_or_else(nothing),
        })
        .collect()
}

/// An outcome on one line.
pub(crate) fn brief(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Ran(seen) => format!("ran, exit {}", seen["exit"]),
        Outcome::NotCreated(why) => format!("refused: {why}"),
        Outcome::NotStarted(why) => format!("not started: {why}"),
        Outcome::Lost(why) => format!("lost: {why}"),
    }
}

/// Leaves by path; a list of plain values is one leaf.
fn flat(value: &Value) -> BTreeMap<String, String> {
    let mut leaves = BTreeMap::new();
    gather(value, String::new(), &mut leaves);
    leaves
}

fn gather(value: &Value, path: String, leaves: &mut BTreeMap<String, String>) {
    match value {
        Value::Null => {}
        Value::Object(map) => {
            for (key, value) in map {
                gather(value, format!("{path} {key}").trim_start().to_owned(), leaves);
            }
        }
        Value::Array(list) if list.iter().any(|one| one.is_object() || one.is_array()) => {
            for (index, value) in list.iter().enumerate() {
                gather(value, format!("{path} #{index}"), leaves);
            }
        }
        leaf => {
            leaves.insert(path, leaf.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_differs_is_named_by_its_place() {
        let a = Outcome::Ran(json!({"exit": 0, "mounts": {"/proc": [{"kind": "proc"}]}}));
        let b = Outcome::Ran(json!({"exit": 0, "mounts": {"/proc": [{"kind": "none"}]}}));
        let found = differences(&a, &b);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].place, "mounts /proc #0 kind");
        assert_eq!(differences(&a, &a), []);
    }

    #[test]
    fn one_that_is_refused_differs_from_one_that_runs() {
        let ran = Outcome::Ran(json!({"exit": 0}));
        let refused = Outcome::NotCreated("why".to_owned());
        assert_eq!(differences(&ran, &refused)[0].place, "outcome");
        assert_eq!(differences(&refused, &Outcome::NotStarted("other".to_owned())), []);
    }
}
