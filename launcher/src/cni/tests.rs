use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;

use super::*;

fn sandbox() -> Sandbox<'static> {
    Sandbox {
        container_id: "c1",
        container_name: "web",
        netns: Path::new("/proc/7/ns/net"),
        ifname: "eth0",
    }
}

/// A plugin directory with one script a plugin.
fn plugins(scripts: &[(&str, &str)]) -> (tempfile::TempDir, Cni) {
    let dir = tempfile::tempdir().unwrap();
    for (name, script) in scripts {
        let path = dir.path().join(name);
        fs::write(
            &path,
            format!("#!/bin/sh\nhere={}\n{script}\n", dir.path().display()),
        )
        .unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let cni = Cni::new(dir.path());
    (dir, cni)
}

fn list(types: &[&str]) -> ConfList {
    let plugins = types
        .iter()
        .map(|name| {
            let plugin = json!({"type": name, "capabilities": {"mac": true, "ips": false}});
            plugin.as_object().unwrap().clone()
        })
        .collect();
    ConfList {
        cni_version: "1.0.0".to_owned(),
        name: "net1".to_owned(),
        plugins,
    }
}

const RECORD: &str = "echo \"$CNI_COMMAND $CNI_CONTAINERID $CNI_NETNS $CNI_IFNAME $CNI_ARGS\" \
                      >> $here/log; cat >> $here/log; echo >> $here/log";

#[test]
fn plugins_are_chained_and_deleted_in_reverse() {
    let one = format!("{RECORD}\necho '{{\"ips\":[1]}}'");
    let two = format!("{RECORD}\necho '{{\"ips\":[2]}}'");
    let (dir, cni) = plugins(&[("one", &one), ("two", &two)]);
    let runtime = RuntimeConfig {
        mac: Some("02:00:00:00:00:01".to_owned()),
        ips: vec![IpAddr::from([10, 0, 0, 1])],
        ..RuntimeConfig::default()
    };
    let list = list(&["one", "two"]);
    let result = cni.add(&list, sandbox(), &runtime).unwrap();
    assert_eq!(result, json!({"ips": [2]}));
    cni.del(&list, sandbox(), &RuntimeConfig::default(), Some(&result))
        .unwrap();
    let environment = "c1 /proc/7/ns/net eth0 IgnoreUnknown=1;K8S_POD_NAME=web";
    let mac = r#""runtimeConfig":{"mac":"02:00:00:00:00:01"}"#;
    let log = fs::read_to_string(dir.path().join("log")).unwrap();
    let expected = format!(
        r#"ADD {environment}
{{"cniVersion":"1.0.0","name":"net1",{mac},"type":"one"}}
ADD {environment}
{{"cniVersion":"1.0.0","name":"net1","prevResult":{{"ips":[1]}},{mac},"type":"two"}}
DEL {environment}
{{"cniVersion":"1.0.0","name":"net1","prevResult":{{"ips":[2]}},"type":"two"}}
DEL {environment}
{{"cniVersion":"1.0.0","name":"net1","prevResult":{{"ips":[2]}},"type":"one"}}
"#
    );
    assert_eq!(log, expected);
}

#[test]
fn a_failed_add_is_undone_and_keeps_the_plugins_words() {
    let bad = "[ $CNI_COMMAND = DEL ] && { touch $here/deleted; exit 0; }\n\
               echo '{\"code\":7,\"msg\":\"no network x\",\"details\":\"create it\"}'; exit 1";
    let (dir, cni) = plugins(&[("bad", bad)]);
    let error = cni
        .add(&list(&["bad"]), sandbox(), &RuntimeConfig::default())
        .unwrap_err();
    assert_eq!(error.to_string(), "network net1: no network x: create it");
    assert!(matches!(error, CniError::Refused { code: 7, .. }));
    assert!(dir.path().join("deleted").exists());
}

#[test]
fn a_missing_or_babbling_plugin_is_named() {
    let (_dir, cni) = plugins(&[("babble", "echo hi; echo oops >&2; exit 3")]);
    let message = |name: &str| {
        let list = list(&[name]);
        cni.add(&list, sandbox(), &RuntimeConfig::default())
            .unwrap_err()
            .to_string()
    };
    assert!(
        message("none").contains("\"none\" is not in"),
        "{}",
        message("none")
    );
    assert!(message("babble").ends_with("oops"), "{}", message("babble"));
    assert!(message("../babble").contains("no valid \"type\""));
}

#[test]
fn a_refusal_names_the_network_once() {
    for (message, said) in [
        ("no address is left", "network shop: no address is left"),
        (
            "network shop is not manually attachable",
            "network shop is not manually attachable",
        ),
        ("network bank is away", "network shop: network bank is away"),
    ] {
        assert_eq!(about("shop", message), said);
    }
}
