#!/bin/bash
# guests: 2
# packages: docker.io nginx wrk
# The routing mesh beside docker's, which is IPVS: both have the same two guests for nodes, with a network
# of its own for each side, and ports that lead to a member on the node that is asked or on the other.
set -eu
. /opt/hawser/exec/wait
. /opt/hawser/exec/together
. /opt/hawser/exec/figures

RUNS=5
SECONDS_EACH=2
# Members, and the guest that each is on; the first guest is the one that is asked.
declare -A GUEST_OF=([near]=1 [far]=2)
# Published ports: its page, and its stream.
declare -A PAGE=([near]=8001 [far]=8003) STREAM=([near]=8002 [far]=8004)
# The last but one number of a side's addresses.
declare -A NUMBER=([hawser]=2 [docker]=1)

fail() {
    grep -E 'level=(warn|err)' /var/log/dockerd.log | tail -n 20
    tail -n 20 /var/log/hawserd.log
    echo "FAILED: $*"
    exit 1
}
code=0 line=0
trap 'code=$?; [ $code -eq 0 ] || fail "after line $line"' EXIT
trap 'line=$LINENO' ERR

# on HOST COMMAND…
on() {
    nsenter --net="/run/netns/$1" "${@:2}"
}

hawser() {
    on hawser /opt/hawser/bin/hawser "$@"
}

# Docker's networks are routers as far as the first of a machine's networks is one.
sysctl -q net.ipv4.ip_forward=1
# joins HOST ADDRESS NAME: by a card of its own on the guests' wire.
joins() {
    ip link add link eth0 name "$3" netns "$1" type macvlan mode bridge
    ip -n "$1" address add "$2/24" dev "$3"
    ip -n "$1" link set "$3" up
}
# Two hosts in each guest, and a client of both.
for side in hawser docker; do
    ip netns add $side
    ip -n $side link set lo up
    joins $side "10.99.${NUMBER[$side]}.$GUEST" wire
done
if [ "$GUEST" = 1 ]; then
    ip netns add client
    on client sysctl -q net.ipv4.tcp_tw_reuse=1
    for side in hawser docker; do
        joins client "10.99.${NUMBER[$side]}.9" $side
    done
fi

mkdir -p /etc/hawser /var/lib/hawser /opt/cni/bin /tmp/tree/bin /var/log/nginx /var/lib/nginx
ln -sf /opt/hawser/bin/hawser-cni /opt/cni/bin/hawser
ln -sf /opt/hawser/bin/hawser-cni-ipam /opt/cni/bin/hawser-ipam
cp "$(command -v busybox)" /tmp/tree/bin/busybox
for tool in sh sleep; do ln -s busybox /tmp/tree/bin/$tool; done
tar -C /tmp/tree -cf /tmp/image.tar .
modprobe -aq overlay br_netfilter ip_vs ip_vs_rr xt_ipvs vxlan
on hawser /opt/hawser/bin/hawserd >/var/log/hawserd.log 2>&1 &
on docker dockerd --storage-driver overlay2 >/var/log/dockerd.log 2>&1 &
until_true 120 hawser info >/dev/null 2>&1
until_true 120 docker info >/dev/null 2>&1
hawser image import /tmp/image.tar box >/dev/null
docker import /tmp/image.tar box >/dev/null
step up

# Each side is a cluster of two.
if [ "$GUEST" = 1 ]; then
    hawser swarm init --advertise-addr 10.99.2.1 >/dev/null
    docker swarm init --advertise-addr 10.99.1.1 >/dev/null
    for side in hawser docker; do
        $side swarm join-token --quiet worker | say $side-token
    done
else
    for side in hawser docker; do
        until_true 300 says 1 $side-token >/dev/null
        $side swarm join --advertise-addr "10.99.${NUMBER[$side]}.2" \
            --token "$(says 1 $side-token)" "10.99.${NUMBER[$side]}.1:2377"
    done
fi
step joined
if [ "$GUEST" = 1 ]; then
    for member in near far; do
        ports="--publish ${PAGE[$member]}:80 --publish ${STREAM[$member]}:5201"
        # shellcheck disable=SC2086
        hawser service create --name $member $ports
        # shellcheck disable=SC2086
        docker service create --detach --no-resolve-image --name $member $ports \
            --constraint "node.hostname==guest${GUEST_OF[$member]}" box sleep 100000
    done
fi
step created

# Servers of the guest's, in the network of each side's member.
cat >/etc/nginx/nginx.conf <<'CONF'
user root;
error_log /var/log/nginx.log;
events { worker_connections 512; }
http {
    access_log off;
    server {
        listen 80;
        location / { return 200 "$remote_addr\n"; }
    }
}
CONF
member=near
[ "$GUEST" = "${GUEST_OF[$member]}" ] || member=far
of_docker() {
    docker ps --quiet --filter "label=com.docker.swarm.service.name=$member" | grep .
}
# Emulated as they are, the hosts are too busy for more than one of this at once.
until_true 120 of_docker
step docker
until_true 20 hawser run -d --name $member --service $member box sleep 100000
for side in hawser docker; do
    container=$member
    [ $side = hawser ] || container=$(of_docker)
    pid=$($side inspect --format '{{.State.Pid}}' "$container")
    nsenter --net="/proc/$pid/ns/net" iperf3 -s -D
    nsenter --net="/proc/$pid/ns/net" nginx -g "pid /run/nginx-$side.pid;"
done
step serving

# The first guest's hosts are asked.
url() {
    echo "http://10.99.${NUMBER[$1]}.1:${PAGE[$2]}/"
}
seen() {
    on client curl -fs --max-time 2 "$(url "$1" "$2")"
}
answers() {
    seen "$@" >/dev/null
}
connections() {
    on client wrk -t1 -c8 -d${SECONDS_EACH}s -H 'Connection: close' "$(url "$1" "$2")" |
        awk '/^Requests\/sec/ { print $2 }'
}
# stream SIDE MEMBER [FLAG…]: Mbit/s
stream() {
    on client iperf3 -c "10.99.${NUMBER[$1]}.1" -p "${STREAM[$2]}" -J -t $SECONDS_EACH -O 1 "${@:3}" |
        jq '.end.sum_received.bits_per_second / 1000000'
}
if [ "$GUEST" = 1 ]; then
    for member in near far; do
        for side in hawser docker; do
            until_true 30 answers $side $member
            address=$(seen $side $member)
            is_true=no
            [ "$address" != "10.99.${NUMBER[$side]}.9" ] || is_true=yes
            echo "figure: $side, $member: the server sees $address of 10.99.${NUMBER[$side]}.9"
            [ "$side:$is_true" = hawser:yes ] || [ "$side:$is_true" = docker:no ] || fail "$side: $address"
        done
    done
    for run in $(seq 0 $RUNS); do
        # The first is not for the figures.
        [ "$run" != 1 ] || forget
        for member in near far; do
            for side in hawser docker; do
                note "connections, $member" $side "$(connections $side $member)"
                note "to the server, $member" $side "$(stream $side $member)"
                note "from the server, $member" $side "$(stream $side $member -R)"
            done
        done
    done
    for member in near far; do
        figure "connections, $member" 1/s hawser docker
        figure "to the server, $member" Mbit/s hawser docker
        figure "from the server, $member" Mbit/s hawser docker
    done
fi
step measured
# Until the other one has read that, too.
sleep 5
