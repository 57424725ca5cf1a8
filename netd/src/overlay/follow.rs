//! Following what other nodes do.

use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use api::id::Id;
use cluster::{Change, ControlError, Watch, key};
use sys::netns::NsId;

use super::Membership;
use crate::apply;
use crate::dns::NamedEndpoint;
use crate::model::desired::Desired;
use crate::model::network::Network;
use crate::model::overlay;
use crate::model::peer::Peer;
use crate::netd::Netd;

/// Also how long a daemon that ends is held up, and how often what failed is tried again.
const WAIT: Duration = Duration::from_millis(500);
/// No namespace is on this device: nobody asks from another node's endpoint.
const ELSEWHERE: u64 = u64::MAX;

/// What one thread follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Topic {
    Networks,
    Endpoints,
}

/// Reads what there is, if the control plane answers at once, and follows it.
pub(super) fn start(netd: &Arc<Netd>, membership: &Arc<Membership>) -> io::Result<()> {
    for (topic, name) in [
        (Topic::Networks, "follow-networks"),
        (Topic::Endpoints, "follow-peers"),
    ] {
        let mut follower = Follower {
            netd: Arc::downgrade(netd),
            membership: Arc::clone(membership),
            topic,
            watch: None,
            settled: false,
            silent: false,
        };
        follower.step(Duration::ZERO);
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || while follower.step(WAIT) {})?;
    }
    Ok(())
}

struct Follower {
    netd: Weak<Netd>,
    membership: Arc<Membership>,
    topic: Topic,
    watch: Option<Box<dyn Watch>>,
    /// What is here is on record there.
    settled: bool,
    /// There is no answer, and that has been said.
    silent: bool,
}

impl Follower {
    /// Waits for news once; false when it is over.
    fn step(&mut self, wait: Duration) -> bool {
        let followed = match &mut self.watch {
            // Nobody holds the daemon while it waits.
            Some(watch) => watch.next(wait),
            None => Ok(Vec::new()),
        };
        let Some(netd) = self.netd.upgrade() else {
            return false;
        };
        if self.membership.over.load(Ordering::Relaxed) {
            return false;
        }
        // A watch that has ended is no silence yet: another member of the store may go on.
        let has_ended = followed.is_err();
        match followed.and_then(|changes| self.follow(&netd, &changes)) {
            Ok(()) => self.be_silent(false),
            Err(error) => {
                self.watch = None;
                if !has_ended && !self.silent {
                    self.be_silent(true);
                    tracing::warn!(%error, "what is there goes on, other nodes are not followed");
                }
                drop(netd);
                thread::sleep(wait);
            }
        }
        true
    }

    fn be_silent(&mut self, silent: bool) {
        if self.topic == Topic::Endpoints && self.silent != silent {
            self.membership.silent.store(silent, Ordering::Relaxed);
        }
        self.silent = silent;
    }

    fn follow(&mut self, netd: &Netd, changes: &[Change]) -> Result<(), ControlError> {
        let membership = &self.membership;
        if self.watch.is_some() {
            match self.topic {
                Topic::Networks if !changes.is_empty() => {
                    let _writer = netd.writer();
                    netd.read_networks(membership)?;
                }
                Topic::Networks => {}
                Topic::Endpoints => {
                    netd.follow_peers(membership, changes);
                    membership.tell_gone()?;
                }
            }
            return Ok(());
        }
        // Nobody waits for one that is silent: what follows is in turn with all changes of networks.
        membership.member.control.snapshot(key::GUARD)?;
        let (prefix, revision) = match self.topic {
            Topic::Networks => {
                let _writer = netd.writer();
                (key::NETWORKS, netd.read_networks(membership)?)
            }
            Topic::Endpoints => {
                if !self.settled {
                    membership.settle(netd)?;
                    self.settled = true;
                }
                (key::ENDPOINTS, netd.read_all_peers(membership)?)
            }
        };
        self.watch = Some(membership.member.control.watch(prefix, revision)?);
        Ok(())
    }
}

impl Membership {
    /// Tells the control plane what it could not be told before.
    fn tell_gone(&self) -> Result<(), ControlError> {
        loop {
            let Some(endpoint) = self.gone().last().cloned() else {
                return Ok(());
            };
            self.withdraw(&endpoint)?;
            self.gone().retain(|other| !Arc::ptr_eq(other, &endpoint));
        }
    }

    /// What another node tells of an endpoint; nothing for one of our own. Nobody but a node itself may
    /// write below its key.
    pub(super) fn peer(&self, key: &str, value: &str) -> Option<Peer> {
        let peer: Peer = serde_json::from_str(value).ok()?;
        let is_its = key.starts_with(&key::endpoints(&peer.node));
        (is_its && peer.node != self.member.node).then_some(peer)
    }
}

impl Netd {
    /// Knows once what a follower does at first.
    #[cfg(test)]
    pub(crate) fn catch_up(&self, membership: &Membership) -> Result<(), ControlError> {
        self.read_networks(membership)?;
        membership.settle(self)?;
        self.read_all_peers(membership).map(drop)
    }

    /// Knows who is where on the networks that are here; the revision that says so.
    fn read_all_peers(&self, membership: &Membership) -> Result<u64, ControlError> {
        let _writer = self.writer();
        let revision = membership.member.control.snapshot(key::GUARD)?.revision;
        let before = self.view();
        let mut after = Desired::clone(&before);
        let overlays = before.networks.values();
        let overlays = overlays.filter(|network| network.driver.overlay().is_some());
        let read: BTreeSet<Id> = overlays.map(|network| network.id.clone()).collect();
        after.peers.extend(self.read_peers(membership, &read)?);
        self.change_peers(&before, after, &read);
        Ok(revision)
    }

    fn follow_peers(&self, membership: &Membership, changes: &[Change]) {
        if changes.is_empty() {
            return;
        }
        let _writer = self.writer();
        let before = self.view();
        let mut after = Desired::clone(&before);
        let mut changed = BTreeSet::new();
        for change in changes {
            let network = key::network_of(&change.key).unwrap_or_default();
            let Ok(network) = Id::try_from(network.to_owned()) else {
                continue;
            };
            let is_known = membership.read().get(&network) >= Some(&change.revision);
            let Some(peers) = after.peers.get_mut(&network).filter(|_| !is_known) else {
                continue;
            };
            peers.remove(&change.key);
            let value = change.value.as_deref();
            let peer = value.and_then(|value| membership.peer(&change.key, value));
            if let Some(peer) = peer {
                peers.insert(change.key.clone(), Arc::new(peer));
            }
            changed.insert(network);
        }
        self.change_peers(&before, after, &changed);
    }

    /// Brings the kernel and the names from who was where to who is. What the kernel refuses is
    /// repaired by the next reconcile.
    fn change_peers(&self, before: &Desired, after: Desired, networks: &BTreeSet<Id>) {
        // First, so that nobody takes what goes for something to repair.
        self.publish_view(after.clone());
        for id in networks {
            let (Some(network), Some(peers)) = (after.networks.get(id), after.peers.get(id)) else {
                continue;
            };
            let nobody = Default::default();
            let were = before.peers.get(id).unwrap_or(&nobody);
            for (key, peer) in were.iter() {
                let is = peers.get(key);
                if is.is_none_or(|is| is.endpoint != peer.endpoint) {
                    self.dns.remove(&peer.endpoint);
                }
            }
            // What was in the kernel before it was known who is where, a look at it tells.
            let steps = match before.peers.contains_key(id) {
                true => overlay::follow(before, &after, network)
                    .into_iter()
                    .collect(),
                false => match self.kernel.observe() {
                    Ok(observed) => overlay::repair(&after, network, &observed),
                    Err(error) => {
                        tracing::warn!(%error, "the next reconcile tries again");
                        Vec::new()
                    }
                },
            };
            apply::run_all(&*self.kernel, &steps);
            for (key, peer) in peers.iter() {
                if were.get(key) != Some(peer) {
                    self.publish_peer(network, peer);
                }
            }
        }
    }

    /// Names of an endpoint on another node resolve like those here.
    pub(super) fn publish_peer(&self, network: &Network, peer: &Peer) {
        let short_id = peer.container.chars().take(12).collect();
        let names = peer.name.iter().chain(&peer.aliases).cloned();
        let number = u64::from_str_radix(&peer.endpoint.as_str()[..16], 16);
        self.dns.upsert(NamedEndpoint {
            endpoint: peer.endpoint.clone(),
            network: network.id.clone(),
            network_name: network.name.clone(),
            container_id: peer.container.clone(),
            sandbox: NsId {
                device: ELSEWHERE,
                inode: number.unwrap_or_default(),
            },
            order: 0,
            names: names.chain([short_id]).collect(),
            addresses: peer.addresses.clone(),
            ports: Vec::new(),
            links: Vec::new(),
            upstreams: Vec::new(),
            internal: network.internal,
        });
    }
}
