//! A kernel in memory for the unit tests, which can stop working after any number of steps.

mod vxlan;
mod wireguard;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use api::id::{Id, IfName, MacAddr};
use api::net::Protocol;

use crate::bpf::Balanced;
use crate::dns;
use crate::kernel::{Kernel, KernelError};
use crate::model::driver::LinkKind;
use crate::model::endpoint::Sandbox;
use crate::model::observed::{Address, Inside, InsideLink, Link, Observed};
use crate::model::port::{Bound, BoundSocket};
use crate::model::step::{Change, SandboxLink, Step};

pub(crate) const HOST_COOKIE: u64 = 1;

/// Clones share one kernel.
#[derive(Debug, Clone, Default)]
pub(crate) struct FakeKernel {
    state: Arc<Mutex<State>>,
    /// Held by a test, it makes deletions wait.
    deletions: Arc<Mutex<()>>,
}

#[derive(Debug, Default)]
struct State {
    observed: Observed,
    next_index: u32,
    /// Links inside sandboxes, and the host's end of each.
    inside: BTreeMap<(u64, IfName), (IfName, InsideLink)>,
    /// Namespaces by path.
    namespaces: BTreeMap<String, u64>,
    bound: Vec<BoundSocket>,
    /// Those of every sandbox.
    inside_sockets: Vec<BoundSocket>,
    /// Parents that were made by the daemon.
    marked: BTreeSet<IfName>,
    lacking: BTreeSet<LinkKind>,
    looks_inside: usize,
    announced: Vec<IpAddr>,
    /// Steps until the kernel stops working, and how the daemon notices.
    end: Option<(usize, End)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The daemon is killed: nothing after the last step happens.
    Killed,
    /// Every further step fails, those that undo as well.
    Refuses,
}

/// What a test compares: everything but interface numbers, which a repair may change,
/// and IPv6 forwarding, which stays on: somebody else may rely on it by then.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Snapshot {
    links: BTreeMap<IfName, LinkState>,
    inside: BTreeMap<(u64, IfName), (bool, u32, BTreeSet<IpAddr>)>,
    rest: String,
}

/// Up, MTU, master, addresses, limited.
type LinkState = (bool, u32, Option<IfName>, BTreeSet<String>, bool);

impl FakeKernel {
    pub(crate) fn new() -> Self {
        let kernel = Self::default();
        let mut state = kernel.state();
        state.add_link("lo", true, &["127.0.0.1/8"]);
        state.add_link("eth0", false, &["192.0.2.10/24"]);
        drop(state);
        kernel
    }

    pub(crate) fn add_namespace(&self, path: &str, inode: u64) {
        self.state().namespaces.insert(path.to_owned(), inode);
    }

    pub(crate) fn remove_namespace(&self, path: &str) {
        let mut state = self.state();
        let Some(inode) = state.namespaces.remove(path) else {
            return;
        };
        let gone: Vec<_> = state
            .inside
            .iter()
            .filter(|((at, _), _)| *at == inode)
            .map(|(_, (host, _))| host.clone())
            .filter(|host| host.as_str().starts_with("veth"))
            .collect();
        state.inside.retain(|(at, _), _| *at != inode);
        for host in gone {
            state.delete_link(&host);
        }
    }

    pub(crate) fn end_after(&self, end: Option<(usize, End)>) {
        self.state().end = end;
    }

    pub(crate) fn edit(&self, change: impl FnOnce(&mut Observed)) {
        change(&mut self.state().observed);
    }

    pub(crate) fn bind(&self, socket: BoundSocket) {
        self.state().bound.push(socket);
    }

    /// The sockets that every sandbox has from now on.
    pub(crate) fn set_inside_sockets(&self, sockets: Vec<BoundSocket>) {
        self.state().inside_sockets = sockets;
    }

    /// A kernel without links of this kind.
    pub(crate) fn lacks(&self, kind: LinkKind) {
        self.state().lacking.insert(kind);
    }

    /// Another link of the host.
    pub(crate) fn add_link(&self, name: &str) {
        self.state().add_link(name, false, &[]);
    }

    /// Deletes a link, with everything that is made from it.
    pub(crate) fn lose_link(&self, name: &IfName) {
        self.state().delete_link(name);
    }

    /// Deletions of links wait for the end of this.
    pub(crate) fn hold_deletions(&self) -> MutexGuard<'_, ()> {
        self.deletions.lock().unwrap()
    }

    /// How often a sandbox was looked into.
    /// The addresses that neighbours were told of since it was asked last.
    pub(crate) fn take_announced(&self) -> Vec<IpAddr> {
        std::mem::take(&mut self.state().announced)
    }

    pub(crate) fn looks_inside(&self) -> usize {
        self.state().looks_inside
    }

    pub(crate) fn inside_mtu(&self, inode: u64, name: &IfName) -> u32 {
        self.state().inside[&(inode, name.clone())].1.mtu
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let state = self.state();
        let observed = &state.observed;
        Snapshot {
            links: observed
                .links
                .iter()
                .map(|(name, link)| {
                    let master = link
                        .master
                        .and_then(|index| observed.name_of(index).cloned());
                    let addresses = link.addresses.iter().map(|a| a.net.to_string()).collect();
                    let state = (link.up, link.mtu, master, addresses, link.limited);
                    (name.clone(), state)
                })
                .collect(),
            inside: state
                .inside
                .iter()
                .map(|(key, (_, link))| (key.clone(), (link.up, link.mtu, link.addresses.clone())))
                .collect(),
            rest: format!(
                "{:?} {:?} {:?} {} {:?} {:?} {}",
                observed.correspondents(),
                observed.forwarding,
                observed.data_plane.local,
                observed.reserved_ports,
                observed.filter,
                observed.data_plane,
                observed.ipv4_forwarding,
            ),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

impl State {
    fn add_link(&mut self, name: &str, loopback: bool, addresses: &[&str]) -> u32 {
        self.next_index += 1;
        let link = Link {
            index: self.next_index,
            up: true,
            mac: Some(MacAddr([2, 0, 0, 0, 0, 1])),
            mtu: 1500,
            loopback,
            master: None,
            addresses: addresses.iter().map(|text| address(text)).collect(),
            limited: false,
            isolated: false,
            vxlan: None,
            wireguard: None,
        };
        self.observed
            .links
            .insert(IfName::parse(name).unwrap(), link);
        self.next_index
    }

    fn delete_link(&mut self, name: &IfName) -> bool {
        self.inside.retain(|_, (host, _)| host != name);
        self.observed.forwarding.remove(name);
        let Some(gone) = self.observed.links.remove(name) else {
            return false;
        };
        self.delete_above(gone.index);
        // The program goes with the link, what it was told stays.
        if let Some(edge) = self.observed.data_plane.edges.get_mut(name) {
            *edge = None;
        }
        for link in self.observed.links.values_mut() {
            if link.master == Some(gone.index) {
                link.master = None;
            }
        }
        true
    }

    fn apply(&mut self, step: &Step) -> io::Result<bool> {
        let not_found = || io::Error::from(io::ErrorKind::NotFound);
        Ok(match step {
            Step::CreateBridge { link, mtu, .. } => {
                let exists = self.observed.links.contains_key(link);
                if !exists {
                    self.add_link(link.as_str(), false, &[]);
                }
                let link = self.observed.links.get_mut(link).ok_or_else(not_found)?;
                let resized = std::mem::replace(&mut link.mtu, *mtu) != *mtu;
                !exists || resized
            }
            Step::DeleteLink { link } => self.delete_link(link),
            Step::CutLink { link } => match self.observed.links.get_mut(link) {
                Some(link) => std::mem::replace(&mut link.up, false),
                None => false,
            },
            Step::DeleteLinks(links) => {
                let gone = links.iter().filter(|link| self.delete_link(link));
                gone.count() > 0
            }
            Step::SetMaster {
                link,
                bridge,
                isolated,
            } => {
                let index = self.observed.links.get(bridge).ok_or_else(not_found)?.index;
                let port = self.observed.links.get_mut(link).ok_or_else(not_found)?;
                let raised = !std::mem::replace(&mut port.up, true);
                port.isolated = *isolated;
                port.master.replace(index) != Some(index) || raised
            }
            Step::AddAddress { link, address: net } => {
                let link = self.observed.links.get_mut(link).ok_or_else(not_found)?;
                let new = address(&net.to_string());
                let known = link.addresses.contains(&new);
                if !known {
                    link.addresses.push(new);
                }
                !known
            }
            Step::RelaxTracking => false,
            Step::EnableForwarding { ipv6 } => {
                let flag = match ipv6 {
                    true => &mut self.observed.ipv6_forwarding,
                    false => &mut self.observed.ipv4_forwarding,
                };
                !std::mem::replace(flag, true)
            }
            Step::SetFilter { to, .. } => {
                self.observed.filter.replace(to.clone()).as_ref() != Some(to)
            }
            Step::CreatePair(pair) => {
                let bridge = self
                    .observed
                    .links
                    .get(&pair.bridge)
                    .ok_or_else(not_found)?
                    .index;
                if self.observed.links.contains_key(&pair.host) {
                    return Ok(false);
                }
                self.add_link(pair.host.as_str(), false, &[]);
                if let Some(link) = self.observed.links.get_mut(&pair.host) {
                    link.up = false;
                    link.master = Some(bridge);
                    link.mtu = pair.mtu;
                    link.isolated = pair.isolated;
                }
                let inside = InsideLink {
                    up: false,
                    mac: pair.mac,
                    mtu: pair.mtu,
                    addresses: BTreeSet::new(),
                    routes: BTreeSet::new(),
                };
                let key = (pair.sandbox.inode, pair.ifname.clone());
                self.inside.insert(key, (pair.host.clone(), inside));
                true
            }
            Step::GuardEndpoint { link, edge } => {
                if !self.observed.links.contains_key(link) {
                    return Err(not_found());
                }
                let edges = &mut self.observed.data_plane.edges;
                edges.insert(link.clone(), Some(*edge)) != Some(Some(*edge))
            }
            Step::TakeFrames { link, .. } => {
                let index = self.observed.links.get(link).ok_or_else(not_found)?.index;
                self.observed.data_plane.frame_links.insert(index)
            }
            Step::ReleaseEndpoint { link } => self.observed.data_plane.edges.remove(link).is_some(),
            Step::CreateVxlan(new) => self.create_vxlan(new).ok_or_else(not_found)?,
            Step::Forward {
                link, gone, new, ..
            } => self.forward(link, gone, new).ok_or_else(not_found)?,
            Step::CreateParent { link, .. } => {
                let exists = self.observed.links.contains_key(link);
                if !exists {
                    self.add_link(link.as_str(), false, &[]);
                    self.marked.insert(link.clone());
                }
                !exists
            }
            Step::DeleteParent { link } => self.marked.remove(link) && self.delete_link(link),
            Step::CreateChild(child) => {
                if !self.observed.links.contains_key(&child.parent) {
                    return Err(not_found());
                }
                let key = (child.sandbox.inode, child.ifname.clone());
                let inside = InsideLink {
                    up: false,
                    mac: child.mac,
                    mtu: child.mtu,
                    addresses: BTreeSet::new(),
                    routes: BTreeSet::new(),
                };
                // Without the parent it is gone, as the other end of a pair.
                let new = !self.inside.contains_key(&key);
                self.inside
                    .entry(key)
                    .or_insert((child.parent.clone(), inside));
                new
            }
            Step::DeleteChild {
                sandbox, ifname, ..
            } => {
                let key = (sandbox.inode, ifname.clone());
                self.inside.remove(&key).is_some()
            }
            Step::SetMtu { link, mtu } => {
                let link = self.observed.links.get_mut(link).ok_or_else(not_found)?;
                std::mem::replace(&mut link.mtu, *mtu) != *mtu
            }
            Step::SetSandboxMtu {
                sandbox,
                ifname,
                mtu,
            } => {
                let key = (sandbox.inode, ifname.clone());
                let (_, link) = self.inside.get_mut(&key).ok_or_else(not_found)?;
                std::mem::replace(&mut link.mtu, *mtu) != *mtu
            }
            Step::ConfigureSandbox(link) => self.configure(link).ok_or_else(not_found)?,
            Step::Announce(link) => {
                let key = (link.sandbox.inode, link.ifname.clone());
                self.inside.get(&key).ok_or_else(not_found)?;
                self.announced
                    .extend(link.addresses.iter().map(ipnet::IpNet::addr));
                true
            }
            Step::MoveRoute { sandbox, from, to } => {
                let key = |ifname: &IfName| (sandbox.inode, ifname.clone());
                let entry = |route: &api::net::Route| (route.dst, route.gateway);
                if let Some((_, link)) = self.inside.get_mut(&key(&from.0)) {
                    link.routes.remove(&entry(&from.1));
                }
                let (_, link) = self.inside.get_mut(&key(&to.0)).ok_or_else(not_found)?;
                link.routes.insert(entry(&to.1));
                true
            }
            Step::SetRate { link, .. } => {
                let link = self.observed.links.get_mut(link).ok_or_else(not_found)?;
                !std::mem::replace(&mut link.limited, true)
            }
            Step::CreateBuffer { link, .. } => {
                let exists = self.observed.links.contains_key(link);
                if !exists {
                    self.add_link(link.as_str(), false, &[]);
                }
                !exists
            }
            Step::Redirect { from, to } => {
                let links = &self.observed.links;
                if !links.contains_key(from) || !links.contains_key(to) {
                    return Err(not_found());
                }
                true
            }
            Step::SetSandbox { cookie, to, .. } => {
                let sandboxes = &mut self.observed.data_plane.sandboxes;
                let before = match to {
                    Some(sandbox) => sandboxes.insert(*cookie, *sandbox),
                    None => sandboxes.remove(cookie),
                };
                before != *to
            }
            Step::AttachHooks => std::mem::take(&mut self.observed.data_plane.hook_lost),
            Step::AdmitRuntime { .. } => false,
            Step::ReservePorts(ports) => {
                let reserved = &mut self.observed.reserved_ports;
                let before = reserved.len();
                *reserved = reserved.iter().chain(ports.iter()).collect();
                reserved.len() != before
            }
            Step::ReleasePorts(ports) => {
                let reserved = &mut self.observed.reserved_ports;
                let before = reserved.len();
                reserved.remove(ports);
                reserved.len() != before
            }
            Step::Publish(ports) => {
                let published = &mut self.observed.data_plane.published;
                let before = published.clone();
                published.extend(ports.iter().copied());
                *published != before
            }
            Step::Unpublish(ports) => {
                let published = &mut self.observed.data_plane.published;
                let before = published.len();
                published.retain(|frontend, _| ports.iter().all(|(gone, _)| gone != frontend));
                published.len() != before
            }
            Step::Balance { number, to, .. } => {
                let balanced = &mut self.observed.data_plane.balanced;
                let before = match to {
                    Some(to) => balanced.insert(*number, to.clone()),
                    None => balanced.remove(number),
                };
                before != *to
            }
            Step::SetLocalAddresses(new) => replaced(&mut self.observed.data_plane.local, new),
            Step::Seal(new) => replaced(&mut self.observed.data_plane.sealed, new),
            Step::AttachUplink { index, .. } => self.observed.data_plane.uplinks.insert(*index),
            Step::DetachUplink { index } => self.observed.data_plane.uplinks.remove(index),
            Step::CreateMesh(new) => self.create_mesh(new),
            Step::CreateWireGuard(_) | Step::Correspond { .. } | Step::ChangeKey { .. } => {
                self.wireguard(step).ok_or_else(not_found)?
            }
            Step::AttachTunnel { index, .. } => self.observed.data_plane.tunnels.insert(*index),
            Step::DetachTunnel { index } => self.observed.data_plane.tunnels.remove(index),
        })
    }

    fn configure(&mut self, link: &SandboxLink) -> Option<bool> {
        let key = (link.sandbox.inode, link.ifname.clone());
        let (_, inside) = self.inside.get_mut(&key)?;
        let before = inside.clone();
        inside.up = true;
        inside.addresses = link.addresses.iter().map(|net| net.addr()).collect();
        let routes = link.routes.iter();
        inside.routes = routes.map(|route| (route.dst, route.gateway)).collect();
        Some(*inside != before)
    }
}

fn replaced<T: Clone + PartialEq>(have: &mut T, new: &T) -> bool {
    std::mem::replace(have, new.clone()) != *new
}

fn address(text: &str) -> Address {
    let net: ipnet::IpNet = text.parse().unwrap();
    let global = !net.addr().is_loopback();
    Address { net, global }
}

impl Kernel for FakeKernel {
    fn observe(&self) -> Result<Observed, KernelError> {
        Ok(self.state().observed.clone())
    }

    fn apply(&self, step: &Step) -> Result<Change, KernelError> {
        if matches!(step, Step::DeleteLinks(_)) {
            drop(self.hold_deletions());
        }
        let mut state = self.state();
        let ended = match &mut state.end {
            None => None,
            Some((0, end)) => Some(*end),
            Some((left, _)) => {
                *left -= 1;
                None
            }
        };
        let applied = match ended {
            None => state.apply(step),
            Some(End::Refuses) => Err(io::Error::other("the kernel refuses")),
            Some(End::Killed) => {
                drop(state);
                std::panic::panic_any("killed");
            }
        };
        match applied {
            Ok(true) => Ok(Change::Done),
            Ok(false) => Ok(Change::Unchanged),
            Err(source) => Err(KernelError::Netlink {
                action: step.to_string(),
                source,
            }),
        }
    }

    /// By their place in the order of addresses.
    fn reachable(&self, number: u64) -> Result<BTreeMap<SocketAddr, u32>, KernelError> {
        let state = self.state();
        let balanced = state.observed.data_plane.balanced.get(&number);
        let is_here = |balanced: &&Balanced, address: &SocketAddr| {
            balanced.reachable && !balanced.remotes.contains_key(address)
        };
        let here = balanced.into_iter().flat_map(|balanced| {
            let addresses = balanced.backends.keys();
            addresses.filter(move |address| is_here(&balanced, address))
        });
        Ok(here.copied().zip(1..).collect())
    }

    fn inspect(&self, path: &Path, ifname: &IfName) -> Result<Option<Inside>, KernelError> {
        let mut state = self.state();
        state.looks_inside += 1;
        let inode = state.namespaces.get(path.to_str().unwrap());
        Ok(inode.map(|inode| Inside {
            device: 4,
            inode: *inode,
            cookie: Some(*inode),
            is_host: *inode == HOST_COOKIE,
            link: state
                .inside
                .get(&(*inode, ifname.clone()))
                .map(|(_, link)| link.clone()),
        }))
    }

    fn supports(&self, kind: LinkKind) -> Result<bool, KernelError> {
        Ok(!self.state().lacking.contains(&kind))
    }

    /// Nobody renames anything here: what is not found by its name is gone.
    fn has_child(&self, _sandbox: &Sandbox, _endpoint: &Id) -> Result<bool, KernelError> {
        Ok(false)
    }

    fn is_alive(&self, sandbox: &Sandbox) -> bool {
        self.state().namespaces.get(&sandbox.path) == Some(&sandbox.inode)
    }

    /// On an address of the sandbox's own, because all share the test's namespace.
    fn resolver_sockets(&self, sandbox: &Sandbox, port: u16) -> Result<dns::Sockets, KernelError> {
        let address = IpAddr::from([127, 0, sandbox.inode as u8, 11]);
        dns::bind(address, port).map_err(|source| KernelError::Namespace {
            path: sandbox.path.clone(),
            source,
        })
    }

    fn bound_sockets(
        &self,
        protocol: Protocol,
        which: Bound,
    ) -> Result<Vec<BoundSocket>, KernelError> {
        let state = self.state();
        let bound = state.bound.iter().filter(|s| s.protocol == protocol);
        let bound = bound.filter(|s| s.listens || which == Bound::All);
        Ok(bound.cloned().collect())
    }

    fn sandbox_sockets(&self, _sandbox: &Sandbox) -> Result<Vec<BoundSocket>, KernelError> {
        Ok(self.state().inside_sockets.clone())
    }

    fn holder(&self, _socket: &BoundSocket) -> String {
        "process nginx (pid 42)".to_owned()
    }
}
