//! What translations of ports have been seen to break, under real traffic. Needs root.

use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use rustix::net::sockopt::set_socket_reuseaddr;
use rustix::net::{AddressFamily, SocketType};
use sys::netns::NetNs;

use netd::bpf::{Edge, Mode};

use crate::endpoint;
use crate::instance::{Instance, MODES, frontend};
use crate::topology::{
    PATIENCE, Topology, echo_tcp, echo_udp, ip, path, read_greeting, round_trip,
};

fn published(mode: Mode, name: &str, net: &Topology, frontends: &[(&str, &str)]) -> Instance {
    let plane = Instance::open_in(mode, name, None);
    let local = ["192.0.2.1", "172.18.0.1", "2001:db8::1", "fd00:18::1"];
    let local = local.map(|ip| ip.parse().unwrap());
    plane.set_local_addresses(&local.into()).unwrap();
    for (at, backend) in frontends {
        plane
            .publish(frontend(at), backend.parse().unwrap())
            .unwrap();
    }
    net.attach(&plane);
    endpoint::attach(net, &plane, &endpoint::edge(net));
    plane
}

/// A connection from a port that other connections may have, too.
fn connect_from(ns: &NetNs, from: SocketAddr, to: SocketAddr) -> TcpStream {
    let family = if from.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let open = || {
        let socket = rustix::net::socket(family, SocketType::STREAM, None).unwrap();
        set_socket_reuseaddr(&socket, true).unwrap();
        rustix::net::bind(&socket, &from).unwrap();
        rustix::net::connect(&socket, &to).unwrap();
        TcpStream::from(socket)
    };
    let stream = ns.run(open).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

#[test]
fn two_published_ports_of_one_container_serve_one_client_port() {
    MODES.into_iter().for_each(two_published_ports);
}

fn two_published_ports(mode: Mode) {
    let net = Topology::new();
    let plane = published(
        mode,
        "trap-ports",
        &net,
        &[
            ("any4:8080/tcp", "172.18.0.2:80"),
            ("any4:9090/tcp", "172.18.0.2:80"),
            ("any6:8080/tcp", "[fd00:18::2]:80"),
            ("any6:9090/tcp", "[fd00:18::2]:80"),
        ],
    );
    for (bind, from, to) in [
        (
            "172.18.0.2:80",
            "192.0.2.7:5555",
            ["192.0.2.1:8080", "192.0.2.1:9090"],
        ),
        (
            "[fd00:18::2]:80",
            "[2001:db8::7]:5555",
            ["[2001:db8::1]:8080", "[2001:db8::1]:9090"],
        ),
    ] {
        echo_tcp(&net.container, bind);
        let from: SocketAddr = from.parse().unwrap();
        let [mut first, mut second] =
            to.map(|to| connect_from(&net.client, from, to.parse().unwrap()));
        assert_eq!(read_greeting(&mut first), from);
        let seen = read_greeting(&mut second);
        assert_eq!(seen.ip(), from.ip());
        assert_ne!(seen.port(), from.port(), "two connections, one peer");
        for _ in 0..3 {
            round_trip(&first, &[1; 100_000]);
            round_trip(&second, &[2; 100_000]);
        }
    }
    assert!(plane.drops().unwrap().iter().all(|(_, n)| *n == 0));
}

/// Sends until the answer comes back: the first datagrams teach the path's MTU.
#[track_caller]
fn echoed_at_last(socket: &UdpSocket, to: SocketAddr, data: &[u8]) {
    socket
        .set_read_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    let deadline = Instant::now() + PATIENCE;
    let mut back = vec![0; 9000];
    loop {
        // Fails with EMSGSIZE where the MTU is learned at this moment.
        let sent = socket.send_to(data, to);
        if sent.is_ok()
            && let Ok((length, from)) = socket.recv_from(&mut back)
        {
            assert_eq!((from, &back[..length]), (to, data));
            return;
        }
        assert!(Instant::now() < deadline, "{to} never answers");
    }
}

/// The MTU that the namespace has learned of its way to `to`.
fn learned(ns: &NetNs, to: &str) -> Option<u32> {
    let route = ip(ns, &format!("route get {to}"));
    let (_, rest) = route.split_once(" mtu ")?;
    rest.split_whitespace().next()?.parse().ok()
}

const FAMILIES: [(&str, &str, &str, &str); 2] = [
    ("172.18.0.2:80", "192.0.2.1:8080", "0.0.0.0:0", "192.0.2.1"),
    (
        "[fd00:18::2]:80",
        "[2001:db8::1]:8080",
        "[::]:0",
        "2001:db8::1",
    ),
];

#[test]
fn a_client_learns_that_the_way_to_the_container_is_narrow() {
    MODES.into_iter().for_each(narrow_to_the_container);
}

fn narrow_to_the_container(mode: Mode) {
    let net = Topology::new();
    let plane = published(
        mode,
        "trap-narrow",
        &net,
        &[
            ("any4:8080/udp", "172.18.0.2:80"),
            ("any6:8080/udp", "[fd00:18::2]:80"),
        ],
    );
    let narrow = Edge {
        direct_mtu: Some(1300),
        ..endpoint::edge(&net)
    };
    endpoint::attach(&net, &plane, &narrow);
    ip(&net.host, "link set c0 mtu 1300");
    ip(&net.container, "link set eth0 mtu 1300");
    for (bind, to, any, host) in FAMILIES {
        echo_udp(&net.container, bind);
        let socket = net.client.run(|| UdpSocket::bind(any)).unwrap().unwrap();
        echoed_at_last(&socket, to.parse().unwrap(), &[3; 1400]);
        assert_eq!(learned(&net.client, host), Some(1300), "{host}");
    }
}

#[test]
fn a_container_learns_that_the_way_to_the_client_is_narrow() {
    MODES.into_iter().for_each(narrow_to_the_client);
}

fn narrow_to_the_client(mode: Mode) {
    let net = Topology::new();
    let _plane = published(
        mode,
        "trap-far",
        &net,
        &[
            ("any4:8080/udp", "172.18.0.2:80"),
            ("any6:8080/udp", "[fd00:18::2]:80"),
        ],
    );
    // The client becomes a router to another one, behind a narrow link.
    let far = NetNs::create().unwrap();
    let router = &net.client;
    ip(
        router,
        &format!("link add far type veth peer name eth0 netns {}", path(&far)),
    );
    for (ns, device, v4, v6) in [
        (router, "far", "198.51.100.1/24", "2001:db8:7::1/64"),
        (&far, "eth0", "198.51.100.7/24", "2001:db8:7::7/64"),
    ] {
        ip(ns, &format!("link set {device} mtu 1300 up"));
        ip(ns, &format!("address add {v4} dev {device}"));
        ip(ns, &format!("address add {v6} dev {device} nodad"));
    }
    ip(&far, "route add default via 198.51.100.1");
    ip(&far, "route add default via 2001:db8:7::1");
    ip(&net.host, "route add 198.51.100.0/24 via 192.0.2.7");
    ip(&net.host, "route add 2001:db8:7::/64 via 2001:db8::7");
    router
        .run(|| {
            for file in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
                std::fs::write(format!("/proc/sys/net/{file}"), "1").unwrap();
            }
        })
        .unwrap();
    for ((bind, to, any, _), client) in FAMILIES.into_iter().zip(["198.51.100.7", "2001:db8:7::7"])
    {
        echo_udp(&net.container, bind);
        let socket = far.run(|| UdpSocket::bind(any)).unwrap().unwrap();
        // Sent in fragments, answered in one piece at first.
        echoed_at_last(&socket, to.parse().unwrap(), &[4; 1400]);
        assert_eq!(learned(&net.container, client), Some(1300), "{client}");
    }
}
