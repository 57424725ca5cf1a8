#!/bin/sh
# guests: 1
# A thin pool that is filled: it gets more room as long as there is some, then whoever writes gets an
# error, and nobody loses what was acknowledged. What is full can be emptied, after a new start too.
set -eu
. /opt/hawser/exec/devicemapper

mkfs.ext4 -q /dev/vdd
mount /dev/vdd "$STATE"
# 4 GiB, of which the pool gets 1.2 at first and then all.
DIRECT="dm.directlvm_device=/dev/vde dm.thinp_percent=30 dm.thinp_metapercent=1 dm.basesize=3G dm.fs=ext4 dm.min_free_space=5%"
# shellcheck disable=SC2086
start $DIRECT
total() {
    dmsetup table hawser-thinpool | cut -d' ' -f2
}
small=$(total)
hawser image import /tmp/image.tar tools >/dev/null
hawser run -d --name quiet --network none tools sleep 1000 >/dev/null
hawser exec quiet sh -c 'echo kept >/kept; sync'

echo "== a writer of more than there is yet"
hawser run -d --name writer --network none tools sleep 1000 >/dev/null
hawser exec writer sh -c 'dd if=/dev/zero of=/big bs=1M count=1700 conv=fsync' || fail "no room was made"
[ "$(total)" -gt "$small" ] || fail "the pool has not grown"

echo "== a writer of more than there is at all"
hawser run -d --name greedy --network none tools sleep 1000 >/dev/null
# If it is the journal that finds no room, its writer may wait until it is killed, and nobody else.
if timeout 120 hawser exec greedy sh -c 'dd if=/dev/zero of=/big bs=1M count=2800 conv=fsync'; then
    fail "there was room: $(dmsetup status hawser-thinpool)"
fi
timeout 60 dd if=/dev/zero of=/var/tmp/other bs=1M count=64 conv=fsync || fail "somebody else waits"
rm /var/tmp/other
dmsetup status hawser-thinpool
is "$(hawser exec quiet cat /kept)" kept
if hawser run --rm --network none tools true 2>/tmp/full; then fail "something new on a full pool"; fi
grep -q 'dm.min_free_space' /tmp/full || fail "other words: $(cat /tmp/full)"

echo "== a start on a full pool, and removing"
stop -KILL
# shellcheck disable=SC2086
start $DIRECT
is "$(hawser exec quiet cat /kept)" kept
hawser rm -f greedy writer >/dev/null
until_true 20 hawser run --rm --network none tools true
is "$(hawser exec quiet cat /kept)" kept
hawser storage check --deep || fail "the check finds something"
hawser rm -f quiet >/dev/null
until_true 20 no_thin_devices
stop -TERM
dmsetup remove hawser-thinpool
thin_check "$(readlink -f /dev/mapper/hawser-metadata)" >/dev/null || fail "the metadata are damaged"
