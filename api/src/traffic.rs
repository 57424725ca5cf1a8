//! What goes through services and published ports, and how full the data plane's tables are.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::net::Protocol;

/// `GET /v1/traffic`. All counts begin when a port is published, and outlive the daemon.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    pub services: Vec<ServiceTraffic>,
    /// Packets of the whole host that were dropped or not served, by reason.
    pub dropped: BTreeMap<String, u64>,
    pub tables: Vec<Table>,
}

/// What the entry is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Service,
    /// A port, or range, that a container publishes by itself.
    Container,
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Container => "container",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceTraffic {
    /// Of the service, or of the container that publishes the port.
    pub name: String,
    pub kind: Kind,
    /// Where it is reached: `0.0.0.0:8080/tcp`.
    pub published: Vec<String>,
    pub backends: Vec<BackendTraffic>,
    /// Also of backends that it has no more.
    #[serde(flatten)]
    pub counts: Counts,
    /// Flows of the packet path in progress.
    pub active: u64,
    /// By reason; reasons that never occurred are absent.
    pub dropped: BTreeMap<String, u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendTraffic {
    pub address: SocketAddr,
    /// Of the container with that address; empty when there is none.
    pub container: String,
    /// Zero while the backend is drained.
    pub weight: u32,
    #[serde(flatten)]
    pub counts: Counts,
    pub active: u64,
}

/// Packets and bytes are those of the packet path: connections of local processes are counted when
/// they begin, and then take no detour.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    pub packets_in: u64,
    pub bytes_in: u64,
    pub packets_out: u64,
    pub bytes_out: u64,
    /// Flows that began outside.
    pub flows: u64,
    /// Connections of processes of this host.
    pub connects: u64,
    /// Datagrams of processes of this host, from sockets that are not connected.
    pub datagrams: u64,
}

impl Counts {
    pub fn add(&mut self, other: &Self) {
        self.packets_in += other.packets_in;
        self.bytes_in += other.bytes_in;
        self.packets_out += other.packets_out;
        self.bytes_out += other.bytes_out;
        self.flows += other.flows;
        self.connects += other.connects;
        self.datagrams += other.datagrams;
    }
}

/// A table of the data plane.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    pub name: String,
    pub entries: u32,
    pub capacity: u32,
    /// What of the entries cannot be missed; absent where the table may forget any of them.
    pub in_use: Option<u32>,
}

/// The query of `GET /v1/trace`: which decisions to show, and how many.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TraceQuery {
    pub protocol: Option<Protocol>,
    /// Of either end, or of the backend.
    pub port: Option<u16>,
    /// Of either end, or of the backend.
    pub address: Option<IpAddr>,
    /// A service, or a container with published ports, by name.
    pub service: Option<String>,
    /// One decision in so many, by chance.
    pub one_in: Option<u32>,
    /// Ends after so many.
    pub count: Option<u64>,
    /// Ends after this time.
    pub for_ms: Option<u64>,
}

/// A line of the reply. Empty lines between them are signs of life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum TraceLine {
    Decision(Decision),
    /// The last line, where decisions came faster than they were read.
    Lost {
        lost: u64,
    },
}

/// What the data plane decided about a packet, or a call of a local socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// RFC 3339.
    pub time: String,
    /// `miss`: nothing is published there; `new`, `hit`: the first and later packets to a backend;
    /// `reply`: from one; `lost`: dropped or not served; `connect`, `send`: of a local socket.
    pub decision: String,
    pub protocol: Option<Protocol>,
    /// Absent for local sockets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<SocketAddr>,
    pub destination: SocketAddr,
    /// The backend; for replies the published address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<SocketAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<Kind>,
    /// Why a packet is lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Of the packet in bytes; zero for local sockets.
    pub length: u32,
}
