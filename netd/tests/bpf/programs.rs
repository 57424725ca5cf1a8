//! What the daemon changes, and what the programs then do; [`crate::cases`] has the packets. Needs
//! root.

use std::collections::BTreeSet;

use crate::frame::{ACK, SYN, tcp, udp};
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
