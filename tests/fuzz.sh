#!/bin/bash
# Fuzzes every decoder of outside bytes, guided by what code each input runs: our crates are built
# with counters, their dependencies are not. Seeds are in tests/fuzz/corpus; an input that is at fault
# is kept in target/fuzz, and belongs into its target's seeds once the fault is mended.
#
#   tests/fuzz.sh [SECONDS [NAME]]   each target for so many seconds (60), or only tests of this name
#
# FUZZ_SEED=N makes other inputs than the run before.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:-60}
name=${2:-fuzz}
export FUZZ_SECONDS=$seconds CARGO_INCREMENTAL=0
# The counters are read in the process itself; no profile is to be written at its end.
export LLVM_PROFILE_FILE=/dev/null
RUSTC_WORKSPACE_WRAPPER=$(realpath tests/fuzz/instrumented.sh)
export RUSTC_WORKSPACE_WRAPPER
# One test at a time: the counters are the process's. Every crate runs, also when another one fails.
cargo test --locked --no-fail-fast -p installer -p shim-sdk -p shim-runc -p supervisor --lib --bins -- \
  --test-threads=1 --nocapture "$name"
