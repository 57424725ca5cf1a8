#!/bin/sh
# guests: 1
# Volumes on thin devices: snapshots of one moment under a writer, rollback, clones, growth, and a
# daemon that dies meanwhile.
set -eu
. /opt/hawser/exec/devicemapper

mkfs.ext4 -q /dev/vde
mount /dev/vde "$STATE"
FILES="dm.allow_loop=true dm.loopdatasize=3G dm.loopmetadatasize=64M dm.basesize=512M dm.fs=ext4"
# shellcheck disable=SC2086
start $FILES
hawser image import /tmp/image.tar tools >/dev/null

for fs in ext4 xfs; do
    echo "== $fs"
    hawser volume create -o backend=thin -o size=300m -o fs=$fs -o uid=7 -o mode=0750 data >/dev/null
    is "$(in_volume data 'stat -c %u:%a /v; ls /v')" 7:750
    in_volume data 'echo one >/v/f'
    is "$(in_volume data 'cat /v/f')" one
    no_thin_devices || fail "active while nobody uses it: $(dmsetup ls)"

    # Of one moment: the log never has a line whose twin is not there.
    # shellcheck disable=SC2016
    hawser run -d --name writer --network none -v data:/v tools sh -c \
        'i=0; while true; do i=$((i + 1)); echo $i >/v/first; echo $i >/v/second; done' >/dev/null
    until_true 20 hawser exec writer test -s /v/second
    hawser volume snapshot create data before
    stop -KILL
    # shellcheck disable=SC2086
    start $FILES
    then=$(hawser exec writer cat /v/second)
    until_true 20 hawser exec writer sh -c "test \$(cat /v/second) -gt $then"
    hawser rm -f writer >/dev/null
    until_true 20 no_thin_devices
    hawser volume clone --snapshot before data copy >/dev/null
    first=$(in_volume copy 'cat /v/first')
    second=$(in_volume copy 'cat /v/second')
    # Whole files, or one that was empty for the moment in which it is written anew.
    [ -z "$first" ] || [ -z "$second" ] || [ $((first - second)) -le 1 ] || fail "$first and $second"
    in_volume data 'echo two >/v/f'
    in_volume copy 'echo copy >/v/f'
    is "$(in_volume data 'cat /v/f')" two
    hawser volume snapshot rollback -f data before
    is "$(in_volume data 'cat /v/f')" one
    is "$(in_volume copy 'cat /v/f')" copy

    # What an image has at the place, once.
    hawser volume create -o backend=thin -o size=300m -o fs=$fs filled >/dev/null
    is "$(hawser run --rm --network none -v filled:/bin tools ls /bin | grep -c busybox)" 1
    is "$(in_volume filled 'ls /v | grep -c busybox')" 1

    # It grows under who uses it.
    hawser run -d --name user --network none -v data:/v tools sleep 1000 >/dev/null
    hawser volume resize data 500m >/dev/null
    [ "$(hawser exec user df -m /v | awk 'END { print $2 }')" -gt 400 ] || fail "it has not grown"
    hawser exec user sh -c 'dd if=/dev/zero of=/v/big bs=1M count=330 conv=fsync 2>/dev/null' ||
        fail "it has no more room"
    # The archive would take long.
    hawser exec user rm /v/big
    if hawser volume resize data 100m 2>/tmp/smaller; then fail "it shrinks"; fi
    hawser volume inspect data | grep -q '"size": "500m"' || fail "$(hawser volume inspect data)"
    hawser volume stats | grep -q data || fail "no figures: $(hawser volume stats)"
    if hawser volume snapshot rollback -f data before 2>/tmp/used; then fail "rolled back under a user"; fi
    hawser rm -f user >/dev/null

    hawser volume export -o /tmp/data.tar.zst data
    hawser volume import -o backend=thin -o size=500m -o fs=$fs back /tmp/data.tar.zst >/dev/null
    is "$(in_volume back 'cat /v/f')" one

    hawser storage check --deep || fail "the check finds something"
    used=$(dmsetup status --target thin-pool | cut -d' ' -f7 | cut -d/ -f1)
    hawser volume snapshot rm data before
    hawser volume prune -f >/dev/null
    hawser volume rm data copy filled back 2>/dev/null || true
    # Pruned: they can come back, and then go for good.
    hawser volume restore back >/dev/null
    is "$(in_volume back 'cat /v/f')" one
    hawser volume rm back >/dev/null
    hawser volume prune -f --permanent >/dev/null
    until_true 20 no_thin_devices
    left=$(dmsetup status --target thin-pool | cut -d' ' -f7 | cut -d/ -f1)
    [ "$left" -lt "$used" ] || fail "$used blocks before, and $left now"
    is "$(hawser volume ls -q | wc -l)" 0
done

echo "== another driver"
hawser volume create -o backend=thin -o size=100m kept >/dev/null
stop -TERM
export DRIVER=overlay2
start
if hawser volume create -o backend=thin -o size=100m other 2>/tmp/words; then fail "no pool is needed"; fi
grep -q 'driver = "devicemapper"' /tmp/words || fail "other words: $(cat /tmp/words)"
if hawser volume rm kept 2>/tmp/words; then fail "its device would stay for ever"; fi
grep -q 'driver = "devicemapper"' /tmp/words || fail "other words: $(cat /tmp/words)"
stop -TERM
export DRIVER=devicemapper
# shellcheck disable=SC2086
start $FILES
hawser volume rm kept >/dev/null
hawser rmi tools >/dev/null
stop -TERM
