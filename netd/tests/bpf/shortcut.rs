//! Past the host's stack and through it: what the host's packet filter and its connection tracking
//! see of published ports in each mode. Needs root, and nft.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use netd::bpf::{Edge, Mode};
use sys::netns::NetNs;

use crate::bridged::Bridged;
use crate::endpoint;
use crate::instance::{Instance, MODES, frontend};
use crate::topology::{
    PATIENCE, Topology, connect, echo_tcp, echo_udp, read_greeting, round_trip, run, udp,
};

const TARGETS: [(&str, &str, &str); 2] = [
    ("192.0.2.1:8080", "172.18.0.2:80", "any4"),
    ("[2001:db8::1]:8080", "[fd00:18::2]:80", "any6"),
];

/// A container behind a published port, and a forward chain that counts.
fn serve(net: &Bridged, mode: Mode, name: &str) -> Instance {
    let plane = Instance::open_in(mode, name, None);
    net.attach(&plane);
    for (_, backend, any) in TARGETS {
        for protocol in ["tcp", "udp"] {
            let at = frontend(&format!("{any}:8080/{protocol}"));
            plane.publish(at, backend.parse().unwrap()).unwrap();
        }
        echo_tcp(&net.a, backend);
        echo_udp(&net.a, backend);
    }
    let host = &net.host;
    nft(host, "add table inet host");
    nft(
        host,
        "add chain inet host forward { type filter hook forward priority 0; }",
    );
    nft(host, "add counter inet host passed");
    nft(host, "add counter inet host invalid");
    nft(
        host,
        "add rule inet host forward ct state invalid counter name invalid",
    );
    nft(host, "add rule inet host forward counter name passed");
    liberal(host);
    plane
}

/// As the daemon does for hybrid mode.
fn liberal(host: &NetNs) {
    let key = "/proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal";
    host.run(|| std::fs::write(key, "1").unwrap()).unwrap();
}

fn nft(ns: &NetNs, arguments: &str) -> String {
    run(ns, "nft", arguments)
}

/// Packets that the counter saw.
fn seen(ns: &NetNs, counter: &str) -> u64 {
    let text = nft(ns, &format!("list counter inet host {counter}"));
    let (_, rest) = text.split_once("packets ").unwrap();
    rest.split_whitespace().next().unwrap().parse().unwrap()
}

/// How many packets crossed the forward chain meanwhile.
fn crossed<T>(net: &Bridged, work: impl FnOnce() -> T) -> (T, u64) {
    let before = seen(&net.host, "passed");
    let result = work();
    (result, seen(&net.host, "passed") - before)
}

const LARGE: usize = 20 << 20;

#[test]
fn only_what_opens_and_ends_a_connection_crosses_the_forward_chain_in_hybrid_mode() {
    let net = Bridged::new();
    let plane = serve(&net, Mode::Hybrid, "hybrid");
    for (to, _, _) in TARGETS {
        let ((), packets) = crossed(&net, || {
            let mut stream = connect(&net.client, to).unwrap();
            assert_eq!(read_greeting(&mut stream), stream.local_addr().unwrap());
            round_trip(&stream, &vec![7; LARGE]);
        });
        // Until the shortcut is open a window's worth may be under way, and an epoch may end.
        assert!((6..200).contains(&packets), "{to}: {packets}");
        let socket = udp(&net.client, any(to));
        let ((), packets) = crossed(&net, || {
            for _ in 0..100 {
                socket.send_to(&[7; 1000], to).unwrap();
                let got = socket.recv_from(&mut [0; 2000]).unwrap();
                assert_eq!(got, (1000, to.parse().unwrap()));
            }
        });
        assert!((3..20).contains(&packets), "{to}: {packets}");
    }
    assert_eq!(seen(&net.host, "invalid"), 0);
    assert!(plane.drops().unwrap().iter().all(|(_, n)| *n == 0));
}

fn any(to: &str) -> &'static str {
    if to.starts_with('[') {
        "[::]:0"
    } else {
        "0.0.0.0:0"
    }
}

#[test]
fn everything_crosses_the_forward_chain_in_compat_mode_and_nothing_in_fast_mode() {
    for mode in [Mode::Compat, Mode::Fast] {
        let net = Bridged::new();
        let plane = serve(&net, mode, "crossing");
        for (to, _, _) in TARGETS {
            let ((), packets) = crossed(&net, || {
                let mut stream = connect(&net.client, to).unwrap();
                assert_eq!(read_greeting(&mut stream), stream.local_addr().unwrap());
                round_trip(&stream, &vec![7; LARGE]);
            });
            if mode == Mode::Compat {
                // Packets of 64 KB, both ways.
                assert!(packets > 400, "{to}: {packets}");
            } else {
                // The first replies, until the neighbor is known.
                assert!(packets < 10, "{to}: {packets}");
            }
        }
        assert_eq!(seen(&net.host, "invalid"), 0);
        assert!(plane.drops().unwrap().iter().all(|(_, n)| *n == 0));
    }
}

#[test]
fn the_hosts_packet_filter_decides_about_connections_but_in_fast_mode() {
    for mode in MODES {
        let net = Bridged::new();
        let plane = serve(&net, mode, "policy");
        nft(
            &net.host,
            "insert rule inet host forward ip saddr 192.0.2.7 tcp flags syn reject with tcp reset",
        );
        let connected = connect(&net.client, TARGETS[0].0);
        match mode {
            Mode::Fast => drop(connected.unwrap()),
            Mode::Compat | Mode::Hybrid => {
                assert_eq!(
                    connected.unwrap_err().kind(),
                    ErrorKind::ConnectionRefused,
                    "{mode:?}"
                );
            }
        }
        drop(plane);
    }
}

/// Sends and waits for it to come back, for a moment only.
fn goes_on(stream: &mut TcpStream) -> bool {
    stream.write_all(b"x").unwrap();
    stream
        .set_read_timeout(Some(Duration::from_millis(700)))
        .unwrap();
    let got = stream.read(&mut [0]).is_ok();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    got
}

#[test]
fn a_changed_packet_filter_reaches_connections_in_hybrid_mode() {
    // Each direction for itself.
    for rule in ["ip saddr 192.0.2.7 drop", "ip daddr 192.0.2.7 drop"] {
        let net = Bridged::new();
        let plane = serve(&net, Mode::Hybrid, "renew");
        let mut stream = connect(&net.client, TARGETS[0].0).unwrap();
        read_greeting(&mut stream);
        round_trip(&stream, &[7; 100_000]);
        nft(&net.host, &format!("insert rule inet host forward {rule}"));
        assert!(goes_on(&mut stream), "{rule}: nobody has told of it");
        plane.renew_shortcuts().unwrap();
        assert!(!goes_on(&mut stream), "{rule}");
        nft(&net.host, "flush chain inet host forward");
        plane.renew_shortcuts().unwrap();
        // What was lost meanwhile is sent again.
        stream.read_exact(&mut [0]).unwrap();
        round_trip(&stream, &[7; 100_000]);
    }
}

#[test]
fn a_download_does_not_notice_that_the_mode_changes() {
    let net = Bridged::new();
    let mut plane = serve(&net, Mode::Compat, "change");
    let done = AtomicBool::new(false);
    let rounds = <[AtomicUsize; 2]>::default();
    thread::scope(|scope| {
        let _ending = crate::load::Ending(&done);
        for ((to, _, _), rounds) in TARGETS.iter().zip(&rounds) {
            let (done, client) = (&done, &net.client);
            scope.spawn(move || {
                let mut stream = connect(client, to).unwrap();
                read_greeting(&mut stream);
                while !done.load(Ordering::Relaxed) {
                    round_trip(&stream, &[7; 64 << 10]);
                    rounds.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let wait = || {
            let before = rounds.each_ref().map(|n| n.load(Ordering::Relaxed));
            let deadline = Instant::now() + PATIENCE;
            let is_on = |(n, before): (&AtomicUsize, usize)| n.load(Ordering::Relaxed) > before + 5;
            while !rounds.iter().zip(before).all(is_on) {
                assert!(Instant::now() < deadline, "a download stalls");
                thread::yield_now();
            }
        };
        wait();
        for mode in [
            Mode::Hybrid,
            Mode::Fast,
            Mode::Compat,
            Mode::Fast,
            Mode::Hybrid,
            Mode::Compat,
        ] {
            plane.close();
            net.host.run(|| plane.reopen()).unwrap();
            plane.set_mode(mode).unwrap();
            assert_eq!(plane.mode().unwrap(), mode);
            wait();
        }
    });
    assert_eq!(seen(&net.host, "invalid"), 0);
}

#[test]
fn an_endpoint_with_a_limit_is_reached_through_the_stack_in_every_mode() {
    let net = Bridged::new();
    let plane = serve(&net, Mode::Fast, "limited");
    let edges = plane.endpoints().unwrap();
    let (link, (_, edge)) = edges
        .iter()
        .find(|(link, _)| link.as_str() == "a0")
        .unwrap();
    let limited = Edge {
        direct_mtu: None,
        ..*edge
    };
    let attach = || plane.attach_endpoint(link, &limited).unwrap();
    net.host.run(attach).unwrap();
    let ((), packets) = crossed(&net, || {
        let mut stream = connect(&net.client, TARGETS[0].0).unwrap();
        read_greeting(&mut stream);
        round_trip(&stream, &[7; 100_000]);
    });
    assert!(packets > 8, "{packets}");
}

#[test]
fn a_packet_without_hops_left_is_answered_by_the_host_in_every_mode() {
    for mode in MODES {
        let net = Topology::new();
        let plane = Instance::open_in(mode, "hops", None);
        let local = ["192.0.2.1", "2001:db8::1"].map(|ip| ip.parse().unwrap());
        plane.set_local_addresses(&local.into()).unwrap();
        let at = frontend("any4:8080/udp");
        plane.publish(at, "172.18.0.2:80".parse().unwrap()).unwrap();
        net.attach(&plane);
        endpoint::attach(&net, &plane, &endpoint::edge(&net));
        let server = net.container.run(|| UdpSocket::bind("172.18.0.2:80"));
        let server = server.unwrap().unwrap();
        server.set_read_timeout(Some(PATIENCE)).unwrap();
        let to: SocketAddr = "192.0.2.1:8080".parse().unwrap();
        let socket = udp(&net.client, "0.0.0.0:0");
        socket.connect(to).unwrap();
        for hops in [1, 2] {
            socket.set_ttl(hops).unwrap();
            socket.send(&[hops as u8]).unwrap();
        }
        let mut got = [0];
        server.recv_from(&mut got).unwrap();
        assert_eq!(got, [2], "{mode:?}");
        let deadline = Instant::now() + PATIENCE;
        while times_exceeded(&net.host) == 0 {
            assert!(
                Instant::now() < deadline,
                "{mode:?}: nobody tells the sender"
            );
            thread::yield_now();
        }
    }
}

/// How many senders the namespace has told that a packet travelled too far.
fn times_exceeded(ns: &NetNs) -> u64 {
    let read = || std::fs::read_to_string("/proc/thread-self/net/snmp").unwrap();
    let text = ns.run(read).unwrap();
    let mut lines = text.lines().filter(|line| line.starts_with("Icmp:"));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let mut found = names.split(' ').zip(values.split(' '));
    let (_, value) = found.find(|(name, _)| *name == "OutTimeExcds").unwrap();
    value.parse().unwrap()
}
