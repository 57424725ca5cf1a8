//! What networks are, and which of them go.

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
