#!/bin/sh
# guests: 1
# A container that is removed while somebody stays in its filesystem: it goes later, or not at all.
set -eu
. /opt/hawser/exec/devicemapper

mkfs.ext4 -q /dev/vde
mount /dev/vde "$STATE"
FILES="dm.allow_loop=true dm.loopdatasize=2G dm.loopmetadatasize=64M dm.basesize=512M dm.fs=ext4"

# A process of the host that looks into a container, which ends.
stays() {
    hawser run -d --name held --network none tools sleep 1000 >/dev/null
    nsenter -t "$(hawser inspect -f '{{.State.Pid}}' held)" -m sleep 1000 &
    STAYS=$!
    until_true 10 is_inside
    hawser kill held >/dev/null
    until_true 10 has_ended
}
is_inside() {
    [ "$(readlink "/proc/$STAYS/exe")" = /bin/busybox ]
}
has_ended() {
    [ "$(hawser inspect -f '{{.State.Status}}' held)" = exited ]
}

echo "== later"
# shellcheck disable=SC2086
start $FILES
hawser image import /tmp/image.tar tools >/dev/null
stays
hawser rm held >/dev/null
is "$(thin_devices)" 1
kill "$STAYS"
until_true 30 no_thin_devices
stop -TERM

echo "== not at all"
# shellcheck disable=SC2086
start $FILES dm.use_deferred_deletion=false
stays
if hawser rm held 2>/tmp/held; then fail "it is gone while process $STAYS has it"; fi
grep -q "in use by process $STAYS" /tmp/held || fail "other words: $(cat /tmp/held)"
is "$(hawser ps -aq | wc -l)" 1
kill "$STAYS"
hawser rm held >/dev/null
until_true 30 no_thin_devices
hawser storage check || fail "the check finds something"
hawser rmi tools >/dev/null
stop -TERM
