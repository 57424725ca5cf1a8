//! Networks: checking a request, and the record that is kept.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use api::id::{Id, IfName, InvalidId, NetworkName, NodeId};
use api::net::{ConfigFrom, Ipam, NetworkContainer, NetworkCreate, PortBinding};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::driver::{
    Bridge, Driver, DriverError, GatewayMode, Made, Options, ParentUse, Sharing, Surroundings,
    Tunnel, VXLAN_IDS,
};
use super::endpoint::Endpoint;
use super::filter::Filter;
use super::ipam::{IpamError, Pool, Taken, TakenBy};
use super::observed::{Link, Observed};
use super::published::Routed;
use super::subnet::{Subnet, SubnetError};
use super::subnets;
use super::wireguard;

/// Name of the network that containers are attached to unless told otherwise.
pub(crate) const DEFAULT: &str = "bridge";
/// The network of the cluster's services that name none.
pub(crate) const INGRESS: &str = "ingress";
const PREDEFINED: [&str; 3] = [DEFAULT, "host", "none"];

/// How far a change of the kernel has come. What is not committed at start is undone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Stage {
    /// Recorded; the kernel's part may be there, in part or not at all.
    Pending,
    Committed,
    /// Being removed.
    Removing,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Network {
    pub(crate) id: Id,
    pub(crate) name: NetworkName,
    pub(crate) stage: Stage,
    /// RFC 3339 with nanoseconds.
    pub(crate) created: String,
    pub(crate) driver: Driver,
    pub(crate) ipv6: bool,
    pub(crate) internal: bool,
    pub(crate) attachable: bool,
    pub(crate) subnets: Vec<Subnet>,
    /// As given, for listings.
    pub(crate) options: BTreeMap<String, String>,
    pub(crate) labels: BTreeMap<String, String>,
    /// Whether an endpoint has had a link address that does not follow from its addresses: neighbours
    /// may remember it for an address that is given out again. Older records do not say.
    #[serde(default = "yes")]
    pub(crate) other_macs: bool,
}

fn yes() -> bool {
    true
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    #[error(transparent)]
    Name(#[from] InvalidId),
    #[error("network with name {0} already exists")]
    Exists(NetworkName),
    #[error("network {0} not found")]
    NotFound(String),
    #[error("network {key} is ambiguous: the ids of {matches} begin with it, give more of the id")]
    Ambiguous { key: String, matches: String },
    #[error("network {0} is pre-defined and cannot be removed")]
    Predefined(NetworkName),
    #[error("network {name} is in use by container {containers}: disconnect or remove it first")]
    InUse {
        name: NetworkName,
        containers: String,
    },
    #[error("network {name} is still in use by {tasks}: they are ending, try again")]
    Ending { name: NetworkName, tasks: String },
    #[error(
        "network {name} is in use by service {service}: remove the service, or take it off the network \
         with hawser service update --network-rm"
    )]
    HasService { name: NetworkName, service: String },
    #[error("invalid time {0:?} of filter until: expected RFC 3339, such as 2026-01-02T03:04:05Z")]
    Until(String),
    #[error(transparent)]
    Driver(#[from] DriverError),
    #[error("unknown IPAM driver {0:?}: expected default")]
    IpamDriver(String),
    #[error("unknown IPAM option {0:?}: the default IPAM driver has none")]
    IpamOption(String),
    #[error(transparent)]
    Subnet(#[from] SubnetError),
    #[error(transparent)]
    Ipam(#[from] IpamError),
    #[error("interface {0} exists already: choose another bridge name")]
    LinkExists(IfName),
    #[error("bridge {link} is that of network {network} already: choose another bridge name")]
    BridgeTaken { link: IfName, network: NetworkName },
    #[error("network {0} has neither IPv4 nor IPv6: enable one of them")]
    NoFamily(String),
    #[error(
        "{v4} subnets of IPv4 and {v6} of IPv6: an overlay network has as many of either, because each \
         pair is a segment"
    )]
    Unpaired { v4: usize, v6: usize },
    #[error("subnet {subnet} is given, but {family} is disabled: drop one of them")]
    FamilyDisabled { subnet: IpNet, family: &'static str },
}

impl NetworkError {
    /// Of several networks with ids that begin with `key`: names the first ones.
    pub(crate) fn ambiguous(key: &str, networks: &[&Arc<Network>]) -> Self {
        const NAMED: usize = 5;
        let mut matches: Vec<String> = networks
            .iter()
            .take(NAMED)
            .map(|network| format!("{} ({})", network.name, network.id.short()))
            .collect();
        if networks.len() > NAMED {
            matches.push(format!("{} more", networks.len() - NAMED));
        }
        let last = matches.pop().unwrap_or_default();
        Self::Ambiguous {
            key: key.to_owned(),
            matches: format!("{} and {last}", matches.join(", ")),
        }
    }
}

/// Whether a container, of which more may be said behind its name, is called as agents call those of
/// tasks: `SERVICE.SLOT.TASK`.
fn is_task(container: &str) -> bool {
    const TASK_ID: usize = 25;
    let name = container.split(' ').next().unwrap_or_default();
    let parts: Vec<&str> = name.split('.').collect();
    let [_service, _slot, task] = parts[..] else {
        return false;
    };
    let is_digit = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    task.len() == TASK_ID && task.bytes().all(is_digit)
}

/// What the world adds to a request.
#[derive(Debug)]
pub(crate) struct NewNetwork<'a> {
    pub(crate) id: Id,
    pub(crate) created: String,
    pub(crate) random: [u8; 5],
    /// Of networks that ask for none and have no parent.
    pub(crate) mtu: u32,
    /// Links of the host.
    pub(crate) links: &'a BTreeMap<IfName, Link>,
    /// Interfaces that other networks are made from.
    pub(crate) parents: &'a [ParentUse],
    pub(crate) pools: &'a [Pool],
    /// VXLAN network numbers of other networks.
    pub(crate) vnis: &'a BTreeSet<u32>,
    /// Networks and host routes to keep clear of.
    pub(crate) taken: &'a [Taken],
}

impl Network {
    /// Checks `request` and fills in what it leaves open.
    pub(crate) fn create(
        request: NetworkCreate,
        new: NewNetwork<'_>,
    ) -> Result<Self, NetworkError> {
        let name = NetworkName::parse(&request.name)?;
        let given = Options(&request.options);
        let around = Surroundings {
            id: &new.id,
            mtu: new.mtu,
            links: new.links,
            parents: new.parents,
            vnis: new.vnis,
            internal: request.internal,
            segments: subnets::of_one_family(&request),
        };
        let driver = Driver::parse(&request.driver, &given, &around)?;
        check_ipam(&request.ipam)?;
        let subnets = subnets::choose(&request, &driver, &new)?;
        let mut options = request.options;
        if let Some(overlay) = driver.overlay() {
            let vnis: Vec<String> = overlay.segments().map(|s| s.vni.to_string()).collect();
            options.insert(VXLAN_IDS.to_owned(), vnis.join(","));
        }
        Ok(Self {
            id: new.id,
            name,
            stage: Stage::Pending,
            created: new.created,
            driver,
            ipv6: subnets.iter().any(|s| s.subnet.addr().is_ipv6()),
            internal: request.internal,
            attachable: request.attachable,
            subnets,
            options,
            labels: request.labels,
            other_macs: false,
        })
    }

    /// What this node makes of a network of the cluster.
    pub(crate) fn extended(
        &self,
        (node, tunnel): (&NodeId, Option<Tunnel>),
        observed: &Observed,
        configured: Option<u32>,
    ) -> Self {
        let mut network = self.clone();
        network.stage = Stage::Pending;
        // Nobody here knows what endpoints of other nodes have had.
        network.other_macs = true;
        network.retunnel(node, tunnel);
        if let Some(mtu) = network.due_mtu(observed, configured) {
            network.driver.follow_mtu(mtu);
        }
        network
    }

    /// Lets the network's tunnels begin elsewhere; whether that is a change.
    pub(crate) fn retunnel(&mut self, node: &NodeId, tunnel: Option<Tunnel>) -> bool {
        let Driver::Overlay(overlay) = &mut self.driver else {
            return false;
        };
        let leads = overlay.encrypted && tunnel.is_some();
        let ends = (tunnel, leads.then(|| wireguard::address_of(node)));
        let before = (overlay.tunnel, overlay.inner);
        (overlay.tunnel, overlay.inner) = ends;
        before != ends
    }

    /// `host` or `none`.
    pub(crate) fn without_links(
        id: Id,
        name: NetworkName,
        created: String,
        driver: Driver,
    ) -> Self {
        Self {
            id,
            name,
            stage: Stage::Committed,
            created,
            driver,
            ipv6: false,
            internal: false,
            attachable: false,
            subnets: Vec::new(),
            options: BTreeMap::new(),
            labels: BTreeMap::new(),
            other_macs: false,
        }
    }

    pub(crate) fn is_predefined(&self) -> bool {
        PREDEFINED.contains(&self.name.as_str())
    }

    /// Of a network that carries no service.
    ///
    /// # Errors
    /// [`NetworkError::InUse`] naming the containers, however many only the first ones;
    /// [`NetworkError::Ending`] where only tasks are left, whose service has gone.
    pub(crate) fn check_unused<'a>(
        &self,
        containers: impl Iterator<Item = &'a str>,
    ) -> Result<(), NetworkError> {
        const NAMED: usize = 10;
        let containers: Vec<&str> = containers.collect();
        let (named, more) = containers.split_at(containers.len().min(NAMED));
        let list = match (named, more) {
            ([], _) => return Ok(()),
            (named, []) => named.join(", "),
            (named, more) => format!("{} and {} more", named.join(", "), more.len()),
        };
        let name = self.name.clone();
        Err(match containers.into_iter().all(is_task) {
            true => NetworkError::Ending { name, tasks: list },
            false => NetworkError::InUse {
                name,
                containers: list,
            },
        })
    }

    /// What the user should know of a network that works all the same.
    pub(crate) fn warning(&self, observed: &Observed) -> Option<String> {
        let parent = self.driver.parent()?;
        if parent.made == Some(Made::Dummy) {
            return Some(
                "no parent interface was named: the containers reach each other and nothing else"
                    .to_owned(),
            );
        }
        let below = match &parent.made {
            Some(Made::Vlan { base, .. }) => base,
            _ => &parent.link,
        };
        let link = observed.links.get(below)?;
        (!link.up).then(|| {
            format!("interface {below} is down: containers have no connection until it is up")
        })
    }

    /// Names resolve on every network but the default one, as in Docker.
    pub(crate) fn has_names(&self) -> bool {
        self.driver.has_endpoints() && !self.is_default()
    }

    fn is_default(&self) -> bool {
        self.name.as_str() == DEFAULT
    }

    /// Whether sandboxes cannot reach a resolver on the host by 127.0.0.11: the host has no IPv4
    /// address on the network, so that only a socket inside the sandbox can answer there.
    pub(crate) fn needs_sandbox_resolver(&self) -> bool {
        self.driver.has_endpoints() && !self.gateways().any(|gateway| gateway.addr().is_ipv4())
    }

    /// Each address of an endpoint on this network, with the subnet it is from.
    pub(crate) fn subnets_of(&self, endpoint: &Endpoint) -> impl Iterator<Item = (IpNet, IpAddr)> {
        endpoint.addresses().filter_map(|address| {
            let mut subnets = self.subnets.iter().map(|s| s.subnet);
            Some((subnets.find(|s| s.contains(&address))?, address))
        })
    }

    /// The published ports, on the network's address of the host where they name none.
    fn bind(&self, ports: &[PortBinding]) -> Vec<PortBinding> {
        let address = self.bridge().and_then(|bridge| bridge.host_binding);
        let bind = |port: &PortBinding| PortBinding {
            host_ip: port.host_ip.or(address.map(IpAddr::from)),
            ..*port
        };
        ports.iter().map(bind).collect()
    }

    /// Those of `ports` that take ports of the host, and those that answer on the container's
    /// address alone.
    pub(crate) fn split_ports(
        &self,
        ports: &[PortBinding],
    ) -> (Vec<PortBinding>, Vec<PortBinding>) {
        let (v4, v6, routed) = (self.has(false), self.has(true), self.routed());
        let bound = self.bind(ports);
        bound
            .iter()
            .flat_map(|port| routed.by_family(port))
            .partition(|port| routed.needs_host_port(port, v4, v6))
    }

    fn has(&self, v6: bool) -> bool {
        self.subnets.iter().any(|subnet| subnet.is_ipv6() == v6)
    }

    /// The families in which the world knows the containers' own addresses.
    pub(crate) fn routed(&self) -> Routed {
        let is_routed = |v6: bool| {
            let mode = self.bridge().map(|bridge| bridge.gateway_mode(v6));
            mode == Some(GatewayMode::Routed) && self.has(v6)
        };
        Routed {
            v4: is_routed(false),
            v6: is_routed(true),
        }
    }

    pub(crate) fn bridge(&self) -> Option<&Bridge> {
        self.driver.bridge()
    }

    /// The gateways that the bridges are: the host's addresses on the network.
    pub(crate) fn gateways(&self) -> impl Iterator<Item = IpNet> {
        let bridge = self.bridge();
        let gateways = self.subnets.iter().map(Subnet::gateway_net);
        gateways
            .filter(move |gateway| bridge.is_some_and(|b| b.is_gateway(gateway.addr().is_ipv6())))
    }

    /// The first gateway of IPv4 that the bridge is, or of IPv6 where there is none.
    pub(crate) fn first_gateway(&self) -> Option<IpAddr> {
        let mut gateways: Vec<IpAddr> = self.gateways().map(|gateway| gateway.addr()).collect();
        gateways.sort_by_key(IpAddr::is_ipv6);
        gateways.first().copied()
    }

    /// Whether containers have a way out by a gateway of a family.
    pub(crate) fn has_way_out(&self, v6: bool) -> bool {
        let isolated = self
            .bridge()
            .is_some_and(|bridge| bridge.gateway_mode(v6) == GatewayMode::Isolated);
        !self.internal && !isolated
    }

    /// The interface that endpoints are made from, as other networks must respect it.
    pub(crate) fn parent_use(&self) -> Option<ParentUse> {
        let sharing = match &self.driver {
            Driver::Macvlan(macvlan) => Sharing::Macvlan { mode: macvlan.mode },
            Driver::Ipvlan(ipvlan) => Sharing::Ipvlan {
                mode: ipvlan.mode,
                flag: ipvlan.flag,
            },
            Driver::Bridge(_) | Driver::Overlay(_) | Driver::Host | Driver::Null | Driver::Pool => {
                return None;
            }
        };
        Some(ParentUse {
            network: self.name.clone(),
            parent: self.driver.parent()?.clone(),
            sharing,
        })
    }

    pub(crate) fn taken(&self) -> impl Iterator<Item = Taken> {
        self.subnets.iter().map(|subnet| Taken {
            range: subnet.subnet,
            by: TakenBy::Network(self.name.to_string()),
        })
    }

    /// The MTU of the underlay, if this network's links are to follow it and do not yet.
    pub(crate) fn due_mtu(&self, observed: &Observed, configured: Option<u32>) -> Option<u32> {
        let mtu = self.driver.mtu().filter(|mtu| !mtu.fixed)?;
        let underlay = match (self.driver.parent(), self.driver.overlay()) {
            (Some(parent), _) => observed.links.get(&parent.link).map(|link| link.mtu),
            (None, Some(overlay)) => overlay.mtu(observed, configured),
            (None, None) => configured.or(observed.underlay_mtu),
        };
        underlay.filter(|bytes| *bytes != mtu.bytes)
    }

    /// Adds what this network needs to the packet filter.
    pub(crate) fn add_to(&self, filter: &mut Filter) {
        let Some(bridge) = self.bridge() else { return };
        filter.bridges.extend(self.bridges().cloned());
        let subnets = self.subnets.iter().map(|s| s.subnet);
        let guarded = subnets.filter(|subnet| bridge.is_guarded(subnet.addr().is_ipv6()));
        filter.guarded.extend(guarded);
        let routed = self.routed();
        let subnets = self.subnets.iter().map(|s| s.subnet);
        let known = subnets.filter(|subnet| routed.has(subnet.addr().is_ipv6()));
        filter.routed.extend(known);
        if bridge.icc {
            filter.same.extend(self.bridges().cloned());
            let all = || self.bridges().cloned();
            let pairs = all().flat_map(|from| all().map(move |to| (from.clone(), to)));
            filter.apart.extend(pairs.filter(|(from, to)| from != to));
        }
        if self.internal {
            filter.internal.extend(self.bridges().cloned());
        } else {
            let subnets = self.subnets.iter().map(|s| s.subnet);
            let hidden = subnets.filter(|subnet| bridge.masquerades(subnet.addr().is_ipv6()));
            filter.masquerade.extend(hidden);
        }
    }

    /// The Docker Engine API object.
    pub(crate) fn to_api(
        &self,
        containers: BTreeMap<String, NetworkContainer>,
    ) -> api::net::Network {
        api::net::Network {
            name: self.name.clone(),
            id: self.id.clone(),
            created: self.created.clone(),
            scope: self.driver.scope().to_owned(),
            driver: self.driver.name().to_owned(),
            // Docker says so of `host` and `none`, too.
            enable_ipv4: self.subnets.is_empty() || self.subnets.iter().any(|s| !s.is_ipv6()),
            enable_ipv6: self.ipv6,
            ipam: Ipam {
                driver: "default".to_owned(),
                options: None,
                config: self.subnets.iter().map(Subnet::config).collect(),
            },
            internal: self.internal,
            attachable: self.attachable,
            ingress: false,
            config_from: ConfigFrom::default(),
            config_only: false,
            containers,
            options: match self.bridge() {
                Some(bridge) if self.is_default() => bridge.default_options(),
                _ => self.options.clone(),
            },
            labels: self.labels.clone(),
            clear_text_dropped: None,
        }
    }
}

fn check_ipam(ipam: &Ipam) -> Result<(), NetworkError> {
    if !matches!(ipam.driver.as_str(), "" | "default") {
        return Err(NetworkError::IpamDriver(ipam.driver.clone()));
    }
    match ipam.options.iter().flatten().next() {
        None => Ok(()),
        Some((key, _)) => Err(NetworkError::IpamOption(key.clone())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn create(json: &str) -> Result<Network, NetworkError> {
        let id = Id::from_bytes([0xab; 32]);
        Network::create(
            serde_json::from_str(json).unwrap(),
            NewNetwork {
                id,
                created: "2026-01-02T03:04:05.000000006Z".to_owned(),
                random: [1, 2, 3, 4, 5],
                mtu: 1500,
                links: &BTreeMap::new(),
                parents: &[],
                vnis: &BTreeSet::new(),
                pools: &Pool::defaults(),
                taken: &[],
            },
        )
    }

    #[test]
    fn what_only_ending_tasks_are_on_is_about_to_be_free() {
        let network = create(r#"{"Name":"shop"}"#).unwrap();
        let (task, other) = (
            "web.1.0123456789abcdefghijklmno on node n2",
            "web.n1.0123456789abcdefghijklmno",
        );
        let refused = |users: &[&'static str]| network.check_unused(users.iter().copied());
        assert!(refused(&[]).is_ok());
        assert!(matches!(
            refused(&[task, other]),
            Err(NetworkError::Ending { .. })
        ));
        for own in ["c1", "web.1.db", "service web"] {
            let error = refused(&[task, own]).unwrap_err();
            assert!(matches!(error, NetworkError::InUse { .. }), "{error}");
        }
    }

    #[test]
    fn a_bare_name_makes_a_bridge_network() {
        let network = create(r#"{"Name":"shop"}"#).unwrap();
        assert_eq!(network.bridge().unwrap().link.as_str(), "br-abababababab");
        assert_eq!(network.subnets[0].subnet.to_string(), "172.17.0.0/16");
        assert_eq!(network.mac(0).to_string(), "02:42:ab:ab:ab:ab");
        assert!(!network.ipv6);
        assert!(network.has_names());
    }

    #[test]
    fn ipv6_gets_a_local_subnet_and_any_given_one_enables_it() {
        let network = create(r#"{"Name":"shop","EnableIPv6":true}"#).unwrap();
        let subnets: Vec<_> = network
            .subnets
            .iter()
            .map(|s| s.subnet.to_string())
            .collect();
        assert_eq!(subnets, ["172.17.0.0/16", "fd01:203:405::/64"]);
        let network =
            create(r#"{"Name":"shop","IPAM":{"Config":[{"Subnet":"fd00:5::/64"}]}}"#).unwrap();
        assert!(network.ipv6);
        assert_eq!(network.subnets.len(), 2, "IPv4 comes from the pools");
    }

    #[test]
    fn refusals_name_the_subject() {
        let check = |json: &str, message: &str| {
            assert_eq!(create(json).unwrap_err().to_string(), message);
        };
        check(
            r#"{"Name":"shop","IPAM":{"Driver":"dhcp"}}"#,
            "unknown IPAM driver \"dhcp\": expected default",
        );
        check(
            r#"{"Name":"shop","IPAM":{"Config":[{"Gateway":"10.0.0.1"}]}}"#,
            "--gateway needs a --subnet",
        );
        check(
            r#"{"Name":"shop","IPAM":{"Config":[{"Subnet":"10.0.0.0/8"},{"Subnet":"10.1.0.0/16"}]}}"#,
            "subnet 10.1.0.0/16 overlaps network shop (10.0.0.0/8): choose another --subnet",
        );
        assert!(create(r#"{"Name":"../x"}"#).is_err());
    }

    #[test]
    fn the_api_object_round_trips_dockers_fields() {
        let network = create(r#"{"Name":"shop","Internal":true,"Labels":{"tier":"front"}}"#);
        let json = serde_json::to_value(network.unwrap().to_api(BTreeMap::new())).unwrap();
        assert_eq!(json["Scope"], "local");
        assert_eq!(json["IPAM"]["Config"][0]["Gateway"], "172.17.0.1");
        assert_eq!(json["Labels"]["tier"], "front");
        assert_eq!(json["ConfigFrom"]["Network"], "");
    }
}
