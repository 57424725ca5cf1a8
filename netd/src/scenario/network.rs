//! What networks are, and which of them go.

use api::ErrorCode;
use api::net::NetworkPrune;

use super::{World, network, refusal, request};

#[test]
fn the_users_of_a_network_are_named_up_to_a_bound() {
    let world = World::new();
    let netd = world.start().unwrap();
    netd.create_network(network(r#"{"Name":"shop"}"#)).unwrap();
    for n in 20..32 {
        world.kernel.add_namespace(&format!("/run/netns/n{n}"), n);
        let container = format!("c{n}");
        netd.attach(request("shop", &container, n)).unwrap();
    }
    let error = netd.remove_network("shop").unwrap_err().to_string();
    assert!(error.contains("c20, c21, "), "{error}");
    assert!(error.contains(", c29 and 2 more: disconnect"), "{error}");
}

#[test]
fn a_prune_selects_by_label_and_age() {
    let world = World::new();
    let netd = world.start().unwrap();
    for json in [
        r#"{"Name":"front","Labels":{"tier":"front"}}"#,
        r#"{"Name":"back","Labels":{"tier":"back","keep":""}}"#,
        r#"{"Name":"plain"}"#,
    ] {
        netd.create_network(network(json)).unwrap();
    }
    let prune = |json: &str| {
        let which: NetworkPrune = serde_json::from_str(json).unwrap();
        netd.prune_networks(&which)
    };
    assert!(prune(r#"{"until":"yesterday"}"#).is_err());
    assert_eq!(
        prune(r#"{"until":"2000-01-01T00:00:00Z"}"#).unwrap(),
        [""; 0]
    );
    assert_eq!(prune(r#"{"labels":["tier=front"]}"#).unwrap(), ["front"]);
    assert_eq!(prune(r#"{"not_labels":["keep"]}"#).unwrap(), ["plain"]);
    assert_eq!(
        prune(r#"{"until":"2100-01-01T00:00:00Z"}"#).unwrap(),
        ["back"]
    );
}

#[test]
fn ipv4_is_optional_where_there_is_ipv6() {
    let world = World::new();
    let netd = world.start().unwrap();
    let refused = |json: &str, part: &str| {
        let error = netd.create_network(network(json)).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    };
    refused(
        r#"{"Name":"six","EnableIPv4":false}"#,
        "neither IPv4 nor IPv6",
    );
    refused(
        r#"{"Name":"six","EnableIPv4":false,"EnableIPv6":true,
            "IPAM":{"Config":[{"Subnet":"10.0.0.0/24"}]}}"#,
        "subnet 10.0.0.0/24 is given, but IPv4 is disabled",
    );
    for off in [
        r#""EnableIPv6":false"#,
        r#""Options":{"com.docker.network.enable_ipv6":"false"}"#,
    ] {
        let subnet = r#"{"Subnet":"fd00:9::/64"}"#;
        refused(
            &format!(r#"{{"Name":"four",{off},"IPAM":{{"Config":[{subnet}]}}}}"#),
            "subnet fd00:9::/64 is given, but IPv6 is disabled",
        );
    }
    netd.create_network(network(
        r#"{"Name":"six","EnableIPv4":false,"EnableIPv6":true}"#,
    ))
    .unwrap();
    let listed = netd.network("six").unwrap();
    assert!(!listed.enable_ipv4 && listed.enable_ipv6);
    assert_eq!(listed.ipam.config.len(), 1);
    let attached = netd.attach(request("six", "web", 10)).unwrap();
    assert!(
        attached
            .addresses
            .iter()
            .all(|a| a.address.addr().is_ipv6())
    );
    let options = r#"{"Name":"opt","Options":{"com.docker.network.enable_ipv4":"false",
        "com.docker.network.enable_ipv6":"true"}}"#;
    netd.create_network(network(options)).unwrap();
    assert!(!netd.network("opt").unwrap().enable_ipv4);
    let mut v4 = request("six", "db", 11);
    v4.ipv4 = "10.0.0.9".parse().ok();
    let (_, message) = refusal(netd.attach(v4));
    assert!(message.contains("no IPv4 subnet"), "{message}");
}

#[test]
fn subnets_that_cannot_be_are_refused_and_nothing_is_left() {
    let world = World::new();
    let netd = world.start().unwrap();
    netd.create_network(network(
        r#"{"Name":"shop","IPAM":{"Config":[{"Subnet":"10.5.0.0/16"}]},
            "Options":{"com.docker.network.bridge.name":"lan0"}}"#,
    ))
    .unwrap();
    let before = world.kernel.snapshot();
    let names = || -> Vec<String> {
        let networks = netd.networks();
        networks.into_iter().map(|n| n.name.to_string()).collect()
    };
    let known = names();
    for (config, part) in [
        (r#"{"Subnet":"10.9.0.0/32"}"#, "10.9.0.0/32 is too small"),
        (r#"{"Subnet":"fd00:9::/128"}"#, "fd00:9::/128 is too small"),
        (r#"{"Subnet":"10.9.0.1/24"}"#, "did you mean 10.9.0.0/24?"),
        (r#"{"Subnet":"0.1.0.0/16"}"#, "it is the unspecified range"),
        (r#"{"Subnet":"127.9.0.0/16"}"#, "it is loopback"),
        (r#"{"Subnet":"230.0.0.0/24"}"#, "it is multicast"),
        (r#"{"Subnet":"240.0.0.0/24"}"#, "it is reserved"),
        (r#"{"Subnet":"::/64"}"#, "it is the unspecified range"),
        (r#"{"Subnet":"fe80:0:0:9::/64"}"#, "it is link-local"),
        (r#"{"Subnet":"ff02::/64"}"#, "it is multicast"),
        (r#"{"Subnet":"::ffff:10.0.0.0/112"}"#, "it is IPv4 in IPv6"),
        (r#"{"Subnet":"10.0.0.0/7"}"#, "it is shorter than /8"),
        (
            r#"{"Subnet":"10.5.3.0/24"}"#,
            "10.5.3.0/24 overlaps network shop (10.5.0.0/16)",
        ),
        (
            r#"{"Subnet":"10.9.0.0/24"},{"Subnet":"10.9.0.0/24"}"#,
            "10.9.0.0/24 overlaps network bad",
        ),
        (
            r#"{"Subnet":"10.9.0.0/24","Gateway":"10.8.0.1"}"#,
            "--gateway 10.8.0.1 is not in subnet 10.9.0.0/24",
        ),
        (
            r#"{"Subnet":"10.9.0.0/24","Gateway":"10.9.0.0"}"#,
            "--gateway 10.9.0.0 is the network address",
        ),
        (
            r#"{"Subnet":"10.9.0.0/24","IPRange":"10.8.0.0/25"}"#,
            "--ip-range 10.8.0.0/25 is not in subnet 10.9.0.0/24",
        ),
        (
            r#"{"Subnet":"10.9.0.0/30","AuxiliaryAddresses":{"a":"10.9.0.2"}}"#,
            "no address of 10.9.0.0/30 is left for a container",
        ),
        (
            r#"{"Subnet":"10.9.0.0/24","IPRange":"10.9.0.8/31",
                "AuxiliaryAddresses":{"a":"10.9.0.8","b":"10.9.0.9"}}"#,
            "no address of 10.9.0.8/31 is left",
        ),
    ] {
        let create = format!(r#"{{"Name":"bad","IPAM":{{"Config":[{config}]}}}}"#);
        let (_, message) = refusal(netd.create_network(network(&create)));
        assert!(message.contains(part), "{config}: {message}");
        assert!(!message.contains('\n'), "{message}");
        assert_eq!(world.kernel.snapshot(), before, "{config}");
        assert_eq!(names(), known, "{config}");
    }
    let taken = r#"{"Name":"bad","Options":{"com.docker.network.bridge.name":"lan0"}}"#;
    let (code, message) = refusal(netd.create_network(network(taken)));
    assert_eq!(code, ErrorCode::Conflict);
    let expected = "bridge lan0 is that of network shop already: choose another bridge name";
    assert_eq!(message, expected);
    assert_eq!(world.kernel.snapshot(), before);
}

#[test]
fn a_gateway_and_a_container_fit_into_two_addresses() {
    let world = World::new();
    let netd = world.start().unwrap();
    netd.create_network(network(
        r#"{"Name":"pair","IPAM":{"Config":[{"Subnet":"10.9.0.4/31"},{"Subnet":"fd00:9::/127"}]}}"#,
    ))
    .unwrap();
    let attached = netd.attach(request("pair", "web", 10)).unwrap();
    let addresses = attached.addresses.iter().map(|a| a.address.to_string());
    assert_eq!(
        addresses.collect::<Vec<_>>(),
        ["10.9.0.5/31", "fd00:9::1/127"]
    );
    let (code, _) = refusal(netd.attach(request("pair", "db", 11)));
    assert_eq!(code, ErrorCode::Exhausted);
}

#[test]
fn networks_are_found_by_name_id_and_prefix() {
    let world = World::new();
    let netd = world.start().unwrap();
    // More networks than hexadecimal digits: two ids begin with the same one.
    for n in 0..14 {
        let subnet = format!(r#"{{"Subnet":"10.9.{n}.0/24"}}"#);
        let json = format!(r#"{{"Name":"n{n}","IPAM":{{"Config":[{subnet}]}}}}"#);
        netd.create_network(network(&json)).unwrap();
    }
    let mut networks = netd.networks();
    networks.sort_by(|a, b| a.id.cmp(&b.id));
    let beginning = |digit: &str| -> Vec<&api::net::Network> {
        let all = networks.iter();
        all.filter(|n| n.id.as_str().starts_with(digit)).collect()
    };
    let digits: Vec<String> = (0..16).map(|digit| format!("{digit:x}")).collect();
    let shared = digits.iter().find(|digit| beginning(digit).len() > 1);
    let shared = shared.expect("17 ids, 16 digits");
    let (_, message) = refusal(netd.network(shared));
    assert!(
        message.starts_with(&format!("network {shared} is ambiguous: the ids of ")),
        "{message}"
    );
    for network in beginning(shared).into_iter().take(4) {
        let shown = format!("{} ({})", network.name, network.id.short());
        assert!(message.contains(&shown), "{shown} is not in {message}");
    }
    for network in &networks {
        assert_eq!(netd.network(network.id.as_str()).unwrap().id, network.id);
        assert_eq!(netd.network(network.id.short()).unwrap().id, network.id);
    }
    // A name goes first, also one that is the beginning of ids.
    let subnet = r#"{"Subnet":"10.9.99.0/24"}"#;
    netd.create_network(network(&format!(
        r#"{{"Name":"{shared}","IPAM":{{"Config":[{subnet}]}}}}"#
    )))
    .unwrap();
    assert_eq!(netd.network(shared).unwrap().name.as_str(), shared);
}

#[test]
fn ports_are_published_on_the_networks_address_of_the_host() {
    let world = World::new();
    let netd = world.start().unwrap();
    let options = r#"{"Name":"shop",
        "Options":{"com.docker.network.bridge.host_binding_ipv4":"127.0.0.1"}}"#;
    netd.create_network(network(options)).unwrap();
    let own = netd.attach(request("shop", "web", 10)).unwrap();
    assert_eq!(own.ports[0].host_ip, "127.0.0.1".parse().ok());
    let mut named = request("shop", "db", 11);
    named.ports[0].host_ip = "192.0.2.10".parse().ok();
    let named = netd.attach(named).unwrap();
    assert_eq!(named.ports[0].host_ip, "192.0.2.10".parse().ok());
}
