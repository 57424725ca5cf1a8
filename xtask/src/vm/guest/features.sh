# shellcheck shell=dash
# What this kernel can do, found by doing it: `feature NAME COMMAND…`, in a throwaway namespace.
feature() {
    name=$1
    shift
    if unshare --net --mount sh -c "$*" >/dev/null 2>&1; then
        say "feature $name yes"
    else
        say "feature $name no"
    fi
}
link() {
    feature "$1" "ip link add d0 type veth peer name d1 && ip link add ${2:-link d0 name x0} type $3"
}

link vlan '' 'vlan id 9'
link macvlan '' macvlan
link ipvlan '' ipvlan
link vxlan 'name x0' 'vxlan id 9 dstport 4789 local 127.0.0.1'
link wireguard 'name x0' wireguard
link dummy 'name x0' dummy
link ifb 'name x0' ifb
link netkit 'name x0' netkit
feature netem 'ip link add d0 type veth peer name d1 && tc qdisc add dev d0 root netem loss 1%'
feature ip_vs 'modprobe ip_vs'
feature xfrm 'modprobe esp4 && modprobe xfrm_user'
feature device_mapper 'modprobe dm_thin_pool && test -e /dev/mapper/control'
disk() {
    echo "set -e; truncate -s 400M /tmp/disk; trap 'umount /mnt; rm -f /tmp/disk' EXIT;"
}
feature ext4_project_quota "$(disk) mkfs.ext4 -qF -O quota,project -E quotatype=prjquota /tmp/disk; mount -o loop,prjquota /tmp/disk /mnt"
feature xfs_project_quota "$(disk) mkfs.xfs -qf /tmp/disk; mount -o loop,prjquota /tmp/disk /mnt"
feature btrfs "$(disk) mkfs.btrfs -q /tmp/disk; mount -o loop /tmp/disk /mnt"
feature cgroup_kill 'mkdir /sys/fs/cgroup/probe; trap "rmdir /sys/fs/cgroup/probe" EXIT; test -e /sys/fs/cgroup/probe/cgroup.kill'
feature user_namespaces 'unshare --user --map-root-user true'
