//! Sockets towards upstream servers, opened where the servers are reachable.
//!
//! The host's servers are asked from the host's namespace: one on its loopback, such as
//! systemd-resolved's stub, is nobody else's. Those that came with an endpoint are asked from
//! inside its sandbox, as Docker does: they may be a server of the container itself, or lie behind
//! a tunnel that only the container has. A socket belongs to the namespace it was opened in for its
//! whole life, so only opening it needs a thread that goes there.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sys::netns::{NetNs, NsId};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::task::spawn_blocking;

/// Where servers are asked from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Origin {
    Host,
    Sandbox(NsId),
}

/// Servers in the order in which to ask them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Servers {
    pub(super) origin: Origin,
    pub(super) addresses: Arc<[SocketAddr]>,
}

/// A network namespace to open sockets in.
#[derive(Debug, Clone)]
pub(super) enum Place {
    Host,
    Sandbox { path: PathBuf, id: NsId },
}

impl Place {
    /// A datagram socket connected to `address` on a port that the kernel draws.
    pub(super) async fn udp(&self, address: SocketAddr) -> io::Result<UdpSocket> {
        let any = match address {
            SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
        };
        let open = move || {
            let socket = std::net::UdpSocket::bind(any)?;
            socket.connect(address)?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        };
        UdpSocket::from_std(self.within(open).await?)
    }

    pub(super) async fn tcp(&self, address: SocketAddr) -> io::Result<TcpStream> {
        let open = move || match address {
            SocketAddr::V4(_) => TcpSocket::new_v4(),
            SocketAddr::V6(_) => TcpSocket::new_v6(),
        };
        self.within(open).await?.connect(address).await
    }

    async fn within<T: Send + 'static>(
        &self,
        open: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        match self.clone() {
            Self::Host => open(),
            Self::Sandbox { path, id } => {
                let task = spawn_blocking(move || enter(&path, id)?.run(open)?);
                task.await.map_err(io::Error::other)?
            }
        }
    }
}

fn enter(path: &Path, id: NsId) -> io::Result<NetNs> {
    let namespace = NetNs::open(path)?;
    if namespace.id() == id {
        Ok(namespace)
    } else {
        Err(io::ErrorKind::NotFound.into())
    }
}

/// Where the sandboxes' namespaces are found.
#[derive(Debug, Default)]
pub(super) struct Namespaces(Mutex<HashMap<NsId, PathBuf>>);

impl Namespaces {
    fn paths(&self) -> MutexGuard<'_, HashMap<NsId, PathBuf>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, id: NsId, path: PathBuf) {
        self.paths().insert(id, path);
    }

    pub(super) fn remove(&self, id: NsId) {
        self.paths().remove(&id);
    }

    /// `None` for a sandbox that is gone.
    pub(super) fn place(&self, origin: Origin) -> Option<Place> {
        match origin {
            Origin::Host => Some(Place::Host),
            Origin::Sandbox(id) => {
                let path = self.paths().get(&id)?.clone();
                Some(Place::Sandbox { path, id })
            }
        }
    }
}
