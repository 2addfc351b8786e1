#!/usr/bin/env bash
# Boots the nested machine (software emulation, pure cgroup v2) and runs one job in it.
#
#   tests/vm/boot.sh DIRECTORY JOB_DIRECTORY [KERNEL_ARGUMENT...]
#
# DIRECTORY is what initramfs.sh made. JOB_DIRECTORY holds `run`, a shell script, and whatever it
# needs; it appears there as /job. Prints the console; exits with the job's status, 125 if the
# machine did not get that far within VM_SECONDS (300), be it that it hung or that its kernel
# stopped.
set -euo pipefail

base=$(realpath "$1")
job=$(realpath "$2")
shift 2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/tree"
cp -a "$job" "$work/tree/job"
(cd "$work/tree" && find . | cpio --quiet -o -H newc) > "$work/job.cpio"
cat "$base/base.cpio" "$work/job.cpio" > "$work/initrd"
# Never kvm: a nested hypervisor may hang here. At the same address in every process, translated code
# is used again: that, and less care than a machine without secrets needs, saves two fifths of the time.
timeout --kill-after=5 "${VM_SECONDS:-300}" qemu-system-x86_64 -accel tcg,thread=multi -cpu max \
    -m 3000 -smp 2 -nographic -no-reboot -nic none \
    -kernel "$base/vmlinuz" -initrd "$work/initrd" \
    -append "console=ttyS0 quiet panic=-1 norandmaps mitigations=off init_on_alloc=0 $*" < /dev/null | stdbuf -oL tr -d '\r' | tee "$work/console" || true
status=$(sed -n 's/^vm: exit \([0-9]*\)$/\1/p' "$work/console" | tail -n 1)
[ -n "$status" ] || echo "vm: the machine did not finish within ${VM_SECONDS:-300} s"
exit "${status:-125}"
