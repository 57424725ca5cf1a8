//! A step of a repair, as the difference that calls for it.

use super::desired::Desired;
use super::observed::Observed;
use super::step::{Step, shown, some};

/// What of the kernel is not as it should be, in plain words.
pub(crate) fn difference(step: &Step, desired: &Desired, observed: &Observed) -> String {
    let link = |name: &api::id::IfName| observed.links.get(name);
    match step {
        Step::CreateBridge {
            link: name, mtu, ..
        } => {
            let network = desired
                .networks
                .values()
                .find(|network| network.bridges().any(|bridge| bridge == name))
                .map_or_else(String::new, |network| {
                    format!(" of network {}", network.name)
                });
            match link(name) {
                None => format!("bridge {name}{network} is missing"),
                Some(link) if !link.up => format!("bridge {name}{network} is down"),
                Some(link) => format!("bridge {name}{network} has MTU {}, not {mtu}", link.mtu),
            }
        }
        Step::AddAddress { link, address } => format!("interface {link} lacks address {address}"),
        Step::SetMaster {
            link: name, bridge, ..
        } => match link(name) {
            Some(port) if port.master.and_then(|at| observed.name_of(at)) != Some(bridge) => {
                format!("interface {name} is not on bridge {bridge}")
            }
            Some(port) if !port.up => format!("interface {name} is down"),
            _ => format!("interface {name} may talk to its neighbours on bridge {bridge}"),
        },
        Step::CreateVxlan(vxlan) => match link(&vxlan.link) {
            None => format!("VXLAN interface {} is missing", vxlan.link),
            Some(_) => format!("VXLAN interface {} is not as it was made", vxlan.link),
        },
        Step::CreateMesh(mesh) => match link(&mesh.link) {
            None => format!("interface {} to other nodes is missing", mesh.link),
            Some(_) => format!(
                "interface {} to other nodes is not as it was made",
                mesh.link
            ),
        },
        Step::Forward {
            link, gone, new, ..
        } => format!(
            "interface {link} leads to {} nodes and {} neighbours it should not, and not to {} and {}",
            gone.nodes.len(),
            gone.neighbours.len(),
            new.nodes.len(),
            new.neighbours.len()
        ),
        Step::CreatePair(pair) => format!(
            "interface {} of {} is gone",
            pair.ifname,
            container(desired, &pair.host)
        ),
        Step::ConfigureSandbox(inside) => {
            format!(
                "interface {} in {} is not set up",
                inside.ifname, inside.sandbox.path
            )
        }
        Step::EnableForwarding { ipv6 } => {
            let family = if *ipv6 { 6 } else { 4 };
            format!("the host does not forward IPv{family}")
        }
        Step::SetFilter { from: None, .. } => {
            "nftables table inet hawser is missing, or its rules were changed".to_owned()
        }
        Step::SetFilter { .. } => "a set of nftables table inet hawser was changed".to_owned(),
        Step::GuardEndpoint { link: name, .. } => format!(
            "what {} sends is not checked at {name}",
            container(desired, name)
        ),
        Step::TakeFrames { link, .. } => {
            format!("XDP does not send frames to {}", container(desired, link))
        }
        Step::ReleaseEndpoint { link } => format!("{link} is guarded although nobody is on it"),
        Step::SetRate { link, .. } => format!("the rate of {link} is not limited"),
        Step::SetSandbox { to: Some(_), .. } => "socket hooks do not know a namespace".to_owned(),
        Step::SetSandbox { .. } => "socket hooks act on a namespace that is not ours".to_owned(),
        Step::AttachHooks => "a socket hook is detached".to_owned(),
        Step::ReservePorts(ports) => {
            format!(
                "{} published ports are not reserved on the host",
                ports.len()
            )
        }
        Step::Publish(ports) => format!("port {} is not published", some(ports)),
        Step::Unpublish(ports) => format!("port {} is published for nobody", some(ports)),
        Step::Balance { to: None, from, .. } => {
            let ports = from.as_ref().map(shown).unwrap_or_default();
            format!("{ports} leads to members of a service that is gone")
        }
        Step::Balance { to: Some(to), .. } => {
            format!("{} does not lead to the members of its service", shown(to))
        }
        Step::SetLocalAddresses(_) => {
            "the data plane does not know the host's addresses".to_owned()
        }
        Step::Seal(_) => "the data plane does not know which segments are encrypted".to_owned(),
        Step::AttachUplink { name, .. } => format!("published ports are not served on {name}"),
        Step::DetachUplink { index } => {
            format!("interface number {index} is served although it is no uplink")
        }
        other => format!("not done yet: {other}"),
    }
}

fn container(desired: &Desired, host_end: &api::id::IfName) -> String {
    let endpoint = desired
        .endpoints
        .values()
        .find(|endpoint| endpoint.attachment.host_ifname.as_ref() == Some(host_end));
    match endpoint {
        Some(endpoint) => format!("container {}", endpoint.display_name()),
        None => "a container".to_owned(),
    }
}
