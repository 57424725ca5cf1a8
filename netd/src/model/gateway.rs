//! Which of a sandbox's endpoints carries its default route, family by family.
//!
//! As in Docker, the highest priority goes first, and of several the first network by name.
//! Runtimes that know no priority mean the order in which they join networks. Published ports go
//! where the default route goes: their answers leave that way.

use std::cmp::Reverse;
use std::sync::Arc;

use api::net::LinkBy;

use super::desired::Desired;
use super::endpoint::{Endpoint, EndpointKey};
use super::network::Stage;

/// Settles who carries what when `endpoint`, which `before` lacks, joins. Returns those of the
/// others that carry less from now on; what they lose is the new one's.
pub(crate) fn join(before: &Desired, endpoint: &mut Endpoint) -> Vec<Endpoint> {
    let others = candidates(before, endpoint);
    let all = others.iter().map(|other| &**other);
    let carriers = Carriers::of(all.chain([&*endpoint]));
    let mut changed = Vec::new();
    for other in &others {
        let mut other = Endpoint::clone(other);
        if carriers.assign(&mut other) {
            changed.push(other);
        }
    }
    carriers.assign(endpoint);
    for other in changed.iter_mut().filter(|e| !e.has_default_route()) {
        give_ports(other, endpoint);
    }
    changed
}

/// Who carries what `gone` did, which `after` lacks: these endpoints, as they are from now on.
pub(crate) fn leave(after: &Desired, gone: &Endpoint) -> Vec<Endpoint> {
    if !gone.has_default_route() {
        return Vec::new();
    }
    let rest = candidates(after, gone);
    let carriers = Carriers::of(rest.iter().map(|endpoint| &**endpoint));
    let mut gone = gone.clone();
    let mut heirs = Vec::new();
    for endpoint in rest {
        let mut heir = Endpoint::clone(&endpoint);
        carriers.assign(&mut heir);
        if heir.has_default_route() {
            heirs.push(heir);
        }
    }
    // Most clients speak IPv4.
    heirs.sort_by_key(|heir| !heir.carries(false));
    for heir in &mut heirs {
        give_ports(&mut gone, heir);
    }
    heirs
}

/// The endpoints beside `endpoint` in its sandbox whose routes are ours to set.
fn candidates(desired: &Desired, endpoint: &Endpoint) -> Vec<Arc<Endpoint>> {
    let beside = desired.endpoints.in_sandbox(&endpoint.sandbox);
    beside
        .filter(|other| other.stage != Stage::Removing)
        .filter(|other| other.attachment.link == LinkBy::Hawser && other.key() != endpoint.key())
        .cloned()
        .collect()
}

/// Published ports follow the default routes where both ends know of priorities, and where the new
/// one can publish them in the same way.
fn give_ports(from: &mut Endpoint, to: &mut Endpoint) {
    let know = [&*from, &*to].map(|endpoint| endpoint.attachment.gw_priority.is_some());
    let can = to.attachment.host_ifname.is_some() && to.routed == from.routed;
    if know == [true, true] && can && to.attachment.ports.is_empty() {
        to.attachment.ports = std::mem::take(&mut from.attachment.ports);
    }
}

/// Who carries the default route of each family.
struct Carriers {
    v4: Option<EndpointKey>,
    v6: Option<EndpointKey>,
}

impl Carriers {
    fn of<'a>(endpoints: impl Iterator<Item = &'a Endpoint>) -> Self {
        let mut sorted: Vec<&Endpoint> = endpoints.collect();
        sorted.sort_by_key(|endpoint| rank(endpoint));
        let first = |v6: bool| {
            let offers = |endpoint: &&&Endpoint| endpoint.offered(v6).next().is_some();
            sorted.iter().find(offers).map(|endpoint| endpoint.key())
        };
        Self {
            v4: first(false),
            v6: first(true),
        }
    }

    /// Gives the endpoint the default routes that are its own, and takes others away; whether that
    /// changed anything.
    fn assign(&self, endpoint: &mut Endpoint) -> bool {
        let key = Some(endpoint.key());
        let v4 = endpoint.carry(false, key == self.v4);
        let v6 = endpoint.carry(true, key == self.v6);
        v4 || v6
    }
}

fn rank(endpoint: &Endpoint) -> (Reverse<i64>, &str, u64) {
    let attachment = &endpoint.attachment;
    let name = match attachment.gw_priority {
        Some(_) => attachment.network.as_str(),
        None => "",
    };
    let priority = attachment.gw_priority.unwrap_or_default();
    (Reverse(priority), name, endpoint.order)
}
