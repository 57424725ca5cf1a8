//! Two networks of one host, a client outside, and no socket hooks unless a test attaches them:
//!
//! ```text
//! client  eth0 ──── eth0  host  br0 ─┬─ a0 ──── eth0  a   172.18.0.2  fd00:18::2
//! 192.0.2.7         192.0.2.1        └─ b0 ──── eth0  b   172.18.0.3  fd00:18::3
//! 2001:db8::7       2001:db8::1 br1 ─── c0 ──── eth0  c   172.19.0.2  fd00:19::2
//! ```
//!
//! The bridges are the containers' gateways (.1), and the client has routes to their networks.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use api::id::{IfName, MacAddr};
use netd::bpf::{DataPlane, Edge};
use sys::netns::NetNs;

use crate::topology::{ip, path};

pub(crate) struct Bridged {
    pub(crate) client: NetNs,
    pub(crate) host: NetNs,
    pub(crate) a: NetNs,
    pub(crate) b: NetNs,
    pub(crate) c: NetNs,
}

const NETWORKS: [(&str, &str, &str); 2] = [
    ("br0", "172.18.0.1/24", "fd00:18::1/64"),
    ("br1", "172.19.0.1/24", "fd00:19::1/64"),
];

impl Bridged {
    pub(crate) fn new() -> Self {
        let create = || NetNs::create().expect("root is needed to create a network namespace");
        let net = Self {
            client: create(),
            host: create(),
            a: create(),
            b: create(),
            c: create(),
        };
        let Self { client, host, .. } = &net;
        pair(host, "eth0", client);
        for (ns, v4, v6) in [
            (client, "192.0.2.7/24", "2001:db8::7/64"),
            (host, "192.0.2.1/24", "2001:db8::1/64"),
        ] {
            configure(ns, "eth0", v4, v6);
        }
        for (bridge, v4, v6) in NETWORKS {
            ip(host, &format!("link add {bridge} type bridge"));
            configure(host, bridge, v4, v6);
        }
        for (link, ns, bridge, host_part) in net.containers() {
            pair(host, link, ns);
            ip(host, &format!("link set {link} master {bridge} up"));
            let (net4, net6) = if bridge == "br0" {
                (18, "18")
            } else {
                (19, "19")
            };
            let v4 = format!("172.{net4}.0.{host_part}/24");
            configure(ns, "eth0", &v4, &format!("fd00:{net6}::{host_part}/64"));
            ip(ns, &format!("route add default via 172.{net4}.0.1"));
            ip(ns, &format!("route add default via fd00:{net6}::1"));
        }
        host.run(|| {
            for file in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
                std::fs::write(format!("/proc/sys/net/{file}"), "1").unwrap();
            }
        })
        .unwrap();
        for to in ["172.18.0.0/24", "172.19.0.0/24"] {
            ip(client, &format!("route add {to} via 192.0.2.1"));
        }
        for to in ["fd00:18::/64", "fd00:19::/64"] {
            ip(client, &format!("route add {to} via 2001:db8::1"));
        }
        net
    }

    fn containers(&self) -> [(&'static str, &NetNs, &'static str, u8); 3] {
        [
            ("a0", &self.a, "br0", 2),
            ("b0", &self.b, "br0", 3),
            ("c0", &self.c, "br1", 2),
        ]
    }

    /// The uplink, the endpoints, and the host's addresses.
    pub(crate) fn attach(&self, plane: &DataPlane) {
        let local = ["192.0.2.1", "2001:db8::1"].into_iter();
        let bridges = NETWORKS.iter().flat_map(|(_, v4, v6)| [*v4, *v6]);
        let local = local.chain(bridges.map(|net| net.split('/').next().unwrap()));
        let local = local.map(|ip| ip.parse::<IpAddr>().unwrap()).collect();
        plane.set_local_addresses(&local).unwrap();
        let eth0 = IfName::parse("eth0").unwrap();
        let index = ip(&self.host, "-oneline link show eth0");
        let index = index.split(':').next().unwrap().parse().unwrap();
        let uplink = || plane.attach_uplink(index, &eth0).unwrap();
        self.host.run(uplink).unwrap();
        for (link, ns, bridge, host_part) in self.containers() {
            let number: u8 = if bridge == "br0" { 18 } else { 19 };
            let prefix = 0x0010 + u16::from(number - 10);
            let edge = Edge {
                mac: mac(ns),
                v4: Some(Ipv4Addr::new(172, number, 0, host_part)),
                v6: Some(Ipv6Addr::new(
                    0xfd00,
                    prefix,
                    0,
                    0,
                    0,
                    0,
                    0,
                    host_part.into(),
                )),
                checked: true,
                network: number.into(),
                direct_mtu: Some(1500),
                resolver: None,
            };
            let link = IfName::parse(link).unwrap();
            let attach = || plane.attach_endpoint(&link, &edge).unwrap();
            self.host.run(attach).unwrap();
        }
    }
}

fn pair(host: &NetNs, link: &str, ns: &NetNs) {
    let peer = path(ns);
    ip(
        host,
        &format!("link add {link} type veth peer name eth0 netns {peer}"),
    );
}

fn configure(ns: &NetNs, device: &str, v4: &str, v6: &str) {
    ip(ns, "link set lo up");
    ip(ns, &format!("link set {device} up"));
    ip(ns, &format!("address add {v4} dev {device}"));
    // Without duplicate address detection an address can be used at once.
    ip(ns, &format!("address add {v6} dev {device} nodad"));
}

fn mac(ns: &NetNs) -> MacAddr {
    let text = ip(ns, "-oneline link show eth0");
    let mac = text.split_once("link/ether ").unwrap().1;
    let octets: Vec<u8> = mac[..17]
        .split(':')
        .map(|octet| u8::from_str_radix(octet, 16).unwrap())
        .collect();
    MacAddr(octets.try_into().unwrap())
}
