//! Connections under the test's own control: members that say who they are, and clients that know
//! of each of theirs what became of it.
//!
//! A member answers each message with its number and the message. All sockets are this process's,
//! opened in the namespaces of others, so that a member dies as a program does: its sockets close.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::event::{Timespec, epoll};
use sys::netns::NetNs;

/// A connection that takes longer is lost: longer than a lost SYN and its successor take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a client or member may take to notice that it is to end.
const LOOK_EVERY: Duration = Duration::from_millis(50);
const MESSAGE: [u8; 4] = *b"ping";
/// The listener among the members' sockets.
const DOOR: u64 = u64::MAX;

/// A server on one port of a sandbox, of either family. Dropping it closes all its sockets.
#[derive(Debug)]
pub struct Member {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Member {
    /// Serves in the network namespace at `path`.
    ///
    /// # Errors
    /// When the namespace cannot be entered, or the port is taken.
    pub fn serve(path: &Path, port: u16, number: u8) -> Result<Self> {
        let namespace = NetNs::open(path).with_context(|| path.display().to_string())?;
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        let listener = namespace
            .run(|| TcpListener::bind(any))
            .and_then(|bound| bound)
            .context("listen")?;
        // What the standard library asks for (128) is too short for thousands a second.
        rustix::net::listen(&listener, 4096).context("listen")?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::Builder::new().name(format!("member {number}"));
        let thread = thread
            .spawn(move || serve(&listener, number, &stopped))
            .context("thread of a member")?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && let Ok(Err(error)) = thread.join()
        {
            eprintln!("member: {error}");
        }
    }
}

/// Answers until it is told to stop; all connections end with it.
fn serve(listener: &TcpListener, number: u8, stop: &AtomicBool) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let ready = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let door = epoll::EventData::new_u64(DOOR);
    epoll::add(&ready, listener, door, epoll::EventFlags::IN)?;
    let mut guests: BTreeMap<u64, TcpStream> = BTreeMap::new();
    let mut events = Vec::with_capacity(256);
    let limit = Timespec::try_from(LOOK_EVERY).ok();
    while !stop.load(Ordering::Relaxed) {
        events.clear();
        let waited = epoll::wait(
            &ready,
            rustix::buffer::spare_capacity(&mut events),
            limit.as_ref(),
        );
        match waited {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        for event in &events {
            let key = event.data.u64();
            if key == DOOR {
                admit(listener, &ready, &mut guests)?;
            } else if let Some(guest) = guests.get_mut(&key)
                && !answer(guest, number)
            {
                guests.remove(&key);
            }
        }
    }
    Ok(())
}

fn admit(
    listener: &TcpListener,
    ready: &impl AsFd,
    guests: &mut BTreeMap<u64, TcpStream>,
) -> io::Result<()> {
    loop {
        let guest = match listener.accept() {
            Ok((guest, _from)) => guest,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            // One that was given up before it was accepted (accept(2)).
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(error) => return Err(error),
        };
        guest.set_nonblocking(true)?;
        guest.set_nodelay(true)?;
        let key = guest.as_raw_fd().unsigned_abs().into();
        let data = epoll::EventData::new_u64(key);
        epoll::add(ready, &guest, data, epoll::EventFlags::IN)?;
        guests.insert(key, guest);
    }
}

/// Whether the connection goes on. A message is answered in one piece, as it came.
fn answer(guest: &mut TcpStream, number: u8) -> bool {
    let mut reply = [number; MESSAGE.len() + 1];
    match guest.read(&mut reply[1..]) {
        Ok(length) if length == MESSAGE.len() => guest.write_all(&reply).is_ok(),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => true,
        Ok(_) | Err(_) => false,
    }
}

/// A connection that did not do what it should.
#[derive(Debug, Clone)]
pub struct Failure {
    /// From the call of connect(2), or from the last answer.
    pub since: Instant,
    pub at: Instant,
    /// The member it has spoken to.
    pub member: Option<u8>,
    pub to: SocketAddr,
    pub error: String,
}

/// What became of all connections.
#[derive(Debug, Default)]
pub struct Tally {
    opened: AtomicUsize,
    messages: AtomicUsize,
    failures: Mutex<Vec<Failure>>,
}

impl Tally {
    /// Connections so far.
    pub fn opened(&self) -> usize {
        self.opened.load(Ordering::Relaxed)
    }

    /// Answers so far.
    pub fn messages(&self) -> usize {
        self.messages.load(Ordering::Relaxed)
    }

    pub fn failures(&self) -> Vec<Failure> {
        let failures = self.failures.lock();
        failures.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn fail(&self, failure: Failure) {
        let failures = self.failures.lock();
        failures
            .unwrap_or_else(PoisonError::into_inner)
            .push(failure);
    }
}

/// What a client does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Habit {
    /// Connects, asks once, and leaves, with a pause before the next.
    Short { pause: Duration },
    /// Keeps so many connections, and asks on each of them in turn: so many questions at most, then
    /// it opens another.
    Held { count: usize, asks: usize },
}

impl Habit {
    /// As fast as it goes.
    pub const FAST: Self = Self::Short {
        pause: Duration::ZERO,
    };
}

/// Clients that go on until they are dropped or finished.
#[derive(Debug, Default)]
pub struct Clients {
    tally: Arc<Tally>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Clients {
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Starts one in the network namespace at `path`.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub fn start(&mut self, path: &Path, to: SocketAddr, habit: Habit) -> Result<()> {
        let namespace = NetNs::open(path).with_context(|| path.display().to_string())?;
        let (tally, stop) = (Arc::clone(&self.tally), Arc::clone(&self.stop));
        let client = Client { to, tally, stop };
        let thread = thread::Builder::new().name(format!("client of {to}"));
        let thread = thread.spawn(move || {
            let lived = namespace.run(|| match habit {
                Habit::Short { pause } => client.come_and_go(pause),
                Habit::Held { count, asks } => client.stay(count, asks),
            });
            if let Err(error) = lived {
                eprintln!("client of {to}: {error}");
            }
        });
        self.threads.push(thread.context("thread of a client")?);
        Ok(())
    }

    /// Ends them; what became of all their connections.
    pub fn finish(mut self) -> Arc<Tally> {
        self.end();
        Arc::clone(&self.tally)
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // One that panicked has ended as well.
            drop(thread.join());
        }
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.end();
    }
}

struct Client {
    to: SocketAddr,
    tally: Arc<Tally>,
    stop: Arc<AtomicBool>,
}

/// One connection of a client's.
struct Connection {
    stream: TcpStream,
    since: Instant,
    member: Option<u8>,
    asked: usize,
}

impl Client {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    fn come_and_go(&self, pause: Duration) {
        while self.goes_on() {
            if let Some(mut connection) = self.open() {
                self.ask(&mut connection);
            }
            if !pause.is_zero() {
                thread::sleep(pause);
            }
        }
    }

    /// One that is lost is counted and replaced.
    fn stay(&self, count: usize, asks: usize) {
        let mut connections: Vec<Connection> = Vec::new();
        while self.goes_on() {
            while connections.len() < count && self.goes_on() {
                connections.extend(self.open());
            }
            connections.retain_mut(|connection| self.ask(connection) && connection.asked < asks);
            // Those that come and go need the processor more.
            thread::sleep(LOOK_EVERY);
        }
    }

    fn open(&self) -> Option<Connection> {
        let since = Instant::now();
        let opened = TcpStream::connect_timeout(&self.to, PATIENCE).and_then(|stream| {
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            Ok(stream)
        });
        self.tally.opened.fetch_add(1, Ordering::Relaxed);
        match opened {
            Ok(stream) => Some(Connection {
                stream,
                since,
                member: None,
                asked: 0,
            }),
            Err(error) => {
                self.fail(since, None, &error);
                // Whoever is refused would else do nothing but fail.
                thread::sleep(Duration::from_millis(1));
                None
            }
        }
    }

    /// Whether the connection still does what it should.
    fn ask(&self, connection: &mut Connection) -> bool {
        let mut reply = [0; MESSAGE.len() + 1];
        let stream = &mut connection.stream;
        let asked = stream
            .write_all(&MESSAGE)
            .and_then(|()| stream.read_exact(&mut reply));
        let asked = asked.and_then(|()| match connection.member {
            Some(member) if member != reply[0] => Err(io::Error::other("another member answers")),
            _ if reply[1..] != MESSAGE => Err(io::Error::other("it answers something else")),
            _ => Ok(()),
        });
        if let Err(error) = asked {
            self.fail(connection.since, connection.member, &error);
            return false;
        }
        self.tally.messages.fetch_add(1, Ordering::Relaxed);
        connection.member = Some(reply[0]);
        connection.since = Instant::now();
        connection.asked += 1;
        true
    }

    fn fail(&self, since: Instant, member: Option<u8>, error: &io::Error) {
        self.tally.fail(Failure {
            since,
            at: Instant::now(),
            member,
            to: self.to,
            error: error.to_string(),
        });
    }
}

/// Lets the network namespace at `path` open connections as fast as it goes: all ports, and again
/// those whose connections have just ended.
///
/// # Errors
/// When the namespace cannot be entered.
pub fn free_ports(path: &Path) -> Result<()> {
    let namespace = NetNs::open(path).with_context(|| path.display().to_string())?;
    let settings = [("tcp_tw_reuse", "1"), ("ip_local_port_range", "1024 65535")];
    let write = || {
        settings
            .iter()
            .try_for_each(|(key, value)| std::fs::write(format!("/proc/sys/net/ipv4/{key}"), value))
    };
    namespace
        .run(write)
        .and_then(|written| written)
        .context("ports of a client")
}

/// `address` with `port`.
pub fn at(address: impl Into<IpAddr>, port: u16) -> SocketAddr {
    SocketAddr::new(address.into(), port)
}
