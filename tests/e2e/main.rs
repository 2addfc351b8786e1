//! Everything end to end: our programs, stock containerd, and images made by other tools.
//!
//! Run by `tests/run.sh`, which builds the release binaries and sets `TEST_BIN_DIR`.

mod advisories;
mod archives;
mod check;
mod client;
mod daemon;
mod documents;
mod doubt;
mod dropin;
mod engine;
mod faults;
mod full;
mod images;
mod install;
mod interrupted;
mod licences;
mod pains;
mod power;
mod quickstart;
mod refusals;
mod run;
mod stock;
mod unfinished;
