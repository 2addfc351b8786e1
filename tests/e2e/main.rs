//! Everything end to end: our programs, stock containerd, and images made by other tools.
//!
//! Run by `tests/run.sh`, which builds the release binaries and sets `TEST_BIN_DIR`.

mod advisories;
mod client;
mod daemon;
mod dropin;
mod engine;
mod images;
mod install;
mod interrupted;
mod licences;
mod pains;
mod quickstart;
mod refusals;
mod run;
mod stock;
