//! Following what other nodes do.

use std::collections::{BTreeMap, BTreeSet};
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
use crate::model::peer::{Difference, Peer, Peers};
use crate::model::service::{Member, plan};
use crate::netd::Netd;
use crate::service;

/// Also how long a daemon that ends is held up, and how often what failed is tried again.
const WAIT: Duration = Duration::from_millis(500);
/// No namespace is on this device: nobody asks from another node's endpoint.
const ELSEWHERE: u64 = u64::MAX;

/// What one thread follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Topic {
    Networks,
    Endpoints,
    Services,
}

/// Reads what there is, if the control plane answers at once, and follows it.
pub(super) fn start(netd: &Arc<Netd>, membership: &Arc<Membership>) -> io::Result<()> {
    for (topic, name) in [
        (Topic::Networks, "follow-networks"),
        // Before who is part of them: their members are heard of next.
        (Topic::Services, "follow-services"),
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

/// Of networks, the keys at which peers may have changed; all of them where none are named.
pub(super) type Changed = BTreeMap<Id, Option<BTreeSet<String>>>;

pub(super) fn anywhere(networks: BTreeSet<Id>) -> Changed {
    networks
        .into_iter()
        .map(|network| (network, None))
        .collect()
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
                Topic::Services => netd.follow_services(membership, changes),
                Topic::Endpoints => {
                    netd.follow_peers(membership, changes);
                    membership.tell_gone()?;
                    netd.announce_again(membership);
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
            Topic::Services => (key::SERVICES, netd.read_services(membership)?),
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
        self.read_services(membership)?;
        membership.settle(self)?;
        self.read_all_peers(membership).map(drop)
    }

    /// Knows who is where on the networks that are here; the revision that says so.
    fn read_all_peers(&self, membership: &Membership) -> Result<u64, ControlError> {
        let _writer = self.writer();
        let revision = membership.member.control.snapshot(key::GUARD)?.revision;
        let before = self.view();
        let mut after = Desired::clone(&before);
        let read = before.followed();
        after.peers.extend(self.read_peers(membership, &read)?);
        self.change_peers(&before, after, &anywhere(read));
        Ok(revision)
    }

    fn follow_peers(&self, membership: &Membership, changes: &[Change]) {
        if changes.is_empty() {
            return;
        }
        let _writer = self.writer();
        let before = self.view();
        let mut after = Desired::clone(&before);
        let mut changed = Changed::new();
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
            let keys = changed
                .entry(network)
                .or_insert_with(|| Some(BTreeSet::new()));
            if let Some(keys) = keys {
                keys.insert(change.key.clone());
            }
        }
        self.change_peers(&before, after, &changed);
    }

    /// Brings the kernel, the services and the names from who was where to who is. What the kernel
    /// refuses is repaired by the next reconcile.
    pub(super) fn change_peers(&self, before: &Desired, mut after: Desired, changed: &Changed) {
        let (nobody, known) = (Peers::default(), after.peers.clone());
        let differences: Vec<(&Id, Difference<'_>)> = changed
            .iter()
            .map(|(id, keys)| {
                let were = before.peers.get(id).unwrap_or(&nobody);
                let are = known.get(id).unwrap_or(&nobody);
                (id, are.since(were, keys.as_ref()))
            })
            .collect();
        let (mut heard, mut services) = (Vec::new(), BTreeSet::new());
        for (_id, Difference { gone, new }) in &differences {
            // What is there again comes after what it replaces.
            heard.extend(gone.iter().map(|(key, _peer)| (*key, None)));
            heard.extend(new.iter().map(|(key, peer)| (*key, Some(*peer))));
            let parts = gone.iter().chain(new).flat_map(|(_key, peer)| &peer.parts);
            services.extend(parts.map(|part| part.membership.service.clone()));
        }
        self.keep_peers(&heard);
        if !services.is_empty() {
            self.settle_mesh(before, &mut after);
        }
        // First, so that nobody takes what goes for something to repair.
        self.publish_view(after.clone());
        self.settle_correspondents(before, &after);
        for (id, difference) in &differences {
            let (Some(peers), Some(network)) = (after.peers.get(*id), after.networks.get(id))
            else {
                continue;
            };
            let gone = difference.gone.iter().filter(|(key, peer)| {
                let is = peers.get(key);
                is.is_none_or(|is| is.endpoint != peer.endpoint)
            });
            self.dns.remove_all(gone.map(|(_key, peer)| &peer.endpoint));
            // What was in the kernel before it was known who is where, a look at it tells.
            let steps = match before.peers.contains_key(*id) {
                true => overlay::follow(before, &after, network, difference),
                false => match self.kernel.observe() {
                    Ok(observed) => overlay::repair(&after, network, &observed),
                    Err(error) => {
                        tracing::warn!(%error, "the next reconcile tries again");
                        Vec::new()
                    }
                },
            };
            apply::run_all(&*self.kernel, &steps);
            let new = difference.new.iter().map(|(_key, peer)| &***peer);
            self.publish_peers(&after, network, new);
        }
        self.change_members(before, &after, &services);
    }

    /// Brings services from who were their members to who are.
    pub(super) fn change_members(
        &self,
        before: &Desired,
        after: &Desired,
        services: &BTreeSet<Id>,
    ) {
        apply::run_all(
            &*self.kernel,
            &plan::balance(before, after, services.iter()),
        );
        for service in services {
            self.republish_used(before, after, service);
            self.note_last_resort(before, after, service);
        }
    }

    /// A node whose control plane does not answer begins with what it has heard last: who is somewhere,
    /// or not any more.
    fn keep_peers(&self, heard: &[(&String, Option<&Arc<Peer>>)]) {
        if heard.is_empty() {
            return;
        }
        if let Err(error) = self.store.put_peers(heard) {
            tracing::warn!(%error, "endpoints on other nodes may not be known after a restart");
        }
    }

    /// Names of endpoints on other nodes resolve like those here.
    pub(crate) fn publish_peers<'p>(
        &self,
        desired: &Desired,
        network: &Network,
        peers: impl IntoIterator<Item = &'p Peer>,
    ) {
        let peers = peers.into_iter();
        self.dns
            .upsert_all(peers.map(|peer| named(desired, network, peer)));
    }
}

fn named(desired: &Desired, network: &Network, peer: &Peer) -> NamedEndpoint {
    let short_id = peer.container.chars().take(12).collect();
    let names = peer.name.iter().chain(&peer.aliases).cloned();
    let of_services = peer.parts.iter().flat_map(|part| {
        let member = Member::elsewhere(&network.id, peer, part);
        service::names_by_service(desired, network, &member)
    });
    let number = u64::from_str_radix(&peer.endpoint.as_str()[..16], 16);
    NamedEndpoint {
        endpoint: peer.endpoint.clone(),
        network: network.id.clone(),
        network_name: network.name.clone(),
        container_id: peer.container.clone(),
        sandbox: NsId {
            device: ELSEWHERE,
            inode: number.unwrap_or_default(),
        },
        order: 0,
        names: names.chain([short_id]).chain(of_services).collect(),
        addresses: peer.addresses.clone(),
        ports: Vec::new(),
        links: Vec::new(),
        upstreams: Vec::new(),
        internal: network.internal,
    }
}
