//! The `[network]` table of `hawserd.toml`.

use std::net::SocketAddr;

use api::id::IfName;
use ipnet::IpNet;
use serde::Deserialize;

use crate::model::ipam::Pool;

/// What an administrator may set; every member has a default.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct NetConfig {
    /// Where subnets of networks without `--subnet` come from, in order of preference.
    pub address_pools: Vec<Pool>,
    /// Kernel name of the network `bridge`.
    pub default_bridge: IfName,
    /// Subnet of the network `bridge`; the first free pool when absent.
    pub default_bridge_subnet: Option<IpNet>,
    /// MTU of networks that set none; that of the default route's link when absent.
    pub mtu: Option<u32>,
    /// Upstream resolvers; those of `/etc/resolv.conf` when empty.
    pub dns: Vec<SocketAddr>,
}

impl Default for NetConfig {
    fn default() -> Self {
        Self {
            address_pools: Pool::defaults(),
            default_bridge: IfName::parse("hawser0").expect("a valid name"),
            default_bridge_subnet: None,
            mtu: None,
            dns: Vec::new(),
        }
    }
}
