//! Frames of encrypted networks in clear text, between two nodes with VXLAN interfaces that take them.

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::time::Instant;

use api::id::IfName;
use netd::bpf::Sealed;
use sys::netns::NetNs;

use crate::instance::Instance;
use crate::topology::{PATIENCE, ip, path, run, udp};

/// Two networks of the cluster, of which the first is encrypted.
const VNIS: [u32; 2] = [7001, 7002];
const PORT: u16 = 4789;

/// Frames between them go in clear text, as nobody who seals a network sends them.
struct Wire {
    here: NetNs,
    there: NetNs,
}

impl Wire {
    fn new(v6: bool) -> Self {
        let create = || NetNs::create().expect("root is needed to create a network namespace");
        let wire = Self {
            here: create(),
            there: create(),
        };
        let (here, there) = (&wire.here, &wire.there);
        let far = path(there);
        ip(
            here,
            &format!("link add eth0 type veth peer name eth0 netns {far}"),
        );
        let ends = match v6 {
            false => ["192.0.2.1", "192.0.2.2"],
            true => ["2001:db8::1", "2001:db8::2"],
        };
        for (ns, at) in [(here, 0), (there, 1)] {
            let (own, other) = (ends[at], ends[1 - at]);
            ip(ns, "link set lo up");
            ip(ns, "link set eth0 up");
            match v6 {
                false => ip(ns, &format!("address add {own}/24 dev eth0")),
                true => ip(ns, &format!("address add {own}/64 dev eth0 nodad")),
            };
            for vni in VNIS {
                let mac = |at: usize| format!("02:00:00:00:{}:0{at}", vni % 100 + 10);
                let link = format!("vx{vni}");
                ip(
                    ns,
                    &format!(
                        "link add {link} address {} type vxlan id {vni} local {own} remote {other} \
                         dstport {PORT} nolearning",
                        mac(at)
                    ),
                );
                ip(ns, &format!("link set {link} up"));
                ip(
                    ns,
                    &format!("address add {}/24 dev {link}", inside(vni, at)),
                );
                let other = inside(vni, 1 - at);
                let mac = mac(1 - at);
                ip(
                    ns,
                    &format!("neighbour add {other} lladdr {mac} dev {link} nud permanent"),
                );
            }
        }
        wire
    }

    fn attach(&self, plane: &Instance) {
        let eth0 = IfName::parse("eth0").unwrap();
        let shown = ip(&self.here, "-oneline link show eth0");
        let index = shown.split(':').next().unwrap().parse().unwrap();
        let attached = self.here.run(|| plane.attach_uplink(index, &eth0));
        attached.unwrap().unwrap();
    }

    /// Sends a datagram on a network, and has whoever should hear it.
    fn send(&self, inward: bool, vni: u32) -> UdpSocket {
        let (from, to) = match inward {
            true => ((&self.there, 1), (&self.here, 0)),
            false => ((&self.here, 0), (&self.there, 1)),
        };
        let server = udp(to.0, &format!("{}:0", inside(vni, to.1)));
        let client = udp(from.0, &format!("{}:0", inside(vni, from.1)));
        client.send_to(b"?", server.local_addr().unwrap()).unwrap();
        server
    }

    #[track_caller]
    fn passes(&self, vni: u32) {
        for inward in [true, false] {
            let heard = self.send(inward, vni).recv(&mut [0; 9]);
            assert_eq!(heard.unwrap(), 1, "network {vni}, inward: {inward}");
        }
    }

    /// It is dropped at once: what goes by the other network is sent later and heard.
    #[track_caller]
    fn is_dropped(&self) {
        for inward in [true, false] {
            let server = self.send(inward, VNIS[0]);
            self.send(inward, VNIS[1]).recv(&mut [0; 9]).unwrap();
            server.set_nonblocking(true).unwrap();
            let heard = server.recv(&mut [0; 9]).map_err(|error| error.kind());
            assert_eq!(heard, Err(ErrorKind::WouldBlock), "inward: {inward}");
        }
    }
}

fn inside(vni: u32, at: usize) -> String {
    format!("10.{}.0.{}", vni % 100, at + 1)
}

#[track_caller]
fn counts(plane: &Instance, least: u64) {
    let begin = Instant::now();
    loop {
        let counts = plane.exposed().unwrap();
        assert_eq!(counts.keys().collect::<Vec<_>>(), [&VNIS[0]]);
        if counts[&VNIS[0]] >= least {
            return;
        }
        assert!(begin.elapsed() < PATIENCE, "{counts:?}");
    }
}

#[test]
fn what_should_be_encrypted_does_not_pass_whatever_becomes_of_firewall_and_daemon() {
    for v6 in [false, true] {
        let wire = Wire::new(v6);
        let mut plane = Instance::open(&format!("sealed-{v6}"), None);
        wire.attach(&plane);
        VNIS.into_iter().for_each(|vni| wire.passes(vni));
        let sealed = Sealed {
            port: PORT,
            vnis: [VNIS[0]].into(),
        };
        plane.seal(&sealed).unwrap();
        assert_eq!(plane.sealed().unwrap(), sealed);
        wire.is_dropped();
        counts(&plane, 2);
        run(&wire.here, "nft", "flush ruleset");
        wire.is_dropped();
        plane.close();
        wire.is_dropped();
        wire.here.run(|| plane.reopen()).unwrap();
        counts(&plane, 6);
        wire.is_dropped();
        plane.seal(&Sealed::default()).unwrap();
        VNIS.into_iter().for_each(|vni| wire.passes(vni));
    }
}
