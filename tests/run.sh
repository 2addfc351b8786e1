#!/bin/bash
# Checks everything, on a fresh Debian 12 with Rust and root as on a desk: installs the packages it
# lacks, builds the release binaries, and runs format, lints, docs, unit and end-to-end tests.
# Every step runs whatever became of those before it; all failures are listed at the end, and the
# last line is "N passed, N failed".
#
#   tests/run.sh            everything
#   tests/run.sh e2e NAME   only the steps whose name contains "e2e"; further words go to its tests
set -u
cd "$(dirname "$0")/.." || exit 1
export DEBIAN_FRONTEND=noninteractive CARGO_TERM_COLOR=never CARGO_INCREMENTAL=0
# One crate index update at most, and no endless wait on a bad network.
export CARGO_NET_RETRY=5

only=${1:-}
[ $# -gt 0 ] && shift
began=$SECONDS
passed=0
failed=0
failures=()
logs=$(mktemp -d /tmp/test-run.XXXXXX) || exit 1
trap 'rm -rf "$logs"' EXIT
target=target/x86_64-unknown-linux-gnu

clock() { printf '%d:%02d' $(((SECONDS - began) / 60)) $(((SECONDS - began) % 60)); }

# counted WORD LOG: the sum of what test programs reported, empty where none did.
counted() {
  awk -v word="$1;" '/^test result: / { for (i = 2; i <= NF; i++) if ($i == word) sum += $(i - 1) }
    /^test result: / { seen = 1 } END { if (seen) print sum + 0 }' "$2"
}

# step NAME COMMAND...: runs a command, shows its output only where it fails. Counts what the test
# programs report, or the step itself as one check.
step() {
  local name=$1 from=$SECONDS log status oks bads
  shift
  case "$name" in *"$only"*) ;; *) return 0 ;; esac
  log=$logs/${name//[^a-z0-9]/-}
  printf '[%s] %s ...\n' "$(clock)" "$name"
  "$@" 2>&1 | tee "$log" | grep --line-buffered -E '^test .* (FAILED|has been running)'
  status=${PIPESTATUS[0]}
  oks=$(counted passed "$log")
  bads=$(counted failed "$log")
  if [ -z "$oks$bads" ]; then
    oks=0 bads=0
    if [ "$status" -eq 0 ]; then oks=1; else bads=1; fi
  elif [ "$status" -ne 0 ] && [ "${bads:-0}" -eq 0 ]; then
    # Some program did not get as far as counting.
    bads=1
  fi
  passed=$((passed + ${oks:-0}))
  failed=$((failed + ${bads:-0}))
  if [ "$status" -eq 0 ]; then
    printf '[%s] %s: ok, %s passed (%s s)\n' "$(clock)" "$name" "${oks:-0}" $((SECONDS - from))
  else
    printf '[%s] %s: FAILED, %s passed, %s failed (%s s)\n' \
      "$(clock)" "$name" "${oks:-0}" "${bads:-0}" $((SECONDS - from))
    # First why, for a reader who sees only a part.
    awk '/panicked at/ { left = 9 } /^stack backtrace/ { left = 0 } left-- > 0 { print "FAILED: " $0 }' "$log"
    failures+=("$name")
    while read -r line; do failures+=("  $line"); done \
      < <(sed -n 's/^test \(.*\) \.\.\. FAILED$/\1/p' "$log" | sort -u)
    sed 's/^/    /' "$log" | tail -n 400
  fi
  return 0
}

# A command again, after a pause, where the network is at fault.
patiently() {
  local try
  for try in 1 2 3 4 5; do
    "$@" && return 0
    echo "try $try of 5 failed: $*"
    sleep $((try * 5))
  done
  return 1
}

# Nothing works without these, so their failure ends the run.
setup() {
  local missing=() package
  [ "$(id -u)" -eq 0 ] || { echo "run as root: the tests make containers"; return 1; }
  command -v cargo >/dev/null || { echo "cargo is not on PATH"; return 1; }
  # Debian's own, which is about to be installed, must not come before it.
  PATH=$(dirname "$(command -v cargo)"):$PATH
  for package in apparmor binutils binutils-mingw-w64-x86-64 busybox-static ca-certificates \
    cargo-web containerd cpio criu crun e2fsprogs gcc git iproute2 iptables kmod libc6-dev \
    libseccomp-dev mount pkg-config qemu-system-x86 runc rust-web-src rustc-web skopeo umoci util-linux; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' ||
      missing+=("$package")
  done
  if [ ${#missing[@]} -gt 0 ]; then
    echo "[$(clock)] installing ${missing[*]}"
    patiently apt-get -q update >"$logs/apt" 2>&1 || { cat "$logs/apt"; return 1; }
    # No service is to be started: the tests run a containerd of their own.
    RUNLEVEL=1 patiently apt-get -q install -y --no-install-recommends "${missing[@]}" \
      >>"$logs/apt" 2>&1 || { tail -n 50 "$logs/apt"; return 1; }
  fi
  cargo clippy --version >/dev/null 2>&1 && cargo fmt --version >/dev/null 2>&1 ||
    patiently rustup component add clippy rustfmt || return 1
  # The crates of every platform, not only of this one: the tests read each one's licence, offline.
  patiently cargo fetch -q --locked
}

build_release() {
  # One package at a time: features must not leak from one to the other.
  cargo build --locked --release -p supervisor &&
    cargo build --locked --release -p shim-runc &&
    ln -f "$target/release/containerd-shim-runc-v2" "$target/release/containerd-shim-youki-v1"
}

documentation() {
  RUSTDOCFLAGS='-D warnings' cargo doc --locked --workspace --no-deps
}

# Advisories need a database that may not be within reach; that is said, not hidden.
advisories() {
  ADVISORY_DB=$logs/advisory-db
  export ADVISORY_DB
  if ! timeout 60 git clone -q --depth 1 https://github.com/rustsec/advisory-db "$ADVISORY_DB"; then
    echo "[$(clock)] advisories: NOT CHECKED, their database cannot be had from here" >&3
    return 0
  fi
  cargo test --locked -p tests --test e2e -- --ignored no_dependency_has_a_known_advisory
}

# shimcheck SHIM WORDS...: the contract row by row. The checker was built along with the tests.
shimcheck() {
  "$target/debug/shimcheck" "$@"
}

# The example is built by the tests' profile: another release build would take a minute.
shimcheck_skeleton() {
  cargo build --locked -p examples --bin containerd-shim-skeleton-v1 &&
    shimcheck "$target/debug/containerd-shim-skeleton-v1"
}

# The end-to-end tests, built already, go into the nested machine; cargo knows where they are.
vm_tests() {
  local e2e
  e2e=$(cargo test --locked -p tests --test e2e --no-run 2>&1 | sed -n 's/^ *Executable .*(\(.*\))$/\1/p')
  tests/vm/test.sh "$target/release" "$target/debug" "$e2e"
}

# Attacks on both engines and a daemon of its own, by the release binaries.
attack() { "$target/debug/attack"; }

# The engines compared spec by spec, and ours under load and under blows; built along with the tests.
differ() { "$target/debug/differ"; }
soak() { "$target/debug/soak" "$@"; }

exec 3>&1
setup || { echo "set-up failed"; echo "0 passed, 1 failed"; exit 1; }
echo "[$(clock)] set up: $(cargo --version), $(runc --version | head -1), $(containerd --version | cut -d' ' -f3)"

TEST_BIN_DIR=$(pwd)/$target/release
export TEST_BIN_DIR

step "format" cargo fmt --all --check
step "release build" build_release
step "clippy" cargo clippy --locked --workspace --all-targets -- -D warnings
step "supervisor alone" cargo check --locked -p supervisor
step "shim-sdk alone" cargo check --locked -p shim-sdk --no-default-features
step "windows" tests/windows.sh
step "documentation" documentation
step "test build" cargo test --locked --workspace --no-run
step "unit tests" cargo test --locked --workspace --lib --bins --no-fail-fast
step "documentation tests" cargo test --locked -p shim-sdk --doc
# The unit tests have replayed the seeds; this goes on from them, longer with FUZZ_SECONDS=N.
step "fuzz" tests/fuzz.sh "${FUZZ_SECONDS:-5}"
# Two at a time: each starts daemons and containers of its own.
step "e2e tests" cargo test --locked -p tests --test e2e --no-fail-fast -- --test-threads=2 "$@"
step "shimcheck runc" shimcheck "$target/release/containerd-shim-runc-v2"
step "shimcheck crun" shimcheck "$target/release/containerd-shim-runc-v2" --runtime-binary crun
step "shimcheck youki" shimcheck "$target/release/containerd-shim-youki-v1"
step "shimcheck skeleton" shimcheck_skeleton
step "shimcheck containerd's own" shimcheck /usr/bin/containerd-shim-runc-v2 --confirm
step "attack" attack
step "vm tests" vm_tests
step "runc, crun and youki compared" differ
step "soak" soak --containers 200 --execs 200
step "soak while its helper dies" soak --kill-helper 15
step "advisories" advisories

echo
printf 'took %s\n' "$(clock)"
if [ ${#failures[@]} -gt 0 ]; then
  echo "failed:"
  printf '  %s\n' "${failures[@]}"
fi
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ ${#failures[@]} -eq 0 ]
