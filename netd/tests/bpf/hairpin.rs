//! Who reaches what: every kind of client, every kind of frontend, with the socket hooks and without
//! them. Needs root.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use api::net::Protocol;
use netd::bpf::{Balanced, Frontend, Mode, Sandbox};
use sys::netns::NetNs;

use crate::bridged::Bridged;
use crate::instance::{Instance, frontend};
use crate::live::cgroup;
use crate::topology::{
    PATIENCE, connect, cookie, echo_tcp, echo_udp, read_greeting, round_trip, udp,
};

const WEB: [&str; 2] = ["172.18.0.2", "fd00:18::2"];
const VIPS: [&str; 2] = ["172.18.0.5", "fd00:18::5"];

/// Container `a` behind a published port, a range, and an address of its service's own.
fn serve(net: &Bridged, plane: &Instance) {
    net.attach(plane);
    for (number, (web, vip)) in (1..).zip(WEB.into_iter().zip(VIPS)) {
        let web: IpAddr = web.parse().unwrap();
        let any = if web.is_ipv4() { "any4" } else { "any6" };
        for protocol in ["tcp", "udp"] {
            for (ports, target) in [("8080", 80), ("8081", 81), ("6000+10", 3000)] {
                let at = frontend(&format!("{any}:{ports}/{protocol}"));
                plane.publish(at, SocketAddr::new(web, target)).unwrap();
            }
        }
        let vip = |protocol| Frontend::vip(vip.parse().unwrap(), protocol);
        let service = Balanced {
            frontends: [vip(Protocol::Tcp), vip(Protocol::Udp)].into(),
            backends: [(SocketAddr::new(web, 0), 1)].into(),
            ..Balanced::default()
        };
        plane.balance(number, &service).unwrap();
        for port in [80, 3003] {
            let bind = SocketAddr::new(web, port).to_string();
            echo_tcp(&net.a, &bind);
            echo_udp(&net.a, &bind);
        }
    }
}

/// A client, its name, and the addresses of the host that it asks.
type Client<'a> = (&'a str, &'a NetNs, [&'static str; 2]);

fn clients(net: &Bridged) -> [Client<'_>; 6] {
    let uplink = ["192.0.2.1", "2001:db8::1"];
    [
        ("outside", &net.client, uplink),
        ("the same container", &net.a, ["172.18.0.1", "fd00:18::1"]),
        ("the same container, far address", &net.a, uplink),
        ("another container", &net.b, ["172.18.0.1", "fd00:18::1"]),
        ("another network", &net.c, ["172.19.0.1", "fd00:19::1"]),
        ("another network, far address", &net.c, uplink),
    ]
}

/// What is asked of `a` by this family.
fn targets(family: usize, host: &str) -> [SocketAddr; 3] {
    let at = |address: &str, port| SocketAddr::new(address.parse().unwrap(), port);
    [at(host, 8080), at(host, 6003), at(VIPS[family], 80)]
}

fn check(name: &str, ns: &NetNs, to: SocketAddr, is_self: bool, hooks: bool) {
    let mut stream = connect(ns, &to.to_string()).unwrap_or_else(|e| panic!("{name}, {to}: {e}"));
    assert_eq!(stream.peer_addr().unwrap(), to, "{name}");
    let (seen, own) = (read_greeting(&mut stream), stream.local_addr().unwrap());
    if is_self && !hooks {
        // The container has no other way to tell the asker from itself.
        assert_eq!(seen, SocketAddr::new(to.ip(), own.port()), "{name}, {to}");
    } else {
        assert_eq!(seen, own, "{name}, {to}");
    }
    round_trip(&stream, &[7; 300_000]);
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = udp(ns, any);
    // The larger one is sent in fragments.
    for length in [100, 8000] {
        socket.send_to(&vec![9; length], to).unwrap();
        let mut back = [0; 9000];
        let got = socket.recv_from(&mut back);
        let got = got.unwrap_or_else(|e| panic!("{name}, {to}, {length} bytes: {e}"));
        assert_eq!(got, (length, to), "{name}");
    }
}

fn no_drops(plane: &Instance) {
    let drops = plane.drops().unwrap();
    assert!(drops.iter().all(|(_, count)| *count == 0), "{drops:?}");
}

fn without_socket_hooks(mode: Mode) {
    let net = Bridged::new();
    let plane = Instance::open_in(mode, "hairpin", None);
    serve(&net, &plane);
    for (name, ns, host) in clients(&net) {
        for (family, host) in host.into_iter().enumerate() {
            for to in targets(family, host) {
                check(name, ns, to, name.starts_with("the same"), false);
            }
        }
    }
    no_drops(&plane);
}

fn with_socket_hooks(mode: Mode) {
    let net = Bridged::new();
    let plane = Instance::open_in(mode, "hairpin-hooks", Some(cgroup()));
    let host = Sandbox {
        host: true,
        ..Sandbox::default()
    };
    plane.set_sandbox(cookie(&plane, &net.host), host).unwrap();
    for ns in [&net.a, &net.b, &net.c] {
        plane
            .set_sandbox(cookie(&plane, ns), Sandbox::default())
            .unwrap();
    }
    serve(&net, &plane);
    let far = ["192.0.2.1", "2001:db8::1"];
    let host = [
        ("the host", &net.host, ["127.0.0.1", "::1"]),
        ("the host, far address", &net.host, far),
    ];
    for (name, ns, host) in clients(&net).into_iter().chain(host) {
        for (family, host) in host.into_iter().enumerate() {
            for to in targets(family, host) {
                check(name, ns, to, name.starts_with("the same"), true);
            }
        }
    }
    no_drops(&plane);
}

#[test]
fn everybody_reaches_everything_without_socket_hooks_in_compat_mode() {
    without_socket_hooks(Mode::Compat);
}

#[test]
fn everybody_reaches_everything_without_socket_hooks_in_hybrid_mode() {
    without_socket_hooks(Mode::Hybrid);
}

#[test]
fn everybody_reaches_everything_without_socket_hooks_in_fast_mode() {
    without_socket_hooks(Mode::Fast);
}

#[test]
fn everybody_reaches_everything_with_socket_hooks_in_compat_mode() {
    with_socket_hooks(Mode::Compat);
}

#[test]
fn everybody_reaches_everything_with_socket_hooks_in_hybrid_mode() {
    with_socket_hooks(Mode::Hybrid);
}

#[test]
fn everybody_reaches_everything_with_socket_hooks_in_fast_mode() {
    with_socket_hooks(Mode::Fast);
}

#[test]
fn a_container_hears_that_nobody_listens() {
    let net = Bridged::new();
    let plane = Instance::open("hairpin-errors", None);
    serve(&net, &plane);
    for (name, ns, host) in clients(&net) {
        for host in host {
            let to = SocketAddr::new(host.parse().unwrap(), 8081);
            let error = connect(ns, &to.to_string()).expect_err(name);
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{name}, {to}");
            let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = ns.run(|| UdpSocket::bind(any)).unwrap().unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket.connect(to).unwrap();
            socket.send(b"anybody?").unwrap();
            let error = socket.recv(&mut [0; 16]).expect_err(name);
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{name}, {to}");
        }
    }
}
