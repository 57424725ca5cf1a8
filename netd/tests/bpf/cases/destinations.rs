//! Addresses and ports: a published port is the host's own, and nobody else's (GHSA-jv3w-x3r3-g6rm).

use std::net::{IpAddr, SocketAddr};

use super::{Cases, PROTOCOLS, first};

/// Not the host's, or not for the wire.
const FOREIGN4: [(&str, &str); 10] = [
    ("loopback", "127.0.0.1"),
    ("another loopback", "127.200.3.4"),
    ("nothing", "0.0.0.0"),
    ("all hosts", "255.255.255.255"),
    ("the network's broadcast", "192.0.2.255"),
    ("multicast", "224.0.0.1"),
    ("scoped multicast", "239.1.2.3"),
    ("link-local", "169.254.169.254"),
    ("another host", "203.0.113.9"),
    ("the container itself", "172.18.0.2"),
];
const FOREIGN6: [(&str, &str); 9] = [
    ("loopback", "::1"),
    ("nothing", "::"),
    ("all nodes", "ff02::1"),
    ("multicast", "ff0e::7"),
    ("link-local", "fe80::1"),
    ("another host", "2001:db8:9::9"),
    ("the container itself", "fd00:18::2"),
    ("a mapped address", "::ffff:192.0.2.1"),
    ("a mapped loopback", "::ffff:127.0.0.1"),
];

pub(super) fn add(all: &mut Cases) {
    for (name, p) in PROTOCOLS {
        for (what, address) in FOREIGN4 {
            let e = all.ends4();
            foreign(all, &format!("{name} v4: to {what}"), p, e.client, address);
        }
        for (what, address) in FOREIGN6 {
            let e = all.ends6();
            foreign(all, &format!("{name} v6: to {what}"), p, e.client, address);
        }
        mapped(all, name, p);
        ports(all, name, p);
        specific(all, name, p);
    }
}

fn foreign(all: &mut Cases, name: &str, p: u8, client: SocketAddr, address: &str) {
    let address: IpAddr = address.parse().unwrap();
    for port in [8080, 9000] {
        all.case(format!("{name}, port {port}"))
            .ingress(first(p, client, (address, port).into()))
            .untouched();
    }
}

/// IPv4 addresses in an IPv6 packet are on no wire (RFC 4291, 2.5.5.2), and mean no IPv4 flow.
fn mapped(all: &mut Cases, name: &str, p: u8) {
    let e = all.ends6();
    let client: SocketAddr = "[::ffff:198.18.0.1]:4".parse().unwrap();
    all.case(format!("{name}: from a mapped address"))
        .ingress(first(p, client, e.host))
        .untouched();
    let host = "[::ffff:192.0.2.1]:8080".parse().unwrap();
    all.case(format!("{name}: from a mapped address to another"))
        .ingress(first(p, client, host))
        .untouched();
    let web = "[::ffff:172.18.0.2]:80".parse().unwrap();
    all.case(format!("{name}: a reply between mapped addresses"))
        .egress(first(p, web, client))
        .untouched();
}

fn ports(all: &mut Cases, name: &str, p: u8) {
    for port in [0, 1, 80, 8079, 65_535] {
        for (v, e) in all.families() {
            all.case(format!("{name} {v}: to port {port}"))
                .ingress(first(p, e.client, SocketAddr::new(e.host.ip(), port)))
                .untouched();
        }
    }
    for port in [0, 1, 8080, 65_535] {
        for (v, e) in all.families() {
            let client = SocketAddr::new(e.client.ip(), port);
            all.case(format!("{name} {v}: from port {port}"))
                .ingress(first(p, client, e.host))
                .goes(client, e.web);
        }
    }
}

/// A port of one address, which need not be the host's.
fn specific(all: &mut Cases, name: &str, p: u8) {
    let at = |v4: &str, v6: &str, e: &super::Ends| -> SocketAddr {
        if e.is_v4() { v4 } else { v6 }.parse().unwrap()
    };
    for (v, e) in all.families() {
        let to = at("203.0.113.80:8088", "[2001:db8:80::80]:8088", &e);
        all.case(format!("{name} {v}: to the address that has the port"))
            .ingress(first(p, e.client, to))
            .goes(e.client, e.web);
    }
    for (v, e) in all.families() {
        let to = SocketAddr::new(e.host.ip(), 8088);
        all.case(format!("{name} {v}: to one that does not have it"))
            .ingress(first(p, e.client, to))
            .untouched();
    }
    for (v, e) in all.families() {
        let to = at("127.0.0.1:8089", "[::1]:8089", &e);
        all.case(format!("{name} {v}: to a port of loopback"))
            .ingress(first(p, e.client, to))
            .untouched();
    }
}
