//! The thread that answers datagrams, for all networks.
//!
//! It waits for its sockets itself instead of leaving that to the shared runtime. There, an idle
//! worker sits in `epoll_wait` and is woken for every datagram that arrives, and every reply that
//! leaves, while another worker is answering already: measured, two calls of `epoll_wait` a query
//! and half of the processor time of a loaded server. This thread looks for events only when it has
//! nothing to answer.
//!
//! It is one thread for all. Four containers asking at full speed left it idle for half of the time
//! on a machine of two processors; a query cost it 12 to 15 µs of processor time where aardvark-dns,
//! beside it in the same run, took 25 to 31 over all its threads, and lost some. More threads would
//! need a socket each (`SO_REUSEPORT`) for every network and sandbox, for queries of which the
//! frequent kind is answered at the askers' links and never gets here.

use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

use super::udp::{Buffers, Socket};

/// Sockets that are told ready at once; the others stay ready.
const MAX_EVENTS: usize = 32;
/// What the event of the request to stop carries.
const STOP: u64 = 0;

#[derive(Debug)]
struct Shared {
    epoll: OwnedFd,
    stop: OwnedFd,
    sockets: Mutex<HashMap<u64, Arc<Socket>>>,
    next_token: AtomicU64,
}

impl Shared {
    fn sockets(&self) -> MutexGuard<'_, HashMap<u64, Arc<Socket>>> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Owns the thread.
#[derive(Debug)]
pub(super) struct Reader {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Reader {
    pub(super) fn start() -> io::Result<Self> {
        let shared = Arc::new(Shared {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            stop: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            sockets: Mutex::default(),
            next_token: AtomicU64::new(STOP + 1),
        });
        epoll::add(
            &shared.epoll,
            &shared.stop,
            EventData::new_u64(STOP),
            EventFlags::IN,
        )?;
        let of_thread = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("dns-reader".to_owned())
            .spawn(move || run(&of_thread))?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Serves the socket until the registration is dropped.
    pub(super) fn serve(&self, socket: Socket) -> io::Result<Registration> {
        let token = self.shared.next_token.fetch_add(1, Ordering::Relaxed);
        let socket = Arc::new(socket);
        let mut sockets = self.shared.sockets();
        epoll::add(
            &self.shared.epoll,
            &*socket,
            EventData::new_u64(token),
            EventFlags::IN,
        )?;
        sockets.insert(token, socket);
        Ok(Registration {
            shared: Arc::clone(&self.shared),
            token,
        })
    }
}

impl Drop for Reader {
    /// Returns when the thread has ended.
    fn drop(&mut self) {
        if let Err(error) = rustix::io::write(&self.shared.stop, &1_u64.to_ne_bytes()) {
            tracing::warn!(%error, "the DNS thread cannot be stopped");
            return;
        }
        if let Some(thread) = self.thread.take() {
            // A panic has been reported by its hook already.
            drop(thread.join());
        }
    }
}

/// A socket that is being served.
#[derive(Debug)]
pub(super) struct Registration {
    shared: Arc<Shared>,
    token: u64,
}

impl Drop for Registration {
    /// The kernel forgets the socket when it is closed: here, or after the batch being answered.
    fn drop(&mut self) {
        self.shared.sockets().remove(&self.token);
    }
}

fn run(shared: &Shared) {
    let mut events = [const { MaybeUninit::<epoll::Event>::uninit() }; MAX_EVENTS];
    let mut buffers = Buffers::default();
    loop {
        let ready = match epoll::wait(&shared.epoll, &mut events, None) {
            Ok((ready, _unused)) => ready,
            Err(Errno::INTR) => continue,
            Err(error) => {
                tracing::error!(%error, "DNS queries over UDP are not answered any more");
                return;
            }
        };
        for event in ready {
            match { event.data }.u64() {
                STOP => return,
                token => serve(shared, token, &mut buffers),
            }
        }
    }
}

fn serve(shared: &Shared, token: u64, buffers: &mut Buffers) {
    // The lock is not held while answering. A socket that has just been removed may still be told
    // ready.
    let Some(socket) = shared.sockets().get(&token).map(Arc::clone) else {
        return;
    };
    // The buffers are plain bytes: whatever state a panic leaves them in, they are overwritten.
    if catch_unwind(AssertUnwindSafe(|| socket.serve_batch(buffers))).is_err() {
        tracing::error!("a DNS query was dropped: answering it panicked");
    }
}
