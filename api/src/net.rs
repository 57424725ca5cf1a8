//! Networks (Docker Engine API objects) and endpoints (our own).

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::id::{Id, IfName, MacAddr, NetworkName};
use crate::service::ServiceJoin;

/// A network as `hawser network inspect` prints it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Network {
    pub name: NetworkName,
    pub id: Id,
    /// RFC 3339 with nanoseconds.
    pub created: String,
    pub scope: String,
    pub driver: String,
    #[serde(rename = "EnableIPv4", default = "yes")]
    pub enable_ipv4: bool,
    #[serde(rename = "EnableIPv6")]
    pub enable_ipv6: bool,
    #[serde(rename = "IPAM")]
    pub ipam: Ipam,
    pub internal: bool,
    pub attachable: bool,
    pub ingress: bool,
    pub config_from: ConfigFrom,
    pub config_only: bool,
    /// Keyed by container id.
    pub containers: BTreeMap<String, NetworkContainer>,
    pub options: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
    /// Of an encrypted one that is on this node: frames in clear text that were not let through.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clear_text_dropped: Option<u64>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ConfigFrom {
    pub network: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Ipam {
    pub driver: String,
    pub options: Option<BTreeMap<String, String>>,
    pub config: Vec<IpamConfig>,
}

/// One subnet of a network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct IpamConfig {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subnet: Option<IpNet>,
    /// Addresses are handed out from here; all of the subnet when absent.
    #[serde(rename = "IPRange", skip_serializing_if = "Option::is_none")]
    pub ip_range: Option<IpNet>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// Addresses that are used by somebody else and never handed out, by name.
    #[serde(
        rename = "AuxiliaryAddresses",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub auxiliary_addresses: BTreeMap<String, IpAddr>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct NetworkContainer {
    pub name: String,
    #[serde(rename = "EndpointID")]
    pub endpoint_id: Id,
    pub mac_address: String,
    /// With prefix length; empty when there is none.
    #[serde(rename = "IPv4Address")]
    pub ipv4_address: String,
    #[serde(rename = "IPv6Address")]
    pub ipv6_address: String,
}

/// Body of `POST /networks/create`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct NetworkCreate {
    /// Checked by the daemon, so that one place words the refusal.
    pub name: String,
    #[serde(default = "default_driver")]
    pub driver: String,
    /// On when absent, unless the option `com.docker.network.enable_ipv4` says otherwise.
    #[serde(
        rename = "EnableIPv4",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub enable_ipv4: Option<bool>,
    /// Off when absent, unless a subnet or the option `com.docker.network.enable_ipv6` asks for it.
    #[serde(
        rename = "EnableIPv6",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub enable_ipv6: Option<bool>,
    #[serde(rename = "IPAM", default)]
    pub ipam: Ipam,
    #[serde(default)]
    pub internal: bool,
    #[serde(default)]
    pub attachable: bool,
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

fn default_driver() -> String {
    "bridge".to_owned()
}

fn yes() -> bool {
    true
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct NetworkCreated {
    pub id: Id,
    pub warning: String,
}

/// Body of `POST /networks/prune`: which of the unused networks go.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkPrune {
    /// Those created before this moment (RFC 3339); of any age when absent.
    pub until: Option<String>,
    /// `KEY` or `KEY=VALUE`; a network must have each.
    pub labels: Vec<String>,
    /// The same; a network must have none.
    pub not_labels: Vec<String>,
}

/// Transport protocol of a published port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    /// The IP protocol number.
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A protocol name that is none of tcp, udp, sctp.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown protocol {0:?}: expected tcp, udp or sctp")]
pub struct UnknownProtocol(pub String);

impl FromStr for Protocol {
    type Err = UnknownProtocol;

    fn from_str(text: &str) -> Result<Self, UnknownProtocol> {
        match text.to_ascii_lowercase().as_str() {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            "sctp" => Ok(Self::Sctp),
            _ => Err(UnknownProtocol(text.to_owned())),
        }
    }
}

/// A published port, or a run of `count` of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortBinding {
    pub protocol: Protocol,
    /// First port inside the sandbox.
    pub container_port: u16,
    /// First port of the host; 0 in a request lets the daemon choose.
    pub host_port: u16,
    /// In a request: let the daemon choose from `host_port` to this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_port_last: Option<u16>,
    /// How many consecutive ports, at least 1.
    #[serde(default = "one")]
    pub count: u16,
    /// The host address published on; all addresses of both families when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<IpAddr>,
}

fn one() -> u16 {
    1
}

/// Resolver settings of a sandbox, the members of CNI's `dns` result.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Dns {
    pub nameservers: Vec<IpAddr>,
    pub search: Vec<String>,
    pub options: Vec<String>,
}

/// Connect one sandbox to one network: body of `POST /endpoints`.
///
/// Asking again with the same container and interface returns the existing attachment when the
/// request names the same network and namespace, and is a conflict otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachRequest {
    /// Name, id or unambiguous id prefix.
    pub network: String,
    pub container_id: String,
    pub ifname: IfName,
    /// Path of the sandbox's network namespace.
    pub netns: String,
    /// Resolvable name on the network.
    #[serde(default)]
    pub name: Option<String>,
    #[serde(default)]
    pub aliases: Vec<String>,
    #[serde(default)]
    pub ipv4: Option<Ipv4Addr>,
    #[serde(default)]
    pub ipv6: Option<Ipv6Addr>,
    #[serde(default)]
    pub mac: Option<MacAddr>,
    #[serde(default)]
    pub ports: Vec<PortBinding>,
    /// Servers, search domains and options asked for; the daemon fills in what is empty.
    #[serde(default)]
    pub dns: Dns,
    /// Names of its own for containers of the network.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<Link>,
    #[serde(default)]
    pub link: LinkBy,
    /// Chosen by somebody else's address management; when empty, the daemon chooses.
    #[serde(default)]
    pub addresses: Vec<EndpointAddress>,
    /// Exactly these routes; when absent, a default route of each family with a gateway.
    #[serde(default)]
    pub routes: Option<Vec<Route>>,
    #[serde(default)]
    pub bandwidth: Option<Bandwidth>,
    /// Whose attachment it is: what tells the attachments of one runtime from those of others on
    /// the same network.
    #[serde(default)]
    pub owner: Option<String>,
    /// The process that asks for it all, by its number on the host. It may bind the published ports,
    /// as no other process of the host may: some runtimes hold them with sockets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<u32>,
    /// An endpoint that exists already is a conflict, also if it is the one asked for.
    #[serde(default)]
    pub exclusive: bool,
    /// Of the endpoints of a sandbox, the one with the highest carries the default route, and of
    /// several the first by the name of its network. Absent: as 0, but before all those of 0 that
    /// have one, in the order in which they joined.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gw_priority: Option<i64>,
    /// Services of this network that the endpoint is a member of, until it is detached.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<ServiceJoin>,
}

/// Who makes the interface of an endpoint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkBy {
    #[default]
    Hawser,
    /// Somebody else: the endpoint is its addresses, names and published ports.
    Others,
}

impl LinkBy {
    pub fn is_hawser(&self) -> bool {
        *self == Self::Hawser
    }
}

/// Limits of an interface in bits and bits per second; what is zero is not limited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Bandwidth {
    /// To the sandbox.
    pub ingress_rate: u64,
    pub ingress_burst: u64,
    /// From the sandbox.
    pub egress_rate: u64,
    pub egress_burst: u64,
}

/// A name that one container alone knows another one of the same network by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// The other's id, which a rename does not change, or its name. It need not be there yet, and
    /// may come back with another address.
    pub container: String,
    pub alias: String,
}

/// Give a container another name on all its networks: body of `POST /endpoints/rename`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointRename {
    pub container_id: String,
    pub name: String,
}

/// One endpoint: what connects a sandbox to a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    pub network: NetworkName,
    pub network_id: Id,
    pub endpoint_id: Id,
    pub container_id: String,
    pub ifname: IfName,
    pub netns: String,
    /// The host's end of the pair; absent for drivers that have none.
    pub host_ifname: Option<IfName>,
    pub mac: Option<MacAddr>,
    pub mtu: u32,
    pub addresses: Vec<EndpointAddress>,
    pub routes: Vec<Route>,
    pub name: Option<String>,
    pub aliases: Vec<String>,
    /// As published. On a routed network the host port is zero: the container answers at its own
    /// address.
    pub ports: Vec<PortBinding>,
    pub dns: Dns,
    #[serde(default, skip_serializing_if = "LinkBy::is_hawser")]
    pub link: LinkBy,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<Bandwidth>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gw_priority: Option<i64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointAddress {
    /// The address with its subnet's prefix length.
    pub address: IpNet,
    pub gateway: Option<IpAddr>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    pub dst: IpNet,
    /// Absent for destinations on the link itself.
    pub gateway: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advmss: Option<u32>,
    /// Lower goes first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u32>,
    /// The main table when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<u32>,
    /// `enum rt_scope_t` of include/uapi/linux/rtnetlink.h; the kernel's usual one when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<u8>,
}
