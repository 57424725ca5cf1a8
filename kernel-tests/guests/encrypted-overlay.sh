#!/bin/bash
# guests: 3
# An encrypted network over three hosts, and the wire between them: nothing of it in clear text goes
# out, and nothing in clear text comes in, whatever happens to the firewall, to the daemon and to the
# interface that encrypts.
set -eu
. /opt/hawser/exec/wait
. /opt/hawser/exec/together
. /opt/hawser/exec/figures
export PATH="/opt/hawser/bin:$PATH"
LOG=/var/log/hawserd.log
HERE=10.99.0.$GUEST
RUNS=3
SECRET=6f6e6c792d666f722d75732d696e7369  # 16 bytes that ping fills its packets with

fail() {
    echo "FAILED: $*"
    cat /tmp/*.said || true
    tail -n 20 "$LOG"
    wg show
    exit 1
}
code=0 line=0
trap 'code=$?; [ $code -eq 0 ] || fail "after line $line"' EXIT
trap 'line=$LINENO' ERR

# inside CONTAINER COMMAND…: in its network, with the programs of the guest.
inside() {
    pid=$(hawser inspect --format '{{.State.Pid}}' "$1")
    shift
    nsenter --net="/proc/$pid/ns/net" "$@"
}

# listen LINK FILE [FILTER…]: writes down what passes there.
listen() {
    link=$1 file=$2
    shift 2
    rm -f "$file"
    tcpdump -i "$link" -U -Z root -w "$file" "$@" 2>"$file.said" &
    until_true 20 grep -q 'listening on' "$file.said"
}

# heard FILTER: how many of these packets were on the wire.
heard() {
    tcpdump -Z root -nr /tmp/wire "$@" 2>/dev/null | wc -l
}

# deaf: and no more.
deaf() {
    pkill -x tcpdump
    until_true 20 sh -c '! pgrep -x tcpdump >/dev/null'
}

# vxlan_of NETWORK: its interface here.
vxlan_of() {
    echo "vx-$(hawser network inspect --format '{{.ID}}' "$1" | cut -c1-12)"
}

vni_of() {
    ip -d -j link show "$1" | jq '.[0].linkinfo.info_data.id'
}

# Sends one VXLAN frame in clear text: number, and where to. A line feed would cut it in two.
inject() {
    number=$(printf '\\x%02x\\x%02x\\x%02x' $(($1 >> 16)) $(($1 >> 8 & 255)) $(($1 & 255)))
    frame='\xff\xff\xff\xff\xff\xff\x02\x42\x0b\x00\x63\x63\x08\x06forged forged forged forged forged forged'
    printf '%b' '\x08\x00\x00\x00'"$number"'\x00'"$frame" >"/dev/udp/$2/4789"
}

# dropped: frames in clear text that the network has not let in here, as its counter says.
dropped() {
    hawser network inspect --format '{{.ClearTextDropped}}' secret
}

# counted NUMBER: at least so many.
counted() {
    [ "$(dropped)" -ge "$1" ]
}

busybox=$(command -v busybox)
mkdir -p /etc/hawser /var/lib/hawser /opt/cni/bin /tmp/tree/bin
ln -sf /opt/hawser/bin/hawser-cni /opt/cni/bin/hawser
ln -sf /opt/hawser/bin/hawser-cni-ipam /opt/cni/bin/hawser-ipam
cp "$busybox" /tmp/tree/bin/busybox
for tool in sh sleep; do ln -s busybox /tmp/tree/bin/$tool; done
# New interfaces have no IPv6 on a host that has none.
[ "$GUEST" != 3 ] || sysctl -q net.ipv6.conf.default.disable_ipv6=1
hawserd >"$LOG" 2>&1 &
DAEMON=$!
until_true 120 hawser info >/dev/null 2>&1
tar -C /tmp/tree -c . | hawser import - box >/dev/null

# One cluster.
if [ "$GUEST" = 1 ]; then
    hawser swarm init --advertise-addr "$HERE"
    hawser swarm join-token --quiet worker | say token
    hawser network create -d overlay --attachable --subnet 10.8.0.0/24 -o encrypted secret
    hawser network create -d overlay --attachable --subnet 10.9.0.0/24 open
    hawser network inspect --format '{{json .Options}}' secret | grep -q '"encrypted"'
else
    until_true 300 says 1 token >/dev/null
    hawser swarm join --token "$(says 1 token)" 10.99.0.1:2377
fi
step joined
hawser run -d --name "secret$GUEST" --network secret --ip "10.8.0.1$GUEST" box sleep 10000
hawser run -d --name "open$GUEST" --network open --ip "10.9.0.1$GUEST" box sleep 10000
step running
SECRET_LINK=$(vxlan_of secret)
OPEN_LINK=$(vxlan_of open)
SECRET_NUMBER=$(vni_of "$SECRET_LINK")
OPEN_NUMBER=$(vni_of "$OPEN_LINK")
CLEAR="(udp port 4789 and udp[12:4] & 0xffffff00 = $((SECRET_NUMBER << 8))) or (ip6 and udp port 4789)"
NEXT=$((GUEST % GUESTS + 1))
PEER=10.8.0.1$NEXT
until_true 20 inside "secret$GUEST" ping -q -c1 -W1 "$PEER"
# The longest packet that there is, whole, and nothing longer.
[ "$(inside "secret$GUEST" ip -j link show eth0 | jq ".[0].mtu")" = 1370 ] || fail "another MTU"
inside "secret$GUEST" ping -q -c3 -W5 -M "do" -s 1342 "$PEER"
step reachable

# What is on the wire, of both networks.
listen eth0 /tmp/wire
inside "open$GUEST" ping -q -c3 -W2 -p "$SECRET" "10.9.0.1$NEXT"
until_true 20 grep -qa only-for-us-insi /tmp/wire
step heard
deaf
listen eth0 /tmp/wire "$CLEAR" or udp port 4790
inside "secret$GUEST" ping -q -c10 -i 0.2 -W2 -p "$SECRET" "$PEER"
step pinged
deaf
! grep -qa only-for-us-insi /tmp/wire || fail "it is in clear text"
[ "$(heard "$CLEAR")" = 0 ] || fail "clear VXLAN"
[ "$(heard udp port 4790)" -ge 20 ] || fail "not by WireGuard"

# What is sent to it in clear text, with no firewall in the way.
ip -6 -j address show dev eth0 scope link | jq -r '.[0].addr_info[0].local' | say local
ip -6 -j address show dev wg-hawser scope link | jq -r '.[0].addr_info[0].local' | say inner
listen "$SECRET_LINK" /tmp/secret
listen "$OPEN_LINK" /tmp/open
before=$(dropped)
step listening
nft flush ruleset
for _ in 1 2 3; do
    inject "$SECRET_NUMBER" "10.99.0.$NEXT"
    inject "$SECRET_NUMBER" "$(says $NEXT local)%eth0"
    inject "$SECRET_NUMBER" "$(says $NEXT inner)%eth0" || true
    inject "$OPEN_NUMBER" "10.99.0.$NEXT"
done
step injected
until_true 20 grep -qa forged /tmp/open
! grep -qa forged /tmp/secret || fail "a frame in clear text came in"
# Three by each family, of a node that has sent no other.
until_true 20 counted $((before + 6))
deaf
until_true 40 inside "secret$GUEST" ping -q -c1 -W1 "$PEER"
step refused

# The interface goes, while nobody is there to repair it, and on one host only.
if [ "$GUEST" = 2 ]; then
    pid=$(hawser inspect --format '{{.State.Pid}}' secret2)
    kill -STOP $DAEMON
    ip link del wg-hawser
    ip link show "$SECRET_LINK" 2>/dev/null && fail "the network's interface stays"
    listen eth0 /tmp/wire "$CLEAR" or udp port 4790
    for address in 10.8.0.11 10.8.0.13; do
        if nsenter --net="/proc/$pid/ns/net" ping -q -c3 -W1 -p "$SECRET" $address; then
            fail "it answers without WireGuard"
        fi
    done
    deaf
    [ "$(heard src "$HERE")" = 0 ] || fail "something went out"
    kill -CONT $DAEMON
    until_true 60 inside secret2 ping -q -c1 -W1 10.8.0.13
    until_true 60 inside secret2 ping -q -c1 -W1 10.8.0.11
fi
step repaired
until_true 20 inside "secret$GUEST" ping -q -c1 -W1 "$PEER"
step all-reached

# How fast it is, beside WireGuard alone between the same hosts.
throughput() {
    "$@" -J -t 5 -O 1 | jq '.end.sum_received.bits_per_second / 1000000'
}
if [ "$GUEST" -le 2 ]; then
    ip link add wgb type wireguard
    wg genkey >/tmp/key
    wg pubkey </tmp/key | say key
    until_true 60 says 1 key >/dev/null
    until_true 60 says 2 key >/dev/null
    wg set wgb private-key /tmp/key listen-port 5000 peer "$(says $((3 - GUEST)) key)" \
        endpoint "10.99.0.$((3 - GUEST)):5000" allowed-ips 10.6.0.0/24
    ip address add "10.6.0.$GUEST/24" dev wgb
    ip link set wgb mtu 1440 up
fi
if [ "$GUEST" = 2 ]; then
    iperf3 -s -D -B 10.6.0.2
    inside secret2 iperf3 -s -D
fi
step measuring
if [ "$GUEST" = 1 ]; then
    until_true 20 ping -q -c1 -W1 10.6.0.2
    for run in $(seq 0 $RUNS); do
        # The first is not for the figures.
        [ "$run" != 1 ] || forget
        note throughput overlay "$(throughput inside secret1 iperf3 -c 10.8.0.12)"
        note throughput WireGuard "$(throughput iperf3 -c 10.6.0.2)"
    done
    figure throughput Mbit/s overlay WireGuard
fi
step measured

# Keys that change under traffic.
if [ "$GUEST" = 1 ]; then
    before=$(wg show wg-hawser public-key)
    kill $DAEMON
    wait $DAEMON || true
    echo '[network]
key-seconds = 4' >/etc/hawser/hawserd.toml
    hawserd >>"$LOG" 2>&1 &
    DAEMON=$!
    until_true 120 hawser info >/dev/null 2>&1
fi
step changing
inside "secret$GUEST" ping -q -c 200 -i 0.1 -W5 "$PEER" | tee /tmp/pings
grep -q ' 0% packet loss' /tmp/pings || fail "$(cat /tmp/pings)"
if [ "$GUEST" = 1 ]; then
    [ "$before" != "$(wg show wg-hawser public-key)" ] || fail "the key is the same"
fi
step changed

# The last endpoint takes all of it along.
hawser rm -f "secret$GUEST" "open$GUEST" >/dev/null
until_true 20 sh -c '! ip link show wg-hawser 2>/dev/null'
[ -z "$(ip link show type vxlan)" ] || fail "something is left"
step gone
[ "$GUEST" = 1 ] || hawser swarm leave
step left
sleep 5
kill $DAEMON
wait $DAEMON || true
