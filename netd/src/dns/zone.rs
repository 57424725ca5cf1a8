//! Who is called what, and who may know: pure data, no clock, no I/O.
//!
//! A [`Directory`] is one immutable snapshot of all networks. Each network has a [`Zone`]: its
//! names, and the endpoint behind each address. A [`View`] is what one asker sees of it.
//!
//! **Invariant:** a name is visible iff the asker's sandbox has an endpoint on the name's network.
//! The asker is known by the socket inside its sandbox, or by its source address on the network
//! whose socket it used; an unknown source sees that network only and is never forwarded for.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use api::id::{Id, NetworkName};
use api::net::{PortBinding, Protocol};
use domain::base::Name;
use sys::netns::NsId;

use super::NamedEndpoint;
use super::cow::CowMap;
use super::dial::{Origin, Servers};
use super::name;

const DNS_PORT: u16 = 53;
/// Where sandboxes believe their resolver to be. As an upstream it would mean ourselves.
const STUB: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 11));

/// Whose socket a query came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Seat {
    /// On a network's gateway; the source address tells who asks.
    Network(Id),
    /// Inside a sandbox, which nobody else can reach.
    Sandbox(NsId),
}

/// A [`NamedEndpoint`] made ready to be answered from.
#[derive(Debug)]
pub(super) struct Endpoint {
    id: Id,
    network: Id,
    container: Box<str>,
    sandbox: NsId,
    order: u64,
    v4: Box<[Ipv4Addr]>,
    v6: Box<[Ipv6Addr]>,
    /// Every name it answers to, lower-cased wire form, no duplicates.
    keys: Box<[Arc<[u8]>]>,
    /// `name.network`, the answer to a reverse lookup.
    pointer: Option<Name<Vec<u8>>>,
    ports: Box<[PortBinding]>,
    links: Box<[Link]>,
    upstreams: Option<Servers>,
    internal: bool,
}

/// A name that one endpoint alone knows another container by.
#[derive(Debug)]
struct Link {
    keys: Vec<Arc<[u8]>>,
    /// The linked container's id, or its name on the network.
    container: Box<str>,
    name: Option<Arc<[u8]>>,
}

impl Link {
    fn new(link: &api::net::Link, network: &NetworkName) -> Self {
        Self {
            keys: keys(&link.alias, network).collect(),
            name: key(&link.container),
            container: link.container.as_str().into(),
        }
    }
}

impl Endpoint {
    /// Also returns the names that are no domain names and so resolve nowhere.
    pub(super) fn new(named: NamedEndpoint) -> (Self, Vec<String>) {
        let network = &named.network_name;
        let (names, rejected): (Vec<String>, _) = named
            .names
            .into_iter()
            .partition(|name| key(name).is_some());
        let mut keys: Vec<Arc<[u8]>> = names.iter().flat_map(|name| keys(name, network)).collect();
        keys.sort_unstable();
        keys.dedup();
        let pointer = names.first().and_then(|name| pointer(name, network));
        let links = named.links.iter().map(|link| Link::new(link, network));
        let endpoint = Self {
            id: named.endpoint,
            network: named.network,
            container: named.container_id.into(),
            sandbox: named.sandbox,
            order: named.order,
            v4: named.addresses.iter().filter_map(|a| v4(*a)).collect(),
            v6: named.addresses.iter().filter_map(|a| v6(*a)).collect(),
            keys: keys.into(),
            pointer,
            ports: named.ports.into(),
            links: links.collect(),
            upstreams: own_servers(named.sandbox, &named.upstreams),
            internal: named.internal,
        };
        (endpoint, rejected)
    }

    fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let v4 = self.v4.iter().copied().map(IpAddr::V4);
        v4.chain(self.v6.iter().copied().map(IpAddr::V6))
    }

    /// What a service record of the endpoint points at, if it publishes the port.
    pub(super) fn service(&self, protocol: Protocol, port: u16) -> Option<&Name<Vec<u8>>> {
        let published = self.ports.iter().any(|binding| {
            let offset = port.checked_sub(binding.container_port);
            binding.protocol == protocol && offset.is_some_and(|offset| offset < binding.count)
        });
        self.pointer.as_ref().filter(|_target| published)
    }
}

/// The servers asked for with the endpoint, which are asked from inside its sandbox.
fn own_servers(sandbox: NsId, upstreams: &[IpAddr]) -> Option<Servers> {
    let addresses: Arc<[SocketAddr]> = upstreams
        .iter()
        .filter(|&&server| server != STUB)
        .map(|&server| SocketAddr::new(server, DNS_PORT))
        .collect();
    let origin = Origin::Sandbox(sandbox);
    (!addresses.is_empty()).then_some(Servers { origin, addresses })
}

/// The key of a dotted name.
fn key(name: &str) -> Option<Arc<[u8]>> {
    let mut wire = name::encode(name)?;
    wire.make_ascii_lowercase();
    Some(wire.into())
}

/// The keys of a name by itself and followed by its network's.
fn keys(name: &str, network: &NetworkName) -> impl Iterator<Item = Arc<[u8]>> {
    let qualified = key(&format!("{name}.{network}"));
    key(name).into_iter().chain(qualified)
}

fn pointer(name: &str, network: &NetworkName) -> Option<Name<Vec<u8>>> {
    Name::from_octets(name::encode(&format!("{name}.{network}"))?).ok()
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

impl Addresses {
    pub(super) fn owners(&self) -> impl Iterator<Item = &Endpoint> {
        self.owners.iter().map(Arc::as_ref)
    }
}

type Owned<K> = CowMap<K, Arc<Addresses>>;

fn enrol<K, Q>(map: &mut Owned<K>, key: &Q, owned: impl FnOnce() -> K, endpoint: &Arc<Endpoint>)
where
    K: Borrow<Q> + Hash + Eq + Clone,
    Q: Hash + Eq + ?Sized,
{
    let mut owners = map
        .get(key)
        .map_or_else(Vec::new, |found| found.owners.clone());
    owners.push(Arc::clone(endpoint));
    map.insert(owned(), Arc::new(Addresses::of(owners)));
}

fn strike<K, Q>(map: &mut Owned<K>, key: &Q, owned: impl FnOnce() -> K, endpoint: &Endpoint)
where
    K: Borrow<Q> + Hash + Eq + Clone,
    Q: Hash + Eq + ?Sized,
{
    let Some(found) = map.get(key) else { return };
    let mut owners = found.owners.clone();
    owners.retain(|owner| owner.id != endpoint.id);
    if owners.is_empty() {
        map.remove(key);
    } else {
        map.insert(owned(), Arc::new(Addresses::of(owners)));
    }
}

/// One network's names.
#[derive(Debug, Clone, Default)]
struct Zone {
    names: Owned<Arc<[u8]>>,
    hosts: CowMap<IpAddr, Arc<Endpoint>>,
    /// For links, which know a container by its id.
    containers: Owned<Box<str>>,
}

impl Zone {
    fn insert(&mut self, endpoint: &Arc<Endpoint>) {
        for key in &endpoint.keys {
            enrol(&mut self.names, key.as_ref(), || Arc::clone(key), endpoint);
        }
        let container = &endpoint.container;
        let owned = || container.clone();
        enrol(&mut self.containers, container.as_ref(), owned, endpoint);
        for address in endpoint.addresses() {
            self.hosts.insert(address, Arc::clone(endpoint));
        }
    }

    fn remove(&mut self, endpoint: &Endpoint) {
        for key in &endpoint.keys {
            strike(&mut self.names, key.as_ref(), || Arc::clone(key), endpoint);
        }
        let container = &endpoint.container;
        let owned = || container.clone();
        strike(&mut self.containers, container.as_ref(), owned, endpoint);
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

    fn linked(&self, link: &Link) -> Option<&Arc<Addresses>> {
        let by_id = self.containers.get(link.container.as_ref());
        by_id.or_else(|| self.names.get(link.name.as_deref()?))
    }

    fn is_empty(&self) -> bool {
        self.containers.is_empty()
    }
}

/// All networks at one moment. Clones are cheap; see [`CowMap`].
#[derive(Debug, Clone, Default)]
pub(super) struct Directory {
    zones: CowMap<Id, Arc<Zone>>,
    /// Each in the order in which it joined its networks.
    sandboxes: CowMap<NsId, Arc<[Arc<Endpoint>]>>,
}

impl Directory {
    fn insert(&mut self, endpoint: &Arc<Endpoint>) {
        let zone = self.zones.get_or_default(endpoint.network.clone());
        Arc::make_mut(zone).insert(endpoint);
        let mut endpoints = self.endpoints_of(endpoint.sandbox).to_vec();
        endpoints.push(Arc::clone(endpoint));
        endpoints.sort_by_key(|endpoint| endpoint.order);
        self.sandboxes.insert(endpoint.sandbox, endpoints.into());
    }

    fn remove(&mut self, endpoint: &Endpoint) {
        if let Some(zone) = self.zones.get_mut(&endpoint.network) {
            let zone = Arc::make_mut(zone);
            zone.remove(endpoint);
            if zone.is_empty() {
                self.zones.remove(&endpoint.network);
            }
        }
        let mut endpoints = self.endpoints_of(endpoint.sandbox).to_vec();
        endpoints.retain(|other| other.id != endpoint.id);
        if endpoints.is_empty() {
            self.sandboxes.remove(&endpoint.sandbox);
        } else {
            self.sandboxes.insert(endpoint.sandbox, endpoints.into());
        }
    }

    fn endpoints_of(&self, sandbox: NsId) -> &[Arc<Endpoint>] {
        let endpoints = self.sandboxes.get(&sandbox);
        endpoints.map_or(&[], |endpoints| endpoints)
    }

    fn zone(&self, network: &Id) -> Option<&Zone> {
        self.zones.get(network).map(Arc::as_ref)
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
    Forward(Option<Servers>),
    /// All of the asker's networks are internal: for it, what is not here does not exist.
    Nothing,
    /// Not one of ours. Forwarding would make the socket an open resolver.
    Stranger,
}

/// The part of a directory that one asker sees.
pub(super) struct View<'a> {
    directory: &'a Directory,
    /// The network asked at.
    network: Option<&'a Id>,
    /// The asker's, in the order in which it joined their networks; none for a stranger.
    endpoints: &'a [Arc<Endpoint>],
}

impl<'a> View<'a> {
    /// The view of `source`, asking at the socket of `seat`.
    pub(super) fn new(directory: &'a Directory, seat: &'a Seat, source: IpAddr) -> Self {
        let (network, sandbox) = match seat {
            Seat::Sandbox(sandbox) => (None, Some(*sandbox)),
            Seat::Network(network) => {
                let zone = directory.zones.get(network);
                let asker = zone.and_then(|zone| zone.hosts.get(&source));
                (Some(network), asker.map(|asker| asker.sandbox))
            }
        };
        Self {
            directory,
            network,
            endpoints: sandbox.map_or(&[], |sandbox| directory.endpoints_of(sandbox)),
        }
    }

    /// The network asked at, then the asker's others in the order in which it joined them.
    fn zones(&self) -> impl Iterator<Item = &'a Zone> {
        let (directory, first) = (self.directory, self.network);
        let others = self.endpoints.iter().map(|endpoint| &endpoint.network);
        let others = others.filter(move |&network| Some(network) != first);
        let networks = first.into_iter().chain(others);
        networks.filter_map(|network| directory.zone(network))
    }

    /// What `name` (lower-cased wire form) stands for on each visible network that has it. What
    /// the asker itself calls somebody comes before what everybody does.
    pub(super) fn addresses(&self, name: &[u8]) -> impl Iterator<Item = &'a Addresses> {
        let public = self.zones().filter_map(move |zone| zone.names.get(name));
        self.linked(name).chain(public).map(Arc::as_ref)
    }

    fn linked(&self, name: &[u8]) -> impl Iterator<Item = &'a Arc<Addresses>> {
        let directory = self.directory;
        self.endpoints.iter().flat_map(move |endpoint| {
            let links = endpoint.links.iter();
            links
                .filter(move |link| link.keys.iter().any(|key| **key == *name))
                .filter_map(move |link| directory.zone(&endpoint.network)?.linked(link))
        })
    }

    /// The name of the visible endpoint that has `address`.
    pub(super) fn pointer(&self, address: IpAddr) -> Option<&'a Name<Vec<u8>>> {
        self.zones()
            .find_map(|zone| zone.hosts.get(&address))?
            .pointer
            .as_ref()
    }

    pub(super) fn outside(&self) -> Outside {
        if self.endpoints.is_empty() {
            return Outside::Stranger;
        }
        if self.endpoints.iter().all(|endpoint| endpoint.internal) {
            return Outside::Nothing;
        }
        let own = self.endpoints.iter().find_map(|e| e.upstreams.clone());
        Outside::Forward(own)
    }
}

mod facts;
#[cfg(test)]
mod tests;
