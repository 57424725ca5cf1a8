//! The states of TCP connections, packet by packet on the loaded programs: which count as in progress,
//! and which are forgotten early.

use std::time::Duration;

use netd::bpf::Side::{self, Egress, Ingress};

use crate::frame::{ACK, FIN_ACK, SYN, tcp};
use crate::instance::{Instance, frontend};

const SYN_ACK: u8 = SYN | ACK;
const RST: u8 = 4;
const RST_ACK: u8 = RST | ACK;
const DATA: u8 = ACK | 8;

const OPEN: [(Side, u8); 3] = [(Ingress, SYN), (Egress, SYN_ACK), (Ingress, ACK)];

/// What happens to a connection.
struct Row {
    name: &'static str,
    /// After the three packets that open it, or from the first one on.
    open: bool,
    packets: &'static [(Side, u8)],
    /// Counts as in progress.
    active: bool,
    /// Is forgotten by the sweep.
    over: bool,
}

const fn row(name: &'static str, packets: &'static [(Side, u8)], [active, over]: [bool; 2]) -> Row {
    Row {
        name,
        open: true,
        packets,
        active,
        over,
    }
}

const fn early(
    name: &'static str,
    packets: &'static [(Side, u8)],
    [active, over]: [bool; 2],
) -> Row {
    Row {
        open: false,
        ..row(name, packets, [active, over])
    }
}

const GOES_ON: [bool; 2] = [true, false];
const IS_OVER: [bool; 2] = [false, true];
/// Not in progress, but not to be forgotten either.
const IS_DOUBTED: [bool; 2] = [false, false];

const ROWS: [Row; 24] = [
    early("a SYN", &[(Ingress, SYN)], GOES_ON),
    early("a SYN, twice", &[(Ingress, SYN), (Ingress, SYN)], GOES_ON),
    early(
        "an answered SYN",
        &[(Ingress, SYN), (Egress, SYN_ACK)],
        GOES_ON,
    ),
    early(
        "a refused SYN",
        &[(Ingress, SYN), (Egress, RST_ACK)],
        IS_OVER,
    ),
    early(
        "a SYN taken back",
        &[(Ingress, SYN), (Ingress, RST)],
        IS_DOUBTED,
    ),
    early("a connection from before", &[(Ingress, DATA)], GOES_ON),
    early(
        "a connection from before, answered",
        &[(Ingress, DATA), (Egress, DATA)],
        GOES_ON,
    ),
    early(
        "a handshake taken back",
        &[(Ingress, SYN), (Egress, SYN_ACK), (Ingress, RST)],
        IS_DOUBTED,
    ),
    row("an open connection", &[], GOES_ON),
    row("data", &[(Ingress, DATA), (Egress, DATA)], GOES_ON),
    row("the client closes", &[(Ingress, FIN_ACK)], GOES_ON),
    row(
        "the client closes, and hears data",
        &[(Ingress, FIN_ACK), (Egress, DATA)],
        GOES_ON,
    ),
    row("the backend closes", &[(Egress, FIN_ACK)], GOES_ON),
    row(
        "the backend closes, and hears data",
        &[(Egress, FIN_ACK), (Ingress, DATA)],
        GOES_ON,
    ),
    row(
        "one FIN, twice",
        &[(Ingress, FIN_ACK), (Ingress, FIN_ACK)],
        GOES_ON,
    ),
    row(
        "one FIN of the backend, twice",
        &[(Egress, FIN_ACK), (Egress, FIN_ACK)],
        GOES_ON,
    ),
    row(
        "the client closes first",
        &[(Ingress, FIN_ACK), (Egress, FIN_ACK), (Ingress, ACK)],
        IS_OVER,
    ),
    row(
        "the backend closes first",
        &[(Egress, FIN_ACK), (Ingress, FIN_ACK), (Egress, ACK)],
        IS_OVER,
    ),
    row("the backend resets", &[(Egress, RST_ACK)], IS_OVER),
    row("the client resets", &[(Ingress, RST)], IS_DOUBTED),
    row(
        "a forged reset, and data",
        &[(Ingress, RST), (Egress, DATA)],
        IS_DOUBTED,
    ),
    row("both reset", &[(Ingress, RST), (Egress, RST)], IS_OVER),
    row(
        "another connection of the same ports",
        &[(Ingress, FIN_ACK), (Egress, FIN_ACK), (Ingress, SYN)],
        GOES_ON,
    ),
    row(
        "another connection after a reset",
        &[
            (Ingress, RST),
            (Ingress, SYN),
            (Egress, SYN_ACK),
            (Ingress, ACK),
        ],
        GOES_ON,
    ),
];

/// Where the packets of one row come from and go to.
struct Family {
    frontend: &'static str,
    host: &'static str,
    web: &'static str,
    client: &'static str,
}

const FAMILIES: [Family; 2] = [
    Family {
        frontend: "any4:8080/tcp",
        host: "192.0.2.1:8080",
        web: "172.18.0.2:80",
        client: "198.51.100.7",
    },
    Family {
        frontend: "any6:8080/tcp",
        host: "[2001:db8::1]:8080",
        web: "[fd00:18::2]:80",
        client: "[2001:db8:7::7]",
    },
];

fn active(plane: &Instance) -> u64 {
    let traffic = plane.traffic().unwrap();
    let backends = traffic.iter().flat_map(|service| &service.backends);
    backends.map(|backend| backend.active).sum()
}

#[test]
fn connections_are_in_progress_until_they_end_and_forgotten_when_they_are_over() {
    let plane = Instance::open("states", None);
    let local = ["192.0.2.1", "2001:db8::1"].map(|ip| ip.parse().unwrap());
    plane.set_local_addresses(&local.into()).unwrap();
    for family in FAMILIES {
        let (at, web) = (frontend(family.frontend), family.web.parse().unwrap());
        plane.publish(at, web).unwrap();
        for (number, row) in ROWS.into_iter().enumerate() {
            let name = format!("{}, {}", row.name, family.client);
            let client = format!("{}:{}", family.client, 40_000 + number);
            let before = active(&plane);
            let open = if row.open { &OPEN[..] } else { &[] };
            for (side, flags) in open.iter().chain(row.packets) {
                let (from, to) = match side {
                    Ingress | Side::Tunnel => (client.as_str(), family.host),
                    Egress => (family.web, client.as_str()),
                };
                plane.replay(*side, &tcp(from, to, *flags)).unwrap();
            }
            let more = active(&plane) - before;
            assert_eq!(more, u64::from(row.active), "{name}: in progress");
            let minute = Duration::from_secs(60);
            assert_eq!(plane.sweep(minute).unwrap(), 0, "{name}: too early");
            let swept = plane.sweep(Duration::ZERO).unwrap();
            // One entry a direction.
            assert_eq!(swept, if row.over { 2 } else { 0 }, "{name}: forgotten");
        }
    }
}
