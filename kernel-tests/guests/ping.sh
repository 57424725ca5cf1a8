#!/bin/sh
# guests: 2
# Two guests on one switch reach each other, by both families.
set -eu
. /opt/hawser/exec/wait

PEER=$((3 - GUEST))
ip address add "fd00:99::$GUEST/64" dev eth0 nodad
for address in "10.99.0.$PEER" "fd00:99::$PEER"; do
    until_true 60 ping -q -c1 -W1 "$address"
done

# Nobody leaves before the other has come here: an address says so.
ip address add "10.98.0.$GUEST/24" dev eth0
until_true 60 ping -q -c1 -W1 "10.98.0.$PEER"
sleep 5
