//! Addresses that stand for services on their own networks, packet by packet on the loaded programs.

use std::net::{IpAddr, SocketAddr};

use crate::frame::{ACK, SYN, tcp, udp};
use crate::instance::{Instance, frontend};
use api::net::Protocol;
use netd::bpf::{Balanced, BpfError, Change, Frontend, Side, Verdict};

const SHOP: u64 = 9;

/// What differs by family.
struct Family {
    vip: &'static str,
    backends: [&'static str; 2],
    client: &'static str,
    host: &'static str,
}

const FAMILIES: [Family; 2] = [
    Family {
        vip: "172.18.0.5",
        backends: ["172.18.0.2", "172.18.0.3"],
        client: "198.51.100.7",
        host: "192.0.2.1",
    },
    Family {
        vip: "fd00:18::5",
        backends: ["fd00:18::2", "fd00:18::3"],
        client: "2001:db8:7::7",
        host: "2001:db8::1",
    },
];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn at(address: &str, port: u16) -> String {
    SocketAddr::new(ip(address), port).to_string()
}

impl Family {
    fn service(&self) -> Balanced {
        let protocols = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
        let backends = self.backends.map(|b| (SocketAddr::new(ip(b), 0), 1));
        Balanced {
            frontends: protocols.map(|p| Frontend::vip(ip(self.vip), p)).into(),
            backends: backends.into(),
            ..Balanced::default()
        }
    }

    /// The backend that a packet to the virtual address goes to.
    #[track_caller]
    fn goes_to(&self, plane: &Instance, from: u16, port: u16, flags: u8) -> &'static str {
        let client = at(self.client, from);
        let packet = tcp(&client, &at(self.vip, port), flags);
        let got = plane.replay(Side::Ingress, &packet).unwrap();
        let found = self.backends.into_iter();
        found
            .into_iter()
            .find(|backend| got.frame == tcp(&client, &at(backend, port), flags))
            .expect("a packet to a backend, its port kept")
    }
}

fn host(name: &str) -> Instance {
    let plane = Instance::open(name, None);
    let local = ["192.0.2.1", "2001:db8::1"].map(ip);
    plane.set_local_addresses(&local.into()).unwrap();
    plane
}

#[test]
fn every_port_of_the_address_leads_to_the_same_port_of_a_backend() {
    for family in FAMILIES {
        let plane = host("vip");
        assert_eq!(
            plane.balance(SHOP, &family.service()).unwrap(),
            Change::Created
        );
        for (from, port) in (20_000..20_200).zip([1, 80, 443, 8080, 65_535].into_iter().cycle()) {
            let backend = family.goes_to(&plane, from, port, SYN);
            assert_eq!(family.goes_to(&plane, from, port, ACK), backend);
            let client = at(family.client, from);
            let reply = tcp(&at(backend, port), &client, ACK);
            let got = plane.replay(Side::Egress, &reply).unwrap();
            assert_eq!(got.frame, tcp(&at(family.vip, port), &client, ACK));
        }
        let (client, port) = (at(family.client, 1), 53);
        let packet = udp(&client, &at(family.vip, port));
        let got = plane.replay(Side::Ingress, &packet).unwrap().frame;
        let to = |backend: &&str| got == udp(&client, &at(backend, port));
        assert!(family.backends.iter().any(to));
    }
}

#[test]
fn nothing_else_of_the_host_is_taken() {
    let plane = host("vip-only");
    for (number, family) in (SHOP..).zip(FAMILIES) {
        plane.balance(number, &family.service()).unwrap();
        plane
            .publish(
                frontend(&format!("{}/tcp", at(family.host, 8080))),
                SocketAddr::new(ip(family.backends[0]), 81),
            )
            .unwrap();
        for port in [1, 22, 80, 65_535] {
            let packet = tcp(&at(family.client, 40_000), &at(family.host, port), SYN);
            let got = plane.replay(Side::Ingress, &packet).unwrap();
            assert_eq!((got.verdict, got.frame), (Verdict::Pass, packet), "{port}");
        }
        let packet = tcp(&at(family.client, 40_000), &at(family.host, 8080), SYN);
        let got = plane.replay(Side::Ingress, &packet).unwrap();
        assert_ne!(got.frame, packet, "published ports are");
        family.goes_to(&plane, 40_001, 8080, SYN);
    }
}

#[test]
fn the_next_daemon_finds_it_and_removes_it() {
    let mut plane = host("vip-adopted");
    let [family, _] = FAMILIES;
    let service = family.service();
    plane.balance(SHOP, &service).unwrap();
    let before = family.goes_to(&plane, 40_000, 80, SYN);
    plane.close();
    plane.reopen();
    assert_eq!(plane.balanced().unwrap()[&SHOP], service);
    assert_eq!(plane.balance(SHOP, &service).unwrap(), Change::Unchanged);
    assert_eq!(family.goes_to(&plane, 40_000, 80, ACK), before);
    let other = Balanced {
        frontends: [Frontend::vip(ip(family.vip), Protocol::Udp)].into(),
        ..service
    };
    let taken = plane.balance(SHOP + 1, &other).unwrap_err();
    assert!(matches!(taken, BpfError::Taken { .. }), "{taken}");
    plane.unbalance(SHOP).unwrap();
    let packet = tcp(&at(family.client, 40_000), &at(family.vip, 80), ACK);
    let got = plane.replay(Side::Ingress, &packet).unwrap();
    assert_eq!((got.verdict, got.frame), (Verdict::Pass, packet));
}

#[test]
fn without_backends_what_it_is_sent_stays_as_it_is() {
    let plane = host("vip-nobody");
    let [family, _] = FAMILIES;
    let mut service = family.service();
    service.backends.clear();
    plane.balance(SHOP, &service).unwrap();
    let packet = tcp(&at(family.client, 40_000), &at(family.vip, 80), SYN);
    let got = plane.replay(Side::Ingress, &packet).unwrap();
    assert_eq!((got.verdict, got.frame), (Verdict::Pass, packet));
}
