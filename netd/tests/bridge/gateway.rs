//! What the host is for a network: `gateway_mode_ipv4`, `gateway_mode_ipv6` and `inhibit_ipv4`.

use api::net::Attachment;

use crate::isolation::{FAMILIES, any6, host, outside, published, route_to};
use crate::traffic::{answers_ping, is_refused, seen_by, seen_by_udp, serve};
use crate::world::{Sandbox, World, address, ip};

/// A network of both families; `more` is further members of the request.
fn create(world: &World, name: &str, modes: [&str; 2], more: &str) {
    let option = |family: u8, mode| {
        format!(r#""com.docker.network.bridge.gateway_mode_ipv{family}":"{mode}""#)
    };
    let (v4, v6) = (option(4, modes[0]), option(6, modes[1]));
    world.create(&format!(
        r#"{{"Name":"{name}","EnableIPv6":true,"Options":{{{v4},{v6}}}{more}}}"#
    ));
}

fn bridge(at: &Attachment) -> String {
    format!("br-{}", at.network_id.short())
}

#[test]
fn a_routed_network_is_reached_at_its_published_ports() {
    let world = World::new("gw-routed");
    create(&world, "lan", ["routed", "routed"], "");
    world.create(r#"{"Name":"back","EnableIPv6":true}"#);
    let (web, at) = published(&world, "lan");
    let other = Sandbox::new("other");
    other.attach(&world, "back");
    route_to(&world, &at);
    world.outside(|| serve(any6(90)));
    for v6 in FAMILIES {
        let own = address(&at, v6);
        world.outside(|| {
            let seen = seen_by((own, 80)).unwrap();
            assert_eq!(seen.to_canonical(), outside(v6), "the client's address");
            assert_eq!(seen_by_udp((own, 53).into()).unwrap(), outside(v6));
            for port in [81, 8080] {
                assert!(is_refused((own, port)), "port {port}, v6 {v6}");
            }
            assert!(is_refused((host(v6), 8080)), "no port of the host, v6 {v6}");
            assert!(answers_ping(own), "v6 {v6}");
        });
        // Containers of other networks are no different.
        other.run(|| {
            seen_by((own, 80)).unwrap();
            assert!(is_refused((own, 81)), "v6 {v6}");
            assert!(is_refused((host(v6), 8080)), "v6 {v6}");
            assert!(answers_ping(own), "v6 {v6}");
        });
        // Nobody hides the container's address.
        let seen = web.run(|| seen_by((outside(v6), 90))).unwrap();
        assert_eq!(seen.to_canonical(), own);
        seen_by((own, 81)).unwrap();
    }
}

#[test]
fn the_ports_of_a_routed_network_take_none_of_the_host() {
    let world = World::new("gw-ports");
    create(&world, "lan", ["routed", "routed"], "");
    let ports = r#"[{"protocol":"tcp","container_port":80,"host_port":8080}]"#;
    let (first, second) = (Sandbox::new("first"), Sandbox::new("second"));
    let attached = [&first, &second].map(|sandbox| {
        let at = sandbox.publish(&world, "lan", ports);
        assert_eq!(at.ports[0].host_port, 0);
        sandbox.run(|| serve(any6(80)));
        at
    });
    route_to(&world, &attached[0]);
    serve(any6(8080));
    world.outside(|| {
        for at in &attached {
            seen_by((address(at, false), 80)).unwrap();
        }
        seen_by((host(false), 8080)).unwrap();
    });
    // Whoever gets the address next has published nothing.
    let own = address(&attached[1], false);
    second.detach(&world);
    let third = Sandbox::new("third");
    let mut request = third.request("lan");
    request.ipv4 = own.to_string().parse().ok();
    world.netd().attach(request).unwrap();
    third.run(|| serve(any6(80)));
    assert!(world.outside(|| is_refused((own, 80))));
    seen_by((own, 80)).unwrap();
}

#[test]
fn an_unprotected_network_is_reached_at_every_port() {
    let world = World::new("gw-open");
    create(&world, "lan", ["nat-unprotected", "nat-unprotected"], "");
    world.create(r#"{"Name":"back","EnableIPv6":true}"#);
    let (web, at) = published(&world, "lan");
    let other = Sandbox::new("other");
    other.attach(&world, "back");
    route_to(&world, &at);
    world.outside(|| serve(any6(90)));
    for v6 in FAMILIES {
        let own = address(&at, v6);
        world.outside(|| {
            for to in [(own, 80), (own, 81), (host(v6), 8080)] {
                let seen = seen_by(to).unwrap_or_else(|error| panic!("{to:?}: {error}"));
                assert_eq!(seen.to_canonical(), outside(v6), "{to:?}");
            }
        });
        let seen = web.run(|| seen_by((outside(v6), 90))).unwrap();
        assert_eq!(seen.to_canonical(), host(v6), "masqueraded");
        // Other networks are not the outside.
        other.run(|| {
            assert!(is_refused((own, 81)), "v6 {v6}");
            seen_by((host(v6), 8080)).unwrap();
        });
    }
}

#[test]
fn each_family_has_a_mode_of_its_own() {
    let world = World::new("gw-six");
    create(&world, "lan", ["nat", "routed"], "");
    let (web, at) = published(&world, "lan");
    route_to(&world, &at);
    world.outside(|| {
        serve(any6(90));
        seen_by((host(false), 8080)).unwrap();
        assert!(is_refused((address(&at, false), 80)));
        assert!(!answers_ping(address(&at, false)));
        seen_by((address(&at, true), 80)).unwrap();
        assert!(answers_ping(address(&at, true)));
        assert!(is_refused((address(&at, true), 81)));
        assert!(is_refused((host(true), 8080)));
    });
    for (v6, seen_as) in [(false, host(false)), (true, address(&at, true))] {
        let seen = web.run(|| seen_by((outside(v6), 90))).unwrap();
        assert_eq!(seen.to_canonical(), seen_as);
    }
}

#[test]
fn a_routed_network_survives_a_restart() {
    let mut world = World::new("gw-restart");
    create(&world, "lan", ["routed", "routed"], "");
    let (_web, at) = published(&world, "lan");
    route_to(&world, &at);
    world.kill();
    for v6 in FAMILIES {
        world.outside(|| seen_by((address(&at, v6), 80))).unwrap();
    }
    world.start();
    let report = world.netd().reconcile().unwrap();
    assert_eq!(report.repaired, 0, "{report:?}");
    for v6 in FAMILIES {
        world.outside(|| {
            seen_by((address(&at, v6), 80)).unwrap();
            assert!(is_refused((address(&at, v6), 81)));
        });
    }
}

#[test]
fn the_host_has_no_address_on_an_isolated_network() {
    let world = World::new("gw-isolated");
    let modes = ["isolated", "isolated"];
    create(&world, "vault", modes, r#","Internal":true"#);
    let (web, db) = (Sandbox::new("web"), Sandbox::new("db"));
    let at = web.attach(&world, "vault");
    let db_at = db.attach(&world, "vault");
    let shown = ip(&format!("-oneline address show dev {}", bridge(&at)));
    assert!(!shown.contains("scope global"), "{shown}");
    assert!(at.routes.is_empty(), "{:?}", at.routes);
    web.run(|| serve(any6(80)));
    for v6 in FAMILIES {
        let seen = db.run(|| seen_by((address(&at, v6), 80))).unwrap();
        assert_eq!(seen.to_canonical(), address(&db_at, v6));
        assert!(is_refused((address(&at, v6), 80)), "the host, v6 {v6}");
        assert!(db.run(|| is_refused((host(v6), 80))));
    }
}

#[test]
fn somebody_else_may_be_the_gateway() {
    let world = World::new("gw-inhibit");
    let option = r#""Options":{"com.docker.network.bridge.inhibit_ipv4":"true"}"#;
    let subnet = r#"{"Subnet":"10.7.0.0/24","Gateway":"10.7.0.1"}"#;
    world.create(&format!(
        r#"{{"Name":"lan",{option},"IPAM":{{"Config":[{subnet}]}}}}"#
    ));
    let (web, router) = (Sandbox::new("web"), Sandbox::new("router"));
    let at = web.attach(&world, "lan");
    let bridge = bridge(&at);
    assert_eq!(ip(&format!("-4 -oneline address show dev {bridge}")), "");
    assert_eq!(at.addresses[0].gateway, "10.7.0.1".parse().ok());
    let netns = router.request("").netns;
    ip(&format!(
        "link add r0 type veth peer name eth0 netns {netns}"
    ));
    ip(&format!("link set r0 up master {bridge}"));
    router.run(|| {
        ip("link set lo up");
        ip("address add 10.7.0.1/24 dev eth0");
        ip("address add 203.0.113.9/32 dev lo");
        ip("link set eth0 up");
        serve(any6(80));
    });
    let behind: std::net::Ipv4Addr = [203, 0, 113, 9].into();
    let seen = web.run(|| seen_by((behind, 80))).unwrap();
    assert_eq!(seen.to_canonical(), address(&at, false));
    assert_eq!(world.netd().reconcile().unwrap().repaired, 0);
}

/// Whose gateway each default route of the calling thread's namespace goes by.
fn ways_out(attached: &[&Attachment]) -> Vec<String> {
    let shown = ip("-4 route show default") + &ip("-6 route show default");
    let gateway = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let via = words.iter().position(|word| *word == "via").unwrap();
        words[via + 1].parse::<std::net::IpAddr>().unwrap()
    };
    let name_of = |gateway: std::net::IpAddr| {
        let mut all = attached.iter();
        let at = all.find(|at| at.addresses.iter().any(|a| a.gateway == Some(gateway)));
        at.unwrap().network.to_string()
    };
    shown.lines().map(|line| name_of(gateway(line))).collect()
}

#[test]
fn the_default_route_and_the_ports_go_by_the_network_that_goes_first() {
    let world = World::new("gw-priority");
    for name in ["m", "a"] {
        world.create(&format!(r#"{{"Name":"{name}","EnableIPv6":true}}"#));
    }
    let web = Sandbox::new("web");
    let mut request = web.request("m");
    request.gw_priority = Some(0);
    request.ports =
        serde_json::from_str(r#"[{"protocol":"tcp","container_port":80,"host_port":8080}]"#)
            .unwrap();
    let first = world.netd().attach(request).unwrap();
    web.run(|| serve(any6(80)));
    world.outside(|| serve(any6(90)));
    let works = |attached: &[&Attachment], expected: &str| {
        let ways = web.run(|| ways_out(attached));
        assert_eq!(ways, [expected, expected]);
        for v6 in FAMILIES {
            let seen = world.outside(|| seen_by((host(v6), 8080))).unwrap();
            assert_eq!(seen.to_canonical(), outside(v6));
            web.run(|| seen_by((outside(v6), 90))).unwrap();
        }
        for at in world.netd().endpoints(None) {
            world.netd().check(&at.container_id, &at.ifname).unwrap();
        }
        assert_eq!(world.netd().reconcile().unwrap().repaired, 0);
    };
    works(&[&first], "m");
    let mut request = web.request("a");
    request.gw_priority = Some(0);
    request.ifname = api::id::IfName::parse("eth1").unwrap();
    let second = world.netd().attach(request).unwrap();
    works(&[&first, &second], "a");
    let id = web.request("").container_id;
    world.netd().detach(&id, &second.ifname).unwrap();
    works(&[&first], "m");
}
