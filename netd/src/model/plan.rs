//! From what should be to the steps that make it so.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use api::id::{Id, IfName};

use super::address::mac_of;
use super::child;
use super::desired::Desired;
use super::driver::Bridge;
use super::endpoint::Endpoint;
use super::filter::Filter;
use super::limit::Rate;
use super::mesh;
use super::network::Network;
use super::observed::{Link, Observed};
use super::overlay;
use super::port::{PortHolder, PortTable};
use super::reserved::PortSet;
use super::route::is_default;
use super::service::plan::{balance, rebalance};
use super::step::{Pair, SandboxLink, Step};
use super::wireguard;
use crate::bpf::{Edge, Frontend, Sandbox};

/// Makes `network`, which `before` lacks.
pub(crate) fn create_network(before: &Desired, network: &Network) -> Vec<Step> {
    if network.bridge().is_none() {
        return child::create_parent(network).into_iter().collect();
    }
    let from = before.filter();
    let mut to = from.clone();
    network.add_to(&mut to);
    let mut steps = vec![Step::EnableForwarding { ipv6: false }];
    if network.ipv6 {
        steps.push(Step::EnableForwarding { ipv6: true });
    }
    // Isolated before it exists.
    steps.push(Step::SetFilter {
        from: Some(from),
        to,
    });
    for at in network.bridges().enumerate() {
        steps.extend(create_bridge(network, at));
        steps.extend(add_addresses(network, at));
    }
    steps.extend(overlay::create(before, network));
    steps
}

/// Unmakes `network`, which `after` lacks.
pub(crate) fn remove_network(after: &Desired, network: &Network) -> Vec<Step> {
    if network.bridge().is_none() {
        let others = after.networks.values().map(|other| &**other);
        return child::delete_parent(network, others).into_iter().collect();
    }
    let bridges = network.bridges().cloned();
    let bridges = bridges.map(|link| Step::DeleteLink { link });
    let filter = Step::SetFilter {
        from: None,
        to: after.filter(),
    };
    let ports = overlay::remove(network);
    let below = wireguard::remove(after, network);
    ports
        .into_iter()
        .chain(below)
        .chain(bridges)
        .chain([filter])
        .collect()
}

/// Connects `endpoint`, which `after` has and `before` lacks. `ports` are those of all endpoints, with
/// or without it; what `losers` carry no more becomes its own.
pub(crate) fn attach(
    before: &Desired,
    after: &Desired,
    network: &Network,
    (endpoint, losers): (&Endpoint, &[Endpoint]),
    ports: &PortTable,
) -> Vec<Step> {
    let mut steps = connect(after, network, endpoint);
    steps.extend(sandbox_change(before, after, endpoint));
    for loser in losers {
        if let Some(was) = before.endpoints.get(&loser.key()) {
            steps.extend(take_routes(endpoint, was, loser));
            steps.extend(withdraw(was, loser));
        }
    }
    let ports = own_ports(ports, endpoint);
    if !ports.is_empty() {
        steps.push(Step::ReservePorts(ports));
    }
    // Traffic comes last, when there is somebody to answer it.
    steps.extend(publish(endpoint));
    steps.extend(balance(before, after, services_of(endpoint)));
    steps
}

/// Leads the default routes that `was` carried and `is` does not by `endpoint`'s interface.
fn take_routes(endpoint: &Endpoint, was: &Endpoint, is: &Endpoint) -> Vec<Step> {
    let (old, new) = (&was.attachment, &endpoint.attachment);
    let lost = old
        .routes
        .iter()
        .filter(|route| !is.attachment.routes.contains(route));
    let moved = lost.filter_map(|from| {
        let mut routes = new.routes.iter().filter(|route| is_default(route));
        let to = routes.find(|to| to.dst == from.dst)?;
        Some(Step::MoveRoute {
            sandbox: endpoint.sandbox.clone(),
            from: (old.ifname.clone(), *from),
            to: (new.ifname.clone(), *to),
        })
    });
    moved.collect()
}

/// Takes back what `was` published and `is` does not.
fn withdraw(was: &Endpoint, is: &Endpoint) -> Option<Step> {
    let kept: BTreeMap<Frontend, SocketAddr> = is.frontends().collect();
    let lost = was
        .frontends()
        .filter(|(frontend, _)| !kept.contains_key(frontend));
    unless_empty(lost).map(Step::Unpublish)
}

fn unless_empty<T>(items: impl Iterator<Item = T>) -> Option<Vec<T>> {
    let items: Vec<T> = items.collect();
    (!items.is_empty()).then_some(items)
}

/// Lets `heir` carry what an endpoint of its sandbox did that is gone; `ports` are those of all
/// endpoints, with or without it.
pub(crate) fn inherit(heir: &Endpoint, ports: &PortTable) -> Vec<Step> {
    let ports = own_ports(ports, heir);
    let reserve = (!ports.is_empty()).then_some(Step::ReservePorts(ports));
    [configure(heir)]
        .into_iter()
        .chain(reserve)
        .chain(publish(heir))
        .collect()
}

/// Disconnects `endpoint`, which `before` has and `after` lacks. Its interface is cut off, and may be
/// deleted at leisure.
pub(crate) fn detach(
    before: &Desired,
    after: &Desired,
    endpoint: &Endpoint,
    ports: &PortTable,
) -> Vec<Step> {
    let mut steps = balance(before, after, services_of(endpoint));
    steps.extend(unless_empty(endpoint.frontends()).map(Step::Unpublish));
    let ports = own_ports(ports, endpoint);
    if !ports.is_empty() {
        steps.push(Step::ReleasePorts(ports));
    }
    steps.extend(sandbox_change(before, after, endpoint));
    steps.extend(disconnect(before, endpoint));
    steps
}

/// Gives the endpoint's links another MTU. The host's end comes last: it shows that all is done.
pub(crate) fn resize(endpoint: &Endpoint, mtu: u32) -> Vec<Step> {
    let attachment = &endpoint.attachment;
    let inside = Step::SetSandboxMtu {
        sandbox: endpoint.sandbox.clone(),
        ifname: attachment.ifname.clone(),
        mtu,
    };
    let host = attachment.host_ifname.clone();
    let host = host.map(|link| Step::SetMtu { link, mtu });
    [inside].into_iter().chain(host).collect()
}

/// Sets the endpoint's interface up as its record says.
pub(crate) fn configure(endpoint: &Endpoint) -> Step {
    Step::ConfigureSandbox(sandbox_link(endpoint))
}

/// Announces the endpoint's addresses, if that was not done when its interface came up. Where link
/// addresses have always followed from addresses, nobody can remember another one.
pub(crate) fn announce(network: &Network, endpoint: &Endpoint) -> Option<Step> {
    let mut link = sandbox_link(endpoint);
    let is_remembered =
        |address: IpAddr| !network.other_macs && endpoint.attachment.mac == Some(mac_of(address));
    link.addresses.retain(|net| !is_remembered(net.addr()));
    (!link.announces && !link.addresses.is_empty()).then_some(Step::Announce(link))
}

fn sandbox_link(endpoint: &Endpoint) -> SandboxLink {
    let attachment = &endpoint.attachment;
    SandboxLink {
        sandbox: endpoint.sandbox.clone(),
        ifname: attachment.ifname.clone(),
        addresses: attachment.addresses.iter().map(|a| a.address).collect(),
        routes: attachment.routes.clone(),
        // A bridge of ours may have a thousand ports, and its port needs a word only once.
        announces: attachment.host_ifname.is_none(),
    }
}

/// The difference between what should be and what is.
///
/// Only what is on record is ever touched: interfaces and tables of others have nothing to fear.
pub(crate) fn repair(desired: &Desired, observed: &Observed) -> Vec<Step> {
    let mut steps = Vec::new();
    if !observed.ipv4_forwarding && desired.bridges().next().is_some() {
        steps.push(Step::EnableForwarding { ipv6: false });
    }
    if !observed.ipv6_forwarding && desired.has_ipv6() {
        steps.push(Step::EnableForwarding { ipv6: true });
    }
    let filter = desired.filter();
    if filter != Filter::default() && observed.filter.as_ref() != Some(&filter) {
        steps.push(Step::SetFilter {
            from: observed.filter.clone(),
            to: filter,
        });
    }
    // What other interfaces are on top of.
    steps.extend(wireguard::repair(desired, observed));
    for network in desired.networks.values() {
        steps.extend(repair_network(desired, network, observed));
    }
    for endpoint in desired.endpoints.values() {
        steps.extend(repair_endpoint(desired, endpoint, observed));
    }
    steps.extend(mesh::repair(desired, observed));
    steps.extend(repair_edges(&desired.edges(), observed));
    if observed.data_plane.hook_lost {
        steps.push(Step::AttachHooks);
    }
    steps.extend(repair_sandboxes(&desired.sandboxes(), observed));
    let ports = desired.endpoints.values().flat_map(|e| e.host_ports());
    let of_services = desired.services.values().flat_map(|s| s.host_ports());
    let ports = ports.chain(of_services);
    let missing: PortSet = ports
        .filter(|port| !observed.reserved_ports.contains(*port))
        .collect();
    if !missing.is_empty() {
        steps.push(Step::ReservePorts(missing));
    }
    steps.extend(repair_published(&desired.published(), observed));
    steps.extend(rebalance(
        &observed.data_plane.balanced,
        &desired.balanced(),
    ));
    steps
}

/// What of `network` is missing, that all of its endpoints depend on.
pub(crate) fn missing(desired: &Desired, network: &Network, observed: &Observed) -> Option<Step> {
    let uplinks = host(desired, observed)
        .into_iter()
        .filter(|step| matches!(step, Step::AttachUplink { .. }));
    repair_network(desired, network, observed)
        .into_iter()
        .chain(uplinks)
        .next()
}

/// The data plane's view of the host: its addresses, and the links that others reach it by.
pub(crate) fn host(desired: &Desired, observed: &Observed) -> Vec<Step> {
    let uplinks = uplinks(desired, observed);
    let attached = &observed.data_plane.uplinks;
    let gone = attached
        .iter()
        .filter(|index| !uplinks.contains_key(index))
        .map(|index| Step::DetachUplink { index: *index });
    let new = uplinks
        .iter()
        .filter(|(index, _)| !attached.contains(index))
        .map(|(index, name)| Step::AttachUplink {
            index: *index,
            name: (*name).clone(),
        });
    let local = observed.local_addresses();
    let sealed = desired.sealed();
    let seal = (sealed != observed.data_plane.sealed).then_some(Step::Seal(sealed));
    (local != observed.data_plane.local)
        .then_some(Step::SetLocalAddresses(local))
        .into_iter()
        .chain(seal)
        .chain(gone)
        .chain(new)
        .chain(mesh::attach(desired, observed))
        .collect()
}

/// Links that carry an address others can send to, and that we did not make.
fn uplinks<'a>(desired: &Desired, observed: &'a Observed) -> BTreeMap<u32, &'a IfName> {
    let mesh = mesh::link();
    let own: BTreeSet<&IfName> = desired.bridges().chain([&mesh]).collect();
    observed
        .links
        .iter()
        .filter(|(name, link)| {
            !link.loopback
                && !own.contains(name)
                && link.addresses.iter().any(|address| address.global)
        })
        .map(|(name, link)| (link.index, name))
        .collect()
}

fn create_bridge(network: &Network, (segment, link): (usize, &IfName)) -> Option<Step> {
    Some(Step::CreateBridge {
        link: link.clone(),
        mac: network.mac(segment),
        mtu: network.bridge()?.mtu.bytes,
        ipv6: network.ipv6,
    })
}

fn add_addresses(
    network: &Network,
    (segment, link): (usize, &IfName),
) -> impl Iterator<Item = Step> {
    let gateways = network.gateways_in(segment);
    gateways.map(|address| Step::AddAddress {
        link: link.clone(),
        address,
    })
}

fn connect(desired: &Desired, network: &Network, endpoint: &Endpoint) -> Vec<Step> {
    let attachment = &endpoint.attachment;
    let (Some(bridge), Some(at), Some(host)) = (
        network.bridge(),
        network.bridge_of(endpoint),
        attachment.host_ifname.clone(),
    ) else {
        return child::connect(network, endpoint);
    };
    let pair = Pair {
        host,
        bridge: at.clone(),
        isolated: !bridge.icc,
        sandbox: endpoint.sandbox.clone(),
        ifname: attachment.ifname.clone(),
        mac: attachment.mac,
        mtu: attachment.mtu,
    };
    // Guarded before the sandbox's end is up.
    let guard = desired
        .edge(endpoint)
        .map(|(link, edge)| Step::GuardEndpoint { link, edge });
    let raise = raise(bridge, at, pair.host.clone());
    [Step::CreatePair(pair)]
        .into_iter()
        .chain(guard)
        .chain([configure(endpoint)])
        .chain(take_frames(desired, endpoint))
        .chain(limit_ingress(endpoint))
        .chain(limit_egress(endpoint))
        .chain([raise])
        .collect()
}

/// Where the front serves, endpoints that packets may enter at once take them from there as well.
fn take_frames(desired: &Desired, endpoint: &Endpoint) -> Option<Step> {
    let (link, edge) = desired.edge(endpoint).filter(|_| desired.front)?;
    edge.direct_mtu?;
    Some(Step::TakeFrames {
        sandbox: endpoint.sandbox.clone(),
        ifname: endpoint.attachment.ifname.clone(),
        link,
    })
}

/// Sets a port of the bridge `at` up.
fn raise(bridge: &Bridge, at: &IfName, link: IfName) -> Step {
    Step::SetMaster {
        link,
        bridge: at.clone(),
        isolated: !bridge.icc,
    }
}

fn limit_ingress(endpoint: &Endpoint) -> Option<Step> {
    let attachment = &endpoint.attachment;
    let rate = Rate::ingress(&attachment.bandwidth?, attachment.mtu)?;
    let link = attachment.host_ifname.clone()?;
    Some(Step::SetRate { link, rate })
}

/// The buffer, and nothing through it before it has its limit.
fn limit_egress(endpoint: &Endpoint) -> Vec<Step> {
    let attachment = &endpoint.attachment;
    let limits = attachment.bandwidth.unwrap_or_default();
    let (Some(buffer), Some(host), Some(rate)) = (
        endpoint.buffer(),
        attachment.host_ifname.clone(),
        Rate::egress(&limits, attachment.mtu),
    ) else {
        return Vec::new();
    };
    vec![
        Step::CreateBuffer {
            link: buffer.clone(),
            mtu: attachment.mtu,
        },
        Step::SetRate {
            link: buffer.clone(),
            rate,
        },
        Step::Redirect {
            from: host,
            to: buffer,
        },
    ]
}

/// The limits of an endpoint that are not there.
pub(crate) fn repair_limits(endpoint: &Endpoint, observed: &Observed) -> Vec<Step> {
    let limited = |link: Option<&IfName>| {
        link.and_then(|link| observed.links.get(link))
            .is_some_and(|link| link.limited)
    };
    let mut steps = Vec::new();
    if !limited(endpoint.attachment.host_ifname.as_ref()) {
        steps.extend(limit_ingress(endpoint));
    }
    if !limited(endpoint.buffer().as_ref()) {
        steps.extend(limit_egress(endpoint));
    }
    steps
}

fn disconnect(before: &Desired, endpoint: &Endpoint) -> Vec<Step> {
    let attachment = &endpoint.attachment;
    let mut steps = Vec::new();
    if let Some(link) = attachment.host_ifname.clone() {
        steps.push(Step::ReleaseEndpoint { link: link.clone() });
        steps.push(Step::CutLink { link });
    } else if let Some(network) = before.networks.get(&attachment.network_id) {
        steps.extend(child::disconnect(network, endpoint));
    }
    steps.extend(endpoint.buffer().map(|link| Step::CutLink { link }));
    steps
}

/// The host ports that only `endpoint` publishes: others may have the same on other addresses.
fn own_ports(ports: &PortTable, endpoint: &Endpoint) -> PortSet {
    let key = PortHolder::Endpoint(endpoint.key());
    let own = endpoint.host_ports();
    own.filter(|port| !ports.is_held_by_another(&key, *port))
        .collect()
}

fn services_of(endpoint: &Endpoint) -> impl Iterator<Item = &Id> {
    endpoint.memberships.iter().map(|part| &part.service)
}

fn publish(endpoint: &Endpoint) -> Option<Step> {
    unless_empty(endpoint.frontends()).map(Step::Publish)
}

fn sandbox_change(before: &Desired, after: &Desired, endpoint: &Endpoint) -> Option<Step> {
    let cookie = endpoint.sandbox.cookie?;
    let from = before.sandbox(&endpoint.sandbox);
    let to = after.sandbox(&endpoint.sandbox);
    (from != to).then_some(Step::SetSandbox { cookie, from, to })
}

fn repair_network(desired: &Desired, network: &Network, observed: &Observed) -> Vec<Step> {
    let Some(bridge) = network.bridge() else {
        return child::repair_parent(network, observed)
            .into_iter()
            .collect();
    };
    let mut steps = Vec::new();
    for at in network.bridges().enumerate() {
        let link = observed.links.get(at.1);
        if !link.is_some_and(|link| link.up && link.mtu == bridge.mtu.bytes) {
            steps.extend(create_bridge(network, at));
        }
        let has = |address| link.is_some_and(|link| has_address(link, address));
        steps.extend(add_addresses(network, at).filter(|step| match step {
            Step::AddAddress { address, .. } => !has(*address),
            _ => true,
        }));
    }
    steps.extend(overlay::repair(desired, network, observed));
    steps
}

fn has_address(link: &Link, address: ipnet::IpNet) -> bool {
    link.addresses.iter().any(|other| other.net == address)
}

fn repair_endpoint(desired: &Desired, endpoint: &Endpoint, observed: &Observed) -> Vec<Step> {
    let attachment = &endpoint.attachment;
    let Some(network) = desired.networks.get(&attachment.network_id) else {
        return Vec::new();
    };
    let (Some(bridge), Some(name), Some(host)) = (
        network.bridge(),
        network.bridge_of(endpoint),
        &attachment.host_ifname,
    ) else {
        let lost = observed.lost.contains(&endpoint.key());
        return if lost {
            connect(desired, network, endpoint)
        } else {
            Vec::new()
        };
    };
    let Some(link) = observed.links.get(host) else {
        return connect(desired, network, endpoint);
    };
    let mut steps = repair_limits(endpoint, observed);
    if link.mtu != attachment.mtu {
        steps.extend(resize(endpoint, attachment.mtu));
    }
    let at = observed.links.get(name).map(|bridge| bridge.index);
    let is_apart = bridge.icc || link.isolated;
    if !link.up || at.is_none() || link.master != at || !is_apart {
        steps.push(raise(bridge, name, host.clone()));
    }
    if !observed.data_plane.frame_links.contains(&link.index) {
        steps.extend(take_frames(desired, endpoint));
    }
    steps
}

fn repair_edges(desired: &BTreeMap<IfName, Edge>, observed: &Observed) -> Vec<Step> {
    let edges = &observed.data_plane.edges;
    let stale = edges
        .keys()
        .filter(|link| !desired.contains_key(link))
        .map(|link| Step::ReleaseEndpoint { link: link.clone() });
    let missing = desired
        .iter()
        // A link that is gone is guarded when it is made anew.
        .filter(|(link, _)| observed.links.contains_key(link))
        .filter(|(link, edge)| edges.get(link) != Some(&Some(**edge)))
        .map(|(link, edge)| Step::GuardEndpoint {
            link: link.clone(),
            edge: *edge,
        });
    stale.chain(missing).collect()
}

fn repair_sandboxes(desired: &BTreeMap<u64, Sandbox>, observed: &Observed) -> Vec<Step> {
    let observed = &observed.data_plane.sandboxes;
    let cookies: BTreeSet<u64> = desired.keys().chain(observed.keys()).copied().collect();
    cookies
        .into_iter()
        .filter_map(|cookie| {
            let (from, to) = (observed.get(&cookie), desired.get(&cookie));
            (from != to).then(|| Step::SetSandbox {
                cookie,
                from: from.cloned(),
                to: to.cloned(),
            })
        })
        .collect()
}

/// A step for each, so that each is told of.
fn repair_published(desired: &BTreeMap<Frontend, SocketAddr>, observed: &Observed) -> Vec<Step> {
    let observed = &observed.data_plane.published;
    let stale = observed
        .iter()
        .filter(|(frontend, _)| !desired.contains_key(frontend))
        .map(|(frontend, backend)| Step::Unpublish(vec![(*frontend, *backend)]));
    let missing = desired
        .iter()
        .filter(|(frontend, backend)| observed.get(frontend) != Some(backend))
        .map(|(frontend, backend)| Step::Publish(vec![(*frontend, *backend)]));
    stale.chain(missing).collect()
}
