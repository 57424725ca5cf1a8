//! The tc programs, frame by frame (`BPF_PROG_TEST_RUN`). Needs root.

use std::collections::BTreeSet;

use crate::frame::{
    ACK, FIN_ACK, RST, SYN, Shape, TCP, UDP, icmp_error, later_fragment, shaped_tcp, shaped_udp,
    tcp, udp,
};
use crate::instance::{Instance, frontend};
use netd::bpf::{Change, Side, Verdict};

use Side::{Egress, Ingress};
use Verdict::{Drop, Pass};

const CLIENT: &str = "198.51.100.7:40000";
const HOST: &str = "192.0.2.1:8080";
const WEB: &str = "172.18.0.2:80";
const CLIENT6: &str = "[2001:db8:7::7]:40000";
const HOST6: &str = "[2001:db8::1]:8080";
const WEB6: &str = "[fd00:18::2]:80";

/// A host with the addresses of `HOST` and `HOST6` and port 8080 published on all of them.
fn host(name: &str) -> Instance {
    let plane = Instance::open(name, None);
    let local = ["192.0.2.1", "127.0.0.1", "2001:db8::1", "::1"];
    let local: BTreeSet<_> = local.iter().map(|ip| ip.parse().unwrap()).collect();
    assert_eq!(plane.set_local_addresses(&local).unwrap(), Change::Changed);
    for protocol in ["tcp", "udp"] {
        for (address, backend) in [("any4", WEB), ("any6", WEB6)] {
            let frontend = frontend(&format!("{address}:8080/{protocol}"));
            let change = plane.publish(frontend, backend.parse().unwrap()).unwrap();
            assert_eq!(change, Change::Created);
        }
    }
    plane
}

#[track_caller]
fn check(plane: &Instance, name: &str, side: Side, frame: Vec<u8>, verdict: Verdict, out: Vec<u8>) {
    let got = plane.replay(side, &frame).unwrap();
    assert_eq!(got.verdict, verdict, "{name}");
    if verdict != Drop {
        assert_eq!(got.frame, out, "{name}");
    }
}

#[track_caller]
fn translated(plane: &Instance, name: &str, side: Side, frame: Vec<u8>, out: Vec<u8>) {
    assert_ne!(frame, out, "{name}: the row translates nothing");
    check(plane, name, side, frame, Pass, out);
}

#[track_caller]
fn untouched(plane: &Instance, name: &str, side: Side, frame: Vec<u8>) {
    check(plane, name, side, frame.clone(), Pass, frame);
}

#[test]
fn requests_reach_the_backend_and_replies_come_from_the_frontend() {
    let plane = host("requests");
    for (client, host, web) in [(CLIENT, HOST, WEB), (CLIENT6, HOST6, WEB6)] {
        for flags in [SYN, ACK, FIN_ACK] {
            let (packet, out) = (tcp(client, host, flags), tcp(client, web, flags));
            translated(&plane, "tcp request", Ingress, packet, out);
            let (packet, out) = (tcp(web, client, flags), tcp(host, client, flags));
            translated(&plane, "tcp reply", Egress, packet, out);
        }
        translated(
            &plane,
            "udp request",
            Ingress,
            udp(client, host),
            udp(client, web),
        );
        translated(
            &plane,
            "udp reply",
            Egress,
            udp(web, client),
            udp(host, client),
        );
    }
}

#[test]
fn headers_of_variable_length_are_followed() {
    let plane = host("headers");
    // Router alert; a hop-by-hop header of eight bytes (RFC 2711), then the same and a padded
    // destination header.
    let options = Shape {
        options: &[148, 4, 0, 0],
        ..Shape::default()
    };
    let hop = Shape {
        options: &[TCP, 0, 5, 2, 0, 0, 1, 0],
        extension: Some(0),
        ..Shape::default()
    };
    let two = Shape {
        options: &[
            60, 0, 5, 2, 0, 0, 1, 0, TCP, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        ],
        extension: Some(0),
        ..Shape::default()
    };
    for (name, shape, client, host, web) in [
        ("options", options, CLIENT, HOST, WEB),
        ("hop-by-hop", hop, CLIENT6, HOST6, WEB6),
        ("two extensions", two, CLIENT6, HOST6, WEB6),
    ] {
        let (packet, out) = (
            shaped_tcp(client, host, SYN, shape),
            shaped_tcp(client, web, SYN, shape),
        );
        translated(&plane, name, Ingress, packet, out);
        let (packet, out) = (
            shaped_tcp(web, client, ACK, shape),
            shaped_tcp(host, client, ACK, shape),
        );
        translated(&plane, name, Egress, packet, out);
    }
}

#[test]
fn a_missing_udp_checksum_stays_missing() {
    let plane = host("udp-zero");
    let shape = Shape {
        no_checksum: true,
        ..Shape::default()
    };
    let (packet, out) = (
        shaped_udp(CLIENT, HOST, shape),
        shaped_udp(CLIENT, WEB, shape),
    );
    translated(&plane, "request", Ingress, packet, out);
}

#[test]
fn other_traffic_is_left_alone() {
    let plane = host("others");
    for (name, side, frame) in [
        ("another port", Ingress, tcp(CLIENT, "192.0.2.1:8081", SYN)),
        (
            "another protocol's port",
            Ingress,
            tcp(CLIENT, "192.0.2.1:53", SYN),
        ),
        // GHSA-jv3w-x3r3-g6rm: a wildcard is for the host's own addresses.
        ("forwarded", Ingress, tcp(CLIENT, "203.0.113.9:8080", SYN)),
        (
            "forwarded, IPv6",
            Ingress,
            tcp(CLIENT6, "[2001:db8:9::9]:8080", SYN),
        ),
        (
            "forged loopback",
            Ingress,
            tcp(CLIENT, "127.0.0.1:8080", SYN),
        ),
        (
            "forged loopback, IPv6",
            Ingress,
            tcp(CLIENT6, "[::1]:8080", SYN),
        ),
        (
            "a container's own request",
            Egress,
            tcp("172.18.0.2:55555", "198.51.100.7:443", SYN),
        ),
        (
            "the host's own request",
            Egress,
            tcp("192.0.2.1:55555", "198.51.100.7:443", SYN),
        ),
        (
            "a reply nobody asked for",
            Egress,
            tcp(WEB, "198.51.100.8:1", ACK),
        ),
        (
            "a later fragment of others",
            Ingress,
            later_fragment("198.51.100.7", "192.0.2.1", UDP),
        ),
        (
            "an error about others",
            Ingress,
            icmp_error(
                "198.51.100.1",
                "192.0.2.1",
                "192.0.2.1:5000",
                "198.51.100.7:443",
            ),
        ),
    ] {
        untouched(&plane, name, side, frame);
    }
    assert!(plane.drops().unwrap().iter().all(|(_, count)| *count == 0));
}

#[test]
fn short_and_strange_frames_are_left_alone() {
    let plane = host("short");
    let whole = tcp(CLIENT, HOST, SYN);
    // The kernel itself wants a whole IP header; the program wants all of TCP's flags.
    for length in 14 + 20..14 + 20 + 14 {
        untouched(
            &plane,
            &format!("{length} bytes"),
            Ingress,
            whole[..length].to_vec(),
        );
    }
    let mut bad_length = whole.clone();
    bad_length[14] = 0x44;
    untouched(&plane, "header length 16", Ingress, bad_length);
    let mut arp = whole.clone();
    arp[12..14].copy_from_slice(&[0x08, 0x06]);
    untouched(&plane, "ARP", Ingress, arp);
    let endless = Shape {
        options: &[0, 0, 1, 4, 0, 0, 0, 0].repeat(7),
        extension: Some(0),
        ..Shape::default()
    };
    let frame = shaped_tcp(CLIENT6, HOST6, SYN, endless);
    untouched(&plane, "too many extensions", Ingress, frame);
}

#[test]
fn a_specific_address_answers_for_itself_only() {
    let plane = Instance::open("specific", None);
    plane
        .publish(frontend("203.0.113.80:80/tcp"), WEB.parse().unwrap())
        .unwrap();
    plane
        .publish(frontend("127.0.0.1:80/tcp"), WEB.parse().unwrap())
        .unwrap();
    let (packet, out) = (tcp(CLIENT, "203.0.113.80:80", SYN), tcp(CLIENT, WEB, SYN));
    translated(&plane, "a virtual address", Ingress, packet, out);
    untouched(
        &plane,
        "another one",
        Ingress,
        tcp(CLIENT, "203.0.113.81:80", SYN),
    );
    untouched(
        &plane,
        "loopback",
        Ingress,
        tcp(CLIENT, "127.0.0.1:80", SYN),
    );
}

#[test]
fn fragments_follow_the_first_one() {
    let plane = host("fragments");
    let first = Shape {
        fragment: Some((0, true)),
        ..Shape::default()
    };
    let (packet, out) = (
        shaped_udp(CLIENT, HOST, first),
        shaped_udp(CLIENT, WEB, first),
    );
    translated(&plane, "first in", Ingress, packet, out);
    translated(
        &plane,
        "later in",
        Ingress,
        later_fragment("198.51.100.7", "192.0.2.1", UDP),
        later_fragment("198.51.100.7", "172.18.0.2", UDP),
    );
    let (packet, out) = (
        shaped_udp(WEB, CLIENT, first),
        shaped_udp(HOST, CLIENT, first),
    );
    translated(&plane, "first out", Egress, packet, out);
    translated(
        &plane,
        "later out",
        Egress,
        later_fragment("172.18.0.2", "198.51.100.7", UDP),
        later_fragment("192.0.2.1", "198.51.100.7", UDP),
    );
}

#[test]
fn icmp_errors_are_about_the_packet_their_receiver_sent() {
    let plane = host("icmp");
    for (client, host, web, router) in [
        (CLIENT, HOST, WEB, "198.51.100.1"),
        (CLIENT6, HOST6, WEB6, "2001:db8:7::1"),
    ] {
        let ip = |socket: &str| {
            socket
                .parse::<std::net::SocketAddr>()
                .unwrap()
                .ip()
                .to_string()
        };
        plane.replay(Ingress, &tcp(client, host, SYN)).unwrap();
        translated(
            &plane,
            "to the container, about its reply",
            Ingress,
            icmp_error(router, &ip(host), host, client),
            icmp_error(router, &ip(web), web, client),
        );
        translated(
            &plane,
            "from the container, about a request",
            Egress,
            icmp_error(&ip(web), &ip(client), client, web),
            icmp_error(&ip(host), &ip(client), client, host),
        );
        translated(
            &plane,
            "from the host, about a request",
            Egress,
            icmp_error(&ip(host), &ip(client), client, web),
            icmp_error(&ip(host), &ip(client), client, host),
        );
    }
}

#[test]
fn two_ports_of_one_container_are_told_apart() {
    let plane = host("clash");
    plane
        .publish(frontend("any4:9090/tcp"), WEB.parse().unwrap())
        .unwrap();
    let (packet, out) = (tcp(CLIENT, HOST, SYN), tcp(CLIENT, WEB, SYN));
    translated(&plane, "the first keeps its port", Ingress, packet, out);

    let second = "192.0.2.1:9090";
    let got = plane.replay(Ingress, &tcp(CLIENT, second, SYN)).unwrap();
    let port = u16::from_be_bytes([got.frame[34], got.frame[35]]);
    assert!(port >= 32_768 && port != 40_000, "{port}");
    let other = format!("198.51.100.7:{port}");
    assert_eq!(got.frame, tcp(&other, WEB, SYN));

    translated(
        &plane,
        "reply 2",
        Egress,
        tcp(WEB, &other, ACK),
        tcp(second, CLIENT, ACK),
    );
    translated(
        &plane,
        "reply 1",
        Egress,
        tcp(WEB, CLIENT, ACK),
        tcp(HOST, CLIENT, ACK),
    );
    translated(
        &plane,
        "more 2",
        Ingress,
        tcp(CLIENT, second, ACK),
        tcp(&other, WEB, ACK),
    );
    translated(
        &plane,
        "more 1",
        Ingress,
        tcp(CLIENT, HOST, ACK),
        tcp(CLIENT, WEB, ACK),
    );
}

#[test]
fn the_hosts_own_connections_from_a_published_port_are_its_own() {
    let plane = host("outbound");
    let server = "203.0.113.5:443";
    untouched(&plane, "request", Egress, tcp(HOST, server, SYN));
    untouched(&plane, "answer", Ingress, tcp(server, HOST, ACK));
    untouched(&plane, "udp request", Egress, udp(HOST, server));
    untouched(&plane, "udp answer", Ingress, udp(server, HOST));
    let (packet, out) = (tcp(server, HOST, SYN), tcp(server, WEB, SYN));
    translated(&plane, "a request from there", Ingress, packet, out);
    // A reset the host sends on its own begins nothing.
    untouched(&plane, "reset", Egress, tcp(HOST, "203.0.113.6:1", RST));
    let (packet, out) = (
        tcp("203.0.113.6:1", HOST, ACK),
        tcp("203.0.113.6:1", WEB, ACK),
    );
    translated(&plane, "after a reset", Ingress, packet, out);
}

#[test]
fn a_replaced_backend_takes_over_and_its_old_flows_end() {
    let plane = host("replace");
    let any = frontend("any4:8080/tcp");
    plane.replay(Ingress, &tcp(CLIENT, HOST, SYN)).unwrap();
    let other = "172.18.0.9:81";
    assert_eq!(
        plane.publish(any, WEB.parse().unwrap()).unwrap(),
        Change::Unchanged
    );
    assert_eq!(
        plane.publish(any, other.parse().unwrap()).unwrap(),
        Change::Changed
    );
    assert_eq!(plane.published().unwrap()[&any], other.parse().unwrap());
    let (packet, out) = (tcp(CLIENT, HOST, ACK), tcp(CLIENT, other, ACK));
    translated(&plane, "an old flow", Ingress, packet, out);
}

#[test]
fn an_unpublished_port_is_the_hosts_again() {
    let plane = host("unpublish");
    let any = frontend("any4:8080/tcp");
    plane.replay(Ingress, &tcp(CLIENT, HOST, SYN)).unwrap();
    assert_eq!(plane.unpublish(&any).unwrap(), Change::Changed);
    assert_eq!(plane.unpublish(&any).unwrap(), Change::Unchanged);
    assert!(!plane.published().unwrap().contains_key(&any));
    untouched(
        &plane,
        "a flow in progress",
        Ingress,
        tcp(CLIENT, HOST, ACK),
    );
    untouched(
        &plane,
        "a new one",
        Ingress,
        tcp("198.51.100.7:41000", HOST, SYN),
    );
    let (packet, out) = (udp(CLIENT, HOST), udp(CLIENT, WEB));
    translated(&plane, "udp stays", Ingress, packet, out);
}

#[test]
fn a_backend_of_the_other_family_is_not_for_the_wire() {
    let plane = host("family");
    plane
        .publish(frontend("any6:8080/tcp"), WEB.parse().unwrap())
        .unwrap();
    untouched(&plane, "IPv6 to IPv4", Ingress, tcp(CLIENT6, HOST6, SYN));
    assert!(plane.drops().unwrap().contains(&("family", 1)));
}

#[test]
fn counters_follow_the_packets() {
    let plane = host("counters");
    plane.replay(Ingress, &tcp(CLIENT, HOST, SYN)).unwrap();
    plane.replay(Egress, &tcp(WEB, CLIENT, ACK)).unwrap();
    plane.replay(Ingress, &tcp(CLIENT, HOST, ACK)).unwrap();
    let any = frontend("any4:8080/tcp");
    let counters = plane.counters().unwrap();
    let counters = counters
        .iter()
        .find(|counters| counters.frontend == any)
        .unwrap();
    let length = tcp(CLIENT, HOST, SYN).len() as u64;
    assert_eq!((counters.packets_in, counters.bytes_in), (2, 2 * length));
    assert_eq!((counters.packets_out, counters.bytes_out), (1, length));
    assert_eq!((counters.new_flows, counters.connects), (1, 0));
}

#[test]
fn a_reopened_instance_knows_its_flows() {
    let mut plane = host("reopen");
    let before = plane.published().unwrap();
    plane.replay(Ingress, &tcp(CLIENT, HOST, SYN)).unwrap();
    plane.close();
    plane.reopen();
    assert_eq!(plane.published().unwrap(), before);
    translated(
        &plane,
        "reply",
        Egress,
        tcp(WEB, CLIENT, ACK),
        tcp(HOST, CLIENT, ACK),
    );
    let change = plane
        .publish(frontend("any4:9999/tcp"), WEB.parse().unwrap())
        .unwrap();
    assert_eq!(change, Change::Created);
    let (packet, out) = (tcp(CLIENT, "192.0.2.1:9999", SYN), tcp(CLIENT, HOST, SYN));
    let got = plane.replay(Ingress, &packet).unwrap();
    assert_ne!(
        got.frame,
        packet,
        "a port published later works, {} bytes",
        out.len()
    );
}
