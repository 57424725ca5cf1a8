#!/bin/dash
# First process of the user space, or a unit of systemd's where that is the first: runs what the plan
# says, and says on the second serial port how each part went. Whatever is not said there has not
# happened.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=dumb
exec </dev/null >/dev/console 2>&1 4>/dev/ttyS1
stty -F /dev/ttyS1 raw

say() {
    echo "@@ $*" >&4
}

ends() {
    sync
    read -r tainted </proc/sys/kernel/tainted
    say "done $tainted"
    # qemu takes a reboot for the end.
    echo b >/proc/sysrq-trigger
    sleep 60
}

if [ $$ -eq 1 ]; then
    mount -t proc proc /proc
    mount -t sysfs sysfs /sys
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    mount -t bpf bpf /sys/fs/bpf
    mount -t tracefs tracefs /sys/kernel/tracing
    mkdir -p /dev/pts /dev/shm /dev/mqueue
    mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
    mount -t tmpfs tmpfs /dev/shm
    mount -t tmpfs -o mode=755 tmpfs /run
    ln -snf /proc/self/fd /dev/fd
    ip link set lo up
fi
mkdir -p /run/lock /run/netns
# What udev does on other hosts.
modprobe -aq loop tun fuse dm_mod virtio_net nf_conntrack
# As many connections as hosts with more memory take: the kernel drops those for which there is no room.
sysctl -qw net.netfilter.nf_conntrack_max=262144
. /opt/hawser/environment
echo "kernel.hostname=guest$GUEST" | sysctl -qp -

if ip link set eth0 up 2>/dev/null; then
    ip address add "10.99.0.$GUEST/24" dev eth0
fi
say "kernel $(uname -r)"

# Bytes of the end of what a story prints.
SHOWN=20000

# run ID LIMIT COMMAND…: one story; what it prints is shown when it fails.
run() {
    id=$1 limit=$2
    shift 2
    say "begin $id"
    read -r begin _ </proc/uptime
    timeout --kill-after=5 "$limit" "$@" </dev/null >/tmp/story.log 2>&1 3<&- 4>&-
    code=$?
    read -r end _ </proc/uptime
    # Centiseconds.
    took=$((${end%.*}${end#*.} - ${begin%.*}${begin#*.}))
    case $id in
    test:*) [ "$code" -ne 0 ] || grep -q '^test result: ok. 1 passed' /tmp/story.log || code=255 ;;
    esac
    case $id:$code in
    test:*:0) ;;
    *)
        echo "---- $id: exit code $code"
        # Why a test failed may be far above what its daemons say.
        [ "$(stat -c %s /tmp/story.log)" -le $SHOWN ] || grep -A 9 'panicked at' /tmp/story.log | head -n 30
        tail -c $SHOWN /tmp/story.log
        echo "---- end of $id"
        ;;
    esac
    sed -n 's/^.*figure: /figure: /p' /tmp/story.log | while IFS= read -r line; do
        say "info $line"
    done
    if [ "$code" -eq 0 ]; then
        say "passed $id $took"
    else
        say "failed $id $took $code"
    fi
}

# A daemon with the default directories, for what is not a story of ours.
start_daemon() {
    mkdir -p /etc/hawser /var/lib/hawser /opt/cni/bin
    ln -sf /opt/hawser/bin/hawser-cni /opt/cni/bin/hawser
    ln -sf /opt/hawser/bin/hawser-cni-ipam /opt/cni/bin/hawser-ipam
    PATH=/opt/hawser/bin:$PATH
    hawserd >/var/log/hawserd.log 2>&1 4>&- &
    tries=0
    until hawser info >/dev/null 2>&1; do
        tries=$((tries + 1))
        if [ "$tries" -gt 600 ] || ! kill -0 $!; then
            cat /var/log/hawserd.log
            say "failed daemon 0 1"
            return
        fi
        sleep 0.1
    done
}

tab=$(printf '\t')
while IFS=$tab read -r kind limit what name <&3; do
    case $kind in
    test) run "test:$what $name" "$limit" "/opt/hawser/tests/$what" --exact "$name" --nocapture ;;
    daemon) start_daemon ;;
    script) run "script:$name" "$limit" "/opt/hawser/$what" ;;
    info)
        hawser info >/tmp/info.log 2>&1
        while IFS= read -r line; do
            say "info $line"
        done </tmp/info.log
        ;;
    features) . /opt/hawser/features ;;
    esac
done 3</opt/hawser/plan
ends
