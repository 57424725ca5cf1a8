//! SCTP through a published port, packet by packet from raw sockets: not every kernel has sockets of
//! SCTP. Connection tracking follows it, and so the tags and checksums are what they must be.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, ipproto};

use crate::world::{PATIENCE, Sandbox, World};

const HOST4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const HOST6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));
const OUTSIDE4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));
const OUTSIDE6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7));
const NETWORK: &str = r#"{"Name": "shop", "EnableIPv6": true}"#;
const PORTS: &str = r#"[
    {"protocol": "sctp", "container_port": 9000, "host_port": 9001, "count": 1},
    {"protocol": "sctp", "container_port": 3868, "host_port": 3868, "count": 1},
    {"protocol": "sctp", "container_port": 5000, "host_port": 6000, "count": 100}
]"#;

/// Chunk types (RFC 9260, 3.2).
const DATA: u8 = 0;
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const SACK: u8 = 3;
const ABORT: u8 = 6;
const SHUTDOWN: u8 = 7;
const SHUTDOWN_ACK: u8 = 8;
const COOKIE_ECHO: u8 = 10;
const COOKIE_ACK: u8 = 11;
const SHUTDOWN_COMPLETE: u8 = 14;

/// What each end calls the association.
const CLIENT_TAG: u32 = 0x1111_2222;
const SERVER_TAG: u32 = 0x3333_4444;

/// Who sends a chunk, and how long it is.
const ASSOCIATION: [(bool, u8, usize); 9] = [
    (true, INIT, 16),
    (false, INIT_ACK, 16),
    (true, COOKIE_ECHO, 64),
    (false, COOKIE_ACK, 0),
    (true, DATA, 1400),
    (false, SACK, 12),
    (true, SHUTDOWN, 4),
    (false, SHUTDOWN_ACK, 0),
    (true, SHUTDOWN_COMPLETE, 0),
];

/// A raw socket.
struct Wire {
    socket: OwnedFd,
    v6: bool,
}

impl Wire {
    /// In the calling thread's namespace.
    fn open(v6: bool) -> Self {
        let family = if v6 {
            AddressFamily::INET6
        } else {
            AddressFamily::INET
        };
        let socket = rustix::net::socket(family, SocketType::RAW, Some(ipproto::SCTP)).unwrap();
        set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE)).unwrap();
        Self { socket, v6 }
    }

    fn send(&self, to: IpAddr, packet: &[u8]) {
        let to = SocketAddr::new(to, 0);
        rustix::net::sendto(&self.socket, packet, SendFlags::empty(), &to).unwrap();
    }

    /// Who sent it, and all behind the IP header.
    fn receive(&self) -> (IpAddr, Vec<u8>) {
        let mut buffer = vec![0; 4096];
        let (length, _, from) =
            rustix::net::recvfrom(&self.socket, &mut buffer[..], RecvFlags::empty()).unwrap();
        let from: SocketAddr = from.unwrap().try_into().unwrap();
        let header = if self.v6 { 0 } else { 20 };
        (from.ip(), buffer[header..length].to_vec())
    }
}

/// A packet of one chunk with a right checksum.
fn packet(from: u16, to: u16, tag: u32, kind: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = [from.to_be_bytes(), to.to_be_bytes()].concat();
    packet.extend(tag.to_be_bytes());
    // Of the flags, a whole message's are all that is needed.
    let flags = if kind == DATA { 3 } else { 0 };
    packet.extend([0, 0, 0, 0, kind, flags]);
    packet.extend((4 + body.len() as u16).to_be_bytes());
    packet.extend(body);
    let checksum = crc32c(&packet).to_le_bytes();
    packet[8..12].copy_from_slice(&checksum);
    packet
}

fn crc32c(data: &[u8]) -> u32 {
    !data.iter().fold(u32::MAX, |register, byte| {
        (0..8).fold(register ^ u32::from(*byte), |register, _| {
            (register >> 1) ^ (0x82f6_3b78 * (register & 1))
        })
    })
}

/// The body of a chunk: an INIT tells the sender's own tag.
fn body(kind: u8, own_tag: u32, length: usize) -> Vec<u8> {
    let mut body = vec![7; length];
    if matches!(kind, INIT | INIT_ACK) {
        body[..4].copy_from_slice(&own_tag.to_be_bytes());
    }
    body
}

/// Two ends of an association, and what each takes the other for.
struct Ends<'a> {
    outside: &'a Wire,
    inside: &'a Wire,
    host: (IpAddr, u16),
    client: (IpAddr, u16),
    web: u16,
}

impl Ends<'_> {
    fn pass(&self, from_client: bool, kind: u8, length: usize) {
        let (own, peer) = if from_client {
            (CLIENT_TAG, SERVER_TAG)
        } else {
            (SERVER_TAG, CLIENT_TAG)
        };
        let tag = if kind == INIT { 0 } else { peer };
        let body = body(kind, own, length);
        let (client, (host, published)) = (self.client, self.host);
        if from_client {
            let sent = packet(client.1, published, tag, kind, &body);
            self.outside.send(host, &sent);
            let expected = packet(client.1, self.web, tag, kind, &body);
            assert_eq!(self.inside.receive(), (client.0, expected), "chunk {kind}");
        } else {
            let sent = packet(self.web, client.1, tag, kind, &body);
            self.inside.send(client.0, &sent);
            let expected = packet(published, client.1, tag, kind, &body);
            assert_eq!(self.outside.receive(), (host, expected), "chunk {kind}");
        }
    }
}

#[test]
fn associations_pass_published_ports() {
    let world = World::new("sctp");
    world.create(NETWORK);
    let web = Sandbox::new("web");
    web.publish(&world, "shop", PORTS);
    for (v6, host, client) in [(false, HOST4, OUTSIDE4), (true, HOST6, OUTSIDE6)] {
        let outside = world.outside(|| Wire::open(v6));
        let inside = web.run(|| Wire::open(v6));
        for (published, port) in [(9001, 9000), (3868, 3868), (6042, 5042)] {
            let ends = Ends {
                outside: &outside,
                inside: &inside,
                host: (host, published),
                client: (client, 40_000),
                web: port,
            };
            for (from_client, kind, length) in ASSOCIATION {
                ends.pass(from_client, kind, length);
            }
            // Another one between the same ports, which ends badly.
            ends.pass(true, INIT, 16);
            ends.pass(false, ABORT, 0);
        }
    }
    assert_eq!(world.netd().reconcile().unwrap(), netd::Report::default());
}

#[test]
fn a_published_sctp_port_is_taken_for_sctp_alone() {
    let world = World::new("sctp-taken");
    let web = Sandbox::new("web");
    web.publish(&world, "bridge", PORTS);
    let other = Sandbox::new("other");
    let ask = |protocol: &str| {
        let mut request = other.request("bridge");
        let ports = format!(
            r#"[{{"protocol":"{protocol}","container_port":1,"host_port":6099,"count":1}}]"#
        );
        request.ports = serde_json::from_str(&ports).unwrap();
        world.netd().attach(request)
    };
    assert_eq!(
        ask("sctp").unwrap_err().to_string(),
        "port 6099/sctp is already allocated: published by container web"
    );
    ask("udp").unwrap();
}
