//! The life of a container from the command line: `hawser` and `hawser-shim` as they are, against
//! a daemon made for the test.

mod cli_api;
mod cli_limits;
mod cli_logs;
mod cli_runtime;
mod cli_steering;
mod cli_support;
mod older_support;

use cli_support::{Host, Ran, digest, soon};

/// Flags that every run here needs: the test's daemon has no networks.
const RUN: [&str; 3] = ["run", "--network", "none"];

fn run<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
    RUN.iter().chain(arguments).copied().collect()
}

#[test]
fn a_run_has_the_containers_output_and_exit_code() {
    let host = Host::new();
    let ran = host.hawser(&run(&[
        "--rm",
        "bb",
        "sh",
        "-c",
        "echo out; echo err >&2; exit 3",
    ]));
    assert_eq!(
        (ran.code, ran.stdout.as_str(), ran.stderr.as_str()),
        (3, "out\n", "err\n")
    );
    let nothing: Vec<String> = Vec::new();
    assert_eq!(host.leftovers(), nothing);
}

#[test]
fn a_command_that_is_not_there_is_127_and_one_that_is_no_program_126() {
    let host = Host::new();
    host.refused(&run(&["bb", "nosuch"]), 127, "executable file not found");
    host.refused(&run(&["bb", "/etc/passwd"]), 126, "permission denied");
    let nothing: Vec<String> = Vec::new();
    assert_eq!(
        host.leftovers(),
        nothing,
        "a container that never ran leaves nothing"
    );
}

#[test]
fn standard_input_goes_in_only_when_asked() {
    let host = Host::new();
    let input = vec![b'x'; 300_000];
    let ran = host.hawser_with(&run(&["--rm", "-i", "bb", "wc", "-c"]), &input);
    assert_eq!((ran.code, ran.stdout.trim()), (0, "300000"));
    let ran = host.hawser_with(&run(&["--rm", "bb", "wc", "-c"]), b"x");
    assert_eq!((ran.code, ran.stdout.trim()), (0, "0"));
    // Both ways at once, more than any pipe holds.
    let ran = host.hawser_with(&run(&["--rm", "-i", "bb", "cat"]), &input);
    assert_eq!((ran.code, ran.stdout.len()), (0, 300_000));
}

#[test]
fn a_container_in_the_background_is_listed_logged_entered_stopped_and_removed() {
    let host = Host::new();
    let script = "trap 'echo bye; exit 7' TERM; echo ready; while :; do sleep 0.05; done";
    let id = host.ok(&run(&[
        "-d",
        "--name",
        "web",
        "-l",
        "tier=front",
        "bb",
        "sh",
        "-c",
        script,
    ]));
    assert_eq!(id.len(), 64);
    let followed = host
        .command(&["logs", "-f", "web"])
        .stdout(std::process::Stdio::piped())
        .spawn();

    let table = host.ok(&["ps"]);
    let (header, row) = table.split_once('\n').unwrap();
    assert!(
        header.starts_with("CONTAINER ID   IMAGE     COMMAND "),
        "{header}"
    );
    assert!(
        row.starts_with(&format!("{}   bb        \"sh -c ", &id[..12])),
        "{row}"
    );
    assert!(row.contains(" Up ") && row.ends_with(" web"), "{row}");
    assert_eq!(
        host.ok(&["ps", "-q", "--no-trunc", "--filter", "label=tier=front"]),
        id
    );
    assert_eq!(host.ok(&["ps", "-q", "--filter", "name=nobody"]), "");

    let entered = host.hawser(&["exec", "-e", "A=b", "web", "sh", "-c", "echo $A; exit 4"]);
    assert_eq!((entered.code, entered.stdout.as_str()), (4, "b\n"));
    host.refused(&["rm", "web"], 1, "stop the container before removing");
    host.refused(
        &run(&["--name", "web", "bb", "true"]),
        125,
        "is already in use",
    );

    assert_eq!(host.ok(&["stop", "web"]), "web");
    assert_eq!(
        host.ok(&["stop", "web"]),
        "web",
        "stopped already is no error"
    );
    let state = "{{.State.Status}} {{.State.ExitCode}} {{.State.Pid}} {{.Name}}";
    assert_eq!(
        host.ok(&["inspect", "-f", state, &id[..8]]),
        "exited 7 0 /web"
    );
    assert!(
        host.ok(&["ps", "-a", "--format", "{{.Status}}"])
            .starts_with("Exited (7) ")
    );
    assert_eq!(host.ok(&["logs", "web"]), "ready\nbye");
    let followed = followed.unwrap().wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&followed.stdout), "ready\nbye\n");
    host.refused(&["exec", "web", "true"], 1, "is not running");
    host.refused(&["kill", "web"], 1, "is not running");
    host.refused(&["attach", "web"], 1, "is not running");

    assert_eq!(host.ok(&["rm", "web"]), "web");
    host.refused(&["rm", "web"], 1, "No such container: web");
    let nothing: Vec<String> = Vec::new();
    assert_eq!(host.leftovers(), nothing);
}

#[test]
fn a_created_container_starts_attached_and_starts_again() {
    let host = Host::new();
    let create = [
        "create",
        "--network",
        "none",
        "--name",
        "job",
        "bb",
        "sh",
        "-c",
        "echo app; exit 4",
    ];
    host.ok(&create);
    assert_eq!(
        host.ok(&["inspect", "--format", "{{.State.Status}}", "job"]),
        "created"
    );
    for _ in 0..2 {
        let ran = host.hawser(&["start", "-a", "job"]);
        assert_eq!((ran.code, ran.stdout.as_str()), (4, "app\n"));
    }
    assert_eq!(host.ok(&["wait", "job"]), "4");
    assert_eq!(host.ok(&["logs", "job"]), "app\napp");
    assert_eq!(host.ok(&["logs", "--tail", "1", "job"]), "app");
    host.ok(&["rename", "job", "work"]);
    host.refused(&["inspect", "job"], 1, "No such object: job");
    assert_eq!(
        host.ok(&["inspect", "-f", "{{.State.ExitCode}}", "work"]),
        "4"
    );
}

#[test]
fn what_the_caller_has_open_is_not_kept_open_by_a_container() {
    let host = Host::new();
    let scratch = tempfile::tempdir().unwrap();
    let lock = scratch.path().join("lock");
    let mut locked = std::process::Command::new("sh");
    locked.args(["-c", "exec 9>\"$0\"; flock 9; exec \"$@\""]);
    let detached = host.command(&run(&["-d", "bb", "sleep", "600"]));
    locked.arg(&lock).arg(detached.get_program());
    locked.args(detached.get_args());
    let set = detached.get_envs();
    locked.envs(set.filter_map(|(name, value)| Some((name, value?))));
    assert!(locked.output().unwrap().status.success());
    let free = ["-n".as_ref(), lock.as_os_str(), "true".as_ref()];
    let taken = std::process::Command::new("flock").args(free).status();
    assert!(taken.unwrap().success(), "the container holds the lock");
}

#[test]
fn signals_reach_the_container() {
    let host = Host::new();
    let script = "trap 'echo usr1' USR1; echo ready; while :; do sleep 0.05; done";
    host.ok(&run(&["-d", "--name", "c1", "bb", "sh", "-c", script]));
    let follow = host
        .command(&["logs", "-f", "c1"])
        .stdout(std::process::Stdio::piped())
        .spawn();
    let mut follow = follow.unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(follow.stdout.take().unwrap()));
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    host.ok(&["kill", "-s", "USR1", "c1"]);
    assert_eq!(lines.next().unwrap().unwrap(), "usr1");
    host.refused(&["kill", "-s", "NOSUCH", "c1"], 1, "invalid signal: NOSUCH");
    host.ok(&["kill", "c1"]);
    assert!(lines.next().is_none(), "the log ends with the container");
    follow.wait().unwrap();
    assert_eq!(
        host.ok(&["inspect", "-f", "{{.State.ExitCode}}", "c1"]),
        "137"
    );
    assert_eq!(host.ok(&["rm", "-f", "c1", "nobody"]), "c1");
}

#[test]
fn volumes_are_held_until_the_container_is_removed() {
    let host = Host::new();
    host.ok(&run(&[
        "--name",
        "c1",
        "-v",
        "site:/srv",
        "-v",
        "/anon",
        "bb",
        "touch",
        "/srv/page",
    ]));
    let id = host.ok(&["inspect", "-f", "{{.Id}}", "c1"]);
    let mounts = "{{range .Mounts}}{{.Type}} {{.Destination}} {{.RW}};{{end}}";
    assert_eq!(
        host.ok(&["inspect", "-f", mounts, "c1"]),
        "volume /srv true;volume /anon true;"
    );
    host.world(|world| {
        assert_eq!(world.volumes.len(), 2);
        assert_eq!(world.volumes["site"].holders, [id.as_str()]);
        assert!(
            world
                .asked
                .contains(&"POST /v1/volumes/site/populate".to_owned())
        );
    });
    host.refused(
        &["volume", "rm", "site"],
        1,
        &format!("volume is in use - [{id}]"),
    );
    host.ok(&["rm", "-v", "c1"]);
    host.world(|world| assert_eq!(world.volumes.keys().collect::<Vec<_>>(), ["site"]));
    assert!(host.path("state/volumes/site/_data/page").exists());
}

#[test]
fn a_failed_run_takes_back_what_it_made() {
    let host = Host::new();
    let (missing, cidfile) = (host.path("none"), host.path("cidfile"));
    let bind = format!("type=bind,source={},target=/b", missing.display());
    let failing = [
        run(&[
            "--name", "c1", "-v", "fresh:/a", "--mount", &bind, "bb", "true",
        ]),
        run(&["--name", "c1", "-v", "fresh:/a", "bb", "nosuch"]),
        run(&[
            "--cidfile",
            cidfile.to_str().unwrap(),
            "-v",
            "fresh:/a",
            "-u",
            "nobodyhere",
            "bb",
            "true",
        ]),
    ];
    for line in failing {
        let ran = host.hawser(&line);
        assert!((125..=127).contains(&ran.code), "{ran:?}");
        let nothing: Vec<String> = Vec::new();
        assert_eq!(host.leftovers(), nothing, "{line:?}");
        host.world(|world| assert!(world.volumes.is_empty(), "{line:?}"));
        assert!(!missing.exists() && !cidfile.exists());
    }
}

#[test]
fn bad_input_is_one_line_with_dockers_exit_code() {
    let host = Host::new();
    let long = "x".repeat(300);
    let rows: [(Vec<&str>, i32, &str); 13] = [
        (
            run(&["--pull", "never", "none", "true"]),
            125,
            "No such image: none:latest",
        ),
        (run(&["bb"]), 125, "no command specified"),
        (
            run(&["--name", "a/b", "bb", "true"]),
            125,
            "invalid container name",
        ),
        (
            run(&["--name", "..", "bb", "true"]),
            125,
            "invalid container name",
        ),
        (
            run(&["--name", &long, "bb", "true"]),
            125,
            "invalid container name",
        ),
        (
            run(&["-v", "bad name:/m", "bb", "true"]),
            125,
            "invalid volume name",
        ),
        (run(&["-p", "x", "bb", "true"]), 125, "invalid port"),
        (run(&["-it", "bb", "true"]), 1, "not a TTY"),
        (vec!["stop", "nobody"], 1, "No such container: nobody"),
        (vec!["logs", "nobody"], 1, "No such container: nobody"),
        (vec!["ps", "--filter", "bogus=1"], 1, "invalid filter"),
        (
            vec!["inspect", "-f", "{{", "x"],
            1,
            "template parsing error",
        ),
        (vec!["-H", "tcp://x", "ps"], 1, "is not a daemon address"),
    ];
    for (line, code, part) in rows {
        host.refused(&line, code, part);
        let nothing: Vec<String> = Vec::new();
        assert_eq!(host.leftovers(), nothing, "{line:?}");
    }
}

#[test]
fn no_daemon_is_said_in_one_line_with_the_way_out() {
    let host = Host::new();
    let nowhere = format!("unix://{}", host.path("nowhere.sock").display());
    for command in ["ps", "info", "images"] {
        let ran = host.hawser(&["-H", &nowhere, command]);
        assert_eq!((ran.code, ran.stderr.lines().count()), (1, 1), "{ran:?}");
        assert!(ran.stderr.contains(&nowhere) && ran.stderr.contains("systemctl start hawserd"));
    }
    let ran = host.hawser(&["-H", &nowhere, "run", "bb", "true"]);
    assert_eq!(ran.code, 125, "{ran:?}");
}

#[test]
fn images_are_imported_loaded_and_listed() {
    let host = Host::new();
    let ran = host.hawser_with(
        &["import", "-c", "CMD [\"echo\", \"hi\"]", "-", "one"],
        b"a tar",
    );
    assert_eq!(ran.code, 0, "{ran:?}");
    host.world(|world| {
        assert_eq!(world.layers, [digest(b"a tar")]);
        assert_eq!(world.images["one"]["id"], ran.stdout.trim());
    });
    let shown = "{{.Config.Cmd}} {{len .RootFS.Layers}} {{.Architecture}}";
    assert!(
        host.ok(&["image", "inspect", "-f", shown, "one"])
            .starts_with("[echo hi] 1 ")
    );
    let listed = host.ok(&[
        "images",
        "--format",
        "{{.Repository}}:{{.Tag}} {{.Size}}",
        "bb",
    ]);
    assert_eq!(listed, "bb:latest 1.5MB");
    let junk = host.hawser_with(&["load"], b"junk");
    assert_eq!((junk.code, junk.stderr.lines().count()), (1, 1), "{junk:?}");
    let nothing: Vec<String> = Vec::new();
    assert_eq!(host.leftovers(), nothing, "the spool is gone");
}

#[test]
fn a_pipe_that_closes_is_no_error() {
    let host = Host::new();
    host.ok(&run(&[
        "--name",
        "c1",
        "bb",
        "sh",
        "-c",
        "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done",
    ]));
    let mut child = host
        .command(&["logs", "c1"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn a_terminal_is_attached_detached_and_attached_again() {
    let host = Host::new();
    let shell = "run --network none -it --name sh1 -e PS1='# ' bb sh";
    let Ran {
        stdout: seen, code, ..
    } = host.on_terminal(shell, &["echo is-$((40+2))\n", "\u{10}\u{11}"]);
    assert!(seen.contains("is-42\r\n"), "{seen:?}");
    assert_eq!(code, 0, "{seen:?}");
    let state = "{{.State.Status}} {{.Config.Tty}} {{.Config.OpenStdin}}";
    assert_eq!(
        host.ok(&["inspect", "-f", state, "sh1"]),
        "running true true"
    );

    let Ran {
        stdout: seen, code, ..
    } = host.on_terminal("exec -it -e PS1='# ' sh1 sh", &["exit 5\n"]);
    assert_eq!(code, 5, "{seen:?}");
    assert_eq!(
        host.ok(&["inspect", "-f", "{{.State.Status}}", "sh1"]),
        "running"
    );

    // Whoever leaves a second shell leaves it running, and its terminal to write to.
    let shell = "exec -it -e PS1='# ' --detach-keys ctrl-x,ctrl-y sh1 sh";
    let wait = "(until test -e /go; do sleep 0.05; done; echo said; : >/done) &";
    let script = format!("trap ': >/hup' HUP; {wait}\n");
    let Ran {
        stdout: seen, code, ..
    } = host.on_terminal(shell, &[&script, "\u{18}\u{19}"]);
    assert_eq!(code, 0, "{seen:?}");
    let inside = |script| host.hawser(&["exec", "sh1", "sh", "-c", script]).code;
    assert_eq!(inside(": >/go"), 0);
    soon(|| inside("test -e /done") == 0);
    assert_eq!(inside("test -e /hup"), 1);
    let misspelt = ["exec", "--detach-keys", "ctrl-ü", "sh1", "sh"];
    host.refused(&misspelt, 1, "invalid --detach-keys");
    host.ok(&["stop", "-t", "0", "sh1"]);

    let shell = "run --rm --network none -it -e PS1='# ' bb sh";
    let Ran {
        stdout: seen, code, ..
    } = host.on_terminal(shell, &["exit 3\n"]);
    assert_eq!(code, 3, "{seen:?}");
}

#[test]
fn a_client_that_is_told_to_end_passes_it_on() {
    let host = Host::new();
    let script = "trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done";
    let mut child = host
        .command(&run(&["--rm", "bb", "sh", "-c", script]))
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut stdout = std::io::BufReader::new(child.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut stdout, &mut line).unwrap();
    let pid = child.id().to_string();
    let killed = std::process::Command::new("kill")
        .arg(pid)
        .status()
        .unwrap();
    assert!(killed.success());
    assert_eq!(child.wait().unwrap().code(), Some(9));
}
