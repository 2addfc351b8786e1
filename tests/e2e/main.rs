//! Everything end to end: our programs, stock containerd, and images made by other tools.
//!
//! Run by `tests/run.sh`, which builds the release binaries and sets `TEST_BIN_DIR`.

mod advisories;
mod architecture;
mod check;
mod client;
mod conformance;
mod daemon;
mod damaged_state;
mod documents;
mod duplicates;
mod engine;
mod failing_disk;
mod full_disk;
mod grpc;
mod hello_shim;
mod hostile_archives;
mod images;
mod install;
mod killed_commands;
mod licences;
mod power_cut;
mod quickstart;
mod refusals;
mod regressions;
mod replace_containerd_shim;
mod run;
mod stock;
mod stop_during_create;
mod workspace;
