//! The UDP side: reads until the socket is empty and answers on the spot.
//!
//! Nothing here waits. A reply that finds the send buffer full is a lost datagram, which UDP clients
//! expect.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use tokio::runtime::Handle;

use super::answer::Transport;
use super::serve::{Asker, Service, Step};
use super::zone::Seat;

/// Queries are small; a longer datagram arrives cut off and is malformed then.
const MAX_QUERY: usize = 4096;
/// Datagrams answered before other networks get their turn.
const BATCH: usize = 64;

/// One socket of the resolver.
#[derive(Debug)]
pub(super) struct Socket {
    /// Does not block.
    pub(super) socket: UdpSocket,
    pub(super) seat: Seat,
    pub(super) service: Arc<Service>,
    /// Where queries wait for the outside.
    pub(super) runtime: Handle,
}

/// What one thread needs to answer, whatever the socket.
#[derive(Debug)]
pub(super) struct Buffers {
    query: Vec<u8>,
    reply: Vec<u8>,
    turn: usize,
}

impl Default for Buffers {
    fn default() -> Self {
        Self {
            query: vec![0; MAX_QUERY],
            reply: Vec::with_capacity(MAX_QUERY),
            turn: 0,
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Socket {
    pub(super) fn serve_batch(self: &Arc<Self>, buffers: &mut Buffers) {
        for _ in 0..BATCH {
            match self.socket.recv_from(&mut buffers.query) {
                Ok((len, client)) => self.serve_one(len, client, buffers),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    // Reading has cleared the error, so this does not spin.
                    tracing::debug!(seat = ?self.seat, %error, "reading DNS queries");
                    return;
                }
            }
        }
    }

    fn serve_one(self: &Arc<Self>, len: usize, client: SocketAddr, buffers: &mut Buffers) {
        let Buffers { query, reply, turn } = buffers;
        self.service.counters.udp_queries.increment();
        *turn = turn.wrapping_add(1);
        let asker = Asker {
            seat: &self.seat,
            source: client.ip(),
            transport: Transport::Udp,
            turn: *turn,
        };
        match self.service.begin(&query[..len], asker, reply) {
            Step::Silence => {}
            Step::Reply => self.send(reply, client),
            Step::Ask(permit, miss) => {
                let service = Arc::clone(&self.service);
                // A query that waits must not keep the port of a network that is gone.
                let socket = Arc::downgrade(self);
                self.runtime.spawn(async move {
                    let reply = service.finish(permit, miss).await;
                    if let Some(socket) = socket.upgrade() {
                        socket.send(&reply, client);
                    }
                });
            }
        }
    }

    fn send(&self, reply: &[u8], client: SocketAddr) {
        if self.socket.send_to(reply, client).is_err() {
            self.service.counters.send_failures.increment();
        }
    }
}
