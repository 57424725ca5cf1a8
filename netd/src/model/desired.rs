//! Everything that should be: the networks and endpoints on record.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use api::id::{Id, IfName};
use api::net::NetworkContainer;
use rpds::RedBlackTreeMapSync;
use sys::netns::NsId;

use super::address::Holders;
use super::driver::ParentUse;
use super::endpoint::{self, Endpoint};
use super::endpoints::Endpoints;
use super::filter::Filter;
use super::forwarding::Forwarding;
use super::ipam::{Taken, TakenBy};
use super::mesh::MeshEnd;
use super::network::Stage;
use super::network::{Network, NetworkError};
use super::observed::Observed;
use super::peer::{Difference, Peer, Peers};
use super::service::{Member, Place, Service};
use super::services::Services;
use super::wireguard::{self, PublicKey};
use crate::bpf::{self, Balanced, Edge, Frontend, Sandbox};

/// A network of the cluster as all nodes know it.
#[derive(Debug, Clone)]
pub(crate) struct Shared {
    pub(crate) network: Arc<Network>,
    /// The revision of the control plane that put it.
    pub(crate) modified: u64,
}

/// A snapshot: cheap to clone, never changed in place once published.
#[derive(Debug, Clone, Default)]
pub(crate) struct Desired {
    pub(crate) networks: BTreeMap<Id, Arc<Network>>,
    pub(crate) endpoints: Endpoints,
    pub(crate) services: Services,
    /// Endpoints of other nodes, by network. A network is absent while it is not known who is
    /// on it.
    pub(crate) peers: BTreeMap<Id, Peers>,
    /// Networks of the cluster, whether or not this node has anything of them.
    pub(crate) cluster: Arc<BTreeMap<Id, Shared>>,
    /// Where each network's resolver listens.
    pub(crate) resolvers: BTreeMap<Id, SocketAddr>,
    /// Where the resolver listens inside each sandbox.
    pub(crate) inside: RedBlackTreeMapSync<NsId, SocketAddr>,
    /// The daemon's own namespace.
    pub(crate) host_cookie: Option<u64>,
    /// XDP of uplinks sends frames to endpoints.
    pub(crate) front: bool,
    /// The interface to backends on other nodes, while there is one.
    pub(crate) mesh_end: Option<MeshEnd>,
    /// What this node is known by on encrypted networks, while it has one.
    pub(crate) key: Option<PublicKey>,
}

impl Desired {
    /// By name, id or unambiguous prefix of an id, in this order. A prefix may be as short as one
    /// digit, as in Docker.
    pub(crate) fn network(&self, key: &str) -> Result<&Arc<Network>, NetworkError> {
        find(self.networks.values(), key)
    }

    /// As [`Self::network`], also of those that this node has nothing of.
    pub(crate) fn any_network(&self, key: &str) -> Result<&Arc<Network>, NetworkError> {
        find(self.all_networks(), key)
    }

    /// Those of this node, and those of the cluster that it has nothing of.
    pub(crate) fn all_networks(&self) -> impl Iterator<Item = &Arc<Network>> + Clone {
        let elsewhere = self.cluster.values().map(|shared| &shared.network);
        let elsewhere = elsewhere.filter(|network| !self.networks.contains_key(&network.id));
        self.networks.values().chain(elsewhere)
    }

    pub(crate) fn endpoints_of(&self, network: &Id) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.endpoints.values().filter(move |e| e.is_on(network))
    }

    /// Ranges that a new network must keep clear of.
    /// The default bridge is ours although it may not be on record yet.
    pub(crate) fn taken(&self, observed: &Observed, default_bridge: &IfName) -> Vec<Taken> {
        let own: BTreeSet<&IfName> = self.bridges().chain([default_bridge]).collect();
        let routes = observed
            .routes
            .iter()
            .filter(|(_, link)| !own.contains(link))
            .map(|(range, link)| Taken {
                range: *range,
                by: TakenBy::Route(link.to_string()),
            });
        self.all_networks()
            .flat_map(|network| network.taken())
            .chain(routes)
            .collect()
    }

    pub(crate) fn bridges(&self) -> impl Iterator<Item = &IfName> {
        self.networks.values().flat_map(|network| network.bridges())
    }

    /// The interfaces that networks are made from.
    pub(crate) fn parents(&self) -> impl Iterator<Item = ParentUse> {
        self.networks.values().filter_map(|n| n.parent_use())
    }

    pub(crate) fn filter(&self) -> Filter {
        let mut filter = Filter::default();
        for network in self.networks.values() {
            network.add_to(&mut filter);
        }
        filter
    }

    /// Where a segment of the network leads to other nodes; nothing while that is not known.
    pub(crate) fn forwarding(&self, network: &Network, segment: usize) -> Option<Forwarding> {
        let peers = self.peers.get(&network.id)?.iter();
        self.leading_to((network, segment), peers.map(|(_key, peer)| &**peer))
    }

    /// The same where something differs alone.
    pub(crate) fn forwarding_near(
        &self,
        network: &Network,
        segment: usize,
        difference: &Difference<'_>,
    ) -> Option<Forwarding> {
        let near = self.peers.get(&network.id)?.near(difference);
        self.leading_to((network, segment), near.into_iter())
    }

    fn leading_to<'p>(
        &self,
        (network, segment): (&Network, usize),
        peers: impl Iterator<Item = &'p Peer>,
    ) -> Option<Forwarding> {
        let overlay = network.driver.overlay()?;
        let here = overlay.tunnel.map(|tunnel| tunnel.local);
        let mut forwarding = Forwarding::default();
        for peer in peers.filter(|peer| network.segment_of_peer(peer) == segment) {
            let Some(at) = peer.at.filter(|at| Some(*at) != here) else {
                continue;
            };
            let at = match overlay.encrypted {
                true => wireguard::address_of(&peer.node).into(),
                false => at,
            };
            if !self.is_here(&network.id, peer) {
                forwarding.add(peer.mac, at, &peer.addresses);
            }
        }
        Some(forwarding)
    }

    /// The networks whose endpoints on other nodes this one has to know: its own, and those of the
    /// services whose ports it answers for.
    pub(crate) fn followed(&self) -> BTreeSet<Id> {
        let own = self
            .networks
            .values()
            .filter(|n| n.driver.overlay().is_some());
        let published = self.services.values().filter(|s| s.is_published());
        let of_services = published.flat_map(|service| &service.places);
        own.map(|network| &network.id)
            .chain(of_services.map(|place| &place.network))
            .cloned()
            .collect()
    }

    /// Whether any bridge carries IPv6.
    pub(crate) fn has_ipv6(&self) -> bool {
        let mut bridges = self.networks.values().filter(|n| n.bridge().is_some());
        bridges.any(|network| network.ipv6)
    }

    pub(crate) fn published(&self) -> BTreeMap<Frontend, SocketAddr> {
        self.endpoints
            .values()
            .flat_map(|endpoint| endpoint.frontends())
            .collect()
    }

    pub(crate) fn holders(&self) -> Holders<'_> {
        Holders {
            endpoints: &self.endpoints,
            services: &self.services,
            peers: &self.peers,
        }
    }

    /// The members of a service that are here, in the order in which they joined.
    pub(crate) fn members_here<'a>(
        &'a self,
        service: &'a Id,
    ) -> impl Iterator<Item = &'a Arc<Endpoint>> {
        let endpoints = self.endpoints.in_service(service);
        endpoints.filter(|endpoint| endpoint.stage != Stage::Removing)
    }

    /// All members: those that are here, then those on other nodes.
    pub(crate) fn members<'a>(&'a self, service: &'a Id) -> impl Iterator<Item = Member<'a>> {
        let here = self.members_here(service).filter_map(|endpoint| {
            let part = endpoint.membership(service)?;
            Some(Member::here(endpoint, part))
        });
        let found = self.services.get(service).filter(|s| s.shared.is_some());
        let places = found.into_iter().flat_map(|service| &service.places);
        let elsewhere = places.flat_map(|place| {
            let network = &place.network;
            let peers = self.peers.get(network).into_iter();
            peers
                .flat_map(|peers| peers.in_service(service))
                .filter(|(peer, _part)| !self.is_here(network, peer))
                .map(move |(peer, part)| Member::elsewhere(network, peer, part))
        });
        here.chain(elsewhere)
    }

    /// What has an address here is not elsewhere.
    fn is_here(&self, network: &Id, peer: &Peer) -> bool {
        let mut addresses = peer.addresses.iter();
        addresses.any(|address| self.endpoints.holder(network, *address).is_some())
    }

    /// What the data plane is to know of one service; nothing when there is no such service.
    pub(crate) fn balanced_of(&self, service: &Id) -> BTreeMap<u64, Balanced> {
        let service = self.services.get(service);
        let is_there = |service: &&Arc<Service>| service.stage != Stage::Removing;
        let entries = service.filter(is_there).map(|service| {
            let members: Vec<Member<'_>> = self.members(&service.id).collect();
            let is_here = |place: &Place| self.networks.contains_key(&place.network);
            service.balanced(&members, self.mesh_end, is_here)
        });
        entries.unwrap_or_default()
    }

    pub(crate) fn balanced(&self) -> BTreeMap<u64, Balanced> {
        let services = self.services.values();
        services
            .flat_map(|service| self.balanced_of(&service.id))
            .collect()
    }

    /// What the socket hooks are to know of each namespace, by its cookie.
    pub(crate) fn sandboxes(&self) -> BTreeMap<u64, Sandbox> {
        let mut in_order: Vec<&Arc<Endpoint>> = self.endpoints.values().collect();
        in_order.sort_by_key(|endpoint| self.resolver_rank(endpoint));
        let mut sandboxes = BTreeMap::new();
        for endpoint in in_order {
            let Some(cookie) = endpoint.sandbox.cookie else {
                continue;
            };
            let sandbox = sandboxes.entry(cookie).or_insert(Sandbox {
                apart: true,
                ..Sandbox::default()
            });
            sandbox.apart &= !self.reaches_ports(endpoint);
            sandbox.dns = sandbox.dns.or_else(|| self.resolver(endpoint));
            sandbox.dns_inside = self.inside_of(&endpoint.sandbox);
        }
        for sandbox in sandboxes.values_mut() {
            sandbox.dns = sandbox.dns.or(sandbox.dns_inside);
        }
        if let Some(cookie) = self.host_cookie {
            sandboxes.insert(cookie, Sandbox::HOST);
        }
        sandboxes
    }

    /// What the socket hooks are to know of one namespace; nothing when it has no endpoint. A
    /// sandbox asks the resolver of the first network it joined that has names, or else that of
    /// the default network, which only forwards. Where no network has a gateway, as with macvlan,
    /// it is the one inside, which knows all the networks of the sandbox.
    pub(crate) fn sandbox(&self, sandbox: &endpoint::Sandbox) -> Option<Sandbox> {
        let mut endpoints: Vec<&Arc<Endpoint>> = self.endpoints.in_sandbox(sandbox).collect();
        endpoints.sort_by_key(|endpoint| self.resolver_rank(endpoint));
        endpoints.first()?;
        let inside = self.inside_of(sandbox);
        let apart = !endpoints.iter().any(|e| self.reaches_ports(e));
        let dns = endpoints.into_iter().find_map(|e| self.resolver(e));
        Some(Sandbox {
            host: false,
            apart,
            dns: dns.or(inside),
            dns_inside: inside,
        })
    }

    /// What the program at the endpoint's link is to know; nothing where there is no link.
    pub(crate) fn edge(&self, endpoint: &Endpoint) -> Option<(IfName, Edge)> {
        let attachment = &endpoint.attachment;
        let network = self.networks.get(&attachment.network_id)?;
        let bridge = network.bridge()?;
        let mut edge = Edge {
            mac: attachment.mac?,
            v4: None,
            v6: None,
            checked: bridge.spoof_check,
            network: bpf::network_number(&network.id),
            direct_mtu: Self::direct_mtu(network, endpoint),
            resolver: match self.resolver(endpoint) {
                Some(SocketAddr::V4(resolver)) if network.has_names() => Some(resolver),
                _ => None,
            },
        };
        for address in endpoint.addresses() {
            match address {
                IpAddr::V4(address) => edge.v4 = edge.v4.or(Some(address)),
                IpAddr::V6(address) => edge.v6 = edge.v6.or(Some(address)),
            }
        }
        Some((attachment.host_ifname.clone()?, edge))
    }

    /// The MTU of the endpoint's link, where nothing waits for packets on the way through the host's
    /// stack but what the host itself has there: no token bucket, and no rule of ours that keeps an
    /// internal network to itself.
    fn direct_mtu(network: &Network, endpoint: &Endpoint) -> Option<u16> {
        let attachment = &endpoint.attachment;
        let limits = attachment.bandwidth.unwrap_or_default();
        let is_limited = limits.ingress_rate > 0 || limits.egress_rate > 0;
        if network.internal || is_limited {
            return None;
        }
        u16::try_from(attachment.mtu).ok()
    }

    pub(crate) fn edges(&self) -> BTreeMap<IfName, Edge> {
        let endpoints = self.endpoints.values();
        endpoints
            .filter_map(|endpoint| self.edge(endpoint))
            .collect()
    }

    fn inside_of(&self, sandbox: &endpoint::Sandbox) -> Option<SocketAddr> {
        self.inside.get(&sandbox.id()).copied()
    }

    /// Whether the endpoint's network reaches the containers behind published ports: what the hooks
    /// rewrite would lead nowhere from a network that the host has no part in.
    fn reaches_ports(&self, endpoint: &Endpoint) -> bool {
        let network = self.networks.get(&endpoint.attachment.network_id);
        network.is_some_and(|network| network.driver.parent().is_none())
    }

    fn resolver_rank(&self, endpoint: &Endpoint) -> (bool, u64) {
        let network = self.networks.get(&endpoint.attachment.network_id);
        (!network.is_some_and(|n| n.has_names()), endpoint.order)
    }

    /// Where the network's resolver listens on the host, if 127.0.0.11 can lead there.
    fn resolver(&self, endpoint: &Endpoint) -> Option<SocketAddr> {
        let network = self.networks.get(&endpoint.attachment.network_id)?;
        let resolver = self.resolvers.get(&network.id).copied();
        resolver.filter(|_| !network.needs_sandbox_resolver())
    }

    /// The `Containers` member of a network's API object.
    pub(crate) fn containers(&self, network: &Id) -> BTreeMap<String, NetworkContainer> {
        self.endpoints_of(network)
            .map(|endpoint| {
                let attachment = &endpoint.attachment;
                let address = |v6: bool| {
                    attachment
                        .addresses
                        .iter()
                        .find(|a| a.address.addr().is_ipv6() == v6)
                        .map(|a| a.address.to_string())
                        .unwrap_or_default()
                };
                let container = NetworkContainer {
                    name: endpoint.display_name().to_owned(),
                    endpoint_id: attachment.endpoint_id.clone(),
                    mac_address: attachment
                        .mac
                        .map(|mac| mac.to_string())
                        .unwrap_or_default(),
                    ipv4_address: address(false),
                    ipv6_address: address(true),
                };
                (attachment.container_id.clone(), container)
            })
            .collect()
    }
}

fn find<'a>(
    networks: impl Iterator<Item = &'a Arc<Network>> + Clone,
    key: &str,
) -> Result<&'a Arc<Network>, NetworkError> {
    let not_found = || NetworkError::NotFound(key.chars().take(64).collect());
    if let Some(network) = networks.clone().find(|n| n.name.as_str() == key) {
        return Ok(network);
    }
    if key.is_empty() {
        return Err(not_found());
    }
    let matching: Vec<&Arc<Network>> = networks
        .filter(|network| network.id.as_str().starts_with(key))
        .collect();
    match matching.as_slice() {
        [network] => Ok(network),
        [] => Err(not_found()),
        several => Err(NetworkError::ambiguous(key, several)),
    }
}
