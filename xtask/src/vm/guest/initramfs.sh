#!/bin/busybox sh
# shellcheck shell=dash
# First process of a guest: finds the disks and goes over to the one with the user space.
/bin/busybox --install -s /bin
mkdir -p /dev /proc /sys /root
mount -t devtmpfs devtmpfs /dev
mount -t proc proc /proc
for module in /modules/*.ko; do
    insmod "$module"
done
# A disk appears some time after its driver; the last one has the programs.
tries=0
until [ -b /dev/vdc ] || [ "$tries" -gt 100 ]; do
    tries=$((tries + 1))
    sleep 0.1
done
mount -t ext4 -o noatime /dev/vda /root
mount -t ext4 -o ro /dev/vdb /root/usr/lib/modules
mount -t ext4 -o noatime /dev/vdc /root/opt/hawser
# Each guest is another machine, the same at every boot, and not at its first: systemd's journal wants
# to know, and systemd itself would ask who and where it is.
printf '%032x\n' "$GUEST" >/root/etc/machine-id
umount /proc
mount --move /dev /root/dev
exec switch_root /root "${FIRST:-/opt/hawser/init}"
