//! The runtimes that are compared, one run of a spec under one of them, and the results of all.

use std::path::PathBuf;

use serde_json::Value;

use crate::case::Case;
use crate::fixture::Fixture;
use crate::observe::Outcome;

/// A runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Runtime {
    /// The measure.
    Runc,
    /// A second opinion.
    Crun,
    /// libcontainer, through our shim.
    Ours,
}

/// In the order of the table's columns.
pub(crate) const RUNTIMES: [Runtime; 3] = [Runtime::Runc, Runtime::Crun, Runtime::Ours];

/// One spec under one runtime.
pub(crate) struct Run<'a> {
    /// What all share.
    pub(crate) fixture: &'a Fixture,
    /// The container's id.
    pub(crate) id: String,
    /// Where this run keeps its files.
    pub(crate) dir: PathBuf,
    /// The bundle's directory, not yet made.
    pub(crate) bundle: PathBuf,
    /// The spec.
    pub(crate) spec: Value,
    /// What is executed in it.
    pub(crate) process: Option<Value>,
}

/// What each runtime made of each case.
pub(crate) struct Results {
    /// The cases.
    pub(crate) cases: Vec<Case>,
    /// By case and runtime.
    pub(crate) outcomes: Vec<[Outcome; 3]>,
}
