//! The embedded DNS server: containers find each other by name, everything else is forwarded.
//!
//! Sandboxes ask 127.0.0.11. The data plane rewrites that to the socket which [`DnsServer::listen`]
//! opened on their network's gateway address; there the source address tells who asks. Where it
//! cannot, the query comes to the socket inside the sandbox that [`DnsServer::listen_inside`] was
//! given.
//!
//! * `zone` holds what is called what and who may know; `answer` turns a query into a reply.
//!   Both are pure.
//! * `reader`, `udp` and `tcp` move messages. They read an immutable snapshot of all names, so that
//!   a writer never makes a query wait, and names are visible before [`DnsServer::upsert`] returns.
//! * `forward` relays to `upstream` servers through `cache`.
//!
//! Policy for names that are not local: forwarded as they are, single labels included, because only
//! the host's resolver knows whether they mean something. Containers of internal networks get
//! NXDOMAIN instead. A source that is no endpoint gets REFUSED: see `zone::Outside`.

mod admission;
mod answer;
mod cache;
mod counters;
mod cow;
mod dial;
mod forward;
mod listen;
mod mirror;
mod name;
mod reader;
mod resolv;
mod serve;
mod tcp;
mod udp;
mod upstream;
mod wire;
mod zone;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use api::id::{Id, NetworkName};
use api::net::{Link, PortBinding};
use rustix::net::Shutdown;
use sys::netns::NsId;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use crate::bpf::DataPlane;

use answer::Transport;
use dial::Origin;
use mirror::Mirror;
use reader::{Reader, Registration};
use serve::{Asker, Service, Step};
use zone::{Endpoint, Registry, Seat};

pub use admission::Rate;
pub use listen::{Sockets, bind};
/// Which sandbox asks: its network namespace.
pub use sys::netns::NsId as SandboxId;

/// How long clients may keep an answer about a container, in seconds. Containers move: long enough
/// for a burst of lookups, short enough that failover to another owner of an alias is not noticed.
pub const DEFAULT_TTL: u32 = 5;

#[derive(Debug, Clone)]
pub struct Config {
    /// Servers to forward to instead of the host's.
    pub upstreams: Vec<SocketAddr>,
    /// The host's resolver configuration, followed when it changes.
    pub resolv_conf: PathBuf,
    /// Of answers about containers, in seconds.
    pub ttl: u32,
    pub limits: Limits,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            upstreams: Vec::new(),
            resolv_conf: "/etc/resolv.conf".into(),
            ttl: DEFAULT_TTL,
            limits: Limits::default(),
        }
    }
}

/// How long, how many, how much.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Forwarded queries one client may wait for; more fail at once.
    pub in_flight_per_client: usize,
    pub in_flight: usize,
    /// How fast one client's queries may be forwarded; more fail at once.
    pub rate_per_client: Rate,
    pub connections_per_client: usize,
    pub connections: usize,
    /// When the next upstream server is asked too.
    pub hedge_after: Duration,
    /// When a forwarded query fails. Below the 5 s after which the C library asks again.
    pub deadline: Duration,
    /// When a reply that has expired is given instead of waiting on (RFC 8767 §5).
    pub stale_after: Duration,
    /// Silence after which a connection ends.
    pub tcp_idle: Duration,
    /// Age at which a connection ends.
    pub tcp_total: Duration,
    pub cache_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            in_flight_per_client: 256,
            in_flight: 1024,
            rate_per_client: Rate {
                per_second: 1000.0,
                burst: 2000.0,
            },
            connections_per_client: 32,
            connections: 512,
            hedge_after: Duration::from_millis(400),
            deadline: Duration::from_secs(4),
            stale_after: Duration::from_millis(1800),
            tcp_idle: Duration::from_secs(10),
            tcp_total: Duration::from_secs(120),
            cache_bytes: 2 << 20,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    #[error("cannot start the thread that answers DNS queries")]
    StartReader { source: io::Error },
    #[error(
        "cannot listen for DNS queries on {address}, neither on port {port} nor on a free one: \
         check that it is a unicast address that the network may have as its gateway"
    )]
    Bind {
        address: IpAddr,
        port: u16,
        source: io::Error,
    },
    #[error("cannot serve the DNS socket {address}")]
    Register {
        address: SocketAddr,
        source: io::Error,
    },
}

/// One endpoint as the DNS server needs it. Endpoints without a name belong here too: they ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedEndpoint {
    pub endpoint: Id,
    pub network: Id,
    pub network_name: NetworkName,
    pub container_id: String,
    /// Who asks: all endpoints of a sandbox together.
    pub sandbox: NsId,
    /// Ascends in the order in which a sandbox joins networks.
    pub order: u64,
    /// The first is the primary one, which a reverse lookup gives. Each resolves plain and followed
    /// by the network's name. An endpoint without names, such as one on the default network, only
    /// asks.
    pub names: Vec<String>,
    pub addresses: Vec<IpAddr>,
    /// Published ports, which have service records.
    pub ports: Vec<PortBinding>,
    /// Names that this endpoint's sandbox alone sees.
    pub links: Vec<Link>,
    /// Servers to forward this container's queries to, asked from inside its sandbox; the host's
    /// when empty.
    pub upstreams: Vec<IpAddr>,
    /// The network has no way out. Queries of a container that has no other network stay inside.
    pub internal: bool,
}

/// What serves one address of one network, or one sandbox. It ends with it.
#[derive(Debug)]
struct Listener {
    seat: Seat,
    asked: IpAddr,
    local: SocketAddr,
    _udp: Registration,
    /// That of the task, which ends when the runtime gets to it.
    listening: TcpListener,
    tcp: JoinHandle<()>,
}

impl Drop for Listener {
    /// The port is free when this returns: who listens again at once, gets it.
    fn drop(&mut self) {
        if let Err(error) = rustix::net::shutdown(&self.listening, Shutdown::Both) {
            tracing::debug!(%error, local = %self.local, "no end to listening yet");
        }
        self.tcp.abort();
    }
}

#[derive(Debug)]
struct Inner {
    service: Arc<Service>,
    registry: Mutex<Registry>,
    /// Locked after the registry.
    mirror: Mutex<Option<Mirror>>,
    ttl: u32,
    listeners: Mutex<Vec<Listener>>,
    inside: Mutex<HashMap<NsId, Listener>>,
    reader: Reader,
    runtime: Handle,
}

/// The server; clones share it. It stops when the last one is dropped.
#[derive(Debug, Clone)]
pub struct DnsServer {
    inner: Arc<Inner>,
}

impl DnsServer {
    /// A server that knows no names and listens nowhere. Datagrams are answered on a thread of its
    /// own; connections and forwarded queries are tasks of `runtime`.
    ///
    /// # Errors
    /// [`DnsError::StartReader`] when the thread cannot be had.
    pub fn new(config: Config, runtime: Handle) -> Result<Self, DnsError> {
        let inner = Inner {
            ttl: config.ttl,
            service: Arc::new(Service::new(config)),
            registry: Mutex::default(),
            mirror: Mutex::default(),
            listeners: Mutex::default(),
            inside: Mutex::default(),
            reader: Reader::start().map_err(|source| DnsError::StartReader { source })?,
            runtime,
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Serves a network at an address, over UDP and TCP on one port, and returns where.
    ///
    /// Idempotent: a network that is served at the address already keeps its port. A taken
    /// `preferred_port` is replaced by a free one. The address need not be up yet.
    ///
    /// # Errors
    /// [`DnsError`] when no port of the address can be had.
    pub fn listen(
        &self,
        network: &Id,
        address: IpAddr,
        preferred_port: u16,
    ) -> Result<SocketAddr, DnsError> {
        let seat = Seat::Network(network.clone());
        let mut listeners = self.listeners();
        let existing = listeners
            .iter()
            .find(|l| l.seat == seat && l.asked == address);
        if let Some(existing) = existing {
            return Ok(existing.local);
        }
        let sockets = bind(address, preferred_port).map_err(|source| DnsError::Bind {
            address,
            port: preferred_port,
            source,
        })?;
        let local = sockets.local;
        listeners.push(self.serve(seat, address, sockets)?);
        self.publish_own(&listeners);
        Ok(local)
    }

    /// Stops serving a network; one that is not served changes nothing.
    pub fn unlisten(&self, network: &Id) {
        let mut listeners = self.listeners();
        listeners.retain(|l| !matches!(&l.seat, Seat::Network(id) if id == network));
        self.publish_own(&listeners);
    }

    /// Serves the sandbox whose namespace is at `path`, at the sockets that were opened inside.
    /// They keep the namespace alive until [`Self::unlisten_inside`].
    ///
    /// # Errors
    /// [`DnsError::Register`].
    pub fn listen_inside(
        &self,
        sandbox: NsId,
        path: &Path,
        sockets: Sockets,
    ) -> Result<(), DnsError> {
        let listener = self.serve(Seat::Sandbox(sandbox), sockets.local.ip(), sockets)?;
        self.inner.service.namespaces.add(sandbox, path.to_owned());
        // A predecessor's sockets are of no use any more.
        self.inside().insert(sandbox, listener);
        Ok(())
    }

    /// Stops serving a sandbox and lets go of its namespace; one that is not served changes nothing.
    pub fn unlisten_inside(&self, sandbox: NsId) {
        self.inside().remove(&sandbox);
        let service = &self.inner.service;
        service.namespaces.remove(sandbox);
        service.forwarder.forget(Origin::Sandbox(sandbox));
    }

    /// The sandboxes served inside.
    pub fn sandboxes(&self) -> Vec<NsId> {
        self.inside().keys().copied().collect()
    }

    /// Adds or replaces an endpoint. Its names resolve when this returns.
    pub fn upsert(&self, endpoint: NamedEndpoint) {
        self.upsert_all([endpoint]);
    }

    /// The same of several, of which nobody sees a part: a network of thousands that comes is copied once.
    pub fn upsert_all(&self, endpoints: impl IntoIterator<Item = NamedEndpoint>) {
        let mut registry = self.registry();
        let mut changed = Vec::new();
        for endpoint in endpoints {
            let (endpoint, rejected) = Endpoint::new(endpoint);
            for name in rejected {
                tracing::warn!(name, "not a domain name: nobody can resolve it");
            }
            let id = endpoint.id().clone();
            changed.extend(registry.get(&id));
            registry.upsert(endpoint);
            changed.extend(registry.get(&id));
        }
        self.tell(&registry, &changed);
    }

    /// Removes an endpoint; an absent one changes nothing. Its names are gone when this returns.
    pub fn remove(&self, endpoint: &Id) {
        self.remove_all([endpoint]);
    }

    /// The same of several, as [`Self::upsert_all`].
    pub fn remove_all<'e>(&self, endpoints: impl IntoIterator<Item = &'e Id>) {
        let mut registry = self.registry();
        let mut changed = Vec::new();
        for endpoint in endpoints {
            changed.extend(registry.get(endpoint));
            registry.remove(endpoint);
        }
        self.tell(&registry, &changed);
    }

    /// Lets the data plane answer what it can: it knows all names when this returns, and every
    /// change when the change is acknowledged.
    pub(crate) fn mirror_to(&self, data_plane: Arc<DataPlane>) {
        let registry = self.registry();
        let mut mirror = Mirror::new(data_plane, self.inner.ttl);
        mirror.replace(registry.directory());
        *self.mirror() = Some(mirror);
    }

    /// Tries again what the data plane refused before.
    pub(crate) fn complete_mirror(&self) {
        let registry = self.registry();
        if let Some(mirror) = &mut *self.mirror() {
            mirror.replace(registry.directory());
        }
    }

    /// What is replied at once to a datagram that comes from `source` to the socket of `network`;
    /// nothing when others must be asked first, or when it is no query.
    pub fn answer(&self, network: &Id, source: IpAddr, query: &[u8]) -> Option<Vec<u8>> {
        let mut reply = Vec::new();
        let asker = Asker {
            seat: &Seat::Network(network.clone()),
            source,
            transport: Transport::Udp,
            turn: 0,
        };
        let step = self.inner.service.begin(query, asker, &mut reply);
        matches!(step, Step::Reply).then_some(reply)
    }

    /// Appends the server's figures in Prometheus' text format.
    pub fn metrics(&self, out: &mut String) {
        self.inner.service.counters.write(out);
        let names = self.inner.service.directory.load().names();
        let endpoints = self.registry().endpoints();
        let listeners = self.listeners().len();
        let sandboxes = self.inside().len();
        let servers = self.inner.service.forwarder.servers();
        for (name, help, value) in [
            ("names", "names that resolve", names),
            ("endpoints", "endpoints known", endpoints),
            ("listeners", "addresses served", listeners),
            ("sandboxes", "sandboxes served inside", sandboxes),
            ("upstreams", "servers asked lately", servers),
        ] {
            counters::write_metric(out, name, "gauge", help, value as u64);
        }
    }

    fn serve(&self, seat: Seat, asked: IpAddr, sockets: Sockets) -> Result<Listener, DnsError> {
        let address = sockets.local;
        self.register(seat, asked, sockets)
            .map_err(|source| DnsError::Register { address, source })
    }

    fn register(&self, seat: Seat, asked: IpAddr, sockets: Sockets) -> io::Result<Listener> {
        let Inner {
            reader,
            runtime,
            service,
            ..
        } = &*self.inner;
        let Sockets { udp, tcp, local } = sockets;
        let listening = tcp.try_clone()?;
        let tcp = {
            // Registering with the reactor needs the runtime's context.
            let _context = runtime.enter();
            tokio::net::TcpListener::from_std(tcp)?
        };
        let udp = reader.serve(udp::Socket {
            socket: udp,
            seat: seat.clone(),
            service: Arc::clone(service),
            runtime: runtime.clone(),
        })?;
        let tcp = runtime.spawn(tcp::serve(tcp, seat.clone(), Arc::clone(service)));
        Ok(Listener {
            seat,
            asked,
            local,
            _udp: udp,
            listening,
            tcp,
        })
    }

    /// Tells whoever answers of the change of endpoints, as they were and as they are. Called with the
    /// registry locked, so that snapshots appear in the order of the changes.
    fn tell(&self, registry: &Registry, endpoints: &[Arc<Endpoint>]) {
        if endpoints.is_empty() {
            return;
        }
        let directory = registry.directory();
        let published = &self.inner.service.directory;
        published.store(Arc::new(directory.clone()));
        if let Some(mirror) = &mut *self.mirror() {
            mirror.update(directory, endpoints);
        }
    }

    fn publish_own(&self, listeners: &[Listener]) {
        let own = listeners.iter().map(|listener| listener.local).collect();
        self.inner.service.own.store(Arc::new(own));
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.inner
            .registry
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn inside(&self) -> MutexGuard<'_, HashMap<NsId, Listener>> {
        self.inner
            .inside
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn mirror(&self) -> MutexGuard<'_, Option<Mirror>> {
        self.inner
            .mirror
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn listeners(&self) -> MutexGuard<'_, Vec<Listener>> {
        self.inner
            .listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
