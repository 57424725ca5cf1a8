//! The routes of an endpoint.

use std::net::{Ipv4Addr, Ipv6Addr};

use api::net::{AttachRequest, EndpointAddress, LinkBy, Route};
use ipnet::IpNet;

use super::network::Network;

/// What was asked for, or the defaults; which endpoint of a sandbox carries the default route is
/// settled elsewhere.
pub(super) fn choose(
    request: &AttachRequest,
    network: &Network,
    addresses: &[EndpointAddress],
) -> Vec<Route> {
    match (&request.routes, request.link) {
        (Some(routes), _) => routes.clone(),
        (None, LinkBy::Hawser) => defaults(network, addresses),
        (None, LinkBy::Others) => Vec::new(),
    }
}

/// Of the main table and of no priority of its own: two of those clash.
pub(crate) fn is_default(route: &Route) -> bool {
    route.dst.prefix_len() == 0 && route.priority.is_none() && route.table.is_none()
}

/// One by each gateway; by the interface alone where the network has a way out and no gateway.
fn defaults(network: &Network, addresses: &[EndpointAddress]) -> Vec<Route> {
    let routes = addresses.iter().filter_map(|address| {
        let v6 = address.address.addr().is_ipv6();
        let direct = !network.driver.has_gateway() && network.has_way_out(v6);
        (address.gateway.is_some() || direct).then(|| Route {
            dst: match v6 {
                false => IpNet::new_assert(Ipv4Addr::UNSPECIFIED.into(), 0),
                true => IpNet::new_assert(Ipv6Addr::UNSPECIFIED.into(), 0),
            },
            gateway: address.gateway,
            ..Route::default()
        })
    });
    routes.collect()
}
