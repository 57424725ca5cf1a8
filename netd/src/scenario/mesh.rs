//! Services of a cluster, where the other node is whoever writes its records.

use std::collections::BTreeMap;
use std::net::IpAddr;

use api::id::{Id, NodeId};
use api::service::{MemberState, ServiceJoin, ServiceSpec};
use cluster::{Transaction, key};

use super::crash::{crash_everywhere, kill_everywhere};
use super::{World, eth0, network, refusal, request};
use crate::Report;
use crate::bpf::Balanced;
use crate::model::mesh;
use crate::model::peer::{Part, Peer};
use crate::model::service::{Membership, Verdict};
use crate::netd::Netd;

const SHOP: &str = r#"{"Name":"shop","Driver":"overlay"}"#;
const WEB: &str = r#"{"Name":"web","Networks":[{"Target":"shop"}],
    "EndpointSpec":{"Ports":[{"TargetPort":80,"PublishedPort":8080}]}}"#;
/// Where the other node takes encapsulated packets.
const AT: [u8; 4] = [198, 51, 100, 7];

fn other_node() -> NodeId {
    NodeId::from_bytes([2; 16])
}

fn spec(json: &str) -> ServiceSpec {
    serde_json::from_str(json).unwrap()
}

fn with_service(netd: &Netd) {
    netd.create_network(network(SHOP)).unwrap();
    netd.create_service(spec(WEB)).unwrap();
}

/// The other node's member at 10.0.0.`last`; its nodes calls it `number` for TCP over IPv4.
fn put_member(netd: &Netd, last: u8, number: u32, verdict: Verdict) {
    let shop = netd.network("shop").unwrap().id;
    let service = netd.service("web").unwrap().id;
    let peer = Peer {
        node: other_node(),
        endpoint: Id::from_bytes([last; 32]),
        container: format!("other{last}"),
        name: Some(format!("other{last}")),
        aliases: Vec::new(),
        mac: format!("02:42:0a:00:00:{last:02x}").parse().unwrap(),
        addresses: vec![IpAddr::from([10, 0, 0, last])],
        at: Some(AT.into()),
        key: None,
        parts: vec![Part {
            membership: Membership {
                service,
                weight: 1,
                draining: false,
                verdict,
            },
            numbers: BTreeMap::from([(8080, number)]),
        }],
    };
    let name = key::endpoint(&other_node(), shop.as_str(), peer.endpoint.as_str());
    let value = serde_json::to_string(&peer).unwrap();
    let control = netd.control().unwrap();
    control
        .commit(&Transaction::default().put(name, value))
        .unwrap();
    hear(netd);
}

fn hear(netd: &Netd) {
    let membership = netd.membership.load_full().unwrap();
    netd.catch_up(&membership).unwrap();
}

fn join(netd: &Netd, name: &str, inode: u64) {
    let mut joining = request("shop", name, inode);
    joining.services = vec![ServiceJoin {
        service: "web".into(),
        weight: 1,
    }];
    netd.attach(joining).unwrap();
}

/// The entries in the kernel that have a frontend like this.
fn entries(world: &World, frontend: &str) -> Vec<Balanced> {
    let mut found = Vec::new();
    world.kernel.edit(|observed| {
        let all = observed.data_plane.balanced.values();
        let is_meant = |entry: &&Balanced| {
            let mut frontends = entry.frontends.iter();
            frontends.any(|found| found.to_string().starts_with(frontend))
        };
        found = all.filter(is_meant).cloned().collect();
    });
    found
}

fn published(world: &World) -> Balanced {
    entries(world, "0.0.0.0:8080/tcp").pop().unwrap()
}

fn shown(entry: &Balanced) -> Vec<String> {
    let backends = entry.backends.iter();
    backends
        .map(|(at, weight)| match entry.remotes.get(at) {
            Some(remote) => format!("{at}*{weight} by {}:{:x}", remote.home, remote.number),
            None => format!("{at}*{weight}"),
        })
        .collect()
}

fn mesh_leads(world: &World) -> Option<BTreeMap<String, String>> {
    let mut found = None;
    world.kernel.edit(|observed| {
        let entries = observed.forwarding.get(&mesh::link());
        found = entries.map(|entries| {
            let nodes = entries.nodes.iter();
            nodes
                .map(|(mac, at)| (mac.to_string(), at.to_string()))
                .collect()
        });
    });
    found
}

#[test]
fn a_published_port_leads_to_members_wherever_they_are() {
    let world = World::new();
    let netd = world.start().unwrap();
    let before = world.kernel.snapshot();
    with_service(&netd);
    assert_eq!(netd.service("web").unwrap().id.as_str().len(), 25);
    assert_eq!(mesh_leads(&world), Some(BTreeMap::new()), "nobody is there");
    assert!(published(&world).reachable, "others may ask for it");
    assert!(
        entries(&world, "10.0.0.").is_empty(),
        "the network is not here"
    );

    put_member(&netd, 9, 0x1_0007, Verdict::Up);
    assert_eq!(
        shown(&published(&world)),
        ["10.0.0.9:80*1 by 198.51.100.7:10007"]
    );
    let mac = mesh::mac_of(&other_node()).to_string();
    assert_eq!(
        mesh_leads(&world),
        Some([(mac, "198.51.100.7".into())].into())
    );

    // With one here the network is, too, and with it the service's own address.
    join(&netd, "here", 10);
    let here = &netd.endpoints(Some("here"))[0].addresses[0].address;
    let expected = [
        format!("{}:80*1", here.addr()),
        "10.0.0.9:80*1 by 198.51.100.7:10007".to_owned(),
    ];
    assert_eq!(shown(&published(&world)), expected);
    let vip = entries(&world, "10.0.0.");
    let expected = [format!("{}:0*1", here.addr()), "10.0.0.9:0*1".to_owned()];
    assert!(vip.iter().all(|entry| shown(entry) == expected), "{vip:?}");
    let service = netd.service("web").unwrap();
    let nodes: Vec<bool> = service.members.iter().map(|m| m.node.is_some()).collect();
    assert_eq!(nodes, [false, true]);

    // What others are told of the member here.
    let told = || -> Vec<Peer> {
        let control = netd.control().unwrap();
        let all = control.snapshot(key::ENDPOINTS).unwrap().entries;
        let peers = all
            .values()
            .map(|e| serde_json::from_str(&e.value).unwrap());
        peers
            .filter(|peer: &Peer| peer.node != other_node())
            .collect()
    };
    let [peer] = &told()[..] else {
        panic!("{:?}", told())
    };
    assert_eq!(peer.parts[0].membership.service, service.id);
    assert_eq!(peer.parts[0].numbers, BTreeMap::from([(8080, 1)]));
    netd.drain("here", std::time::Duration::ZERO).unwrap();
    assert!(told()[0].parts[0].membership.draining, "others hear of it");

    // One that is ill elsewhere gets nothing new.
    put_member(&netd, 9, 0x1_0007, Verdict::Down);
    let states: Vec<MemberState> = netd
        .service("web")
        .unwrap()
        .members
        .iter()
        .map(|m| m.state)
        .collect();
    assert_eq!(states, [MemberState::Draining, MemberState::Down]);

    netd.detach("here", &eth0()).unwrap();
    let web = netd.service("web").unwrap();
    let (_, message) = refusal(netd.remove_service("web", false));
    assert!(message.contains("container other9"), "{message}");
    netd.remove_service(web.id.as_str(), true).unwrap();
    assert_eq!(mesh_leads(&world), None);
    let claims = netd.control().unwrap().snapshot(key::CLAIMS).unwrap();
    assert!(claims.entries.is_empty(), "{claims:?}");
    netd.reconcile().unwrap();
    assert_eq!(world.kernel.snapshot(), before);
}

#[test]
fn a_restart_without_a_control_plane_changes_nothing() {
    let world = World::new();
    let netd = world.start().unwrap();
    with_service(&netd);
    put_member(&netd, 9, 7, Verdict::Up);
    join(&netd, "here", 10);
    let before = world.kernel.snapshot();
    drop(netd);
    let netd = world.start_alone().unwrap();
    assert_eq!(world.kernel.snapshot(), before);
    assert_eq!(netd.reconcile().unwrap(), Report::default());
    // And goes on from there.
    netd.detach("here", &eth0()).unwrap();
    assert_eq!(
        shown(&published(&world)),
        ["10.0.0.9:80*1 by 198.51.100.7:7"]
    );
    // What others took away comes back, with the way through the new interface.
    world.kernel.lose_link(&mesh::link());
    netd.reconcile().unwrap();
    let mut index = 0;
    world
        .kernel
        .edit(|observed| index = observed.links[&mesh::link()].index);
    let remotes = published(&world).remotes;
    assert!(
        remotes.values().all(|remote| remote.tunnel == index),
        "{remotes:?}"
    );
    assert_eq!(mesh_leads(&world).unwrap().len(), 1);
    assert_eq!(netd.reconcile().unwrap(), Report::default());
}

#[test]
fn names_and_ports_are_one_services_in_the_cluster() {
    let world = World::new();
    let netd = world.start().unwrap();
    with_service(&netd);
    netd.create_network(network(r#"{"Name":"own"}"#)).unwrap();
    let check = |json: &str, part: &str| {
        let (_, message) = refusal(netd.create_service(spec(json)));
        assert!(message.contains(part), "{message}");
    };
    check(r#"{"Name":"web"}"#, "service web already exists");
    check(
        r#"{"Name":"b","EndpointSpec":{"Ports":[{"TargetPort":80,"PublishedPort":8080}]}}"#,
        "published by service web",
    );
    check(
        r#"{"Name":"b","Networks":[{"Target":"shop"},{"Target":"own"}]}"#,
        "on own, which is this host's alone",
    );
    // A service that names no network is on the cluster's own one.
    let pages = netd.create_service(spec(r#"{"Name":"pages"}"#)).unwrap();
    let ingress = netd.network("ingress").unwrap();
    assert_eq!(pages.endpoint.virtual_ips[0].network_id, ingress.id);
    let (_, message) = refusal(netd.remove_network("ingress"));
    assert!(message.contains("service"), "{message}");
    let mut changed = spec(WEB);
    changed.labels.insert("tier".into(), "front".into());
    let updated = netd
        .update_service("web", Some(1), changed.clone())
        .unwrap();
    assert_eq!(updated.version.index, 2);
    let (_, message) = refusal(netd.update_service("web", Some(1), changed));
    assert!(message.contains("changed by somebody else"), "{message}");
    let back = netd.roll_back_service("web", None, "by hand").unwrap();
    assert!(back.spec.labels.is_empty());
}

#[test]
fn a_crash_while_a_service_comes_to_a_node_is_made_good() {
    kill_everywhere(
        |netd| drop(netd.create_network(network(SHOP)).unwrap()),
        |netd| netd.create_service(spec(WEB)).map(drop),
    );
}

#[test]
fn a_crash_while_a_member_joins_is_made_good() {
    crash_everywhere(
        |netd| {
            with_service(netd);
            put_member(netd, 9, 7, Verdict::Up);
        },
        |netd| {
            let mut joining = request("shop", "here", 10);
            joining.services = vec![ServiceJoin {
                service: "web".into(),
                weight: 1,
            }];
            netd.attach(joining).map(drop)
        },
    );
}
