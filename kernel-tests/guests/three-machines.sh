#!/bin/bash
# guests: 3
# first: systemd
# Three machines as Vagrant makes them, and what its README does on them: containers of one VLAN, a
# cluster whose manager runs its own etcd, overlays, and a service that every machine answers for.
# All of it by the installed units, with no capability, system call or directory more.
set -eux
. /opt/hawser/exec/wait
. /opt/hawser/exec/together
. /opt/hawser/exec/installed
HERE=10.99.0.$GUEST
NEXT=$((GUEST % GUESTS + 1))

# as GUEST COMMAND…: on that machine alone.
as() {
    [ "$GUEST" = "$1" ] || return 0
    shift
    "$@"
}

# fetched CONTAINER URL WORD: what it gets there.
fetched() {
    [ "$(timeout 10 hawser exec "$1" wget -q -O - "$2")" = "$3" ]
}

# answers ADDRESS: one of the service's replicas, by that machine.
answers() {
    curl -fsS --max-time 5 "http://$1:8081/word" | grep -q '^hello from '
}

all_answer() {
    for number in $(seq "$GUESTS"); do
        answers "10.99.0.$number" || return
    done
}

replicas_run() {
    [ "$(hawser service ls --format '{{.Replicas}}')" = 3/3 ]
}

# asked_by ADDRESS: as the servers have said.
asked_by() {
    hawser service logs web 2>&1 | grep -F "[::ffff:$1]:"
}

all_are_ready() {
    [ "$(hawser node ls --format '{{.Status}}' | grep -c Ready)" = 3 ]
}

nothing_is_left() {
    [ -z "$(hawser ps -q)" ] && [ -z "$(ip link show type vxlan)" ] && ! ip link show wg-hawser 2>/dev/null
}

provision
image box
step provisioned

# Containers of all machines in one VLAN; each machine gives out its part of the addresses.
hawser network create -d macvlan --subnet 10.10.0.0/24 --ip-range "10.10.0.$((GUEST * 64))/26" \
    -o parent=eth0.10 vlan10
hawser run -d --name tagged --network vlan10 --ip "10.10.0.$((GUEST * 64 + 1))" box sleep 10000
step tagged
until_true 30 hawser exec tagged ping -c 1 -W 1 "10.10.0.$((NEXT * 64 + 1))"
step reached
hawser rm -f tagged
hawser network rm vlan10
if ip link show eth0.10; then exit 1; fi

# A cluster, by the commands that it prints.
if [ "$GUEST" = 1 ]; then
    hawser swarm init --advertise-addr "$HERE"
    hawser swarm join-token --quiet worker | say token
    hawser network create -d overlay --attachable town
    hawser network create -d overlay --attachable -o encrypted bank
else
    until_true 300 says 1 token >/dev/null
    hawser swarm join --token "$(says 1 token)" 10.99.0.1:2377
fi
step joined
as 1 until_true 30 all_are_ready
as 1 hawser node ls

# Networks of all three: by name, and in the container's own words.
for network in town bank; do
    hawser run -d --name "$network$GUEST" --network "$network" box \
        sh -c "echo $network$GUEST >/word; httpd -f"
done
step running
for network in town bank; do
    until_true 60 fetched "$network$GUEST" "http://$network$NEXT/word" "$network$NEXT"
done
step overlaid

# A service: three replicas, and every machine answers at its port.
# shellcheck disable=SC2016
as 1 hawser service create --name web --replicas 3 -p 8081:80 --no-resolve-image box \
    sh -c 'echo hello from $(hostname) >/word; httpd -f -vv'
as 1 until_true 120 replicas_run
as 1 hawser service ps web
step served
until_true 60 all_answer
step answered
# The servers have seen the addresses of all who asked.
for number in $(seq "$GUESTS"); do
    as 1 until_true 30 asked_by "10.99.0.$number"
done
step logged

# What runs does not need the daemon, and neither does the cluster's store.
pid=$(hawser inspect --format '{{.State.Pid}}' "bank$GUEST")
hawser inspect --format '{{.NetworkSettings.Networks.bank.IPAddress}}' "bank$GUEST" | say address
step known
etcd=$(pgrep -x etcd || true)
systemctl stop hawserd
step stopped
all_answer
word=$(nsenter --net="/proc/$pid/ns/net" busybox wget -q -O - "http://$(says $NEXT address)/word")
[ "$word" = "bank$NEXT" ]
step still
systemctl start hawserd
step started
until_true 60 all_answer
[ "$(pgrep -x etcd || true)" = "$etcd" ]
as 1 [ -n "$etcd" ]
as 1 until_true 60 all_are_ready

# Away again.
as 1 hawser service rm web
hawser rm -f "town$GUEST" "bank$GUEST"
until_true 60 nothing_is_left
step removed
as 1 hawser network rm town bank
[ "$GUEST" = 1 ] || hawser swarm leave
step left
as 1 hawser swarm leave --force
until_true 20 sh -c '! pgrep -x etcd'
# The others still read what this one says.
step over
sleep 5
