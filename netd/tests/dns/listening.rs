use std::net::{IpAddr, TcpListener, UdpSocket};

use domain::base::iana::Rtype;
use netd::dns::{Config, DnsError};

use crate::topology::{Topology, eventually, id};

#[test]
fn listening_twice_keeps_the_port() {
    let topology = Topology::new(20, Config::default());
    let again = topology
        .server
        .listen(&id('a'), topology.address(1), 0)
        .unwrap();
    assert_eq!(again, topology.socket);
    assert_eq!(topology.metric("listeners"), 1);
}

#[test]
fn a_taken_port_is_replaced() {
    let topology = Topology::new(21, Config::default());
    let udp = UdpSocket::bind((topology.address(9), 0)).unwrap();
    let taken = udp.local_addr().unwrap().port();
    let socket = topology
        .server
        .listen(&id('b'), topology.address(9), taken)
        .unwrap();
    assert_ne!(socket.port(), taken);
    let tcp = TcpListener::bind((topology.address(8), 0)).unwrap();
    let taken = tcp.local_addr().unwrap().port();
    let socket = topology
        .server
        .listen(&id('b'), topology.address(8), taken)
        .unwrap();
    assert_ne!(socket.port(), taken);
}

#[test]
fn the_address_may_come_later() {
    let topology = Topology::new(22, Config::default());
    for (digit, address) in [('b', "192.0.2.77"), ('c', "2001:db8::77")] {
        let address: IpAddr = address.parse().unwrap();
        let socket = topology.server.listen(&id(digit), address, 0).unwrap();
        assert_eq!(socket.ip(), address);
    }
}

#[test]
fn an_address_that_cannot_be_bound_is_named() {
    let topology = Topology::new(23, Config::default());
    let address = "ff0e::1".parse().unwrap();
    // The kernel binds datagram sockets to IPv6 multicast addresses, but no listener.
    let error = topology.server.listen(&id('b'), address, 0).unwrap_err();
    assert!(matches!(error, DnsError::Bind { .. }), "{error:?}");
    assert!(error.to_string().contains("ff0e::1"), "{error}");
    assert_eq!(topology.metric("listeners"), 1);
}

#[test]
fn unlisten_frees_the_port() {
    let topology = Topology::new(24, Config::default());
    topology.server.unlisten(&id('a'));
    topology.server.unlisten(&id('a'));
    // At once, and each time: a resolver that comes back has the port it had.
    for _ in 0..100 {
        let port = topology.socket.port();
        let socket = topology
            .server
            .listen(&id('a'), topology.address(1), port)
            .unwrap();
        assert_eq!(socket, topology.socket);
        topology.server.unlisten(&id('a'));
    }
    let port = topology.socket.port();
    topology
        .server
        .listen(&id('a'), topology.address(1), port)
        .unwrap();
    assert_eq!(topology.ask("web", Rtype::A), "NOERROR 127.53.24.2");
}

#[test]
fn dropping_the_server_frees_the_port() {
    let Topology {
        server,
        socket,
        runtime,
        ..
    } = Topology::new(25, Config::default());
    drop(server);
    eventually("the port is free", || UdpSocket::bind(socket).is_ok());
    eventually("the port is free", || TcpListener::bind(socket).is_ok());
    drop(runtime);
}
