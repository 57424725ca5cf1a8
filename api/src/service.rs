//! Services: one name and one address for several containers. `Spec` and `Endpoint` have the shape
//! of the Docker Engine API's; affinity, health, weights and members are Hawser's own.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::duration::nanoseconds;
use crate::id::{Id, IfName, NetworkName, NodeId};
use crate::net::Protocol;
use crate::storage::Secret;
use crate::task::{ServiceMode, TaskTemplate, UpdateConfig, UpdateStatus};

/// A service as `hawser service inspect` prints it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Service {
    #[serde(rename = "ID")]
    pub id: Id,
    pub version: Version,
    /// RFC 3339 with nanoseconds.
    pub created_at: String,
    pub updated_at: String,
    pub spec: ServiceSpec,
    /// What the last update replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_spec: Option<ServiceSpec>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update_status: Option<UpdateStatus>,
    pub endpoint: ServiceEndpoint,
    pub members: Vec<ServiceMember>,
    /// No member is well, so that all of them are used.
    #[serde(default)]
    pub last_resort: bool,
    /// Of a service of the cluster: the revision of its store that put it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
}

/// Ascends with every update.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Version {
    pub index: u64,
}

/// What a service is to be: body of `POST /services/create` and of an update.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ServiceSpec {
    /// Checked by the daemon, so that one place words the refusal.
    pub name: String,
    pub labels: BTreeMap<String, String>,
    /// What its members are, if it starts them itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task_template: Option<TaskTemplate>,
    /// How many of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<ServiceMode>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub update_config: Option<UpdateConfig>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollback_config: Option<UpdateConfig>,
    /// The default network when empty.
    pub networks: Vec<ServiceNetwork>,
    pub endpoint_spec: EndpointSpec,
    pub affinity: Affinity,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    /// How long a member that is to stop may finish its connections before it is told to.
    #[serde(with = "nanoseconds")]
    pub drain: Duration,
    /// Comes with a request ([`ServiceRequest`]), and is shown to nobody.
    #[serde(skip)]
    pub login: Option<RegistryLogin>,
}

/// Body of a request that creates or updates a service.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ServiceRequest {
    #[serde(flatten)]
    spec: ServiceSpec,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    registry_login: Option<RegistryLogin>,
}

impl From<ServiceSpec> for ServiceRequest {
    fn from(mut spec: ServiceSpec) -> Self {
        Self {
            registry_login: spec.login.take(),
            spec,
        }
    }
}

impl From<ServiceRequest> for ServiceSpec {
    fn from(request: ServiceRequest) -> Self {
        Self {
            login: request.registry_login,
            ..request.spec
        }
    }
}

/// A login for a registry: a service keeps one for each, for the hosts that pull its image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct RegistryLogin {
    /// As references have it.
    pub host: String,
    /// As Docker's `config.json` has it, JSON; empty to keep none.
    pub auth: Secret,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ServiceNetwork {
    /// Name, id or unambiguous id prefix.
    pub target: String,
    /// Further names there of every replica.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct EndpointSpec {
    pub mode: EndpointMode,
    pub ports: Vec<ServicePort>,
}

/// What the service's name stands for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EndpointMode {
    /// One address of the service's own on each of its networks.
    #[default]
    Vip,
    /// The addresses of the members.
    Dnsrr,
}

impl EndpointMode {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Vip => "vip",
            Self::Dnsrr => "dnsrr",
        }
    }
}

/// A published port of a service, or a run of `count` of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ServicePort {
    #[serde(default = "tcp")]
    pub protocol: Protocol,
    pub target_port: u16,
    /// 0 in a request lets the daemon choose.
    #[serde(default)]
    pub published_port: u16,
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub count: u16,
    /// All ports of the run lead to the one target port.
    #[serde(default, skip_serializing_if = "is_false")]
    pub one_target: bool,
    #[serde(default)]
    pub publish_mode: PublishMode,
}

fn tcp() -> Protocol {
    Protocol::Tcp
}

fn one() -> u16 {
    1
}

fn is_false(value: &bool) -> bool {
    !value
}

fn is_one(count: &u16) -> bool {
    *count == 1
}

impl fmt::Display for ServicePort {
    /// As the listings have it: `*:8080->80/tcp`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let more = self.count.saturating_sub(1);
        let run = |f: &mut fmt::Formatter<'_>, first: u16, more: u16| match more {
            0 => write!(f, "{first}"),
            more => write!(f, "{first}-{}", first.saturating_add(more)),
        };
        f.write_str("*:")?;
        run(f, self.published_port, more)?;
        f.write_str("->")?;
        run(f, self.target_port, if self.one_target { 0 } else { more })?;
        write!(f, "/{}", self.protocol)
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PublishMode {
    /// The port leads to all members.
    #[default]
    Ingress,
    /// Each member publishes the port for itself, as with `hawser run --publish`.
    Host,
}

impl PublishMode {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Host => "host",
        }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Affinity {
    #[default]
    None,
    /// All flows of a client go to one member, as long as the members stay the same.
    Client,
}

impl Affinity {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Client => "client",
        }
    }
}

/// How it is found out whether a member is well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Health {
    pub probe: Probe,
    /// From the end of one probe to the next.
    #[serde(with = "nanoseconds")]
    pub interval: Duration,
    #[serde(with = "nanoseconds")]
    pub timeout: Duration,
    /// After so long a member that has never been well counts as down.
    #[serde(with = "nanoseconds")]
    pub start_period: Duration,
    /// So many successes in a row make a member serve again.
    pub rise: u32,
    /// So many failures in a row take it out.
    pub fall: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "Kind", rename_all = "lowercase")]
pub enum Probe {
    /// A connection can be made.
    Tcp {
        #[serde(rename = "Port")]
        port: u16,
    },
    /// A `GET` is answered with a status from 200 to 399.
    Http {
        #[serde(rename = "Port")]
        port: u16,
        #[serde(rename = "Path")]
        path: String,
    },
    /// A command ends with exit code 0. Whoever runs the container executes it inside, and reports.
    Command {
        #[serde(rename = "Command")]
        command: Vec<String>,
    },
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { port } => write!(f, "tcp {port}"),
            Self::Http { port, path } => write!(f, "http {port}{path}"),
            Self::Command { command } => write!(f, "command {}", command.join(" ")),
        }
    }
}

/// What the daemon has settled.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ServiceEndpoint {
    pub spec: EndpointSpec,
    /// With the published ports that the daemon chose.
    pub ports: Vec<ServicePort>,
    #[serde(rename = "VirtualIPs")]
    pub virtual_ips: Vec<VirtualIp>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct VirtualIp {
    #[serde(rename = "NetworkID")]
    pub network_id: Id,
    /// With the prefix length of its subnet.
    pub addr: IpNet,
}

/// A container's endpoint on one network of the service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ServiceMember {
    #[serde(rename = "ContainerID")]
    pub container_id: String,
    pub name: String,
    pub network: NetworkName,
    /// Inside the container; nothing of one on another node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<IfName>,
    /// The node that it is on, if that is another one.
    #[serde(rename = "NodeID", default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeId>,
    pub addresses: Vec<IpAddr>,
    pub weight: u32,
    pub state: MemberState,
    /// Whether new connections go there.
    pub in_use: bool,
    /// What the last probe that failed said; empty while it is well.
    #[serde(default)]
    pub error: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemberState {
    /// No probe has succeeded yet.
    Starting,
    Serving,
    /// Its connections end, new ones go elsewhere.
    Draining,
    /// Its probes fail.
    Down,
}

impl MemberState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Serving => "serving",
            Self::Draining => "draining",
            Self::Down => "down",
        }
    }
}

/// A service that an endpoint joins: part of [`crate::net::AttachRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceJoin {
    /// Name, id or unambiguous id prefix.
    pub service: String,
    /// Its share of new connections relative to the others'.
    #[serde(default = "weight_one")]
    pub weight: u32,
}

fn weight_one() -> u32 {
    1
}

/// Body of `POST /services/{service}/members/{container}`: what is absent stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct MemberUpdate {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    /// What one probe found, from whoever executes it: an error, or nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probe: Option<ProbeResult>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ProbeResult {
    pub healthy: bool,
    #[serde(default)]
    pub error: String,
}

/// What became of a drain: reply of `POST /endpoints/{container}/drain`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drained {
    /// Connections that had not ended in time.
    pub left: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spec_has_dockers_members() {
        let spec: ServiceSpec = serde_json::from_str(
            r#"{"Name":"web","Networks":[{"Target":"shop"}],
                "EndpointSpec":{"Mode":"vip","Ports":[{"Protocol":"udp","TargetPort":53,
                "PublishedPort":5353,"PublishMode":"host"},{"TargetPort":80,"Count":3}]},
                "Health":{"Probe":{"Kind":"http","Port":80,"Path":"/"},"Interval":1000000000,
                "Timeout":5,"StartPeriod":0,"Rise":2,"Fall":3}}"#,
        )
        .unwrap();
        let ports: Vec<String> = spec
            .endpoint_spec
            .ports
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(ports, ["*:5353->53/udp", "*:0-2->80-82/tcp"]);
        assert_eq!(spec.endpoint_spec.ports[0].publish_mode, PublishMode::Host);
        let health = spec.health.clone().unwrap();
        assert_eq!(health.interval, Duration::from_secs(1));
        assert_eq!(health.probe.to_string(), "http 80/");
        let text = serde_json::to_string(&spec).unwrap();
        assert_eq!(serde_json::from_str::<ServiceSpec>(&text).unwrap(), spec);
    }
}
