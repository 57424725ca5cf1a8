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
        (None, LinkBy::Hawser) => {
            let mut routes = defaults(network, addresses);
            routes.extend(to_other_segments(network, addresses));
            routes
        }
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

/// By the gateway of the endpoint's own segment, also where another network has the default route, or
/// none does.
fn to_other_segments(network: &Network, addresses: &[EndpointAddress]) -> Vec<Route> {
    let mut routes = Vec::new();
    for address in addresses {
        let address = address.address.addr();
        let segment = network.segment_of(address);
        let mut near = network.subnets_in(segment);
        let Some(near) = near.find(|subnet| subnet.subnet.contains(&address)) else {
            continue;
        };
        let others = (0..network.segments()).filter(|other| *other != segment);
        let far = others.flat_map(|other| network.subnets_in(other));
        let far = far.filter(|subnet| subnet.is_ipv6() == near.is_ipv6());
        routes.extend(far.map(|subnet| Route {
            dst: subnet.subnet,
            gateway: Some(near.gateway),
            ..Route::default()
        }));
    }
    routes
}
