//! Networks whose frames are encrypted between nodes.

use std::collections::BTreeSet;
use std::net::IpAddr;

use api::id::{Id, IfName, NodeId};
use cluster::{Transaction, key};
use ipnet::IpNet;

use super::crash::crash_everywhere;
use super::{World, eth0, network, refusal, request};
use crate::Report;
use crate::bpf::Sealed;
use crate::model::driver::LinkKind;
use crate::model::observed::{Link, WireGuard};
use crate::model::peer::Peer;
use crate::model::wireguard::{self, PublicKey};
use crate::netd::Netd;

const SHOP: &str =
    r#"{"Name":"shop","Driver":"overlay","Attachable":true,"Options":{"encrypted":""}}"#;

fn node(number: u8) -> NodeId {
    NodeId::from_bytes([number; 16])
}

/// Node `number` has an endpoint at 10.0.0.`number` and says that it is known by `key`.
fn hear_of(netd: &Netd, number: u8, key: Option<u8>) {
    let shop = netd.network("shop").unwrap().id;
    let peer = Peer {
        node: node(number),
        endpoint: Id::from_bytes([number; 32]),
        container: format!("other{number}"),
        name: None,
        aliases: Vec::new(),
        mac: format!("02:42:0a:00:00:{number:02x}").parse().unwrap(),
        addresses: vec![IpAddr::from([10, 0, 0, number])],
        at: Some([198, 51, 100, number].into()),
        key: key.map(|byte| PublicKey([byte; 32])),
        parts: Vec::new(),
    };
    let name = key::endpoint(&node(number), shop.as_str(), peer.endpoint.as_str());
    let value = serde_json::to_string(&peer).unwrap();
    let control = netd.control().unwrap();
    control
        .commit(&Transaction::default().put(name, value))
        .unwrap();
    let membership = netd.membership.load_full().unwrap();
    netd.catch_up(&membership).unwrap();
}

fn with_other_node(netd: &Netd) {
    netd.create_network(network(SHOP)).unwrap();
    hear_of(netd, 7, Some(70));
}

fn link(world: &World, name: &str) -> Option<Link> {
    let mut found = None;
    let name = IfName::parse(name).unwrap();
    world
        .kernel
        .edit(|observed| found = observed.links.get(&name).cloned());
    found
}

fn interface(world: &World) -> WireGuard {
    let found = link(world, "wg-hawser").expect("there is one");
    found.wireguard.expect("it is WireGuard's")
}

/// The VXLAN interface of the network shop.
fn vxlan(world: &World, netd: &Netd) -> Link {
    let name = format!("vx-{}", netd.network("shop").unwrap().id.short());
    link(world, &name).expect("there is one")
}

fn only(number: u8) -> BTreeSet<IpNet> {
    let address = IpAddr::from(wireguard::address_of(&node(number)));
    [IpNet::from(address)].into()
}

/// What the cluster is told that this node is known by.
fn told(netd: &Netd) -> Vec<Option<PublicKey>> {
    let own = key::endpoints(&node(1));
    let read = netd.control().unwrap().snapshot(&own).unwrap();
    let peers = read.entries.values();
    let peers = peers.map(|entry| serde_json::from_str::<Peer>(&entry.value).unwrap());
    peers.map(|peer| peer.key).collect()
}

#[test]
fn an_encrypted_network_goes_by_wireguard_alone() {
    let world = World::new();
    let netd = world.start().unwrap();
    let before = world.kernel.snapshot();
    with_other_node(&netd);
    let attached = netd.attach(request("shop", "web", 10)).unwrap();
    // 60 for WireGuard over IPv4, 70 for VXLAN over IPv6.
    assert_eq!(attached.mtu, 1370);
    let below = link(&world, "wg-hawser").unwrap();
    assert_eq!(below.mtu, 1440);
    let here = wireguard::address_of(&node(1));
    assert_eq!(below.addresses[0].net, wireguard::net(here));
    let found = interface(&world);
    assert_eq!(found.port, 4790);
    assert_eq!(found.peers, [(PublicKey([70; 32]), only(7))].into());
    let above = vxlan(&world, &netd).vxlan.unwrap();
    assert_eq!(above.tunnel.unwrap().local, here);
    assert_eq!(above.below, Some(below.index));
    let mut leads = Vec::new();
    world.kernel.edit(|observed| {
        let forwarding = observed.forwarding.values();
        leads = forwarding.flat_map(|f| f.nodes.values().copied()).collect();
    });
    assert_eq!(leads, [IpAddr::from(wireguard::address_of(&node(7)))]);
    assert_eq!(told(&netd), [found.key]);
    let inspected = netd.network("shop").unwrap();
    assert!(inspected.options.contains_key("encrypted"));
    let mut sealed = Sealed::default();
    world
        .kernel
        .edit(|observed| sealed = observed.data_plane.sealed.clone());
    assert_eq!((sealed.port, sealed.vnis), (4789, [4096].into()));

    drop(netd);
    let netd = world.start().unwrap();
    assert_eq!(interface(&world), found, "the daemon's end changes nothing");
    assert_eq!(told(&netd), [found.key]);
    assert_eq!(netd.reconcile().unwrap(), Report::default());
    netd.detach("web", &eth0()).unwrap();
    netd.reconcile().unwrap();
    assert_eq!(world.kernel.snapshot(), before);
}

#[test]
fn a_lost_interface_comes_back_with_another_key() {
    let world = World::new();
    let netd = world.start().unwrap();
    with_other_node(&netd);
    netd.attach(request("shop", "web", 10)).unwrap();
    let before = interface(&world);
    world.kernel.lose_link(&wireguard::link());
    assert!(netd.reconcile().unwrap().repaired > 0);
    let after = interface(&world);
    assert_eq!(after.peers, before.peers);
    assert_ne!(after.key, before.key);
    assert_eq!(told(&netd), [after.key]);
    let below = link(&world, "wg-hawser").unwrap().index;
    assert_eq!(vxlan(&world, &netd).vxlan.unwrap().below, Some(below));
    assert_eq!(netd.reconcile().unwrap(), Report::default());
}

#[test]
fn keys_change_here_and_elsewhere() {
    let world = World::new();
    let netd = world.start().unwrap();
    with_other_node(&netd);
    netd.attach(request("shop", "web", 10)).unwrap();
    let before = interface(&world);
    netd.change_key();
    let after = interface(&world);
    assert_ne!(after.key, before.key);
    assert_eq!((told(&netd), after.peers), (vec![after.key], before.peers));
    hear_of(&netd, 7, Some(71));
    assert_eq!(
        interface(&world).peers,
        [(PublicKey([71; 32]), only(7))].into()
    );
    hear_of(&netd, 8, Some(80));
    // One that says nothing of its key is sent nothing.
    hear_of(&netd, 9, None);
    assert_eq!(interface(&world).peers.len(), 2);
    // Somebody takes a node away, and lets in another one.
    world.kernel.edit(|observed| {
        let found = observed.links.get_mut(&wireguard::link()).unwrap();
        let peers = &mut found.wireguard.as_mut().unwrap().peers;
        peers.remove(&PublicKey([71; 32]));
        peers.insert(PublicKey([99; 32]), only(99));
    });
    assert_eq!(netd.reconcile().unwrap().repaired, 1);
    let keys: Vec<PublicKey> = interface(&world).peers.into_keys().collect();
    assert_eq!(keys, [PublicKey([71; 32]), PublicKey([80; 32])]);
}

#[test]
fn a_kernel_without_wireguard_says_so() {
    let world = World::new();
    let netd = world.start().unwrap();
    netd.create_network(network(SHOP)).unwrap();
    let before = world.kernel.snapshot();
    world.kernel.lacks(LinkKind::WireGuard);
    let (_code, message) = refusal(netd.attach(request("shop", "web", 10)));
    assert!(
        message.starts_with("wireguard is not in this kernel (CONFIG_WIREGUARD)"),
        "{message}"
    );
    assert_eq!(world.kernel.snapshot(), before);
    let another = SHOP.replace("shop", "bank");
    assert!(netd.create_network(network(&another)).is_err());
    netd.create_network(network(r#"{"Name":"park","Driver":"overlay"}"#))
        .unwrap();
}

#[test]
fn what_a_node_does_not_know_yet_stays_in_the_kernel() {
    let world = World::new();
    let netd = world.start().unwrap();
    with_other_node(&netd);
    netd.attach(request("shop", "web", 10)).unwrap();
    let before = interface(&world);
    drop(netd);
    let netd = world.start_alone().unwrap();
    assert_eq!(netd.reconcile().unwrap(), Report::default());
    assert_eq!(interface(&world), before);
}

#[test]
fn a_crash_while_an_encrypted_network_comes_to_a_node_is_undone() {
    crash_everywhere(with_other_node, |netd| {
        netd.attach(request("shop", "web", 10)).map(drop)
    });
}

#[test]
fn a_crash_while_an_encrypted_network_leaves_a_node_is_completed() {
    crash_everywhere(
        |netd| {
            with_other_node(netd);
            netd.attach(request("shop", "web", 10)).unwrap();
        },
        |netd| netd.detach("web", &eth0()),
    );
}

#[test]
fn a_crash_while_one_of_two_encrypted_networks_leaves_is_completed() {
    crash_everywhere(
        |netd| {
            let bank = SHOP.replace("shop", "bank");
            netd.create_network(network(&bank)).unwrap();
            netd.attach(request("bank", "till", 11)).unwrap();
            with_other_node(netd);
            netd.attach(request("shop", "web", 10)).unwrap();
        },
        |netd| netd.detach("web", &eth0()),
    );
}
