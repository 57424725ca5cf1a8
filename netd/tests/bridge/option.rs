//! MTU, address families and subnets of bridge networks.

use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use crate::tests::{HOST4, HOST6, OUTSIDE4, OUTSIDE6, any4, any6};
use crate::traffic::{is_refused, seen_by, serve};
use crate::world::{Sandbox, World, address, ip, soon};

/// The daemon looks at everything twice a minute; what it heard of it follows at once. A machine
/// with more to do than it can is late, but not that late.
const BEFORE_THE_TICK: Duration = Duration::from_secs(10);

fn mtu(link: &str) -> u32 {
    let shown = ip(&format!("-oneline link show {link}"));
    let mut words = shown.split_ascii_whitespace();
    words.find(|word| *word == "mtu").unwrap();
    words.next().unwrap().parse().unwrap()
}

#[test]
fn links_follow_the_underlays_mtu() {
    let world = World::new("mtu");
    ip("route add default via 192.0.2.7");
    world.netd().reconcile().unwrap();
    world.follow();
    world.create(r#"{"Name":"shop"}"#);
    world.create(r#"{"Name":"fixed","Options":{"com.docker.network.driver.mtu":"1450"}}"#);
    world.create(r#"{"Name":"own","Driver":"macvlan","Options":{"parent":"eth0"}}"#);
    let names = ["shop", "fixed", "own"];
    let sandboxes = names.map(Sandbox::new);
    let attached: Vec<_> = sandboxes
        .iter()
        .zip(names)
        .map(|(s, n)| s.attach(&world, n))
        .collect();
    assert_eq!(
        [0, 1, 2].map(|n: usize| attached[n].mtu),
        [1500, 1450, 1500]
    );
    let everywhere = |n: usize| {
        let mut mtus = vec![sandboxes[n].run(|| mtu("eth0"))];
        if let Some(host) = &attached[n].host_ifname {
            let bridge = format!("br-{}", attached[n].network_id.short());
            mtus.extend([mtu(host.as_str()), mtu(&bridge)]);
        }
        mtus.dedup();
        mtus
    };
    for bytes in [1400, 1500] {
        ip(&format!("link set eth0 mtu {bytes}"));
        soon("all links follow", || {
            everywhere(0) == [bytes] && everywhere(2) == [bytes]
        });
        assert_eq!(everywhere(1), [1450], "as it was asked for");
        soon("and the records", || {
            let endpoints = world.netd().endpoints(None);
            let mtus = endpoints.iter().map(|e| (e.network.as_str(), e.mtu));
            mtus.into_iter()
                .all(|(n, mtu)| mtu == if n == "fixed" { 1450 } else { bytes })
        });
    }
    sandboxes[0].run(|| serve(any4(80)));
    seen_by((address(&attached[0], false), 80)).unwrap();
}

/// Long before the next look at everything.
#[test]
fn another_default_route_brings_its_links_mtu() {
    let world = World::new("route");
    let peer = world.outside.as_fd().as_raw_fd();
    let peer = format!("/proc/{}/fd/{peer}", std::process::id());
    ip(&format!(
        "link add vpn0 mtu 1380 type veth peer name vpn0 netns {peer}"
    ));
    ip("address add 198.51.100.1/24 dev vpn0");
    ip("link set vpn0 up");
    ip("route add default via 192.0.2.7 metric 100");
    world.netd().reconcile().unwrap();
    world.follow();
    world.create(r#"{"Name":"shop"}"#);
    let web = Sandbox::new("web");
    let attached = web.attach(&world, "shop");
    assert_eq!(attached.mtu, 1500);
    let follows = |what: &str, bytes| {
        let start = Instant::now();
        soon(what, || web.run(|| mtu("eth0")) == bytes);
        assert!(
            start.elapsed() < BEFORE_THE_TICK,
            "{what}: {:?}",
            start.elapsed()
        );
    };
    ip("route add default dev vpn0 metric 50");
    follows("a better default route", 1380);
    ip("route delete default dev vpn0");
    follows("the one before", 1500);
    ip("route add default dev vpn0 metric 50");
    follows("the better one again", 1380);
    // Its route goes without a word.
    ip("link set vpn0 down");
    follows("a link that is down carries nothing", 1500);
}

#[test]
fn a_network_of_ipv6_alone_carries_traffic_names_and_ports() {
    let world = World::new("six");
    world.create(
        r#"{"Name":"six","EnableIPv4":false,"EnableIPv6":true,
            "IPAM":{"Config":[{"Subnet":"fd00:6::/112"}]}}"#,
    );
    let (web, db) = (Sandbox::new("web"), Sandbox::new("db"));
    let ports = r#"[{"protocol":"tcp","container_port":80,"host_port":8080}]"#;
    let web_at = web.publish(&world, "six", ports);
    let db_at = db.attach(&world, "six");
    web.run(|| serve(any6(80)));
    let seen = db.run(|| seen_by((address(&web_at, true), 80))).unwrap();
    assert_eq!(seen, address(&db_at, true));
    let inside = web.run(|| ip("-4 -oneline address show dev eth0"));
    assert_eq!(inside, "", "no IPv4");
    let bridge = format!("br-{}", web_at.network_id.short());
    assert_eq!(ip(&format!("-4 -oneline address show dev {bridge}")), "");
    world.outside(|| {
        serve(any6(80));
        assert_eq!(seen_by((HOST6, 8080)).unwrap(), OUTSIDE6);
        assert!(is_refused((HOST4, 8080)), "nothing behind it speaks IPv4");
    });
    assert_eq!(
        web.run(|| seen_by((OUTSIDE6, 80))).unwrap(),
        HOST6,
        "masqueraded"
    );
}

#[test]
fn an_address_picks_one_of_several_subnets() {
    let world = World::new("subnets");
    world.create(
        r#"{"Name":"wide","EnableIPv6":true,"IPAM":{"Config":[
            {"Subnet":"10.1.0.0/24","IPRange":"10.1.0.128/25","Gateway":"10.1.0.254",
             "AuxiliaryAddresses":{"printer":"10.1.0.128"}},
            {"Subnet":"10.2.0.0/16"},
            {"Subnet":"fd00:1::/80"},{"Subnet":"fd00:2::/126"}]}}"#,
    );
    let (first, second) = (Sandbox::new("first"), Sandbox::new("second"));
    let first_at = first.attach(&world, "wide");
    let mut request = second.request("wide");
    request.ipv4 = "10.2.3.4".parse().ok();
    request.ipv6 = "fd00:2::3".parse().ok();
    let second_at = world.netd().attach(request).unwrap();
    let addresses = |at: &api::net::Attachment| -> Vec<String> {
        let addresses = at.addresses.iter();
        addresses
            .map(|a| format!("{} via {}", a.address, a.gateway.unwrap()))
            .collect()
    };
    assert_eq!(
        addresses(&first_at),
        ["10.1.0.129/24 via 10.1.0.254", "fd00:1::2/80 via fd00:1::1"],
        "the auxiliary address is passed over"
    );
    let expected = ["10.2.3.4/16 via 10.2.0.1", "fd00:2::3/126 via fd00:2::1"];
    assert_eq!(addresses(&second_at), expected);
    world.outside(|| serve(any6(80)));
    for sandbox in [&first, &second] {
        assert_eq!(
            sandbox
                .run(|| seen_by((OUTSIDE4, 80)))
                .unwrap()
                .to_canonical(),
            HOST4
        );
        assert_eq!(sandbox.run(|| seen_by((OUTSIDE6, 80))).unwrap(), HOST6);
    }
    second.run(|| serve(any4(80)));
    let seen = first
        .run(|| seen_by((address(&second_at, false), 80)))
        .unwrap();
    assert_eq!(
        seen,
        address(&first_at, false),
        "across the subnets of one network"
    );
}
