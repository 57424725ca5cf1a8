#!/bin/sh
# guests: 1
# A disk below a thin pool that takes no writes for a while, or does nothing at all: whoever cannot be
# served is told so, and when it is back, what was acknowledged before is there and the store is whole.
# shellcheck disable=SC2034
set -eu
. /opt/hawser/exec/devicemapper
. /opt/hawser/exec/failing-disk

OPTIONS="dm.directlvm_device=/dev/mapper/disk dm.basesize=512M dm.fs=ext4"
mkfs.ext4 -q /dev/vde
mount /dev/vde "$STATE"
keep
for trouble in "$NO_WRITES" "$NOTHING"; do
    echo "== $trouble"
    becomes "$trouble"
    is_refused "$trouble"
    becomes "$LINEAR"
    # As at a boot: nothing of the pool is known to the kernel.
    dmsetup ls --target thin | cut -f1 | while read -r device; do
        [ "$device" = 'No devices found' ] || dmsetup remove --retry "$device"
    done
    dmsetup remove --retry hawser-thinpool
    vgchange -q -an hawser >/dev/null
    is_whole
done
hawser rm -f keeper >/dev/null
until_true 20 no_thin_devices
stop -TERM
dmsetup remove hawser-thinpool
thin_check "$(readlink -f /dev/mapper/hawser-metadata)" >/dev/null || fail "the metadata are damaged"
