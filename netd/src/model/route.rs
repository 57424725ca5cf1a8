//! The routes of an endpoint.

use std::net::{Ipv4Addr, Ipv6Addr};

use api::net::{AttachRequest, EndpointAddress, LinkBy, Route};
use ipnet::IpNet;

use super::network::Network;

/// A sandbox has one default route: the second one is left out.
pub(super) fn choose(
    request: &AttachRequest,
    network: &Network,
    addresses: &[EndpointAddress],
    has_default_route: bool,
) -> Vec<Route> {
    let mut routes = match (&request.routes, request.link) {
        (Some(routes), _) => routes.clone(),
        (None, LinkBy::Hawser) => defaults(network, addresses),
        (None, LinkBy::Others) => Vec::new(),
    };
    if has_default_route {
        routes.retain(|route| !is_default(route));
    }
    routes
}

/// Of the main table and of no priority of its own: two of those clash.
pub(super) fn is_default(route: &Route) -> bool {
    route.dst.prefix_len() == 0 && route.priority.is_none() && route.table.is_none()
}

/// One by each gateway; by the interface alone where the network has a way out and no gateway.
pub(super) fn defaults(network: &Network, addresses: &[EndpointAddress]) -> Vec<Route> {
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
