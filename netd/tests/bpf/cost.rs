//! What the programs at endpoints' links cost: printed, never judged (`--nocapture`).

use std::net::{IpAddr, SocketAddrV4};
use std::time::{Duration, Instant};

use api::id::{Id, IfName};
use netd::bpf::{Edge, NameAddresses, NameFact, Side, Verdict};

use crate::frame::{self, ACK, SYN, Shape, tcp, udp};
use crate::guard::{edge, lo, on_loopback};
use crate::instance::{Instance, frontend};
use crate::packet::{DATA, Packet, SCTP};
use crate::topology::{Topology, ip};

const RUNS: usize = 2000;

fn median(mut durations: Vec<Duration>) -> Duration {
    durations.sort_unstable();
    durations[durations.len() / 2]
}

/// One frame a run: a second run would find the frame rewritten.
fn cost(plane: &Instance, what: &str, packet: &[u8], verdict: Verdict) {
    let runs = (0..RUNS).map(|_| {
        let got = plane.replay_endpoint(packet).unwrap();
        assert_eq!(got.verdict, verdict, "{what}");
        got.duration
    });
    println!(
        "{what}: {:?} a packet, median of {RUNS}",
        median(runs.collect())
    );
}

/// A UDP datagram from the endpoint to its resolver.
fn query(name: &[u8]) -> Vec<u8> {
    let mut message = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    message.extend(name);
    message.extend([0, 1, 0, 1]);
    let mut datagram = vec![0x9c, 0x40, 0x27, 0x45, 0, 8 + message.len() as u8, 0, 0];
    datagram.extend(message);
    let ends: [IpAddr; 2] = ["172.18.0.2", "172.18.0.1"].map(|ip| ip.parse().unwrap());
    frame::frame(ends[0], ends[1], 17, &datagram, Shape::default())
}

#[test]
fn packets_of_an_endpoint() {
    let network = Id::parse(&"7".repeat(64)).unwrap();
    let resolver: SocketAddrV4 = "172.18.0.1:10053".parse().unwrap();
    let edge = Edge {
        network: 0x7777_7777_7777_7777,
        resolver: Some(resolver),
        ..edge(true)
    };
    let plane = on_loopback("cost", edge);
    let name = NameFact::Name {
        network: &network,
        name: b"\x03web\0",
        addresses: Some(NameAddresses {
            v4: &["172.18.0.9".parse().unwrap()],
            v6: &[],
        }),
        ttl: 5,
    };
    let asker = NameFact::Asker {
        network: &network,
        address: "172.18.0.2".parse().unwrap(),
        networks: Some(&[&network]),
    };
    plane.set_names([name, asker].into_iter()).unwrap();
    let to = "198.51.100.7:4";
    cost(
        &plane,
        "IPv4",
        &tcp("172.18.0.2:80", to, SYN),
        Verdict::Pass,
    );
    let packet = udp("[fd00:18::2]:80", "[2001:db8::7]:4");
    cost(&plane, "IPv6", &packet, Verdict::Pass);
    let packet = tcp("172.18.0.3:80", to, SYN);
    cost(&plane, "forged", &packet, Verdict::Drop);
    cost(&plane, "an answer", &query(b"\x03web\0"), Verdict::Redirect);
    cost(
        &plane,
        "an unknown name",
        &query(b"\x02no\0"),
        Verdict::Pass,
    );
    plane.release_endpoint(&lo()).unwrap();
    let packet = tcp("172.18.0.2:80", to, SYN);
    cost(&plane, "no entry, for comparison", &packet, Verdict::Drop);
}

#[test]
fn attaching_endpoints() {
    let net = Topology::new();
    let plane = Instance::open("cost-attach", None);
    let costs = (0..60).map(|number| {
        ip(
            &net.host,
            &format!("link add e{number} type veth peer name p{number}"),
        );
        let link = IfName::parse(&format!("e{number}")).unwrap();
        let attach = || {
            let begin = Instant::now();
            plane.attach_endpoint(&link, &edge(true)).unwrap();
            begin.elapsed()
        };
        net.host.run(attach).unwrap()
    });
    let costs: Vec<Duration> = costs.collect();
    let (first, last) = (costs[..20].to_vec(), costs[40..].to_vec());
    println!(
        "attach: {:?}, after 40 others {:?}",
        median(first),
        median(last)
    );
}

/// The paths of a packet through an uplink's programs; each run is one frame, as above.
#[test]
fn packets_of_an_uplink() {
    let plane = Instance::open("cost-uplink", None);
    let local = ["192.0.2.1", "2001:db8::1"].map(|ip| ip.parse().unwrap());
    plane.set_local_addresses(&local.into()).unwrap();
    for (front, web) in [
        ("any4:8080/tcp", "172.18.0.2:80"),
        ("any6:8080/tcp", "[fd00:18::2]:80"),
        ("any4:8080/sctp", "172.18.0.2:80"),
        ("any6:8080/sctp", "[fd00:18::2]:80"),
    ] {
        plane
            .publish(frontend(front), web.parse().unwrap())
            .unwrap();
    }
    for (family, client, host, other, web) in [
        (
            "v4",
            "198.51.100.7",
            "192.0.2.1:8080",
            "192.0.2.1:443",
            "172.18.0.2:80",
        ),
        (
            "v6",
            "[2001:db8:7::7]",
            "[2001:db8::1]:8080",
            "[2001:db8::1]:443",
            "[fd00:18::2]:80",
        ),
    ] {
        let from = format!("{client}:40000");
        let measure = |what: &str, side, frame: &dyn Fn(usize) -> Vec<u8>| {
            let runs = (0..RUNS).map(|run| {
                let got = plane.replay(side, &frame(run)).unwrap();
                assert_eq!(got.verdict, Verdict::Pass, "{what}");
                got.duration
            });
            println!("{family} {what}: {:?}", median(runs.collect()));
        };
        measure("miss", Side::Ingress, &|_run| tcp(&from, other, ACK));
        measure("new flow", Side::Ingress, &|run| {
            tcp(&format!("{client}:{}", 1024 + run), host, SYN)
        });
        measure("hit", Side::Ingress, &|_run| tcp(&from, host, ACK));
        measure("reverse", Side::Egress, &|_run| tcp(web, &from, ACK));
        measure("reverse miss", Side::Egress, &|_run| tcp(other, &from, ACK));
        let sctp = |from: &str, to: &str| {
            let packet = Packet::new(SCTP, from.parse().unwrap(), to.parse().unwrap(), DATA);
            packet.payload(&[7; 1400]).build()
        };
        measure("SCTP hit", Side::Ingress, &|_run| sctp(&from, host));
        measure("SCTP reverse", Side::Egress, &|_run| sctp(web, &from));
    }
}
