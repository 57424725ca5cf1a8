//! A range of published ports: a few entries that lead each port to its own.

use std::collections::BTreeMap;

use netd::bpf::{Change, Side, Verdict};

use crate::frame::{SYN, tcp};
use crate::instance::{Instance, frontend};

const RANGE: &str = "any4:8000+10000/tcp";
const BACKEND: &str = "172.18.0.2:3000";

fn host(name: &str) -> Instance {
    let plane = Instance::open(name, None);
    let local = ["192.0.2.1"].map(|ip| ip.parse().unwrap());
    plane.set_local_addresses(&local.into()).unwrap();
    plane
}

/// The destination to which a packet for `port` of the host is led.
fn led_to(plane: &Instance, port: u16) -> Option<u16> {
    let client = "198.51.100.7:40000";
    let frame = tcp(client, &format!("192.0.2.1:{port}"), SYN);
    let replayed = plane.replay(Side::Ingress, &frame).unwrap();
    assert_eq!(replayed.verdict, Verdict::Pass);
    (replayed.frame != frame).then(|| {
        let port = u16::from_be_bytes(replayed.frame[36..38].try_into().unwrap());
        let expected = tcp(client, &format!("172.18.0.2:{port}"), SYN);
        assert_eq!(replayed.frame, expected);
        port
    })
}

#[test]
fn each_port_of_a_range_has_its_own_at_the_backend() {
    let plane = host("range");
    let backend = BACKEND.parse().unwrap();
    let range = frontend(RANGE);
    assert_eq!(plane.publish(range, backend).unwrap(), Change::Created);
    assert_eq!(plane.publish(range, backend).unwrap(), Change::Unchanged);
    assert_eq!(
        plane.published().unwrap(),
        BTreeMap::from([(range, backend)])
    );
    for (port, expected) in [
        (7999, None),
        (8000, Some(3000)),
        (8191, Some(3191)),
        (8192, Some(3192)),
        (17_999, Some(12_999)),
        (18_000, None),
    ] {
        assert_eq!(led_to(&plane, port), expected, "{port}");
    }
    assert_eq!(plane.traffic().unwrap().len(), 1, "one service");
    assert_eq!(plane.unpublish(&range).unwrap(), Change::Changed);
    assert_eq!(plane.unpublish(&range).unwrap(), Change::Unchanged);
    assert_eq!(led_to(&plane, 8000), None);
    assert!(plane.published().unwrap().is_empty());
}

#[test]
fn a_range_and_single_ports_live_side_by_side() {
    let plane = host("beside");
    let (a, b) = (frontend("any4:9000+3/tcp"), frontend("any4:9003/tcp"));
    plane.publish(a, BACKEND.parse().unwrap()).unwrap();
    plane.publish(b, "172.18.0.2:80".parse().unwrap()).unwrap();
    let ports = [9000, 9002, 9003, 9004].map(|port| led_to(&plane, port));
    assert_eq!(ports, [Some(3000), Some(3002), Some(80), None]);
    plane.unpublish(&a).unwrap();
    let ports = [9000, 9002, 9003].map(|port| led_to(&plane, port));
    assert_eq!(ports, [None, None, Some(80)]);
}

#[test]
fn a_range_survives_the_daemon_and_can_move() {
    let mut plane = host("adopted");
    let range = frontend(RANGE);
    plane.publish(range, BACKEND.parse().unwrap()).unwrap();
    plane.close();
    plane.reopen();
    assert_eq!(led_to(&plane, 8001), Some(3001));
    let moved = "172.18.0.2:4000".parse().unwrap();
    assert_eq!(plane.publish(range, moved).unwrap(), Change::Changed);
    assert_eq!(led_to(&plane, 8002), Some(4002));
    assert_eq!(plane.published().unwrap(), BTreeMap::from([(range, moved)]));
    plane.unpublish(&range).unwrap();
    plane.close();
    plane.reopen();
    assert!(plane.published().unwrap().is_empty());
}
