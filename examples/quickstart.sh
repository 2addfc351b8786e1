#!/bin/bash
# From a clean Debian 12 with Rust and root to a running container, with no runtime installed and no
# daemon set up: builds a static supervisor and shim, packs the shim and a small application as OCI
# images, installs the one and runs the other.
#
#   examples/quickstart.sh            the application made here
#   examples/quickstart.sh IMAGE      an OCI or docker archive, or an image reference, instead
#
# Everything it makes, apart from the build itself and the Debian packages, lives in one scratch
# directory that is gone at the end.
set -euo pipefail
wanted=${1:-}
case $wanted in
  "" | /*) ;;
  *) [ ! -e "$wanted" ] || wanted=$PWD/$wanted ;;
esac
cd "$(dirname "$0")/.."

# Prints a step's name, runs it, and prints how long it took; what it writes is shown below it.
step() {
  local name=$1 from to
  shift
  printf '== %s\n' "$name"
  from=$(date +%s%N)
  "$@"
  to=$(date +%s%N)
  printf '   took %d.%03d s\n' $(((to - from) / 1000000000)) $(((to - from) / 1000000 % 1000))
}

patiently() {
  local try
  for try in 1 2 3 4 5; do
    "$@" && return 0
    echo "   try $try of 5 failed: $*" >&2
    sleep $((try * 5))
  done
  return 1
}

packages() {
  [ "$(id -u)" -eq 0 ] || { echo "run this as root: it makes a container" >&2; return 1; }
  command -v cargo >/dev/null || { echo "cargo is not on PATH: install Rust first" >&2; return 1; }
  local missing=() package
  for package in busybox-static ca-certificates gcc libc6-dev libseccomp-dev pkg-config; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' ||
      missing+=("$package")
  done
  if [ ${#missing[@]} -eq 0 ]; then
    echo "   nothing is missing"
    return 0
  fi
  echo "   installing ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  patiently apt-get -qq update >/dev/null
  patiently apt-get -qq install -y --no-install-recommends "${missing[@]}" >/dev/null
}

build() {
  patiently cargo fetch -q --locked --target x86_64-unknown-linux-gnu
  # One package at a time: features must not leak from one to the other.
  cargo build -q --locked --release -p supervisor
  cargo build -q --locked --release -p shim-runc
  ls -l target/x86_64-unknown-linux-gnu/release/{supervisor,containerd-shim-runc-v2} |
    awk '{ printf "   %s, %.1f MB\n", $NF, $5 / 1e6 }'
}

# blob FILE LAYOUT: files it under its digest; prints digest and size.
blob() {
  local digest
  digest=$(sha256sum <"$1" | cut -d' ' -f1)
  mkdir -p "$2/blobs/sha256"
  cp "$1" "$2/blobs/sha256/$digest"
  echo "sha256:$digest $(stat -c %s "$1")"
}

# image NAME TREE CONFIG ARCHIVE: one layer from a directory, as an OCI archive.
image() {
  local name=$1 tree=$2 config=$3 archive=$4 layout=$scratch/layout part=$scratch/part
  local layer layer_size digest size
  rm -rf "$layout"
  tar --create --sort=name --owner=0 --group=0 --numeric-owner --directory "$tree" --file "$part" .
  read -r layer layer_size < <(blob "$part" "$layout")
  printf '{"architecture":"amd64","os":"linux","config":%s,"rootfs":{"type":"layers","diff_ids":["%s"]}}' \
    "$config" "$layer" >"$part"
  read -r digest size < <(blob "$part" "$layout")
  printf '{"schemaVersion":2,"mediaType":"%s","config":{"mediaType":"%s","digest":"%s","size":%s},"layers":[{"mediaType":"%s","digest":"%s","size":%s}]}' \
    application/vnd.oci.image.manifest.v1+json \
    application/vnd.oci.image.config.v1+json "$digest" "$size" \
    application/vnd.oci.image.layer.v1.tar "$layer" "$layer_size" >"$part"
  read -r digest size < <(blob "$part" "$layout")
  printf '{"imageLayoutVersion":"1.0.0"}' >"$layout/oci-layout"
  printf '{"schemaVersion":2,"manifests":[{"mediaType":"%s","digest":"%s","size":%s,"annotations":{"io.containerd.image.name":"%s","org.opencontainers.image.ref.name":"%s"}}]}' \
    application/vnd.oci.image.manifest.v1+json "$digest" "$size" "$name" "$name" >"$layout/index.json"
  tar --create --directory "$layout" --file "$archive" oci-layout index.json blobs
  echo "   $name: $(basename "$archive"), $(stat -c %s "$archive") bytes, manifest $digest"
}

pack() {
  mkdir -p "$scratch/shim/bin" "$scratch/app/bin" "$scratch/app/etc"
  cp target/x86_64-unknown-linux-gnu/release/containerd-shim-runc-v2 \
    "$scratch/shim/bin/containerd-shim-youki-v1"
  image "$shim_image" "$scratch/shim" '{}' "$scratch/shim.tar"

  cp /bin/busybox "$scratch/app/bin/busybox"
  for applet in sh cat echo id uname; do ln -s busybox "$scratch/app/bin/$applet"; done
  echo 'root:x:0:0:root:/:/bin/sh' >"$scratch/app/etc/passwd"
  cat >"$scratch/app/bin/hello" <<'APP'
#!/bin/sh
echo "Hello from a container: $(id), pid $$, host name $(cat /proc/sys/kernel/hostname)."
echo "Its root holds: $(echo /*)"
APP
  chmod 755 "$scratch/app/bin/hello"
  image "$app_image" "$scratch/app" '{"Env":["PATH=/bin"],"Cmd":["/bin/hello"]}' "$scratch/app.tar"
}

supervisor() {
  # A copy by itself, so that the shim can only come from where it is installed.
  "$scratch/bin/supervisor" --root "$scratch/root" --state "$scratch/state" --opt "$scratch/opt" \
    --idle-timeout 1 "$@"
}

install_shim() {
  mkdir "$scratch/bin"
  cp target/x86_64-unknown-linux-gnu/release/supervisor "$scratch/bin/"
  supervisor install "$scratch/shim.tar" | sed 's/^/   /'
}

import() {
  supervisor import "$1" >"$scratch/names"
  sed 's/^/   /' "$scratch/names"
}

status=0
run() {
  set +e
  supervisor run --rm --runtime io.containerd.youki.v1 "$1" 2>&1 | tee "$scratch/output"
  status=${PIPESTATUS[0]}
  set -e
}

# The processes that have to do with the scratch directory, other than zombies.
remaining() {
  local process
  for process in /proc/[0-9]*; do
    if tr '\0' ' ' 2>/dev/null <"$process/cmdline" | grep -qF "$scratch/" &&
      ! grep -q '^State:[[:space:]]*[ZX]' "$process/status" 2>/dev/null; then
      echo "${process#/proc/}"
    fi
  done
}

leave() {
  local try
  for try in $(seq 150); do
    [ -n "$(remaining)" ] || break
    sleep 0.1
  done
  if [ -n "$(remaining)" ] || grep -qF "$scratch" /proc/self/mountinfo; then
    echo "   left behind: processes $(remaining | paste -sd' '), mounts $(grep -cF "$scratch" /proc/self/mountinfo)" >&2
    return 1
  fi
  rm -rf "$scratch"
  echo "   the daemon has left by itself; no process, mount or file remains"
}

# After a failure in the middle: whatever is still there goes, without further ado.
abandon() {
  local process mount
  [ -d "$scratch" ] || return 0
  for process in $(remaining); do kill -9 "$process" 2>/dev/null || true; done
  while read -r mount; do umount -l "$mount" || true; done \
    < <(awk -v part="$scratch" 'index($5, part) { print $5 }' /proc/self/mountinfo | sort -r)
  rm -rf --one-file-system "$scratch"
}

shim_image=example.test/containerd-shim-youki:1
app_image=example.test/hello:1
scratch=$(mktemp -d /tmp/quickstart.XXXXXX)
trap abandon EXIT

step "packages" packages
step "static release build of the supervisor and the shim" build
step "pack the shim and the application as OCI archives" pack
step "supervisor install: the shim's image into $scratch/opt" install_shim
app=${wanted:-$scratch/app.tar}
if [ -e "$app" ]; then
  step "supervisor import: $app" import "$app"
  app=$(head -n 1 "$scratch/names")
fi
step "supervisor run --rm --runtime io.containerd.youki.v1 $app" run "$app"
output=$(tail -n 20 "$scratch/output")
step "leave" leave
printf '== the application wrote\n%s\n== and ended with exit status %s\n' "$output" "$status"
exit "$status"
