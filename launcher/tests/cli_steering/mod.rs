//! Pause, update, statistics, events, restart policies and health, from the command line.

use std::fs;

use rustix::process::{Pid, Signal, kill_process};

use super::cli_support::{Host, soon};

fn start(host: &Host, name: &str, flags: &[&str], command: &[&str]) {
    let words = ["run", "-d", "--network", "none", "--name", name];
    let arguments: Vec<&str> = words
        .iter()
        .chain(flags)
        .chain(&["bb"])
        .chain(command)
        .copied()
        .collect();
    host.ok(&arguments);
}

fn inspect(host: &Host, name: &str, template: &str) -> String {
    host.ok(&["inspect", "-f", template, name])
}

#[test]
fn a_paused_container_stands_still_until_it_goes_on_or_is_stopped() {
    let host = Host::new();
    let script = "while :; do echo tick; sleep 0.05; done";
    start(&host, "pp", &[], &["sh", "-c", script]);
    soon(|| host.ok(&["logs", "pp"]).contains("tick"));
    assert_eq!(host.ok(&["pause", "pp"]), "pp");
    let state = "{{.State.Status}} {{.State.Paused}} {{.State.Running}}";
    assert_eq!(inspect(&host, "pp", state), "paused true true");
    assert!(
        host.ok(&["ps", "--format", "{{.Status}}"])
            .ends_with("(Paused)")
    );
    assert_eq!(host.ok(&["ps", "-q", "--filter", "status=running"]), "");
    let lines = host.ok(&["logs", "pp"]).lines().count();
    host.refused(&["pause", "pp"], 1, "already paused");
    host.refused(&["exec", "pp", "true"], 1, "unpause it first");
    assert_eq!(
        host.ok(&["logs", "pp"]).lines().count(),
        lines,
        "nothing moves"
    );
    assert_eq!(host.ok(&["unpause", "pp"]), "pp");
    soon(|| host.ok(&["logs", "pp"]).lines().count() > lines);
    host.refused(&["unpause", "pp"], 1, "not paused");

    host.ok(&["pause", "pp"]);
    host.ok(&["stop", "-t", "5", "pp"]);
    assert_eq!(inspect(&host, "pp", state), "exited false false");
    host.refused(&["pause", "pp"], 1, "is not running");
    host.ok(&["start", "pp"]);
    host.ok(&["pause", "pp"]);
    host.ok(&["rm", "-f", "pp"]);
}

#[test]
fn limits_and_the_restart_policy_change_while_it_runs_and_stay() {
    let host = Host::new();
    start(
        &host,
        "uu",
        &["-m", "64m", "--restart", "always"],
        &["sleep", "1000"],
    );
    let read = || {
        let script = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null \
                      || cat /sys/fs/cgroup/memory.max";
        host.ok(&["exec", "uu", "sh", "-c", script])
    };
    host.refused(&["update", "--memory", "512m", "uu"], 1, "memoryswap");
    let update = [
        "update",
        "-m",
        "96m",
        "--memory-swap",
        "96m",
        "--restart",
        "no",
        "uu",
    ];
    assert_eq!(host.ok(&update), "uu");
    assert_eq!(read(), "100663296");
    host.ok(&["update", "-m", "32m", "--memory-swap", "32m", "uu"]);
    assert_eq!(read(), "33554432", "and down again");
    host.refused(
        &["update", "--memory", "1m", "uu"],
        1,
        "Minimum memory limit",
    );
    host.refused(&["update", "uu"], 1, "one or more flags");
    host.refused(&["update", "--cpus", "1", "nobody"], 1, "No such container");
    let template = "{{.HostConfig.Memory}} {{.HostConfig.RestartPolicy.Name}}";
    assert_eq!(inspect(&host, "uu", template), "33554432 no");
    // The policy counts as it is when the container ends.
    host.ok(&["exec", "uu", "sh", "-c", "kill -9 -1; kill -TERM 1; true"]);
    host.ok(&["kill", "-s", "INT", "uu"]);
    host.ok(&["stop", "-t", "0", "uu"]);
    host.ok(&["start", "uu"]);
    assert_eq!(read(), "33554432");
}

#[test]
fn what_a_container_uses_and_runs_is_shown() {
    let host = Host::new();
    start(&host, "ss", &["-m", "64m"], &["sleep", "1000"]);
    let format = "{{.Name}}|{{.MemUsage}}|{{.PIDs}}|{{.NetIO}}|{{.CPUPerc}}";
    let line = host.ok(&["stats", "--no-stream", "--format", format, "ss"]);
    let cells: Vec<&str> = line.split('|').collect();
    assert_eq!(
        (cells[0], cells[2], cells[3]),
        ("ss", "1", "0B / 0B"),
        "{line}"
    );
    assert!(
        cells[1].ends_with(" / 64MiB") && !cells[1].starts_with("0B"),
        "{line}"
    );
    assert!(cells[4].ends_with('%'), "{line}");
    let table = host.ok(&["stats", "--no-stream"]);
    assert!(
        table.starts_with("CONTAINER ID   NAME      CPU %     MEM USAGE / LIMIT"),
        "{table}"
    );
    host.ok(&["stop", "-t", "0", "ss"]);
    assert_eq!(host.ok(&["stats", "--no-stream"]).lines().count(), 1);
    let all = host.ok(&["stats", "--no-stream", "-a", "--format", "{{.MemUsage}}"]);
    assert_eq!(all, "-- / --");
    host.refused(&["top", "ss"], 1, "is not running");

    host.ok(&["start", "ss"]);
    let top = host.ok(&["top", "ss"]);
    assert!(top.starts_with("UID") && top.lines().count() == 2, "{top}");
    assert!(top.ends_with("sleep 1000"), "{top}");
    let own = host.ok(&["top", "ss", "-o", "pid,comm"]);
    assert_eq!(own.lines().count(), 2, "{own}");
    host.refused(&["top", "ss", "-o", "comm"], 1, "PID");
}

#[test]
fn events_are_told_in_dockers_order() {
    let host = Host::new();
    let actions = |name: &str| -> Vec<String> {
        host.world(|world| {
            let of = world.events.iter().filter(|event| {
                event["Actor"]["Attributes"]["name"] == name && event["Type"] == "container"
            });
            of.map(|event| event["Action"].as_str().unwrap().to_owned())
                .collect()
        })
    };
    host.ok(&[
        "run",
        "--network",
        "none",
        "--name",
        "aa",
        "-l",
        "x=y",
        "bb",
        "true",
    ]);
    host.ok(&["rm", "aa"]);
    assert_eq!(
        actions("aa"),
        ["create", "attach", "start", "die", "destroy"]
    );
    host.world(|world| {
        let die = world
            .events
            .iter()
            .find(|event| event["Action"] == "die")
            .unwrap();
        let attributes = &die["Actor"]["Attributes"];
        assert_eq!(
            (&attributes["exitCode"], &attributes["x"]),
            (&"0".into(), &"y".into())
        );
    });
    start(&host, "bb", &[], &["sleep", "1000"]);
    host.ok(&["pause", "bb"]);
    host.ok(&["unpause", "bb"]);
    host.ok(&["exec", "bb", "true"]);
    host.ok(&["update", "--pids-limit", "9", "bb"]);
    host.ok(&["rename", "bb", "cc"]);
    host.ok(&["stop", "-t", "0", "cc"]);
    assert_eq!(
        actions("bb"),
        [
            "create",
            "start",
            "pause",
            "unpause",
            "exec_create: true",
            "exec_start: true",
            "exec_die",
            "update"
        ]
    );
    assert_eq!(actions("cc"), ["rename", "kill", "kill", "die", "stop"]);
    start(&host, "dd", &["--rm"], &["sleep", "1000"]);
    host.ok(&["kill", "dd"]);
    soon(|| {
        actions("dd")
            .last()
            .is_some_and(|action| action == "destroy")
    });
    assert_eq!(actions("dd"), ["create", "start", "kill", "die", "destroy"]);
}

#[test]
fn a_start_of_the_daemon_brings_back_what_its_policy_says() {
    let host = Host::new();
    for (name, policy) in [
        ("always", "always"),
        ("unless", "unless-stopped"),
        ("failed", "on-failure"),
        ("none", "no"),
    ] {
        start(&host, name, &["--restart", policy], &["sleep", "1000"]);
    }
    // One was not stopped by anybody: its shim was killed, as by a reboot.
    start(
        &host,
        "lost",
        &["--restart", "unless-stopped"],
        &["sleep", "1000"],
    );
    for name in ["always", "unless", "failed", "none"] {
        host.ok(&["stop", "-t", "0", name]);
        assert_eq!(inspect(&host, name, "{{.State.ExitCode}}"), "137");
    }
    let state = host
        .path("state/containers")
        .join(inspect(&host, "lost", "{{.Id}}"));
    let state = fs::read_to_string(state.join("state.json")).unwrap();
    let state: serde_json::Value = serde_json::from_str(&state).unwrap();
    let shim = i32::try_from(state["shim"]["pid"].as_i64().unwrap()).unwrap();
    let shim = Pid::from_raw(shim).unwrap();
    kill_process(shim, Signal::KILL).unwrap();
    soon(|| inspect(&host, "lost", "{{.State.Status}}") == "exited");

    let resumed = host.ok(&["resume"]);
    assert_eq!(
        resumed.lines().collect::<Vec<_>>(),
        ["always", "failed", "lost"]
    );
    assert_eq!(inspect(&host, "always", "{{.State.Status}}"), "running");
    assert_eq!(inspect(&host, "unless", "{{.State.Status}}"), "exited");
    assert_eq!(inspect(&host, "none", "{{.State.Status}}"), "exited");
    assert_eq!(host.ok(&["resume"]), "", "nothing is left to do");
}

#[test]
fn who_is_stopped_between_two_lives_stays_down() {
    let host = Host::new();
    start(&host, "again", &["--restart", "unless-stopped"], &["false"]);
    let restarts = || inspect(&host, "again", "{{.RestartCount}}").parse::<u32>();
    soon(|| restarts().unwrap() >= 3);
    soon(|| inspect(&host, "again", "{{.State.Status}}") == "restarting");
    let status = host.ok(&[
        "ps",
        "--filter",
        "status=restarting",
        "--format",
        "{{.Status}}",
    ]);
    assert!(status.starts_with("Restarting (1)"), "{status}");
    soon(|| {
        let ran = host.hawser(&["exec", "again", "true"]);
        (ran.code, ran.stderr.contains("is restarting: wait")) == (1, true)
    });
    host.ok(&["stop", "again"]);
    assert_eq!(inspect(&host, "again", "{{.State.Status}}"), "exited");
    assert_eq!(host.ok(&["resume"]), "");
    assert_eq!(inspect(&host, "again", "{{.State.Status}}"), "exited");
}

#[test]
fn what_shares_process_ids_ends_with_its_first_process() {
    let host = Host::new();
    let script = "while :; do echo spam; done & sleep 0.2";
    let ran = host.hawser(&[
        "run",
        "--rm",
        "--network",
        "none",
        "--pid",
        "host",
        "bb",
        "sh",
        "-c",
        script,
    ]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let nothing: Vec<String> = Vec::new();
    assert_eq!(host.leftovers(), nothing);
}

/// Ends whoever executes a command in one of the host's containers, as the kernel does when memory
/// runs out. Whether there was one.
fn kill_executor(host: &Host) -> bool {
    let base = host.path("state").display().to_string();
    let is_executor = |pid: &i32| {
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut words = line.split('\0').skip(1);
        words.next() == Some("join") && words.any(|word| word.starts_with(&base))
    };
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let executor = pids.filter(is_executor).find_map(Pid::from_raw);
    executor.is_some_and(|pid| kill_process(pid, Signal::KILL).is_ok())
}

/// The first process of a PID namespace does not end before all others have been reaped.
#[test]
fn a_container_ends_though_nobody_waits_for_its_check() {
    let host = Host::new();
    let check = ["--health-cmd", "touch /begun; sleep 1000"];
    let check = [
        &check[..],
        &["--health-interval", "100ms", "--health-timeout", "1h"],
    ]
    .concat();
    start(&host, "oo", &check, &["sleep", "1000"]);
    soon(|| host.ok(&["exec", "oo", "ls", "/"]).contains("begun"));
    assert!(kill_executor(&host));
    host.ok(&["stop", "-t", "0", "oo"]);
    assert_eq!(inspect(&host, "oo", "{{.State.Status}}"), "exited");
}

#[test]
fn health_is_found_out_shown_and_told() {
    let host = Host::new();
    let check = [
        "--health-cmd",
        "cat /tmp/well",
        "--health-interval",
        "100ms",
    ];
    let flags: Vec<&str> = [&check[..], &["--health-retries", "2"]].concat();
    start(&host, "hh", &flags, &["sleep", "1000"]);
    let status = || inspect(&host, "hh", "{{.State.Health.Status}}");
    soon(|| status() == "unhealthy");
    assert!(
        host.ok(&["ps", "--format", "{{.Status}}"])
            .ends_with(" (unhealthy)")
    );
    let log = "{{with index .State.Health.Log 0}}{{.ExitCode}} {{.Output}}{{end}}";
    let log = inspect(&host, "hh", log);
    assert!(
        log.starts_with("1 ") && log.contains("No such file"),
        "{log}"
    );
    host.ok(&["exec", "hh", "touch", "/tmp/well"]);
    soon(|| status() == "healthy");
    assert_eq!(inspect(&host, "hh", "{{.State.Health.FailingStreak}}"), "0");
    assert_eq!(
        host.ok(&["ps", "--filter", "health=healthy", "--format", "{{.Names}}"]),
        "hh"
    );
    assert_eq!(host.ok(&["ps", "-q", "--filter", "health=unhealthy"]), "");
    soon(|| {
        host.world(|world| {
            let told = |wanted: &str| world.events.iter().any(|event| event["Action"] == wanted);
            told("health_status: unhealthy") && told("health_status: healthy")
        })
    });
    host.ok(&["stop", "-t", "0", "hh"]);

    let change = "HEALTHCHECK --interval=1h CMD test -e /x";
    host.hawser_with(&["import", "-c", change, "-", "checked"], b"");
    let arguments = [
        "create",
        "--network",
        "none",
        "--name",
        "ii",
        "checked",
        "true",
    ];
    host.ok(&arguments);
    assert_eq!(
        inspect(&host, "ii", "{{json .Config.Healthcheck}}"),
        r#"{"Interval":3600000000000,"Test":["CMD-SHELL","test -e /x"]}"#
    );
    host.refused(
        &[
            "run",
            "--network",
            "none",
            "--no-healthcheck",
            "--health-cmd",
            "x",
            "bb",
            "true",
        ],
        125,
        "--no-healthcheck conflicts",
    );
}

#[test]
fn a_commit_lets_the_container_stand_still_unless_told_not_to() {
    let host = Host::new();
    let flags = ["run", "-d", "--network", "none", "--name", "box"];
    host.ok(&[&flags[..], &["bb", "sleep", "1000"]].concat());
    let paused = || {
        let last = |asked: &[String]| {
            let of_commits = asked.iter().filter_map(|line| line.strip_prefix("paused "));
            of_commits.map(str::to_owned).next_back()
        };
        host.world(|world| last(&world.asked))
    };
    host.ok(&["commit", "box", "still"]);
    assert_eq!(paused().as_deref(), Some("true"));
    let status = || host.ok(&["inspect", "--format", "{{.State.Status}}", "box"]);
    assert_eq!(status(), "running");
    host.ok(&["commit", "--pause=false", "box", "moving"]);
    assert_eq!(paused().as_deref(), Some("false"));
    // Who paused it wants it to stay so.
    host.ok(&["pause", "box"]);
    host.ok(&["commit", "box", "paused"]);
    assert_eq!(status(), "paused");
}

/// Kilobytes of a shim's own program that are in its memory.
fn code_in_memory(pid: &str) -> Option<u64> {
    let maps = fs::read_to_string(format!("/proc/{pid}/smaps")).ok()?;
    let mut lines = maps.lines();
    lines.find(|line| line.contains(" r-xp ") && line.ends_with("hawser-shim"))?;
    let resident = lines.find_map(|line| line.strip_prefix("Rss:"))?;
    resident.trim().trim_end_matches(" kB").parse().ok()
}

#[test]
fn a_shim_that_has_nothing_to_do_becomes_small() {
    let host = Host::new();
    let script = "i=0; while [ $i -lt 2000 ]; do echo $i; i=$((i+1)); done; exec sleep 1000";
    start(&host, "calm", &[], &["sh", "-c", script]);
    let init = inspect(&host, "calm", "{{.State.Pid}}");
    let status = fs::read_to_string(format!("/proc/{init}/status")).unwrap();
    let shim = status.lines().find_map(|line| line.strip_prefix("PPid:\t"));
    let shim = shim.unwrap();
    let busy = code_in_memory(shim).unwrap();
    soon(|| code_in_memory(shim).unwrap() < busy / 4);
    // It goes on as before.
    assert_eq!(host.ok(&["exec", "calm", "echo", "still"]), "still");
    assert!(host.ok(&["logs", "--tail", "1", "calm"]).ends_with("1999"));
    host.ok(&["rm", "-f", "calm"]);
}
