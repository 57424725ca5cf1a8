use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::model::forwarding::Forwarding;

fn peer(node: u8, endpoint: u8, mac: u8, addresses: &[u8]) -> Arc<Peer> {
    let address = |last: &u8| IpAddr::from([10, 0, 0, *last]);
    Arc::new(Peer {
        node: NodeId::from_bytes([node; 16]),
        endpoint: Id::from_bytes([endpoint; 32]),
        container: format!("c{endpoint}"),
        name: None,
        aliases: Vec::new(),
        mac: MacAddr([2, 0, 0, 0, 0, mac]),
        addresses: addresses.iter().map(address).collect(),
        at: Some([192, 0, 2, node].into()),
        key: None,
        parts: Vec::new(),
    })
}

fn key(peer: &Peer) -> String {
    format!("endpoints/{}/n/{}", peer.node, peer.endpoint)
}

fn forwarding<'p>(peers: impl Iterator<Item = &'p Peer>) -> Forwarding {
    let mut forwarding = Forwarding::default();
    for peer in peers {
        forwarding.add(peer.mac, peer.at.unwrap(), &peer.addresses);
    }
    forwarding
}

/// A peer that comes, or goes from its key.
type Change = (u8, u8, u8, Vec<u8>, bool);

/// Few addresses, so that several have one for a moment, as when one moves to another node.
fn changes() -> impl Strategy<Value = Vec<Vec<Change>>> {
    let addresses = vec(1u8..12, 0..3);
    let change = (1u8..4, 1u8..6, 1u8..9, addresses, any::<bool>());
    vec(vec(change, 1..4), 1..40)
}

proptest! {
    #[test]
    fn what_differs_is_found_where_it_is_as_among_all(changes in changes()) {
        let mut before = Peers::default();
        for together in changes {
            let mut after = before.clone();
            let mut keys = BTreeSet::new();
            for (node, endpoint, mac, addresses, comes) in together {
                let peer = peer(node, endpoint, mac, &addresses);
                keys.insert(key(&peer));
                match comes {
                    true => after.insert(key(&peer), peer),
                    false => drop(after.remove(&key(&peer))),
                }
            }
            let difference = after.since(&before, Some(&keys));
            let all = after.since(&before, None);
            prop_assert_eq!((&difference.gone, &difference.new), (&all.gone, &all.new));
            let every = |peers: &Peers| forwarding(peers.iter().map(|(_key, peer)| &**peer));
            let near = |peers: &Peers| forwarding(peers.near(&difference).into_iter());
            let (was, is, from, to) = (every(&before), every(&after), near(&before), near(&after));
            prop_assert_eq!(from.beyond(&to), was.beyond(&is));
            prop_assert_eq!(to.beyond(&from), is.beyond(&was));
            before = after;
        }
    }
}

#[test]
fn what_is_gone_is_found_nowhere() {
    let mut peers = Peers::default();
    let one = peer(1, 1, 1, &[1, 2]);
    peers.insert(key(&one), Arc::clone(&one));
    peers.insert(key(&one), peer(1, 1, 2, &[3]));
    assert_eq!(peers.by_place.size(), 2);
    peers.remove(&key(&one));
    assert_eq!(peers.by_place.size(), 0);
    assert_eq!(peers.by_key.size(), 0);
}
