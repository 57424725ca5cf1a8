//! A container's life under the shim, as its user and the kernel see it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod older_support;
mod shim_support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use launcher::container::{LogConfig, Mount, MountKind, NetworkRequest, Recursion, State, Status};
use launcher::log::Format;
use launcher::shim::launch::{self, LaunchError};
use launcher::store::is_alive;
use launcher::stream::{Connection, Control};
use shim_support::{Fixture, SHIM, Seen, eventually, watch};

fn output(stdout: &str, stderr: &str, exit: i32) -> Seen {
    Seen {
        stdout: stdout.to_owned(),
        stderr: stderr.to_owned(),
        exit: Some(exit),
    }
}

#[test]
fn output_and_exit_code_reach_log_state_and_client() {
    let container = Fixture::new(&["sh", "-c", "echo out; echo err >&2; exit 7"], |_| {});
    let seen = container.run(None);
    assert_eq!(seen, output("out\n", "err\n", 7));
    let state = container.dir.state().unwrap();
    assert_eq!(
        (state.status, state.exit_code, state.error.as_str()),
        (Status::Exited, 7, "")
    );
    let mut log = container.log();
    log.sort();
    let entry = |stream: &str, text: &str| (stream.to_owned(), text.to_owned());
    assert_eq!(log, [entry("stderr", "err\n"), entry("stdout", "out\n")]);
    assert!(container.asked_for(&format!("POST /v1/rootfs/{}/unmount", container.record.id)));
    assert_eq!(container.cgroups(), Vec::<PathBuf>::new());
    let scratch = container
        .places
        .run_dir
        .join("containers")
        .join(container.record.id.short());
    assert!(!scratch.exists());
}

#[test]
fn a_detached_container_runs_on_and_may_be_stopped_gently() {
    let script = "trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 0.05; done";
    let container = Fixture::new(&["sh", "-c", script], |_| {});
    let pid = container.start().unwrap();
    assert_eq!(container.dir.state().unwrap().init.unwrap().pid, pid);
    eventually("its trap", || (!container.log().is_empty()).then_some(()));
    let mut connection = container.connect();
    connection
        .send(&Control::Attach {
            stdin: false,
            stdout: true,
            stderr: true,
        })
        .unwrap();
    connection
        .send(&Control::Stop {
            signal: 15,
            timeout_s: 20,
        })
        .unwrap();
    assert_eq!(watch(&mut connection).exit, Some(3));
    assert_eq!(container.dir.state().unwrap().exit_code, 3);
}

#[test]
fn one_that_does_not_listen_is_killed_after_the_timeout() {
    let container = Fixture::new(&["sh", "-c", "trap '' TERM; echo up; sleep 1000"], |_| {});
    container.start().unwrap();
    eventually("its trap", || (!container.log().is_empty()).then_some(()));
    let mut connection = container.connect();
    connection
        .send(&Control::Attach {
            stdin: false,
            stdout: false,
            stderr: false,
        })
        .unwrap();
    connection
        .send(&Control::Stop {
            signal: 15,
            timeout_s: 0,
        })
        .unwrap();
    assert_eq!(watch(&mut connection).exit, Some(137));
}

#[test]
fn input_ends_when_the_client_says_so() {
    let container = Fixture::new(&["cat"], |record| {
        record.config.open_stdin = true;
        record.config.stdin_once = true;
    });
    assert_eq!(
        container.run(Some("one\ntwo\n")),
        output("one\ntwo\n", "", 0)
    );
}

#[test]
fn more_output_than_any_buffer_holds_arrives_whole() {
    let container = Fixture::new(&["sh", "-c", "seq 1 200000"], |record| {
        record.host_config.log_config = LogConfig {
            driver: "none".to_owned(),
            ..Default::default()
        };
    });
    let seen = container.run(None);
    let expected: String = (1..=200_000).map(|number| format!("{number}\n")).collect();
    assert!(seen.stdout == expected, "{} bytes", seen.stdout.len());
    assert!(!container.dir.log_path(Format::Json).exists());
}

#[test]
fn a_terminal_has_the_clients_size_and_echoes() {
    let script = "read line; stty size; test -t 0 && test -t 1 && test -t 2 && echo \"tty $line\"";
    let container = Fixture::new(&["sh", "-c", script], |record| {
        record.config.tty = true;
        record.config.open_stdin = true;
    });
    let starting = launch::start(Path::new(SHIM), &container.places, true).unwrap();
    let mut connection = Connection::open(starting.socket()).unwrap();
    connection
        .send(&Control::Attach {
            stdin: true,
            stdout: true,
            stderr: true,
        })
        .unwrap();
    connection
        .send(&Control::Resize { rows: 33, cols: 44 })
        .unwrap();
    connection.send(&Control::Start).unwrap();
    starting.finish().unwrap();
    connection.send_stdin(b"hello\n").unwrap();
    assert_eq!(
        watch(&mut connection),
        output("hello\r\n33 44\r\ntty hello\r\n", "", 0)
    );
}

#[test]
fn short_lived_containers_are_never_missed() {
    let container = Fixture::new(&["true"], |_| {});
    for round in 0..200 {
        assert_eq!(container.run(None).exit, Some(0), "round {round}");
    }
}

fn refusal(container: &Fixture) -> (i32, String) {
    match container.start().unwrap_err() {
        LaunchError::Refused { message, exit_code } => (exit_code, message),
        error => panic!("{error}"),
    }
}

#[test]
fn a_command_that_cannot_run_gives_dockers_code_and_leaves_nothing() {
    for (command, code, message) in [
        (
            &["nothing"][..],
            127,
            "exec: \"nothing\": executable file not found in $PATH",
        ),
        (
            &["/no/thing"],
            127,
            "exec: \"/no/thing\": no such file or directory",
        ),
        (&["/etc"], 126, "exec: \"/etc\": is a directory"),
        (
            &["/etc/passwd"],
            126,
            "exec: \"/etc/passwd\": permission denied",
        ),
    ] {
        let container = Fixture::new(command, |_| {});
        assert_eq!(refusal(&container), (code, message.to_owned()));
        let state = container.dir.state().unwrap();
        let expected = State {
            status: Status::Created,
            exit_code: code,
            error: message.to_owned(),
            ..State::default()
        };
        assert_eq!(state, expected);
        assert!(container.asked_for(&format!("POST /v1/rootfs/{}/unmount", container.record.id)));
        assert_eq!(container.cgroups(), Vec::<PathBuf>::new());
        let left = fs::read_dir(container.places.run_dir.join("libcontainer")).unwrap();
        let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
        // Of the next container's filter, too.
        assert_eq!(left, ["~filters"]);
    }
}

#[test]
fn what_is_asked_wrongly_is_named_before_anything_is_made() {
    let fails = |change: &dyn Fn(&mut launcher::container::Record), words: &str| {
        let container = Fixture::new(&["true"], change);
        let (code, message) = refusal(&container);
        assert_eq!(code, 125, "{message}");
        assert!(message.contains(words), "{message}");
    };
    fails(&|record| record.config.cmd = None, "no command specified");
    fails(
        &|record| record.config.user = "bob".to_owned(),
        "unable to find user bob",
    );
    fails(
        &|record| record.host_config.cap_add = Some(vec!["MAGIC".to_owned()]),
        "\"MAGIC\"",
    );
    fails(
        &|record| record.host_config.log_config.driver = "splunk".to_owned(),
        "\"splunk\"",
    );
    fails(
        &|record| record.host_config.network_mode = "container:peer".to_owned(),
        "No such container: peer",
    );
    fails(
        &|record| {
            record.mounts.push(Mount {
                kind: MountKind::Bind,
                name: String::new(),
                source: "/no/such/dir".to_owned(),
                destination: "/data".to_owned(),
                driver: String::new(),
                mode: String::new(),
                rw: true,
                propagation: String::new(),
                anonymous: false,
                subpath: String::new(),
                recursion: Recursion::default(),
            });
        },
        "/no/such/dir",
    );
}

#[test]
fn a_client_that_leaves_before_the_start_undoes_it() {
    let container = Fixture::new(&["sleep", "1000"], |_| {});
    let starting = launch::start(Path::new(SHIM), &container.places, true).unwrap();
    drop(starting);
    eventually("the start to be undone", || {
        container.asked_for("POST /v1/rootfs/").then_some(())
    });
    let unmount = format!("POST /v1/rootfs/{}/unmount", container.record.id);
    eventually("the start to be undone", || {
        container.asked_for(&unmount).then_some(())
    });
    assert_eq!(container.dir.state().unwrap().status, Status::Created);
}

#[test]
fn a_container_ends_with_its_shim_and_can_be_started_again() {
    let container = Fixture::new(&["sleep", "1000"], |_| {});
    container.start().unwrap();
    let state = container.dir.state().unwrap();
    let (shim, init) = (state.shim.unwrap(), state.init.unwrap());
    assert!(
        Command::new("kill")
            .args(["-9", &shim.pid.to_string()])
            .status()
            .unwrap()
            .success()
    );
    eventually("the container to end", || (!is_alive(init)).then_some(()));
    let state = container.dir.state().unwrap();
    assert_eq!((state.status, state.exit_code), (Status::Exited, 137));
    container.start().unwrap();
    assert_eq!(container.dir.state().unwrap().status, Status::Running);
    let error = container.start().unwrap_err().to_string();
    assert_eq!(error, "container web is already running");
}

#[test]
fn a_throw_away_container_removes_itself() {
    let container = Fixture::new(&["true"], |record| record.host_config.auto_remove = true);
    assert_eq!(container.run(None).exit, Some(0));
    assert!(!container.dir.path().exists());
    assert!(container.asked_for(&format!("DELETE /v1/rootfs/{}", container.record.id)));
    assert_eq!(
        container.store.find("web").unwrap_err().to_string(),
        "No such container: web"
    );
}

#[test]
fn networks_are_joined_and_left_through_cni_plugins() {
    let container = Fixture::new(&["ip", "-o", "link"], |record| {
        record.host_config.network_mode = "shop".to_owned();
        record.networks = vec![NetworkRequest {
            network: "shop".to_owned(),
            aliases: vec!["www".to_owned()],
            ..NetworkRequest::default()
        }];
    });
    let log = container.path("cni.log");
    let script = format!(
        "#!/bin/sh\necho \"$CNI_COMMAND $CNI_IFNAME ${{CNI_NETNS%%[0-9]*}} $(cat)\" >> {}\necho '{{}}'\n",
        log.display()
    );
    let plugin = container.places.cni_bin_dir.join("hawser");
    fs::write(&plugin, script).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&plugin, mode).unwrap();
    let seen = container.run(None);
    assert!(seen.stdout.contains("lo: <LOOPBACK,UP"), "{}", seen.stdout);
    let calls = fs::read_to_string(log).unwrap();
    let calls: Vec<&str> = calls.lines().collect();
    assert!(calls[0].starts_with("ADD eth0 /proc/ {"), "{calls:?}");
    let aliases = format!(
        r#""aliases":{{"shop":["www","{}"]}}"#,
        container.record.id.short()
    );
    assert!(calls[0].contains(&aliases), "{calls:?}");
    // The namespace is gone by then, and its path could name another container's.
    assert!(calls[1].starts_with("DEL eth0  {"), "{calls:?}");
    assert_eq!(calls.len(), 2);
    assert!(container.dir.attachments().unwrap().joined.is_empty());
}

#[test]
fn a_container_may_share_anothers_network() {
    let container = Fixture::new(&["sleep", "1000"], |_| {});
    let pid = container.start().unwrap();
    let sibling = container.sibling(
        "peer",
        &["readlink", "/proc/thread-self/ns/net"],
        |record| {
            record.host_config.network_mode = "container:web".to_owned();
        },
    );
    let dir = container.store.container(&sibling.id);
    let places = launch::Places {
        container_dir: dir.path().to_owned(),
        ..container.places.clone()
    };
    container.start_at(&places).unwrap();
    eventually("the sibling to end", || {
        (dir.state().unwrap().status == Status::Exited).then_some(())
    });
    let namespace = fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
    let log = fs::read_to_string(dir.log_path(Format::Json)).unwrap();
    assert!(log.contains(namespace.to_str().unwrap()), "{log}");
}

#[test]
fn a_policy_starts_the_container_again_until_it_is_stopped() {
    let container = Fixture::new(&["sh", "-c", "echo life; exit 2"], |record| {
        record.host_config.restart_policy.name = "always".to_owned();
    });
    container.start().unwrap();
    eventually("three lives", || (container.log().len() >= 3).then_some(()));
    assert_eq!(container.dir.state().unwrap().status, Status::Running);
    let mut connection = container.connect();
    connection
        .send(&Control::Stop {
            signal: 15,
            timeout_s: 10,
        })
        .unwrap();
    let state = container.wait();
    assert!(state.restart_count >= 2, "{state:?}");
    assert!(!state.restarting);
}

#[test]
fn failures_are_retried_as_often_as_asked() {
    let container = Fixture::new(&["sh", "-c", "echo life; exit 2"], |record| {
        record.host_config.restart_policy.name = "on-failure".to_owned();
        record.host_config.restart_policy.maximum_retry_count = 2;
    });
    container.start().unwrap();
    let state = container.wait();
    assert_eq!(
        (state.exit_code, state.restart_count, container.log().len()),
        (2, 2, 3)
    );
}
