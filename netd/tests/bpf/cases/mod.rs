//! The packet cases: a packet, what went before it, and what becomes of it.
//!
//! Every case has a client of its own, so that none finds another one's flows. A case asserts the
//! verdict and every byte of the packet. What differs by family and protocol alone is one case for
//! each of them.

mod checksums;
mod destinations;
mod flows;
mod fragments;
mod front;
mod headers;
mod icmp;
mod lengths;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use netd::bpf::{Side, Verdict};

use crate::instance::{Instance, frontend};
use crate::packet::{ACK, DATA, INIT, Packet, SCTP, SYN, TCP, UDP};

pub(crate) const PROTOCOLS: [(&str, u8); 3] = [("tcp", TCP), ("udp", UDP), ("sctp", SCTP)];

/// The ends of one case.
#[derive(Clone, Copy)]
pub(crate) struct Ends {
    pub client: SocketAddr,
    /// The published port, and another one of the host.
    pub host: SocketAddr,
    pub closed: SocketAddr,
    /// The backend of `host`.
    pub web: SocketAddr,
    /// Published under the port that the backend has.
    pub same: SocketAddr,
    pub same_web: SocketAddr,
    /// On the way between client and host.
    pub router: IpAddr,
}

impl Ends {
    fn v4(n: u16) -> Self {
        let [high, low] = n.to_be_bytes();
        let at = |text: &str| text.parse().unwrap();
        Self {
            client: (IpAddr::from([198, 18, high, low]), 40_000 + n).into(),
            host: at("192.0.2.1:8080"),
            closed: at("192.0.2.1:8081"),
            web: at("172.18.0.2:80"),
            same: at("192.0.2.1:9000"),
            same_web: at("172.18.0.2:9000"),
            router: IpAddr::from([198, 51, 100, 1]),
        }
    }

    fn v6(n: u16) -> Self {
        let at = |text: &str| text.parse().unwrap();
        let client = IpAddr::from([0x2001, 0xdb8, 7, 0, 0, 0, 0, n]);
        Self {
            client: (client, 40_000 + n).into(),
            host: at("[2001:db8::1]:8080"),
            closed: at("[2001:db8::1]:8081"),
            web: at("[fd00:18::2]:80"),
            same: at("[2001:db8::1]:9000"),
            same_web: at("[fd00:18::2]:9000"),
            router: "2001:db8:7::ffff".parse().unwrap(),
        }
    }

    fn is_v4(&self) -> bool {
        self.client.is_ipv4()
    }
}

/// Collects cases and gives each its ends.
pub(crate) struct Cases {
    cases: Vec<Case>,
    count: Cell<u16>,
}

struct Case {
    name: String,
    before: Vec<(Side, Packet)>,
    side: Side,
    packet: Packet,
    expect: Expect,
}

enum Expect {
    Untouched,
    Becomes(Box<Packet>),
    Drops,
}

/// A case that lacks its outcome.
pub(crate) struct Draft<'a> {
    cases: &'a mut Cases,
    name: String,
    before: Vec<(Side, Packet)>,
}

/// A case that lacks what becomes of its packet.
pub(crate) struct Sent<'a> {
    draft: Draft<'a>,
    side: Side,
    packet: Packet,
}

impl Cases {
    /// The ends of another case, of each family.
    pub(crate) fn families(&self) -> [(&'static str, Ends); 2] {
        [("v4", self.ends4()), ("v6", self.ends6())]
    }

    pub(crate) fn ends4(&self) -> Ends {
        Ends::v4(self.next())
    }

    pub(crate) fn ends6(&self) -> Ends {
        Ends::v6(self.next())
    }

    fn next(&self) -> u16 {
        self.count.set(self.count.get() + 1);
        self.count.get()
    }

    pub(crate) fn case(&mut self, name: impl Into<String>) -> Draft<'_> {
        Draft {
            cases: self,
            name: name.into(),
            before: Vec::new(),
        }
    }
}

impl<'a> Draft<'a> {
    /// A packet that passed before.
    pub(crate) fn after(mut self, side: Side, packet: Packet) -> Self {
        self.before.push((side, packet));
        self
    }

    pub(crate) fn ingress(self, packet: Packet) -> Sent<'a> {
        self.send(Side::Ingress, packet)
    }

    pub(crate) fn egress(self, packet: Packet) -> Sent<'a> {
        self.send(Side::Egress, packet)
    }

    fn send(self, side: Side, packet: Packet) -> Sent<'a> {
        Sent {
            draft: self,
            side,
            packet,
        }
    }
}

impl Sent<'_> {
    pub(crate) fn untouched(self) {
        self.expect(Expect::Untouched);
    }

    pub(crate) fn drops(self) {
        self.expect(Expect::Drops);
    }

    pub(crate) fn becomes(self, packet: Packet) {
        self.expect(Expect::Becomes(Box::new(packet)));
    }

    /// Becomes the same packet between other ends.
    pub(crate) fn goes(self, from: SocketAddr, to: SocketAddr) {
        let packet = self.packet.between(from, to);
        self.becomes(packet);
    }

    fn expect(self, expect: Expect) {
        self.draft.cases.cases.push(Case {
            name: self.draft.name,
            before: self.draft.before,
            side: self.side,
            packet: self.packet,
            expect,
        });
    }
}

/// What opens a connection of each protocol, and what belongs to one.
pub(crate) fn opening(protocol: u8) -> u8 {
    match protocol {
        TCP => SYN,
        _ => INIT,
    }
}

pub(crate) fn ongoing(protocol: u8) -> u8 {
    match protocol {
        TCP => ACK,
        _ => DATA,
    }
}

/// The first packet of a flow, and a later one.
pub(crate) fn first(protocol: u8, from: SocketAddr, to: SocketAddr) -> Packet {
    Packet::new(protocol, from, to, opening(protocol))
}

pub(crate) fn more(protocol: u8, from: SocketAddr, to: SocketAddr) -> Packet {
    Packet::new(protocol, from, to, ongoing(protocol))
}

/// A host that publishes port 8080 as 80 and port 9000 as itself, on all its addresses.
fn host() -> Instance {
    let plane = Instance::open("cases", None);
    publish(&plane);
    plane
}

fn publish(plane: &Instance) {
    let local = ["192.0.2.1", "127.0.0.1", "2001:db8::1", "::1"];
    let local: BTreeSet<_> = local.iter().map(|ip| ip.parse().unwrap()).collect();
    plane.set_local_addresses(&local).unwrap();
    let mut frontends = Vec::new();
    for (protocol, _) in PROTOCOLS {
        for (port, target) in [(8080, 80), (9000, 9000), (7000, 80)] {
            frontends.push((
                format!("any4:{port}/{protocol}"),
                format!("172.18.0.2:{target}"),
            ));
            frontends.push((
                format!("any6:{port}/{protocol}"),
                format!("[fd00:18::2]:{target}"),
            ));
        }
        for address in ["203.0.113.80:8088", "127.0.0.1:8089"] {
            frontends.push((format!("{address}/{protocol}"), "172.18.0.2:80".into()));
        }
        for address in ["[2001:db8:80::80]:8088", "[::1]:8089"] {
            frontends.push((format!("{address}/{protocol}"), "[fd00:18::2]:80".into()));
        }
        frontends.push((
            format!("any4:6000+100/{protocol}"),
            "172.18.0.2:3000".into(),
        ));
        frontends.push((
            format!("any6:6000+100/{protocol}"),
            "[fd00:18::2]:3000".into(),
        ));
    }
    for (at, backend) in frontends {
        plane
            .publish(frontend(&at), backend.parse().unwrap())
            .unwrap();
    }
}

fn hex(frame: &[u8]) -> String {
    frame.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What is wrong with a case, if anything.
fn run(plane: &Instance, case: &Case) -> Result<(), String> {
    let replay = |side, packet: &Packet| {
        plane
            .replay(side, &packet.build())
            .map_err(|error| error.to_string())
    };
    for (side, packet) in &case.before {
        let got = replay(*side, packet)?;
        if got.verdict != Verdict::Pass {
            return Err("a packet before it is dropped".to_owned());
        }
    }
    let got = replay(case.side, &case.packet)?;
    let (verdict, expected) = match &case.expect {
        Expect::Untouched => (Verdict::Pass, case.packet.build()),
        Expect::Becomes(packet) => (Verdict::Pass, packet.build()),
        Expect::Drops => (Verdict::Drop, Vec::new()),
    };
    if matches!(case.expect, Expect::Becomes(_)) && expected == case.packet.build() {
        return Err("the case translates nothing".to_owned());
    }
    if got.verdict != verdict {
        return Err(format!("{:?} instead of {verdict:?}", got.verdict));
    }
    if verdict == Verdict::Pass && got.frame != expected {
        let (got, expected) = (hex(&got.frame), hex(&expected));
        return Err(format!("\n  is {got}\n  not {expected}"));
    }
    Ok(())
}

fn all() -> Vec<Case> {
    let mut all = Cases {
        cases: Vec::new(),
        count: Cell::new(0),
    };
    flows::add(&mut all);
    checksums::add(&mut all);
    headers::add(&mut all);
    fragments::add(&mut all);
    lengths::add(&mut all);
    icmp::add(&mut all);
    destinations::add(&mut all);
    let names: BTreeSet<&str> = all.cases.iter().map(|case| case.name.as_str()).collect();
    assert_eq!(names.len(), all.cases.len(), "two cases have one name");
    all.cases
}

#[test]
fn packets_in_and_out() {
    let cases = all();
    let plane = host();
    let failures: Vec<String> = cases
        .iter()
        .filter_map(|case| Some(format!("{}: {}", case.name, run(&plane, case).err()?)))
        .collect();
    println!("{} cases", cases.len());
    let drops = |case: &&Case| matches!(case.expect, Expect::Drops);
    let dropped = cases.iter().filter(drops).count() as u64;
    for (reason, count) in plane.drops().unwrap() {
        let expected = if reason == "rewrite" { dropped } else { 0 };
        assert_eq!(count, expected, "{reason}");
    }
    assert!(
        failures.is_empty(),
        "{} of {} cases fail:\n{}",
        failures.len(),
        cases.len(),
        failures.join("\n")
    );
}
