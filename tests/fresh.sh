#!/bin/bash
# Runs both commands of the README on a base system: a new Debian 12 made by debootstrap in a scratch
# directory, with this machine's Rust toolchain mounted read-only and nothing else of this machine.
# The commands run in a clone of this checkout, so only what is committed is tested.
#
#   tests/fresh.sh                 examples/quickstart.sh, then tests/run.sh
#   tests/fresh.sh COMMAND...      these shell commands instead, in the same base, one after the other
#
# Needs root, debootstrap, git, and about 15 GB below TMPDIR (/tmp). How packages and crates are reached is
# read from this machine's configuration: apt's mirror and proxy, cargo's configuration, proxy
# variables, and certificates added to the system's. The base has its own mount and pid namespace,
# so no mount and no process outlives the run; the scratch directory is removed at the end.
set -euo pipefail

suite=bookworm

# The part within the namespaces. Its arguments: the base, the toolchain, and one command.
inside() {
  local base=$1 toolchain=$2 command=$3
  # A root must be a mount point. chroot(2) will not do: it forbids new user namespaces.
  mount --bind "$base" "$base"
  mkdir -p "$base/opt/rust" "$base/.host"
  mount --bind "$toolchain" "$base/opt/rust"
  mount -o remount,bind,ro "$base/opt/rust"
  mount -t proc -o nosuid,nodev,noexec proc "$base/proc"
  # With everything below: control groups and terminals.
  mount --rbind /sys "$base/sys"
  mount --rbind /dev "$base/dev"
  mount -t tmpfs -o nosuid,nodev,mode=0755 tmpfs "$base/run"
  mkdir -p "$base/run/lock"
  cd "$base"
  pivot_root . .host
  umount -l /.host
  rmdir /.host
  cd /root/checkout
  local set=() name
  for name in {http,https,no,all}_proxy {HTTP,HTTPS,NO,ALL}_PROXY; do
    [ -z "${!name:-}" ] || set+=("$name=${!name}")
  done
  # Not exec: as the first process of its pid namespace, bash takes leave of orphans.
  env -i HOME=/root LANG=C.UTF-8 TERM=dumb "${set[@]}" \
    PATH=/opt/rust/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    bash -c "$command"
}

if [ "${1:-}" = --inside ]; then
  shift
  inside "$@"
  exit
fi

die() { echo "fresh.sh: $*" >&2; exit 1; }

[ "$(id -u)" -eq 0 ] || die "run as root: it makes a Debian system and mounts"
for tool in debootstrap git unshare; do
  command -v "$tool" >/dev/null || die "$tool is not installed: apt-get install debootstrap git util-linux"
done
toolchain=$(rustc --print sysroot) || die "rustc is not on PATH: install Rust first"
[ -x "$toolchain/bin/cargo" ] || die "$toolchain has no bin/cargo: install a whole toolchain"
# This machine's own, in case they are found through a link or a relative path.
self=$(realpath "$0")
checkout=$(realpath "$(dirname "$0")/..")
[ -z "$(git -C "$checkout" status --porcelain)" ] ||
  echo "fresh.sh: $checkout has changes that are not committed; they are not tested" >&2
[ $# -gt 0 ] || set -- examples/quickstart.sh tests/run.sh

scratch=$(mktemp -d "${TMPDIR:-/tmp}/fresh.XXXXXX")
# --one-file-system: should a mount be left after all, what is behind it is not removed.
trap 'rm -rf --one-file-system "$scratch"' EXIT
trap 'exit 130' INT TERM HUP
base=$scratch/base

began=$SECONDS
# What this machine's apt uses for the suite, its updates and its security fixes: an installation has
# all three. debootstrap has a mirror of its own if there is none.
sources=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' 2>/dev/null |
  awk -v suite="$suite" '($2 == suite || index($2, suite "-") == 1) && $3 == "main" { print "deb", $1, $2, $3 }' | sort -u)
mirror=$(awk -v suite="$suite" '$3 == suite { print $2; exit }' <<<"$sources")
proxy=$(apt-config dump --format '%v%n' Acquire::http::Proxy)
if ! http_proxy=${proxy:-${http_proxy:-}} debootstrap --variant=minbase "$suite" "$base" ${mirror:+"$mirror"} \
  >"$scratch/log" 2>&1; then
  tail -n 30 "$scratch/log" >&2
  die "debootstrap $suite failed"
fi

[ -z "$sources" ] || printf '%s\n' "$sources" >"$base/etc/apt/sources.list"
# How the network is reached, and which certificates this machine trusts beside Debian's.
apt-config dump | grep -E '^Acquire::(http|https|Check-|Retries|ForceIPv)' >"$base/etc/apt/apt.conf.d/90host" || true
cp -L /etc/resolv.conf "$base/etc/resolv.conf"
printf '127.0.0.1 localhost\n' >"$base/etc/hosts"
if [ -d /usr/local/share/ca-certificates ]; then
  mkdir -p "$base/usr/local/share"
  cp -RL /usr/local/share/ca-certificates "$base/usr/local/share/"
fi
# Cargo's directory is empty but for its configuration, where there is one.
mkdir -p "$base/root/.cargo"
for name in config.toml config; do
  [ ! -f "${CARGO_HOME:-$HOME/.cargo}/$name" ] || cp "${CARGO_HOME:-$HOME/.cargo}/$name" "$base/root/.cargo/"
done
git clone -q --no-hardlinks "$checkout" "$base/root/checkout"
echo "== base: Debian $(cat "$base/etc/debian_version"), $(ls "$base/var/lib/dpkg/info" | grep -c '\.list$') packages," \
  "$("$toolchain/bin/rustc" --version), commit $(git -C "$base/root/checkout" rev-parse --short HEAD) ($((SECONDS - began)) s)"

results=()
failed=0
for command in "$@"; do
  from=$SECONDS
  echo "== $command"
  status=0
  unshare --mount --propagation private --pid --fork --kill-child \
    bash "$self" --inside "$base" "$toolchain" "$command" </dev/null || status=$?
  if [ "$status" -eq 0 ]; then
    results+=("passed: $command ($((SECONDS - from)) s)")
  else
    failed=$((failed + 1))
    results+=("FAILED: $command, exit status $status ($((SECONDS - from)) s)")
  fi
done

echo
printf '%s\n' "${results[@]}"
[ "$failed" -eq 0 ]
