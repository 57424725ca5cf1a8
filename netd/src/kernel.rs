//! The one seam between what is decided and the machine it is done on.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

use api::id::{Id, IfName};
use api::net::Protocol;

use crate::bpf::BpfError;
use crate::dns;
use crate::model::driver::LinkKind;
use crate::model::endpoint::Sandbox;
use crate::model::observed::{Inside, Observed};
use crate::model::port::{Bound, BoundSocket};
use crate::model::step::{Change, Step};

/// Implemented by the host and by the fake of the unit tests.
pub(crate) trait Kernel: Send + Sync {
    /// What there is of everything that plans compare with.
    fn observe(&self) -> Result<Observed, KernelError>;

    /// Makes it so. Idempotent.
    fn apply(&self, step: &Step) -> Result<Change, KernelError>;

    /// What other nodes call the backends here of an entry of a service.
    fn reachable(&self, number: u64) -> Result<BTreeMap<SocketAddr, u32>, KernelError>;

    /// Looks into the namespace at `path`; `None` when nothing is there.
    fn inspect(&self, path: &Path, ifname: &IfName) -> Result<Option<Inside>, KernelError>;

    /// Whether the kernel has interfaces of `kind`.
    fn supports(&self, kind: LinkKind) -> Result<bool, KernelError>;

    /// Whether the sandbox has the link that was made inside it for this endpoint, under any name.
    fn has_child(&self, sandbox: &Sandbox, endpoint: &Id) -> Result<bool, KernelError>;

    /// Whether the namespace that was at the sandbox's path is still there.
    fn is_alive(&self, sandbox: &Sandbox) -> bool;

    /// Sockets inside the sandbox for its resolver, on 127.0.0.11: at `port` or, when that is taken,
    /// at another one.
    fn resolver_sockets(&self, sandbox: &Sandbox, port: u16) -> Result<dns::Sockets, KernelError>;

    /// Sockets of the host, so that no port is published that a process serves: those that wait for
    /// peers, or all that have a port. A busy host has few of the former.
    fn bound_sockets(
        &self,
        protocol: Protocol,
        which: Bound,
    ) -> Result<Vec<BoundSocket>, KernelError>;

    /// The TCP sockets of a sandbox; none when it is gone.
    fn sandbox_sockets(&self, sandbox: &Sandbox) -> Result<Vec<BoundSocket>, KernelError>;

    /// Who holds a socket, for people.
    fn holder(&self, socket: &BoundSocket) -> String;
}

/// Why the kernel did not do or say what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    #[error("{action}: {source}")]
    Netlink { action: String, source: io::Error },
    #[error("network namespace {path}: {source}")]
    Namespace { path: String, source: io::Error },
    #[error("set {key}: {source}")]
    Sysctl { key: String, source: io::Error },
    #[error("{action}: nftables: {source}")]
    Filter { action: String, source: io::Error },
    #[error("{action}: {source}")]
    DataPlane { action: String, source: BpfError },
    #[error("list {protocol} sockets: {source}")]
    Sockets {
        protocol: Protocol,
        source: io::Error,
    },
}
