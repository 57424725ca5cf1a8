//! Backends on other nodes, packet by packet: what goes into the tunnel; [`crate::arrive`] has what comes
//! out of it.
//!
//! A program's run does not show which interface a packet goes to: [`crate::nodes`] sees where that leads.

use std::net::SocketAddr;
use std::os::fd::AsFd as _;

use abi::map::{JUMP_TC, TcSlot};
use abi::tunnel::sender as sender_of;
use api::id::MacAddr;
use netd::bpf::{Balanced, Change, Counts, Remote, Side, Underlay, Verdict};
use sys::bpf::probe::Probe;

use crate::cases::{PROTOCOLS, first, more};
use crate::guard::{edge, on_loopback};
use crate::instance::{Instance, frontend};
use crate::packet::{ACK, Fragment, Packet, RST, SYN, TCP, UDP, put, sum};
use Side::Ingress;

/// The service's number.
pub(crate) const SERVICE: u64 = 7;
/// The tunnel's interface, which a run does not reach, and what a node calls a backend.
const TUNNEL: u32 = 9;
const NUMBER: u32 = 0x3_0005;
/// `TC_ACT_REDIRECT`, include/uapi/linux/pkt_cls.h.
const REDIRECT: u32 = 7;
/// What fits into the tunnel of these tests, whichever underlay it has.
const FITS: u16 = 1300;

/// A family: a client, the published address, a backend's address, and a node of each underlay.
pub(crate) struct Ends {
    pub name: &'static str,
    pub client: SocketAddr,
    pub host: SocketAddr,
    pub web: SocketAddr,
}

pub(crate) fn ends() -> [Ends; 2] {
    let at = |text: &str| text.parse().unwrap();
    [
        Ends {
            name: "v4",
            client: at("198.18.0.7:40000"),
            host: at("192.0.2.1:8080"),
            web: at("172.18.0.2:80"),
        },
        Ends {
            name: "v6",
            client: at("[2001:db8:7::7]:40000"),
            host: at("[2001:db8::1]:8080"),
            web: at("[fd00:18::2]:80"),
        },
    ]
}

const NODES: [MacAddr; 2] = [MacAddr([6, 0, 0, 0, 0, 9]), MacAddr([6, 0, 0, 0, 0, 10])];

fn remote(node: MacAddr, number: u32) -> Remote {
    over(node, number, false)
}

fn over(node: MacAddr, number: u32, v6: bool) -> Remote {
    let around = if v6 { 70 } else { 50 };
    Remote {
        node,
        home: "192.0.2.9".parse().unwrap(),
        number,
        tunnel: TUNNEL,
        underlay: Underlay {
            mtu: FITS + around,
            v6,
        },
    }
}

pub(crate) fn local(plane: &Instance) {
    let local = ["192.0.2.1", "2001:db8::1"].map(|ip| ip.parse().unwrap());
    plane.set_local_addresses(&local.into()).unwrap();
}

/// A service at port 8080 of every protocol, with these backends.
pub(crate) fn service(backends: &[(SocketAddr, u32)]) -> Balanced {
    let v4 = backends
        .first()
        .is_none_or(|(backend, _)| backend.is_ipv4());
    let any = if v4 { "any4" } else { "any6" };
    let frontends = PROTOCOLS.map(|(name, _)| frontend(&format!("{any}:8080/{name}")));
    Balanced {
        frontends: frontends.into(),
        backends: backends.iter().copied().collect(),
        ..Balanced::default()
    }
}

/// A service whose backends are all on other nodes.
pub(crate) fn elsewhere(backends: &[(SocketAddr, u32, Remote)]) -> Balanced {
    let weights: Vec<_> = backends
        .iter()
        .map(|(at, weight, _)| (*at, *weight))
        .collect();
    Balanced {
        remotes: backends
            .iter()
            .map(|(at, _, remote)| (*at, *remote))
            .collect(),
        ..service(&weights)
    }
}

/// A host whose service has one backend, on a node over this underlay.
fn sender(name: &str, v6: bool) -> Instance {
    let plane = Instance::open(name, None);
    local(&plane);
    for (number, e) in (SERVICE..).step_by(10).zip(ends()) {
        let service = elsewhere(&[(e.web, 1, over(NODES[0], NUMBER, v6))]);
        assert_eq!(plane.balance(number, &service).unwrap(), Change::Created);
        assert_eq!(plane.balance(number, &service).unwrap(), Change::Unchanged);
        assert_eq!(plane.balanced().unwrap()[&number], service);
    }
    plane
}

/// Returns the link addresses with which the packet goes on, to and from.
#[track_caller]
fn goes_on(plane: &Instance, what: &str, packet: &Packet) -> Vec<u8> {
    let got = plane.replay(Ingress, &packet.build()).unwrap();
    assert_eq!(got.verdict, Verdict::Redirect, "{what}");
    let (link, rest) = got.frame.split_at(12);
    assert_eq!(rest, &packet.build()[12..], "{what}: as it came");
    link.to_vec()
}

/// The link addresses of a frame for a backend.
fn link(node: MacAddr, number: u32) -> Vec<u8> {
    [node.0, sender_of(number).octets()].concat()
}

pub(crate) fn lost(plane: &Instance) -> Vec<(&'static str, u64)> {
    let drops = plane.drops().unwrap();
    drops.into_iter().filter(|(_, count)| *count > 0).collect()
}

/// Counts of all backends, by their address.
pub(crate) fn counts(plane: &Instance, backend: SocketAddr) -> Counts {
    let all = plane.traffic().unwrap();
    let mut backends = all.iter().flat_map(|service| &service.backends);
    let found = backends.find(|traffic| traffic.address == backend);
    found.map(|traffic| traffic.counts).unwrap_or_default()
}

#[test]
fn packets_for_another_node_go_there_as_they_came() {
    for (underlay, v6) in [("v4", false), ("v6", true)] {
        let plane = sender(&format!("remote-{underlay}"), v6);
        for (name, protocol) in PROTOCOLS {
            for e in ends() {
                let what = format!("{name} {} over {underlay}", e.name);
                let before = counts(&plane, e.web);
                let packets = [
                    first(protocol, e.client, e.host),
                    more(protocol, e.client, e.host),
                    more(protocol, e.client, e.host).payload(&[7; 1000]),
                    more(protocol, e.client, e.host).ttl(1),
                    first(protocol, e.client, e.host),
                ];
                for packet in &packets {
                    let went = goes_on(&plane, &what, packet);
                    assert_eq!(went, link(NODES[0], NUMBER), "{what}");
                }
                let after = counts(&plane, e.web);
                assert_eq!(after.packets_in - before.packets_in, 5, "{what}");
                assert_eq!(after.new_flows - before.new_flows, 1, "{what}");
                let bytes: usize = packets.iter().map(|packet| packet.build().len()).sum();
                assert_eq!(after.bytes_in - before.bytes_in, bytes as u64, "{what}");
                assert_eq!(after.packets_out, 0, "{what}: the reply goes another way");
            }
        }
        assert_eq!(lost(&plane), []);
    }
}

#[test]
fn headers_of_all_kinds_are_found() {
    let plane = sender("remote-headers", false);
    let [v4, v6] = ends();
    let of = |e: &Ends, protocol| more(protocol, e.client, e.host);
    for (name, p) in PROTOCOLS {
        for (what, packet) in [
            ("IPv4 options", of(&v4, p).options(&[1; 8])),
            ("padding", of(&v4, p).payload(&[]).padding(6)),
            ("an extension header", of(&v6, p).extension(60, 1)),
            ("an authentication header", of(&v6, p).authenticated()),
        ] {
            goes_on(&plane, &format!("{name}: {what}"), &packet);
        }
    }
    let client = |e: &Ends| SocketAddr::new(e.client.ip(), 41_000);
    for e in [&v4, &v6] {
        // The later ones follow the first one, and go nowhere without it.
        let later = more(UDP, client(e), e.host).fragment(Fragment::Later);
        let got = plane.replay(Ingress, &later.build()).unwrap();
        assert_eq!(got.verdict, Verdict::Pass, "{}: nobody's yet", e.name);
        goes_on(
            &plane,
            e.name,
            &more(UDP, client(e), e.host).fragment(Fragment::First),
        );
        goes_on(&plane, e.name, &later);
    }
    assert_eq!(lost(&plane), []);
}

/// Makes an IPv4 packet one that nobody may cut up.
fn whole(packet: Packet, v4: bool) -> Packet {
    if v4 { packet.edit(20, 0x40) } else { packet }
}

/// What tells the sender of `packet` that only [`FITS`] bytes do, on its way back.
fn too_long(e: &Ends, packet: &Packet) -> Vec<u8> {
    let v4 = e.host.is_ipv4();
    let (kind, code, quoted) = if v4 { (3, 4, 68) } else { (2, 0, 72) };
    // The builder's messages tell 1300 where this one tells what fits.
    let error = Packet::error(e.host.ip(), e.client.ip(), kind, packet, quoted).code(code);
    let mut frame = error.build();
    let (to, from) = frame.split_at_mut(6);
    to.swap_with_slice(&mut from[..6]);
    if v4 {
        // Not to be cut up itself, so that it needs no id.
        frame[18..22].copy_from_slice(&[0, 0, 0x40, 0]);
        put(&mut frame, 24, 0);
        let header = !sum(&frame[14..34], 0);
        put(&mut frame, 24, header);
    }
    frame
}

#[test]
fn who_sends_too_much_hears_what_fits() {
    for (underlay, v6) in [("v4", false), ("v6", true)] {
        let plane = sender(&format!("remote-long-{underlay}"), v6);
        let mut told = 0;
        for (name, protocol) in [("tcp", TCP), ("udp", UDP)] {
            for e in ends() {
                let v4 = e.host.is_ipv4();
                let what = format!("{name} {} over {underlay}", e.name);
                let headers = if v4 { 20 } else { 40 } + if protocol == TCP { 20 } else { 8 };
                let of = |length: usize| {
                    let packet = more(protocol, e.client, e.host);
                    whole(packet.payload(&vec![7; length - headers]), v4)
                };
                goes_on(&plane, &what, &of(usize::from(FITS)));
                for length in [usize::from(FITS) + 1, 1500] {
                    let packet = of(length);
                    let got = plane.replay(Ingress, &packet.build()).unwrap();
                    assert_eq!(got.verdict, Verdict::Redirect, "{what}, {length}");
                    assert_eq!(got.frame, too_long(&e, &packet), "{what}, {length}");
                    told += 1;
                }
                if v4 {
                    let cut = more(protocol, e.client, e.host).payload(&[7; 1400]);
                    if underlay == "v4" {
                        goes_on(&plane, &format!("{what}, the tunnel cuts"), &cut);
                    } else {
                        let got = plane.replay(Ingress, &cut.build()).unwrap();
                        assert_eq!(got.frame, too_long(&e, &cut), "{what}, the tunnel cannot");
                        told += 1;
                    }
                }
                goes_on(&plane, &what, &of(usize::from(FITS)));
            }
        }
        assert_eq!(lost(&plane), [("too-long", told)]);
        // Options and fragments, of which the sender must find its own.
        let [v4, v6] = ends();
        let long = |e: &Ends| more(UDP, e.client, e.host).payload(&[7; 1400]);
        for (e, packet) in [
            (&v4, whole(long(&v4).options(&[1; 40]), true)),
            (&v6, long(&v6).fragment(Fragment::First)),
            (&v6, long(&v6).extension(60, 2)),
        ] {
            let got = plane.replay(Ingress, &packet.build()).unwrap();
            assert_eq!(got.verdict, Verdict::Redirect);
            assert_eq!(got.frame, too_long(e, &packet));
        }
    }
}

#[test]
fn errors_about_replies_go_where_those_come_from() {
    let plane = sender("remote-icmp", false);
    for e in ends() {
        let reply = more(TCP, e.host, e.client);
        let router = if e.host.is_ipv4() {
            "198.51.100.1"
        } else {
            "2001:db8:7::ffff"
        };
        let kind = if e.host.is_ipv4() { 3 } else { 2 };
        let error = || Packet::error(router.parse().unwrap(), e.host.ip(), kind, &reply, 60);
        let got = plane.replay(Ingress, &error().build()).unwrap();
        assert_eq!(got.verdict, Verdict::Pass, "{}: about nobody's", e.name);
        goes_on(&plane, e.name, &first(TCP, e.client, e.host));
        goes_on(&plane, e.name, &error());
    }
}

/// Which of the backends a packet of a client went to.
#[track_caller]
fn chosen(plane: &Instance, backends: [SocketAddr; 2], packet: &Packet) -> usize {
    let before = backends.map(|backend| counts(plane, backend).packets_in);
    let to = goes_on(plane, "a packet", packet);
    let after = backends.map(|backend| counts(plane, backend).packets_in);
    let went: Vec<usize> = (0..2).filter(|i| after[*i] == before[*i] + 1).collect();
    assert_eq!(went.len(), 1, "{before:?} {after:?}");
    let at = went[0];
    assert_eq!(to, link(NODES[at], NUMBER + at as u32));
    at
}

#[test]
fn flows_stay_at_their_node_until_the_backend_is_gone() {
    for (e, other) in ends().iter().zip(["172.18.0.3:80", "[fd00:18::3]:80"]) {
        for (name, protocol) in PROTOCOLS {
            let plane = Instance::open(&format!("remote-stay-{}-{name}", e.name), None);
            local(&plane);
            let backends = [e.web, other.parse().unwrap()];
            let nodes = [remote(NODES[0], NUMBER), remote(NODES[1], NUMBER + 1)];
            let with = |weights: &[(usize, u32)]| {
                let all = weights
                    .iter()
                    .map(|(i, weight)| (backends[*i], *weight, nodes[*i]));
                elsewhere(&all.collect::<Vec<_>>())
            };
            plane.balance(SERVICE, &with(&[(0, 1), (1, 1)])).unwrap();
            let client = |port| SocketAddr::new(e.client.ip(), port);
            let what = |port| first(protocol, client(port), e.host);
            // Some of either.
            let went: Vec<usize> = (0..16)
                .map(|i| chosen(&plane, backends, &what(40_000 + i)))
                .collect();
            assert!(went.contains(&0) && went.contains(&1), "{went:?}");
            let again = |port| more(protocol, client(port), e.host);
            let ports = || (40_000..).zip(&went);
            // Draining: no new flows, but those that there are.
            plane.balance(SERVICE, &with(&[(0, 0), (1, 1)])).unwrap();
            for (port, went) in ports() {
                assert_eq!(
                    chosen(&plane, backends, &again(port)),
                    *went,
                    "{name} {port}"
                );
                assert_eq!(
                    chosen(&plane, backends, &again(port)),
                    *went,
                    "{name} {port}"
                );
            }
            for port in 41_000..41_016 {
                assert_eq!(chosen(&plane, backends, &what(port)), 1, "{name} {port}");
            }
            // Gone.
            plane.balance(SERVICE, &with(&[(1, 1)])).unwrap();
            for (port, _) in ports() {
                assert_eq!(chosen(&plane, backends, &again(port)), 1, "{name} {port}");
            }
            assert_eq!(lost(&plane), []);
        }
    }
}

#[test]
fn a_backend_that_moves_takes_no_flow_along() {
    let [e, _] = ends();
    let mut plane = Instance::open("remote-move", None);
    local(&plane);
    let here = || service(&[(e.web, 1)]);
    let there = |node, number| elsewhere(&[(e.web, 1, remote(node, number))]);
    plane.balance(SERVICE, &here()).unwrap();
    let packet = first(TCP, e.client, e.host);
    let got = plane.replay(Ingress, &packet.build()).unwrap();
    assert_eq!(
        (got.verdict, got.frame),
        (Verdict::Pass, packet.between(e.client, e.web).build())
    );
    for (node, number) in [
        (NODES[0], NUMBER),
        (NODES[0], NUMBER + 1),
        (NODES[1], NUMBER + 1),
    ] {
        let service = there(node, number);
        let flows = || plane.traffic().unwrap()[0].past.new_flows + counts(&plane, e.web).new_flows;
        let before = flows();
        assert_eq!(plane.balance(SERVICE, &service).unwrap(), Change::Changed);
        goes_on(&plane, "a later one", &more(TCP, e.client, e.host));
        assert_eq!(flows() - before, 1, "begun anew");
        assert_eq!(plane.balanced().unwrap()[&SERVICE], service);
        // What another way there is like is no other backend.
        let mut longer = service.clone();
        longer.remotes.get_mut(&e.web).unwrap().underlay.mtu += 100;
        assert_eq!(plane.balance(SERVICE, &longer).unwrap(), Change::Changed);
        goes_on(
            &plane,
            "a later one",
            &more(TCP, e.client, e.host).payload(&[7; 1300]),
        );
        assert_eq!(flows() - before, 1, "goes on");
        assert_eq!(plane.balanced().unwrap()[&SERVICE], longer);
        plane.close();
        plane.reopen();
        assert_eq!(
            plane.balanced().unwrap()[&SERVICE],
            longer,
            "after a restart"
        );
        goes_on(&plane, "a later one", &more(TCP, e.client, e.host));
    }
    assert_eq!(plane.balance(SERVICE, &here()).unwrap(), Change::Changed);
    let packet = more(TCP, e.client, e.host);
    let got = plane.replay(Ingress, &packet.build()).unwrap();
    assert_eq!(
        (got.verdict, got.frame),
        (Verdict::Pass, packet.between(e.client, e.web).build())
    );
}

/// As a daemon of another version does: what flows are remembered by is copied, where backends are is not
/// touched.
#[test]
fn an_upgrade_keeps_flows_at_their_node() {
    let [e, _] = ends();
    let mut plane = Instance::open("remote-upgrade", None);
    local(&plane);
    let backends = [e.web, "172.18.0.3:80".parse().unwrap()];
    let nodes = [remote(NODES[0], NUMBER), remote(NODES[1], NUMBER + 1)];
    let with = |first| elsewhere(&[(backends[0], first, nodes[0]), (backends[1], 1, nodes[1])]);
    plane.balance(SERVICE, &with(1)).unwrap();
    let client = |port| SocketAddr::new(e.client.ip(), port);
    let went: Vec<usize> = (40_000..40_016)
        .map(|port| chosen(&plane, backends, &first(TCP, client(port), e.host)))
        .collect();
    // From here on nobody would be led to the first one anew.
    plane.balance(SERVICE, &with(0)).unwrap();
    for sizes in [&[("ct_tcp", 4096), ("ct_half", 4096)][..], &[]] {
        plane.upgrade(sizes);
        assert_eq!(plane.balanced().unwrap()[&SERVICE], with(0));
        for (port, went) in (40_000..).zip(&went) {
            let packet = more(TCP, client(port), e.host);
            assert_eq!(chosen(&plane, backends, &packet), *went, "{sizes:?} {port}");
        }
    }
    assert_eq!(lost(&plane), []);
}

#[test]
fn the_tag_of_a_link_is_not_in_the_way() {
    let plane = sender("remote-tag", false);
    let table = sys::bpf::open(&plane.options.pin_dir.join(JUMP_TC)).unwrap();
    let vlan = (0x8100_u16.to_be(), 5);
    let probe = Probe::tagging(table.as_fd(), TcSlot::Ingress as u32, &[vlan]).unwrap();
    for e in ends() {
        let frame = first(TCP, e.client, e.host).build();
        let mut out = vec![0; frame.len() + 4];
        let run = probe.run(&frame, &mut out, 1).unwrap();
        assert_eq!(run.verdict, REDIRECT, "{}", e.name);
        let led = [&link(NODES[0], NUMBER)[..], &frame[12..]].concat();
        assert_eq!(out[..run.length], led, "{}", e.name);
    }
}

/// How many flows a table has.
pub(crate) fn entries(plane: &Instance, table: &str) -> u32 {
    let fill = plane.fill().unwrap();
    fill.iter()
        .find(|fill| fill.table == table)
        .unwrap()
        .entries
}

#[test]
fn forged_connections_to_another_node_evict_only_their_like() {
    let plane = sender("remote-flood", false);
    let [e, _] = ends();
    let of = |port, flags| Packet::new(TCP, SocketAddr::new(e.client.ip(), port), e.host, flags);
    for port in 1000..1100 {
        goes_on(&plane, "a SYN", &of(port, SYN));
        goes_on(&plane, "the same again", &of(port, SYN));
    }
    assert_eq!(
        (entries(&plane, "ct_half"), entries(&plane, "ct_tcp")),
        (100, 0)
    );
    // The client goes on: somebody has answered it.
    for _ in 0..2 {
        goes_on(&plane, "an ACK", &of(1000, ACK));
    }
    assert_eq!(
        (entries(&plane, "ct_half"), entries(&plane, "ct_tcp")),
        (99, 1)
    );
    let active = || {
        let all = plane.traffic().unwrap();
        let backends = all.iter().flat_map(|service| &service.backends);
        backends.map(|backend| backend.active).sum::<u64>()
    };
    assert_eq!(active(), 100);
    goes_on(&plane, "a FIN", &of(1000, crate::packet::FIN_ACK));
    goes_on(&plane, "a RST", &of(1001, RST));
    assert_eq!(active(), 98, "over, as far as anybody here can tell");
    assert_eq!(plane.sweep(std::time::Duration::ZERO).unwrap(), 1);
}

#[test]
fn a_container_is_led_to_the_other_node_as_everybody_is() {
    let plane = on_loopback("remote-endpoint", edge(false));
    local(&plane);
    for (number, (e, [web, node])) in (SERVICE..).step_by(10).zip(ends().iter().zip([
        ["172.18.0.77:80", "192.0.2.9:8080"],
        ["[fd00:18::77]:80", "[2001:db8::9]:8080"],
    ])) {
        let web = web.parse().unwrap();
        let node: SocketAddr = node.parse().unwrap();
        let way = Remote {
            home: node.ip(),
            ..remote(NODES[0], NUMBER)
        };
        plane.balance(number, &elsewhere(&[(web, 1, way)])).unwrap();
        let asker = SocketAddr::new(e.web.ip(), 40_000);
        let packet = first(TCP, asker, e.host);
        let got = plane.replay_endpoint(&packet.build()).unwrap();
        let led = packet.between(asker, node).build();
        assert_eq!((got.verdict, got.frame), (Verdict::Pass, led), "{}", e.name);
    }
}
