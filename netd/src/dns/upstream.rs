//! One server that queries are forwarded to.
//!
//! A UDP socket belongs to one query at a time: it is taken from the pool connected, so that the
//! kernel drops what others send to its port, and goes back only after a clean reply. Replies that
//! come too late die with their socket. Sockets are retired soon, so that a source port stays
//! a secret worth guessing together with the id (RFC 5452).

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UdpSocket;

use super::counters::Counter;
use super::dial::Place;
use super::wire;

const MAX_IDLE: usize = 16;
const MAX_USES: u32 = 100;
/// Also how long the sockets outlive a change of the host's addresses.
const MAX_AGE: Duration = Duration::from_secs(10);
/// How long a server that kept a query waiting is asked after the others.
const PENALTY: Duration = Duration::from_secs(10);

#[derive(Debug)]
struct Pooled {
    socket: UdpSocket,
    opened: Instant,
    uses: u32,
}

impl Pooled {
    fn is_usable(&self) -> bool {
        self.uses < MAX_USES && self.opened.elapsed() < MAX_AGE
    }
}

#[derive(Debug)]
pub(super) struct Upstream {
    place: Place,
    address: SocketAddr,
    idle: Mutex<Vec<Pooled>>,
    born: Instant,
    /// Milliseconds after `born` until which the server counts as slow.
    slow_until: AtomicU64,
    /// Milliseconds after `born` when a query went there.
    asked: AtomicU64,
}

impl Upstream {
    pub(super) fn new(place: Place, address: SocketAddr) -> Self {
        Self {
            place,
            address,
            idle: Mutex::default(),
            born: Instant::now(),
            slow_until: AtomicU64::new(0),
            asked: AtomicU64::new(0),
        }
    }

    /// How long nobody has asked it anything.
    pub(super) fn idle_for(&self) -> Duration {
        Duration::from_millis(
            self.millis()
                .saturating_sub(self.asked.load(Ordering::Relaxed)),
        )
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Pooled>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_slow(&self) -> bool {
        self.millis() < self.slow_until.load(Ordering::Relaxed)
    }

    pub(super) fn mark_slow(&self) {
        let until = self.millis() + PENALTY.as_millis() as u64;
        self.slow_until.store(until, Ordering::Relaxed);
    }

    pub(super) fn mark_quick(&self) {
        self.slow_until.store(0, Ordering::Relaxed);
    }

    fn millis(&self) -> u64 {
        self.born.elapsed().as_millis() as u64
    }

    /// Asks over UDP and waits for the reply, however long: the caller sets the deadline.
    pub(super) async fn ask_udp(&self, query: &[u8], mismatched: &Counter) -> io::Result<Vec<u8>> {
        self.asked.store(self.millis(), Ordering::Relaxed);
        let mut pooled = self.take_socket().await?;
        pooled.socket.send(query).await?;
        // The client may have announced any size; pages that are not written cost nothing.
        let mut reply = Vec::with_capacity(u16::MAX.into());
        loop {
            reply.clear();
            pooled.socket.recv_buf(&mut reply).await?;
            if wire::is_reply_to(&reply, query) {
                break;
            }
            mismatched.increment();
        }
        reply.shrink_to_fit();
        pooled.uses += 1;
        self.give_back(pooled);
        Ok(reply)
    }

    async fn take_socket(&self) -> io::Result<Pooled> {
        {
            let mut idle = self.idle();
            while let Some(pooled) = idle.pop() {
                if pooled.is_usable() {
                    return Ok(pooled);
                }
            }
        }
        let socket = self.place.udp(self.address).await?;
        Ok(Pooled {
            socket,
            opened: Instant::now(),
            uses: 0,
        })
    }

    fn give_back(&self, pooled: Pooled) {
        let mut idle = self.idle();
        if pooled.is_usable() && idle.len() < MAX_IDLE {
            idle.push(pooled);
        }
    }

    /// Asks over a TCP connection of its own (RFC 7766 §6.2.1 allows one query a connection).
    pub(super) async fn ask_tcp(&self, query: &[u8]) -> io::Result<Vec<u8>> {
        let too_long = |_over| io::Error::from(io::ErrorKind::InvalidInput);
        let length = u16::try_from(query.len()).map_err(too_long)?;
        let mut stream = self.place.tcp(self.address).await?;
        let mut framed = length.to_be_bytes().to_vec();
        framed.extend_from_slice(query);
        stream.write_all(&framed).await?;
        let length = stream.read_u16().await?;
        let mut reply = vec![0; length.into()];
        stream.read_exact(&mut reply).await?;
        if wire::is_reply_to(&reply, query) {
            Ok(reply)
        } else {
            Err(io::ErrorKind::InvalidData.into())
        }
    }
}
