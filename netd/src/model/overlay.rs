//! The plans of what overlay networks have besides their bridge: a VXLAN interface, and where it
//! leads.
//!
//! Nothing is ever flooded to other nodes, nor learned from what they send: all that leads there is
//! what the control plane tells.

use super::desired::Desired;
use super::driver::{Overlay, Tunnel};
use super::forwarding::Forwarding;
use super::network::Network;
use super::observed::{Link, Observed};
use super::peer::Difference;
use super::step::{Step, Vxlan};
use super::wireguard;

/// What is to be made on top of the bridge.
pub(super) fn create(desired: &Desired, network: &Network) -> Vec<Step> {
    let Some((overlay, tunnel)) = tunnelled(network) else {
        return Vec::new();
    };
    let entries = desired.forwarding(network).unwrap_or_default();
    let forward = forward(overlay, &Forwarding::default(), &entries);
    wireguard::create(desired, network)
        .into_iter()
        .chain([create_link(overlay, tunnel)])
        .chain(forward)
        .collect()
}

pub(crate) fn remove(network: &Network) -> Option<Step> {
    let (overlay, _) = tunnelled(network)?;
    let link = overlay.link.clone();
    Some(Step::DeleteLink { link })
}

/// What is not as it should be.
pub(crate) fn repair(desired: &Desired, network: &Network, observed: &Observed) -> Vec<Step> {
    let Some((overlay, tunnel)) = tunnelled(network) else {
        return Vec::new();
    };
    let is_ours = |link: &Link| {
        let vxlan = link.vxlan.as_ref();
        vxlan.is_some_and(|vxlan| {
            vxlan.vni == overlay.vni
                && vxlan.tunnel == Some(tunnel)
                && wireguard::is_below(vxlan, tunnel, observed)
        })
    };
    let Some(link) = observed.links.get(&overlay.link) else {
        return create(desired, network);
    };
    if !is_ours(link) {
        return remove(network)
            .into_iter()
            .chain(create(desired, network))
            .collect();
    }
    let mut steps = Vec::new();
    let bridge = observed.links.get(&overlay.bridge.link);
    let is_port = bridge.is_some_and(|bridge| link.master == Some(bridge.index));
    let is_quiet = link.vxlan.is_some_and(|vxlan| vxlan.quiet);
    let fits = link.mtu == overlay.bridge.mtu.bytes;
    if !(link.up && is_port && is_quiet && fits) {
        steps.push(create_link(overlay, tunnel));
    }
    // Until it is known who is where, what leads there stays.
    let Some(entries) = desired.forwarding(network) else {
        return steps;
    };
    let nothing = Forwarding::default();
    // A bridge forgets what is behind a port that leaves, or comes back.
    let seen = observed.forwarding.get(&overlay.link).unwrap_or(&nothing);
    let seen = if is_port { seen } else { &nothing };
    steps.extend(forward(overlay, seen, &entries));
    steps
}

/// Follows a change of who is where. It costs as much as the change, however many others there are.
pub(crate) fn follow(
    before: &Desired,
    after: &Desired,
    network: &Network,
    difference: &Difference<'_>,
) -> Option<Step> {
    let (overlay, _) = tunnelled(network)?;
    let from = before.forwarding_near(network, difference);
    let to = after.forwarding_near(network, difference)?;
    forward(overlay, &from.unwrap_or_default(), &to)
}

fn tunnelled(network: &Network) -> Option<(&Overlay, Tunnel)> {
    let overlay = network.driver.overlay()?;
    Some((overlay, overlay.end()?))
}

fn create_link(overlay: &Overlay, tunnel: Tunnel) -> Step {
    Step::CreateVxlan(Vxlan {
        link: overlay.link.clone(),
        bridge: overlay.bridge.link.clone(),
        vni: overlay.vni,
        tunnel,
        mtu: overlay.bridge.mtu.bytes,
    })
}

fn forward(overlay: &Overlay, from: &Forwarding, to: &Forwarding) -> Option<Step> {
    let (gone, new) = (from.beyond(to), to.beyond(from));
    if gone.is_empty() && new.is_empty() {
        return None;
    }
    Some(Step::Forward {
        link: overlay.link.clone(),
        bridge: Some(overlay.bridge.link.clone()),
        gone,
        new,
    })
}
