#!/bin/sh
# guests: 1
# packages: docker.io
# What images and containers on thin pools take, beside docker's own driver of that name: each has a
# disk of the guest's, set up by itself, and both are asked in turn.
set -eu
. /opt/hawser/exec/devicemapper

export DM_DISABLE_UDEV=1
RUNS=7
IMAGE_FILES=200
mkdir -p /tmp/times
start dm.directlvm_device=/dev/vde dm.basesize=1G dm.fs=ext4
dockerd --storage-driver devicemapper --storage-opt dm.directlvm_device=/dev/vdd \
    --storage-opt dm.basesize=1G --storage-opt dm.fs=ext4 \
    --storage-opt dm.override_udev_sync_check=true \
    --bridge none --iptables=false --ip6tables=false >/var/log/dockerd.log 2>&1 &
answers() {
    kill -0 $! || fail "$(tail -n 30 /var/log/dockerd.log)"
    docker info
}
until_true 120 answers
docker info 2>/dev/null | grep -q 'Storage Driver: devicemapper' || fail "$(docker info)"
hawser image import /tmp/image.tar tools >/dev/null
docker import /tmp/image.tar tools >/dev/null
mkdir /tmp/files
for number in $(seq $IMAGE_FILES); do
    head -c 16384 /dev/urandom >"/tmp/files/$number"
done

# timed ROW SIDE COMMAND…
timed() {
    row=$1 side=$2
    shift 2
    begin=$(date +%s%N)
    "$@" >/dev/null || fail "$*"
    echo $((($(date +%s%N) - begin) / 10000)) >>"/tmp/times/$row.$side"
}
# What is said at the end: milliseconds.
median() {
    sort -n "/tmp/times/$1.$2" | awk '{ t[NR] = $1 } END { printf "%.2f", t[int((NR + 1) / 2)] / 100 }'
}
for run in $(seq 0 $RUNS); do
    # The first is not for the figures.
    [ "$run" != 1 ] || rm -f /tmp/times/*
    for side in hawser docker; do
        timed 'container create' "$side" "$side" create --network none --name one tools true
        "$side" cp /tmp/files one:/files >/dev/null
        timed 'layer commit' "$side" "$side" commit one copy
        timed 'container delete' "$side" "$side" rm one
        timed 'image delete' "$side" "$side" rmi copy
    done
done
for row in 'container create' 'layer commit' 'container delete' 'image delete'; do
    ours=$(median "$row" hawser) theirs=$(median "$row" docker)
    echo "figure: $row: $ours ms, docker $theirs ms: $(echo "$ours $theirs" | awk '{ printf "%.2f", $1 / $2 }')"
done
