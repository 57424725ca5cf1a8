//! What works, what must not, and what survives.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::process::Command;

use api::ApiError;
use api::ErrorCode;

use crate::dns_query::lookup;
use crate::traffic::{connect, is_refused, round_trip, seen_by, seen_by_udp, serve, serve_udp};
use crate::world::{PATIENCE, Sandbox, World, address, eth0, ip, soon};

pub(crate) const HOST4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub(crate) const HOST6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
pub(crate) const OUTSIDE4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);
pub(crate) const OUTSIDE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7);

pub(crate) fn any4(port: u16) -> SocketAddr {
    (Ipv4Addr::UNSPECIFIED, port).into()
}

pub(crate) fn any6(port: u16) -> SocketAddr {
    (Ipv6Addr::UNSPECIFIED, port).into()
}

#[test]
fn containers_of_a_network_find_and_reach_each_other() {
    let world = World::new("reach");
    world.create(r#"{"Name":"shop","EnableIPv6":true}"#);
    let (web, db) = (Sandbox::new("web"), Sandbox::new("db"));
    let web_at = web.attach(&world, "shop");
    let db_at = db.attach(&world, "shop");
    web.run(|| serve(any6(80)));
    db.run(|| {
        assert_eq!(lookup("web").unwrap(), [address(&web_at, false)]);
        for v6 in [false, true] {
            let seen = seen_by((address(&web_at, v6), 80)).unwrap();
            assert_eq!(seen.to_canonical(), address(&db_at, v6));
        }
    });
    // The gateway is the host.
    serve(any4(8000));
    let gateway = web_at.addresses[0].gateway.unwrap();
    assert_eq!(
        web.run(|| seen_by((gateway, 8000)).unwrap()),
        address(&web_at, false)
    );
    web.detach(&world);
    assert!(
        db.run(|| lookup("web")).is_err(),
        "the name goes with the endpoint"
    );
}

#[test]
fn a_published_port_answers_outside_on_the_host_and_on_loopback() {
    let world = World::new("publish");
    world.create(r#"{"Name":"shop","EnableIPv6":true}"#);
    world.create(r#"{"Name":"old"}"#);
    let (dual, old) = (Sandbox::new("dual"), Sandbox::new("old"));
    let both = r#"[{"protocol":"tcp","container_port":80,"host_port":8080},
                   {"protocol":"udp","container_port":53,"host_port":8053}]"#;
    let dual_at = dual.publish(&world, "shop", both);
    dual.run(|| {
        serve(any6(80));
        serve_udp((address(&dual_at, false), 53).into());
    });
    // Its network has no IPv6: IPv6 clients on the host reach it all the same.
    old.publish(
        &world,
        "old",
        r#"[{"protocol":"tcp","container_port":80,"host_port":8081}]"#,
    );
    old.run(|| serve(any4(80)));

    world.outside(|| {
        assert_eq!(seen_by((HOST4, 8080)).unwrap().to_canonical(), OUTSIDE4);
        assert_eq!(seen_by((HOST6, 8080)).unwrap(), OUTSIDE6);
        assert_eq!(seen_by((HOST4, 8081)).unwrap(), OUTSIDE4);
        assert_eq!(seen_by_udp((HOST4, 8053).into()).unwrap(), OUTSIDE4);
    });
    for port in [8080, 8081] {
        for host in [Ipv4Addr::LOCALHOST, HOST4] {
            seen_by((host, port)).unwrap_or_else(|error| panic!("{host}:{port}: {error}"));
        }
        for host in [Ipv6Addr::LOCALHOST, HOST6] {
            seen_by((host, port)).unwrap_or_else(|error| panic!("[{host}]:{port}: {error}"));
        }
    }
    // A container reaches its own published port, and sees itself.
    let itself = dual.run(|| seen_by((HOST4, 8080)).unwrap());
    assert_eq!(itself.to_canonical(), address(&dual_at, false));

    dual.detach(&world);
    assert!(world.outside(|| is_refused((HOST4, 8080))));
    assert!(is_refused((Ipv4Addr::LOCALHOST, 8080)));
    assert!(world.outside(|| seen_by((HOST4, 8081))).is_ok());
}

#[test]
fn a_port_that_is_taken_is_refused_and_its_holder_named() {
    let world = World::new("taken");
    world.create(r#"{"Name":"shop"}"#);
    let (web, other) = (Sandbox::new("web"), Sandbox::new("other"));
    let port = r#"[{"protocol":"tcp","container_port":80,"host_port":8080}]"#;
    web.publish(&world, "shop", port);
    let _bound = TcpListener::bind("127.0.0.1:9090").unwrap();
    let check = |host_port: u16, part: &str| {
        let mut request = other.request("shop");
        request.ports = serde_json::from_str(port).unwrap();
        request.ports[0].host_port = host_port;
        let error = ApiError::from(world.netd().attach(request).unwrap_err());
        assert_eq!(error.code, ErrorCode::Conflict);
        assert!(error.message.contains(part), "{}", error.message);
    };
    check(
        8080,
        "port 8080/tcp is already allocated: published by container web",
    );
    check(9090, &format!("(pid {})", std::process::id()));
    assert!(
        TcpListener::bind("0.0.0.0:8080").is_err(),
        "a published port is reserved"
    );
    let reserved = || std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_reserved_ports");
    assert_eq!(
        reserved().unwrap(),
        "8080\n",
        "nor a source port of the host's connections"
    );
    // A port that the daemon chooses is neither.
    let chosen = other.publish(
        &world,
        "shop",
        r#"[{"protocol":"tcp","container_port":80,"host_port":0}]"#,
    );
    other.run(|| serve(any4(80)));
    seen_by((Ipv4Addr::LOCALHOST, chosen.ports[0].host_port)).unwrap();
}

#[test]
fn containers_leave_under_the_hosts_address() {
    let world = World::new("masquerade");
    world.create(r#"{"Name":"shop","EnableIPv6":true}"#);
    let web = Sandbox::new("web");
    web.attach(&world, "shop");
    world.outside(|| serve(any6(80)));
    web.run(|| {
        assert_eq!(seen_by((OUTSIDE4, 80)).unwrap().to_canonical(), HOST4);
        assert_eq!(seen_by((OUTSIDE6, 80)).unwrap(), HOST6);
    });
}

#[test]
fn networks_are_apart_and_an_internal_one_is_alone() {
    let world = World::new("apart");
    world.create(r#"{"Name":"front"}"#);
    world.create(r#"{"Name":"back"}"#);
    world.create(r#"{"Name":"vault","Internal":true}"#);
    world.create(r#"{"Name":"strict","Options":{"com.docker.network.bridge.enable_icc":"false"}}"#);
    world.outside(|| serve(any4(80)));
    let names = ["front", "back", "vault", "vault", "strict", "strict"];
    let sandboxes: Vec<_> = (0..)
        .zip(names)
        .map(|(n, network)| {
            let sandbox = Sandbox::new(&format!("c{n}"));
            let at = address(&sandbox.attach(&world, network), false);
            sandbox.run(|| serve(any4(80)));
            (sandbox, at)
        })
        .collect();
    let reaches = |from: usize, to: usize| {
        let server = (sandboxes[to].1, 80);
        sandboxes[from].0.run(|| !is_refused(server))
    };
    assert!(!reaches(0, 1), "two networks");
    assert!(!reaches(2, 0) && !reaches(0, 2), "an internal network");
    assert!(reaches(2, 3), "on an internal network");
    assert!(!reaches(4, 5), "without inter-container communication");
    let leaves = |from: usize| sandboxes[from].0.run(|| !is_refused((OUTSIDE4, 80)));
    assert!(leaves(0) && leaves(4));
    assert!(!leaves(2));
    assert!(
        sandboxes[0].0.run(|| lookup("c1")).is_err(),
        "names do not cross networks"
    );
}

#[test]
fn connections_survive_the_daemon() {
    let mut world = World::new("survive");
    world.create(r#"{"Name":"shop"}"#);
    let (web, db) = (Sandbox::new("web"), Sandbox::new("db"));
    let port = r#"[{"protocol":"tcp","container_port":80,"host_port":8080}]"#;
    let attached = web.publish(&world, "shop", port);
    db.attach(&world, "shop");
    web.run(|| serve(any4(80)));
    let (mut outside, _) = world
        .outside(|| connect((HOST4, 8080).into(), PATIENCE))
        .unwrap();
    let (mut local, _) = connect((Ipv4Addr::LOCALHOST, 8080).into(), PATIENCE).unwrap();

    world.kill();
    round_trip(&mut outside).unwrap();
    round_trip(&mut local).unwrap();
    world
        .outside(|| seen_by((HOST4, 8080)))
        .expect("a new connection without a daemon");

    world.start();
    assert_eq!(
        world.netd().endpoints(Some(&attached.container_id)),
        std::slice::from_ref(&attached)
    );
    round_trip(&mut outside).unwrap();
    round_trip(&mut local).unwrap();
    world
        .outside(|| seen_by((HOST4, 8080)))
        .expect("a new connection");
    assert_eq!(
        db.run(|| lookup("web")).unwrap(),
        [address(&attached, false)]
    );
    assert_eq!(world.netd().reconcile().unwrap(), netd::Report::default());
    world.netd().check(&attached.container_id, &eth0()).unwrap();
}

#[test]
fn a_sandbox_that_dies_is_cleared_away() {
    let world = World::new("dead");
    world.follow();
    world.create(r#"{"Name":"shop"}"#);
    let web = Sandbox::new("web");
    let port = r#"[{"protocol":"tcp","container_port":80,"host_port":8080}]"#;
    let attached = web.publish(&world, "shop", port);
    drop(web);
    soon("the endpoint is collected", || {
        world.netd().endpoints(None).is_empty()
    });
    let again = Sandbox::new("again");
    let mut request = again.request("shop");
    request.ports = attached.ports;
    request.ipv4 = Some("172.18.0.2".parse().unwrap());
    world
        .netd()
        .attach(request)
        .expect("its address and port are free");
}

#[test]
fn what_others_destroy_is_made_anew() {
    let world = World::new("repair");
    world.create(r#"{"Name":"shop","EnableIPv6":true}"#);
    let web = Sandbox::new("web");
    let port = r#"[{"protocol":"tcp","container_port":80,"host_port":8080}]"#;
    web.publish(&world, "shop", port);
    web.run(|| serve(any4(80)));
    world.outside(|| serve(any4(80)));
    let works = || {
        world.outside(|| seen_by((HOST4, 8080))).unwrap();
        assert_eq!(web.run(|| seen_by((OUTSIDE4, 80))).unwrap(), HOST4);
    };
    works();
    let bridge = format!("br-{}", world.netd().network("shop").unwrap().id.short());
    ip(&format!("link delete {bridge}"));
    world.netd().reconcile().unwrap();
    works();
    let deleted = Command::new("nft")
        .args(["delete", "table", "inet", "hawser"])
        .status();
    assert!(deleted.unwrap().success());
    world.netd().reconcile().unwrap();
    works();
    ip(&format!("link set {bridge} down"));
    world.netd().reconcile().unwrap();
    works();
    assert_eq!(world.netd().reconcile().unwrap(), netd::Report::default());
}

#[test]
fn a_new_link_serves_published_ports_at_once() {
    let world = World::new("uplink");
    world.follow();
    world.create(r#"{"Name":"shop"}"#);
    let web = Sandbox::new("web");
    let port = r#"[{"protocol":"tcp","container_port":80,"host_port":8080}]"#;
    web.publish(&world, "shop", port);
    web.run(|| serve(any4(80)));
    let neighbour = Sandbox::new("neighbour");
    ip(&format!(
        "link add late type veth peer name eth0 netns {}",
        neighbour.request("").netns
    ));
    ip("address add 198.51.100.1/24 dev late");
    ip("link set late up");
    neighbour.run(|| {
        ip("address add 198.51.100.7/24 dev eth0");
        ip("link set eth0 up");
    });
    let late = Ipv4Addr::new(198, 51, 100, 1);
    soon("the new link is served", || {
        neighbour.run(|| !is_refused((late, 8080)))
    });
}

#[test]
fn nothing_is_left_of_what_is_removed() {
    let world = World::new("leftovers");
    let look = || {
        let links = ip("-oneline link show");
        // Without what counts or flaps.
        let names: Vec<String> = links
            .lines()
            .filter_map(|line| Some(line.split(": ").nth(1)?.to_owned()))
            .collect();
        let table = Command::new("nft")
            .args(["list", "ruleset"])
            .output()
            .unwrap();
        (
            names,
            ip("route show"),
            String::from_utf8(table.stdout).unwrap(),
        )
    };
    let before = look();
    world.create(r#"{"Name":"shop","EnableIPv6":true}"#);
    let web = Sandbox::new("web");
    web.attach(&world, "shop");
    assert_ne!(look(), before);
    web.detach(&world);
    // The interface goes in the background.
    soon("loopback only", || {
        web.run(|| ip("-oneline link show")).lines().count() == 1
    });
    world.netd().remove_network("shop").unwrap();
    assert_eq!(look(), before);
}

#[test]
fn an_overlap_with_a_host_route_is_named() {
    let world = World::new("overlap");
    ip("route add 10.9.0.0/16 via 192.0.2.7");
    let create = |subnet: &str| {
        let json = format!(r#"{{"Name":"lan","IPAM":{{"Config":[{{"Subnet":"{subnet}"}}]}}}}"#);
        world
            .netd()
            .create_network(serde_json::from_str(&json).unwrap())
    };
    let error = create("10.9.1.0/24").unwrap_err().to_string();
    assert!(
        error.contains("the host's route 10.9.0.0/16 dev eth0"),
        "{error}"
    );
    let error = create("172.17.4.0/24").unwrap_err().to_string();
    assert!(error.contains("network bridge (172.17.0.0/16)"), "{error}");
    create("10.8.0.0/24").unwrap();
}
