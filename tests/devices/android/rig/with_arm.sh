#!/bin/sh
# with_arm.sh PROGRAM ARGUMENTS...: run it where the kernel runs 64-bit Arm programs under qemu.
# Called in a mount namespace of its own: from Linux 6.7 on, the registration ends with the last mount of binfmt_misc.
set -eu
entries=/proc/sys/fs/binfmt_misc
mount -t binfmt_misc none $entries
[ -e $entries/qemu-aarch64 ] || cat /usr/lib/binfmt.d/qemu-aarch64.conf >$entries/register || [ -e $entries/qemu-aarch64 ]
exec "$@"
