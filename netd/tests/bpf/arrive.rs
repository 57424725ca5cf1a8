//! What other nodes send to backends of this one, packet by packet.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use abi::tunnel::sender;
use netd::bpf::{Balanced, Change, Side, Underlay, Verdict};

use crate::cases::{PROTOCOLS, first, more, opening};
use crate::guard::{edge, lo, on_loopback};
use crate::instance::{Instance, frontend};
use crate::packet::{ACK, Fragment, Packet, SYN_ACK, TCP, UDP};
use crate::remote::{SERVICE, counts, ends, entries, local, lost, service};
use Side::{Egress, Ingress};

const RANGE: u64 = 8;

/// A host with one backend of each family, which other nodes reach.
fn receiver(name: &str) -> Instance {
    let plane = Instance::open(name, None);
    serve(&plane);
    plane
}

fn serve(plane: &Instance) {
    for (number, e) in (SERVICE..).step_by(10).zip(ends()) {
        let service = Balanced {
            reachable: true,
            ..service(&[(e.web, 1)])
        };
        assert_eq!(plane.balance(number, &service).unwrap(), Change::Created);
        assert_eq!(plane.balance(number, &service).unwrap(), Change::Unchanged);
        assert_eq!(plane.balanced().unwrap()[&number], service);
    }
}

/// What other nodes call a backend.
fn number_of(plane: &Instance, backend: SocketAddr) -> u32 {
    let numbers = |number| plane.reachable(number).unwrap();
    let all = [SERVICE, SERVICE + 10, RANGE].map(numbers);
    *all.iter().find_map(|all| all.get(&backend)).unwrap()
}

/// A frame that comes out of the tunnel, for the backend with this number.
fn arrive(plane: &Instance, number: u32, packet: &Packet) -> (Verdict, Vec<u8>) {
    arrive_from(plane, sender(number).octets(), packet)
}

fn arrive_from(plane: &Instance, from: [u8; 6], packet: &Packet) -> (Verdict, Vec<u8>) {
    let got = plane.replay(Side::Tunnel, &framed(from, packet)).unwrap();
    (got.verdict, got.frame)
}

/// What becomes of one that reaches its backend as `packet`.
fn led(number: u32, packet: &Packet) -> (Verdict, Vec<u8>) {
    (Verdict::Pass, framed(sender(number).octets(), packet))
}

/// A frame of the tunnel's.
fn framed(from: [u8; 6], packet: &Packet) -> Vec<u8> {
    let mut frame = packet.build();
    frame[6..12].copy_from_slice(&from);
    frame
}

#[test]
fn what_another_node_sends_reaches_the_backend_and_is_answered_from_here() {
    let plane = receiver("remote-arrive");
    for (name, protocol) in PROTOCOLS {
        for e in ends() {
            let what = format!("{name} {}", e.name);
            let number = number_of(&plane, e.web);
            let before = counts(&plane, e.web);
            let opening = opening(protocol);
            for kind in [opening, opening, if protocol == TCP { ACK } else { 0 }] {
                let packet = Packet::new(protocol, e.client, e.host, kind);
                let led = led(number, &packet.between(e.client, e.web));
                assert_eq!(arrive(&plane, number, &packet), led, "{what}");
                let reply = more(protocol, e.web, e.client);
                let got = plane.replay(Egress, &reply.build()).unwrap();
                let led = reply.between(e.host, e.client).build();
                assert_eq!((got.verdict, got.frame), (Verdict::Pass, led), "{what}");
            }
            let after = counts(&plane, e.web);
            assert_eq!(after.packets_in - before.packets_in, 3, "{what}");
            assert_eq!(after.packets_out - before.packets_out, 3, "{what}");
            assert_eq!(after.new_flows - before.new_flows, 1, "{what}");
        }
    }
    assert_eq!(lost(&plane), []);
    assert_eq!(entries(&plane, "ct_half"), 0, "connections, as any others");
}

#[test]
fn fragments_and_errors_come_out_of_the_tunnel_too() {
    let plane = receiver("remote-parts");
    for e in ends() {
        let number = number_of(&plane, e.web);
        let kinds = [Fragment::First, Fragment::Later];
        for packet in kinds.map(|kind| more(UDP, e.client, e.host).fragment(kind)) {
            let led = led(number, &packet.between(e.client, e.web));
            assert_eq!(arrive(&plane, number, &packet), led, "{}", e.name);
        }
        let packet = first(TCP, e.client, e.host);
        let got = arrive(&plane, number, &packet);
        assert_eq!(got.0, Verdict::Pass, "{}", e.name);
        let router = if e.host.is_ipv4() {
            "198.51.100.1"
        } else {
            "2001:db8:7::ffff"
        };
        let router = router.parse().unwrap();
        let kind = if e.host.is_ipv4() { 3 } else { 2 };
        let reply = more(TCP, e.host, e.client);
        let error = Packet::error(router, e.host.ip(), kind, &reply, 60);
        let inner = reply.quoted_between(e.web, e.client);
        let led = led(number, &Packet::error(router, e.web.ip(), kind, &inner, 60));
        assert_eq!(arrive(&plane, number, &error), led, "{}", e.name);
    }
    assert_eq!(lost(&plane), []);
}

#[test]
fn a_port_of_a_range_is_as_far_from_the_first_here_as_there() {
    let plane = Instance::open("remote-range", None);
    let [e, _] = ends();
    let service = Balanced {
        frontends: [frontend("any4:6000+100/tcp")].into(),
        backends: [("172.18.0.2:3000".parse().unwrap(), 1)].into(),
        reachable: true,
        ..Balanced::default()
    };
    plane.balance(RANGE, &service).unwrap();
    let number = number_of(&plane, "172.18.0.2:3000".parse().unwrap());
    for offset in [0, 1, 99] {
        let packet = first(TCP, e.client, SocketAddr::new(e.host.ip(), 6000 + offset));
        let there = packet.between(e.client, SocketAddr::new(e.web.ip(), 3000 + offset));
        assert_eq!(arrive(&plane, number, &packet), led(number, &there));
    }
}

#[test]
fn what_other_nodes_may_not_send_is_dropped_and_counted() {
    let plane = receiver("remote-stale");
    let [e, e6] = ends();
    let number = number_of(&plane, e.web);
    let packet = first(TCP, e.client, e.host);
    let mut stale = 0;
    let mut dropped = |what: &str, number, packet: &Packet| {
        let from = sender(number).octets();
        assert_eq!(arrive_from(&plane, from, packet).0, Verdict::Drop, "{what}");
        stale += 1;
        assert_eq!(lost(&plane), [("stale", stale)], "{what}");
    };
    dropped("another generation", number ^ 0x1_0000, &packet);
    dropped("nobody", number + 40, &packet);
    let other = first(TCP, e.client, SocketAddr::new(e.host.ip(), 8081));
    dropped("a port that is not the service's", number, &other);
    // One that is begun goes on until the backend is gone; then its number is nobody's.
    assert_eq!(arrive(&plane, number, &packet).0, Verdict::Pass);
    let without = Balanced {
        backends: [("172.18.0.3:80".parse().unwrap(), 1)].into(),
        reachable: true,
        ..service(&[(e.web, 1)])
    };
    plane.balance(SERVICE, &without).unwrap();
    dropped(
        "a flow of a backend that is gone",
        number,
        &more(TCP, e.client, e.host),
    );
    let numbers = plane.reachable(SERVICE).unwrap();
    assert_eq!(
        numbers.keys().map(ToString::to_string).collect::<Vec<_>>(),
        ["172.18.0.3:80"]
    );
    // Nor is it when nobody may send any more.
    let number = number_of(&plane, e6.web);
    plane
        .balance(SERVICE + 10, &service(&[(e6.web, 1)]))
        .unwrap();
    dropped(
        "a service for this node only",
        number,
        &first(TCP, e6.client, e6.host),
    );
    assert!(plane.reachable(SERVICE + 10).unwrap().is_empty());
    // A backend of another family than the packet.
    let number = plane
        .reachable(SERVICE)
        .unwrap()
        .into_values()
        .next()
        .unwrap();
    let packet = first(UDP, e6.client, e6.host);
    assert_eq!(arrive(&plane, number, &packet).0, Verdict::Drop);
    assert!(lost(&plane).contains(&("family", 1)));
    // What is from no backend's address is nobody's either.
    let from_a_link = [6, 0, 0, 0, 0, 9];
    let got = arrive_from(&plane, from_a_link, &first(TCP, e.client, e.host));
    assert_eq!(got.0, Verdict::Drop);
    assert!(lost(&plane).contains(&("stale", stale + 1)));
}

/// A SYN-ACK with these options.
fn answer(from: SocketAddr, to: SocketAddr, options: &[u8]) -> Packet {
    assert!(options.len().is_multiple_of(4));
    let header = if from.is_ipv4() { 34 } else { 54 };
    let length = (5 + options.len() / 4) as u8;
    Packet::new(TCP, from, to, SYN_ACK)
        .payload(options)
        .edit(header + 12, length << 4)
}

#[test]
fn connections_through_the_tunnel_ask_for_segments_that_fit() {
    let plane = on_loopback("remote-segments", edge(false));
    serve(&plane);
    let underlay = |mtu, v6| Underlay { mtu, v6 };
    let attach = |underlay| plane.attach_tunnel(1, &lo(), underlay).unwrap();
    for e in ends() {
        let v4 = e.host.is_ipv4();
        // Of a client that comes to this node itself: another port than that through the tunnel.
        let direct = SocketAddr::new(e.client.ip(), 50_000);
        local(&plane);
        plane
            .replay(Ingress, &first(TCP, direct, e.host).build())
            .unwrap();
        let number = number_of(&plane, e.web);
        arrive(&plane, number, &first(TCP, e.client, e.host));
        let becomes = |to: SocketAddr, options: &[u8]| {
            let packet = answer(e.web, to, options);
            let got = plane.replay_endpoint(&packet.build()).unwrap();
            assert_eq!(got.verdict, Verdict::Pass);
            got.frame
        };
        let large = 1460_u16.to_be_bytes();
        let option = |[high, low]: [u8; 2]| [2, 4, high, low];
        let asked = option(large);
        assert_eq!(
            becomes(e.client, &asked),
            answer(e.web, e.client, &asked).build()
        );
        for (mtu, v6, fits) in [
            (1500, false, if v4 { 1410 } else { 1390 }),
            (1500, true, if v4 { 1390 } else { 1370 }),
            (1400, false, if v4 { 1310 } else { 1290 }),
        ] {
            let fits: u16 = fits;
            attach(underlay(mtu, v6));
            let fitting = option(fits.to_be_bytes());
            let led = answer(e.web, e.client, &fitting).build();
            assert_eq!(becomes(e.client, &asked), led, "{} {mtu}", e.name);
            assert_eq!(becomes(e.client, &fitting), led, "{} {mtu}", e.name);
            let small = option(536_u16.to_be_bytes());
            let led = answer(e.web, e.client, &small).build();
            assert_eq!(becomes(e.client, &small), led, "{}: fits", e.name);
            assert_eq!(
                becomes(direct, &asked),
                answer(e.web, direct, &asked).build()
            );
            // Behind others, at odd places, and not at all.
            for before in [
                &[1, 1, 1, 1][..],
                &[4, 2, 1, 1],
                &[8, 10, 0, 0, 0, 1, 0, 0, 0, 2, 1, 1],
                &[1],
            ] {
                let of = |segment: &[u8; 4]| {
                    let mut options = [before, &segment[..]].concat();
                    options.resize(options.len().next_multiple_of(4), 0);
                    answer(e.web, e.client, &options)
                };
                let (got, led) = (
                    plane.replay_endpoint(&of(&asked).build()).unwrap(),
                    of(&fitting),
                );
                assert_eq!(got.frame, led.build(), "{} {before:?}", e.name);
            }
            let none = [1, 1, 4, 2];
            assert_eq!(
                becomes(e.client, &none),
                answer(e.web, e.client, &none).build()
            );
            let short = answer(e.web, e.client, &[8, 0, 0, 0]);
            let got = plane.replay_endpoint(&short.build()).unwrap();
            assert_eq!(got.frame, short.build(), "an option without an end");
        }
        attach(underlay(0, false));
    }
    assert_eq!(lost(&plane), []);
}

#[test]
fn a_tunnel_is_attached_and_detached_as_an_uplink_is() {
    let plane = on_loopback("remote-attach", edge(false));
    let underlay = Underlay {
        mtu: 1500,
        v6: false,
    };
    let attach = || plane.attach_tunnel(1, &lo(), underlay).unwrap();
    assert_eq!(attach(), Change::Created);
    assert_eq!(attach(), Change::Unchanged);
    assert_eq!(plane.tunnels().unwrap(), BTreeSet::from([1]));
    assert_eq!(plane.uplinks().unwrap(), BTreeSet::new());
    assert_eq!(plane.detach_tunnel(1).unwrap(), Change::Changed);
    assert_eq!(plane.detach_tunnel(1).unwrap(), Change::Unchanged);
    assert_eq!(plane.tunnels().unwrap(), BTreeSet::new());
}
