//! What containers hear of a service's own address when nobody serves it. Needs root, and busybox.

use std::io::{ErrorKind, Read as _};
use std::net::{IpAddr, SocketAddr, UdpSocket};

use api::net::Protocol;
use netd::bpf::{Balanced, Frontend, Sandbox};
use sys::kernel::is_linux;

use crate::bridged::Bridged;
use crate::instance::Instance;
use crate::live::cgroup;
use crate::topology::{PATIENCE, connect, cookie, echo_tcp, read_greeting, round_trip, run};

const VIPS: [(&str, &str); 2] = [("172.18.0.5", "172.18.0.2"), ("fd00:18::5", "fd00:18::2")];

/// A service without members, or with one.
fn service(vip: &str, backend: Option<&str>) -> Balanced {
    let at = |protocol| Frontend::vip(vip.parse().unwrap(), protocol);
    let backend = backend.map(|ip| (SocketAddr::new(ip.parse().unwrap(), 0), 1));
    Balanced {
        frontends: [at(Protocol::Tcp), at(Protocol::Udp)].into(),
        backends: backend.into_iter().collect(),
        ..Balanced::default()
    }
}

fn serve(net: &Bridged, name: &str, backends: bool) -> Instance {
    let plane = Instance::open(name, None);
    net.attach(&plane);
    for (number, (vip, backend)) in (1..).zip(VIPS) {
        let backend = backends.then_some(backend);
        plane.balance(number, &service(vip, backend)).unwrap();
    }
    plane
}

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), port)
}

#[test]
fn a_service_without_members_refuses_at_once() {
    let net = Bridged::new();
    let _plane = serve(&net, "answer-refuse", false);
    for (vip, _) in VIPS {
        for (name, ns) in [("its network", &net.a), ("another container", &net.b)] {
            let to = at(vip, 80);
            let error = connect(ns, &to.to_string()).expect_err(name);
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{name}, {to}");
            let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            // Shorter and longer than what the answer quotes.
            for length in [0, 1, 9, 1400] {
                let socket = ns.run(|| UdpSocket::bind(any)).unwrap().unwrap();
                socket.set_read_timeout(Some(PATIENCE)).unwrap();
                socket.connect(to).unwrap();
                socket.send(&vec![7; length]).unwrap();
                let error = socket.recv(&mut [0; 16]).expect_err(name);
                assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{name}, {to}");
            }
        }
    }
}

#[test]
fn a_process_of_the_host_is_refused_at_once() {
    let net = Bridged::new();
    let plane = Instance::open("answer-host", Some(cgroup()));
    net.attach(&plane);
    let host = Sandbox {
        host: true,
        ..Sandbox::default()
    };
    plane.set_sandbox(cookie(&plane, &net.host), host).unwrap();
    // Below Linux 5.18 no hook says why, and the host looks in vain for who has the address.
    let expected = if is_linux(5, 18) {
        ErrorKind::ConnectionRefused
    } else {
        ErrorKind::HostUnreachable
    };
    for (number, (vip, _)) in (1..).zip(VIPS) {
        plane.balance(number, &service(vip, None)).unwrap();
        let error = connect(&net.host, &at(vip, 80).to_string()).unwrap_err();
        assert_eq!(error.kind(), expected, "{vip}");
    }
}

#[test]
fn a_connection_ends_at_once_when_the_last_member_goes() {
    let net = Bridged::new();
    let plane = serve(&net, "answer-reset", true);
    for (number, (vip, backend)) in (1..).zip(VIPS) {
        echo_tcp(&net.a, &at(backend, 80).to_string());
        let mut stream = connect(&net.b, &at(vip, 80).to_string()).unwrap();
        read_greeting(&mut stream);
        round_trip(&stream, &[7; 10_000]);
        plane.balance(number, &service(vip, None)).unwrap();
        std::io::Write::write_all(&mut stream, b"anybody?").unwrap();
        let error = stream.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{vip}");
    }
}

#[test]
fn a_service_answers_ping_with_members_and_without() {
    for members in [true, false] {
        let net = Bridged::new();
        let _plane = serve(&net, "answer-ping", members);
        for (vip, _) in VIPS {
            let ip: IpAddr = vip.parse().unwrap();
            let family = if ip.is_ipv4() { "-4" } else { "-6" };
            for ns in [&net.a, &net.b] {
                // Each reply's length and contents are compared by ping itself.
                for size in [0, 56, 1400] {
                    let arguments = format!("ping {family} -c 2 -i 0.2 -W 5 -s {size} {vip}");
                    run(ns, "busybox", &arguments);
                }
            }
        }
    }
}
