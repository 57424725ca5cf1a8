//! Logs: what every driver gets, what `hawser logs` shows of it, and receivers that go away.

#![expect(
    clippy::unwrap_used,
    reason = "a fixture that cannot be made fails its test"
)]

mod journal;
mod receiver;
mod structured;

use std::fs;
use std::path::PathBuf;

use crate::cli_support::{Host, soon};
use crate::run;
use journal::Journal;
use receiver::Receiver;

/// Runs a script to its end in a container that stays.
fn ran(host: &Host, flags: &[&str], script: &str) {
    let command = ["bb", "sh", "-c", script];
    let arguments = [&["--name", "web"], flags, &command].concat();
    let ran = host.hawser(&run(&arguments));
    assert_eq!(ran.code, 0, "{}", ran.stderr);
}

fn shown(host: &Host, arguments: &[&str]) -> String {
    let ran = host.hawser(arguments);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    ran.stdout
}

fn lost(host: &Host) -> u64 {
    let lost = host.ok(&["inspect", "-f", "{{.LogEntriesLost}}", "web"]);
    lost.trim().parse().unwrap()
}

fn inspected(host: &Host, format: &str) -> String {
    host.ok(&["inspect", "-f", format, "web"]).trim().to_owned()
}

fn files(host: &Host) -> Vec<PathBuf> {
    let id = inspected(host, "{{.Id}}");
    let entries = fs::read_dir(host.path("state/containers").join(id)).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut logs: Vec<PathBuf> = paths
        .filter(|path| path.to_str().unwrap().contains(".log"))
        .collect();
    logs.sort();
    logs
}

#[test]
fn files_of_both_formats_read_alike() {
    for driver in ["json-file", "local"] {
        let host = Host::new();
        let flags = ["--log-driver", driver, "--label", "tier=web"];
        let labels = ["--log-opt", "labels=tier"];
        let flags = match driver {
            "json-file" => [&flags[..], &labels].concat(),
            _ => flags.to_vec(),
        };
        ran(
            &host,
            &flags,
            "echo one; echo two >&2; echo three; printf end",
        );
        let both = host.hawser(&["logs", "web"]);
        assert_eq!(both.stdout, "one\nthree\nend", "{driver}");
        assert_eq!(both.stderr, "two\n", "{driver}");
        assert_eq!(shown(&host, &["logs", "--until", "10m", "web"]), "");
        assert_eq!(
            shown(&host, &["logs", "--since", "10m", "-n1", "web"]),
            "end"
        );
        let timed = shown(&host, &["logs", "-t", "-n1", "web"]);
        assert!(timed.len() == 34 && timed.ends_with("Z end"), "{timed:?}");
        let details = shown(&host, &["logs", "--details", "-n1", "web"]);
        let expected = match driver {
            "json-file" => "tier=web end",
            _ => " end",
        };
        assert_eq!(details, expected);
        assert_eq!(inspected(&host, "{{.HostConfig.LogConfig.Type}}"), driver);
        let path = inspected(&host, "{{.LogPath}}");
        assert_eq!(path.ends_with("-json.log"), driver == "json-file", "{path}");
        assert_eq!(lost(&host), 0);
    }
}

#[test]
fn rotated_files_are_packed_and_all_are_read() {
    let host = Host::new();
    let flags = ["--log-driver", "local", "--log-opt", "max-size=16k"];
    let script = "i=0; while [ $i -lt 1500 ]; do echo line $i; i=$((i+1)); done; sleep 0.3";
    ran(&host, &flags, script);
    let names: Vec<PathBuf> = files(&host);
    let packed = names
        .iter()
        .filter(|path| path.extension().unwrap() == "gz");
    assert!(packed.count() >= 2, "{names:?}");
    let expected: String = (0..1500).map(|number| format!("line {number}\n")).collect();
    assert!(shown(&host, &["logs", "web"]) == expected);
    assert_eq!(
        shown(&host, &["logs", "--tail", "900", "web"])
            .lines()
            .count(),
        900
    );
}

#[test]
fn a_follower_sees_every_line_while_files_come_and_go() {
    let host = Host::new();
    let script = "i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done";
    let options = ["--log-opt", "max-size=8k", "--log-opt", "max-file=60"];
    let flags = [&["--log-opt", "compress=true"], &options[..]].concat();
    let create = [
        &["create", "--network", "none", "--name", "web"],
        &flags[..],
    ]
    .concat();
    host.ok(&[&create[..], &["bb", "sh", "-c", script]].concat());
    host.ok(&["start", "web"]);
    let expected: String = (0..3000).map(|number| format!("line {number}\n")).collect();
    assert!(shown(&host, &["logs", "-f", "web"]) == expected);
}

#[test]
fn what_is_none_is_refused_before_anything_is_made() {
    let host = Host::new();
    for (flags, words) in [
        (&["--log-driver", "splunk"][..], "no log driver named"),
        (&["--log-opt", "max-size=lots"], "max-size=\"lots\""),
        (&["--log-opt", "colour=red"], "unknown log opt \"colour\""),
        (&["--log-opt", "max-buffer-size=1m"], "mode=non-blocking"),
        (&["--log-opt", "tag={{.Nmae}}"], "Nmae"),
        (
            &[
                "--log-driver",
                "syslog",
                "--log-opt",
                "syslog-address=http://x",
            ],
            "syslog-address",
        ),
        (
            &["--log-driver", "none", "--log-opt", "max-size=1m"],
            "driver none",
        ),
        (
            &[
                "--log-driver",
                "syslog",
                "--log-opt",
                "syslog-address=tcp://127.0.0.1:1",
            ],
            "failed to initialize logging driver: syslog at tcp://127.0.0.1:1",
        ),
        (
            &[
                "--log-driver",
                "syslog",
                "--log-opt",
                "syslog-address=unixgram:///no/log",
            ],
            "syslog at /no/log",
        ),
    ] {
        host.refused(&run(&[flags, &["bb", "true"]].concat()), 125, words);
        assert_eq!(host.leftovers(), Vec::<String>::new(), "{words}");
    }
}

#[test]
fn the_driver_none_keeps_nothing() {
    let host = Host::new();
    ran(&host, &["--log-driver", "none"], "echo one");
    host.refused(&["logs", "web"], 1, "does not support reading");
    assert!(files(&host).is_empty());
}

#[test]
fn a_syslog_server_gets_every_line_and_a_copy_is_kept() {
    for kind in ["udp", "tcp", "unix", "unixgram"] {
        let host = Host::new();
        let receiver = Receiver::new(kind, &host.path("syslog.sock"));
        let address = format!("syslog-address={}", receiver.address());
        let flags = ["--log-driver", "syslog", "--log-opt", &address];
        let more = ["--log-opt", "tag={{.Name}}/{{.ImageName}}", "--log-opt"];
        let flags = [&flags[..], &more, &["syslog-format=rfc5424"]].concat();
        ran(&host, &flags, "echo out; echo err >&2");
        let messages = receiver.messages(2);
        let of = |priority: &str, text: &str| {
            let found = messages.iter().any(|message| {
                message.starts_with(priority)
                    && message.contains(" web/bb ")
                    && message.ends_with(&format!(" web/bb - {text}"))
            });
            assert!(found, "{kind}: {messages:?}");
        };
        of("<30>1 ", "out");
        of("<27>1 ", "err");
        assert_eq!(shown(&host, &["logs", "web"]), "out\n", "{kind}");
        assert_eq!(lost(&host), 0, "{kind}");
    }
}

#[test]
fn a_syslog_server_may_prove_itself_with_tls() {
    let host = Host::new();
    let receiver = Receiver::tls(&host.path("tls"));
    let address = format!("syslog-address={}", receiver.address());
    let authority = format!("syslog-tls-ca-cert={}", host.path("tls/ca.pem").display());
    let flags = ["--log-driver", "syslog", "--log-opt", &address, "--log-opt"];
    let trusting = [
        &flags[..],
        &[&authority, "--log-opt", "syslog-format=rfc5424"],
    ]
    .concat();
    ran(&host, &trusting, "echo one; echo two");
    let said = receiver.text_with("two");
    // Counted, as RFC 5425 wants it.
    let length = said.split(' ').next().unwrap().parse::<usize>().unwrap();
    assert!(said[length..].contains("two"), "{said:?}");
    // Nobody knows that authority here.
    let suspicious = run(&[&flags[..4], &["bb", "true"]].concat());
    host.refused(&suspicious, 125, "certificate");
    let careless = ["syslog-tls-skip-verify=true"];
    let careless = run(&[&flags[..], &careless, &["bb", "echo", "three"]].concat());
    assert_eq!(host.hawser(&careless).code, 0);
    receiver.text_with("three");
}

#[test]
fn a_server_that_goes_away_costs_no_line_and_no_time() {
    let host = Host::new();
    let receiver = Receiver::new("tcp", &host.path("unused"));
    let address = format!("syslog-address={}", receiver.address());
    let flags = ["-d", "--log-driver", "syslog", "--log-opt", &address];
    let wait = "while [ ! -e /go ]; do sleep 0.02; done";
    let script = format!(
        "echo first; {wait}; i=0; while [ $i -lt 500 ]; do echo line $i; i=$((i+1)); done; touch /done; sleep 1000"
    );
    ran(&host, &flags, &script);
    receiver.messages(1);
    let again = receiver.go_away();
    host.ok(&["exec", "web", "touch", "/go"]);
    soon(|| host.hawser(&["exec", "web", "ls", "/done"]).code == 0);
    let receiver = again.come_back();
    let messages = receiver.messages(500);
    for (number, message) in messages.iter().enumerate() {
        assert!(message.ends_with(&format!(": line {number}")), "{message}");
    }
    assert_eq!(lost(&host), 0);
    host.ok(&["rm", "-f", "web"]);
}

#[test]
fn a_slow_server_holds_the_container_up_only_in_blocking_mode() {
    // More than the sockets' buffers and the queue take.
    let script = "i=0; while [ $i -lt 300 ]; do head -c 16000 /dev/zero | tr '\\0' x; echo; i=$((i+1)); done; touch /done; sleep 1000";
    let with = |mode: &[&str]| {
        let host = Host::new();
        let receiver = Receiver::deaf();
        let address = format!("syslog-address={}", receiver.address());
        let flags = ["-d", "--log-driver", "syslog", "--log-opt", &address];
        ran(&host, &[&flags[..], mode].concat(), script);
        (host, receiver)
    };
    let (host, receiver) = with(&[
        "--log-opt",
        "mode=non-blocking",
        "--log-opt",
        "max-buffer-size=256k",
    ]);
    soon(|| host.hawser(&["exec", "web", "ls", "/done"]).code == 0);
    soon(|| lost(&host) > 0);
    drop(receiver);
    host.ok(&["rm", "-f", "web"]);

    let (host, receiver) = with(&[]);
    soon(|| receiver.is_full());
    assert_ne!(host.hawser(&["exec", "web", "ls", "/done"]).code, 0);
    receiver.listen();
    soon(|| host.hawser(&["exec", "web", "ls", "/done"]).code == 0);
    assert_eq!(lost(&host), 0);
    host.ok(&["rm", "-f", "web"]);
}

#[test]
fn the_journal_gets_every_line_with_its_fields() {
    let host = Host::new();
    let journal = Journal::new();
    // Together more than a datagram may be.
    let huge = |number| format!("HUGE{number}={}\n", "x".repeat(100_000));
    let huge: String = (0..6).map(huge).collect();
    let env_file = host.path("env");
    fs::write(&env_file, format!("{huge}SMALL=s\n")).unwrap();
    let flags = [
        "--name",
        "web",
        "--log-driver",
        "journald",
        "--label",
        "com.example.tier=web",
    ];
    let options = [
        "--log-opt",
        "labels-regex=^com",
        "--log-opt",
        "env-regex=^HUGE",
        "--log-opt",
        "tag=my-{{.Name}}",
        "--env-file",
        env_file.to_str().unwrap(),
    ];
    let script = "echo out; echo err >&2; head -c 20000 /dev/zero | tr '\\0' y; echo";
    let arguments = [&flags[..], &options, &["bb", "sh", "-c", script]].concat();
    let ran = journal.inside(&host.command(&run(&arguments)));
    assert!(ran.status.success(), "{ran:?}");
    let entries = journal.entries("CONTAINER_NAME=web", 4);
    let field = |name: &str| -> Vec<&str> {
        let found = entries.iter().map(|entry| entry[name].as_str());
        found.map(Option::unwrap_or_default).collect()
    };
    let mut messages = field("MESSAGE");
    messages.sort_unstable();
    assert_eq!(messages[..2], ["err", "out"]);
    assert_eq!(messages[2].len() + messages[3].len(), 20_000);
    for entry in &entries {
        let is_err = entry["MESSAGE"] == "err";
        assert_eq!(entry["PRIORITY"], if is_err { "3" } else { "6" });
        assert_eq!(entry["COM_EXAMPLE_TIER"], "web");
        assert_eq!(entry["CONTAINER_TAG"], "my-web");
        assert_eq!(entry["SYSLOG_IDENTIFIER"], "my-web");
        assert_eq!(entry["IMAGE_NAME"], "bb");
        assert_eq!(entry["HUGE5"].as_str().unwrap().len(), 100_000);
        assert_eq!(entry["SMALL"], serde_json::Value::Null);
        let id = entry["CONTAINER_ID_FULL"].as_str().unwrap();
        assert!(id.starts_with(entry["CONTAINER_ID"].as_str().unwrap()));
    }
    let mut last = field("CONTAINER_PARTIAL_LAST");
    last.sort_unstable();
    assert_eq!(last, ["", "", "false", "true"]);
    assert!(shown(&host, &["logs", "web"]).starts_with("out\n"));
}

#[test]
fn a_journal_that_is_restarted_is_found_again() {
    let host = Host::new();
    let mut journal = Journal::new();
    let script = "echo first; while [ ! -e /go ]; do sleep 0.02; done; echo second; sleep 1000";
    let flags = ["-d", "--name", "web", "--log-driver", "journald"];
    let arguments = run(&[&flags[..], &["bb", "sh", "-c", script]].concat());
    assert!(journal.inside(&host.command(&arguments)).status.success());
    journal.entries("CONTAINER_NAME=web", 1);
    journal.stop();
    host.ok(&["exec", "web", "touch", "/go"]);
    soon(|| shown(&host, &["logs", "web"]).ends_with("second\n"));
    journal.start();
    let entries = journal.entries("CONTAINER_NAME=web", 2);
    assert_eq!(entries[1]["MESSAGE"], "second");
    host.ok(&["rm", "-f", "web"]);
}
