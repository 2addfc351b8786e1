#!/usr/bin/env bash
# Runs the release shim on a host of cgroup v2 with AppArmor and a criu that works, which is a nested
# machine: one boot, in which `job` runs shimcheck for each engine, the end-to-end tests that want
# such a host, and the comparison of engines. Reports as test programs do.
#
#   tests/vm/test.sh RELEASE_DIRECTORY DEBUG_DIRECTORY E2E
set -euo pipefail

release=$1
debug=$2
e2e=$3
here=$(cd "$(dirname "$0")" && pwd)
base=$(realpath -m "$here/../../target/vm")
"$here/initramfs.sh" "$base"
job=$(mktemp -d)
trap 'rm -rf "$job"' EXIT
cp "$here/job" "$job/run"
cp "$here/../../RUNC.md" "$job/"
cp "$release/containerd-shim-runc-v2" "$job/"
ln "$job/containerd-shim-runc-v2" "$job/containerd-shim-youki-v1"
# Emulated memory is dear, and line tables are half of a debug build.
for program in shimcheck differ; do strip -o "$job/$program" "$debug/$program"; done
strip -o "$job/e2e" "$e2e"
VM_SECONDS=${VM_SECONDS:-900} "$here/boot.sh" "$base" "$job"
