#!/bin/sh
# One life of a host whose power is cut: what earlier lives have acknowledged is there and whole, and
# then it works until it is cut itself. CUT is the driver and the filesystem, LAST is yes in a last life
# that only looks. The store is on /dev/vdd, a pool on /dev/vde; both outlive the guest.
set -eu
FILESYSTEM=${CUT#*-}
export HAWSER_CUT_DRIVER="${CUT%-*}" HAWSER_CUT_STORE=/mnt/store

if [ -z "$(wipefs --noheadings /dev/vdd)" ]; then
    "mkfs.$FILESYSTEM" -q /dev/vdd
fi
# What the journal has is put where it belongs; then the filesystem must be whole.
mount /dev/vdd /mnt
umount /mnt
case $FILESYSTEM in
ext4) fsck.ext4 -fn /dev/vdd ;;
xfs) xfs_repair -n /dev/vdd ;;
esac
mount /dev/vdd /mnt
mkdir -p /mnt/store
if [ "$HAWSER_CUT_DRIVER" = devicemapper ]; then
    export HAWSER_CUT_OPTS="dm.directlvm_device=/dev/vde dm.basesize=512M dm.fs=$FILESYSTEM"
    export DM_DISABLE_UDEV=1
    if pvs /dev/vde >/dev/null 2>&1 && vgchange -q -ay hawser && [ -e /mnt/store/acks ]; then
        thin_check "$(readlink -f /dev/mapper/hawser-metadata)"
    fi
fi
if [ "$LAST" != yes ]; then
    export HAWSER_CUT_WORKING=/run/working
fi
test=cut::what_was_acknowledged_outlives_its_process
/opt/hawser/tests/storaged.power_cut --exact "$test" --nocapture &
while [ "$LAST" != yes ] && kill -0 $! 2>/dev/null; do
    if [ -e /run/working ]; then
        echo "@@ info working" >/dev/ttyS1
        break
    fi
    sleep 0.1
done
wait $!
