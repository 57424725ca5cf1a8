#!/bin/sh
# guests: 1
# Encrypted volumes on thin devices: what is on the disk, who has the key and until when, and what is
# done to them while they are used.
set -eu
. /opt/hawser/exec/devicemapper

mkfs.ext4 -q /dev/vde
mount /dev/vde "$STATE"
FILES="dm.allow_loop=true dm.loopdatasize=3G dm.loopmetadatasize=64M dm.basesize=512M dm.fs=ext4"
# shellcheck disable=SC2086
start $FILES
hawser image import /tmp/image.tar tools >/dev/null

decrypted() {
    dmsetup ls --target crypt | grep -vc 'No devices' || true
}
# node NAME
node() {
    echo "/dev/dm-$(dmsetup info -c --noheadings -o minor "$1")"
}
head -c 64 /dev/urandom >/tmp/key
head -c 64 /dev/urandom >/tmp/other
if hawser volume create -o backend=thin -o size=64m -o encrypt=on secret 2>/tmp/words; then
    fail "no key is needed"
fi
grep -q -- --key-file /tmp/words || fail "other words: $(cat /tmp/words)"
hawser volume create -o backend=thin -o size=64m -o encrypt=on --key-file /tmp/key secret >/dev/null
hawser run -d --name user --network none -v secret:/v tools sleep 1000 >/dev/null
hawser exec user sh -c 'echo nobody-reads-this >/v/f; sync'
clear=$(dmsetup ls --target crypt | cut -f1)
grep -q nobody-reads-this "$(node "$clear")" || fail "it is not on the device"
if grep -q nobody-reads-this "$(node "${clear%-crypt}")"; then fail "it is in the clear"; fi
cryptsetup isLuks "$(node "${clear%-crypt}")" || fail "no header"
hawser volume snapshot create secret before
hawser exec user sh -c 'echo later >/v/f'
hawser volume resize secret 128m >/dev/null
[ "$(hawser exec user df -m /v | awk 'END { print $2 }')" -gt 100 ] || fail "it has not grown"
if hawser volume lock secret 2>/dev/null; then fail "locked under a user"; fi
stop -KILL
# shellcheck disable=SC2086
start $FILES
is "$(hawser exec user cat /v/f)" later
hawser rm -f user >/dev/null
until_true 20 no_thin_devices
is "$(decrypted)" 0
hawser volume snapshot rollback -f secret before
hawser volume clone secret again >/dev/null
is "$(in_volume secret 'cat /v/f')" nobody-reads-this
is "$(in_volume again 'cat /v/f')" nobody-reads-this
until_true 20 no_thin_devices
hawser volume lock secret
hawser volume inspect again | grep -q '"Locked": true' || fail "$(hawser volume inspect again)"
if in_volume secret true 2>/tmp/words; then fail "not locked"; fi
grep -q 'hawser volume unlock' /tmp/words || fail "other words: $(cat /tmp/words)"
if hawser volume unlock --key-file /tmp/other secret 2>/tmp/words; then fail "any key does"; fi
grep -q 'not its key' /tmp/words || fail "other words: $(cat /tmp/words)"
hawser volume unlock --key-file /tmp/key secret >/dev/null
is "$(in_volume secret 'cat /v/f')" nobody-reads-this
hawser volume create -o backend=thin -o size=64m -o encrypt=/tmp/key named >/dev/null
is "$(hawser run --rm --network none -v named:/bin tools ls /bin | grep -c busybox)" 1
hawser volume lock named
hawser volume snapshot rm secret before
hawser volume rm secret again named >/dev/null
until_true 20 no_thin_devices
is "$(decrypted)" 0
hawser rmi tools >/dev/null
stop -TERM
