//! macvlan and ipvlan interfaces, and the parents made for them.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use api::id::{Id, IfName};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoData, InfoIpVlan, InfoKind, InfoMacVlan, InfoVlan, IpVlanFlags, IpVlanMode, LinkAttribute,
    LinkInfo, LinkMessage, MacVlanMode,
};
use rustix::io::Errno;
use sys::netns::NetNs;

use super::host::open;
use super::link::{created, delete, named, set_up};
use crate::model::child::{Child, ChildKind};
use crate::model::driver::{IpvlanFlag, IpvlanMode, LinkKind, MacvlanMode, Made};
use crate::model::endpoint::Sandbox;
use crate::model::step::Change;
use crate::netlink::{Mode, Rtnl};
use crate::observe;

/// `ip link` shows it as the alias of what we made: nothing else is ever removed.
const MARK: &str = "made by hawser";

/// Creates the parent, marks it and sets it up, in one datagram.
pub(super) fn create_parent(rtnl: &mut Rtnl, name: &IfName, made: &Made) -> io::Result<Change> {
    match made {
        Made::Vlan { base, id } => {
            let base = index(rtnl, base)?;
            create_marked(rtnl, vlan(name, base, *id))
        }
        Made::Dummy => match create_marked(rtnl, of_kind(name, InfoKind::Dummy)) {
            // An intermediate functional block without redirected traffic drops what is sent to
            // it (`ifb_xmit`, drivers/net/ifb.c), as a dummy does.
            Err(error) if is_unknown_kind(&error) => {
                create_marked(rtnl, of_kind(name, InfoKind::Ifb))
            }
            result => result,
        },
    }
}

fn create_marked(rtnl: &mut Rtnl, link: LinkMessage) -> io::Result<Change> {
    let name = observe::link_name(&link).ok_or(Errno::INVAL)?;
    if let Some(existing) = observe::link_by_name(rtnl, &name)?
        && !is_marked(&existing)
    {
        return Ok(Change::Unchanged);
    }
    let mut mark = named(&name);
    mark.attributes
        .push(LinkAttribute::IfAlias(MARK.to_owned()));
    set_up(&mut mark);
    let mut results = rtnl
        .batch(vec![
            (RouteNetlinkMessage::NewLink(link), Mode::Create),
            (RouteNetlinkMessage::SetLink(mark), Mode::Change),
        ])?
        .into_iter();
    let created = created(results.next().unwrap_or(Ok(())))?;
    results.collect::<io::Result<()>>()?;
    Ok(created)
}

/// Removes a parent that carries our mark.
pub(crate) fn delete_parent(rtnl: &mut Rtnl, name: &IfName) -> io::Result<Change> {
    match observe::link_by_name(rtnl, name)? {
        Some(link) if is_marked(&link) => delete(rtnl, name),
        _ => Ok(Change::Unchanged),
    }
}

/// Creates the interface inside the sandbox, down, and marks it.
///
/// It gets its final name there: kernels before 6.13 look a new link's name up where the request is
/// made (`rtnl_newlink`), so that an `eth0` of the host would be in the way of the container's.
pub(super) fn create_child(rtnl: &mut Rtnl, child: &Child, sandbox: &NetNs) -> io::Result<Change> {
    if sandbox
        .run(|| marked(&mut Rtnl::open()?, &child.endpoint))??
        .is_some()
    {
        return Ok(Change::Unchanged);
    }
    let parent = index(rtnl, &child.parent)?;
    let first = first_name(&child.endpoint);
    let mut message = named(&first);
    message.attributes.extend([
        LinkAttribute::Link(parent),
        LinkAttribute::Mtu(child.mtu),
        LinkAttribute::NetNsFd(sandbox.as_fd().as_raw_fd()),
        LinkAttribute::LinkInfo(info(child.kind)),
    ]);
    message
        .attributes
        .extend(child.mac.map(|mac| LinkAttribute::Address(mac.0.to_vec())));
    // An earlier attempt may have come this far.
    created(rtnl.ask(RouteNetlinkMessage::NewLink(message), Mode::Create))?;
    let mut mark = named(&child.ifname);
    // A link takes no alias from the request that makes it (`rtnl_create_link`).
    let alias = LinkAttribute::IfAlias(alias(&child.endpoint));
    mark.attributes.push(alias);
    sandbox.run(|| {
        let mut rtnl = Rtnl::open()?;
        mark.header.index = index(&mut rtnl, &first)?;
        let marked = rtnl.ask(RouteNetlinkMessage::SetLink(mark), Mode::Change);
        if marked.is_err() {
            delete(&mut rtnl, &first)?;
        }
        marked
    })??;
    Ok(Change::Done)
}

/// What the endpoint's interface is called until it is marked.
fn first_name(endpoint: &Id) -> IfName {
    let name = format!("new{}", endpoint.short());
    IfName::parse(&name).expect("15 bytes without separators")
}

/// Removes the endpoint's interface from the sandbox, if both are still there.
pub(crate) fn delete_child(
    sandbox: &Sandbox,
    name: &IfName,
    endpoint: &Id,
    kind: LinkKind,
) -> io::Result<Change> {
    let namespace = match open(sandbox) {
        Ok(namespace) => namespace,
        // It went with its sandbox.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Change::Unchanged),
        Err(error) => return Err(error),
    };
    namespace.run(|| {
        let mut rtnl = Rtnl::open()?;
        if let Some(link) = marked(&mut rtnl, endpoint)? {
            return delete(&mut rtnl, &link);
        }
        // One that is not marked yet, or was made by a version without marks.
        for name in [&first_name(endpoint), name] {
            match observe::link_by_name(&mut rtnl, name)? {
                Some(link) if is_of_kind(&link, kind) => return delete(&mut rtnl, name),
                _ => {}
            }
        }
        Ok(Change::Unchanged)
    })?
}

/// Whether the endpoint's interface is in the sandbox, under any name.
pub(super) fn is_there(sandbox: &Sandbox, endpoint: &Id) -> io::Result<bool> {
    match open(sandbox) {
        Ok(namespace) => namespace.run(|| Ok(marked(&mut Rtnl::open()?, endpoint)?.is_some()))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// The link of the socket's namespace that carries the endpoint's mark: its name may have changed.
fn marked(rtnl: &mut Rtnl, endpoint: &Id) -> io::Result<Option<IfName>> {
    let alias = alias(endpoint);
    let answers = rtnl.dump(RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
    Ok(answers.into_iter().find_map(|answer| match answer {
        RouteNetlinkMessage::NewLink(link) if has_alias(&link, &alias) => observe::link_name(&link),
        _ => None,
    }))
}

fn alias(endpoint: &Id) -> String {
    format!("{MARK} {}", endpoint.short())
}

/// Whether the kernel knows links of `kind`; it loads the module, if there is one.
pub(super) fn supports(rtnl: &mut Rtnl, kind: LinkKind) -> io::Result<bool> {
    // Every one of them needs a parent, or a number: a kernel that knows the kind misses it (EINVAL).
    let message = of_kind(&probe_name(), info_kind(kind));
    match rtnl.ask(RouteNetlinkMessage::NewLink(message), Mode::Create) {
        Ok(()) => delete(rtnl, &probe_name()).map(|_removed| true),
        Err(error) if is_unknown_kind(&error) => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(true),
        Err(error) => Err(error),
    }
}

fn probe_name() -> IfName {
    IfName::parse("hawser-probe").expect("12 bytes without separators")
}

/// `rtnl_newlink` of net/core/rtnetlink.c: "Unknown device type".
fn is_unknown_kind(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::OPNOTSUPP.raw_os_error())
}

fn index(rtnl: &mut Rtnl, name: &IfName) -> io::Result<u32> {
    match observe::link_by_name(rtnl, name)? {
        Some(link) => Ok(link.header.index),
        None => Err(io::Error::new(
            io::ErrorKind::NotFound,
            format!("interface {name} not found"),
        )),
    }
}

fn of_kind(name: &IfName, kind: InfoKind) -> LinkMessage {
    let mut message = named(name);
    let info = vec![LinkInfo::Kind(kind)];
    message.attributes.push(LinkAttribute::LinkInfo(info));
    message
}

fn vlan(name: &IfName, base: u32, id: u16) -> LinkMessage {
    let mut message = named(name);
    message.attributes.extend([
        LinkAttribute::Link(base),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Vlan),
            LinkInfo::Data(InfoData::Vlan(vec![InfoVlan::Id(id)])),
        ]),
    ]);
    message
}

fn info(kind: ChildKind) -> Vec<LinkInfo> {
    let data = match kind {
        ChildKind::Macvlan(mode) => InfoData::MacVlan(vec![InfoMacVlan::Mode(match mode {
            MacvlanMode::Bridge => MacVlanMode::Bridge,
            MacvlanMode::Private => MacVlanMode::Private,
            MacvlanMode::Vepa => MacVlanMode::Vepa,
            MacvlanMode::Passthru => MacVlanMode::Passthrough,
        })]),
        ChildKind::Ipvlan(mode, flag) => InfoData::IpVlan(vec![
            InfoIpVlan::Mode(match mode {
                IpvlanMode::L2 => IpVlanMode::L2,
                IpvlanMode::L3 => IpVlanMode::L3,
                IpvlanMode::L3s => IpVlanMode::L3S,
            }),
            InfoIpVlan::Flags(match flag {
                IpvlanFlag::Bridge => IpVlanFlags::empty(),
                IpvlanFlag::Private => IpVlanFlags::Private,
                IpvlanFlag::Vepa => IpVlanFlags::Vepa,
            }),
        ]),
    };
    vec![
        LinkInfo::Kind(info_kind(kind.link_kind())),
        LinkInfo::Data(data),
    ]
}

fn info_kind(kind: LinkKind) -> InfoKind {
    match kind {
        LinkKind::Macvlan => InfoKind::MacVlan,
        LinkKind::Ipvlan => InfoKind::IpVlan,
        LinkKind::Vlan => InfoKind::Vlan,
        LinkKind::Vxlan => InfoKind::Vxlan,
        LinkKind::WireGuard => InfoKind::Wireguard,
    }
}

fn is_marked(link: &LinkMessage) -> bool {
    has_alias(link, MARK)
}

fn has_alias(link: &LinkMessage, wanted: &str) -> bool {
    let mut attributes = link.attributes.iter();
    attributes
        .any(|attribute| matches!(attribute, LinkAttribute::IfAlias(alias) if alias == wanted))
}

fn is_of_kind(link: &LinkMessage, kind: LinkKind) -> bool {
    let wanted = info_kind(kind);
    let infos = link
        .attributes
        .iter()
        .filter_map(|attribute| match attribute {
            LinkAttribute::LinkInfo(info) => Some(info),
            _ => None,
        });
    let mut infos = infos.flatten();
    infos.any(|info| matches!(info, LinkInfo::Kind(kind) if *kind == wanted))
}
