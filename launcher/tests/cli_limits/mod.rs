//! Limits, devices, namespaces and the init, as the container itself sees them.

use std::fs;

use super::cli_support::{Host, soon};

/// Flags that every run here needs: the test's daemon has no networks.
fn run<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
    let words = ["run", "--rm", "--network", "none"];
    words.iter().chain(arguments).copied().collect()
}

/// Reads a file of the container's control groups, by the name of either version.
fn read(split: &str, unified: &str) -> String {
    format!("cat /sys/fs/cgroup/{split} 2>/dev/null || cat /sys/fs/cgroup/{unified}")
}

#[test]
fn limits_hold_and_can_be_read_inside_and_outside() {
    let host = Host::new();
    host.ok(&[
        "run",
        "-d",
        "--network",
        "none",
        "--name",
        "aa",
        "-m",
        "64m",
        "--memory-reservation",
        "32m",
        "--pids-limit",
        "12",
        "--cpus",
        "0.25",
        "--cpu-shares",
        "512",
        "--cpuset-cpus",
        "0",
        "bb",
        "sleep",
        "1000",
    ]);
    for (split, unified, expected) in [
        ("memory/memory.limit_in_bytes", "memory.max", "67108864"),
        (
            "memory/memory.soft_limit_in_bytes",
            "memory.low",
            "33554432",
        ),
        ("pids/pids.max", "pids.max", "12"),
        ("cpuset/cpuset.cpus", "cpuset.cpus", "0"),
    ] {
        let script = read(split, unified);
        assert_eq!(
            host.ok(&["exec", "aa", "sh", "-c", &script]),
            expected,
            "{split}"
        );
    }
    let template = "{{with .HostConfig}}{{.Memory}} {{.MemorySwap}} {{.MemoryReservation}} \
                    {{.PidsLimit}} {{.NanoCpus}} {{.CpuShares}} {{.CpusetCpus}} {{.IpcMode}}{{end}}";
    assert_eq!(
        host.ok(&["inspect", "-f", template, "aa"]),
        "67108864 134217728 33554432 12 250000000 512 0 private"
    );
    let script = "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14; do sleep 5 & done; wait";
    let forks = host.hawser(&["exec", "aa", "sh", "-c", script]);
    assert_ne!(forks.code, 0);
    assert!(forks.stderr.contains("fork"), "{forks:?}");
}

#[test]
fn devices_are_read_and_written_no_faster_than_allowed() {
    let host = Host::new();
    let disks = fs::read_dir("/sys/block").unwrap().flatten();
    let names = disks.map(|disk| disk.file_name().into_string().unwrap());
    let disk = names.filter(|name| !name.contains("ram")).min().unwrap();
    let number = fs::read_to_string(format!("/sys/block/{disk}/dev")).unwrap();
    let number = number.trim();
    let script = "cd /sys/fs/cgroup; if test -e io.max; then cat io.max; else cd blkio; \
                  cat blkio.throttle.read_bps_device blkio.throttle.write_iops_device; fi";
    let (bytes, operations) = (format!("/dev/{disk}:1mb"), format!("/dev/{disk}:100"));
    let flags = [
        "--device-read-bps",
        &bytes,
        "--device-write-iops",
        &operations,
    ];
    let seen = host.ok(&run(&[&flags[..], &["bb", "sh", "-c", script]].concat()));
    assert!(
        seen == format!("{number} 1048576\n{number} 100")
            || seen == format!("{number} rbps=1048576 wbps=max riops=max wiops=100"),
        "{seen}"
    );
    host.refused(
        &run(&["--device-read-bps", "/dev/nosuch:1mb", "bb", "true"]),
        125,
        "/dev/nosuch",
    );
    host.refused(
        &run(&[
            "--device-write-iops",
            &format!("/dev/{disk}:0.5"),
            "bb",
            "true",
        ]),
        125,
        "--device-write-iops",
    );
}

#[test]
fn real_time_is_granted_where_the_kernel_limits_it() {
    let host = Host::new();
    let flags = ["--cpu-rt-period", "500000", "--cpu-rt-runtime", "2000"];
    let files = "cd /sys/fs/cgroup/cpu && cat cpu.rt_period_us cpu.rt_runtime_us";
    let command = ["bb", "sh", "-c", files];
    let words = [&flags[..], &command].concat();
    if std::path::Path::new("/sys/fs/cgroup/cpu/cpu.rt_runtime_us").exists() {
        assert_eq!(host.ok(&run(&words)), "500000\n2000");
        let much = ["--cpu-rt-runtime", "1000000", "bb", "true"];
        host.refused(&run(&much), 125, "--cpu-rt-runtime");
    } else {
        host.refused(&run(&words), 125, "CONFIG_RT_GROUP_SCHED");
    }
}

#[test]
fn who_takes_more_memory_than_allowed_is_killed_and_it_is_said() {
    let host = Host::new();
    let ran = host.hawser(&[
        "run",
        "--network",
        "none",
        "--name",
        "oom",
        "-m",
        "16m",
        "--memory-swap",
        "16m",
        "bb",
        "sh",
        "-c",
        "x=a; while :; do x=$x$x; done",
    ]);
    assert_eq!(ran.code, 137, "{ran:?}");
    let state = "{{.State.OOMKilled}} {{.State.ExitCode}}";
    assert_eq!(host.ok(&["inspect", "-f", state, "oom"]), "true 137");
}

#[test]
fn what_cannot_be_limited_is_refused_before_anything_is_made() {
    let host = Host::new();
    for (flags, part) in [
        (&["--memory", "3m"][..], "Minimum memory limit"),
        (&["--cpus", "9999"], "Range of CPUs"),
        (&["--cpuset-cpus", "4095"], "not available"),
        (&["--pid", "mine"], "invalid PID mode"),
        (
            &["--device", "/dev/nosuch"],
            "error gathering device information",
        ),
        (&["--security-opt", "bogus"], "invalid security option"),
    ] {
        let arguments: Vec<&str> = [flags, &["bb", "true"]].concat();
        host.refused(&run(&arguments), 125, part);
    }
    let nothing: Vec<String> = Vec::new();
    assert_eq!(host.leftovers(), nothing);
}

#[test]
fn a_device_is_there_with_its_permissions_and_no_other() {
    let host = Host::new();
    let script = "echo x > /dev/mynull && test -c /dev/mynull && echo fine";
    let device = "/dev/null:/dev/mynull:rw";
    assert_eq!(
        host.ok(&run(&["--device", device, "bb", "sh", "-c", script])),
        "fine"
    );
    // A node that the policy does not name can be made, but not opened.
    let script = "busybox mknod /tmp/kmsg c 1 11 && cat /tmp/kmsg";
    let refused = host.hawser(&run(&[
        "bb",
        "sh",
        "-c",
        &script.replace("busybox", "/bin/busybox"),
    ]));
    assert_ne!(refused.code, 0);
    assert!(refused.stderr.contains("not permitted"), "{refused:?}");
    let rule = ["--device-cgroup-rule", "c 1:5 rwm", "bb"];
    let script = "/bin/busybox mknod /tmp/zero c 1 5 && head -c 3 /tmp/zero | wc -c";
    let arguments: Vec<&str> = [&rule[..], &["sh", "-c", script]].concat();
    assert_eq!(host.ok(&run(&arguments)), "3");
}

#[test]
fn an_init_reaps_forwards_signals_and_has_the_commands_exit_code() {
    let host = Host::new();
    // The command is no longer the first process.
    let pid = host.ok(&run(&["--init", "bb", "sh", "-c", "echo $$"]));
    assert_ne!(pid, "1");
    let ran = host.hawser(&run(&["--init", "bb", "sh", "-c", "exit 7"]));
    assert_eq!(ran.code, 7, "{ran:?}");
    host.refused(&run(&["--init", "bb", "nosuch"]), 127, "not found in $PATH");

    // An orphan that ends is reaped: nobody is left but the init, the shell and the one who looks.
    let script = "(sleep 0.1 & ); sleep 0.5; cat /proc/[0-9]*/stat | wc -l";
    assert_eq!(host.ok(&run(&["--init", "bb", "sh", "-c", script])), "4");

    let script = "trap 'echo caught; exit 9' TERM; echo ready; while :; do sleep 0.05; done";
    host.ok(&[
        "run",
        "-d",
        "--network",
        "none",
        "--init",
        "--name",
        "ii",
        "bb",
        "sh",
        "-c",
        script,
    ]);
    soon(|| host.hawser(&["logs", "ii"]).stdout == "ready\n");
    host.ok(&["stop", "ii"]);
    assert_eq!(host.hawser(&["logs", "ii"]).stdout, "ready\ncaught\n");
    assert_eq!(
        host.ok(&["inspect", "-f", "{{.State.ExitCode}}", "ii"]),
        "9"
    );
}

#[test]
fn the_init_cannot_be_read_from_inside() {
    let host = Host::new();
    let ran = host.hawser(&run(&["--init", "bb", "sh", "-c", "head -c 4 /proc/1/exe"]));
    assert_ne!(ran.code, 0, "{ran:?}");
    let name = host.ok(&run(&["--init", "bb", "cat", "/proc/1/comm"]));
    assert_eq!(name, "docker-init");
    let title = host.ok(&run(&["--init", "bb", "sh", "-c", "cat /proc/1/cmdline"]));
    assert!(title.starts_with("/sbin/docker-init"), "{title}");
    assert!(!title.contains("container-dir"), "{title}");
}

#[test]
fn namespaces_are_shared_when_asked() {
    let host = Host::new();
    let uts = fs::read_link("/proc/self/ns/uts").unwrap();
    let own = |kind: &str, flags: &[&str]| {
        let script = format!("/bin/busybox readlink /proc/self/ns/{kind}");
        let arguments: Vec<&str> = [flags, &["bb", "sh", "-c", &script]].concat();
        host.ok(&run(&arguments))
    };
    assert_eq!(own("uts", &["--uts", "host"]), uts.to_str().unwrap());
    assert_ne!(own("uts", &[]), uts.to_str().unwrap());

    let ipc = fs::read_link("/proc/self/ns/ipc").unwrap();
    assert_eq!(own("ipc", &["--ipc", "host"]), ipc.to_str().unwrap());

    host.ok(&[
        "run",
        "-d",
        "--network",
        "none",
        "--ipc",
        "shareable",
        "--name",
        "donor",
        "bb",
        "sleep",
        "1000",
    ]);
    let joined = own("pid", &["--pid", "container:donor"]);
    let pid = host.ok(&["inspect", "-f", "{{.State.Pid}}", "donor"]);
    let of_donor = |kind: &str| {
        let link = fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
        link.to_str().unwrap().to_owned()
    };
    assert_eq!(joined, of_donor("pid"));
    assert_eq!(own("ipc", &["--ipc", "container:donor"]), of_donor("ipc"));
    host.ok(&["exec", "donor", "sh", "-c", "echo shared > /dev/shm/x"]);
    let arguments = ["--ipc", "container:donor", "bb", "cat", "/dev/shm/x"];
    assert_eq!(host.ok(&run(&arguments)), "shared");
    host.ok(&[
        "run",
        "-d",
        "--network",
        "none",
        "--name",
        "private",
        "bb",
        "sleep",
        "1000",
    ]);
    let arguments = ["--ipc", "container:private", "bb", "true"];
    host.refused(&run(&arguments), 125, "--ipc shareable");
}
