//! Networks of a cluster, where the other node is whoever writes its records.

use std::net::IpAddr;

use api::id::{Id, IfName, NodeId};
use cluster::{ControlPlane, Transaction, key};

use super::crash::crash_everywhere;
use super::{World, eth0, network, refusal, request};
use crate::Report;
use crate::model::forwarding::Forwarding;
use crate::model::peer::{Claim, Peer};
use crate::netd::Netd;

const SHOP: &str = r#"{"Name":"shop","Driver":"overlay","Attachable":true,"EnableIPv6":true}"#;

fn other_node() -> NodeId {
    NodeId::from_bytes([2; 16])
}

fn id_of(netd: &Netd) -> Id {
    netd.network("shop").unwrap().id
}

fn control(netd: &Netd) -> std::sync::Arc<dyn ControlPlane> {
    netd.control().expect("it has joined")
}

/// What another node has at 10.0.0.`last`.
fn peer(last: u8) -> Peer {
    Peer {
        node: other_node(),
        endpoint: Id::from_bytes([last; 32]),
        container: format!("other{last}"),
        name: Some(format!("other{last}")),
        aliases: Vec::new(),
        mac: format!("02:42:0a:00:00:{last:02x}").parse().unwrap(),
        addresses: vec![IpAddr::from([10, 0, 0, last])],
        at: Some([198, 51, 100, 7].into()),
        key: None,
        parts: Vec::new(),
    }
}

fn put(netd: &Netd, peer: &Peer) {
    let id = id_of(netd);
    let claim = Claim {
        node: other_node(),
        holder: format!("container {}", peer.container),
    };
    let put = Transaction::default()
        .put(
            key::claim(id.as_str(), peer.addresses[0]),
            serde_json::to_string(&claim).unwrap(),
        )
        .put(
            key::endpoint(&other_node(), id.as_str(), peer.endpoint.as_str()),
            serde_json::to_string(peer).unwrap(),
        );
    control(netd).commit(&put).unwrap();
}

fn with_peer(netd: &Netd) {
    netd.create_network(network(SHOP)).unwrap();
    put(netd, &peer(2));
}

fn leads(world: &World) -> Vec<Forwarding> {
    let mut found = Vec::new();
    world
        .kernel
        .edit(|observed| found = observed.forwarding.values().cloned().collect());
    found
}

#[test]
fn a_network_of_the_cluster_is_in_the_kernel_while_somebody_is_on_it() {
    let world = World::new();
    let netd = world.start().unwrap();
    let before = world.kernel.snapshot();
    with_peer(&netd);
    assert_eq!(world.kernel.snapshot(), before);
    let attached = netd.attach(request("shop", "web", 10)).unwrap();
    assert_eq!(attached.addresses[0].address.to_string(), "10.0.0.3/24");
    assert_eq!(attached.mtu, 1450);
    let mut expected = Forwarding::default();
    let peer = peer(2);
    expected.add(peer.mac, peer.at.unwrap(), &peer.addresses);
    assert_eq!(leads(&world), [expected.clone()]);
    let link = format!("vx-{}", id_of(&netd).short());
    world.kernel.lose_link(&IfName::parse(&link).unwrap());
    assert!(netd.reconcile().unwrap().repaired > 0);
    assert_eq!(leads(&world), [expected.clone()]);
    drop(netd);
    let netd = world.start().unwrap();
    assert_eq!(leads(&world), [expected]);
    assert_eq!(netd.reconcile().unwrap(), Report::default());
    let (_code, message) = refusal(netd.remove_network("shop"));
    assert!(message.contains("other2 on node"), "{message}");
    netd.detach("web", &eth0()).unwrap();
    netd.reconcile().unwrap();
    assert_eq!(world.kernel.snapshot(), before);
    netd.create_network(network(r#"{"Name":"bank","Driver":"overlay"}"#))
        .unwrap();
    let pruned = netd.prune_networks(&api::net::NetworkPrune::default());
    assert_eq!(pruned.unwrap(), ["bank"], "somebody is on shop");
}

#[test]
fn what_a_node_does_not_know_yet_stays_in_the_kernel() {
    let world = World::new();
    let netd = world.start().unwrap();
    with_peer(&netd);
    netd.attach(request("shop", "web", 10)).unwrap();
    let led = leads(&world);
    drop(netd);
    let netd = world.start_alone().unwrap();
    assert_eq!(netd.reconcile().unwrap(), Report::default());
    assert_eq!(leads(&world), led);
}

#[test]
fn an_address_that_is_claimed_meanwhile_is_not_given() {
    let world = World::new();
    let netd = world.start().unwrap();
    with_peer(&netd);
    netd.attach(request("shop", "web", 10)).unwrap();
    // This node has not heard of it.
    put(&netd, &peer(4));
    let next = netd.attach(request("shop", "db", 11)).unwrap();
    assert_eq!(next.addresses[0].address.to_string(), "10.0.0.5/24");
    let mut third = request("shop", "third", 12);
    third.ipv4 = "10.0.0.4".parse().ok();
    let (_code, message) = refusal(netd.attach(third));
    assert!(message.contains("10.0.0.4 already in use"), "{message}");
    let claims = control(&netd).snapshot(key::CLAIMS).unwrap();
    // Two of the other node, and one of each family of those here.
    assert_eq!(claims.entries.len(), 2 + 4);
}

#[test]
fn an_address_that_is_freed_meanwhile_is_given() {
    let world = World::new();
    let netd = world.start().unwrap();
    with_peer(&netd);
    netd.attach(request("shop", "web", 10)).unwrap();
    // This node has not heard of it.
    let freed = key::claim(id_of(&netd).as_str(), [10, 0, 0, 2].into());
    let gone = Transaction::default().delete(freed);
    control(&netd).commit(&gone).unwrap();
    let mut next = request("shop", "db", 11);
    next.ipv4 = "10.0.0.2".parse().ok();
    let attached = netd.attach(next).unwrap();
    assert_eq!(attached.addresses[0].address.to_string(), "10.0.0.2/24");
}

#[test]
fn a_service_has_an_address_among_all_nodes() {
    let world = World::new();
    let netd = world.start().unwrap();
    with_peer(&netd);
    let spec = r#"{"Name":"pages","Networks":[{"Target":"shop"}]}"#;
    netd.create_service(serde_json::from_str(spec).unwrap())
        .unwrap();
    let claims = |netd: &Netd| control(netd).snapshot(key::CLAIMS).unwrap().entries.len();
    assert_eq!(claims(&netd), 3);
    let (_code, message) = refusal(netd.remove_network("shop"));
    assert!(message.contains("in use by service pages"), "{message}");
    netd.remove_service("pages", false).unwrap();
    assert_eq!(claims(&netd), 1);
    assert!(leads(&world).is_empty());
}

#[test]
fn a_crash_while_a_network_comes_to_a_node_is_undone() {
    crash_everywhere(with_peer, |netd| {
        netd.attach(request("shop", "web", 10)).map(drop)
    });
}

fn with_segments(netd: &Netd) {
    let subnets = r#"[{"Subnet":"10.0.0.0/24"},{"Subnet":"10.0.1.0/24"}]"#;
    let json = SHOP.replace('}', &format!(r#","IPAM":{{"Config":{subnets}}}}}"#));
    netd.create_network(network(&json)).unwrap();
    put(netd, &peer(2));
}

#[test]
fn a_crash_while_a_network_of_several_segments_comes_to_a_node_is_undone() {
    crash_everywhere(with_segments, |netd| {
        netd.attach(request("shop", "web", 10)).map(drop)
    });
}

#[test]
fn a_full_segment_leads_to_the_next_one() {
    let world = World::new();
    let netd = world.start().unwrap();
    let subnets = r#"[{"Subnet":"10.0.0.0/30"},{"Subnet":"10.0.1.0/30"}]"#;
    let json = SHOP.replace('}', &format!(r#","IPAM":{{"Config":{subnets}}}}}"#));
    netd.create_network(network(&json)).unwrap();
    let addresses = |name, inode| {
        let attached = netd.attach(request("shop", name, inode))?;
        let addresses = attached.addresses.iter();
        Ok(addresses.map(|a| a.address).collect::<Vec<_>>())
    };
    let first = addresses("web", 10).unwrap();
    let second = addresses("db", 11).unwrap();
    assert_eq!(first[0].to_string(), "10.0.0.2/30");
    assert_eq!(second[0].to_string(), "10.0.1.2/30");
    assert_ne!(first[1].network(), second[1].network());
    let (_code, message) = refusal(addresses("late", 12));
    assert!(message.contains("no free address"), "{message}");
}

#[test]
fn a_crash_while_a_network_leaves_a_node_is_completed() {
    crash_everywhere(
        |netd| {
            with_peer(netd);
            netd.attach(request("shop", "web", 10)).unwrap();
        },
        |netd| netd.detach("web", &eth0()),
    );
}
