//! The `[network]` table of `hawserd.toml`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::ops::RangeInclusive;

use abi::map::{CT_ANY, CT_TCP, MAX_CT_ANY, MAX_CT_TCP};
use api::id::IfName;
use ipnet::IpNet;
use serde::Deserialize;

use crate::front::Front;
use crate::mode::Mode;
use crate::model::ipam::Pool;

/// What an administrator may set; every member has a default.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct NetConfig {
    /// Where subnets of networks without `--subnet` come from, in order of preference.
    pub address_pools: Vec<Pool>,
    /// The same of networks of the cluster.
    pub overlay_pools: Vec<Pool>,
    /// Kernel name of the network `bridge`.
    pub default_bridge: IfName,
    /// Subnet of the network `bridge`; the first free pool when absent.
    pub default_bridge_subnet: Option<IpNet>,
    /// MTU of networks that set none; that of the default route's link when absent.
    pub mtu: Option<u32>,
    /// Upstream resolvers; those of `/etc/resolv.conf` when empty.
    pub dns: Vec<SocketAddr>,
    /// How packets of published ports go; the best that this host allows when absent.
    pub mode: Option<Mode>,
    /// Where packets from outside to published ports are met.
    pub front: Front,
    /// How many connections to published ports are remembered: TCP, and the others.
    pub tcp_connections: TableSize,
    pub other_connections: TableSize,
    /// How often this node's key for encrypted networks is another one.
    pub key_seconds: NonZeroU32,
}

/// As often as Docker's nodes change theirs.
const KEY_SECONDS: NonZeroU32 = NonZeroU32::new(12 * 60 * 60).expect("not zero");

/// A number of connections. Each has an entry a direction in the data plane's tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "u32")]
pub struct TableSize(u32);

/// From what a busy page needs to a gigabyte of entries.
const CONNECTIONS: RangeInclusive<u32> = 1_024..=4_194_304;

#[derive(Debug, thiserror::Error)]
#[error("{0} connections: expected {least} to {most}", least = CONNECTIONS.start(), most = CONNECTIONS.end())]
pub struct TableSizeError(u32);

impl TryFrom<u32> for TableSize {
    type Error = TableSizeError;

    fn try_from(connections: u32) -> Result<Self, TableSizeError> {
        if CONNECTIONS.contains(&connections) {
            Ok(Self(connections))
        } else {
            Err(TableSizeError(connections))
        }
    }
}

impl NetConfig {
    /// Whether XDP is to serve uplinks; an error is why not, although it is wanted.
    pub(crate) fn front(&self) -> Result<bool, &'static str> {
        self.front.choose(self.mode)
    }

    /// The sizes of the data plane's maps that depend on the configuration.
    pub(crate) fn table_sizes(&self) -> BTreeMap<&'static str, u32> {
        [
            (CT_TCP, self.tcp_connections),
            (CT_ANY, self.other_connections),
        ]
        .map(|(map, TableSize(connections))| (map, 2 * connections))
        .into()
    }
}

impl Default for NetConfig {
    fn default() -> Self {
        Self {
            address_pools: Pool::defaults(),
            overlay_pools: Pool::of_overlays(),
            default_bridge: IfName::parse("hawser0").expect("a valid name"),
            default_bridge_subnet: None,
            mtu: None,
            dns: Vec::new(),
            mode: None,
            front: Front::default(),
            tcp_connections: TableSize(MAX_CT_TCP / 2),
            other_connections: TableSize(MAX_CT_ANY / 2),
            key_seconds: KEY_SECONDS,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_have_two_entries_a_connection() {
        let sizes = NetConfig::default().table_sizes();
        assert_eq!(sizes, [(CT_TCP, MAX_CT_TCP), (CT_ANY, MAX_CT_ANY)].into());
        assert!(TableSize::try_from(1).is_err() && TableSize::try_from(5_000_000).is_err());
    }
}
