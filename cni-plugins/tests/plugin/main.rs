//! The real binary against a daemon that answers from a table.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails here")]

mod daemon;
mod delegation;

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use daemon::Daemon;
use serde_json::{Value, json};

const ENDPOINT: &str = "DELETE /v1/endpoints/c1/eth0";
const NETWORK: &str = "GET /v1/networks/shop";
const STATUS: &str = "GET /v1/networks/shop/status";

/// A file stands in for a namespace: the plugin only compares its identity with its own.
const NETNS: &str = env!("CARGO_MANIFEST_PATH");

struct Reply {
    success: bool,
    value: Value,
}

impl Reply {
    #[track_caller]
    fn code(&self) -> u64 {
        assert!(!self.success, "{}", self.value);
        self.value["code"].as_u64().unwrap()
    }
}

fn call_in(netns: &str, command: &str, config: &Value) -> Reply {
    run(
        env!("CARGO_BIN_EXE_hawser-cni"),
        Path::new(""),
        netns,
        command,
        config,
    )
}

/// `path` is where delegated plugins are looked for.
fn run(plugin: &str, path: &Path, netns: &str, command: &str, config: &Value) -> Reply {
    let mut child = Command::new(plugin)
        .env_clear()
        .env("CNI_PATH", path)
        .env("CNI_COMMAND", command)
        .env("CNI_CONTAINERID", "c1")
        .env("CNI_NETNS", netns)
        .env("CNI_IFNAME", "eth0")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(config.to_string().as_bytes()).unwrap();
    drop(input);
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    let value = match output.stdout.as_slice() {
        b"" => Value::Null,
        text => serde_json::from_slice(text).unwrap(),
    };
    Reply {
        success: output.status.success(),
        value,
    }
}

fn call(command: &str, config: &Value) -> Reply {
    call_in(NETNS, command, config)
}

fn config(socket: &Path) -> Value {
    json!({"cniVersion": "1.1.0", "name": "shop", "type": "hawser", "socket": socket})
}

fn attachment(container: &str) -> Value {
    json!({
        "network": "shop", "network_id": "a".repeat(64), "endpoint_id": "b".repeat(64),
        "container_id": container, "ifname": "eth0", "netns": NETNS,
        "host_ifname": null, "mac": "02:42:0a:01:00:02", "mtu": 1500,
        "addresses": [{"address": "10.1.0.2/16", "gateway": "10.1.0.1"}],
        "routes": [], "name": null, "aliases": [], "ports": [],
        "dns": {"nameservers": ["127.0.0.11"]},
    })
}

fn network() -> Value {
    json!({
        "Name": "shop", "Id": "a".repeat(64), "Created": "", "Scope": "local", "Driver": "bridge",
        "EnableIPv6": false, "IPAM": {}, "Internal": false, "Attachable": false, "Ingress": false,
        "ConfigFrom": {"Network": ""}, "ConfigOnly": false, "Containers": {}, "Options": {},
        "Labels": {},
    })
}

fn refusal(code: &str, message: &str) -> Value {
    json!({"code": code, "message": message})
}

#[test]
fn add_attaches_and_answers_with_the_result() {
    let daemon = Daemon::start(vec![("POST /v1/endpoints", 200, attachment("c1"))]);
    let reply = call("ADD", &config(&daemon.socket()));
    assert!(reply.success, "{}", reply.value);
    assert_eq!(
        reply.value,
        json!({
            "cniVersion": "1.1.0",
            "interfaces": [
                {"name": "eth0", "mac": "02:42:0a:01:00:02", "mtu": 1500, "sandbox": NETNS},
            ],
            "ips": [{"address": "10.1.0.2/16", "gateway": "10.1.0.1", "interface": 0}],
            "routes": [],
            "dns": {"nameservers": ["127.0.0.11"]},
        })
    );
    let asked = daemon.asked();
    assert_eq!(asked.len(), 1, "one round trip: {asked:?}");
    assert!(asked[0].contains(r#""container_id":"c1""#), "{asked:?}");
    assert!(
        asked[0].contains(r#""owner":"shop@main-"#)
            || asked[0].contains(r#""owner":"shop@plugin-"#),
        "{asked:?}"
    );
}

#[test]
fn a_second_add_is_an_error() {
    let daemon = Daemon::start(vec![(
        "POST /v1/endpoints",
        409,
        refusal(
            "conflict",
            "interface eth0 of container c1 is on network shop already",
        ),
    )]);
    let reply = call("ADD", &config(&daemon.socket()));
    assert_eq!(reply.code(), 100);
    let asked = daemon.asked();
    assert!(asked[0].contains(r#""exclusive":true"#), "{asked:?}");
}

#[test]
fn the_daemons_refusal_keeps_its_words() {
    let daemon = Daemon::start(vec![(
        "POST /v1/endpoints",
        404,
        refusal("not_found", "network shop not found"),
    )]);
    let reply = call("ADD", &config(&daemon.socket()));
    assert_eq!(reply.code(), 7);
    assert_eq!(reply.value["details"], "network shop not found");
}

#[test]
fn a_network_is_made_on_first_use_even_if_two_come_first() {
    let missing = || refusal("not_found", "network shop not found");
    let daemon = Daemon::start(vec![
        ("POST /v1/endpoints", 404, missing()),
        (
            "POST /v1/networks/create",
            409,
            refusal("conflict", "network shop exists"),
        ),
        (NETWORK, 200, network()),
        ("POST /v1/endpoints", 200, attachment("c1")),
    ]);
    let mut config = config(&daemon.socket());
    config["driver"] = json!("bridge");
    config["subnet"] = json!("10.1.0.0/16");
    assert!(call("ADD", &config).success);
    let asked = daemon.asked();
    assert_eq!(asked.len(), 4, "{asked:?}");
    assert!(asked[1].contains(r#""Subnet":"10.1.0.0/16""#), "{asked:?}");
}

#[test]
fn a_subnet_that_clashes_is_not_taken_for_an_existing_network() {
    let daemon = Daemon::start(vec![
        (
            "POST /v1/endpoints",
            404,
            refusal("not_found", "network shop not found"),
        ),
        (
            "POST /v1/networks/create",
            409,
            refusal("conflict", "10.1.0.0/16 overlaps eth0"),
        ),
        (NETWORK, 404, refusal("not_found", "network shop not found")),
    ]);
    let mut config = config(&daemon.socket());
    config["driver"] = json!("bridge");
    let reply = call("ADD", &config);
    assert_eq!(reply.code(), 100);
    assert_eq!(reply.value["details"], "10.1.0.0/16 overlaps eth0");
}

#[test]
fn del_needs_no_namespace_and_no_attachment() {
    let daemon = Daemon::start(vec![
        (ENDPOINT, 200, Value::Null),
        (ENDPOINT, 404, refusal("not_found", "no such endpoint")),
        (ENDPOINT, 500, refusal("internal", "netlink: out of memory")),
    ]);
    let mut config = config(&daemon.socket());
    // What ADD would refuse must not keep DEL from cleaning up.
    config["runtimeConfig"] = json!({"portMappings": "nonsense"});
    assert!(call_in("", "DEL", &config).success);
    assert!(call_in("/gone", "DEL", &config).success);
    assert_eq!(call_in("/gone", "DEL", &config).code(), 104);
}

#[test]
fn check_asks_the_daemon_and_compares_with_the_result() {
    let get = "GET /v1/endpoints/c1/eth0";
    let daemon = Daemon::start(vec![
        (get, 200, attachment("c1")),
        (get, 200, attachment("c1")),
        (get, 404, refusal("not_found", "no such endpoint")),
        (
            get,
            500,
            refusal("conflict", "eth0: address 10.1.0.2/16 is missing"),
        ),
    ]);
    let mut config = config(&daemon.socket());
    config["prevResult"] = json!({
        "cniVersion": "1.1.0",
        "interfaces": [{"name": "eth0", "sandbox": NETNS}],
        "ips": [{"address": "10.1.0.2/16", "interface": 0}],
    });
    assert!(call("CHECK", &config).success);
    let mut moved = config.clone();
    moved["prevResult"]["ips"][0]["address"] = json!("10.1.0.3/16");
    assert_eq!(call("CHECK", &moved).code(), 105);
    assert_eq!(call("CHECK", &config).code(), 3);
    assert_eq!(call("CHECK", &config).code(), 105);
}

#[test]
fn gc_removes_what_its_owner_does_not_know_and_goes_on_after_an_error() {
    let owned = |container: &str, owner: Value| {
        let mut entry = attachment(container);
        entry["owner"] = owner;
        entry
    };
    let mut elsewhere = owned("c4", json!("us"));
    elsewhere["network_id"] = json!("f".repeat(64));
    let daemon = Daemon::start(vec![
        (NETWORK, 200, network()),
        (
            "GET /v1/endpoints",
            200,
            json!([
                owned("c1", json!("us")),
                owned("c2", json!("us")),
                owned("c3", json!("us")),
                elsewhere,
                owned("c5", json!("them")),
                attachment("c6"),
            ]),
        ),
        (
            "DELETE /v1/endpoints/c2/eth0",
            503,
            refusal("unavailable", "busy"),
        ),
        ("DELETE /v1/endpoints/c3/eth0", 200, Value::Null),
    ]);
    let mut config = config(&daemon.socket());
    config["owner"] = json!("us");
    config["cni.dev/valid-attachments"] = json!([{"containerID": "c1", "ifname": "eth0"}]);
    let reply = call("GC", &config);
    assert_eq!(reply.code(), 11);
    let details = "1 of 2 stale attachments could not be removed; the first: busy";
    assert_eq!(reply.value["details"], details);
    let deleted = daemon.asked().split_off(2);
    assert_eq!(
        deleted,
        [
            "DELETE /v1/endpoints/c2/eth0",
            "DELETE /v1/endpoints/c3/eth0"
        ]
    );
}

#[test]
fn status_is_about_the_daemon_and_the_network() {
    let missing = || refusal("not_found", "network shop not found");
    let daemon = Daemon::start(vec![
        (STATUS, 200, network()),
        (STATUS, 404, missing()),
        (STATUS, 404, missing()),
        (STATUS, 507, refusal("exhausted", "no address is left")),
        (STATUS, 503, refusal("unavailable", "it has lost a part")),
    ]);
    let mut config = config(&daemon.socket());
    assert!(call("STATUS", &config).success);
    assert_eq!(call("STATUS", &config).code(), 50);
    config["driver"] = json!("bridge");
    assert!(call("STATUS", &config).success);
    assert_eq!(call("STATUS", &config).code(), 50);
    assert_eq!(call("STATUS", &config).code(), 51);
}

#[test]
fn a_daemon_that_is_down_is_worth_another_try() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(&directory.path().join("hawserd.sock"));
    let mut config = config;
    config["prevResult"] = json!({});
    for command in ["ADD", "DEL", "CHECK"] {
        let reply = call(command, &config);
        assert_eq!(reply.code(), 11, "{command}");
        let details = reply.value["details"].as_str().unwrap();
        assert!(details.ends_with("is it running?"), "{details}");
    }
    assert_eq!(call("STATUS", &config).code(), 50);
    // Nothing is lost: the daemon collects what belongs to dead namespaces when it is back.
    assert!(call_in("", "DEL", &config).success);
    assert!(call_in("/gone", "DEL", &config).success);
}

#[test]
fn the_plugins_own_namespace_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(&directory.path().join("hawserd.sock"));
    let reply = call_in("/proc/thread-self/ns/net", "ADD", &config);
    assert_eq!(reply.code(), 4);
    assert_eq!(call_in("/gone", "ADD", &config).code(), 4);
}
