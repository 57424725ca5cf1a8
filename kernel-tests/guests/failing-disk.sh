#!/bin/sh
# guests: 1
# A disk below overlay2 that takes no writes for a while, or does nothing at all: whoever cannot be
# served is told so, and when it is back, what was acknowledged before is there and the store is whole.
# shellcheck disable=SC2034
set -eu
. /opt/hawser/exec/devicemapper
. /opt/hawser/exec/failing-disk

DRIVER=overlay2
mkfs.ext4 -q /dev/mapper/disk
mount /dev/mapper/disk "$STATE"
keep
for trouble in "$NO_WRITES" "$NOTHING"; do
    echo "== $trouble"
    becomes "$trouble"
    if hawser volume create more >/tmp/said 2>&1; then fail "a volume was made on $trouble"; fi
    is_refused "$trouble"
    becomes "$LINEAR"
    umount "$STATE"
    fsck.ext4 -p /dev/mapper/disk || [ $? = 1 ] || fail "the filesystem is damaged"
    mount /dev/mapper/disk "$STATE"
    is_whole
done
hawser rm -f keeper >/dev/null
stop -TERM
umount "$STATE"
