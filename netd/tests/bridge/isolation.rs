//! Who reaches whom: between networks, from the neighbours of the host, within a network.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use api::net::Attachment;
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr as NetlinkAddress};

use crate::traffic::{connect, is_refused, round_trip, seen_by, seen_by_udp, serve, serve_udp};
use crate::world::{PATIENCE, Sandbox, World, address, ip};

const HOST4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const HOST6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
const OUTSIDE4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);
const OUTSIDE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7);
pub(crate) const FAMILIES: [bool; 2] = [false, true];

pub(crate) fn any6(port: u16) -> SocketAddr {
    (Ipv6Addr::UNSPECIFIED, port).into()
}

pub(crate) fn host(v6: bool) -> IpAddr {
    if v6 { HOST6.into() } else { HOST4.into() }
}

pub(crate) fn outside(v6: bool) -> IpAddr {
    if v6 { OUTSIDE6.into() } else { OUTSIDE4.into() }
}

/// Publishes 8080/tcp and 8053/udp, serves on those and on port 81, which is not published.
pub(crate) fn published(world: &World, network: &str) -> (Sandbox, Attachment) {
    let web = Sandbox::new("web");
    let ports = r#"[{"protocol":"tcp","container_port":80,"host_port":8080},
                    {"protocol":"udp","container_port":53,"host_port":8053},
                    {"protocol":"tcp","container_port":79,"host_port":8079,"host_ip":"127.0.0.1"}]"#;
    let at = web.publish(world, network, ports);
    web.run(|| {
        for port in [79, 80, 81] {
            serve(any6(port));
        }
        serve_udp((address(&at, false), 53).into());
        serve_udp((address(&at, true), 53).into());
    });
    (web, at)
}

/// Lets the outside machine send to the containers' addresses through the host.
pub(crate) fn route_to(world: &World, at: &Attachment) {
    for address in &at.addresses {
        let subnet = address.address.trunc();
        let via = host(subnet.addr().is_ipv6());
        world.outside(|| ip(&format!("route add {subnet} via {via}")));
    }
}

/// Makes the host's connection tracking forget everything: `IPCTNL_MSG_CT_DELETE` of
/// nfnetlink_conntrack.h, for all families.
fn forget_connections() {
    const MESSAGE: u16 = 1 << 8 | 2;
    const REQUEST_AND_ACK: u16 = 1 | 4;
    let mut socket = Socket::new(NETLINK_NETFILTER).unwrap();
    socket.bind_auto().unwrap();
    socket.connect(&NetlinkAddress::new(0, 0)).unwrap();
    let mut message = Vec::new();
    message.extend(20_u32.to_ne_bytes());
    message.extend(MESSAGE.to_ne_bytes());
    message.extend(REQUEST_AND_ACK.to_ne_bytes());
    message.extend([0; 12]);
    socket.send(&message, 0).unwrap();
    let (answer, _) = socket.recv_from_full().unwrap();
    assert_eq!(&answer[16..20], [0; 4], "no error");
}

#[test]
fn a_published_port_answers_other_networks_and_no_other_port_does() {
    only_published_ports_answer(&World::new("between"));
}

#[test]
fn without_socket_hooks_a_published_port_answers_other_networks_alike() {
    only_published_ports_answer(&World::without_hooks("between-hookless"));
}

fn only_published_ports_answer(world: &World) {
    world.create(r#"{"Name":"front","EnableIPv6":true}"#);
    world.create(r#"{"Name":"back","EnableIPv6":true}"#);
    let (_web, at) = published(world, "front");
    let other = Sandbox::new("other");
    let other_at = other.attach(world, "back");
    other.run(|| {
        for v6 in FAMILIES {
            let own = address(&other_at, v6);
            let gateways = [&at, &other_at].map(|at| {
                let mut gateways = at.addresses.iter().filter_map(|a| a.gateway);
                gateways.find(|gateway| gateway.is_ipv6() == v6).unwrap()
            });
            for to in [host(v6), gateways[0], gateways[1]] {
                let seen = seen_by((to, 8080)).unwrap_or_else(|error| panic!("{to}: {error}"));
                assert_eq!(
                    seen.to_canonical(),
                    own,
                    "the client's own address, by {to}"
                );
                let seen = seen_by_udp((to, 8053).into()).unwrap();
                assert_eq!(seen, own, "udp by {to}");
                assert!(is_refused((to, 8079)), "published on loopback only");
            }
            // By its own address, as if nothing were published.
            for port in [80, 81] {
                assert!(is_refused((address(&at, v6), port)), "port {port}, v6 {v6}");
            }
        }
    });
}

#[test]
fn a_connection_between_networks_survives_lost_connection_tracking() {
    let world = World::new("between-flush");
    world.create(r#"{"Name":"front","EnableIPv6":true}"#);
    world.create(r#"{"Name":"back","EnableIPv6":true}"#);
    let (_web, _at) = published(&world, "front");
    let other = Sandbox::new("other");
    other.attach(&world, "back");
    for v6 in FAMILIES {
        let (mut stream, _) = other
            .run(|| connect((host(v6), 8080).into(), PATIENCE))
            .unwrap();
        forget_connections();
        round_trip(&mut stream).unwrap();
    }
}

#[test]
fn a_neighbour_with_a_route_reaches_published_ports_only() {
    let world = World::new("routed");
    world.create(r#"{"Name":"shop","EnableIPv6":true}"#);
    let (web, at) = published(&world, "shop");
    route_to(&world, &at);
    world.outside(|| serve(any6(90)));
    for v6 in FAMILIES {
        world.outside(|| {
            for port in [80, 81] {
                assert!(is_refused((address(&at, v6), port)), "port {port}, v6 {v6}");
            }
            let seen = seen_by((host(v6), 8080)).unwrap();
            assert_eq!(seen.to_canonical(), outside(v6));
            assert_eq!(seen_by_udp((host(v6), 8053).into()).unwrap(), outside(v6));
        });
        web.run(|| seen_by((outside(v6), 90))).unwrap();
    }
    // The host's own address on the bridge is the host's business.
    serve(any6(8000));
    let gateway = at.addresses[0].gateway.unwrap();
    world.outside(|| seen_by((gateway, 8000))).unwrap();
}

#[test]
fn containers_that_leave_under_their_own_address_get_their_answers() {
    let world = World::new("plain");
    let options = r#"{"com.docker.network.bridge.enable_ip_masquerade":"false"}"#;
    world.create(&format!(
        r#"{{"Name":"shop","EnableIPv6":true,"Options":{options}}}"#
    ));
    let (web, at) = published(&world, "shop");
    route_to(&world, &at);
    world.outside(|| serve(any6(90)));
    for v6 in FAMILIES {
        let seen = web.run(|| seen_by((outside(v6), 90))).unwrap();
        assert_eq!(seen.to_canonical(), address(&at, v6));
        assert!(world.outside(|| is_refused((address(&at, v6), 81))));
    }
}

#[test]
fn a_download_survives_lost_connection_tracking() {
    let world = World::new("flush");
    world.create(r#"{"Name":"shop","EnableIPv6":true}"#);
    let web = Sandbox::new("web");
    let port = r#"[{"protocol":"tcp","container_port":80,"host_port":8080}]"#;
    web.publish(&world, "shop", port);
    let listener = web.run(|| TcpListener::bind(any6(80)).unwrap());
    for v6 in FAMILIES {
        let to = SocketAddr::from((host(v6), 8080));
        let mut client = world.outside(|| std::net::TcpStream::connect(to)).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        let data: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8).collect();
        for _ in 0..3 {
            // The server speaks first: its packet looks like the beginning of a connection.
            forget_connections();
            let mut back = vec![0; data.len()];
            std::thread::scope(|scope| {
                scope.spawn(|| server.write_all(&data).unwrap());
                client.read_exact(&mut back).unwrap();
            });
            assert!(back == data, "v6 {v6}");
        }
    }
}

/// GHSA-jv3w-x3r3-g6rm: a published port must not take what is meant for another machine.
#[test]
fn what_the_host_only_forwards_is_not_its_own() {
    let world = World::new("forward");
    world.create(r#"{"Name":"shop","EnableIPv6":true}"#);
    // Nobody serves there: what was led to it would be refused.
    let web = Sandbox::new("web");
    let ports = r#"[{"protocol":"tcp","container_port":80,"host_port":8080},
                    {"protocol":"udp","container_port":53,"host_port":8053}]"#;
    web.publish(&world, "shop", ports);
    let behind = Sandbox::new("behind");
    ip(&format!(
        "link add dmz type veth peer name eth0 netns {}",
        behind.request("").netns
    ));
    ip("address add 198.51.100.1/24 dev dmz");
    ip("address add 2001:db8:1::1/64 nodad dev dmz");
    ip("link set dmz up");
    let machine: [IpAddr; 2] = ["198.51.100.7", "2001:db8:1::7"].map(|ip| ip.parse().unwrap());
    behind.run(|| {
        ip("link set lo up");
        ip("address add 198.51.100.7/24 dev eth0");
        ip("address add 2001:db8:1::7/64 nodad dev eth0");
        ip("link set eth0 up");
        ip("route add default via 198.51.100.1");
        ip("route add default via 2001:db8:1::1");
        serve(any6(8080));
        for at in machine {
            serve_udp((at, 8053).into());
        }
    });
    world.netd().reconcile().unwrap();
    world.outside(|| {
        ip("route add 198.51.100.0/24 via 192.0.2.1");
        ip("route add 2001:db8:1::/64 via 2001:db8::1");
    });
    for to in machine {
        let client = outside(to.is_ipv6());
        world.outside(|| {
            assert_eq!(seen_by((to, 8080)).unwrap().to_canonical(), client);
            assert_eq!(seen_by_udp((to, 8053).into()).unwrap(), client);
        });
        // Nor does the host take its own connections to that machine for a published port's.
        seen_by((to, 8080)).unwrap();
    }
}

#[test]
fn without_inter_container_communication_neighbours_are_strangers() {
    let world = World::new("icc");
    let options = r#"{"com.docker.network.bridge.enable_icc":"false"}"#;
    world.create(&format!(
        r#"{{"Name":"strict","EnableIPv6":true,"Options":{options}}}"#
    ));
    let (web, at) = published(&world, "strict");
    let other = Sandbox::new("other");
    let other_at = other.attach(&world, "strict");
    other.run(|| serve(any6(80)));
    world.outside(|| serve(any6(90)));
    for v6 in FAMILIES {
        other.run(|| assert!(is_refused((address(&at, v6), 80)), "v6 {v6}"));
        web.run(|| assert!(is_refused((address(&other_at, v6), 80)), "v6 {v6}"));
        // Not by way of the host either.
        let mut gateways = at.addresses.iter().filter_map(|a| a.gateway);
        let gateway = gateways.find(|gateway| gateway.is_ipv6() == v6).unwrap();
        let (target, family) = (address(&at, v6), if v6 { "-6" } else { "-4" });
        let length = if v6 { 128 } else { 32 };
        other.run(|| {
            ip(&format!(
                "{family} route add {target}/{length} via {gateway}"
            ))
        });
        other.run(|| assert!(is_refused((target, 80)), "by the host, v6 {v6}"));
        // The host and the outside are no neighbours.
        seen_by((target, 80)).unwrap();
        other.run(|| seen_by((outside(v6), 90))).unwrap();
        world.outside(|| seen_by((host(v6), 8080))).unwrap();
    }
}

#[test]
fn an_internal_network_knows_only_itself_and_the_host() {
    let world = World::new("internal");
    world.create(r#"{"Name":"vault","EnableIPv6":true,"Internal":true}"#);
    world.create(r#"{"Name":"front","EnableIPv6":true}"#);
    let (web, at) = published(&world, "vault");
    let (peer, stranger) = (Sandbox::new("peer"), Sandbox::new("stranger"));
    peer.attach(&world, "vault");
    let stranger_at = stranger.attach(&world, "front");
    stranger.run(|| serve(any6(80)));
    route_to(&world, &at);
    world.outside(|| serve(any6(90)));
    serve(any6(8000));
    for v6 in FAMILIES {
        let target = address(&at, v6);
        let subnet = at.addresses.iter().find(|a| a.address.addr() == target);
        // The bridge's address: the first of the subnet, although nobody is told to route there.
        let mut hosts = subnet.unwrap().address.trunc().hosts();
        let host_on_bridge = hosts.find(|host| *host != subnet.unwrap().address.network());
        let host_on_bridge = host_on_bridge.unwrap();
        peer.run(|| seen_by((target, 80))).unwrap();
        seen_by((target, 80)).unwrap();
        web.run(|| seen_by((host_on_bridge, 8000))).unwrap();

        assert!(stranger.run(|| is_refused((target, 80))), "v6 {v6}");
        assert!(stranger.run(|| is_refused((host(v6), 8080))), "v6 {v6}");
        assert!(world.outside(|| is_refused((target, 80))), "v6 {v6}");
        assert!(world.outside(|| is_refused((host(v6), 8080))), "v6 {v6}");
        // Not even with a route of its own making.
        web.run(|| ip(&format!("route add default via {host_on_bridge}")));
        for to in [(outside(v6), 90), (address(&stranger_at, v6), 80)] {
            assert!(web.run(|| is_refused(to)), "{to:?}");
        }
    }
}
