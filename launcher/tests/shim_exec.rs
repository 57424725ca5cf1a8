//! `exec` and the confinement of containers, as a process inside sees them.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod older_support;
mod shim_support;

use std::path::Path;

use launcher::container::ProcessId;
use launcher::shim::launch::Exec;
use rustix::process::{Pid, Signal, kill_process};
use shim_support::{Fixture, SHIM};

fn sleeper() -> Fixture {
    let container = Fixture::new(&["sleep", "1000"], |record| {
        record.config.env = vec!["A=1".to_owned()];
        record.config.hostname = "h1".to_owned();
        record.config.working_dir = "/made/deep".to_owned();
    });
    container.start().unwrap();
    container
}

fn words(command: &[&str]) -> Vec<String> {
    command.iter().map(|word| (*word).to_owned()).collect()
}

#[test]
fn a_process_joins_with_the_containers_settings() {
    let container = sleeper();
    assert_eq!(
        container.sh("echo $A $HOME; pwd; hostname"),
        "1 /root\n/made/deep\nh1\n"
    );
    assert_eq!(container.sh("ps -o comm | grep -c sleep"), "1\n");
    let output = container.exec(&Exec {
        command: words(&["sh", "-c", "echo $A $B $HOME; pwd; id; exit 5"]),
        user: Some("www".to_owned()),
        env: words(&["B=2"]),
        workdir: Some("/tmp".to_owned()),
        ..Exec::default()
    });
    let text = String::from_utf8(output.stdout).unwrap();
    let id = "uid=33(www) gid=33(www) groups=33(www),50(extra)";
    assert_eq!(text, format!("1 2 /srv\n/tmp\n{id}\n"));
    assert_eq!(output.status.code(), Some(5));
}

#[test]
fn a_signal_that_ends_the_process_is_in_its_status() {
    let container = sleeper();
    let output = container.exec(&Exec {
        command: words(&["sh", "-c", "kill -9 $$"]),
        ..Exec::default()
    });
    assert_eq!(output.status.code(), Some(137));
}

#[test]
fn what_cannot_run_gives_dockers_codes() {
    let container = sleeper();
    for (command, code, message) in [
        ("nothing", 127, "executable file not found in $PATH"),
        ("/etc", 126, "is a directory"),
        ("/etc/passwd", 126, "permission denied"),
    ] {
        let output = container.exec(&Exec {
            command: words(&[command]),
            ..Exec::default()
        });
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{error}");
        assert_eq!(error, format!("hawser: exec: {command:?}: {message}\n"));
    }
}

#[test]
fn a_stopped_container_takes_no_process() {
    let container = Fixture::new(&["true"], |_| {});
    container.run(None);
    let output = container.exec(&Exec {
        command: words(&["true"]),
        ..Exec::default()
    });
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        error,
        format!("hawser: container {} is not running\n", container.record.id)
    );
}

/// Also before its shim has noticed the end.
#[test]
fn a_container_that_has_just_ended_takes_no_process() {
    let container = sleeper();
    let state = container.dir.state().unwrap();
    let pid = |process: Option<ProcessId>| {
        Pid::from_raw(process.unwrap().pid.try_into().unwrap()).unwrap()
    };
    kill_process(pid(state.shim), Signal::STOP).unwrap();
    kill_process(pid(state.init), Signal::KILL).unwrap();
    let output = container.exec(&Exec {
        command: words(&["true"]),
        ..Exec::default()
    });
    kill_process(pid(state.shim), Signal::CONT).unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        (error, output.status.code()),
        (
            format!("hawser: container {} is not running\n", container.record.id),
            Some(1)
        )
    );
}

#[test]
fn the_first_process_and_those_that_join_are_confined_alike() {
    let container = sleeper();
    let of = |pid: &str| {
        container.sh(&format!(
            "grep -E '^(Cap(Prm|Eff|Bnd|Amb)|Seccomp):' /proc/{pid}/status"
        ))
    };
    // Docker's fourteen.
    let expected = "CapPrm:\t00000000a80425fb\nCapEff:\t00000000a80425fb\n\
                    CapBnd:\t00000000a80425fb\nCapAmb:\t0000000000000000\nSeccomp:\t2\n";
    assert_eq!(of("1"), expected);
    assert_eq!(of("self"), expected);
    assert!(
        container
            .sh("unshare -m true")
            .contains("Operation not permitted")
    );
    let output = container.exec(&Exec {
        command: words(&["grep", "CapEff", "/proc/self/status"]),
        privileged: true,
        ..Exec::default()
    });
    // All that this host has.
    let own = std::fs::read_to_string("/proc/self/status").unwrap();
    let bounding = own
        .lines()
        .find_map(|line| line.strip_prefix("CapBnd:"))
        .unwrap();
    let effective = String::from_utf8(output.stdout).unwrap();
    assert_eq!(effective, format!("CapEff:{bounding}\n"));
}

#[test]
fn the_kernels_own_files_are_out_of_reach() {
    let container = sleeper();
    assert_eq!(
        container.sh("cat /proc/interrupts | wc -c; ls /sys/firmware"),
        "0\n"
    );
    assert!(
        container
            .sh("echo 1 > /proc/sys/kernel/hostname")
            .contains("Read-only file system")
    );
    let tried =
        container.sh("for d in /sys/fs/cgroup /sys/fs/cgroup/*/; do mkdir $d/x && echo made; done");
    assert!(
        tried.contains("Read-only file system") && !tried.contains("made"),
        "{tried}"
    );
    assert_eq!(
        container.sh(
            "df -k /dev/shm | tail -1 | awk '{print $2}'; ls /dev | grep -v core | tr '\\n' ' '"
        ),
        "65536\nfd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero "
    );
}

#[test]
fn a_terminal_is_pumped() {
    let container = sleeper();
    let exec = Exec {
        command: words(&[
            "sh",
            "-c",
            "test -t 0 && test -t 1 && echo terminal $TERM; exit 4",
        ]),
        tty: true,
        ..Exec::default()
    };
    let output = exec
        .command(Path::new(SHIM), &container.places)
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        "terminal xterm\r\n",
        "{error}"
    );
    assert_eq!(output.status.code(), Some(4));
}
