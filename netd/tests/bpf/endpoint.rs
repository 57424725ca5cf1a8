//! The program at an endpoint's link under real traffic. Needs root.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use api::id::{IfName, MacAddr};
use netd::bpf::{Change, Edge};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketType, ipproto};

use crate::instance::Instance;
use crate::topology::{Topology, connect, echo_tcp, ip, read_greeting, round_trip, run, udp};

fn link() -> IfName {
    IfName::parse("c0").unwrap()
}

/// The container of the topology.
pub(crate) fn edge(net: &Topology) -> Edge {
    let text = ip(&net.container, "-oneline link show eth0");
    let mac = text.split_once("link/ether ").unwrap().1;
    let octets: Vec<u8> = mac[..17]
        .split(':')
        .map(|octet| u8::from_str_radix(octet, 16).unwrap())
        .collect();
    Edge {
        mac: MacAddr(octets.try_into().unwrap()),
        v4: "172.18.0.2".parse().ok(),
        v6: "fd00:18::2".parse().ok(),
        checked: true,
        network: 7,
        direct_mtu: Some(1500),
        resolver: None,
    }
}

pub(crate) fn attach(net: &Topology, plane: &Instance, edge: &Edge) -> Change {
    let attach = || plane.attach_endpoint(&link(), edge).unwrap();
    net.host.run(attach).unwrap()
}

fn filters(net: &Topology) -> usize {
    let text = run(&net.host, "tc", "filter show dev c0 ingress");
    text.matches("direct-action").count()
}

/// Waits until a packet was refused for one of `reasons`: the kernel may take a moment.
#[track_caller]
fn wait_refused(plane: &Instance, reasons: &[&str]) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let refusals = plane.refusals().unwrap();
        let mut of_these = refusals.iter().filter(|(name, _)| reasons.contains(name));
        if of_these.any(|(_, count)| *count > 0) {
            return;
        }
        assert!(Instant::now() < deadline, "{refusals:?}");
        std::thread::yield_now();
    }
}

/// An echo request from a raw socket of the container; returns when something came back.
fn ping(net: &Topology, family: AddressFamily, protocol: Protocol, to: &str, kind: [u8; 2]) {
    let to = SocketAddr::new(to.parse().unwrap(), 0);
    let open = || rustix::net::socket(family, SocketType::RAW, Some(protocol)).unwrap();
    let socket = net.container.run(open).unwrap();
    set_socket_timeout(&socket, Timeout::Recv, Some(Duration::from_secs(20))).unwrap();
    rustix::net::connect(&socket, &to).unwrap();
    // The checksum of eight bytes that are zero but for the type; over IPv6 the kernel's business.
    let [high, low] = (!u16::from_be_bytes(kind)).to_be_bytes();
    let message = [kind[0], kind[1], high, low, 0, 0, 0, 0];
    rustix::net::send(&socket, &message, SendFlags::empty()).unwrap();
    let mut answer = [0; 64];
    rustix::net::recv(&socket, &mut answer, RecvFlags::empty()).unwrap();
}

#[test]
fn a_container_talks_and_cannot_pretend() {
    let net = Topology::new();
    let plane = Instance::open("edge-traffic", None);
    let edge = edge(&net);
    assert_eq!(attach(&net, &plane, &edge), Change::Created);
    assert_eq!(attach(&net, &plane, &edge), Change::Unchanged);
    for bind in ["172.18.0.1:7000", "[fd00:18::1]:7000"] {
        echo_tcp(&net.host, bind);
        let mut stream = connect(&net.container, bind).unwrap();
        read_greeting(&mut stream);
        round_trip(&stream, &vec![7; 200_000]);
    }
    ping(
        &net,
        AddressFamily::INET,
        ipproto::ICMP,
        "172.18.0.1",
        [8, 0],
    );
    ping(
        &net,
        AddressFamily::INET6,
        ipproto::ICMPV6,
        "fd00:18::1",
        [128, 0],
    );
    assert!(plane.refusals().unwrap().iter().all(|(_, n)| *n == 0));

    for (address, to, reason) in [
        ("172.18.0.99/24", "172.18.0.1:9", "ipv4"),
        ("fd00:18::99/64", "[fd00:18::1]:9", "ipv6"),
    ] {
        let family = if reason == "ipv6" { " nodad" } else { "" };
        ip(
            &net.container,
            &format!("address add {address} dev eth0{family}"),
        );
        let from = address.split('/').next().unwrap();
        let from = if reason == "ipv6" {
            format!("[{from}]")
        } else {
            from.to_owned()
        };
        let socket: UdpSocket = udp(&net.container, &format!("{from}:0"));
        socket.send_to(b"forged", to).unwrap();
        wait_refused(&plane, &[reason]);
    }
}

#[test]
fn the_filter_outlives_the_daemon_and_goes_with_its_link() {
    let net = Topology::new();
    let mut plane = Instance::open("edge-adopt", None);
    let edge = edge(&net);
    attach(&net, &plane, &edge);
    plane.close();
    assert_eq!(filters(&net), 1, "without a daemon");
    plane.reopen();
    assert_eq!(attach(&net, &plane, &edge), Change::Unchanged, "adopted");
    run(&net.host, "tc", "filter del dev c0 ingress");
    assert_eq!(attach(&net, &plane, &edge), Change::Changed, "repaired");
    assert_eq!(filters(&net), 1);
    let changed = Edge {
        checked: false,
        ..edge
    };
    assert_eq!(attach(&net, &plane, &changed), Change::Changed);
    assert_eq!(
        plane.endpoints().unwrap()[&link()],
        (net.index("c0"), changed)
    );

    ip(&net.host, "link del c0");
    assert_eq!(
        plane.endpoints().unwrap().len(),
        1,
        "the entry stays until it is released"
    );
    plane.close();
    plane.reopen();
    assert_eq!(plane.release_endpoint(&link()).unwrap(), Change::Changed);
    assert_eq!(plane.release_endpoint(&link()).unwrap(), Change::Unchanged);
    assert!(plane.endpoints().unwrap().is_empty());
}

#[test]
fn a_filter_of_an_instance_that_is_gone_is_replaced() {
    let net = Topology::new();
    let edge = edge(&net);
    let first = Instance::open("edge-first", None);
    attach(&net, &first, &edge);
    drop(first);
    assert_eq!(filters(&net), 1, "a filter whose table is gone");
    let second = Instance::open("edge-second", None);
    assert_eq!(attach(&net, &second, &edge), Change::Created);
    assert_eq!(filters(&net), 1);
    ip(&net.container, "address add 172.18.0.99/24 dev eth0");
    let socket = udp(&net.container, "172.18.0.99:0");
    socket.send_to(b"forged", "172.18.0.1:9").unwrap();
    // Its question for the gateway's link address is forged as well.
    wait_refused(&second, &["ipv4", "arp"]);
}

#[test]
fn an_interface_that_is_gone_is_an_error_that_names_it() {
    let net = Topology::new();
    let plane = Instance::open("edge-gone", None);
    let edge = edge(&net);
    ip(&net.host, "link del c0");
    let attach = || {
        plane
            .attach_endpoint(&link(), &edge)
            .unwrap_err()
            .to_string()
    };
    let message = net.host.run(attach).unwrap();
    assert!(
        message.starts_with("attach endpoint_entry to c0: "),
        "{message}"
    );
}
