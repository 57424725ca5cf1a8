#!/bin/sh
# guests: 3
# Guests on one switch reach each other, and again through a VXLAN of their own making.
set -eu
. /opt/hawser/exec/wait

# everybody PREFIX: all guests answer at PREFIX and their number.
everybody() {
    number=1
    while [ "$number" -le "$GUESTS" ]; do
        until_true 60 ping -q -c1 -W1 "$1$number"
        number=$((number + 1))
    done
}

everybody 10.99.0.
ip link add vx0 type vxlan id 7 dstport 4789 local "10.99.0.$GUEST" dev eth0
peer=1
while [ "$peer" -le "$GUESTS" ]; do
    [ "$peer" = "$GUEST" ] || bridge fdb append 00:00:00:00:00:00 dev vx0 dst "10.99.0.$peer"
    peer=$((peer + 1))
done
ip address add "10.7.0.$GUEST/24" dev vx0
ip link set vx0 up
everybody 10.7.0.
# As much as fits, whole.
ping -c1 -W5 -M "do" -s 1422 "10.7.0.$((GUEST % GUESTS + 1))"

# Nobody leaves before all have come here: an address says so.
ip address add "10.98.0.$GUEST/24" dev eth0
everybody 10.98.0.
sleep 5
