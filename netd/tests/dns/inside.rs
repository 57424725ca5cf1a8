//! The sockets inside a sandbox, and servers that only a sandbox reaches.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use domain::base::iana::Rtype;
use netd::dns::{Config, DnsServer, bind};
use sys::netns::NetNs;

use crate::topology::{
    Topology, eventually, query, raise_loopback, receive, receive_framed, render, send_framed,
};
use crate::upstream::address;

const EMBEDDED: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 11));
const PORT: u16 = 53;

/// A namespace with a loopback, and a path to it.
fn namespace() -> (NetNs, PathBuf) {
    let namespace = NetNs::create().unwrap();
    namespace.run(raise_loopback).unwrap();
    let descriptor = namespace.as_fd().as_raw_fd();
    let path = format!("/proc/{}/fd/{descriptor}", std::process::id());
    (namespace, path.into())
}

fn serve(server: &DnsServer, namespace: &NetNs, path: &Path) -> SocketAddr {
    let sockets = namespace.run(|| bind(EMBEDDED, PORT)).unwrap().unwrap();
    let local = sockets.local();
    server.listen_inside(namespace.id(), path, sockets).unwrap();
    local
}

/// What a process inside that is bound to `from` gets.
fn ask(namespace: &NetNs, from: &str, name: &str) -> String {
    let socket = namespace
        .run(|| {
            let socket = UdpSocket::bind((from, 0))?;
            socket.connect((EMBEDDED, PORT))?;
            Ok::<_, std::io::Error>(socket)
        })
        .unwrap()
        .unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    socket.send(&query(name, Rtype::A)).unwrap();
    render(&receive(&socket))
}

#[test]
fn whoever_asks_inside_is_answered_for_its_networks() {
    let topology = Topology::new(80, Config::default());
    let (namespace, path) = namespace();
    let mut endpoint = topology.endpoint('4', &["inner"]);
    endpoint.sandbox = namespace.id();
    topology.server.upsert(endpoint);
    assert_eq!(
        serve(&topology.server, &namespace, &path),
        (EMBEDDED, PORT).into()
    );
    for from in ["0.0.0.0", "127.0.0.1", "127.9.9.9"] {
        assert_eq!(
            ask(&namespace, from, "web"),
            "NOERROR 127.53.80.2",
            "{from}"
        );
    }
    let mut stream = namespace
        .run(|| TcpStream::connect((EMBEDDED, PORT)).unwrap())
        .unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    send_framed(&mut stream, &query("app.shop", Rtype::A));
    assert_eq!(
        render(&receive_framed(&mut stream).unwrap()),
        "NOERROR 127.53.80.3"
    );
    topology.server.remove(&crate::topology::id('4'));
    assert_eq!(
        ask(&namespace, "0.0.0.0", "web"),
        "REFUSED",
        "it is on no network"
    );
}

#[test]
fn letting_go_frees_the_port_and_the_namespace() {
    let topology = Topology::new(81, Config::default());
    let (namespace, path) = namespace();
    serve(&topology.server, &namespace, &path);
    assert_eq!(topology.server.sandboxes(), [namespace.id()]);
    let free = || namespace.run(|| bind(EMBEDDED, PORT).unwrap().local().port() == PORT);
    assert!(!free().unwrap());
    topology.server.unlisten_inside(namespace.id());
    topology.server.unlisten_inside(namespace.id());
    eventually("the port is free", || free().unwrap());
    assert_eq!(topology.metric("sandboxes"), 0);
}

#[test]
fn servers_of_a_container_are_asked_from_inside_it() {
    let topology = Topology::new(82, Config::default());
    let (namespace, path) = namespace();
    let mut endpoint = topology.endpoint('4', &["inner"]);
    endpoint.sandbox = namespace.id();
    // Its own loopback: outside nobody answers there.
    endpoint.upstreams = vec!["127.0.0.1".parse().unwrap()];
    topology.server.upsert(endpoint);
    assert_eq!(
        topology.ask_from(4, "example.com", Rtype::A),
        "SERVFAIL",
        "there is no way into the sandbox"
    );
    serve(&topology.server, &namespace, &path);
    let server = namespace.run(|| UdpSocket::bind(("127.0.0.1", PORT)).unwrap());
    let server = server.unwrap();
    std::thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((len, from)) = server.recv_from(&mut query) {
            server
                .send_to(&address(&query[..len], 53, 60), from)
                .unwrap();
        }
    });
    assert_eq!(
        topology.ask_from(4, "example.com", Rtype::A),
        "NOERROR 192.0.2.53"
    );
    assert_eq!(
        ask(&namespace, "127.0.0.1", "example.com"),
        "NOERROR 192.0.2.53"
    );
    assert_eq!(topology.metric("upstreams"), 1);
    topology.server.unlisten_inside(namespace.id());
    assert_eq!(topology.metric("upstreams"), 0, "no socket is left inside");
}
