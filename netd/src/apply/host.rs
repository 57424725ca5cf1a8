//! The real kernel of the daemon's own network namespace.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use api::id::{Id, IfName};
use api::net::Protocol;
use netlink_packet_route::tc::TcHandle;
use sys::netns::{self, NetNs, NsId};

use super::{child, limit, link, sandbox, setting, vxlan, wireguard};
use crate::bpf::{self, BpfError, DataPlane, Edge, Frontend};
use crate::kernel::{Kernel, KernelError};
use crate::model::driver::LinkKind;
use crate::model::endpoint::Sandbox;
use crate::model::observed::{self, Inside, Observed};
use crate::model::port::{Bound, BoundSocket};
use crate::model::step::{Change, Step};
use crate::netlink::Rtnl;
use crate::{dns, nft, observe, sockdiag};

pub(crate) struct Host {
    rtnl: Mutex<Rtnl>,
    /// Deletions wait long for the kernel: nobody else is to wait for them.
    deletions: Mutex<Rtnl>,
    data_plane: Arc<DataPlane>,
    namespace: NsId,
    cookie: Option<u64>,
}

impl Host {
    /// The kernel of the calling thread's namespace.
    pub(crate) fn open(data_plane: Arc<DataPlane>) -> Result<Self, KernelError> {
        let failed = |source| KernelError::Namespace {
            path: "of the daemon".to_owned(),
            source,
        };
        let rtnl = Rtnl::open().map_err(failed)?;
        Ok(Self {
            cookie: cookie(&rtnl, &data_plane).map_err(failed)?,
            rtnl: Mutex::new(rtnl),
            deletions: Mutex::new(Rtnl::open().map_err(failed)?),
            data_plane,
            namespace: NetNs::current().map_err(failed)?.id(),
        })
    }

    pub(crate) fn cookie(&self) -> Option<u64> {
        self.cookie
    }

    /// A panic in a request leaves the socket with answers that nobody reads; their sequence
    /// numbers tell them from the next ones.
    fn rtnl(&self) -> MutexGuard<'_, Rtnl> {
        self.rtnl.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn data_plane(&self) -> Result<observed::DataPlane, BpfError> {
        Ok(observed::DataPlane {
            published: self.data_plane.published()?,
            balanced: self.data_plane.balanced()?,
            sandboxes: self.data_plane.sandboxes()?,
            uplinks: self.data_plane.uplinks()?,
            tunnels: self.data_plane.tunnels()?,
            sealed: self.data_plane.sealed()?,
            local: self.data_plane.local_addresses()?,
            hook_lost: self.data_plane.is_hook_lost()?,
            edges: self.edges()?,
            frame_links: self.data_plane.frame_links()?,
        })
    }

    fn edges(&self) -> Result<BTreeMap<IfName, Option<Edge>>, BpfError> {
        let edges = self.data_plane.endpoints()?;
        let links: Vec<u32> = edges.values().map(|(index, _)| *index).collect();
        // What cannot be looked at is taken for missing, and attached again.
        let filtered = |side| observe::filtered(&mut self.rtnl(), &links, side).unwrap_or_default();
        let mut guarded = filtered(TcHandle::MIN_INGRESS);
        let exits = filtered(TcHandle::MIN_EGRESS);
        guarded.retain(|link| exits.contains(link));
        Ok(edges
            .into_iter()
            .map(|(link, (index, edge))| (link, guarded.contains(&index).then_some(edge)))
            .collect())
    }

    fn netlink(&self, step: &Step) -> io::Result<Change> {
        match step {
            Step::CreateBridge {
                link,
                mac,
                mtu,
                ipv6,
            } => link::create_bridge(&mut self.rtnl(), link, *mac, *mtu, *ipv6),
            Step::DeleteLink { link } => link::delete(&mut self.rtnl(), link),
            Step::CutLink { link } => link::cut(&mut self.rtnl(), link),
            Step::DeleteLinks(links) => {
                let deletions = self.deletions.lock();
                let mut rtnl = deletions.unwrap_or_else(PoisonError::into_inner);
                link::delete_all(&mut rtnl, links)
            }
            Step::SetMaster {
                link,
                bridge,
                isolated,
            } => link::set_master(&mut self.rtnl(), link, bridge, *isolated),
            Step::AddAddress { link, address } => {
                link::add_address(&mut self.rtnl(), link, *address)
            }
            Step::CreatePair(pair) => {
                let namespace = open(&pair.sandbox)?;
                link::create_pair(&mut self.rtnl(), pair, &namespace)
            }
            Step::CreateVxlan(new) => vxlan::create(&mut self.rtnl(), new),
            Step::Forward {
                link,
                bridge,
                gone,
                new,
            } => vxlan::forward(&mut self.rtnl(), (link, bridge.as_ref()), gone, new),
            Step::CreateWireGuard(new) => wireguard::create(&mut self.rtnl(), new),
            Step::Correspond { link, gone, new } => wireguard::correspond(link, gone, new),
            Step::ChangeKey { link } => wireguard::change_key(link),
            Step::CreateMesh(mesh) => vxlan::create_mesh(&mut self.rtnl(), mesh),
            Step::CreateParent { link, made } => child::create_parent(&mut self.rtnl(), link, made),
            Step::DeleteParent { link } => child::delete_parent(&mut self.rtnl(), link),
            Step::CreateChild(new) => {
                let namespace = open(&new.sandbox)?;
                child::create_child(&mut self.rtnl(), new, &namespace)
            }
            Step::DeleteChild {
                sandbox,
                ifname,
                endpoint,
                kind,
            } => child::delete_child(sandbox, ifname, endpoint, *kind),
            Step::SetMtu { link, mtu } => link::set_mtu(&mut self.rtnl(), link, *mtu),
            Step::SetSandboxMtu {
                sandbox,
                ifname,
                mtu,
            } => sandbox::set_mtu(&open(sandbox)?, ifname, *mtu),
            Step::ConfigureSandbox(link) => sandbox::configure(&open(&link.sandbox)?, link),
            Step::Announce(link) => sandbox::announce(&open(&link.sandbox)?, link),
            Step::MoveRoute {
                sandbox,
                to: (ifname, route),
                ..
            } => sandbox::set_route(&open(sandbox)?, ifname, route),
            Step::SetRate { link, rate } => limit::set_rate(&mut self.rtnl(), link, *rate),
            Step::CreateBuffer { link, mtu } => limit::create_buffer(&mut self.rtnl(), link, *mtu),
            Step::Redirect { from, to } => limit::redirect(&mut self.rtnl(), from, to),
            _ => Ok(Change::Unchanged),
        }
    }

    fn data_step(&self, step: &Step) -> Result<Change, KernelError> {
        self.data(step).map_err(|source| KernelError::DataPlane {
            action: step.to_string(),
            source,
        })
    }

    fn data(&self, step: &Step) -> Result<Change, BpfError> {
        let data_plane = &self.data_plane;
        let change = match step {
            Step::Publish(ports) => data_plane.publish_all(ports)?,
            Step::Unpublish(ports) => {
                let frontends: Vec<Frontend> =
                    ports.iter().map(|(frontend, _)| *frontend).collect();
                data_plane.unpublish_all(&frontends)?
            }
            Step::SetSandbox { cookie, to, .. } => match to {
                Some(sandbox) => data_plane.set_sandbox(*cookie, *sandbox)?,
                None => data_plane.remove_sandbox(*cookie)?,
            },
            Step::Balance { number, to, .. } => match to {
                Some(balanced) => data_plane.balance(*number, balanced)?,
                None => data_plane.unbalance(*number)?,
            },
            Step::GuardEndpoint { link, edge } => data_plane.attach_endpoint(link, edge)?,
            Step::TakeFrames { link, .. } => data_plane.take_frames(link)?,
            Step::ReleaseEndpoint { link } => data_plane.release_endpoint(link)?,
            Step::AttachHooks => data_plane.attach_hooks()?,
            Step::AdmitRuntime { process } => data_plane.admit_runtime(*process)?,
            Step::SetLocalAddresses(addresses) => data_plane.set_local_addresses(addresses)?,
            Step::Seal(sealed) => data_plane.seal(sealed)?,
            Step::AttachUplink { index, name } => data_plane.attach_uplink(*index, name)?,
            Step::DetachUplink { index } => data_plane.detach_uplink(*index)?,
            Step::AttachTunnel {
                index,
                name,
                underlay,
            } => data_plane.attach_tunnel(*index, name, *underlay)?,
            Step::DetachTunnel { index } => data_plane.detach_tunnel(*index)?,
            _ => bpf::Change::Unchanged,
        };
        Ok(match change {
            bpf::Change::Created | bpf::Change::Changed => Change::Done,
            bpf::Change::Unchanged => Change::Unchanged,
        })
    }
}

impl Kernel for Host {
    fn observe(&self) -> Result<Observed, KernelError> {
        let host = observe::host(&mut self.rtnl()).map_err(|source| KernelError::Netlink {
            action: "list interfaces, addresses and routes".to_owned(),
            source,
        })?;
        Ok(Observed {
            ipv4_forwarding: setting::is_forwarding(false),
            ipv6_forwarding: setting::is_forwarding(true),
            reserved_ports: setting::reserved()?,
            filter: nft::read().map_err(|source| KernelError::Filter {
                action: "read table inet hawser".to_owned(),
                source,
            })?,
            data_plane: self.data_plane().map_err(|source| KernelError::DataPlane {
                action: "read the data plane".to_owned(),
                source,
            })?,
            ..host
        })
    }

    fn apply(&self, step: &Step) -> Result<Change, KernelError> {
        match step {
            Step::CreateBridge { .. }
            | Step::DeleteLink { .. }
            | Step::CutLink { .. }
            | Step::DeleteLinks(_)
            | Step::SetMaster { .. }
            | Step::AddAddress { .. }
            | Step::CreatePair(_)
            | Step::CreateVxlan(_)
            | Step::CreateMesh(_)
            | Step::CreateWireGuard(_)
            | Step::Correspond { .. }
            | Step::ChangeKey { .. }
            | Step::Forward { .. }
            | Step::CreateParent { .. }
            | Step::DeleteParent { .. }
            | Step::CreateChild(_)
            | Step::DeleteChild { .. }
            | Step::SetMtu { .. }
            | Step::SetSandboxMtu { .. }
            | Step::ConfigureSandbox(_)
            | Step::Announce(_)
            | Step::MoveRoute { .. }
            | Step::SetRate { .. }
            | Step::CreateBuffer { .. }
            | Step::Redirect { .. } => self.netlink(step).map_err(|source| KernelError::Netlink {
                action: step.to_string(),
                source,
            }),
            Step::SetFilter { to, .. } => {
                nft::write(to)
                    .map(|()| Change::Done)
                    .map_err(|source| KernelError::Filter {
                        action: step.to_string(),
                        source,
                    })
            }
            Step::EnableForwarding { ipv6 } => setting::enable_forwarding(*ipv6),
            Step::RelaxTracking => setting::relax_tracking(),
            Step::ReservePorts(ports) => setting::reserve(ports),
            Step::ReleasePorts(ports) => setting::release(ports),
            Step::TakeFrames {
                sandbox, ifname, ..
            } => match open(sandbox).and_then(|namespace| sandbox::take_frames(&namespace, ifname))
            {
                Ok(()) => self.data_step(step),
                // Nobody depends on it: they go by tc.
                Err(error) => {
                    tracing::warn!(%error, "{step}");
                    Ok(Change::Unchanged)
                }
            },
            Step::GuardEndpoint { .. }
            | Step::ReleaseEndpoint { .. }
            | Step::SetSandbox { .. }
            | Step::Publish(_)
            | Step::Unpublish(_)
            | Step::Balance { .. }
            | Step::SetLocalAddresses(_)
            | Step::Seal(_)
            | Step::AttachHooks
            | Step::AdmitRuntime { .. }
            | Step::AttachUplink { .. }
            | Step::DetachUplink { .. }
            | Step::AttachTunnel { .. }
            | Step::DetachTunnel { .. } => self.data_step(step),
        }
    }

    fn reachable(&self, number: u64) -> Result<BTreeMap<SocketAddr, u32>, KernelError> {
        let reachable = self.data_plane.reachable(number);
        reachable.map_err(|source| KernelError::DataPlane {
            action: "read what other nodes call backends".to_owned(),
            source,
        })
    }

    fn inspect(&self, path: &Path, ifname: &IfName) -> Result<Option<Inside>, KernelError> {
        let failed = |source| KernelError::Namespace {
            path: path.display().to_string(),
            source,
        };
        let namespace = match NetNs::open(path) {
            Ok(namespace) => namespace,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let (cookie, link) = namespace
            .run(|| {
                let mut rtnl = Rtnl::open()?;
                Ok((
                    cookie(&rtnl, &self.data_plane)?,
                    observe::inside(&mut rtnl, ifname)?,
                ))
            })
            .and_then(|result| result)
            .map_err(failed)?;
        let NsId { device, inode } = namespace.id();
        Ok(Some(Inside {
            device,
            inode,
            cookie,
            is_host: namespace.id() == self.namespace,
            link,
        }))
    }

    fn supports(&self, kind: LinkKind) -> Result<bool, KernelError> {
        child::supports(&mut self.rtnl(), kind).map_err(|source| KernelError::Netlink {
            action: format!("ask for {kind} interfaces"),
            source,
        })
    }

    fn has_child(&self, sandbox: &Sandbox, endpoint: &Id) -> Result<bool, KernelError> {
        child::is_there(sandbox, endpoint).map_err(|source| KernelError::Namespace {
            path: sandbox.path.clone(),
            source,
        })
    }

    fn is_alive(&self, sandbox: &Sandbox) -> bool {
        // A namespace that cannot be looked at may well live: better a late clean-up than cutting
        // a container off.
        netns::identify(Path::new(&sandbox.path)).map_or(true, |id| id == Some(sandbox.id()))
    }

    fn resolver_sockets(&self, sandbox: &Sandbox, port: u16) -> Result<dns::Sockets, KernelError> {
        open(sandbox)
            .and_then(|namespace| sandbox::resolver_sockets(&namespace, port))
            .map_err(|source| KernelError::Namespace {
                path: sandbox.path.clone(),
                source,
            })
    }

    fn bound_sockets(
        &self,
        protocol: Protocol,
        which: Bound,
    ) -> Result<Vec<BoundSocket>, KernelError> {
        sockdiag::bound(protocol, which).map_err(|source| KernelError::Sockets { protocol, source })
    }

    fn sandbox_sockets(&self, sandbox: &Sandbox) -> Result<Vec<BoundSocket>, KernelError> {
        let all = || sockdiag::bound(Protocol::Tcp, Bound::All);
        let found = open(sandbox).and_then(|namespace| namespace.run(all)?);
        match found {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            found => found.map_err(|source| KernelError::Namespace {
                path: sandbox.path.clone(),
                source,
            }),
        }
    }

    fn holder(&self, socket: &BoundSocket) -> String {
        match sys::process::holder_of_socket(&[socket.inode].into()) {
            Some(process) => format!("process {} (pid {})", process.name, process.pid),
            None => "a process that cannot be seen from here".to_owned(),
        }
    }
}

/// The namespace of a sandbox. `NotFound` when it is gone, whatever its path names now.
pub(crate) fn open(sandbox: &Sandbox) -> io::Result<NetNs> {
    let path = Path::new(&sandbox.path);
    let gone = || {
        io::Error::new(
            io::ErrorKind::NotFound,
            format!(
                "the sandbox's network namespace is no longer {}",
                sandbox.path
            ),
        )
    };
    // Looked at before it is opened: a path of `/proc` may be anybody's file by now.
    if netns::identify(path)? != Some(sandbox.id()) {
        return Err(gone());
    }
    let namespace = NetNs::open(path)?;
    if namespace.id() == sandbox.id() {
        Ok(namespace)
    } else {
        Err(gone())
    }
}

/// That of the calling thread's namespace.
fn cookie(rtnl: &Rtnl, data_plane: &DataPlane) -> io::Result<Option<u64>> {
    match rtnl.cookie() {
        Ok(cookie) => Ok(Some(cookie)),
        // ENOPROTOOPT: below Linux 5.14.
        Err(error)
            if error.raw_os_error() == Some(rustix::io::Errno::NOPROTOOPT.raw_os_error()) =>
        {
            data_plane.learn_cookie().map_err(io::Error::other)
        }
        Err(error) => Err(error),
    }
}
