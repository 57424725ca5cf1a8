#!/bin/sh
# guests: 1
# first: systemd
# Another engine asks for a container whose control group systemd makes, as podman does where systemd
# runs the host.
set -eux
. /opt/hawser/exec/wait
export PATH="/opt/hawser/exec/stage/usr/local/bin:$PATH"

scope=$(mktemp -d)
mkdir -p "$scope/rootfs/bin" "$scope/rootfs/dev" "$scope/rootfs/proc"
cp "$(command -v busybox)" "$scope/rootfs/bin/busybox"
ln -s busybox "$scope/rootfs/bin/sleep"
cat >"$scope/config.json" <<'JSON'
{
    "ociVersion": "1.0.2",
    "root": {"path": "rootfs"},
    "process": {"cwd": "/", "args": ["/bin/sleep", "600"], "user": {"uid": 0, "gid": 0}},
    "linux": {
        "cgroupsPath": "system.slice:hawser:engine",
        "resources": {"pids": {"limit": 17}, "memory": {"limit": 67108864}},
        "namespaces": [{"type": "pid"}, {"type": "mount"}]
    },
    "mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]}
    ]
}
JSON
is_stopped() {
    hawser-shim state engine | grep -q '"status": "stopped"'
}
is_forgotten() {
    systemctl show --property LoadState hawser-engine.scope | grep -q not-found
}
hawser-shim --systemd-cgroup create --bundle "$scope" engine
hawser-shim start engine
[ "$(systemctl is-active hawser-engine.scope)" = active ]
[ "$(cat /sys/fs/cgroup/system.slice/hawser-engine.scope/pids.max)" = 17 ]
[ "$(systemctl show --property MemoryMax --value hawser-engine.scope)" = 67108864 ]
# Nobody is asked on the bus, which may be busy.
hawser-shim kill engine KILL
until_true 30 is_stopped
timeout 9 hawser-shim delete engine
test ! -e /sys/fs/cgroup/system.slice/hawser-engine.scope
until_true 30 is_forgotten
# The name is free again, and who is in there is ended.
hawser-shim --systemd-cgroup create --bundle "$scope" engine
hawser-shim start engine
timeout 9 hawser-shim delete --force engine
test ! -e /sys/fs/cgroup/system.slice/hawser-engine.scope
# Without a bus that is said at once, and nothing stays. Its socket does, where nobody listens.
systemctl stop dbus.socket dbus.service
test -e /run/dbus/system_bus_socket
hawser-shim --systemd-cgroup create --bundle "$scope" engine 2>&1 | grep 'no system bus.*use the manager cgroupfs'
test ! -e /run/hawser/oci/engine
