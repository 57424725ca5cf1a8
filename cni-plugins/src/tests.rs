//! Configuration and environment in, request or result out.

use api::net::Attachment;
use expect_test::{Expect, expect, expect_file};
use serde_json::{Value, json};

use crate::command::{Command, Sandbox};
use crate::config::Config;
use crate::reply::{HostLink, Parts, result};
use crate::version::Version;
use crate::{check, request, run};

const ENVIRONMENT: [(&str, &str); 4] = [
    ("CNI_COMMAND", "ADD"),
    ("CNI_CONTAINERID", "c1"),
    ("CNI_NETNS", "/run/netns/c1"),
    ("CNI_IFNAME", "eth0"),
];

fn sandbox(args: &str) -> Sandbox {
    let lookup = |name: &str| match name {
        "CNI_ARGS" => Some(args.to_owned()),
        _ => ENVIRONMENT
            .iter()
            .find(|(key, _)| *key == name)
            .map(|(_, value)| (*value).to_owned()),
    };
    match Command::parse(&lookup) {
        Ok(Command::Add(sandbox)) => sandbox,
        other => panic!("{other:?}"),
    }
}

fn config(mut fields: Value) -> Config {
    fields["cniVersion"] = json!("1.1.0");
    fields["type"] = json!("hawser");
    serde_json::from_value(fields).unwrap()
}

/// The request for `fields`, without what is the same in every request.
#[track_caller]
fn check_request(fields: Value, args: &str, expected: Expect) {
    let actual = match request::attach(&config(fields), &sandbox(args)) {
        Ok(request) => {
            let mut value = serde_json::to_value(request).unwrap();
            let object = value.as_object_mut().unwrap();
            for key in ["container_id", "ifname", "netns"] {
                object.remove(key);
            }
            object.retain(|_, value| !value.is_null() && *value != json!([]));
            if object["dns"] == json!({"nameservers": [], "search": [], "options": []}) {
                object.remove("dns");
            }
            value.to_string()
        }
        Err(error) => error.to_string(),
    };
    expected.assert_eq(&actual);
}

#[test]
fn the_network_is_the_configurations_name_unless_given() {
    check_request(
        json!({"name": "shop"}),
        "",
        expect![[r#"{"network":"shop"}"#]],
    );
    check_request(
        json!({"name": "cbr0", "network": "shop", "ipam": {}, "cni.dev/x": 1, "prevResult": {}}),
        "",
        expect![[r#"{"network":"shop"}"#]],
    );
}

#[test]
fn keys_that_would_not_be_honoured_are_refused_by_name() {
    check_request(
        json!({"name": "shop", "ipam": {"type": "host-local"}}),
        "",
        expect![[
            r#"network configuration: ipam = {"type":"host-local"} is not supported; the daemon assigns addresses: use "subnet", "ipRange" and "gateway""#
        ]],
    );
    check_request(
        json!({"name": "shop", "subnets": "10.1.0.0/24"}),
        "",
        expect![[
            r#"network configuration: subnets = "10.1.0.0/24" is not supported; remove it, or correct its name"#
        ]],
    );
    check_request(
        json!({"name": "shop", "runtimeConfig": {"bandwidth": {"ingressRate": 1}}}),
        "",
        expect![[
            r#"network configuration: runtimeConfig.bandwidth = {"ingressRate":1} is not supported; remove the capability from the configuration"#
        ]],
    );
}

#[test]
fn consecutive_ports_become_one_range() {
    let port = |host: u16, container: u16, protocol: &str| json!({"hostPort": host, "containerPort": container, "protocol": protocol});
    check_request(
        json!({"name": "shop", "runtimeConfig": {"portMappings": [
            port(8000, 80, "tcp"), port(8001, 81, "TCP"), port(8002, 82, "tcp"),
            port(8003, 83, "udp"),
            {"hostPort": 8004, "containerPort": 84, "protocol": "udp", "hostIP": "127.0.0.1"},
            port(0, 90, "tcp"), port(1, 91, "tcp"),
        ]}}),
        "",
        expect![[
            r#"{"network":"shop","ports":[{"container_port":80,"count":3,"host_port":8000,"protocol":"tcp"},{"container_port":83,"count":1,"host_port":8003,"protocol":"udp"},{"container_port":84,"count":1,"host_ip":"127.0.0.1","host_port":8004,"protocol":"udp"},{"container_port":90,"count":1,"host_port":0,"protocol":"tcp"},{"container_port":91,"count":1,"host_port":1,"protocol":"tcp"}]}"#
        ]],
    );
    check_request(
        json!({"name": "shop", "runtimeConfig": {"portMappings": [port(1, 0, "tcp")]}}),
        "",
        expect!["network configuration: runtimeConfig.portMappings: containerPort 0 is not a port"],
    );
}

#[test]
fn the_whole_range_of_ports_is_one_binding() {
    let mappings = (1..=u16::MAX)
        .map(|port| json!({"hostPort": port, "containerPort": port}))
        .collect::<Vec<_>>();
    check_request(
        json!({"name": "shop", "runtimeConfig": {"portMappings": mappings}}),
        "",
        expect![[
            r#"{"network":"shop","ports":[{"container_port":1,"count":65535,"host_port":1,"protocol":"tcp"}]}"#
        ]],
    );
}

#[test]
fn addresses_come_from_the_most_specific_source() {
    let everywhere = json!({
        "name": "shop",
        "runtimeConfig": {"ips": ["10.0.0.9/24", "fd00::9"], "mac": "02:00:00:00:00:09"},
        "args": {"cni": {"ips": ["10.0.0.8"], "mac": "02:00:00:00:00:08", "labels": []}},
    });
    let args = "IgnoreUnknown=1;IP=10.0.0.7;MAC=02:00:00:00:00:07;FOO=bar;K8S_POD_NAME=web";
    check_request(
        everywhere.clone(),
        args,
        expect![[
            r#"{"ipv4":"10.0.0.9","ipv6":"fd00::9","mac":"02:00:00:00:00:09","name":"web","network":"shop"}"#
        ]],
    );
    let mut without_runtime = everywhere;
    without_runtime["runtimeConfig"] = json!({});
    check_request(
        without_runtime,
        args,
        expect![[r#"{"ipv4":"10.0.0.8","mac":"02:00:00:00:00:08","name":"web","network":"shop"}"#]],
    );
    check_request(
        json!({"name": "shop"}),
        args,
        expect![[r#"{"ipv4":"10.0.0.7","mac":"02:00:00:00:00:07","name":"web","network":"shop"}"#]],
    );
    check_request(
        json!({"name": "shop", "runtimeConfig": {"ips": ["10.0.0.1", "10.0.0.2"]}}),
        "",
        expect![
            "network configuration: ips: 10.0.0.1 and 10.0.0.2: one address of a family at most"
        ],
    );
    check_request(
        json!({"name": "shop", "runtimeConfig": {"mac": "01:00:5e:00:00:01"}}),
        "",
        expect![[
            r#"network configuration: mac: invalid MAC address "01:00:5e:00:00:01": expected six hexadecimal octets, not a group address"#
        ]],
    );
}

#[test]
fn aliases_come_as_a_list_or_by_network() {
    for aliases in [
        json!(["www", "w"]),
        json!({"cbr0": ["www", "w"], "other": ["x"]}),
        json!({"shop": ["www", "w"]}),
    ] {
        check_request(
            json!({"name": "cbr0", "network": "shop", "runtimeConfig": {"aliases": aliases}}),
            "",
            expect![[r#"{"aliases":["www","w"],"network":"shop"}"#]],
        );
    }
}

#[test]
fn the_runtimes_resolver_settings_go_before_the_networks() {
    let fixed = json!({"nameservers": ["9.9.9.9"], "domain": "corp", "options": ["ndots:2"]});
    check_request(
        json!({"name": "shop", "dns": fixed, "runtimeConfig": {"dns": {"servers": ["1.1.1.1"]}}}),
        "",
        expect![[
            r#"{"dns":{"nameservers":["1.1.1.1"],"options":["ndots:2"],"search":["corp"]},"network":"shop"}"#
        ]],
    );
}

#[track_caller]
fn check_create(fields: Value, expected: Expect) {
    let actual = match request::create(&config(fields)) {
        Ok(create) => serde_json::to_string(&create).unwrap(),
        Err(error) => error.to_string(),
    };
    expected.assert_eq(&actual);
}

#[test]
fn a_driver_makes_the_network_on_first_use() {
    check_create(json!({"name": "shop"}), expect!["null"]);
    check_create(
        json!({
            "name": "shop", "driver": "bridge", "subnet": ["10.1.0.0/16", "fd01::/64"],
            "ipRange": "10.1.2.0/24", "gateway": ["fd01::1", "10.1.0.1"], "mtu": 1400,
            "internal": true, "options": {"com.docker.network.bridge.enable_icc": "false"},
        }),
        expect![[
            r#"{"Name":"shop","Driver":"bridge","EnableIPv6":true,"IPAM":{"Driver":"default","Options":null,"Config":[{"Subnet":"10.1.0.0/16","IPRange":"10.1.2.0/24","Gateway":"10.1.0.1"},{"Subnet":"fd01::/64","Gateway":"fd01::1"}]},"Internal":true,"Attachable":false,"Options":{"com.docker.network.bridge.enable_icc":"false","com.docker.network.driver.mtu":"1400"},"Labels":{}}"#
        ]],
    );
    check_create(
        json!({"name": "shop", "subnet": "10.1.0.0/16"}),
        expect![[
            r#"network configuration: subnet: only a configuration with "driver" makes a network"#
        ]],
    );
    check_create(
        json!({"name": "shop", "driver": "bridge", "gateway": "10.2.0.1"}),
        expect![[r#"network configuration: gateway: 10.2.0.1 is in no "subnet""#]],
    );
}

fn attachment() -> Attachment {
    serde_json::from_value(json!({
        "network": "shop", "network_id": "a".repeat(64), "endpoint_id": "b".repeat(64),
        "container_id": "c1", "ifname": "eth0", "netns": "/run/netns/c1",
        "host_ifname": "veth12", "mac": "02:42:0a:01:00:02", "mtu": 1500,
        "addresses": [
            {"address": "10.1.0.2/16", "gateway": "10.1.0.1"},
            {"address": "fd01::2/64", "gateway": null},
        ],
        "routes": [{"dst": "0.0.0.0/0", "gateway": "10.1.0.1"}, {"dst": "10.9.0.0/16", "gateway": null}],
        "name": "web", "aliases": [], "ports": [],
        "dns": {"nameservers": ["127.0.0.11"], "search": [], "options": ["ndots:0"]},
    }))
    .unwrap()
}

/// The result for [`attachment`], readable.
fn render(previous: Option<Value>, version: Version) -> String {
    let link = |name: &str, mac: Option<&str>| HostLink {
        name: name.to_owned(),
        mac: mac.map(str::to_owned),
    };
    let parts = Parts {
        attachment: &attachment(),
        host_links: &[
            link("br-aaaa", Some("02:42:00:00:00:01")),
            link("veth12", None),
        ],
        dns: &config(json!({"name": "shop", "dns": {"domain": "corp"}})).dns,
        previous: previous.and_then(|value| value.as_object().cloned()),
    };
    let mut text = serde_json::to_string_pretty(&result(parts, version)).unwrap();
    text.push('\n');
    text
}

#[test]
fn results_have_the_shape_of_the_version_asked_for() {
    for version in [Version::V0_4_0, Version::V1_0_0, Version::V1_1_0] {
        let expected = match version {
            Version::V0_4_0 => expect_file!["../tests/golden/result-0.4.0.json"],
            Version::V1_0_0 => expect_file!["../tests/golden/result-1.0.0.json"],
            Version::V1_1_0 => expect_file!["../tests/golden/result-1.1.0.json"],
        };
        expected.assert_eq(&render(None, version));
    }
}

#[test]
fn a_previous_result_is_passed_on_with_ours_behind_it() {
    let previous = json!({
        "cniVersion": "1.1.0",
        "interfaces": [{"name": "other0", "sandbox": "/run/netns/c1", "pciID": "0000:00:01.0"}],
        "ips": [{"address": "192.0.2.1/24", "interface": 0}],
        "routes": null,
        "extra": {"kept": true},
    });
    expect_file!["../tests/golden/result-chained.json"]
        .assert_eq(&render(Some(previous), Version::V1_1_0));
}

#[test]
fn check_compares_what_this_plugin_made() {
    let own = render(None, Version::V1_1_0);
    let verdict = |change: fn(&mut Value)| {
        let mut previous: Value = serde_json::from_str(&own).unwrap();
        change(&mut previous);
        let previous = previous.as_object().cloned();
        match check::compare(previous, &sandbox(""), &attachment()) {
            Ok(()) => "as it was".to_owned(),
            Err(error) => error.to_string(),
        }
    };
    type Change = fn(&mut Value);
    let cases: [(Change, Expect); 5] = [
        (|_| (), expect!["as it was"]),
        (
            // A later plugin of the chain added an interface and an address.
            |previous| {
                previous["interfaces"]
                    .as_array_mut()
                    .unwrap()
                    .push(json!({"name": "tun0"}));
                previous["ips"]
                    .as_array_mut()
                    .unwrap()
                    .push(json!({"address": "10.7.0.1/32", "interface": 3}));
            },
            expect!["as it was"],
        ),
        (
            |previous| previous["ips"][0]["address"] = json!("10.1.0.3/16"),
            expect![
                "interface eth0 of container c1 had address 10.1.0.3/16, it now has 10.1.0.2/16, fd01::2/64"
            ],
        ),
        (
            |previous| previous["interfaces"] = json!([]),
            expect!["interface eth0 of container c1 is not in prevResult"],
        ),
        (
            |previous| *previous = Value::Null,
            expect!["network configuration: prevResult: CHECK needs it"],
        ),
    ];
    for (change, expected) in cases {
        expected.assert_eq(&verdict(change));
    }
}

/// A call that fails before the daemon is asked.
#[track_caller]
fn check_refusal(environment: &[(&str, &str)], input: &str, expected: Expect) {
    let lookup = |name: &str| {
        let found = environment.iter().find(|(key, _)| *key == name);
        found.map(|(_, value)| (*value).to_owned())
    };
    let outcome = run(&lookup, &mut input.as_bytes());
    assert!(!outcome.success);
    expected.assert_eq(&outcome.reply);
}

#[test]
fn refusals_name_what_is_wrong_and_carry_the_specifications_code() {
    let config = r#"{"cniVersion":"1.0.0","name":"shop"}"#;
    check_refusal(
        &[("CNI_COMMAND", "")],
        "",
        expect![[
            r#"{"cniVersion":"1.1.0","code":4,"msg":"invalid environment variables","details":"CNI_COMMAND is not set: this is a CNI plugin, container runtimes run it with a command in CNI_COMMAND and a network configuration on standard input"}"#
        ]],
    );
    check_refusal(
        &[("CNI_COMMAND", "add")],
        config,
        expect![[
            r#"{"cniVersion":"1.1.0","code":4,"msg":"invalid environment variables","details":"CNI_COMMAND=\"add\" is not a command: expected ADD, DEL, CHECK, GC, STATUS or VERSION"}"#
        ]],
    );
    check_refusal(
        &[("CNI_COMMAND", "ADD"), ("CNI_IFNAME", "eth0")],
        config,
        expect![[
            r#"{"cniVersion":"1.1.0","code":4,"msg":"invalid environment variables","details":"ADD needs CNI_CONTAINERID, CNI_NETNS"}"#
        ]],
    );
    check_refusal(
        &[
            ("CNI_COMMAND", "DEL"),
            ("CNI_CONTAINERID", "../x"),
            ("CNI_IFNAME", "eth0"),
        ],
        config,
        expect![[
            r#"{"cniVersion":"1.1.0","code":4,"msg":"invalid environment variables","details":"CNI_CONTAINERID=\"../x\": expected [a-zA-Z0-9][a-zA-Z0-9_.-]*"}"#
        ]],
    );
    check_refusal(
        &[("CNI_COMMAND", "STATUS")],
        config,
        expect![[
            r#"{"cniVersion":"1.0.0","code":1,"msg":"incompatible CNI version","details":"STATUS needs cniVersion 1.1.0, the network configuration says 1.0.0"}"#
        ]],
    );
    check_refusal(
        &ENVIRONMENT,
        r#"{"name":"shop"}"#,
        expect![[
            r#"{"cniVersion":"1.1.0","code":1,"msg":"incompatible CNI version","details":"cniVersion \"\" is not supported: use one of 0.4.0, 1.0.0, 1.1.0"}"#
        ]],
    );
    check_refusal(
        &ENVIRONMENT,
        "{",
        expect![[
            r#"{"cniVersion":"1.1.0","code":6,"msg":"cannot decode content","details":"the network configuration is not valid: EOF while parsing an object at line 1 column 1"}"#
        ]],
    );
    check_refusal(
        &ENVIRONMENT,
        r#"{"cniVersion":"0.4.0"}"#,
        expect![[
            r#"{"cniVersion":"0.4.0","code":7,"msg":"invalid network configuration","details":"network configuration: network: missing, and so is \"name\""}"#
        ]],
    );
    let mut unknown_key = ENVIRONMENT.to_vec();
    unknown_key.push(("CNI_ARGS", "FOO=bar"));
    check_refusal(
        &unknown_key,
        config,
        expect![[
            r#"{"cniVersion":"1.1.0","code":4,"msg":"invalid environment variables","details":"CNI_ARGS=\"FOO=bar\": unknown key \"FOO\"; add IgnoreUnknown=1 to pass it over"}"#
        ]],
    );
}

#[test]
fn version_answers_whatever_is_asked_in() {
    let lookup = |name: &str| (name == "CNI_COMMAND").then(|| "VERSION".to_owned());
    for (input, echoed) in [
        (r#"{"cniVersion":"0.3.1"}"#, "0.3.1"),
        ("", "1.1.0"),
        ("{}", "1.1.0"),
    ] {
        let outcome = run(&lookup, &mut input.as_bytes());
        assert!(outcome.success);
        assert_eq!(
            outcome.reply,
            format!(r#"{{"cniVersion":"{echoed}","supportedVersions":["0.4.0","1.0.0","1.1.0"]}}"#)
        );
    }
}
