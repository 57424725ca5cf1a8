//! A service whose backend is on another node, under real traffic:
//!
//! ```text
//! client ────┬──── host ═ tunnel ═ node ──── container
//! 192.0.2.7  │     192.0.2.1   192.0.2.9     172.18.0.2
//!          bridge  publishes   answers the client itself
//! ```

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use api::id::{IfName, MacAddr};
use netd::bpf::{Balanced, Edge, Mode, Remote, Underlay};
use sys::netns::NetNs;

use crate::instance::{Instance, MODES, frontend};
use crate::topology::{
    PATIENCE, connect, echo_tcp, echo_udp, ip, path, read_greeting, round_trip, run, udp,
};

/// What fits into the tunnel over IPv4.
const FITS: usize = 1450;

/// Their link addresses in the tunnel.
const HOST: MacAddr = MacAddr([6, 0, 0, 0, 0, 1]);
const NODE: MacAddr = MacAddr([6, 0, 0, 0, 0, 9]);

struct Nodes {
    _wire: NetNs,
    client: NetNs,
    host: NetNs,
    node: NetNs,
    container: NetNs,
}

/// The two families: client, host, node and container.
const V4: [&str; 4] = ["192.0.2.7", "192.0.2.1", "192.0.2.9", "172.18.0.2"];
const V6: [&str; 4] = ["2001:db8::7", "2001:db8::1", "2001:db8::9", "fd00:18::2"];

impl Nodes {
    fn new() -> Self {
        let create = || NetNs::create().expect("root is needed to create a network namespace");
        let (wire, [client, host, node, container]) = (create(), [(); 4].map(|()| create()));
        ip(&wire, "link add br0 type bridge");
        ip(&wire, "link set br0 up");
        for (n, ns) in [&client, &host, &node].into_iter().enumerate() {
            let ns = path(ns);
            ip(
                &wire,
                &format!("link add p{n} type veth peer name eth0 netns {ns}"),
            );
            ip(&wire, &format!("link set p{n} master br0 up"));
        }
        let inside = path(&container);
        ip(
            &node,
            &format!("link add c0 type veth peer name eth0 netns {inside}"),
        );
        for (ns, device, v4, v6) in [
            (&client, "eth0", V4[0], V6[0]),
            (&host, "eth0", V4[1], V6[1]),
            (&node, "eth0", V4[2], V6[2]),
            (&node, "c0", "172.18.0.1", "fd00:18::1"),
            (&container, "eth0", V4[3], V6[3]),
        ] {
            ip(ns, "link set lo up");
            ip(ns, &format!("link set {device} up"));
            ip(ns, &format!("address add {v4}/24 dev {device}"));
            ip(ns, &format!("address add {v6}/64 dev {device} nodad"));
        }
        ip(&container, "route add default via 172.18.0.1");
        ip(&container, "route add default via fd00:18::1");
        for ns in [&host, &node] {
            let set = || {
                for (file, value) in [
                    ("ipv4/ip_forward", "1"),
                    ("ipv6/conf/all/forwarding", "1"),
                    ("ipv4/conf/all/rp_filter", "1"),
                ] {
                    std::fs::write(format!("/proc/sys/net/{file}"), value).unwrap();
                }
            };
            ns.run(set).unwrap();
        }
        Self {
            _wire: wire,
            client,
            host,
            node,
            container,
        }
    }

    fn mac(&self) -> MacAddr {
        let text = ip(&self.container, "-oneline link show eth0");
        let mac = text.split(" link/ether ").nth(1).unwrap();
        let mut bytes = mac[..17].split(':');
        MacAddr([(); 6].map(|()| u8::from_str_radix(bytes.next().unwrap(), 16).unwrap()))
    }

    /// The tunnel between host and node, as the daemons make it, over addresses of this family.
    fn tunnel(&self, v6: bool) {
        let ends = if v6 { V6 } else { V4 };
        let macs = [HOST, NODE];
        for (ns, here, there) in [(&self.host, 0, 1), (&self.node, 1, 0)] {
            let exists = ip(ns, "-oneline link show").contains("tun0");
            if exists {
                ip(ns, "link del tun0");
            }
            let (local, mac) = (ends[1 + here], macs[here]);
            ip(
                ns,
                &format!(
                    "link add tun0 address {mac} type vxlan id 0xf00000 local {local} \
                     dstport 4789 nolearning"
                ),
            );
            let (at, mac) = (ends[1 + there], macs[there]);
            run(ns, "bridge", &format!("fdb add {mac} dev tun0 dst {at}"));
            // What comes by the tunnel is of clients that are elsewhere, which a kernel that looks at
            // senders takes by an interface with an address only.
            let loose = || std::fs::write("/proc/sys/net/ipv4/conf/tun0/rp_filter", "2");
            ns.run(loose).unwrap().unwrap();
            ip(ns, "address add 192.0.0.8/32 dev tun0");
            ip(ns, "link set tun0 up");
        }
    }

    /// Leads the host's port 8080 to the container's port 80, over nodes of this family.
    fn serve(&self, mode: Mode, v6: bool) -> [Instance; 2] {
        self.tunnel(v6);
        let name = format!("nodes-{v6}");
        let host = Instance::open_in(mode, &format!("{name}-host"), None);
        let node = Instance::open_in(mode, &format!("{name}-node"), None);
        attach(&self.host, &host);
        attach(&self.node, &node);
        let edge = Edge {
            mac: self.mac(),
            v4: V4[3].parse().ok(),
            v6: V6[3].parse().ok(),
            checked: true,
            network: 7,
            direct_mtu: Some(1500),
            resolver: None,
        };
        let c0 = IfName::parse("c0").unwrap();
        self.node
            .run(|| node.attach_endpoint(&c0, &edge).unwrap())
            .unwrap();
        let underlay = Underlay { mtu: 1500, v6 };
        let tunnel = index(&self.node, "tun0");
        let tun0 = IfName::parse("tun0").unwrap();
        let attached = || node.attach_tunnel(tunnel, &tun0, underlay).unwrap();
        self.node.run(attached).unwrap();
        let local = [V4[1], V6[1]].map(|ip| ip.parse().unwrap());
        host.set_local_addresses(&local.into()).unwrap();
        for (number, [_, _, there, web], any) in [(1, V4, "any4"), (2, V6, "any6")] {
            let there = there.parse().unwrap();
            let web = SocketAddr::new(web.parse().unwrap(), 80);
            let frontends = ["tcp", "udp"].map(|p| frontend(&format!("{any}:8080/{p}")));
            let here = Balanced {
                frontends: frontends.into(),
                backends: [(web, 1)].into(),
                reachable: true,
                ..Balanced::default()
            };
            node.balance(number, &here).unwrap();
            let remote = Remote {
                node: NODE,
                home: there,
                number: node.reachable(number).unwrap()[&web],
                tunnel: index(&self.host, "tun0"),
                underlay,
            };
            let there = Balanced {
                remotes: [(web, remote)].into(),
                reachable: false,
                ..here
            };
            host.balance(number, &there).unwrap();
        }
        [host, node]
    }
}

fn index(ns: &NetNs, device: &str) -> u32 {
    let out = ip(ns, &format!("-oneline link show {device}"));
    out.split(':').next().unwrap().parse().unwrap()
}

fn attach(ns: &NetNs, plane: &Instance) {
    let eth0 = IfName::parse("eth0").unwrap();
    let index = index(ns, "eth0");
    ns.run(|| plane.attach_uplink(index, &eth0).unwrap())
        .unwrap();
}

/// Sends a datagram until it comes back; the first ones may be too long for the way.
fn datagram_round_trip(net: &Nodes, to: SocketAddr, length: usize) {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = udp(&net.client, any);
    socket
        .set_read_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    socket.connect(to).unwrap();
    let data: Vec<u8> = (0..length).map(|i| (i % 251) as u8).collect();
    let mut back = vec![0; length + 1];
    let deadline = Instant::now() + PATIENCE;
    loop {
        assert!(
            Instant::now() < deadline,
            "{length} bytes to {to} never came back"
        );
        match socket.send(&data).and_then(|_sent| socket.recv(&mut back)) {
            Ok(received) => {
                assert_eq!(back[..received], data, "{to}");
                return;
            }
            Err(error) => assert!(
                matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
                    || error.raw_os_error() == Some(rustix::io::Errno::MSGSIZE.raw_os_error()),
                "{to}: {error}"
            ),
        }
    }
}

#[test]
fn a_client_is_served_by_another_node_and_answered_by_it_directly() {
    let net = Nodes::new();
    for at in ["172.18.0.2:80", "[fd00:18::2]:80"] {
        echo_tcp(&net.container, at);
        echo_udp(&net.container, at);
    }
    for v6 in [false, true] {
        for mode in MODES {
            let planes = net.serve(mode, v6);
            for [client, host, ..] in [V4, V6] {
                let what = format!("{mode:?}, nodes over IPv6: {v6}, {host}");
                let to = SocketAddr::new(host.parse().unwrap(), 8080);
                let mut stream = connect(&net.client, &to.to_string()).expect(&what);
                let seen = read_greeting(&mut stream);
                let client: IpAddr = client.parse().unwrap();
                assert_eq!(seen.ip(), client, "{what}: the client's own address");
                round_trip(&stream, &vec![7; 2 << 20]);
                for length in [1, 1000, 1472, 4000] {
                    datagram_round_trip(&net, to, length);
                }
            }
            for plane in planes {
                let drops = plane.drops().unwrap();
                let real = |(reason, count): &&(&str, u64)| *count > 0 && *reason != "too-long";
                assert!(!drops.iter().any(|drop| real(&drop)), "{mode:?}: {drops:?}");
            }
        }
    }
}

#[test]
fn segments_fit_from_the_first_one_on() {
    let net = Nodes::new();
    echo_tcp(&net.container, "172.18.0.2:80");
    let [host, _node] = net.serve(Mode::Compat, false);
    let mut stream = connect(&net.client, "192.0.2.1:8080").unwrap();
    read_greeting(&mut stream);
    round_trip(&stream, &vec![7; 1 << 20]);
    let out = run(&net.client, "ss", "-tinH dport = 8080");
    let said = |key: &str| -> usize {
        let value = out
            .split_whitespace()
            .find_map(|word| word.strip_prefix(key));
        value.unwrap_or_else(|| panic!("{out}")).parse().unwrap()
    };
    // Timestamps take twelve bytes of each.
    assert!(said("mss:") + 12 + 40 <= FITS, "{out}");
    assert_eq!(said("pmtu:"), 1500, "nobody had to be told: {out}");
    let drops = host.drops().unwrap();
    assert!(drops.iter().all(|(_, count)| *count == 0), "{drops:?}");
}
