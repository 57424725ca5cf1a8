//! What an endpoint may send, packet by packet. Loopback of a namespace stands for its link: the
//! kernel runs a test frame as if it had come from there.

use std::net::Ipv6Addr;

use api::id::{IfName, MacAddr};
use netd::bpf::{Edge, Verdict};
use sys::netns::NetNs;

use crate::frame::{self, SYN, Shape, UDP, later_fragment, shaped_tcp, shaped_udp, tcp, udp};
use crate::instance::Instance;

pub(crate) const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const OTHER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
const OWN: &str = "172.18.0.2";
const OWN6: &str = "fd00:18::2";
const LINK_LOCAL: &str = "fe80::ff:fe00:1";
const PEER6: &str = "fd00:18::3";

pub(crate) fn edge(checked: bool) -> Edge {
    Edge {
        mac: MacAddr(MAC),
        v4: OWN.parse().ok(),
        v6: OWN6.parse().ok(),
        checked,
        network: 7,
        direct_mtu: Some(1500),
        resolver: None,
    }
}

/// Enters a namespace whose loopback is the link of `edge`.
pub(crate) fn on_loopback(name: &str, edge: Edge) -> Instance {
    let namespace = NetNs::create().expect("root is needed to create a network namespace");
    namespace.enter().unwrap();
    let plane = Instance::open(name, None);
    plane.attach_endpoint(&lo(), &edge).unwrap();
    plane
}

pub(crate) fn lo() -> IfName {
    IfName::parse("lo").unwrap()
}

fn refused(plane: &Instance) -> Vec<(&'static str, u64)> {
    let refusals = plane.refusals().unwrap();
    refusals.into_iter().filter(|(_, n)| *n > 0).collect()
}

#[track_caller]
fn passes(plane: &Instance, what: &str, packet: &[u8]) {
    let before = refused(plane);
    let got = plane.replay_endpoint(packet).unwrap();
    assert_eq!(got.verdict, Verdict::Pass, "{what}: {:?}", refused(plane));
    assert_eq!(got.frame, packet, "{what}: untouched");
    assert_eq!(refused(plane), before, "{what}");
}

#[track_caller]
fn dropped(plane: &Instance, what: &str, reason: &str, packet: &[u8]) {
    let count = |plane: &Instance| {
        let all = plane.refusals().unwrap();
        let found = all.into_iter().find(|(name, _)| *name == reason);
        found.unwrap_or_else(|| panic!("no reason {reason}")).1
    };
    let before = count(plane);
    let got = plane.replay_endpoint(packet).unwrap();
    assert_eq!(got.verdict, Verdict::Drop, "{what}");
    assert_eq!(count(plane), before + 1, "{what}: {:?}", refused(plane));
}

fn arp(operation: u8, mac: [u8; 6], sender: [u8; 4]) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend(MAC);
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, operation]);
    frame.extend(mac);
    frame.extend(sender);
    frame.extend([0; 6]);
    frame.extend([172, 18, 0, 1]);
    frame
}

/// An ICMPv6 message; its checksum is the receiver's business.
fn icmp6(from: &str, kind: u8, body: &[u8], shape: Shape<'_>) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0];
    message.extend(body);
    let to = "ff02::1".parse().unwrap();
    frame::frame(from.parse().unwrap(), to, 58, &message, shape)
}

/// Flags, target, and options `(kind, link address)`.
fn neighbour(target: &str, options: &[(u8, [u8; 6])]) -> Vec<u8> {
    let mut body = vec![0; 4];
    body.extend(target.parse::<Ipv6Addr>().unwrap().octets());
    for (kind, mac) in options {
        body.extend([*kind, 1]);
        body.extend(mac);
    }
    body
}

const ECHO: u8 = 128;
const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;
const LISTENER_REPORT: u8 = 143;

#[test]
fn an_endpoint_sends_in_its_own_name() {
    let plane = on_loopback("guard-own", edge(true));
    let plain = Shape::default();
    passes(&plane, "TCP", &tcp("172.18.0.2:80", "198.51.100.7:4", SYN));
    passes(&plane, "UDP", &udp("172.18.0.2:53", "255.255.255.255:9"));
    let ping = frame::frame(
        OWN.parse().unwrap(),
        "8.8.8.8".parse().unwrap(),
        1,
        &[8, 0, 0, 0, 0, 1, 0, 1],
        plain,
    );
    passes(&plane, "a raw socket's ping", &ping);
    let later = later_fragment(OWN, "198.51.100.7", UDP);
    passes(&plane, "a later fragment", &later);
    let options = Shape {
        options: &[1; 8],
        ..plain
    };
    let packet = shaped_tcp("172.18.0.2:80", "198.51.100.7:4", SYN, options);
    passes(&plane, "IP options", &packet);
    passes(
        &plane,
        "TCP 6",
        &tcp("[fd00:18::2]:80", "[2001:db8::7]:4", SYN),
    );
    let hop_by_hop = Shape {
        options: &[17, 0, 1, 4, 0, 0, 0, 0],
        extension: Some(0),
        ..plain
    };
    let packet = shaped_udp("[fd00:18::2]:80", "[2001:db8::7]:4", hop_by_hop);
    passes(&plane, "an extension header", &packet);
    let dhcp = udp("172.18.0.2:68", "172.18.0.1:67");
    passes(&plane, "a DHCP client", &dhcp);
    let discover = udp("0.0.0.0:68", "255.255.255.255:67");
    passes(&plane, "a DHCP client without an address", &discover);
    passes(&plane, "ARP request", &arp(1, MAC, [172, 18, 0, 2]));
    passes(&plane, "ARP reply", &arp(2, MAC, [172, 18, 0, 2]));
    passes(&plane, "ARP probe", &arp(1, MAC, [0; 4]));
}

#[test]
fn neighbour_discovery_of_the_own_addresses_works() {
    let plane = on_loopback("guard-nd", edge(true));
    let send = |what, from, kind, body: &[u8]| {
        passes(&plane, what, &icmp6(from, kind, body, Shape::default()));
    };
    send("echo", OWN6, ECHO, &[0; 4]);
    send("from the link-local address", LINK_LOCAL, ECHO, &[0; 4]);
    let ask = neighbour(PEER6, &[(1, MAC)]);
    send("who has the peer's address", OWN6, SOLICITATION, &ask);
    let ask = neighbour(OWN6, &[]);
    send("is it free", "::", SOLICITATION, &ask);
    let ask = neighbour(LINK_LOCAL, &[(14, [9; 6])]);
    send("is it free, with a nonce", "::", SOLICITATION, &ask);
    let tell = neighbour(OWN6, &[(2, MAC)]);
    send("I have it", OWN6, ADVERTISEMENT, &tell);
    let tell = neighbour(LINK_LOCAL, &[]);
    send("I have it, in short", LINK_LOCAL, ADVERTISEMENT, &tell);
    let solicit = [&[0; 4][..], &[1, 1], &MAC].concat();
    send(
        "are there routers",
        LINK_LOCAL,
        ROUTER_SOLICITATION,
        &solicit,
    );
    send("are there routers", "::", ROUTER_SOLICITATION, &[0; 4]);
    send("group membership", "::", LISTENER_REPORT, &[0; 4]);
}

#[test]
fn other_addresses_are_refused() {
    let plane = on_loopback("guard-other", edge(true));
    let out = |what, reason, packet: &[u8]| dropped(&plane, what, reason, packet);
    let mut stolen = tcp("172.18.0.2:80", "198.51.100.7:4", SYN);
    stolen[6..12].copy_from_slice(&OTHER_MAC);
    out("source MAC", "mac", &stolen);
    let packet = tcp("172.18.0.3:80", "198.51.100.7:4", SYN);
    out("IPv4 source", "ipv4", &packet);
    let packet = later_fragment("172.18.0.3", "198.51.100.7", UDP);
    out("a later fragment", "ipv4", &packet);
    let packet = udp("0.0.0.0:9", "255.255.255.255:9");
    out("no IPv4 source", "ipv4", &packet);
    let packet = tcp("[fd00:18::3]:80", "[2001:db8::7]:4", SYN);
    out("IPv6 source", "ipv6", &packet);
    let packet = tcp("[fe80::9]:80", "[2001:db8::7]:4", SYN);
    out("link-local source", "ipv6", &packet);
    let packet = tcp("[::]:80", "[2001:db8::7]:4", SYN);
    out("no IPv6 source", "ipv6", &packet);
    let packet = udp("[::ffff:172.18.0.2]:80", "[2001:db8::7]:4");
    out("a mapped source", "malformed", &packet);
    out("ARP sender", "arp", &arp(2, MAC, [172, 18, 0, 1]));
    out("ARP hardware", "arp", &arp(2, OTHER_MAC, [172, 18, 0, 2]));
    out("ARP announcement", "arp", &arp(1, MAC, [172, 18, 0, 1]));
    out("ARP reply for nobody", "arp", &arp(2, MAC, [0; 4]));
    out("RARP", "arp", &arp(3, MAC, [172, 18, 0, 2]));
    let packet = udp("172.18.0.2:67", "172.18.0.9:68");
    out("a DHCP server", "dhcp-server", &packet);
    let packet = udp("[fd00:18::2]:547", "[fd00:18::9]:546");
    out("a DHCPv6 server", "dhcp-server", &packet);
}

#[test]
fn neighbour_discovery_for_others_is_refused() {
    let plane = on_loopback("guard-nd-other", edge(true));
    let plain = Shape::default();
    let send = |what, reason, from, kind, body: &[u8], shape| {
        dropped(&plane, what, reason, &icmp6(from, kind, body, shape));
    };
    let nd = "neighbour-discovery";
    let tell = neighbour(PEER6, &[(2, MAC)]);
    send("another's address", nd, OWN6, ADVERTISEMENT, &tell, plain);
    let tell = neighbour(OWN6, &[(2, OTHER_MAC)]);
    send("another's MAC", nd, OWN6, ADVERTISEMENT, &tell, plain);
    let ask = neighbour(PEER6, &[(1, OTHER_MAC)]);
    send("asks for another", nd, OWN6, SOLICITATION, &ask, plain);
    let ask = neighbour(PEER6, &[]);
    send("keeps an address busy", nd, "::", SOLICITATION, &ask, plain);
    let twice = neighbour(OWN6, &[(2, MAC), (2, OTHER_MAC)]);
    send("the second option", nd, OWN6, ADVERTISEMENT, &twice, plain);
    send(
        "a router",
        "router",
        OWN6,
        ROUTER_ADVERTISEMENT,
        &[0; 12],
        plain,
    );
    send("a redirect", "router", OWN6, REDIRECT, &[0; 36], plain);
    let hidden = Shape {
        options: &[58, 0, 1, 4, 0, 0, 0, 0],
        extension: Some(60),
        ..plain
    };
    let advertise = &[0; 12];
    send(
        "behind an extension",
        "router",
        OWN6,
        ROUTER_ADVERTISEMENT,
        advertise,
        hidden,
    );
    let fragment = Shape {
        options: &[58, 0, 0, 1, 0, 0, 0, 7],
        extension: Some(44),
        ..plain
    };
    let tell = neighbour(OWN6, &[]);
    send("in fragments", nd, OWN6, ADVERTISEMENT, &tell, fragment);
    send("echo from nowhere", "ipv6", "::", ECHO, &[0; 4], plain);
}

#[test]
fn tags_and_unknown_protocols_are_refused() {
    let plane = on_loopback("guard-kinds", edge(true));
    let with_type = |kind: [u8; 2]| {
        let mut frame = tcp("172.18.0.2:80", "198.51.100.7:4", SYN);
        frame[12..14].copy_from_slice(&kind);
        frame
    };
    dropped(&plane, "802.1Q", "vlan", &with_type([0x81, 0]));
    dropped(&plane, "802.1ad", "vlan", &with_type([0x88, 0xa8]));
    dropped(&plane, "LLDP", "ethertype", &with_type([0x88, 0xcc]));
    dropped(
        &plane,
        "a spanning tree's length",
        "ethertype",
        &with_type([0, 38]),
    );
}

#[test]
fn cut_off_packets_are_refused_and_never_read_beyond_their_end() {
    let plane = on_loopback("guard-short", edge(true));
    let advertise = icmp6(
        OWN6,
        ADVERTISEMENT,
        &neighbour(OWN6, &[(2, MAC)]),
        Shape::default(),
    );
    for whole in [
        udp("172.18.0.2:80", "198.51.100.7:4"),
        arp(1, MAC, [172, 18, 0, 2]),
        advertise,
        udp("[fd00:18::2]:80", "[2001:db8::7]:4"),
    ] {
        // What follows the checked headers may be missing.
        let needed = match whole[12..14] {
            [8, 0] => 14 + 20 + 4,
            [8, 6] => whole.len(),
            _ if whole[20] == 58 => whole.len(),
            _ => 14 + 40 + 4,
        };
        // The kernel itself runs no IP packet without a whole header.
        let shortest = match whole[12..14] {
            [8, 0] => 14 + 20,
            [8, 6] => 14,
            _ => 14 + 40,
        };
        for length in shortest..whole.len() {
            let got = plane.replay_endpoint(&whole[..length]).unwrap();
            let expected = if length < needed {
                Verdict::Drop
            } else {
                Verdict::Pass
            };
            assert_eq!(got.verdict, expected, "{length} of {whole:x?}");
            assert_eq!(got.frame, whole[..length]);
        }
    }
    let mut bad = tcp("172.18.0.2:80", "198.51.100.7:4", SYN);
    bad[14] = 0x44;
    dropped(&plane, "header length 16", "malformed", &bad);
    let endless = Shape {
        options: &[0, 0, 1, 4, 0, 0, 0, 0].repeat(7),
        extension: Some(0),
        ..Shape::default()
    };
    let packet = shaped_tcp("[fd00:18::2]:80", "[2001:db8::7]:4", SYN, endless);
    dropped(&plane, "too many extensions", "malformed", &packet);
    let options = [(14, [0; 6]); 5];
    let many = icmp6(
        OWN6,
        ADVERTISEMENT,
        &neighbour(OWN6, &options),
        Shape::default(),
    );
    dropped(&plane, "too many options", "malformed", &many);
}

#[test]
fn an_unchecked_endpoint_sends_what_it_likes() {
    let plane = on_loopback("guard-off", edge(false));
    let virtual_address = tcp("172.18.0.200:80", "198.51.100.7:4", SYN);
    passes(&plane, "another IPv4 source", &virtual_address);
    passes(&plane, "ARP for it", &arp(2, OTHER_MAC, [172, 18, 0, 200]));
    let cut = &virtual_address[..34];
    passes(&plane, "a header of a packet", cut);
}

#[test]
fn a_released_endpoint_sends_nothing() {
    let plane = on_loopback("guard-released", edge(true));
    let packet = tcp("172.18.0.2:80", "198.51.100.7:4", SYN);
    passes(&plane, "before", &packet);
    plane.release_endpoint(&lo()).unwrap();
    dropped(&plane, "after", "removed-endpoint", &packet);
}
