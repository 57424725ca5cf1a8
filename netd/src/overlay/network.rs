//! Networks of the cluster: creating and removing them, and extending them to this node.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use api::id::Id;
use api::net::{Ipam, IpamConfig, NetworkCreate, NetworkCreated};
use api::service::ServiceSpec;
use api::swarm::SwarmSettings;
use cluster::swarm::Cluster;
use cluster::{ControlError, ControlPlane, Entry, Outcome, Snapshot, Transaction, key};
use ipnet::Ipv4Net;

use super::claim::{TRIES, encode, parse};
use super::follow::anywhere;
use super::{Membership, about, subject};
use crate::error::NetError;
use crate::model::desired::{Desired, Shared};
use crate::model::ipam::{self, Pool};
use crate::model::network::{INGRESS, Network, NetworkError, Stage};
use crate::model::peer::Peers;
use crate::netd::{Netd, Writer};
use crate::selection::Selection;

/// Room for the members of many services; Docker's first one was the same.
const INGRESS_SUBNET: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 255, 0, 0), 16);
/// The driver of networks of the cluster.
const DRIVER: &str = "overlay";

pub(super) fn shared(entry: &Entry) -> Option<Shared> {
    let network = serde_json::from_str(&entry.value);
    let network = network.map_err(|error| tracing::error!(%error, "a network cannot be read"));
    Some(Shared {
        network: Arc::new(network.ok()?),
        modified: entry.modified,
    })
}

pub(super) fn all_shared(read: &Snapshot) -> BTreeMap<Id, Shared> {
    let networks = read.entries.values().filter_map(shared);
    let by_id = |shared: Shared| (shared.network.id.clone(), shared);
    networks.map(by_id).collect()
}

impl Netd {
    pub(crate) fn is_shared(request: &NetworkCreate) -> bool {
        request.driver == DRIVER
    }

    /// Creates a network of the cluster. Its name, subnets and number are its own among all nodes'.
    pub(crate) fn create_shared(
        &self,
        request: &NetworkCreate,
    ) -> Result<NetworkCreated, NetError> {
        let subject = format!("network {}", request.name);
        let membership = self.managing(&subject)?;
        let control = &membership.member.control;
        let failed = about(&subject);
        let pools = match settings(&**control).map_err(&failed)? {
            Some(settings) => pools(&settings),
            None => self.config.overlay_pools.clone(),
        };
        for _ in 0..TRIES {
            let guard = control.snapshot(key::GUARD).map_err(&failed)?;
            let guard = guard.entries.get(key::GUARD).map_or(0, |e| e.modified);
            self.read_networks(&membership).map_err(&failed)?;
            let before = self.view();
            let observed = self.kernel.observe()?;
            let network = {
                let around = (&*before, &observed);
                self.new_network(request.clone(), &pools, around)?
            };
            self.check_new(&network, &before, &observed)?;
            let (id, name) = (network.id.clone(), network.name.clone());
            let put = Transaction::default()
                .when(key::GUARD, guard)
                .put(key::GUARD, id.as_str())
                .put(key::network(id.as_str()), encode(&committed(network)));
            if control.commit(&put).map_err(&failed)? != Outcome::Refused {
                self.read_networks(&membership).map_err(&failed)?;
                tracing::info!(%name, id = id.short(), "network of the cluster created");
                let warning = String::new();
                return Ok(NetworkCreated { id, warning });
            }
        }
        Err(NetError::Contended(subject.clone()))
    }

    /// Creates the network of services that name none, unless it is there.
    ///
    /// # Errors
    /// As [`Self::create_network`].
    pub fn ensure_ingress(&self) -> Result<(), NetError> {
        if self.view().any_network(INGRESS).is_ok() {
            return Ok(());
        }
        let request = |subnet: Option<Ipv4Net>| NetworkCreate {
            name: INGRESS.to_owned(),
            driver: DRIVER.to_owned(),
            enable_ipv4: None,
            enable_ipv6: Some(true),
            ipam: Ipam {
                config: subnet.into_iter().map(of_subnet).collect(),
                ..Ipam::default()
            },
            internal: false,
            attachable: false,
            options: BTreeMap::new(),
            labels: BTreeMap::new(),
        };
        let membership = self.membership_for(&format!("network {INGRESS}"))?;
        let settings = settings(&*membership.member.control);
        let chosen = settings.map_err(about(&format!("network {INGRESS}")))?;
        let is_own = |chosen: SwarmSettings| {
            chosen.default_addr_pool != SwarmSettings::default().default_addr_pool
        };
        if chosen.is_some_and(is_own) {
            return self.create_shared(&request(None)).map(drop);
        }
        match self.create_shared(&request(Some(INGRESS_SUBNET))) {
            // The host, or the cluster, has it for something else.
            Err(NetError::Network(_)) => self.create_shared(&request(None)).map(drop),
            created => created.map(drop),
        }
    }

    /// Removes a network of the cluster that nobody is on.
    pub(crate) fn remove_shared(&self, network: &Network) -> Result<(), NetError> {
        let subject = subject(network);
        let membership = self.managing(&subject)?;
        self.refuse_service(network)?;
        let control = &membership.member.control;
        let failed = about(&subject);
        let (name, removal) = (
            key::network(network.id.as_str()),
            key::removal(network.id.as_str()),
        );
        let read = control.snapshot(&name).map_err(&failed)?;
        let Some(modified) = read.entries.get(&name).map(|entry| entry.modified) else {
            return Err(NetworkError::NotFound(network.name.to_string()).into());
        };
        let begin = Transaction::default()
            .when(name.clone(), modified)
            .put_leased(removal.clone(), "");
        control.commit(&begin).map_err(&failed)?;
        let claims = control.snapshot(&key::claims(network.id.as_str()));
        let users = claims.and_then(|claims| membership.users(&claims));
        let end = match &users {
            Ok(users) if users.is_empty() => Transaction::default()
                .when(name.clone(), modified)
                .put(key::GUARD, network.id.as_str())
                .delete(name),
            _ => Transaction::default(),
        };
        let ended = control.commit(&end.delete(removal)).map_err(&failed)?;
        network.check_unused(users.map_err(&failed)?.iter().map(String::as_str))?;
        if ended == Outcome::Refused {
            return Err(NetError::Contended(subject.clone()));
        }
        self.read_networks(&membership).map_err(&failed)?;
        tracing::info!(name = %network.name, id = network.id.short(), "network of the cluster removed");
        Ok(())
    }

    /// Removes the networks of the cluster that nobody is on and that are selected.
    pub(crate) fn prune_shared(&self, selection: &Selection) -> Result<Vec<String>, NetError> {
        let mut removed = Vec::new();
        for shared in self.view().cluster.values() {
            let network = &shared.network;
            if !selection.selects(network) {
                continue;
            }
            match self.remove_shared(network) {
                Ok(()) => removed.push(network.name.to_string()),
                Err(NetError::Network(
                    NetworkError::InUse { .. }
                    | NetworkError::Ending { .. }
                    | NetworkError::HasService { .. },
                )) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(removed)
    }

    pub(super) fn managing(&self, subject: &str) -> Result<Arc<Membership>, NetError> {
        let membership = self.membership_for(subject)?;
        if membership.member.manager {
            Ok(membership)
        } else {
            Err(NetError::NotManager {
                subject: subject.to_owned(),
                managers: cluster::managers(&*membership.member.control),
            })
        }
    }

    /// Knows the cluster's networks as they are now; the revision that says so.
    pub(super) fn read_networks(&self, membership: &Membership) -> Result<u64, ControlError> {
        let read = membership.member.control.snapshot(key::NETWORKS)?;
        let mut view = Desired::clone(&self.view());
        view.cluster = Arc::new(all_shared(&read));
        self.publish_view(view);
        Ok(read.revision)
    }

    /// The network that a container is to join. One of the cluster that nobody here is on yet is made
    /// here.
    pub(crate) fn network_to_join(
        &self,
        key: &str,
        of_service: bool,
    ) -> Result<Arc<Network>, NetError> {
        let view = self.view();
        let membership = self.membership.load_full();
        let network = match (view.any_network(key), &membership) {
            (Ok(network), _) => Arc::clone(network),
            // It may have been created a moment ago on another node.
            (Err(_), Some(membership)) => {
                let heard = membership.hears();
                if let Err(error) = heard.and_then(|()| self.read_networks(membership)) {
                    tracing::warn!(%error, "networks of the cluster may be newer than known here");
                }
                Arc::clone(self.view().any_network(key)?)
            }
            (Err(error), None) => return Err(error.into()),
        };
        if network.driver.overlay().is_some() && !network.attachable && !of_service {
            let network = network.name.to_string();
            return Err(crate::model::endpoint::EndpointError::NotAttachable { network }.into());
        }
        match self.view().networks.get(&network.id) {
            Some(here) => Ok(Arc::clone(here)),
            None => self.extend(&network),
        }
    }

    /// Makes the networks of a service here, which its names and addresses need.
    pub(crate) fn extend_for(&self, spec: &ServiceSpec) -> Result<(), NetError> {
        for network in &spec.networks {
            // Whoever asks for one that is not there is told so next.
            if self.view().network(&network.target).is_err() {
                self.network_to_join(&network.target, true)?;
            }
        }
        Ok(())
    }

    /// Makes a network of the cluster in this node's kernel.
    fn extend(&self, network: &Network) -> Result<Arc<Network>, NetError> {
        let membership = self.membership_for(&subject(network))?;
        let observed = self.kernel.observe()?;
        let extended = network.extended(membership.end(), &observed, self.config.mtu);
        let mut before = Desired::clone(&self.view());
        // The routes of this host are not those of the manager's.
        let mut others = before.clone();
        let mut cluster = (*others.cluster).clone();
        cluster.remove(&network.id);
        others.cluster = Arc::new(cluster);
        let taken = others.taken(&observed, &self.config.default_bridge);
        for subnet in &network.subnets {
            ipam::check_clear(subnet.subnet, &taken).map_err(NetworkError::from)?;
        }
        self.check_new(&extended, &others, &observed)?;
        let only = BTreeSet::from([network.id.clone()]);
        let peers = self.read_peers(&membership, &only);
        let mut peers = peers.map_err(about(&subject(network)))?;
        let peers = peers.remove(&network.id).unwrap_or_default();
        let id = extended.id.clone();
        before.peers.insert(id.clone(), peers.clone());
        self.change_peers(&self.view(), before, &anywhere([id.clone()].into()));
        let before = Desired::clone(&self.view());
        if let Err(error) = self.add_network(&before, extended) {
            self.forget_peers(&id);
            return Err(error);
        }
        if network.driver.overlay().is_some_and(|o| o.encrypted) {
            self.follow_key(&self.kernel.observe()?);
        }
        let view = self.view();
        self.publish_peers(&view, network, peers.iter().map(|(_key, peer)| &**peer));
        self.change_places(&before, &view, &id);
        self.follow_host();
        tracing::info!(name = %network.name, "network extended to this node");
        Ok(Arc::clone(self.view().network(id.as_str())?))
    }

    /// The endpoints of networks on other nodes as they are now, and the addresses that are taken.
    pub(super) fn read_peers(
        &self,
        membership: &Membership,
        networks: &BTreeSet<Id>,
    ) -> Result<BTreeMap<Id, Peers>, ControlError> {
        let control = &membership.member.control;
        let mut all = BTreeMap::new();
        for network in networks {
            let claims = control.snapshot(&key::claims(network.as_str()))?;
            let mut peers = Peers::default();
            for (name, entry) in &claims.entries {
                if let Some((address, claim)) = parse(name, &entry.value)
                    && claim.node != membership.member.node
                {
                    peers.take(address, claim.holder);
                }
            }
            all.insert(network.clone(), peers);
        }
        let read = control.snapshot(key::ENDPOINTS)?;
        for (name, entry) in read.entries {
            let network = key::network_of(&name);
            let network = network.and_then(|id| Id::try_from(id.to_owned()).ok());
            let peers = network.and_then(|network| all.get_mut(&network));
            if let Some(peers) = peers
                && let Some(peer) = membership.peer(&name, &entry.value)
            {
                peers.insert(name, Arc::new(peer));
            }
        }
        let revisions = networks.iter().map(|id| (id.clone(), read.revision));
        membership.read().extend(revisions);
        Ok(all)
    }

    /// Takes a network of the cluster from this node's kernel when nothing here needs it.
    pub(crate) fn shrink(&self, writer: &mut Writer, network: &Id) -> Result<(), NetError> {
        let view = self.view();
        let Some(network) = view.networks.get(network) else {
            return Ok(());
        };
        let is_used = view.endpoints_of(&network.id).next().is_some()
            || view.services.on(&network.id).any(|s| s.shared.is_none());
        if network.driver.overlay().is_none() || network.stage == Stage::Removing || is_used {
            return Ok(());
        }
        self.drop_network(writer, &view, network)?;
        self.change_places(&view, &self.view(), &network.id);
        self.forget_peers(&network.id);
        tracing::info!(name = %network.name, "network taken from this node");
        Ok(())
    }

    /// [`Self::shrink`], where a failure is somebody else's: every reconcile tries again.
    pub(crate) fn shrink_all(&self, writer: &mut Writer) {
        let view = self.view();
        let overlays = view.networks.values();
        let overlays = overlays.filter(|network| network.driver.overlay().is_some());
        for id in overlays.map(|network| &network.id) {
            if let Err(error) = self.shrink(writer, id) {
                tracing::warn!(%error, "a network stays on this node");
            }
        }
    }

    pub(super) fn forget_peers(&self, network: &Id) {
        let before = self.view();
        let mut view = Desired::clone(&before);
        let Some(peers) = before.peers.get(network) else {
            return;
        };
        if !before.followed().contains(network) {
            view.peers.remove(network);
            self.change_peers(&before, view, &anywhere([network.clone()].into()));
        }
        let endpoints = peers.iter().map(|(_key, peer)| &peer.endpoint);
        self.dns.remove_all(endpoints);
    }
}

/// What the cluster was told when it began; nothing on a host that is in none.
fn settings(control: &dyn ControlPlane) -> Result<Option<SwarmSettings>, ControlError> {
    let read = control.snapshot(key::CLUSTER)?;
    let cluster = read.entries.get(key::CLUSTER);
    let cluster = cluster.and_then(|entry| serde_json::from_str::<Cluster>(&entry.value).ok());
    Ok(cluster.map(|cluster| cluster.settings))
}

fn pools(settings: &SwarmSettings) -> Vec<Pool> {
    let size = settings.subnet_size;
    let pools = settings.default_addr_pool.iter();
    pools.map(|base| Pool { base: *base, size }).collect()
}

fn of_subnet(subnet: Ipv4Net) -> IpamConfig {
    IpamConfig {
        subnet: Some(subnet.into()),
        ..IpamConfig::default()
    }
}

/// What all nodes know: nobody's part is in it.
fn committed(mut network: Network) -> Network {
    network.stage = Stage::Committed;
    network
}

impl Membership {
    /// Who has addresses, for people.
    fn users(&self, claims: &Snapshot) -> Result<Vec<String>, ControlError> {
        let mut users = BTreeSet::new();
        let mut hostnames = BTreeMap::new();
        for (name, entry) in &claims.entries {
            let Some((_, claim)) = parse(name, &entry.value) else {
                continue;
            };
            if !hostnames.contains_key(&claim.node) {
                let name = key::node(&claim.node);
                let read = self.member.control.snapshot(&name)?;
                let node = read.entries.get(&name);
                let node = node.and_then(|e| serde_json::from_str::<cluster::Node>(&e.value).ok());
                hostnames.insert(claim.node.clone(), node.map(|node| node.hostname));
            }
            let holder = claim.holder.trim_start_matches("container ");
            users.insert(match &hostnames[&claim.node] {
                _ if holder.starts_with("service ") => holder.to_owned(),
                Some(hostname) => format!("{holder} on node {hostname}"),
                None => format!("{holder} on node {}", claim.node),
            });
        }
        Ok(users.into_iter().collect())
    }
}
