//! Who is called what, and who may know: pure data, no clock, no I/O.
//!
//! A [`Directory`] is one immutable snapshot of all networks. Each network has a [`Zone`]: its
//! names, and the endpoint behind each address. A [`View`] is what one asker sees of it.
//!
//! **Invariant:** a name is visible iff the asker's container has an endpoint on the name's
//! network. The asker is known by its source address on the network whose socket it used; an
//! unknown source sees that network only and is never forwarded for.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use api::id::Id;
use domain::base::Name;

use super::NamedEndpoint;
use super::cow::CowMap;
use super::name;

/// Length of the abbreviated container id that resolves like a name.
const SHORT_ID: usize = 12;
const DNS_PORT: u16 = 53;
/// Where sandboxes believe their resolver to be. As an upstream it would mean ourselves.
const STUB: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 11));

/// A [`NamedEndpoint`] made ready to be answered from.
#[derive(Debug)]
pub(super) struct Endpoint {
    id: Id,
    network: Id,
    container: Box<str>,
    v4: Box<[Ipv4Addr]>,
    v6: Box<[Ipv6Addr]>,
    /// Every name it answers to, lower-cased wire form, no duplicates.
    keys: Box<[Arc<[u8]>]>,
    /// `name.network`, the answer to a reverse lookup.
    pointer: Option<Name<Vec<u8>>>,
    upstreams: Option<Arc<[SocketAddr]>>,
    internal: bool,
}

impl Endpoint {
    /// Also returns the names that are no domain names and so resolve nowhere.
    pub(super) fn new(named: NamedEndpoint) -> (Self, Vec<String>) {
        let mut rejected = Vec::new();
        let mut keys: Vec<Arc<[u8]>> = Vec::new();
        let mut pointer = None;
        let short_id = named.container_id.get(..SHORT_ID).map(str::to_owned);
        let short_id = short_id.filter(|_id| !named.names.is_empty());
        for text in named.names.into_iter().chain(short_id) {
            let Some(mut plain) = name::encode(&text) else {
                rejected.push(text);
                continue;
            };
            let qualified = name::encode(&format!("{text}.{}", named.network_name));
            if pointer.is_none() {
                pointer = qualified
                    .clone()
                    .and_then(|wire| Name::from_octets(wire).ok());
            }
            plain.make_ascii_lowercase();
            keys.push(plain.into());
            keys.extend(qualified.map(|mut wire| {
                wire.make_ascii_lowercase();
                Arc::from(wire)
            }));
        }
        keys.sort_unstable();
        keys.dedup();
        let upstreams: Arc<[SocketAddr]> = named
            .upstreams
            .into_iter()
            .filter(|&server| server != STUB)
            .map(|server| SocketAddr::new(server, DNS_PORT))
            .collect();
        let endpoint = Self {
            id: named.endpoint,
            network: named.network,
            container: named.container_id.into(),
            v4: named.addresses.iter().filter_map(|a| v4(*a)).collect(),
            v6: named.addresses.iter().filter_map(|a| v6(*a)).collect(),
            keys: keys.into(),
            pointer,
            upstreams: (!upstreams.is_empty()).then_some(upstreams),
            internal: named.internal,
        };
        (endpoint, rejected)
    }

    fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let v4 = self.v4.iter().copied().map(IpAddr::V4);
        v4.chain(self.v6.iter().copied().map(IpAddr::V6))
    }
}

fn v4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}

fn v6(address: IpAddr) -> Option<Ipv6Addr> {
    match address {
        IpAddr::V6(address) => Some(address),
        IpAddr::V4(_) => None,
    }
}

/// All that one name on one network stands for.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    pub(super) v4: Vec<Ipv4Addr>,
    pub(super) v6: Vec<Ipv6Addr>,
    owners: Vec<Arc<Endpoint>>,
}

impl Addresses {
    fn of(owners: Vec<Arc<Endpoint>>) -> Self {
        let v4 = owners
            .iter()
            .flat_map(|owner| owner.v4.iter().copied())
            .collect();
        let v6 = owners
            .iter()
            .flat_map(|owner| owner.v6.iter().copied())
            .collect();
        Self { v4, v6, owners }
    }
}

/// One network's names.
#[derive(Debug, Clone, Default)]
struct Zone {
    names: CowMap<Arc<[u8]>, Arc<Addresses>>,
    hosts: CowMap<IpAddr, Arc<Endpoint>>,
}

impl Zone {
    fn set_owners(&mut self, key: &Arc<[u8]>, owners: Vec<Arc<Endpoint>>) {
        if owners.is_empty() {
            self.names.remove(key.as_ref());
        } else {
            self.names
                .insert(Arc::clone(key), Arc::new(Addresses::of(owners)));
        }
    }

    fn owners(&self, key: &[u8]) -> Vec<Arc<Endpoint>> {
        self.names
            .get(key)
            .map(|found| found.owners.clone())
            .unwrap_or_default()
    }

    fn insert(&mut self, endpoint: &Arc<Endpoint>) {
        for key in &endpoint.keys {
            let mut owners = self.owners(key);
            owners.push(Arc::clone(endpoint));
            self.set_owners(key, owners);
        }
        for address in endpoint.addresses() {
            self.hosts.insert(address, Arc::clone(endpoint));
        }
    }

    fn remove(&mut self, endpoint: &Endpoint) {
        for key in &endpoint.keys {
            let mut owners = self.owners(key);
            owners.retain(|owner| owner.id != endpoint.id);
            self.set_owners(key, owners);
        }
        for address in endpoint.addresses() {
            // A newer endpoint may have taken the address over already.
            if self
                .hosts
                .get(&address)
                .is_some_and(|owner| owner.id == endpoint.id)
            {
                self.hosts.remove(&address);
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.names.is_empty() && self.hosts.is_empty()
    }
}

/// All networks at one moment. Clones are cheap; see [`CowMap`].
#[derive(Debug, Clone, Default)]
pub(super) struct Directory {
    zones: CowMap<Id, Arc<Zone>>,
    containers: CowMap<Box<str>, Arc<[Arc<Endpoint>]>>,
}

impl Directory {
    fn insert(&mut self, endpoint: &Arc<Endpoint>) {
        let zone = self.zones.get_or_default(endpoint.network.clone());
        Arc::make_mut(zone).insert(endpoint);
        let mut endpoints = self.endpoints_of(&endpoint.container).to_vec();
        endpoints.push(Arc::clone(endpoint));
        self.containers
            .insert(endpoint.container.clone(), endpoints.into());
    }

    fn remove(&mut self, endpoint: &Endpoint) {
        if let Some(zone) = self.zones.get_mut(&endpoint.network) {
            let zone = Arc::make_mut(zone);
            zone.remove(endpoint);
            if zone.is_empty() {
                self.zones.remove(&endpoint.network);
            }
        }
        let mut endpoints = self.endpoints_of(&endpoint.container).to_vec();
        endpoints.retain(|other| other.id != endpoint.id);
        if endpoints.is_empty() {
            self.containers.remove(&endpoint.container);
        } else {
            self.containers
                .insert(endpoint.container.clone(), endpoints.into());
        }
    }

    fn endpoints_of(&self, container: &str) -> &[Arc<Endpoint>] {
        self.containers
            .get(container)
            .map_or(&[], |endpoints| endpoints)
    }

    /// How many names all networks have together.
    pub(super) fn names(&self) -> usize {
        self.zones.values().map(|zone| zone.names.len()).sum()
    }
}

/// The writer's side: endpoints by id, and the snapshot that results.
#[derive(Debug, Default)]
pub(super) struct Registry {
    endpoints: HashMap<Id, Arc<Endpoint>>,
    directory: Directory,
}

impl Registry {
    /// Adds or replaces an endpoint.
    pub(super) fn upsert(&mut self, endpoint: Endpoint) -> &Directory {
        let endpoint = Arc::new(endpoint);
        let old = self
            .endpoints
            .insert(endpoint.id.clone(), Arc::clone(&endpoint));
        if let Some(old) = old {
            self.directory.remove(&old);
        }
        self.directory.insert(&endpoint);
        &self.directory
    }

    /// Removes an endpoint; an absent one changes nothing.
    pub(super) fn remove(&mut self, id: &Id) -> &Directory {
        if let Some(old) = self.endpoints.remove(id) {
            self.directory.remove(&old);
        }
        &self.directory
    }

    pub(super) fn endpoints(&self) -> usize {
        self.endpoints.len()
    }
}

/// What may be asked of the world outside for this asker.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outside {
    /// Forward to these servers, or to the host's.
    Forward(Option<Arc<[SocketAddr]>>),
    /// All of the asker's networks are internal: for it, what is not here does not exist.
    Nothing,
    /// Not one of ours. Forwarding would make the socket an open resolver.
    Stranger,
}

/// The part of a directory that one asker sees.
pub(super) struct View<'a> {
    directory: &'a Directory,
    network: &'a Id,
    asker: Option<&'a Endpoint>,
}

impl<'a> View<'a> {
    /// The view of `source`, asking at the socket of `network`.
    pub(super) fn new(directory: &'a Directory, network: &'a Id, source: IpAddr) -> Self {
        let zone = directory.zones.get(network);
        let asker = zone
            .and_then(|zone| zone.hosts.get(&source))
            .map(Arc::as_ref);
        Self {
            directory,
            network,
            asker,
        }
    }

    fn endpoints(&self) -> &'a [Arc<Endpoint>] {
        self.asker
            .map_or(&[], |asker| self.directory.endpoints_of(&asker.container))
    }

    /// The network asked at, then the asker's others in the order in which it joined them.
    fn zones(&self) -> impl Iterator<Item = &'a Zone> {
        let others = std::iter::once(())
            .flat_map(|()| self.endpoints())
            .map(|endpoint| &endpoint.network)
            .filter(|&network| network != self.network);
        let zones = std::iter::once(self.network).chain(others);
        zones
            .filter_map(|network| self.directory.zones.get(network))
            .map(Arc::as_ref)
    }

    /// What `name` (lower-cased wire form) stands for on each visible network that has it.
    pub(super) fn addresses(&self, name: &[u8]) -> impl Iterator<Item = &'a Addresses> {
        self.zones()
            .filter_map(move |zone| zone.names.get(name))
            .map(Arc::as_ref)
    }

    /// The name of the visible endpoint that has `address`.
    pub(super) fn pointer(&self, address: IpAddr) -> Option<&'a Name<Vec<u8>>> {
        self.zones()
            .find_map(|zone| zone.hosts.get(&address))?
            .pointer
            .as_ref()
    }

    pub(super) fn outside(&self) -> Outside {
        match self.asker {
            None => Outside::Stranger,
            Some(_) if self.endpoints().iter().all(|endpoint| endpoint.internal) => {
                Outside::Nothing
            }
            Some(asker) => Outside::Forward(asker.upstreams.clone()),
        }
    }
}

#[cfg(test)]
mod tests;
