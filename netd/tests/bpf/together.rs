//! Ports that are published and unpublished together. Needs root.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use abi::map::{SERVICES, TRAFFIC};
use netd::bpf::{Change, Frontend, Side};

use crate::frame::{SYN, tcp};
use crate::instance::{Instance, frontend};

const HOST: &str = "192.0.2.1";

fn host(name: &str) -> Instance {
    let plane = Instance::open(name, None);
    plane
        .set_local_addresses(&[HOST.parse().unwrap()].into())
        .unwrap();
    plane
}

/// Thirty ports of which no two are neighbours, and a range, for both families.
fn ports() -> Vec<(Frontend, SocketAddr)> {
    let single = (0..30).map(|number| 8000 + 2 * number);
    let spelled = single
        .map(|port| port.to_string())
        .chain(["9000+100".to_owned()]);
    let both = spelled.flat_map(|port| {
        [("any4", "172.18.0.2:80"), ("any6", "[fd00::2]:80")].map(|(any, backend)| {
            (
                frontend(&format!("{any}:{port}/tcp")),
                backend.parse().unwrap(),
            )
        })
    });
    both.collect()
}

fn entries(plane: &Instance, table: &str) -> u32 {
    let fill = plane.fill().unwrap();
    fill.iter()
        .find(|fill| fill.table == table)
        .unwrap()
        .entries
}

#[test]
fn all_are_led_and_all_go_with_one_word() {
    let plane = host("together");
    let gone = plane.backends_gone().expect("nobody else has asked");
    let ports = ports();
    assert_eq!(plane.publish_all(&ports).unwrap(), Change::Created);
    assert_eq!(plane.publish_all(&ports).unwrap(), Change::Unchanged);
    assert_eq!(plane.published().unwrap(), ports.iter().copied().collect());
    for port in [8000, 8058] {
        // A client of its own for each: all lead to one address.
        let client = format!("198.51.100.7:{port}");
        let packet = tcp(&client, &format!("{HOST}:{port}"), SYN);
        let led = plane.replay(Side::Ingress, &packet).unwrap().frame;
        assert_eq!(led, tcp(&client, "172.18.0.2:80", SYN), "{port}");
    }
    assert_eq!(gone.try_iter().count(), 0);
    let frontends: Vec<Frontend> = ports.iter().map(|(frontend, _)| *frontend).collect();
    // One that is not there, and one twice, are no trouble.
    let asked = [&frontends[..1], &[frontend("any4:7/tcp")], &frontends].concat();
    assert_eq!(plane.unpublish_all(&asked).unwrap(), Change::Changed);
    assert_eq!(plane.unpublish_all(&asked).unwrap(), Change::Unchanged);
    assert!(plane.published().unwrap().is_empty());
    assert_eq!(
        (entries(&plane, SERVICES), entries(&plane, TRAFFIC)),
        (0, 0)
    );
    let told: Vec<BTreeSet<_>> = gone.try_iter().collect();
    let addresses = ["172.18.0.2", "fd00::2"].map(|address| address.parse().unwrap());
    assert_eq!(told, [addresses.into()]);
}

#[test]
fn a_port_has_counters_from_its_first_flow_on() {
    let plane = host("counted");
    plane.publish_all(&ports()).unwrap();
    assert_eq!(entries(&plane, TRAFFIC), 0);
    let packet = tcp("198.51.100.7:20000", &format!("{HOST}:8000"), SYN);
    for expected in [1, 2] {
        plane.replay(Side::Ingress, &packet).unwrap();
        assert_eq!(entries(&plane, TRAFFIC), 1);
        let all = plane.traffic().unwrap();
        let counts = all.iter().flat_map(|service| &service.backends);
        let counts: Vec<_> = counts
            .map(|b| (b.counts.new_flows, b.counts.packets_in))
            .collect();
        assert_eq!(
            counts
                .iter()
                .filter(|counts| **counts == (1, expected))
                .count(),
            1
        );
        assert_eq!(
            counts.iter().filter(|counts| **counts == (0, 0)).count(),
            counts.len() - 1
        );
    }
}

#[test]
fn nothing_stays_of_those_that_do_not_fit() {
    let mut plane = host("unfit");
    plane.upgrade(&[(SERVICES, 40)]);
    let ports = ports();
    plane.publish_all(&ports).unwrap_err();
    assert!(plane.published().unwrap().is_empty());
    assert_eq!(entries(&plane, SERVICES), 0);
    // What there is room for is published as ever.
    assert_eq!(plane.publish_all(&ports[..40]).unwrap(), Change::Created);
    plane.publish_all(&ports[30..]).unwrap_err();
    assert_eq!(
        plane.published().unwrap(),
        ports[..40].iter().copied().collect()
    );
    let packet = tcp("198.51.100.7:20000", &format!("{HOST}:8000"), SYN);
    let led = plane.replay(Side::Ingress, &packet).unwrap().frame;
    assert_eq!(led, tcp("198.51.100.7:20000", "172.18.0.2:80", SYN));
}
