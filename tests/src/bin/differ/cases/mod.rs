//! The variations: one file for each part of the specification.
//!
//! A variation changes the base spec in one way. What it claims is what the specification has the
//! process see; where nothing is claimed, what runc shows is the measure.

mod cgroup;
mod confinement;
mod hooks;
mod mounts;
mod namespaces;
mod process;
mod tree;
mod unified;

use serde_json::{Value, json};

use crate::case::Variation;

/// All of them, in the order of the coverage table.
pub(crate) fn all() -> Vec<Variation> {
    [
        process::all(),
        confinement::all(),
        namespaces::all(),
        mounts::all(),
        tree::all(),
        cgroup::all(),
        unified::all(),
        hooks::all(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Adds to a list in the spec.
fn push(list: &mut Value, item: Value) {
    match list {
        Value::Array(list) => list.push(item),
        other => *other = json!([item]),
    }
}

/// The namespace of a kind, to be changed.
fn namespace<'a>(spec: &'a mut Value, kind: &str) -> Option<&'a mut Value> {
    let all = spec["linux"]["namespaces"].as_array_mut()?;
    all.iter_mut().find(|one| one["type"] == kind)
}

/// Leaves a namespace out.
fn without(spec: &mut Value, kind: &str) {
    if let Some(all) = spec["linux"]["namespaces"].as_array_mut() {
        all.retain(|one| one["type"] != kind);
    }
}

/// The mount at a destination, to be changed.
fn mounted<'a>(spec: &'a mut Value, at: &str) -> &'a mut Value {
    let index = spec["mounts"]
        .as_array()
        .and_then(|all| all.iter().position(|one| one["destination"] == at))
        .unwrap_or(0);
    &mut spec["mounts"][index]
}
