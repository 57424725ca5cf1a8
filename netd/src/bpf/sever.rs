//! Sockets that a hook led to a backend that is gone.
//!
//! Their packets go to the backend itself: no program meets them any more, and nobody would tell their
//! processes that there is no answer. They are ended as if the peer had reset them (`SOCK_DESTROY`).
//!
//! **Invariant:** only a socket that a hook led there is ended, told by its cookie, and only while what
//! it named does not lead there any more.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::{AsFd as _, OwnedFd};

use abi::map::{PEERS, Peer, PeerKey};
use abi::socket::DNS_ADDRESS;
use abi::{Address, Be16};
use api::net::Protocol;
use aya::Ebpf;
use aya::maps::{HashMap, MapData};
use sys::bpf::map::visit;

use super::DataPlane;
use super::error::{BpfError, optional};
use super::frontend::address;
use super::object;
use super::pin::Directory;
use crate::sockdiag::{self, Connected};

const PROTOCOLS: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];

/// What is remembered of sockets whose backend may be gone.
#[derive(Debug, Default)]
pub struct Suspects(BTreeMap<PeerKey, Peer>);

impl Suspects {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What the hooks remember of sockets.
pub(super) struct Peers {
    map: HashMap<MapData, PeerKey, Peer>,
    /// Of the same map, to see all of it at once.
    whole: OwnedFd,
}

impl Peers {
    pub(super) fn open(object: &mut Ebpf, pins: &Directory) -> Result<Self, BpfError> {
        let path = pins.path(PEERS);
        let whole = sys::bpf::open(&path).map_err(|source| BpfError::Pin {
            what: "open the map pinned at",
            path,
            source,
        })?;
        Ok(Self {
            map: object::take(object, PEERS)?,
            whole,
        })
    }

    fn of(&self, gone: &BTreeSet<IpAddr>) -> Result<Suspects, BpfError> {
        let gone: BTreeSet<Address> = gone.iter().map(|ip| address(*ip)).collect();
        let mut found = BTreeMap::new();
        visit(self.whole.as_fd(), |key, value| {
            if let (Some(key), Some(peer)) = (read_key(key), read_peer(value))
                && gone.contains(&key.address)
                && peer.address != DNS_ADDRESS
            {
                found.insert(key, peer);
            }
        })
        .map_err(|source| BpfError::Table {
            table: PEERS,
            source,
        })?;
        Ok(Suspects(found))
    }

    fn forget(&mut self, key: &PeerKey) -> Result<(), BpfError> {
        optional(self.map.remove(key)).map_err(BpfError::map(PEERS))?;
        Ok(())
    }
}

impl DataPlane {
    /// What is remembered of sockets that were led to these addresses.
    ///
    /// # Errors
    /// [`BpfError::Table`].
    pub fn suspects(&self, gone: &BTreeSet<IpAddr>) -> Result<Suspects, BpfError> {
        self.lock().peers.of(gone)
    }

    /// Ends those of the suspects that are sockets of the calling thread's network namespace and are
    /// not led where they go any more. Returns how many; the others of this namespace are no suspects
    /// any more.
    ///
    /// # Errors
    /// [`BpfError::Sockets`]; `Unsupported` where the kernel cannot end sockets.
    pub fn end_sockets(&self, suspects: &mut Suspects) -> Result<usize, BpfError> {
        let mut ended = 0;
        for protocol in PROTOCOLS {
            let failed = |source| BpfError::Sockets { protocol, source };
            let mut sockets = sockdiag::connected(protocol).map_err(failed)?;
            sockets.retain(|socket| suspects.0.contains_key(&key(socket)));
            for socket in sockets {
                let key = key(&socket);
                let Some(peer) = suspects.0.remove(&key) else {
                    continue;
                };
                if self.lock().services.leads(&peer, protocol, &key)? {
                    continue;
                }
                if sockdiag::destroy(protocol, &socket).map_err(failed)? {
                    ended += 1;
                }
                self.lock().peers.forget(&key)?;
            }
        }
        Ok(ended)
    }

    /// Forgets what is left when all namespaces have been looked at: the sockets are gone, or their
    /// next datagram is led elsewhere.
    ///
    /// # Errors
    /// [`BpfError::Map`]; a part may be forgotten.
    pub fn forget(&self, suspects: &Suspects) -> Result<(), BpfError> {
        for key in suspects.0.keys() {
            self.lock().peers.forget(key)?;
        }
        Ok(())
    }
}

fn key(socket: &Connected) -> PeerKey {
    let peer = socket.peer();
    PeerKey {
        socket: socket.cookie(),
        address: address(peer.ip()),
        port: Be16::new(peer.port()),
        pad: [0; 3],
    }
}

fn read_key(bytes: &[u8]) -> Option<PeerKey> {
    let (socket, rest) = bytes.split_first_chunk()?;
    let (octets, rest) = rest.split_first_chunk()?;
    Some(PeerKey {
        socket: u64::from_ne_bytes(*socket),
        address: Address::from_octets(*octets),
        port: Be16(u16::from_ne_bytes(*rest.first_chunk()?)),
        pad: [0; 3],
    })
}

fn read_peer(bytes: &[u8]) -> Option<Peer> {
    let (octets, rest) = bytes.split_first_chunk()?;
    let (port, flags) = rest.split_first_chunk()?;
    Some(Peer {
        address: Address::from_octets(*octets),
        port: Be16(u16::from_ne_bytes(*port)),
        flags: u16::from_ne_bytes(*flags.first_chunk()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_read_as_they_lie_in_memory() {
        let key = PeerKey {
            socket: 0x0102_0304_0506_0708,
            address: address("172.18.0.2".parse().unwrap()),
            port: Be16::new(80),
            pad: [0; 3],
        };
        let mut bytes = key.socket.to_ne_bytes().to_vec();
        bytes.extend(key.address.octets());
        bytes.extend([0, 80, 0, 0, 0, 0, 0, 0]);
        assert_eq!(read_key(&bytes), Some(key));
        assert_eq!(bytes.len(), size_of::<PeerKey>());
        let peer = Peer {
            address: address("::1".parse().unwrap()),
            port: Be16::new(8080),
            flags: 1,
        };
        let mut bytes = peer.address.octets().to_vec();
        bytes.extend(8080_u16.to_be_bytes());
        bytes.extend(1_u16.to_ne_bytes());
        assert_eq!(read_peer(&bytes), Some(peer));
        assert_eq!(read_peer(&bytes[..19]), None);
    }
}
