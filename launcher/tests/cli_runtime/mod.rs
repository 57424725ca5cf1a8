//! `--runtime`: Debian's runc in the place of the runtime of our own.

use std::fs;

use rustix::process::{Pid, Signal, kill_process};

use super::cli_support::{Host, soon};

#[test]
fn runc_runs_a_container_from_start_to_end() {
    let host = Host::new();
    let run = |flags: &[&'static str], command: &[&'static str]| {
        let head = ["run", "--runtime", "runc", "--network", "none"];
        [&head, flags, &["bb"], command].concat()
    };
    assert_eq!(host.ok(&run(&["--rm"], &["echo", "out"])), "out");
    let named = [
        "run",
        "--runtime",
        "other",
        "--network",
        "none",
        "--name",
        "cc",
        "bb",
    ];
    assert_eq!(
        host.ok(&[&named[..], &["echo", "configured"]].concat()),
        "configured"
    );
    assert_eq!(host.ok(&["start", "-a", "cc"]), "configured");
    assert_eq!(
        host.ok(&["inspect", "-f", "{{.HostConfig.Runtime}}", "cc"]),
        "other"
    );
    host.ok(&["rm", "cc"]);
    let ended = host.hawser(&run(&["--rm"], &["sh", "-c", "echo err >&2; exit 7"]));
    assert_eq!((ended.code, ended.stderr.trim()), (7, "err"), "{ended:?}");
    let missing = host.hawser(&run(&["--rm"], &["nosuch"]));
    assert_eq!(missing.code, 127, "{missing:?}");
    assert!(
        missing.stderr.contains("executable file not found"),
        "{missing:?}"
    );

    host.ok(&run(
        &["-d", "--name", "aa", "-m", "64m", "--user", "7:8"],
        &["sleep", "1000"],
    ));
    assert_eq!(
        host.ok(&["inspect", "-f", "{{.HostConfig.Runtime}}", "aa"]),
        "runc"
    );
    assert!(host.ok(&["top", "aa"]).contains("sleep 1000"));
    let limit = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || \
                 cat /sys/fs/cgroup/memory.max";
    assert_eq!(host.ok(&["exec", "aa", "sh", "-c", limit]), "67108864");
    assert!(host.ok(&["exec", "aa", "id"]).starts_with("uid=7 gid=8"));
    assert!(
        host.ok(&["exec", "-u", "0", "aa", "id"])
            .starts_with("uid=0")
    );
    assert_eq!(host.hawser(&["exec", "aa", "sh", "-c", "exit 5"]).code, 5);
    let missing = host.hawser(&["exec", "aa", "nosuch"]);
    assert_eq!(missing.code, 127, "{missing:?}");
    assert_eq!(missing.stderr.trim().lines().count(), 1, "{missing:?}");
    let said = host.hawser(&["exec", "aa", "sh", "-c", "echo out; echo err >&2; exit 6"]);
    assert_eq!(
        (said.code, said.stdout.trim(), said.stderr.trim()),
        (6, "out", "err"),
        "{said:?}"
    );
    host.ok(&["pause", "aa"]);
    assert_eq!(
        host.ok(&["inspect", "-f", "{{.State.Status}}", "aa"]),
        "paused"
    );
    host.ok(&["unpause", "aa"]);
    host.ok(&["restart", "-t", "0", "aa"]);
    host.ok(&["kill", "aa"]);
    soon(|| host.ok(&["inspect", "-f", "{{.State.Status}}", "aa"]) == "exited");
    assert_eq!(
        host.ok(&["inspect", "-f", "{{.State.ExitCode}}", "aa"]),
        "137"
    );
    host.ok(&["rm", "aa"]);
}

#[test]
fn a_container_of_runc_ends_with_its_shim() {
    let host = Host::new();
    let run = [
        "run",
        "-d",
        "--network",
        "none",
        "--runtime",
        "runc",
        "--name",
        "gg",
        "bb",
    ];
    host.ok(&[&run[..], &["sleep", "1000"]].concat());
    let inspect = |template: &str| host.ok(&["inspect", "-f", template, "gg"]);
    let pid = inspect("{{.State.Pid}}");
    let status = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&status).unwrap();
    let shim = text
        .lines()
        .find_map(|line| line.strip_prefix("PPid:\t"))
        .unwrap();
    let shim = Pid::from_raw(shim.parse().unwrap()).unwrap();
    kill_process(shim, Signal::KILL).unwrap();
    soon(|| !fs::read_to_string(&status).is_ok_and(|text| !text.contains("State:\tZ")));
    soon(|| inspect("{{.State.FinishedAt}}") > inspect("{{.State.StartedAt}}"));
    assert_eq!(
        inspect("{{.State.Status}} {{.State.ExitCode}}"),
        "exited 137"
    );
    assert_eq!(host.ok(&["start", "gg"]), "gg");
    host.ok(&["rm", "-f", "gg"]);
}

#[test]
fn runc_gives_terminals() {
    let host = Host::new();
    let line = "run --rm -it --runtime runc --network none bb sh -c 'test -t 0 && echo typed'";
    let typed = host.on_terminal(line, &[]);
    assert!(typed.stdout.contains("typed"), "{typed:?}");
    host.ok(&[
        "run",
        "-d",
        "--name",
        "tt",
        "--runtime",
        "runc",
        "--network",
        "none",
        "bb",
        "sleep",
        "1000",
    ]);
    let typed = host.on_terminal("exec -it tt sh -c 'test -t 0 && echo inside; exit 3'", &[]);
    assert!(typed.stdout.contains("inside"), "{typed:?}");
}

#[test]
fn a_runtime_that_is_none_is_refused_before_anything_is_made() {
    let host = Host::new();
    for (flags, part) in [
        (&["--runtime", "nosuch"][..], "unknown runtime \"nosuch\""),
        (&["--runtime", "/nonexistent/runc"], "unknown runtime"),
        (
            &["--runtime", "runc", "--init"],
            "--init needs hawser's own runtime",
        ),
        (
            &["--runtime", "runc", "--userns", "private"],
            "--userns needs hawser's own runtime",
        ),
    ] {
        let words = [
            &["run", "--rm", "--network", "none"],
            flags,
            &["bb", "true"],
        ]
        .concat();
        host.refused(&words, 125, part);
    }
    assert_eq!(host.ok(&["ps", "-aq"]), "");
    // A program that is no runtime says what it did instead.
    let words = [
        "run",
        "--rm",
        "--runtime",
        "/bin/false",
        "--network",
        "none",
        "bb",
        "true",
    ];
    host.refused(&words, 125, "container runtime: create ended with");
    let own = host.ok(&["create", "--network", "none", "bb", "true"]);
    assert_eq!(
        host.ok(&["inspect", "-f", "{{.HostConfig.Runtime}}", &own]),
        "hawser-shim"
    );
}
