//! Configuration and environment in, request or result out.

mod refusal;

use api::net::Attachment;
use expect_test::{Expect, expect, expect_file};
use serde_json::{Value, json};

use crate::command::{Command, Sandbox};
use crate::config::Config;
use crate::lease::Lease;
use crate::previous::{Own, Previous};
use crate::reply::{HostLink, Parts, result};
use crate::request::{Caller, Given};
use crate::version::Version;
use crate::{check, request};

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
    check_request_given(fields, args, &Given::Nothing, expected);
}

#[track_caller]
fn check_request_given(fields: Value, args: &str, given: &Given, expected: Expect) {
    let caller = Caller {
        owner: "us".to_owned(),
        process: 7,
    };
    let actual = match request::attach(&config(fields), &sandbox(args), given, caller) {
        Ok(request) => {
            assert!(request.exclusive);
            assert_eq!(request.owner.as_deref(), Some("us"));
            assert_eq!(request.runtime, Some(7));
            let mut value = serde_json::to_value(request).unwrap();
            let object = value.as_object_mut().unwrap();
            for key in [
                "container_id",
                "ifname",
                "netns",
                "exclusive",
                "owner",
                "runtime",
            ] {
                object.remove(key);
            }
            if object["link"] == "hawser" {
                object.remove("link");
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
        json!({"name": "shop", "subnets": "10.1.0.0/24"}),
        "",
        expect![[
            r#"network configuration: subnets = "10.1.0.0/24" is not supported; remove it, or correct its name"#
        ]],
    );
    check_request(
        json!({"name": "shop", "runtimeConfig": {"deviceID": "0000:04:00.5"}}),
        "",
        expect![[
            r#"network configuration: runtimeConfig.deviceID = "0000:04:00.5" is not supported; remove the capability from the configuration"#
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

#[test]
fn a_pod_is_known_by_its_name_and_with_its_namespace() {
    check_request(
        json!({"name": "shop", "runtimeConfig": {"aliases": ["www"], "cgroupPath": "/kube/x"}}),
        "IgnoreUnknown=1;K8S_POD_NAMESPACE=prod;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID=c1",
        expect![[r#"{"aliases":["www","web.prod"],"name":"web","network":"shop"}"#]],
    );
}

#[test]
fn limits_come_from_the_runtime_or_else_from_the_configuration() {
    let fixed = json!({"ingressRate": 8000, "ingressBurst": 800});
    check_request(
        json!({"name": "shop", "bandwidth": fixed}),
        "",
        expect![[
            r#"{"bandwidth":{"egress_burst":0,"egress_rate":0,"ingress_burst":800,"ingress_rate":8000},"network":"shop"}"#
        ]],
    );
    check_request(
        json!({"name": "shop", "bandwidth": fixed, "runtimeConfig": {"bandwidth": {"egressRate": 9}}}),
        "",
        expect![[
            r#"{"bandwidth":{"egress_burst":0,"egress_rate":9,"ingress_burst":0,"ingress_rate":0},"network":"shop"}"#
        ]],
    );
    check_request(
        json!({"name": "shop", "bandwidth": fixed, "runtimeConfig": {"bandwidth": {}}}),
        "",
        expect![[r#"{"network":"shop"}"#]],
    );
}

fn lease(reply: Value) -> Given {
    Given::Lease(Lease::parse(reply.to_string().as_bytes()).unwrap())
}

#[test]
fn a_delegates_addresses_and_routes_are_asked_for_as_they_are() {
    let config = json!({"name": "shop", "ipam": {"type": "host-local"},
        "runtimeConfig": {"ipRanges": [], "ips": ["10.9.0.5"]}});
    let current = json!({
        "cniVersion": "1.1.0",
        "ips": [{"address": "10.9.0.5/24", "gateway": "10.9.0.1"}],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "10.8.0.0/16", "gw": "10.9.0.7", "mtu": 1400},
            {"dst": "10.7.0.0/16", "scope": 253}],
        "dns": {"nameservers": ["9.9.9.9"]},
    });
    check_request_given(
        config.clone(),
        "",
        &lease(current),
        expect![[
            r#"{"addresses":[{"address":"10.9.0.5/24","gateway":"10.9.0.1"}],"dns":{"nameservers":["9.9.9.9"],"options":[],"search":[]},"network":"shop","routes":[{"dst":"0.0.0.0/0","gateway":"10.9.0.1"},{"dst":"10.8.0.0/16","gateway":"10.9.0.7","mtu":1400},{"dst":"10.7.0.0/16","gateway":null,"scope":253}]}"#
        ]],
    );
    let oldest = json!({
        "ip4": {"ip": "10.9.0.5/24", "gateway": "10.9.0.1", "routes": [{"dst": "0.0.0.0/0"}]},
        "dns": {},
    });
    check_request_given(
        config,
        "",
        &lease(oldest),
        expect![[
            r#"{"addresses":[{"address":"10.9.0.5/24","gateway":"10.9.0.1"}],"network":"shop","routes":[{"dst":"0.0.0.0/0","gateway":"10.9.0.1"}]}"#
        ]],
    );
    // Programs in Go write null for what is empty.
    check_request_given(
        json!({"name": "shop", "ipam": {"type": "static"}}),
        "",
        &lease(json!({"ips": null, "routes": null})),
        expect![[r#"{"network":"shop"}"#]],
    );
}

#[test]
fn a_network_made_on_first_use_has_the_delegates_subnet() {
    let given = lease(json!({"ips": [{"address": "10.9.0.5/24", "gateway": "10.9.0.1"}]}));
    let config = config(json!({"name": "shop", "driver": "bridge", "ipMasq": false}));
    let create = request::create(&config, &given).unwrap().unwrap();
    expect![[
        r#"{"Driver":"default","Options":null,"Config":[{"Subnet":"10.9.0.0/24","Gateway":"10.9.0.1"}]}"#
    ]]
    .assert_eq(&serde_json::to_string(&create.ipam).unwrap());
    assert_eq!(
        create.options["com.docker.network.bridge.enable_ip_masquerade"],
        "false"
    );
}

#[test]
fn an_earlier_plugins_interface_gets_names_and_ports_and_nothing_else() {
    let own = || {
        Given::Interface(Own {
            mac: "02:00:00:00:00:07".to_owned(),
            addresses: serde_json::from_value(json!([
                {"address": "10.88.0.5/16", "gateway": "10.88.0.1"}
            ]))
            .unwrap(),
        })
    };
    let with = |runtime: Value| json!({"name": "shop", "runtimeConfig": runtime});
    check_request_given(
        with(json!({"portMappings": [{"hostPort": 80, "containerPort": 80}], "aliases": ["www"]})),
        "K8S_POD_NAME=web",
        &own(),
        expect![[
            r#"{"addresses":[{"address":"10.88.0.5/16","gateway":"10.88.0.1"}],"aliases":["www"],"link":"others","name":"web","network":"shop","ports":[{"container_port":80,"count":1,"host_port":80,"protocol":"tcp"}]}"#
        ]],
    );
    check_request_given(
        with(json!({"bandwidth": {"ingressRate": 8}})),
        "",
        &own(),
        expect![
            "network configuration: bandwidth: interface eth0 is an earlier plugin's: configure it there"
        ],
    );
    check_request_given(
        with(json!({"mac": "02:00:00:00:00:09"})),
        "",
        &own(),
        expect![
            "network configuration: mac: interface eth0 is an earlier plugin's: configure it there"
        ],
    );
}

#[track_caller]
fn check_create(fields: Value, expected: Expect) {
    let actual = match request::create(&config(fields), &Given::Nothing) {
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
    for version in Version::SUPPORTED {
        let expected = match version {
            Version::V0_1_0 => expect_file!["../tests/golden/result-0.1.0.json"],
            Version::V0_2_0 => expect_file!["../tests/golden/result-0.2.0.json"],
            Version::V0_3_0 => expect_file!["../tests/golden/result-0.3.0.json"],
            Version::V0_3_1 => expect_file!["../tests/golden/result-0.3.1.json"],
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
fn the_result_of_an_earlier_plugins_interface_is_passed_on() {
    let previous = json!({
        "cniVersion": "1.0.0",
        "interfaces": [{"name": "eth0", "sandbox": "/run/netns/c1"}],
        "ips": [{"address": "10.88.0.5/16", "interface": 0}],
        "dns": {},
        "extra": 1,
    });
    let pass = |previous: &Value| {
        let object = previous.as_object().unwrap().clone();
        let fixed = config(json!({"name": "shop"})).dns;
        crate::reply::passed_on(object, &attachment(), &fixed, Version::V1_0_0)
    };
    let mut expected = previous.clone();
    expected["dns"] = json!({"nameservers": ["127.0.0.11"], "options": ["ndots:0"]});
    assert_eq!(pass(&previous), expected);
    assert_eq!(pass(&expected), expected, "a resolver that is there stays");
}

#[test]
fn check_compares_what_this_plugin_made() {
    let own = render(None, Version::V1_1_0);
    let verdict = |change: fn(&mut Value)| {
        let mut previous: Value = serde_json::from_str(&own).unwrap();
        change(&mut previous);
        let previous = Previous::parse(previous.as_object().unwrap()).unwrap();
        match check::compare(previous.own(&sandbox("")), &sandbox(""), &attachment()) {
            Ok(()) => "as it was".to_owned(),
            Err(error) => error.to_string(),
        }
    };
    type Change = fn(&mut Value);
    let cases: [(Change, Expect); 4] = [
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
    ];
    for (change, expected) in cases {
        expected.assert_eq(&verdict(change));
    }
}
