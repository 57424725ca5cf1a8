//! The changes of the kernel that plans are made of.
//!
//! Every step is idempotent: applying it to a kernel that is so already changes nothing and says
//! so. [`Step::inverse`] undoes one that did change something.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use api::id::{Id, IfName, MacAddr};
use api::net::Route;
use ipnet::IpNet;

use super::child::Child;
use super::driver::{LinkKind, Made, Tunnel};
use super::endpoint;
use super::filter::Filter;
use super::forwarding::Forwarding;
use super::limit::Rate;
use super::reserved::PortSet;
use super::wireguard::{Correspondents, PublicKey, WireGuard};
use crate::bpf::{Balanced, Edge, Frontend, Sandbox, Sealed, Underlay};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Creates the bridge if it is missing, and sets it up.
    CreateBridge {
        link: IfName,
        mac: MacAddr,
        mtu: u32,
        ipv6: bool,
    },
    DeleteLink {
        link: IfName,
    },
    /// Takes a link down: nothing comes through it any more.
    CutLink {
        link: IfName,
    },
    /// Deletes links of sandboxes, all at once.
    DeleteLinks(Vec<IfName>),
    SetMaster {
        link: IfName,
        bridge: IfName,
        isolated: bool,
    },
    AddAddress {
        link: IfName,
        address: IpNet,
    },
    EnableForwarding {
        ipv6: bool,
    },
    /// Makes connection tracking believe what it sees only parts of.
    RelaxTracking,
    SetFilter {
        from: Option<Filter>,
        to: Filter,
    },
    CreatePair(Pair),
    /// Creates the VXLAN interface if it is missing, puts it on its bridge as a port that floods and
    /// learns nothing, and sets it up.
    CreateVxlan(Vxlan),
    /// Creates the interface to other nodes of encrypted networks if it is missing, gives it a private
    /// key if it has none, and sets it up.
    CreateWireGuard(WireGuard),
    /// Changes which nodes are at its other end.
    Correspond {
        link: IfName,
        gone: BTreeSet<PublicKey>,
        new: Correspondents,
    },
    /// Gives it another private key.
    ChangeKey {
        link: IfName,
    },
    /// Creates the interface to backends on other nodes if it is missing, and sets it up.
    CreateMesh(Mesh),
    /// Changes where a VXLAN interface leads.
    Forward {
        link: IfName,
        /// Whose port it is, if it is one's.
        bridge: Option<IfName>,
        gone: Forwarding,
        new: Forwarding,
    },
    /// Makes the interface that a network's endpoints are made from, marks it as ours, and sets it
    /// up. One that exists is left as it is.
    CreateParent {
        link: IfName,
        made: Made,
    },
    /// Removes it if it carries our mark.
    DeleteParent {
        link: IfName,
    },
    CreateChild(Child),
    /// Removes an endpoint's link of `kind` from its sandbox, whatever it is called by now; one that
    /// is gone with its sandbox is fine.
    DeleteChild {
        sandbox: endpoint::Sandbox,
        ifname: IfName,
        endpoint: Id,
        kind: LinkKind,
    },
    SetMtu {
        link: IfName,
        mtu: u32,
    },
    SetSandboxMtu {
        sandbox: endpoint::Sandbox,
        ifname: IfName,
        mtu: u32,
    },
    ConfigureSandbox(SandboxLink),
    /// Tells the neighbours of an interface that is up the link address of its addresses.
    Announce(SandboxLink),
    /// Lets a route to the same destination go by another interface, without a moment in between.
    MoveRoute {
        sandbox: endpoint::Sandbox,
        from: (IfName, Route),
        to: (IfName, Route),
    },
    /// Judges what the endpoint sends through the host's end of its link.
    GuardEndpoint {
        link: IfName,
        edge: Edge,
    },
    /// Makes the sandbox's end of a link take frames from XDP, which goes with the link.
    TakeFrames {
        sandbox: endpoint::Sandbox,
        ifname: IfName,
        link: IfName,
    },
    /// Forgets the endpoint; it sends nothing more until its link is deleted.
    ReleaseEndpoint {
        link: IfName,
    },
    /// Lets no more than `rate` leave by `link`.
    SetRate {
        link: IfName,
        rate: Rate,
    },
    /// A device that packets wait in.
    CreateBuffer {
        link: IfName,
        mtu: u32,
    },
    /// Sends what arrives at `from` through the buffer `to`.
    Redirect {
        from: IfName,
        to: IfName,
    },
    SetSandbox {
        cookie: u64,
        from: Option<Sandbox>,
        to: Option<Sandbox>,
    },
    /// Attaches the socket hooks that are not.
    AttachHooks,
    /// Lets a process bind published ports: the runtime that asked for them.
    AdmitRuntime {
        process: u32,
    },
    ReservePorts(PortSet),
    ReleasePorts(PortSet),
    /// Leads each frontend to its backend.
    Publish(Vec<(Frontend, SocketAddr)>),
    Unpublish(Vec<(Frontend, SocketAddr)>),
    /// Changes which backends an entry of a service has. Flows to those that stay go on.
    Balance {
        number: u64,
        from: Option<Balanced>,
        to: Option<Balanced>,
    },
    SetLocalAddresses(BTreeSet<IpAddr>),
    /// Lets no frame of these networks pass an uplink in clear text, and those of others.
    Seal(Sealed),
    AttachUplink {
        index: u32,
        name: IfName,
    },
    DetachUplink {
        index: u32,
    },
    /// Leads what comes by the interface from other nodes to the backends here.
    AttachTunnel {
        index: u32,
        name: IfName,
        underlay: Underlay,
    },
    DetachTunnel {
        index: u32,
    },
}

/// A veth pair: one end on the bridge, the other inside the sandbox under its final name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pair {
    pub(crate) host: IfName,
    pub(crate) bridge: IfName,
    /// Cannot talk to other isolated ports of the bridge.
    pub(crate) isolated: bool,
    pub(crate) sandbox: endpoint::Sandbox,
    pub(crate) ifname: IfName,
    pub(crate) mac: Option<MacAddr>,
    pub(crate) mtu: u32,
}

/// A node's port to the others of an overlay network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Vxlan {
    pub(crate) link: IfName,
    pub(crate) bridge: IfName,
    pub(crate) vni: u32,
    pub(crate) tunnel: Tunnel,
    pub(crate) mtu: u32,
}

/// A node's end of the way to backends on other nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mesh {
    pub(crate) link: IfName,
    pub(crate) mac: MacAddr,
    pub(crate) tunnel: Tunnel,
    pub(crate) mtu: u32,
}

/// The settings of an interface inside a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SandboxLink {
    pub(crate) sandbox: endpoint::Sandbox,
    pub(crate) ifname: IfName,
    pub(crate) addresses: Vec<IpNet>,
    pub(crate) routes: Vec<Route>,
    /// Whether the kernel announces the addresses as the interface comes up.
    pub(crate) announces: bool,
}

/// What applying a step did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Done,
    Unchanged,
}

impl Step {
    /// What leads back, if anything has to: an interface takes its addresses and routes along.
    pub(crate) fn inverse(&self) -> Option<Self> {
        match self.clone() {
            Self::CreateBridge { link, .. } => Some(Self::DeleteLink { link }),
            Self::CreatePair(pair) => Some(Self::DeleteLink { link: pair.host }),
            Self::CreateVxlan(vxlan) => Some(Self::DeleteLink { link: vxlan.link }),
            Self::CreateWireGuard(new) => Some(Self::DeleteLink { link: new.link }),
            Self::CreateMesh(mesh) => Some(Self::DeleteLink { link: mesh.link }),
            // Who is gone is known to whoever looks next.
            Self::Correspond { link, new, .. } => Some(Self::Correspond {
                link,
                gone: new.into_keys().collect(),
                new: Correspondents::new(),
            }),
            Self::Forward {
                link,
                bridge,
                gone,
                new,
            } => Some(Self::Forward {
                link,
                bridge,
                gone: new,
                new: gone,
            }),
            Self::CreateBuffer { link, .. } => Some(Self::DeleteLink { link }),
            Self::CreateParent { link, .. } => Some(Self::DeleteParent { link }),
            Self::CreateChild(child) => Some(Self::DeleteChild {
                sandbox: child.sandbox,
                ifname: child.ifname,
                endpoint: child.endpoint,
                kind: child.kind.link_kind(),
            }),
            Self::MoveRoute { sandbox, from, to } => Some(Self::MoveRoute {
                sandbox,
                from: to,
                to: from,
            }),
            Self::SetFilter { from, to } => Some(Self::SetFilter {
                to: from?,
                from: Some(to),
            }),
            Self::SetSandbox { cookie, from, to } => Some(Self::SetSandbox {
                cookie,
                from: to,
                to: from,
            }),
            Self::ReservePorts(ports) => Some(Self::ReleasePorts(ports)),
            Self::ReleasePorts(ports) => Some(Self::ReservePorts(ports)),
            Self::Publish(ports) => Some(Self::Unpublish(ports)),
            Self::Unpublish(ports) => Some(Self::Publish(ports)),
            Self::Balance { number, from, to } => Some(Self::Balance {
                number,
                from: to,
                to: from,
            }),
            Self::AttachUplink { index, .. } => Some(Self::DetachUplink { index }),
            Self::AttachTunnel { index, .. } => Some(Self::DetachTunnel { index }),
            Self::GuardEndpoint { link, .. } => Some(Self::ReleaseEndpoint { link }),
            Self::DeleteLink { .. }
            | Self::ReleaseEndpoint { .. }
            | Self::CutLink { .. }
            | Self::DeleteLinks(_)
            | Self::DeleteParent { .. }
            | Self::DeleteChild { .. }
            // What it was before is not what should be: the next look at the underlay tells.
            | Self::SetMtu { .. }
            | Self::SetSandboxMtu { .. }
            | Self::SetMaster { .. }
            // The one before is nobody's any more.
            | Self::ChangeKey { .. }
            | Self::AddAddress { .. }
            | Self::EnableForwarding { .. }
            | Self::RelaxTracking
            | Self::ConfigureSandbox(_)
            // What neighbours have learned is true as long as the interface is there.
            | Self::Announce(_)
            | Self::SetRate { .. }
            | Self::Redirect { .. }
            | Self::SetLocalAddresses(_)
            // Whoever is left open meanwhile has no interface that would take such a frame.
            | Self::Seal(_)
            | Self::AttachHooks
            // The table forgets by itself.
            | Self::AdmitRuntime { .. }
            | Self::DetachUplink { .. }
            | Self::DetachTunnel { .. }
            | Self::TakeFrames { .. } => None,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateBridge { link, .. } => write!(f, "create bridge {link}"),
            Self::DeleteLink { link } => write!(f, "delete interface {link}"),
            Self::CutLink { link } => write!(f, "take interface {link} down"),
            Self::DeleteLinks(links) => {
                let names: Vec<&str> = links.iter().map(IfName::as_str).collect();
                write!(f, "delete interfaces {}", names.join(", "))
            }
            Self::SetMaster { link, bridge, .. } => write!(f, "put {link} on bridge {bridge}"),
            Self::AddAddress { link, address } => write!(f, "add address {address} to {link}"),
            Self::RelaxTracking => f.write_str("let connection tracking be liberal"),
            Self::EnableForwarding { ipv6 } => {
                write!(f, "enable IPv{} forwarding", if *ipv6 { 6 } else { 4 })
            }
            Self::SetFilter { .. } => write!(f, "write nftables table inet hawser"),
            Self::CreatePair(pair) => write!(
                f,
                "create interface pair {} and {} in {}",
                pair.host, pair.ifname, pair.sandbox.path
            ),
            Self::CreateVxlan(vxlan) => {
                write!(
                    f,
                    "create VXLAN interface {} on {}",
                    vxlan.link, vxlan.bridge
                )
            }
            Self::CreateWireGuard(new) => write!(f, "create WireGuard interface {}", new.link),
            Self::Correspond { link, .. } => write!(f, "change which nodes {link} knows"),
            Self::ChangeKey { link } => write!(f, "change the key of {link}"),
            Self::CreateMesh(mesh) => write!(f, "create interface {} to other nodes", mesh.link),
            Self::Forward { link, .. } => write!(f, "change what is behind {link}"),
            Self::CreateParent { link, .. } => write!(f, "create parent interface {link}"),
            Self::DeleteParent { link } => write!(f, "delete parent interface {link}"),
            Self::CreateChild(child) => write!(
                f,
                "create {} interface {} of {} in {}",
                child.kind.link_kind(),
                child.ifname,
                child.parent,
                child.sandbox.path
            ),
            Self::DeleteChild {
                sandbox, ifname, ..
            } => write!(f, "delete interface {ifname} in {}", sandbox.path),
            Self::SetMtu { link, mtu } => write!(f, "set the MTU of {link} to {mtu}"),
            Self::SetSandboxMtu {
                sandbox,
                ifname,
                mtu,
            } => write!(f, "set the MTU of {ifname} in {} to {mtu}", sandbox.path),
            Self::ConfigureSandbox(link) => {
                write!(f, "configure {} in {}", link.ifname, link.sandbox.path)
            }
            Self::Announce(link) => {
                write!(f, "announce {} in {}", link.ifname, link.sandbox.path)
            }
            Self::MoveRoute { sandbox, from, to } => write!(
                f,
                "move the route to {} from {} to {} in {}",
                to.1.dst, from.0, to.0, sandbox.path
            ),
            Self::GuardEndpoint { link, .. } => write!(f, "guard {link}"),
            Self::TakeFrames { link, .. } => write!(f, "let XDP send frames through {link}"),
            Self::ReleaseEndpoint { link } => write!(f, "release {link}"),
            Self::SetRate { link, .. } => write!(f, "limit the rate of {link}"),
            Self::CreateBuffer { link, .. } => write!(f, "create rate limiting device {link}"),
            Self::Redirect { from, to } => write!(f, "redirect {from} through {to}"),
            Self::AttachHooks => write!(f, "attach the socket hooks"),
            Self::AdmitRuntime { process } => {
                write!(f, "let process {process} bind what it publishes")
            }
            Self::SetSandbox { cookie, .. } => write!(f, "register namespace cookie {cookie}"),
            Self::Publish(ports) => match &ports[..] {
                [(frontend, backend)] => write!(f, "publish {frontend} to {backend}"),
                ports => write!(f, "publish {}", some(ports)),
            },
            Self::ReservePorts(ports) => write!(f, "reserve {} ports", ports.len()),
            Self::ReleasePorts(ports) => write!(f, "release {} ports", ports.len()),
            Self::Unpublish(ports) => write!(f, "unpublish {}", some(ports)),
            Self::Balance { from, to, .. } => match (from, to) {
                (_, Some(to)) => write!(f, "spread {} over {}", shown(to), backends(to)),
                (Some(from), None) => write!(f, "spread {} over nobody", shown(from)),
                (None, None) => write!(f, "spread nothing"),
            },
            Self::SetLocalAddresses(_) => write!(f, "register the host's addresses"),
            Self::Seal(sealed) => {
                let count = sealed.vnis.len();
                write!(f, "refuse clear text of {count} encrypted segments")
            }
            Self::AttachUplink { name, .. } => write!(f, "attach the data plane to {name}"),
            Self::DetachUplink { index } => {
                write!(f, "detach the data plane from interface number {index}")
            }
            Self::AttachTunnel { name, .. } => write!(f, "take packets of other nodes by {name}"),
            Self::DetachTunnel { index } => {
                write!(
                    f,
                    "take no packets of other nodes by interface number {index}"
                )
            }
        }
    }
}

/// The frontends of an entry.
pub(super) fn shown(balanced: &Balanced) -> String {
    let frontends = balanced.frontends.iter().map(ToString::to_string);
    frontends.collect::<Vec<_>>().join(", ")
}

/// The first of them, and how many more.
pub(super) fn some(ports: &[(Frontend, SocketAddr)]) -> String {
    match ports {
        [] => "nothing".to_owned(),
        [(frontend, _backend)] => frontend.to_string(),
        [(frontend, _backend), others @ ..] => format!("{frontend} and {} more", others.len()),
    }
}

fn backends(balanced: &Balanced) -> String {
    match balanced.backends.len() {
        0 => "nobody".to_owned(),
        1 => "1 backend".to_owned(),
        count => format!("{count} backends"),
    }
}
