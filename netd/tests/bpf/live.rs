//! The data plane under real traffic, in namespaces of its own. Needs root.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::instance::{Instance, frontend};
use crate::topology::{
    Topology, connect, cookie, echo_tcp, echo_udp, ip, read_greeting, round_trip, udp,
};
use api::net::Protocol;
use netd::bpf::{Balanced, Change, DataPlane, Frontend, Sandbox};
use sys::kernel::is_linux;

/// The host's root cgroup: the hooks act on the test's own namespaces alone.
pub(crate) fn cgroup() -> PathBuf {
    ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"]
        .map(PathBuf::from)
        .into_iter()
        .find(|path| path.join("cgroup.controllers").exists())
        .expect("a cgroup2 hierarchy is mounted")
}

pub(crate) fn local(plane: &DataPlane) {
    let local = ["192.0.2.1", "172.18.0.1", "2001:db8::1", "fd00:18::1"];
    let local: BTreeSet<_> = local.iter().map(|ip| ip.parse().unwrap()).collect();
    plane.set_local_addresses(&local).unwrap();
}

pub(crate) fn publish(plane: &DataPlane, address: &str, backend: &str) {
    for protocol in ["tcp", "udp"] {
        let frontend = frontend(&format!("{address}:8080/{protocol}"));
        plane.publish(frontend, backend.parse().unwrap()).unwrap();
    }
}

#[test]
fn an_outside_client_reaches_a_published_port_and_is_seen_by_its_own_address() {
    let net = Topology::new();
    let plane = Instance::open("outside", None);
    local(&plane);
    publish(&plane, "any4", "172.18.0.2:80");
    publish(&plane, "any6", "[fd00:18::2]:80");
    net.attach(&plane);
    for bind in ["172.18.0.2:80", "[fd00:18::2]:80"] {
        echo_tcp(&net.container, bind);
        echo_udp(&net.container, bind);
    }
    let data: Vec<u8> = (0..3_000_001u32).map(|i| (i % 251) as u8).collect();
    for (to, any) in [
        ("192.0.2.1:8080", "0.0.0.0:0"),
        ("[2001:db8::1]:8080", "[::]:0"),
    ] {
        let mut stream = connect(&net.client, to).unwrap();
        assert_eq!(
            read_greeting(&mut stream),
            stream.local_addr().unwrap(),
            "{to}"
        );
        round_trip(&stream, &data);

        let socket = udp(&net.client, any);
        // The larger one is sent in fragments.
        for length in [100, 8000] {
            socket.send_to(&data[..length], to).unwrap();
            let mut back = vec![0; 9000];
            let (got, from) = socket.recv_from(&mut back).unwrap();
            assert_eq!((got, from), (length, to.parse().unwrap()), "{to}");
            assert!(back[..got] == data[..length]);
        }
    }
    let drops = plane.drops().unwrap();
    assert!(drops.iter().all(|(_, count)| *count == 0), "{drops:?}");
}

#[test]
fn traffic_flows_while_the_daemon_dies_and_comes_back() {
    let net = Topology::new();
    let mut plane = Instance::open("adopt", None);
    local(&plane);
    publish(&plane, "any4", "172.18.0.2:80");
    net.attach(&plane);
    echo_tcp(&net.container, "172.18.0.2:80");
    let mut stream = connect(&net.client, "192.0.2.1:8080").unwrap();
    read_greeting(&mut stream);

    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let traffic = scope.spawn(|| {
            let data = vec![7; 1 << 20];
            let mut rounds = 0;
            while !done.load(Ordering::Relaxed) || rounds < 3 {
                round_trip(&stream, &data);
                rounds += 1;
            }
        });
        for _ in 0..3 {
            plane.close();
            connect(&net.client, "192.0.2.1:8080").expect("a new connection, without a daemon");
            net.host.run(|| plane.reopen()).unwrap();
            assert_eq!(plane.published().unwrap().len(), 2);
            assert_eq!(net.host.run(|| plane.uplinks().unwrap()).unwrap().len(), 1);
        }
        done.store(true, Ordering::Relaxed);
        traffic.join().unwrap();
    });
    let ifindex = net.attach(&plane);
    let name = api::id::IfName::parse("eth0").unwrap();
    let again = net
        .host
        .run(|| plane.attach_uplink(ifindex, &name).unwrap())
        .unwrap();
    assert_eq!(again, Change::Unchanged);
}

#[test]
fn pins_go_with_the_interface_and_with_the_instance() {
    let net = Topology::new();
    let plane = Instance::open("pins", None);
    let ifindex = net.attach(&plane);
    let uplinks = || net.host.run(|| plane.uplinks().unwrap()).unwrap();
    assert_eq!(uplinks(), BTreeSet::from([ifindex]));
    let detached = net
        .host
        .run(|| plane.detach_uplink(ifindex).unwrap())
        .unwrap();
    assert_eq!(detached, Change::Changed);
    let detached = net
        .host
        .run(|| plane.detach_uplink(ifindex).unwrap())
        .unwrap();
    assert_eq!(detached, Change::Unchanged);
    assert_eq!(uplinks(), BTreeSet::new());
    // Detached is detached: what may be attached again at once.
    for _ in 0..20 {
        net.attach(&plane);
        net.host
            .run(|| plane.detach_uplink(ifindex).unwrap())
            .unwrap();
    }
    net.attach(&plane);
    ip(&net.host, "link del eth0");
    assert_eq!(uplinks(), BTreeSet::new());
    let options = plane.options.clone();
    drop(plane);
    assert!(!options.pin_dir.exists());
    DataPlane::uninstall(&options).expect("an absent instance counts as removed");
}

/// A data plane with socket hooks on `net`'s host and container.
fn hooked(name: &str, net: &Topology, dns: &str) -> Instance {
    let plane = Instance::open(name, Some(cgroup()));
    local(&plane);
    let host = Sandbox {
        host: true,
        ..Sandbox::default()
    };
    let container = Sandbox {
        host: false,
        apart: false,
        dns: Some(dns.parse().unwrap()),
        dns_inside: Some("127.0.0.11:10053".parse().unwrap()),
    };
    assert_eq!(
        plane.set_sandbox(cookie(&plane, &net.host), host).unwrap(),
        Change::Created
    );
    plane
        .set_sandbox(cookie(&plane, &net.container), container)
        .unwrap();
    assert_eq!(plane.sandboxes().unwrap().len(), 2);
    plane
}

#[test]
fn a_namespace_tells_its_cookie_by_a_connect() {
    let net = Topology::new();
    let plane = Instance::open("cookie", Some(cgroup()));
    for ns in [&net.host, &net.container] {
        let learned = ns.run(|| plane.learn_cookie().unwrap()).unwrap();
        assert_eq!(learned, Some(cookie(&plane, ns)));
        // What nobody has asked is a connect like any other.
        let to = || UdpSocket::bind("0.0.0.0:0")?.connect("127.255.18.52:22136");
        ns.run(to).unwrap().unwrap();
    }
    let without = Instance::open("cookie-none", None);
    assert_eq!(without.learn_cookie().unwrap(), None);
}

#[test]
fn the_host_and_the_container_itself_reach_a_published_port() {
    let net = Topology::new();
    let plane = hooked("connect", &net, "172.18.0.1:10053");
    publish(&plane, "any4", "172.18.0.2:80");
    // A container without IPv6, published on both families.
    publish(&plane, "any6", "172.18.0.2:80");
    echo_tcp(&net.container, "0.0.0.0:80");
    echo_udp(&net.container, "0.0.0.0:80");
    for (ns, to) in [
        (&net.host, "127.0.0.1:8080"),
        (&net.host, "127.9.9.9:8080"),
        (&net.host, "[::1]:8080"),
        (&net.host, "[::ffff:127.0.0.1]:8080"),
        (&net.host, "192.0.2.1:8080"),
        (&net.host, "[2001:db8::1]:8080"),
        (&net.container, "192.0.2.1:8080"),
        (&net.container, "172.18.0.1:8080"),
    ] {
        let mut stream = connect(ns, to).unwrap_or_else(|error| panic!("{to}: {error}"));
        let to: SocketAddr = to.parse().unwrap();
        assert_eq!(stream.peer_addr().unwrap(), to);
        read_greeting(&mut stream);
        round_trip(&stream, b"hello");
    }
    for to in ["127.0.0.1:8080", "192.0.2.1:8080"] {
        for connected in [false, true] {
            let socket = udp(&net.host, "0.0.0.0:0");
            if connected {
                socket.connect(to).unwrap();
                assert_eq!(socket.peer_addr().unwrap(), to.parse().unwrap());
                socket.send(b"hello").unwrap();
            } else {
                socket.send_to(b"hello", to).unwrap();
            }
            let (_, from) = socket.recv_from(&mut [0; 16]).unwrap();
            assert_eq!(from, to.parse().unwrap());
        }
    }
    let any4 = frontend("any4:8080/tcp");
    let counted = plane.traffic().unwrap();
    let counted = counted
        .iter()
        .find(|service| service.frontends == [any4])
        .unwrap();
    assert_eq!(counted.backends[0].counts.connects, 6, "{counted:?}");
    let udp = frontend("any4:8080/udp");
    let counted = plane.traffic().unwrap();
    let counted = counted
        .iter()
        .find(|service| service.frontends == [udp])
        .unwrap();
    let counts = counted.backends[0].counts;
    assert_eq!((counts.connects, counts.datagrams), (2, 2), "{counts:?}");
}

#[test]
fn the_host_and_a_container_reach_a_service_by_its_own_address() {
    let net = Topology::new();
    let plane = hooked("vip", &net, "172.18.0.1:10053");
    for (number, vip, backend, bind, any) in [
        (1, "172.18.0.5", "172.18.0.2:0", "0.0.0.0:80", "0.0.0.0:0"),
        (2, "fd00:18::5", "[fd00:18::2]:0", "[::]:81", "[::]:0"),
    ] {
        let vip: IpAddr = vip.parse().unwrap();
        let service = Balanced {
            frontends: [Protocol::Tcp, Protocol::Udp]
                .map(|protocol| Frontend::vip(vip, protocol))
                .into(),
            backends: [(backend.parse().unwrap(), 1)].into(),
            ..Balanced::default()
        };
        plane.balance(number, &service).unwrap();
        echo_tcp(&net.container, bind);
        echo_udp(&net.container, bind);
        let to = SocketAddr::new(vip, bind.parse::<SocketAddr>().unwrap().port());
        for ns in [&net.host, &net.container] {
            let mut stream = connect(ns, &to.to_string()).unwrap();
            assert_eq!(stream.peer_addr().unwrap(), to);
            read_greeting(&mut stream);
            round_trip(&stream, b"hello");
            let socket = udp(ns, any);
            socket.send_to(b"hello", to).unwrap();
            let (_, from) = socket.recv_from(&mut [0; 16]).unwrap();
            assert_eq!(from, to);
        }
        // Every port of the host is still free for its processes.
        let listen = || TcpListener::bind(("0.0.0.0", to.port())).map(drop);
        net.host.run(listen).unwrap().unwrap();
    }
}

#[test]
fn addresses_that_are_not_published_are_not_served() {
    let net = Topology::new();
    let plane = hooked("refused", &net, "172.18.0.1:10053");
    plane
        .publish(
            frontend("127.0.0.1:8080/tcp"),
            "172.18.0.2:80".parse().unwrap(),
        )
        .unwrap();
    echo_tcp(&net.container, "0.0.0.0:80");
    connect(&net.host, "127.0.0.1:8080").unwrap();
    for (ns, to) in [
        (&net.host, "127.0.0.2:8080"),
        (&net.host, "192.0.2.1:8080"),
        (&net.host, "[::1]:8080"),
        // The container's loopback is its own.
        (&net.container, "127.0.0.1:8080"),
        // Nobody told the data plane of this namespace.
        (&net.client, "127.0.0.1:8080"),
    ] {
        let error = connect(ns, to).expect_err(to);
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{to}");
    }
}

#[test]
fn a_container_asks_127_0_0_11_and_hears_from_it() {
    let net = Topology::new();
    let _plane = hooked("dns", &net, "172.18.0.1:10053");
    echo_udp(&net.host, "172.18.0.1:10053");
    echo_tcp(&net.host, "172.18.0.1:10053");
    echo_udp(&net.container, "127.0.0.11:10053");
    echo_tcp(&net.container, "127.0.0.11:10053");
    let mut buffer = [0; 16];
    let dns: SocketAddr = "127.0.0.11:53".parse().unwrap();

    let unconnected = udp(&net.container, "0.0.0.0:0");
    unconnected.send_to(b"query", dns).unwrap();
    assert_eq!(unconnected.recv_from(&mut buffer).unwrap(), (5, dns));

    let connected = udp(&net.container, "0.0.0.0:0");
    connected.connect(dns).unwrap();
    assert_eq!(connected.peer_addr().unwrap(), dns);
    connected.send(b"query").unwrap();
    assert_eq!(connected.recv_from(&mut buffer).unwrap(), (5, dns));

    let mapped = udp(&net.container, "[::]:0");
    let mapped_dns: SocketAddr = "[::ffff:127.0.0.11]:53".parse().unwrap();
    mapped.send_to(b"query", mapped_dns).unwrap();
    assert_eq!(mapped.recv_from(&mut buffer).unwrap(), (5, mapped_dns));

    let mut stream = connect(&net.container, "127.0.0.11:53").unwrap();
    assert_eq!(stream.peer_addr().unwrap(), dns);
    read_greeting(&mut stream);

    // The name server's true address stays what it is for whoever names it.
    let direct = udp(&net.container, "0.0.0.0:0");
    direct.send_to(b"query", "172.18.0.1:10053").unwrap();
    let (_, from) = direct.recv_from(&mut buffer).unwrap();
    assert_eq!(from, "172.18.0.1:10053".parse().unwrap());

    // Led to the gateway, a socket bound to loopback could not send at all.
    let bound = udp(&net.container, "127.0.0.1:0");
    bound.send_to(b"query", dns).unwrap();
    assert_eq!(bound.recv_from(&mut buffer).unwrap(), (5, dns));
    bound.connect(dns).unwrap();
    assert_eq!(bound.peer_addr().unwrap(), dns);
    bound.send(b"query").unwrap();
    assert_eq!(bound.recv_from(&mut buffer).unwrap(), (5, dns));
}

/// What a bind of a published port fails with.
fn refusal() -> ErrorKind {
    if is_linux(6, 1) {
        ErrorKind::AddrInUse
    } else {
        ErrorKind::PermissionDenied
    }
}

#[test]
fn a_published_port_cannot_be_bound_on_the_host() {
    let net = Topology::new();
    let plane = hooked("bind", &net, "172.18.0.1:10053");
    let listen = |ns: &sys::netns::NetNs, to: &str| ns.run(|| TcpListener::bind(to)).unwrap();
    let one = frontend("192.0.2.1:8080/tcp");
    plane
        .publish(one, "172.18.0.2:80".parse().unwrap())
        .unwrap();
    for taken in ["0.0.0.0:8080", "192.0.2.1:8080", "[::]:8080"] {
        let error = listen(&net.host, taken).expect_err(taken);
        assert_eq!(error.kind(), refusal(), "{taken}: {error}");
    }
    for free in [
        "127.0.0.1:8080",
        "[::1]:8080",
        "192.0.2.1:8081",
        "172.18.0.1:8080",
    ] {
        listen(&net.host, free).expect(free);
    }
    udp(&net.host, "0.0.0.0:8080");
    listen(&net.container, "0.0.0.0:8080").expect("a container's ports are its own");
    plane.unpublish(&one).unwrap();
    listen(&net.host, "0.0.0.0:8080").expect("free again");
}

#[test]
fn a_runtime_may_hold_what_it_has_published() {
    let net = Topology::new();
    let plane = hooked("hold", &net, "172.18.0.1:10053");
    local(&plane);
    publish(&plane, "any4", "172.18.0.2:80");
    net.attach(&plane);
    echo_tcp(&net.container, "172.18.0.2:80");
    let listen = || net.host.run(|| TcpListener::bind("0.0.0.0:8080")).unwrap();
    assert_eq!(listen().unwrap_err().kind(), refusal());
    let own = std::process::id();
    assert_eq!(plane.admit_runtime(own).unwrap(), Change::Created);
    assert_eq!(plane.admit_runtime(own).unwrap(), Change::Unchanged);
    let held = listen();
    assert_eq!(held.is_ok(), is_linux(6, 1), "{held:?}");
    for client in [&net.client, &net.host] {
        let mut stream = connect(client, "192.0.2.1:8080").unwrap();
        read_greeting(&mut stream);
        round_trip(&stream, b"to the container all the same");
    }
}
