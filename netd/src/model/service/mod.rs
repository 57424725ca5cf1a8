//! Services: one name and one address for several endpoints. The record that is kept, and what it
//! means.
//!
//! A service is durable, its members are not: they are endpoints, which say themselves what they
//! are part of ([`Membership`]).

mod balance;
mod check;
pub(crate) mod health;
mod member;
pub(crate) mod plan;

use std::collections::BTreeMap;

use api::id::{Id, NodeId};
use api::net::{PortBinding, Protocol};
use api::service::{
    EndpointMode, EndpointSpec, PublishMode, ServiceEndpoint, ServicePort, ServiceSpec, Version,
    VirtualIp,
};
use api::storage::Secret;
use api::task::UpdateStatus;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::driver::Tunnel;
use super::ipam::IpamError;
use super::network::Stage;
use super::port::PortError;

pub(crate) use balance::of_entry;
pub(crate) use check::{check, check_weight};
pub(crate) use member::{At, Member, Membership, Pool, Verdict};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Service {
    pub(crate) stage: Stage,
    pub(crate) id: Id,
    /// What the data plane knows it by: no other service has it.
    pub(crate) number: u32,
    pub(crate) version: u64,
    /// RFC 3339.
    pub(crate) created: String,
    pub(crate) updated: String,
    /// As asked for; the networks are in `places`.
    pub(crate) spec: ServiceSpec,
    /// What the last update replaced.
    #[serde(default)]
    pub(crate) previous: Option<ServiceSpec>,
    /// How far whoever starts the members is with the last update.
    #[serde(default)]
    pub(crate) update_status: Option<UpdateStatus>,
    /// The published ports; those that were left open are chosen.
    pub(crate) ports: Vec<ServicePort>,
    pub(crate) places: Vec<Place>,
    /// Logins for registries, by host, of one that is this host's alone.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) logins: BTreeMap<String, Secret>,
    /// It is the cluster's: what this node needs to know to have its part in it.
    #[serde(default)]
    pub(crate) shared: Option<Shared>,
}

/// A node's part in a service of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Shared {
    /// The revision of the control plane that put the service.
    pub(crate) modified: u64,
    /// This node.
    pub(crate) node: NodeId,
    /// Where it takes encapsulated packets.
    pub(crate) tunnel: Tunnel,
}

/// A service on one of its networks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    pub(crate) network: Id,
    /// Part of the data plane's number; no other place of the service has it.
    pub(crate) slot: u16,
    /// The virtual addresses, none in mode dnsrr.
    pub(crate) addresses: Vec<IpNet>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ServiceError {
    #[error(
        "invalid service name {0:?}: letters, digits, '-' and '_', 1 to 63, the first and the last \
         a letter or a digit"
    )]
    Name(String),
    #[error("service {0} already exists")]
    Exists(String),
    #[error("service {0} not found")]
    NotFound(String),
    #[error("{0} is the beginning of several services' ids: type more of it, or a name")]
    Ambiguous(String),
    #[error("service {0} cannot be renamed: create another one")]
    Renamed(String),
    #[error("service {0} has no previous specification: it was not updated since it was created")]
    NoPrevious(String),
    #[error("invalid service: {0}")]
    Template(String),
    #[error("service {service} was changed by somebody else meanwhile: look at it and try again")]
    Changed { service: String },
    #[error("network {network} is given twice for service {service}")]
    NetworkTwice { service: String, network: String },
    #[error("network {network} (driver {driver}) carries no services: use one of driver bridge")]
    Driver {
        network: String,
        driver: &'static str,
    },
    #[error(
        "service {service} has members on network {network}, such as container {container}: stop \
         them first"
    )]
    NetworkInUse {
        service: String,
        network: String,
        container: String,
    },
    #[error(
        "port {0} cannot be published in mode ingress by a service in endpoint mode dnsrr: use mode \
         host, or endpoint mode vip"
    )]
    DnsrrPort(String),
    #[error(
        "port {0} cannot be published: only in mode ingress do several ports lead to one, from 1 on"
    )]
    OneTarget(String),
    #[error("invalid health check: {0}")]
    Health(String),
    #[error("invalid weight {0}: from 0, which sends nothing new, to {max}", max = check::MAX_WEIGHT)]
    Weight(u32),
    #[error("invalid drain time: at most an hour")]
    Drain,
    #[error(
        "service {service} is not on network {network}, but on {networks}: attach the container \
         there, or change the service's networks"
    )]
    NotOnNetwork {
        service: String,
        network: String,
        networks: String,
    },
    #[error(
        "service {service} is on networks of the cluster and on {network}, which is this host's \
         alone: give it one kind of networks"
    )]
    MixedNetworks { service: String, network: String },
    #[error("container {container} runs on another node: change it there")]
    Elsewhere { container: String },
    #[error("service {0} is joined twice")]
    Twice(String),
    #[error("container {container} is no member of service {service}")]
    NoMember { service: String, container: String },
    #[error(
        "the health of service {service} is not reported: it is checked by the daemon, or not at all"
    )]
    NotReported { service: String },
    #[error(
        "service {service} has members: container {members}; stop them first, or remove the service \
         by force: they run on without it"
    )]
    HasMembers { service: String, members: String },
    #[error(transparent)]
    Ipam(#[from] IpamError),
    #[error(transparent)]
    Port(#[from] PortError),
}

impl Service {
    pub(crate) fn is_on(&self, network: &Id) -> bool {
        self.place(network).is_some()
    }

    pub(crate) fn place(&self, network: &Id) -> Option<&Place> {
        self.places.iter().find(|place| place.network == *network)
    }

    pub(crate) fn is_dnsrr(&self) -> bool {
        self.spec.endpoint_spec.mode == EndpointMode::Dnsrr
    }

    /// The verdict on a member that has just joined.
    pub(crate) fn first_verdict(&self) -> Verdict {
        match self.spec.health {
            Some(_) => Verdict::Starting,
            None => Verdict::Up,
        }
    }

    /// What the host's ports are held for.
    pub(crate) fn bindings(&self) -> Vec<PortBinding> {
        ingress(&self.ports).map(binding).collect()
    }

    pub(crate) fn host_ports(&self) -> impl Iterator<Item = u16> {
        ingress(&self.ports)
            .flat_map(|port| (0..port.count).map(move |more| port.published_port + more))
    }

    /// What each member publishes for itself.
    pub(crate) fn member_ports(&self) -> impl Iterator<Item = PortBinding> {
        let ports = self.ports.iter();
        ports
            .filter(|port| port.publish_mode == PublishMode::Host)
            .map(binding)
    }

    /// The names that members have beside their own.
    pub(crate) fn member_names(&self) -> Vec<String> {
        let mut names = vec![self.tasks_name()];
        if self.is_dnsrr() {
            names.push(self.spec.name.clone());
        }
        names
    }

    /// What stands for all members.
    pub(crate) fn tasks_name(&self) -> String {
        format!("tasks.{}", self.spec.name)
    }

    pub(crate) fn endpoint(&self) -> ServiceEndpoint {
        let addresses = |place: &Place| {
            let network_id = place.network.clone();
            let addresses = place.addresses.clone().into_iter();
            addresses.map(move |addr| VirtualIp {
                network_id: network_id.clone(),
                addr,
            })
        };
        ServiceEndpoint {
            spec: EndpointSpec {
                mode: self.spec.endpoint_spec.mode,
                ports: self.spec.endpoint_spec.ports.clone(),
            },
            ports: self.ports.clone(),
            virtual_ips: self.places.iter().flat_map(addresses).collect(),
        }
    }

    pub(crate) fn version(&self) -> Version {
        Version {
            index: self.version,
        }
    }
}

/// The smallest slot that none of `places` has.
pub(crate) fn free_slot(places: &[Place]) -> u16 {
    (0..=u16::MAX)
        .find(|slot| places.iter().all(|place| place.slot != *slot))
        .unwrap_or_default()
}

pub(crate) fn ingress(ports: &[ServicePort]) -> impl Iterator<Item = &ServicePort> {
    let is_ingress = |port: &&ServicePort| port.publish_mode == PublishMode::Ingress;
    ports.iter().filter(is_ingress)
}

/// The ports asked for. One that is left open stays what was chosen for it before.
pub(crate) fn keep_chosen(asked: &[ServicePort], old: Option<&Service>) -> Vec<ServicePort> {
    let mut chosen: Vec<ServicePort> = old.map(|old| old.ports.clone()).unwrap_or_default();
    let mut keep = |port: &ServicePort| {
        let open = |other: &ServicePort| ServicePort {
            published_port: 0,
            ..*other
        };
        let is_left_open = port.published_port == 0 && port.publish_mode == PublishMode::Ingress;
        let mut others = chosen.iter();
        match others.position(|other| is_left_open && open(other) == *port) {
            Some(at) => chosen.remove(at),
            None => *port,
        }
    };
    asked.iter().map(&mut keep).collect()
}

/// As a published port of an endpoint.
pub(crate) fn binding(port: &ServicePort) -> PortBinding {
    PortBinding {
        protocol: port.protocol,
        container_port: port.target_port,
        host_port: port.published_port,
        host_port_last: None,
        count: port.count,
        host_ip: None,
    }
}

/// All that a virtual address answers to.
const PROTOCOLS: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];

#[cfg(test)]
mod tests;
