#!/bin/sh
# guests: 1
# Images and containers on thin pools: somebody else's, one in files, and one made of a block device.
set -eu
. /opt/hawser/exec/devicemapper

# What works with every pool; it is called again after a restart of the daemon.
works() {
    hawser image import /tmp/image.tar tools >/dev/null
    is "$(hawser run --rm --network none tools cat /base)" base
    hawser run -d --name one --network none tools sleep 1000 >/dev/null
    hawser exec one sh -c 'echo written >/written; rm /base'
    hawser diff one >/tmp/diff
    grep -qx 'D /base' /tmp/diff || fail "no deletion in $(cat /tmp/diff)"
    grep -qx 'A /written' /tmp/diff || fail "no new file in $(cat /tmp/diff)"
    is "$(grep -c bin /tmp/diff || true)" 0
    # Nothing of it is mounted on the host, and a daemon that dies takes nothing along.
    if grep -q "$STATE/devicemapper" /proc/mounts; then fail "mounted: $(cat /proc/mounts)"; fi
    is "$(thin_devices)" 1
    stop -KILL
    start "$@"
    is "$(hawser exec one cat /written)" written
    hawser commit one copy >/dev/null
    is "$(hawser run --rm --network none copy sh -c 'cat /written; test ! -e /base')" written
    hawser stop -t 0 one >/dev/null
    until_true 10 no_thin_devices
    hawser start one >/dev/null
    is "$(hawser exec one cat /written)" written
    # Byte for byte, and again in another store.
    hawser save -o /tmp/copy.tar copy
    hawser storage check --deep || fail "the check finds something"
    hawser rm -f one >/dev/null
    # One that may grow to more than others, and one that asks for less than there is.
    hawser run -d --name large --network none --storage-opt size=700M tools sleep 1000 >/dev/null
    size=$(hawser exec large df -m / | awk 'END { print $2 }')
    [ "$size" -gt 550 ] || fail "a container of 700M has $size MB"
    if hawser run --rm --storage-opt size=300M tools true 2>/tmp/small; then fail "too small"; fi
    grep -q basesize /tmp/small || fail "other words: $(cat /tmp/small)"
    # It grows while it runs, for whoever is in it.
    if hawser update --storage-opt size=600M large 2>/tmp/small; then fail "it shrinks"; fi
    grep -q 'only grows' /tmp/small || fail "other words: $(cat /tmp/small)"
    hawser update --storage-opt size=900M large >/dev/null
    size=$(hawser exec large df -m / | awk 'END { print $2 }')
    [ "$size" -gt 750 ] || fail "a container that has grown to 900M has $size MB"
    hawser stop -t 0 large >/dev/null
    hawser start large >/dev/null
    is "$(hawser exec large df -m / | awk 'END { print $2 }')" "$size"
    hawser rm -f large >/dev/null
    until_true 10 no_thin_devices
    hawser rmi copy tools >/dev/null
    is "$(hawser images -q | wc -l)" 0
}

mkfs.ext4 -q /dev/vde
mount /dev/vde "$STATE"

refused 'dm.allow_loop=true'
refused 'no such option' dm.bogus=1 dm.allow_loop=true
refused 'no thin pool nothing' dm.thinpooldev=/dev/mapper/nothing

echo "== files"
FILES="dm.allow_loop=true dm.loopdatasize=2G dm.loopmetadatasize=64M dm.basesize=512M dm.fs=ext4"
# shellcheck disable=SC2086
start $FILES
says 'Storage Driver: devicemapper'
says 'Pool Name: hawser-.*-pool'
says 'Pool Blocksize: 65.54kB'
says 'Base Device Size: 536.9MB'
says 'Backing Filesystem: ext4'
says 'Data loop file: /var/lib/hawser/devicemapper/pool/data'
says 'Data Space Total: 2.147GB'
# shellcheck disable=SC2086
works $FILES
stop -TERM
# shellcheck disable=SC2046
refused 'it only grows' $(echo "$FILES" | sed 's/512M/400M/')
refused 'say the same again' dm.datadev=/dev/vdd dm.metadatadev=/dev/vdd
POOL=$(dmsetup ls --target thin-pool | cut -f1)
dmsetup remove "$POOL"
umount "$STATE"

echo "== one block device"
refused 'in use as ext4' dm.directlvm_device=/dev/vde
wipefs -qa /dev/vde
# The device of a store that is elsewhere.
mkfs.ext4 -q /dev/vdd
mount /dev/vdd "$STATE"
pvcreate -q -y /dev/vde >/dev/null
vgcreate -q other /dev/vde >/dev/null
refused 'volume group "other"' dm.directlvm_device=/dev/vde dm.directlvm_device_force=true
vgremove -q -y other >/dev/null
pvremove -q -y /dev/vde >/dev/null
mkfs.ext4 -q -F /dev/vde
# What a group of this name leaves that is gone, where nothing but LVM makes nodes.
mkdir /dev/hawser
DIRECT="dm.directlvm_device=/dev/vde dm.thinp_percent=95 dm.thinp_metapercent=1 dm.thinp_autoextend_threshold=80 dm.thinp_autoextend_percent=20 dm.directlvm_device_force=true dm.basesize=512M"
# shellcheck disable=SC2086
start $DIRECT
says 'Pool Name: hawser-thinpool'
says 'Pool Blocksize: 524.3kB'
says 'Backing Filesystem: xfs'
says 'Data Space Total: 4.0[78]'
is "$(dmsetup table hawser-thinpool | grep -c error_if_no_space || true)" 0
# shellcheck disable=SC2086
works $DIRECT
stop -TERM
dmsetup remove hawser-thinpool
# As after a boot: the volumes are activated, and the metadata checked.
vgchange -q -an hawser >/dev/null
# shellcheck disable=SC2086
start $DIRECT
says 'Data Space Used'
stop -TERM
dmsetup remove hawser-thinpool
vgremove -q -y hawser >/dev/null
pvremove -q -y /dev/vde >/dev/null
umount "$STATE"

echo "== a pool that is there"
mkfs.ext4 -q -F /dev/vdd
mount /dev/vdd "$STATE"
wipefs -qa /dev/vde
sectors=$(blockdev --getsz /dev/vde)
dmsetup create meta --table "0 65536 linear /dev/vde 0"
dmsetup create data --table "0 $((sectors - 65536)) linear /dev/vde 65536"
dd if=/dev/zero of=/dev/dm-0 bs=4096 count=1 2>/dev/null
dmsetup create docker-thinpool \
    --table "0 $((sectors - 65536)) thin-pool 253:0 253:1 1024 1024 1 skip_block_zeroing"
refused 'is no thin pool but linear' dm.thinpooldev=meta
dmsetup message docker-thinpool 0 'create_thin 5'
dmsetup message docker-thinpool 0 'set_transaction_id 0 1'
refused 'none on record' dm.thinpooldev=docker-thinpool
dmsetup message docker-thinpool 0 'delete 5'
dmsetup message docker-thinpool 0 'set_transaction_id 1 0'
GIVEN="dm.thinpooldev=/dev/mapper/docker-thinpool dm.use_deferred_removal=true dm.use_deferred_deletion=true dm.basesize=512M"
# shellcheck disable=SC2086
start $GIVEN
says 'Pool Name: docker-thinpool'
# shellcheck disable=SC2086
works $GIVEN
stop -TERM
# Somebody else has used the pool meanwhile.
now=$(dmsetup status docker-thinpool | cut -d' ' -f4)
dmsetup message docker-thinpool 0 "set_transaction_id $now $((now + 7))"
# shellcheck disable=SC2086
refused 'not of one time' $GIVEN
