//! A flood of connections that nobody means. Needs root.

use std::net::Ipv4Addr;

use netd::bpf::{Side, Verdict};

use crate::frame::{ACK, SYN, tcp};
use crate::instance::{Instance, frontend};
use crate::packet::SYN_ACK;

use Side::{Egress, Ingress};

const HOST: &str = "192.0.2.1:8080";
const WEB: &str = "172.18.0.2:80";
const CONNECTIONS: u16 = 200;
/// More than all tables together have room for, at two entries each.
const FLOOD: u32 = 110_000;

fn client(number: u16) -> String {
    format!("198.51.100.7:{}", 20_000 + number)
}

#[track_caller]
fn passes(plane: &Instance, side: Side, frame: &[u8], becomes: &[u8]) {
    let got = plane.replay(side, frame).unwrap();
    assert_eq!(got.verdict, Verdict::Pass);
    assert!(got.frame == becomes, "another packet than expected");
}

fn connect(plane: &Instance, number: u16) {
    let client = client(number);
    passes(
        plane,
        Ingress,
        &tcp(&client, HOST, SYN),
        &tcp(&client, WEB, SYN),
    );
    passes(
        plane,
        Egress,
        &tcp(WEB, &client, SYN_ACK),
        &tcp(HOST, &client, SYN_ACK),
    );
    passes(
        plane,
        Ingress,
        &tcp(&client, HOST, ACK),
        &tcp(&client, WEB, ACK),
    );
}

#[test]
fn connections_outlive_a_flood_of_syns() {
    let plane = Instance::open("flood", None);
    plane
        .set_local_addresses(&["192.0.2.1".parse().unwrap()].into())
        .unwrap();
    plane
        .publish(frontend("any4:8080/tcp"), WEB.parse().unwrap())
        .unwrap();
    (0..CONNECTIONS).for_each(|number| connect(&plane, number));
    for forged in 0..FLOOD {
        let forged = format!("{}:4000", Ipv4Addr::from(0x0a00_0000 + forged));
        plane.replay(Ingress, &tcp(&forged, HOST, SYN)).unwrap();
        // The backend answers, as far as its backlog goes.
        plane.replay(Egress, &tcp(WEB, &forged, SYN_ACK)).unwrap();
    }
    // Silent all the while, and the backend speaks first: only the table knows where to.
    for number in 0..CONNECTIONS {
        let client = client(number);
        passes(
            &plane,
            Egress,
            &tcp(WEB, &client, ACK),
            &tcp(HOST, &client, ACK),
        );
        passes(
            &plane,
            Ingress,
            &tcp(&client, HOST, ACK),
            &tcp(&client, WEB, ACK),
        );
    }
    // New ones are served as ever.
    connect(&plane, CONNECTIONS);
    assert!(plane.drops().unwrap().iter().all(|(_, count)| *count == 0));
}
