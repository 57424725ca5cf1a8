//! Networks made from a parent interface: macvlan and ipvlan.
//!
//! An endpoint is one link, born inside its sandbox: there is no end of it on the host. The parent
//! is somebody's interface, or one made for the network, which carries our mark in the kernel, so
//! that nobody else's is ever removed.

use api::id::{Id, IfName, MacAddr};
use api::net::LinkBy;

use super::driver::{Driver, IpvlanFlag, IpvlanMode, LinkKind, MacvlanMode};
use super::endpoint::{Endpoint, Sandbox};
use super::network::Network;
use super::observed::Observed;
use super::plan;
use super::step::Step;

/// A link on top of a parent, inside a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Child {
    pub(crate) parent: IfName,
    pub(crate) kind: ChildKind,
    pub(crate) sandbox: Sandbox,
    pub(crate) ifname: IfName,
    /// By which it is found when somebody has renamed it.
    pub(crate) endpoint: Id,
    /// The parent's when absent.
    pub(crate) mac: Option<MacAddr>,
    pub(crate) mtu: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChildKind {
    Macvlan(MacvlanMode),
    Ipvlan(IpvlanMode, IpvlanFlag),
}

impl ChildKind {
    pub(crate) fn link_kind(self) -> LinkKind {
        match self {
            Self::Macvlan(_) => LinkKind::Macvlan,
            Self::Ipvlan(..) => LinkKind::Ipvlan,
        }
    }

    pub(crate) fn of(driver: &Driver) -> Option<Self> {
        match driver {
            Driver::Macvlan(macvlan) => Some(Self::Macvlan(macvlan.mode)),
            Driver::Ipvlan(ipvlan) => Some(Self::Ipvlan(ipvlan.mode, ipvlan.flag)),
            Driver::Bridge(_) | Driver::Overlay(_) | Driver::Host | Driver::Null | Driver::Pool => {
                None
            }
        }
    }
}

/// Makes the parent, if it is one of ours.
pub(super) fn create_parent(network: &Network) -> Option<Step> {
    let parent = network.driver.parent()?;
    let made = parent.made.clone()?;
    Some(Step::CreateParent {
        link: parent.link.clone(),
        made,
    })
}

/// Removes the parent, if it is one of ours and no network of `others` is made from it.
pub(super) fn delete_parent<'a>(
    network: &Network,
    others: impl IntoIterator<Item = &'a Network>,
) -> Option<Step> {
    let parent = network.driver.parent()?;
    parent.made.as_ref()?;
    let is_parent = |other: &Network| other.driver.parent().is_some_and(|p| p.link == parent.link);
    let shared = others
        .into_iter()
        .any(|o| o.id != network.id && is_parent(o));
    (!shared).then(|| Step::DeleteParent {
        link: parent.link.clone(),
    })
}

/// Gives the endpoint its interface, unless others do.
pub(super) fn connect(network: &Network, endpoint: &Endpoint) -> Vec<Step> {
    let attachment = &endpoint.attachment;
    let (Some(parent), Some(kind), LinkBy::Hawser) = (
        network.driver.parent(),
        ChildKind::of(&network.driver),
        attachment.link,
    ) else {
        return Vec::new();
    };
    let child = Child {
        parent: parent.link.clone(),
        kind,
        sandbox: endpoint.sandbox.clone(),
        ifname: attachment.ifname.clone(),
        endpoint: attachment.endpoint_id.clone(),
        mac: attachment.mac.filter(|_| network.driver.has_own_macs()),
        mtu: attachment.mtu,
    };
    vec![Step::CreateChild(child), plan::configure(endpoint)]
}

/// Takes the endpoint's interface away.
pub(super) fn disconnect(network: &Network, endpoint: &Endpoint) -> Option<Step> {
    let is_ours = endpoint.attachment.link == LinkBy::Hawser;
    is_ours.then_some(())?;
    Some(Step::DeleteChild {
        sandbox: endpoint.sandbox.clone(),
        ifname: endpoint.attachment.ifname.clone(),
        endpoint: endpoint.attachment.endpoint_id.clone(),
        kind: ChildKind::of(&network.driver)?.link_kind(),
    })
}

/// What is missing of the parent.
pub(super) fn repair_parent(network: &Network, observed: &Observed) -> Option<Step> {
    let parent = network.driver.parent()?;
    match observed.links.get(&parent.link) {
        Some(link) if link.up => None,
        _ => create_parent(network),
    }
}
