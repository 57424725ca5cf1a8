//! Networks that span nodes, on real kernels.

mod nodes;
mod segments;

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};

use api::net::{Attachment, EndpointRename};
use api::{ApiError, ErrorCode};

use crate::dns_query::{lookup, pointer};
use crate::world::{PATIENCE, Sandbox, address, ip, soon};
use nodes::Nodes;

const SHOP: &str = r#"{"Name":"shop","Driver":"overlay","Attachable":true,"EnableIPv6":true}"#;

fn addresses(attachment: &Attachment) -> Vec<IpAddr> {
    attachment
        .addresses
        .iter()
        .map(|a| a.address.addr())
        .collect()
}

/// Whether a datagram of `size` bytes that nobody may fragment, and that lives for one hop, comes back
/// from `to`.
fn echoes(from: &Sandbox, to: &Sandbox, at: IpAddr, size: usize) -> bool {
    let server = to.run(|| UdpSocket::bind((at, 0)).unwrap());
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    let back = server.local_addr().unwrap();
    from.run(|| {
        let any: IpAddr = match at {
            IpAddr::V4(_) => [0, 0, 0, 0].into(),
            IpAddr::V6(_) => [0_u16; 8].into(),
        };
        let client = UdpSocket::bind((any, 0)).unwrap();
        if at.is_ipv4() {
            client.set_ttl(1).unwrap();
        }
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        let Ok(_) = client.send_to(&vec![7; size], back) else {
            return false;
        };
        let mut buffer = vec![0; 2000];
        let Ok((length, peer)) = server.recv_from(&mut buffer) else {
            return false;
        };
        assert_eq!(length, size);
        server.send_to(b"!", peer).unwrap();
        client.recv(&mut buffer).is_ok()
    })
}

/// Whether a connection to `to` carries bytes both ways.
fn talks(from: &Sandbox, to: &Sandbox, at: IpAddr) -> bool {
    let server = to.run(|| TcpListener::bind((at, 0)).unwrap());
    let back: SocketAddr = server.local_addr().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut stream, _) = server.accept().unwrap();
            let mut text = [0; 4];
            stream.read_exact(&mut text).unwrap();
            stream.write_all(&text).unwrap();
        });
        from.run(|| {
            let mut stream = TcpStream::connect_timeout(&back, PATIENCE).unwrap();
            stream.write_all(b"ping").unwrap();
            let mut text = [0; 4];
            stream.read_exact(&mut text).unwrap();
            &text == b"ping"
        })
    })
}

fn check_both_ways(nodes: &Nodes) {
    nodes[0].create(SHOP);
    let (web, db) = (Sandbox::new("web"), Sandbox::new("db"));
    let web_at = nodes[0].attach(&web, "shop");
    let db_at = nodes[1].attach(&db, "shop");
    soon("node 1 knows of db", || nodes[0].leads().len() == 4);
    for (from, to, at) in [(&web, &db, &db_at), (&db, &web, &web_at)] {
        for at in addresses(at) {
            assert!(talks(from, to, at), "{at}");
            let headers = if at.is_ipv4() { 28 } else { 48 };
            let mtu = db_at.mtu as usize;
            assert!(echoes(from, to, at, mtu - headers), "{at}");
        }
    }
    assert_eq!(lookup_in(&web, "db"), addresses(&db_at)[..1]);
    assert_eq!(lookup_in(&db, "web.shop"), addresses(&web_at)[..1]);
    for node in &nodes.nodes {
        assert_eq!(node.reconcile(), netd::Report::default());
    }
}

fn lookup_in(sandbox: &Sandbox, name: &str) -> Vec<IpAddr> {
    let found = sandbox.run(|| lookup(name)).unwrap();
    found.into_iter().map(IpAddr::from).collect()
}

#[test]
fn containers_of_two_nodes_are_one_hop_apart() {
    let nodes = Nodes::new("two", 2);
    check_both_ways(&nodes);
    assert_eq!(
        nodes[1].overlays()[0].options["com.docker.network.driver.overlay.vxlanid_list"],
        "4096"
    );
}

#[test]
fn tunnels_go_between_ipv6_addresses_too() {
    let nodes = Nodes::over_ipv6("two-v6", 2);
    check_both_ways(&nodes);
}

#[test]
fn a_network_is_on_a_node_from_its_first_endpoint_to_its_last() {
    let nodes = Nodes::new("lazy", 2);
    let id = nodes[0].create(SHOP);
    assert!(
        id.len() == 25
            && id
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    );
    let listed = &nodes[0].overlays()[0];
    assert_eq!(
        (listed.scope.as_str(), listed.id.as_str()),
        ("swarm", id.as_str())
    );
    assert_eq!(
        listed.ipam.config[0].subnet.unwrap().to_string(),
        "10.0.0.0/24"
    );
    assert!(nodes[1].overlays().is_empty() && nodes[0].ports().is_empty());
    let (web, db) = (Sandbox::new("web"), Sandbox::new("db"));
    nodes[0].attach(&web, "shop");
    let at = nodes[1].attach(&db, &id[..12]);
    assert_eq!(nodes[1].overlays().len(), 1);
    soon("node 1 knows of db", || nodes[0].leads().len() == 4);
    let refusal = ApiError::from(nodes[0].remove("shop").unwrap_err());
    assert_eq!(refusal.code, ErrorCode::InUse);
    assert!(
        refusal.message.contains("db on node"),
        "{}",
        refusal.message
    );
    // A replica is called by its service, slot and task: so is the one hop to it.
    let renamed = EndpointRename {
        container_id: db.request("").container_id,
        name: "test.2.ttcpiv3p".to_owned(),
    };
    nodes[1].run(|| nodes[1].netd().rename(&renamed)).unwrap();
    let IpAddr::V4(db_at) = address(&at, false) else {
        panic!("{at:?}");
    };
    soon("the new name is known", || {
        web.run(|| pointer(db_at)).as_deref() == Some("test.2.ttcpiv3p.shop")
    });
    nodes[1].detach(&db);
    soon("node 1 knows that db is gone", || {
        nodes[0].leads().is_empty()
    });
    assert!(nodes[1].overlays().is_empty() && nodes[1].ports().is_empty());
    assert!(web.run(|| lookup("test.2.ttcpiv3p")).is_err());
    // Its address is somebody else's on another node, and is found there.
    let other = Sandbox::new("other");
    let mut request = other.request("shop");
    request.ipv4 = match addresses(&at)[0] {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    };
    let again = nodes[0].try_attach(request).unwrap();
    assert_eq!(address(&again, false), address(&at, false));
    assert!(talks(&web, &other, address(&again, false)));
    nodes[0].detach(&other);
    nodes[0].detach(&web);
    assert!(nodes[0].ports().is_empty());
    nodes[0].remove("shop").unwrap();
    assert!(nodes[0].overlays().is_empty());
    // Addresses of the host that are gone are heard of by who follows the kernel.
    nodes.nodes.iter().for_each(|node| drop(node.reconcile()));
    for node in &nodes.nodes {
        assert_eq!(node.reconcile(), netd::Report::default());
    }
}

#[test]
fn nothing_is_flooded_to_other_nodes_and_networks_are_apart() {
    let nodes = Nodes::new("quiet", 3);
    nodes[0].create(SHOP);
    nodes[0].create(r#"{"Name":"bank","Driver":"overlay","Attachable":true}"#);
    let sandboxes = ["web", "db", "proxy"].map(Sandbox::new);
    let vault = Sandbox::new("vault");
    let at: Vec<Attachment> = (0..3)
        .map(|n| nodes[n].attach(&sandboxes[n], "shop"))
        .collect();
    let vault_at = nodes[2].attach(&vault, "bank");
    for node in &nodes.nodes {
        soon("the others are known", || node.leads().len() == 8);
    }
    assert!(talks(&sandboxes[0], &sandboxes[2], address(&at[2], false)));
    let port = nodes[0].ports()[0].to_string();
    let sent = nodes.sent(0, &port);
    sandboxes[0].run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.set_broadcast(true).unwrap();
        socket.send_to(b"?", "10.0.0.255:9").unwrap();
        // Nobody has it: the question stays on this node.
        let _unanswered = socket.send_to(b"?", "10.0.0.77:9");
        let socket = UdpSocket::bind("[::]:0").unwrap();
        let _nowhere = socket.send_to(b"?", "[ff02::1%eth0]:9");
    });
    // One that is answered comes after those that are not.
    assert!(echoes(
        &sandboxes[0],
        &sandboxes[1],
        address(&at[1], false),
        9
    ));
    assert_eq!(nodes.sent(0, &port) - sent, 1, "the datagram alone");
    sandboxes[0].run(|| {
        let to = SocketAddr::new(address(&vault_at, false), 9);
        assert!(TcpStream::connect_timeout(&to, PATIENCE / 40).is_err());
    });
}

#[test]
fn a_node_that_is_cut_off_goes_on_and_comes_back() {
    let mut nodes = Nodes::new("cut", 2);
    nodes[0].create(SHOP);
    let (web, db, late) = (
        Sandbox::new("web"),
        Sandbox::new("db"),
        Sandbox::new("late"),
    );
    nodes[0].attach(&web, "shop");
    let db_at = nodes[1].attach(&db, "shop");
    soon("node 1 knows of db", || nodes[0].leads().len() == 4);
    let led = (nodes[0].leads(), nodes[1].leads());
    nodes[1].session.cut();
    assert!(talks(&web, &db, address(&db_at, false)));
    assert_eq!(nodes[1].leads(), led.1);
    let refused = ApiError::from(nodes[1].try_attach(late.request("shop")).unwrap_err());
    assert_eq!(refused.code, ErrorCode::Unavailable, "{}", refused.message);
    nodes[1].session.expire();
    soon("db is hidden", || nodes[0].leads().is_empty());
    // What it has is not given to others.
    let mut request = late.request("shop");
    request.ipv4 = match address(&db_at, false) {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    };
    let refused = ApiError::from(nodes[0].try_attach(request).unwrap_err());
    assert_eq!(refused.code, ErrorCode::Conflict, "{}", refused.message);
    nodes[1].session.restore().unwrap();
    soon("db is back", || nodes[0].leads() == led.0);
    assert!(talks(&web, &db, address(&db_at, false)));
    soon("node 2 takes containers again", || {
        nodes[1].try_attach(late.request("shop")).is_ok()
    });
    soon("late is known", || nodes[0].leads().len() == 8);
    // Gone while nobody could be told.
    nodes[1].session.cut();
    nodes[1].detach(&late);
    nodes[1].session.restore().unwrap();
    soon("late is withdrawn", || nodes[0].leads() == led.0);
    nodes.restart(1);
    assert_eq!(nodes[1].leads(), led.1, "nothing is flushed");
    assert!(talks(&web, &db, address(&db_at, false)));
    assert_eq!(lookup_in(&db, "web").len(), 1);
    assert_eq!(nodes[0].leads(), led.0);
}

#[test]
fn what_is_freed_while_nobody_hears_it_is_freed_by_the_next_start() {
    let mut nodes = Nodes::new("freed", 2);
    nodes[0].create(SHOP);
    let (web, db) = (Sandbox::new("web"), Sandbox::new("db"));
    nodes[0].attach(&web, "shop");
    nodes[1].attach(&db, "shop");
    nodes[1].session.cut();
    nodes[1].detach(&db);
    nodes[1].session.expire();
    nodes.restart(1);
    nodes[0].detach(&web);
    nodes[0].remove("shop").unwrap();
}

#[test]
fn entries_that_others_delete_come_back() {
    let nodes = Nodes::new("repaired", 2);
    nodes[0].create(SHOP);
    let (web, db) = (Sandbox::new("web"), Sandbox::new("db"));
    nodes[0].attach(&web, "shop");
    let db_at = nodes[1].attach(&db, "shop");
    soon("node 1 knows of db", || nodes[0].leads().len() == 4);
    let led = nodes[0].leads();
    nodes[0].follow();
    let port = nodes[0].ports()[0].to_string();
    let bridge = port.replace("vx-", "br-");
    let mac = db_at.mac.unwrap();
    let at = address(&db_at, false);
    for broken in [
        format!("bridge fdb del {mac} dev {port} self"),
        format!("bridge fdb del {mac} dev {port} master"),
        format!("ip neighbour del {at} dev {bridge}"),
        format!("ip link set {port} nomaster"),
        format!("ip link set {port} down"),
        format!("bridge link set dev {port} flood on"),
        format!("ip link del {port}"),
    ] {
        let words: Vec<&str> = broken.split(' ').collect();
        let done = nodes[0].run(|| {
            std::process::Command::new(words[0])
                .args(&words[1..])
                .status()
        });
        assert!(done.unwrap().success(), "{broken}");
        soon(&broken, || nodes[0].leads() == led);
        assert!(talks(&web, &db, at), "{broken}");
    }
    nodes[0].run(|| ip("link set eth0 mtu 1400"));
    soon("links follow", || {
        web.run(|| ip("link show eth0")).contains("mtu 1350 ")
    });
}

#[test]
fn refusals_say_who_may() {
    let nodes = Nodes::new("refused", 2);
    nodes[0].create(r#"{"Name":"bank","Driver":"overlay"}"#);
    let web = Sandbox::new("web");
    let refused = |result: Result<Attachment, netd::NetError>| result.unwrap_err().to_string();
    for node in &nodes.nodes {
        let message = refused(node.try_attach(web.request("bank")));
        assert!(
            message.contains("network bank is not manually attachable"),
            "{message}"
        );
    }
    let create = |node: usize, json: &str| {
        let request = serde_json::from_str(json).unwrap();
        let refused = nodes[node].run(|| nodes[node].netd().create_network(request));
        ApiError::from(refused.unwrap_err())
    };
    let elsewhere = create(1, SHOP);
    assert_eq!(elsewhere.code, ErrorCode::InvalidInput);
    assert!(
        elsewhere.message.contains("on a manager"),
        "{}",
        elsewhere.message
    );
    assert_eq!(create(0, r#"{"Name":"bank"}"#).code, ErrorCode::Conflict);
    let clash = r#"{"Name":"b","Driver":"overlay","IPAM":{"Config":[{"Subnet":"10.0.0.0/16"}]}}"#;
    assert_eq!(create(0, clash).code, ErrorCode::Conflict);
    let route = r#"{"Name":"b","Driver":"overlay","IPAM":{"Config":[{"Subnet":"10.77.1.0/24"}]}}"#;
    assert!(create(0, route).message.contains("dev eth0"));
}

#[test]
fn many_at_once_get_different_addresses() {
    let nodes = Nodes::new("many", 3);
    nodes[0].create(SHOP);
    let sandboxes: Vec<Vec<Sandbox>> = (0..3)
        .map(|node| {
            (0..8)
                .map(|n| Sandbox::new(&format!("c{node}-{n}")))
                .collect()
        })
        .collect();
    let mut given: Vec<IpAddr> = std::thread::scope(|scope| {
        let attaches: Vec<_> = (0..3)
            .map(|node| {
                let (nodes, sandboxes) = (&nodes, &sandboxes[node]);
                scope.spawn(move || {
                    let attached = sandboxes.iter().map(|s| nodes[node].attach(s, "shop"));
                    attached.flat_map(|a| addresses(&a)).collect::<Vec<_>>()
                })
            })
            .collect();
        attaches
            .into_iter()
            .flat_map(|a| a.join().unwrap())
            .collect()
    });
    given.sort();
    given.dedup();
    assert_eq!(given.len(), 3 * 8 * 2);
    for node in &nodes.nodes {
        soon("all others are known", || node.leads().len() == 16 * 4);
        assert_eq!(node.reconcile(), netd::Report::default());
    }
    for (node, sandboxes) in nodes.nodes.iter().zip(&sandboxes) {
        sandboxes.iter().for_each(|sandbox| node.detach(sandbox));
    }
    nodes[0].remove("shop").unwrap();
}
