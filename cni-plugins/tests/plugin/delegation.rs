//! Address management by others, and for others. The delegate is a script that records its calls.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::{Value, json};

use crate::daemon::Daemon;
use crate::{NETNS, Reply, attachment, config, network, refusal, run};

/// What it is called with goes to `calls`, what it answers to `ADD` comes from `reply`, and it
/// fails when there is a file called `fail-COMMAND`.
const SCRIPT: &str = r#"#!/bin/sh
here=${0%/*}
read -r input
echo "$CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME $input" >> "$here/calls"
if [ -e "$here/fail-$CNI_COMMAND" ]; then
    echo '{"code": 102, "msg": "no address", "details": "the range is full"}'
    exit 1
fi
[ "$CNI_COMMAND" != ADD ] || while read -r line; do echo "$line"; done < "$here/reply"
"#;

struct Script(tempfile::TempDir);

impl Script {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("host-local");
        fs::write(&file, SCRIPT).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        let reply = r#"{"ips":[{"address":"10.1.0.7/16","gateway":"10.1.0.1"}],"routes":[{"dst":"0.0.0.0/0"}]}"#;
        fs::write(dir.path().join("reply"), format!("{reply}\n")).unwrap();
        Self(dir)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn fail(&self, command: &str) {
        fs::write(self.path().join(format!("fail-{command}")), "").unwrap();
    }

    /// The commands so far.
    fn calls(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path().join("calls")).unwrap_or_default();
        let commands = text.lines().map(|line| line.split(' ').next().unwrap());
        commands.map(str::to_owned).collect()
    }

    fn call(&self, command: &str, config: &Value) -> Reply {
        let plugin = env!("CARGO_BIN_EXE_hawser-cni");
        run(plugin, self.path(), NETNS, command, config)
    }
}

fn delegating(daemon: &Daemon) -> Value {
    let mut config = config(&daemon.socket());
    config["ipam"] = json!({"type": "host-local", "subnet": "10.1.0.0/16"});
    config
}

#[test]
fn the_delegates_addresses_are_used_and_it_reads_all_of_the_configuration() {
    let script = Script::new();
    let daemon = Daemon::start(vec![("POST /v1/endpoints", 200, attachment("c1"))]);
    let reply = script.call("ADD", &delegating(&daemon));
    assert!(reply.success, "{}", reply.value);
    let asked = &daemon.asked()[0];
    let address = r#""addresses":[{"address":"10.1.0.7/16","gateway":"10.1.0.1"}]"#;
    assert!(asked.contains(address), "{asked}");
    let route = r#""routes":[{"dst":"0.0.0.0/0","gateway":"10.1.0.1"}]"#;
    assert!(asked.contains(route), "{asked}");
    let calls = fs::read_to_string(script.path().join("calls")).unwrap();
    let (environment, input) = calls.split_once('{').unwrap();
    assert_eq!(environment, "ADD c1 eth0 ");
    let input: Value = serde_json::from_str(&format!("{{{input}")).unwrap();
    assert_eq!(input, delegating(&daemon));
}

#[test]
fn a_delegate_that_fails_is_told_to_clean_up_and_keeps_its_code() {
    let script = Script::new();
    script.fail("ADD");
    let daemon = Daemon::start(vec![]);
    let reply = script.call("ADD", &delegating(&daemon));
    assert_eq!(reply.code(), 102);
    assert_eq!(
        reply.value["details"],
        "delegated plugin \"host-local\": no address: the range is full"
    );
    assert_eq!(script.calls(), ["ADD", "DEL"]);
    assert!(daemon.asked().is_empty());
}

#[test]
fn what_the_daemon_refuses_is_given_back_to_the_delegate() {
    let script = Script::new();
    let missing = refusal("not_found", "network shop not found");
    let daemon = Daemon::start(vec![("POST /v1/endpoints", 404, missing)]);
    assert_eq!(script.call("ADD", &delegating(&daemon)).code(), 7);
    assert_eq!(script.calls(), ["ADD", "DEL"]);
}

#[test]
fn every_command_is_passed_on() {
    let script = Script::new();
    let daemon = Daemon::start(vec![
        ("GET /v1/endpoints/c1/eth0", 200, attachment("c1")),
        ("GET /v1/networks/shop/status", 200, network()),
        ("GET /v1/networks/shop", 200, network()),
        ("GET /v1/endpoints", 200, json!([])),
        ("DELETE /v1/endpoints/c1/eth0", 200, Value::Null),
    ]);
    let mut config = delegating(&daemon);
    config["cni.dev/valid-attachments"] = json!([]);
    config["prevResult"] = json!({
        "interfaces": [{"name": "eth0", "sandbox": NETNS}],
        "ips": [{"address": "10.1.0.2/16", "interface": 0}],
    });
    let commands = ["CHECK", "STATUS", "GC", "DEL"];
    for command in commands {
        let reply = script.call(command, &config);
        assert!(reply.success, "{command}: {}", reply.value);
    }
    assert_eq!(script.calls(), commands);
    for command in commands {
        script.fail(command);
    }
    // Its failure is one, and does not keep the daemon from its part.
    let daemon = Daemon::start(vec![
        ("DELETE /v1/endpoints/c1/eth0", 200, Value::Null),
        ("GET /v1/networks/shop/status", 200, network()),
    ]);
    let config = delegating(&daemon);
    assert_eq!(script.call("DEL", &config).code(), 102);
    assert_eq!(script.call("STATUS", &config).code(), 102);
    assert_eq!(daemon.asked().len(), 2);
}

#[test]
fn a_delegate_that_is_missing_or_ourselves_is_refused() {
    let script = Script::new();
    let daemon = Daemon::start(vec![]);
    let details = |plugin: &str| {
        let mut config = delegating(&daemon);
        config["ipam"]["type"] = json!(plugin);
        let reply = script.call("ADD", &config);
        (
            reply.code(),
            reply.value["details"].as_str().unwrap().to_owned(),
        )
    };
    let (code, text) = details("dhcp");
    assert_eq!(code, 4);
    assert!(text.contains("CNI_PATH"), "{text}");
    for plugin in ["../host-local", "hawser-ipam", ""] {
        let (code, text) = details(plugin);
        assert_eq!(code, 7, "{text}");
        assert!(text.contains("ipam.type"), "{text}");
    }
}

/// The configuration of a plugin that delegates to ours.
fn upper(daemon: &Daemon, ipam: &Value) -> Value {
    let mut config =
        json!({"cniVersion": "1.0.0", "name": "pods", "type": "bridge", "bridge": "cni0"});
    config["ipam"] = ipam.clone();
    config["ipam"]["type"] = json!("hawser-ipam");
    config["ipam"]["socket"] = json!(daemon.socket());
    config
}

fn call_ipam(command: &str, config: &Value) -> Reply {
    let plugin = env!("CARGO_BIN_EXE_hawser-cni-ipam");
    run(plugin, Path::new(""), NETNS, command, config)
}

#[test]
fn a_lease_has_no_interfaces_and_makes_its_pool_on_first_use() {
    let missing = refusal("not_found", "network pods not found");
    let daemon = Daemon::start(vec![
        ("POST /v1/endpoints", 404, missing),
        (
            "POST /v1/networks/create",
            200,
            json!({"Id": "a".repeat(64), "Warning": ""}),
        ),
        ("POST /v1/endpoints", 200, attachment("c1")),
    ]);
    let ipam = json!({"subnet": "10.1.0.0/16", "routes": [{"dst": "0.0.0.0/0"}]});
    let reply = call_ipam("ADD", &upper(&daemon, &ipam));
    assert!(reply.success, "{}", reply.value);
    assert_eq!(
        reply.value,
        json!({
            "cniVersion": "1.0.0",
            "ips": [{"address": "10.1.0.2/16", "gateway": "10.1.0.1"}],
            "routes": [{"dst": "0.0.0.0/0"}],
            "dns": {},
        })
    );
    let asked = daemon.asked();
    assert!(asked[0].contains(r#""link":"others""#), "{asked:?}");
    assert!(asked[1].contains(r#""Driver":"pool""#), "{asked:?}");
}

#[test]
fn a_lease_is_checked_and_given_back() {
    let get = "GET /v1/endpoints/c1/eth0";
    let daemon = Daemon::start(vec![
        (get, 200, attachment("c1")),
        (get, 200, attachment("c1")),
        ("DELETE /v1/endpoints/c1/eth0", 200, Value::Null),
    ]);
    let mut config = upper(&daemon, &json!({}));
    config["prevResult"] = json!({"ips": [{"address": "10.1.0.2/16", "interface": 2}]});
    assert!(call_ipam("CHECK", &config).success);
    config["prevResult"]["ips"][0]["address"] = json!("10.1.0.9/16");
    assert_eq!(call_ipam("CHECK", &config).code(), 105);
    assert!(call_ipam("DEL", &config).success);
    let mut misspelt = upper(&daemon, &json!({"subnets": ["10.1.0.0/16"]}));
    assert_eq!(call_ipam("ADD", &misspelt).code(), 2);
    misspelt["ipam"] = json!({"type": "hawser-ipam", "gateway": "10.1.0.1", "socket": "/x"});
    assert_eq!(call_ipam("ADD", &misspelt).code(), 7);
}
