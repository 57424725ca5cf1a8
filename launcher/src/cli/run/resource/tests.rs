use clap::Parser as _;

use super::*;

#[derive(Debug, clap::Parser)]
struct Line {
    #[command(flatten)]
    limits: LimitFlags,
    #[command(flatten)]
    fixed: FixedLimitFlags,
}

fn machine() -> Machine {
    Machine {
        cpus: BTreeSet::from([0, 1]),
        memory_nodes: BTreeSet::from([0]),
        limits_real_time: true,
    }
}

fn asked(arguments: &[&str]) -> Result<(Resources, Vec<String>), ResourceError> {
    let line = Line::try_parse_from(["run"].iter().chain(arguments)).unwrap();
    let mut resources = Resources::default();
    line.limits.change(&mut resources)?;
    line.fixed.change(&mut resources)?;
    let warnings = check(&mut resources, &machine())?;
    Ok((resources, warnings))
}

#[test]
fn limits_are_understood_in_dockers_units() {
    let (resources, warnings) = asked(&[
        "-m",
        "64m",
        "--memory-reservation",
        "32m",
        "--cpus",
        "0.25",
        "-c",
        "512",
        "--pids-limit",
        "12",
        "--cpuset-cpus",
        "0-1",
        "--device-read-bps",
        "/dev/sda:1mb",
        "--device-write-iops",
        "/dev/sda:100",
        "--blkio-weight-device",
        "/dev/sda:20",
    ])
    .unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    assert_eq!(resources.memory, 64 << 20);
    assert_eq!(resources.memory_swap, 128 << 20, "twice the memory");
    assert_eq!(resources.memory_reservation, 32 << 20);
    assert_eq!(resources.nano_cpus, 250_000_000);
    assert_eq!(resources.cpu_quota(), (25_000, 100_000));
    assert_eq!(
        (resources.cpu_shares, resources.pids_limit),
        (512, Some(12))
    );
    assert_eq!(resources.blkio_device_read_bps[0].rate, 1 << 20);
    assert_eq!(resources.blkio_device_write_iops[0].rate, 100);
    assert_eq!(resources.blkio_weight_device[0].weight, 20);
}

#[test]
fn swap_may_be_without_limit() {
    let (resources, _) = asked(&["-m", "8m", "--memory-swap", "-1"]).unwrap();
    assert_eq!(resources.memory_swap, -1);
}

#[test]
fn what_cannot_be_is_refused_in_dockers_words() {
    for (arguments, part) in [
        (&["-m", "3m"][..], "Minimum memory limit allowed is 6MB"),
        (&["-m", "x"], "invalid size \"x\" for --memory"),
        (&["-m", "-1"], "invalid size \"-1\" for --memory"),
        (&["-m", "16m", "--memory-swap", "8m"], "Minimum memoryswap"),
        (&["--memory-swap", "8m"], "always set the Memory limit"),
        (
            &["-m", "8m", "--memory-reservation", "9m"],
            "can not be less than memory reservation",
        ),
        (
            &["--memory-reservation", "1m"],
            "Minimum memory reservation allowed",
        ),
        (&["--kernel-memory", "1m"], "Minimum kernel memory"),
        (&["--memory-swappiness", "101"], "valid memory swappiness"),
        (&["--cpus", "9999"], "Range of CPUs is from 0.01 to 2.00"),
        (&["--cpus", "0.001"], "Range of CPUs"),
        (&["--cpus", "many"], "invalid value \"many\" for --cpus"),
        (&["--cpus", "-1"], "invalid value \"-1\" for --cpus"),
        (
            &["--cpus", "1", "--cpu-quota", "5000"],
            "cannot both be set",
        ),
        (&["--cpu-period", "10"], "CPU cfs period"),
        (&["--cpu-quota", "10"], "CPU cfs quota"),
        (&["--cpu-shares", "-1"], "invalid CPU shares"),
        (
            &["--cpu-rt-runtime", "9", "--cpu-rt-period", "5"],
            "real-time runtime",
        ),
        (&["--cpuset-cpus", "9999"], "Invalid value 9999"),
        (
            &["--cpuset-cpus", "2"],
            "Requested CPUs are not available - requested 2, available: 0,1",
        ),
        (
            &["--cpuset-cpus", "1-0"],
            "Invalid value 1-0 for cpuset cpus",
        ),
        (&["--cpuset-mems", "1"], "Requested memory nodes"),
        (&["--blkio-weight", "5"], "Range of blkio weight"),
        (
            &["--blkio-weight-device", "/dev/sda:5"],
            "--blkio-weight-device",
        ),
        (&["--device-read-bps", "sda:1mb"], "--device-read-bps"),
        (
            &["--device-read-iops", "/dev/sda:1mb"],
            "--device-read-iops",
        ),
    ] {
        // What clap takes for a flag is refused just the same, by itself.
        let line = Line::try_parse_from(["run"].iter().chain(arguments));
        if line.is_err() && arguments.contains(&"-1") {
            continue;
        }
        let message = asked(arguments).unwrap_err().to_string();
        assert!(message.contains(part), "{arguments:?}: {message}");
    }
}

#[test]
fn what_has_no_effect_is_said() {
    let (_, warnings) = asked(&["--kernel-memory", "8m", "--oom-kill-disable"]).unwrap();
    assert!(warnings[0].contains("--kernel-memory"), "{warnings:?}");
    assert!(warnings[1].contains("OOM killer is disabled"));
}

#[test]
fn real_time_is_limited_where_the_kernel_can() {
    let (mut resources, _) =
        asked(&["--cpu-rt-period", "100000", "--cpu-rt-runtime", "9"]).unwrap();
    assert_eq!(
        (
            resources.cpu_realtime_period,
            resources.cpu_realtime_runtime
        ),
        (100_000, 9)
    );
    let machine = Machine {
        limits_real_time: false,
        ..machine()
    };
    let refused = check(&mut resources, &machine).unwrap_err().to_string();
    assert!(refused.contains("CONFIG_RT_GROUP_SCHED"), "{refused}");
    assert!(check(&mut Resources::default(), &machine).is_ok());
}
