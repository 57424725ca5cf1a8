//! The reply of a delegated address management plugin, in the shapes of all versions. Pure.

use std::net::IpAddr;

use api::net::{EndpointAddress, Route};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::StaticDns;

/// What was assigned.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Lease {
    pub(crate) addresses: Vec<EndpointAddress>,
    pub(crate) routes: Vec<Route>,
    pub(crate) dns: StaticDns,
}

/// A route as configurations and results have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CniRoute {
    dst: IpNet,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    gw: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mtu: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    advmss: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    priority: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    table: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    scope: Option<u8>,
}

impl From<&Route> for CniRoute {
    fn from(route: &Route) -> Self {
        Self {
            dst: route.dst,
            gw: route.gateway,
            mtu: route.mtu,
            advmss: route.advmss,
            priority: route.priority,
            table: route.table,
            scope: route.scope,
        }
    }
}

impl From<&CniRoute> for Route {
    fn from(route: &CniRoute) -> Self {
        Self {
            dst: route.dst,
            gateway: route.gw,
            mtu: route.mtu,
            advmss: route.advmss,
            priority: route.priority,
            table: route.table,
            scope: route.scope,
        }
    }
}

impl CniRoute {
    /// Only what results had before 1.1.0.
    pub(crate) fn plain(self) -> Self {
        Self {
            mtu: None,
            advmss: None,
            priority: None,
            table: None,
            scope: None,
            ..self
        }
    }
}

/// `ips` and `routes` since 0.3.0; before, one of each family. Programs in Go write empty lists as
/// `null`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Reply {
    ips: Option<Vec<Ip>>,
    routes: Option<Vec<CniRoute>>,
    ip4: Option<Family>,
    ip6: Option<Family>,
    dns: Option<StaticDns>,
}

#[derive(Debug, Deserialize)]
struct Ip {
    address: IpNet,
    gateway: Option<IpAddr>,
}

#[derive(Debug, Deserialize)]
struct Family {
    ip: IpNet,
    gateway: Option<IpAddr>,
    routes: Option<Vec<CniRoute>>,
}

impl Lease {
    /// # Errors
    /// What is not the reply of an address management plugin.
    pub(crate) fn parse(reply: &[u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(reply).map(Self::from_reply)
    }

    /// # Errors
    /// What is not a result.
    pub(crate) fn of_result(result: Value) -> serde_json::Result<Self> {
        Reply::deserialize(result).map(Self::from_reply)
    }

    fn from_reply(reply: Reply) -> Self {
        let mut addresses = Vec::new();
        let mut routes = reply.routes.unwrap_or_default();
        for ip in reply.ips.unwrap_or_default() {
            addresses.push(address(ip.address, ip.gateway));
        }
        for family in [reply.ip4, reply.ip6].into_iter().flatten() {
            addresses.push(address(family.ip, family.gateway));
            routes.extend(family.routes.unwrap_or_default());
        }
        Self {
            routes: routes.iter().map(|route| via(route, &addresses)).collect(),
            addresses,
            dns: reply.dns.unwrap_or_default(),
        }
    }
}

fn address(address: IpNet, gateway: Option<IpAddr>) -> EndpointAddress {
    EndpointAddress { address, gateway }
}

/// A route without a gateway goes by that of the address of its family, as the specification has
/// it; where there is none either, and where its scope says so, it ends on the link.
fn via(route: &CniRoute, addresses: &[EndpointAddress]) -> Route {
    let is_v6 = route.dst.addr().is_ipv6();
    let of_family = || {
        let mut gateways = addresses.iter().filter_map(|entry| entry.gateway);
        gateways.find(|gateway| gateway.is_ipv6() == is_v6)
    };
    // RT_SCOPE_LINK.
    let on_link = route.scope.is_some_and(|scope| scope >= 253);
    Route {
        gateway: route.gw.or_else(|| of_family().filter(|_| !on_link)),
        ..Route::from(route)
    }
}
