#!/bin/sh
# guests: 2
# Two guests on one switch reach each other, by both families.
set -eu

until_answered() {
    left=60
    until ping -c1 -W1 "$1" >/dev/null 2>&1; do
        left=$((left - 1))
        if [ "$left" -le 0 ]; then
            echo "$1 does not answer"
            exit 1
        fi
        sleep 1
    done
}

ip address add "fd00:99::$GUEST/64" dev eth0 nodad
until_answered "10.99.0.$((3 - GUEST))"
until_answered "fd00:99::$((3 - GUEST))"

# Nobody leaves before the other has come here: an address says so.
ip address add "10.98.0.$GUEST/24" dev eth0
until_answered "10.98.0.$((3 - GUEST))"
sleep 5
