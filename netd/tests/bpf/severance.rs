//! A backend dies: datagrams go to another one at once, and sockets that were led to it end. Needs
//! root.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read as _};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use netd::bpf::{Balanced, Sandbox};
use sys::netns::NetNs;

use crate::bridged::Bridged;
use crate::instance::{Instance, frontend};
use crate::live::cgroup;
use crate::topology::{connect, cookie, echo_tcp, echo_udp, read_greeting, round_trip, udp};

const SHOP: u64 = 3;
const A: &str = "172.18.0.2:80";
const B: &str = "172.18.0.3:80";

/// Port 8080 at containers `a` and `b`, which echo.
fn shop(net: &Bridged, plane: &Instance) {
    net.attach(plane);
    for (ns, bind) in [(&net.a, A), (&net.b, B)] {
        echo_tcp(ns, bind);
        echo_udp(ns, bind);
    }
    plane.balance(SHOP, &with(&[A, B])).unwrap();
}

fn with(backends: &[&str]) -> Balanced {
    let backends = backends.iter().map(|b| (b.parse().unwrap(), 1));
    Balanced {
        frontends: ["any4:8080/tcp", "any4:8080/udp"].map(frontend).into(),
        backends: backends.collect(),
        ..Balanced::default()
    }
}

fn hooked(name: &str, net: &Bridged) -> Instance {
    let plane = Instance::open(name, Some(cgroup()));
    let host = Sandbox {
        host: true,
        ..Sandbox::default()
    };
    plane.set_sandbox(cookie(&plane, &net.host), host).unwrap();
    plane
        .set_sandbox(cookie(&plane, &net.c), Sandbox::default())
        .unwrap();
    plane
}

/// Ends what is to be ended in these namespaces.
fn end(plane: &Instance, namespaces: &[&NetNs]) -> usize {
    let gone = plane.backends_gone().expect("nobody else has asked");
    let gone: BTreeSet<IpAddr> = gone.try_iter().flatten().collect();
    let mut suspects = plane.suspects(&gone).unwrap();
    let mut ended = 0;
    for ns in namespaces {
        ended += ns
            .run(|| plane.end_sockets(&mut suspects))
            .unwrap()
            .unwrap();
    }
    plane.forget(&suspects).unwrap();
    assert!(plane.suspects(&gone).unwrap().is_empty() || ended == 0);
    ended
}

/// Where a socket's packets go, by the kernel's own word.
fn led_to(ns: &NetNs, local: SocketAddr) -> String {
    let text = crate::topology::run(ns, "ss", "-tunH state connected");
    let port = format!(":{}", local.port());
    let line = text.lines().find(|line| {
        let mut words = line.split_whitespace();
        words.any(|word| word.ends_with(&port))
    });
    let line = line.unwrap_or_else(|| panic!("no socket at {local} in\n{text}"));
    line.split_whitespace().last().unwrap().to_owned()
}

fn connected_udp(ns: &NetNs, to: &str) -> UdpSocket {
    let socket = udp(ns, "0.0.0.0:0");
    ns.run(|| socket.connect(to)).unwrap().unwrap();
    socket.send(b"hello").unwrap();
    socket.recv(&mut [0; 16]).unwrap();
    socket
}

fn is_ended(mut stream: &TcpStream) -> bool {
    stream
        .set_read_timeout(Some(Duration::from_millis(50)))
        .unwrap();
    match stream.read(&mut [0]) {
        Err(error) if error.kind() == ErrorKind::ConnectionAborted => true,
        Err(error) if error.kind() == ErrorKind::WouldBlock => false,
        other => panic!("{other:?}"),
    }
}

#[test]
fn sockets_that_were_led_to_a_dead_backend_end_and_no_others() {
    let net = Bridged::new();
    let plane = hooked("severed", &net);
    shop(&net, &plane);
    let (mut streams, mut sockets) = (Vec::new(), Vec::new());
    for (ns, to) in [
        (&net.host, "127.0.0.1:8080"),
        (&net.host, "192.0.2.1:8080"),
        (&net.c, "172.19.0.1:8080"),
    ] {
        for _ in 0..12 {
            let mut stream = connect(ns, to).unwrap();
            read_greeting(&mut stream);
            let led = led_to(ns, stream.local_addr().unwrap());
            streams.push((stream, led));
            let socket = connected_udp(ns, to);
            let led = led_to(ns, socket.local_addr().unwrap());
            sockets.push((socket, led));
        }
    }
    let dead = |led: &str| led == A;
    let expected = streams.iter().filter(|(_, led)| dead(led)).count()
        + sockets.iter().filter(|(_, led)| dead(led)).count();
    assert!((6..66).contains(&expected), "{expected} of 72");
    let mut direct = connect(&net.host, A).unwrap();
    read_greeting(&mut direct);

    plane.balance(SHOP, &with(&[B])).unwrap();
    assert_eq!(end(&plane, &[&net.host, &net.c]), expected);
    for (stream, led) in &streams {
        assert_eq!(is_ended(stream), dead(led), "{led}");
        if !dead(led) {
            stream
                .set_read_timeout(Some(crate::topology::PATIENCE))
                .unwrap();
            round_trip(stream, b"still here");
        }
    }
    for (socket, led) in &sockets {
        let sent = socket
            .send(b"hello")
            .and_then(|_| socket.recv(&mut [0; 16]));
        assert_eq!(sent.is_err(), dead(led), "{led}: {sent:?}");
    }
    assert!(!is_ended(&direct), "nobody led this one");
}

#[test]
fn a_draining_backend_keeps_its_sockets() {
    let net = Bridged::new();
    let plane = hooked("drained", &net);
    shop(&net, &plane);
    let mut streams: Vec<TcpStream> = (0..12)
        .map(|_| connect(&net.host, "127.0.0.1:8080").unwrap())
        .collect();
    let mut draining = with(&[A, B]);
    draining.backends.insert(A.parse().unwrap(), 0);
    plane.balance(SHOP, &draining).unwrap();
    assert_eq!(end(&plane, &[&net.host]), 0);
    for stream in &mut streams {
        read_greeting(stream);
        round_trip(stream, b"still here");
    }
}

#[test]
fn datagrams_from_outside_go_elsewhere_at_once() {
    let net = Bridged::new();
    let plane = Instance::open("moved", None);
    shop(&net, &plane);
    let to: SocketAddr = "192.0.2.1:8080".parse().unwrap();
    let sockets: Vec<UdpSocket> = (0..20).map(|_| udp(&net.client, "0.0.0.0:0")).collect();
    let ask = || {
        for socket in &sockets {
            socket.send_to(b"hello", to).unwrap();
            assert_eq!(socket.recv_from(&mut [0; 16]).unwrap(), (5, to));
        }
    };
    ask();
    let answers = |backend: &str| {
        let traffic = plane.traffic().unwrap();
        let mut all = traffic.iter().flat_map(|service| &service.backends);
        let found = all.find(|b| b.address.to_string() == backend);
        found.map_or(0, |backend| backend.counts.packets_out)
    };
    let before = answers(B);
    assert!(before < 20, "both answer");
    plane.balance(SHOP, &with(&[B])).unwrap();
    // The first datagram of each is answered: by the one that is left.
    ask();
    assert_eq!(answers(B), before + 20);
}
