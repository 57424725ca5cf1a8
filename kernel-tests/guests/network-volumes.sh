#!/bin/sh
# guests: 1
# packages: samba
# Volumes on servers: the kernel's own for NFS, and Samba, are asked by the kernel's clients, on loopback.
# shellcheck disable=SC2034
set -eu
. /opt/hawser/exec/devicemapper

DRIVER=overlay2
mkfs.ext4 -q /dev/vde
mount /dev/vde "$STATE"
mkfs.ext4 -q /dev/vdd
mkdir -p /srv
mount /dev/vdd /srv
mkdir /srv/data
echo '127.0.0.1 server' >>/etc/hosts

# shows VOLUME: it has the words that the server has, and the server those of a container.
shows() {
    echo "of the server" >/srv/data/f
    is "$(in_volume "$1" 'cat /v/f')" "of the server"
    in_volume "$1" 'echo written >/v/g; mkdir /v/d; mv /v/g /v/d/g; sync'
    is "$(cat /srv/data/d/g)" written
    rm -r /srv/data/d
}
# is_mounted KIND NUMBER
is_mounted() {
    is "$(grep -c " $1" /proc/mounts || true)" "$2"
}
# Whoever has it goes on without a daemon, and with the next one; with its last user it goes.
outlives() {
    hawser run -d --name user --network none -v "$1:/v" tools sleep 1000 >/dev/null
    is_mounted "$2" 1
    stop -KILL
    start
    is "$(hawser exec user sh -c 'echo still >/v/h; cat /v/h')" still
    is "$(cat /srv/data/h)" still
    if hawser volume rm "$1" 2>/tmp/words; then fail "removed under its user"; fi
    hawser rm -f user >/dev/null
    is_mounted "$2" 0
}
# refuses WORDS NAME OPTION…: what cannot be mounted says why, and nothing of it stays.
refuses() {
    words=$1 name=$2
    shift 2
    hawser volume create "$@" "$name" >/dev/null
    if in_volume "$name" true 2>/tmp/words; then fail "$name is mounted"; fi
    grep -q "$words" /tmp/words || fail "other words: $(cat /tmp/words)"
    hawser volume rm "$name" >/dev/null
}

start
hawser image import /tmp/image.tar tools >/dev/null

echo "== nfs"
: >/etc/exports
mkdir -p /var/lib/nfs/v4recovery
modprobe nfsd
mount -t nfsd nfsd /proc/fs/nfsd
exportfs -o rw,no_root_squash,no_subtree_check,insecure,fsid=0 '*:/srv'
rpc.mountd -N 3
rpc.nfsd -N 3 -G 10 -L 10 2
hawser volume create -o type=nfs -o o=addr=server,rw,vers=4.2 -o device=:/data shared >/dev/null
shows shared
outlives shared nfs4
hawser volume create -o type=nfs4 -o o=addr=127.0.0.1,ro -o device=:/data read >/dev/null
is "$(in_volume read 'cat /v/f')" "of the server"
if in_volume read 'touch /v/x' 2>/dev/null; then fail "it is written to"; fi
refuses 'No such file' absent -o type=nfs -o o=addr=server,vers=4.2 -o device=:/absent
refuses 'no-such-server' lost -o type=nfs -o o=addr=no-such-server -o device=:/data

echo "== a server that does not answer"
iptables -A INPUT -i lo -d 127.0.0.2 -j DROP
hawser volume create -o type=nfs -o o=addr=127.0.0.2,vers=4.2 -o device=:/data silent >/dev/null
in_volume silent 'cat /v/f' >/tmp/late 2>&1 &
LATE=$!
waits() {
    [ "$(iptables -nvxL INPUT | awk '/DROP/ { print $1 }')" -gt 0 ]
}
until_true 20 waits
is "$(hawser volume ls -q | grep -c silent)" 1
shows shared
kill -0 "$LATE" || fail "it has not waited: $(cat /tmp/late)"
iptables -F INPUT
wait "$LATE" || fail "it has not come: $(cat /tmp/late)"
is "$(cat /tmp/late)" "of the server"
is_mounted nfs4 0
hawser volume rm silent shared read >/dev/null

echo "== cifs"
echo 'somebody:x:1000:1000::/:/bin/false' >>/etc/passwd
echo 'somebody:x:1000:' >>/etc/group
mkdir -p /etc/samba /var/lib/samba/private /var/cache/samba /var/log/samba /run/samba
cat >/etc/samba/smb.conf <<'EOF'
[global]
    netbios name = SERVER
    interfaces = lo
    bind interfaces only = yes
    server role = standalone server
    smb ports = 445
    load printers = no
    disable spoolss = yes
    log level = 0
[share]
    path = /srv/data
    read only = no
    valid users = somebody
    force user = root
EOF
printf 'secret\nsecret\n' | smbpasswd -s -a somebody >/dev/null
smbd --daemon
CIFS="-o type=cifs -o device=//server/share"
# shellcheck disable=SC2086
hawser volume create $CIFS -o o=addr=server,username=somebody,password=secret,vers=3.1.1,uid=7 shared >/dev/null
mounts() {
    in_volume shared true
}
until_true 20 mounts
shows shared
is "$(in_volume shared 'stat -c %u /v/f')" 7
outlives shared cifs
# shellcheck disable=SC2086
refuses 'Permission denied' wrong $CIFS -o o=addr=server,username=somebody,password=other,vers=3.1.1
refuses 'No such file' absent -o type=cifs -o device=//server/absent \
    -o o=addr=server,username=somebody,password=secret,vers=3.1.1
hawser volume rm shared >/dev/null
pkill smbd
hawser rmi tools >/dev/null
stop -TERM
