#!/usr/bin/env bash
# Packs the nested machine's base system: busybox, the container programs with their libraries, and
# the kernel modules that containers and criu need. The job of one boot comes in a second archive
# (see boot.sh), so this one is made once.
#
#   tests/vm/initramfs.sh OUTPUT_DIRECTORY      leaves vmlinuz and base.cpio there
set -euo pipefail

out=$(realpath -m "$1")
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$out"
stamp="$(sha256sum "$here/initramfs.sh" "$here/init" | sha256sum | cut -d' ' -f1)"
if [ -f "$out/stamp" ] && [ "$(cat "$out/stamp")" = "$stamp" ]; then
    exit 0
fi
work=$(mktemp -d "$out/work.XXXXXX")
trap 'rm -rf "$work"' EXIT

# The kernel package is unpacked, not installed: the host's /boot is not ours.
for pause in 2 5 10 0; do
    package=$(apt-cache depends --important linux-image-cloud-amd64 2>/dev/null |
        sed -n 's/^  Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1) || true
    [ -z "$package" ] ||
        (cd "$work" && apt-get download -qq "$package" 2>&1 | grep -v 'unsandboxed' || true)
    ls "$work"/linux-image-*.deb >/dev/null 2>&1 && break
    # The lists are missing, or tell of a package that has been replaced.
    sleep "$pause"
    apt-get -q update || true
done
dpkg-deb --extract "$work"/linux-image-*.deb "$work/kernel"
release=$(ls "$work/kernel/lib/modules")
cp "$work/kernel/boot/vmlinuz-$release" "$out/vmlinuz"

root="$work/root"
mkdir -p "$root"/{bin,dev,etc,job,lib,proc,run,sbin,sys,tmp,usr/bin,usr/sbin,var/lib} "$root/lib/modules/$release"
ln -s lib "$root/lib64"

copy_program() {
    local program library
    program=$(command -v "$1") || { echo "tests/vm: $1 is not installed" >&2; exit 1; }
    cp -L "$program" "$root/usr/bin/$(basename "$1")"
    ldd "$program" 2>/dev/null | grep -oE '/[^ ]+' | while read -r library; do
        # Each under its own path, and the loader where the kernel looks for it.
        mkdir -p "$root$(dirname "$library")"
        cp -Ln "$library" "$root$library" 2>/dev/null || true
    done
}
busybox=$(command -v busybox)
cp "$busybox" "$root/bin/busybox"
for applet in $("$busybox" --list); do ln -s busybox "$root/bin/$applet" 2>/dev/null || true; done
# GNU tar and util-linux's unshare come before busybox's on PATH: criu's callers use the former's
# options, and the latter knows all namespaces.
# criu saves a network namespace with ip, and locks it with iptables.
for program in runc crun criu tar apparmor_parser iptables ip containerd ctr unshare nsenter; do
    copy_program "$program"
done
for name in iptables-{save,restore} ip6tables{,-save,-restore}; do
    ln -s iptables "$root/usr/bin/$name"
done
cp -r --parents /usr/lib/x86_64-linux-gnu/xtables "$root"
# Modules, with what each depends on.
modules="$work/kernel/lib/modules/$release"
/sbin/depmod -b "$work/kernel" "$release"
wanted="nf_tables nft_compat xt_mark nf_conntrack_netlink unix_diag tcp_diag udp_diag netlink_diag af_packet_diag overlay veth tun loop"
for name in $wanted; do
    /sbin/modprobe -d "$work/kernel" -S "$release" --show-depends "$name" 2>/dev/null | sed -n 's/^insmod \([^ ]*\).*/\1/p'
done | sort -u | while read -r module; do
    target="$root/lib/modules/$release/${module#"$modules/"}"
    mkdir -p "$(dirname "$target")"
    cp "$module" "$target"
done
cp "$modules"/modules.{order,builtin,builtin.modinfo} "$root/lib/modules/$release/" 2>/dev/null || true
/sbin/depmod -b "$root" "$release"
echo "$wanted" > "$root/etc/modules"

printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n' > "$root/etc/passwd"
printf 'root:x:0:\nnogroup:x:65534:\n' > "$root/etc/group"
install -m 755 "$here/init" "$root/init"
(cd "$root" && find . | cpio --quiet -o -H newc) > "$out/base.cpio"
echo "$stamp" > "$out/stamp"
