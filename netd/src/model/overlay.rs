//! The plans of what overlay networks have besides their bridges: a VXLAN interface each, and where it
//! leads.
//!
//! Nothing is ever flooded to other nodes, nor learned from what they send: all that leads there is
//! what the control plane tells.

use super::desired::Desired;
use super::driver::{Overlay, Segment, Tunnel};
use super::forwarding::Forwarding;
use super::network::Network;
use super::observed::{Link, Observed};
use super::peer::Difference;
use super::step::{Step, Vxlan};
use super::wireguard;

/// What is to be made on top of the bridges.
pub(super) fn create(desired: &Desired, network: &Network) -> Vec<Step> {
    let Some((overlay, tunnel)) = tunnelled(network) else {
        return Vec::new();
    };
    let mut steps = wireguard::create(desired, network);
    for (at, segment) in overlay.segments().enumerate() {
        steps.extend(create_segment(desired, network, (at, &segment), tunnel));
    }
    steps
}

fn create_segment(
    desired: &Desired,
    network: &Network,
    (at, segment): (usize, &Segment),
    tunnel: Tunnel,
) -> Vec<Step> {
    let entries = desired.forwarding(network, at).unwrap_or_default();
    let forward = forward(segment, &Forwarding::default(), &entries);
    let link = create_link(network, segment, tunnel);
    link.into_iter().chain(forward).collect()
}

pub(crate) fn remove(network: &Network) -> Vec<Step> {
    let overlays = tunnelled(network).into_iter();
    let segments = overlays.flat_map(|(overlay, _tunnel)| overlay.segments());
    segments.map(delete_link).collect()
}

/// What is not as it should be.
pub(crate) fn repair(desired: &Desired, network: &Network, observed: &Observed) -> Vec<Step> {
    let Some((overlay, tunnel)) = tunnelled(network) else {
        return Vec::new();
    };
    let mut steps = Vec::new();
    for segment in overlay.segments().enumerate() {
        steps.extend(repair_segment(desired, network, segment, tunnel, observed));
    }
    steps
}

fn repair_segment(
    desired: &Desired,
    network: &Network,
    (at, segment): (usize, Segment),
    tunnel: Tunnel,
    observed: &Observed,
) -> Vec<Step> {
    let is_ours = |link: &Link| {
        let vxlan = link.vxlan.as_ref();
        vxlan.is_some_and(|vxlan| {
            vxlan.vni == segment.vni
                && vxlan.tunnel == Some(tunnel)
                && wireguard::is_below(vxlan, tunnel, observed)
        })
    };
    let Some(link) = observed.links.get(&segment.link) else {
        return create_segment(desired, network, (at, &segment), tunnel);
    };
    if !is_ours(link) {
        let create = create_segment(desired, network, (at, &segment), tunnel);
        return [delete_link(segment)].into_iter().chain(create).collect();
    }
    let mut steps = Vec::new();
    let bridge = observed.links.get(&segment.bridge);
    let is_port = bridge.is_some_and(|bridge| link.master == Some(bridge.index));
    let is_quiet = link.vxlan.is_some_and(|vxlan| vxlan.quiet);
    let fits = network
        .bridge()
        .is_some_and(|bridge| link.mtu == bridge.mtu.bytes);
    if !(link.up && is_port && is_quiet && fits) {
        steps.extend(create_link(network, &segment, tunnel));
    }
    // Until it is known who is where, what leads there stays.
    let Some(entries) = desired.forwarding(network, at) else {
        return steps;
    };
    let nothing = Forwarding::default();
    // A bridge forgets what is behind a port that leaves, or comes back.
    let seen = observed.forwarding.get(&segment.link).unwrap_or(&nothing);
    let seen = if is_port { seen } else { &nothing };
    steps.extend(forward(&segment, seen, &entries));
    steps
}

/// Follows a change of who is where. It costs as much as the change, however many others there are.
pub(crate) fn follow(
    before: &Desired,
    after: &Desired,
    network: &Network,
    difference: &Difference<'_>,
) -> Vec<Step> {
    let overlays = tunnelled(network).into_iter();
    let segments = overlays.flat_map(|(overlay, _tunnel)| overlay.segments().enumerate());
    let steps = segments.filter_map(|(at, segment)| {
        let from = before.forwarding_near(network, at, difference);
        let to = after.forwarding_near(network, at, difference)?;
        forward(&segment, &from.unwrap_or_default(), &to)
    });
    steps.collect()
}

fn tunnelled(network: &Network) -> Option<(&Overlay, Tunnel)> {
    let overlay = network.driver.overlay()?;
    Some((overlay, overlay.end()?))
}

fn create_link(network: &Network, segment: &Segment, tunnel: Tunnel) -> Option<Step> {
    Some(Step::CreateVxlan(Vxlan {
        link: segment.link.clone(),
        bridge: segment.bridge.clone(),
        vni: segment.vni,
        tunnel,
        mtu: network.bridge()?.mtu.bytes,
    }))
}

fn delete_link(segment: Segment) -> Step {
    let link = segment.link;
    Step::DeleteLink { link }
}

fn forward(segment: &Segment, from: &Forwarding, to: &Forwarding) -> Option<Step> {
    let (gone, new) = (from.beyond(to), to.beyond(from));
    if gone.is_empty() && new.is_empty() {
        return None;
    }
    Some(Step::Forward {
        link: segment.link.clone(),
        bridge: Some(segment.bridge.clone()),
        gone,
        new,
    })
}
