//! What the programs at endpoints' links cost: printed, never judged (`--nocapture`).

use std::net::{IpAddr, SocketAddrV4};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use abi::map::{JUMP_TC, TcSlot};
use api::id::{Id, IfName};
use netd::bpf::{Edge, NameAddresses, NameFact, Side, Verdict};
use sys::bpf::probe::Probe;

use crate::frame::{self, ACK, SYN, Shape, tcp, udp};
use crate::guard::{edge, lo, on_loopback};
use crate::instance::{Instance, frontend};
use crate::packet::{DATA, Packet, SCTP, SYN_ACK};
use crate::topology::{Topology, ip};

const RUNS: usize = 2000;
/// Where a run leaves the frame as it was: so many runs at once, and so many times.
const REPEAT: u32 = 100_000;
const WARM: usize = 9;
/// `TC_ACT_SHOT`, include/uapi/linux/pkt_cls.h.
const SHOT: u32 = 2;
const CLIENT4: &str = "198.18.0.7:40000";
const CLIENT6: &str = "[2001:db8:7::7]:40000";
const WEB4: &str = "172.18.0.2:80";
const WEB6: &str = "[fd00:18::2]:80";

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

/// The paths of a packet through an uplink's programs, warm. The published port leads to the address
/// and port that it is published at: a second run finds the packet as the first one did.
#[test]
fn packets_of_an_uplink() {
    let plane = Instance::open("cost-uplink", None);
    let table = sys::bpf::open(&plane.options.pin_dir.join(JUMP_TC)).unwrap();
    let probe = |slot: TcSlot| Probe::jump(table.as_fd(), slot as u32).unwrap();
    let (ingress, egress) = (probe(TcSlot::Ingress), probe(TcSlot::Egress));
    warm("nothing", &Probe::empty().unwrap(), tcp(CLIENT4, WEB4, ACK));
    for (family, client, web, source) in [("v4", CLIENT4, WEB4, 26), ("v6", CLIENT6, WEB6, 34)] {
        for protocol in ["tcp", "sctp"] {
            let at = frontend(&format!("{web}/{protocol}"));
            plane.publish(at, web.parse().unwrap()).unwrap();
        }
        let other = web.replace(":80", ":81");
        let sctp = |from: &str, to: &str| {
            let packet = Packet::new(SCTP, from.parse().unwrap(), to.parse().unwrap(), DATA);
            packet.payload(&[7; 1400]).build()
        };
        for (to_client, flags) in [(false, SYN), (true, SYN_ACK), (false, ACK), (true, ACK)] {
            let (side, from, to) = if to_client {
                (Side::Egress, web, client)
            } else {
                (Side::Ingress, client, web)
            };
            plane.replay(side, &tcp(from, to, flags)).unwrap();
        }
        let counting = Probe::counting(table.as_fd(), TcSlot::Ingress as u32, source).unwrap();
        for (what, probe, packet) in [
            ("miss", &ingress, tcp(client, &other, ACK)),
            ("hit", &ingress, tcp(client, web, ACK)),
            ("reverse", &egress, tcp(web, client, ACK)),
            ("reverse miss", &egress, tcp(&other, client, ACK)),
            ("SCTP hit", &ingress, sctp(client, web)),
            ("SCTP reverse", &egress, sctp(web, client)),
        ] {
            warm(&format!("{family} {what}"), probe, packet);
        }
        let begun = || -> u64 {
            let all = plane.traffic().unwrap();
            all.iter()
                .map(|service| service.past.new_flows)
                .sum::<u64>()
                + all
                    .iter()
                    .flat_map(|service| &service.backends)
                    .map(|b| b.counts.new_flows)
                    .sum::<u64>()
        };
        let before = begun();
        warm(
            &format!("{family} new flow"),
            &counting,
            tcp(client, web, SYN),
        );
        assert_eq!(begun() - before, (WARM * REPEAT as usize) as u64);
    }
}

/// Prints the median of some runs of many on the same frame.
fn warm(what: &str, probe: &Probe, mut packet: Vec<u8>) {
    let runs = (0..WARM).map(|_| {
        let run = probe.run(&packet.clone(), &mut packet, REPEAT).unwrap();
        assert_ne!(run.verdict, SHOT, "{what}");
        Duration::from_nanos(run.nanoseconds.into())
    });
    println!("{what}: {:?}", median(runs.collect()));
}
