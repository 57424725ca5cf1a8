#!/bin/sh
# guests: 1
# first: systemd
# A machine becomes a host of Hawser by the script that Vagrant runs, and is one as its units say:
# with no capability, system call or directory more.
set -eux
. /opt/hawser/exec/wait
. /opt/hawser/exec/installed

main_pid() {
    systemctl show --property MainPID --value hawserd
}

is_another_daemon() {
    now=$(main_pid)
    [ "$now" != 0 ] && [ "$now" != "$1" ] && hawser info >/dev/null 2>&1
}

answers() {
    [ "$(curl -fsS --max-time 5 "http://$1/word")" = hello ]
}

provision
# Again, as `vagrant provision` would.
provision
[ "$(systemctl is-enabled hawserd)" = enabled ]
[ "$(systemctl is-enabled hawser-resume)" = enabled ]
[ "$(systemctl is-active hawserd)" = active ]
hawser info
hawser doctor

# The main job, within the limits of the unit.
image box
hawser network create shop
hawser run -d --name web --network shop --restart always -p 8080:80 -v data:/srv box \
    sh -c 'echo hello >/srv/word; httpd -f -h /srv'
until_true 30 answers 127.0.0.1:8080
hawser run --rm --network shop box sh -c 'wget -q -O - http://web/word' | grep hello
hawser run --rm -v data:/srv:ro box cat /srv/word | grep hello
# The daemon reads a root file system where its container has it.
hawser exec web sh -c 'echo new >/etc/motd'
hawser diff web | grep 'A /etc/motd'
hawser commit web changed
hawser run --rm changed cat /etc/motd | grep new
hawser cp web:/etc/motd /tmp/motd
hawser export web | tar -t | grep etc/motd
# A neighbour learns at once that an address has moved to another interface.
address=$(hawser network inspect --format '{{(index .IPAM.Config 0).Gateway}}' shop | sed 's/[0-9]*$/77/')
hawser run -d --name moved --network shop --ip "$address" --mac-address 02:00:00:00:00:01 box sleep 600
hawser exec web ping -c 1 "$address"
hawser rm -f moved
hawser run -d --name moved --network shop --ip "$address" --mac-address 02:00:00:00:00:02 box sleep 600
netns=$(hawser inspect --format '{{.State.Pid}}' web)
until_true 5 sh -c "nsenter --net=/proc/$netns/ns/net ip neighbour show $address | grep 02:00:00:00:00:02"
hawser rm -f moved
# Volumes with a size, snapshots, limits.
hawser volume create --opt size=32m --opt backend=loop sized
hawser run --rm -v sized:/srv --memory 64m --cpus 0.5 --pids-limit 20 box sh -c 'echo full >/srv/word'
hawser volume snapshot create sized before
journalctl --no-pager -u hawserd
# Nothing was refused, and nothing went wrong.
if journalctl --no-pager -u hawserd | grep -E ' (WARN|ERROR) '; then
    exit 1
fi

# A daemon that dies is started again, and one that is stopped leaves all as it is.
before=$(main_pid)
kill -9 "$before"
answers 127.0.0.1:8080
until_true 30 is_another_daemon "$before"
answers 127.0.0.1:8080
systemctl stop hawserd
answers 127.0.0.1:8080
systemctl start hawserd
answers 127.0.0.1:8080
[ "$(hawser ps -q | wc -l)" = 1 ]

# A container that died with its shim comes back when the daemon's companion runs: at boot, and here.
shim=$(pgrep -o hawser-shim)
kill -9 "$shim"
systemctl restart hawserd hawser-resume
until_true 30 answers 127.0.0.1:8080

hawser rm -f web
hawser volume prune --all --force
hawser network rm shop
