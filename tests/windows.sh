#!/usr/bin/env bash
# Checks that shim-sdk and the skeleton shim compile for Windows. The Rust in use has no standard
# library for that target, so it is built from the sources that Debian has of its own Rust, which
# lives in /usr/bin beside the one in use; crates, too, are kept apart from that one's.
set -euo pipefail

cd "$(dirname "$0")/.."
target=$PWD/target/windows
export PATH=/usr/bin:$PATH RUSTC_BOOTSTRAP=1 CARGO_HOME=$target/cargo
# What is built here never runs, so it needs no debug information.
export CARGO_PROFILE_DEV_DEBUG=false
unset RUSTC RUSTUP_TOOLCHAIN
/usr/bin/cargo check --locked -Z build-std=std,panic_abort --target x86_64-pc-windows-gnu \
    --target-dir "$target" -p shim-sdk -p examples --lib --bin containerd-shim-skeleton-v1
