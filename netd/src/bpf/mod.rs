//! The eBPF data plane: published ports, container DNS redirection and the host's bind guard.
//!
//! Everything the kernel holds for it is pinned below one directory, so that traffic goes on while
//! the daemon is away:
//!
//! ```text
//! <pin_dir>/frontends, services, …    the maps (abi::map)
//! <pin_dir>/jump_*                    tail-call tables: the current programs
//! <pin_dir>/hook_<hook>               links of the cgroup stubs
//! <pin_dir>/uplink_<ifindex>_<side>   links of the tc stubs (below 6.6: the stub, as a marker)
//! <pin_dir>/tunnel_<ifindex>_ingress  the same, of what other nodes send by
//! <pin_dir>/front_<ifindex>           links of the XDP stub, where that is wanted
//! ```
//!
//! The program at each endpoint's link is a clsact filter: the kernel keeps and drops it with the
//! link, without a pin.
//!
//! Programs and maps of another version, or of other sizes, are replaced under traffic: `upgrade`.
//!
//! **Invariants.** [`DataPlane::open`] never detaches: it adopts what is pinned, replaces the
//! programs in the tail-call tables slot by slot, and attaches what is missing. Each write leaves a
//! state that the next `open` repairs. What is published is read from the maps, never remembered.

mod address;
mod clsact;
mod cookie;
mod counters;
mod endpoint;
mod error;
mod front;
mod frontend;
mod hook;
mod map;
mod names;
mod object;
mod pin;
mod prefilter;
mod range;
mod replay;
mod runtime;
mod sandbox;
mod sealed;
mod service;
mod sever;
mod shortcut;
mod tables;
mod trace;
mod tunnel;
mod upgrade;
mod uplink;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use api::id::IfName;

pub use abi::shortcut::Mode;
pub(crate) use clsact::{FILTER_HANDLE, PRIORITY as FILTER_PRIORITY};
pub use counters::{BackendTraffic, Counts, ServiceTraffic};
pub use endpoint::Edge;
pub(crate) use endpoint::network_number;
pub use error::BpfError;
pub use frontend::{Frontend, FrontendAddress};
pub use names::{NameAddresses, NameFact};
pub use replay::{Replay, Side, Verdict};
pub use sandbox::Sandbox;
pub use sealed::Sealed;
pub use service::balance::Balanced;
pub use sever::Suspects;
pub use tables::Fill;
pub use trace::{Trace, TraceFilter, Traced};
pub use tunnel::{Remote, Underlay};

/// The version of the map layouts: the last part of the pin directory's path, as `v1`.
pub const SCHEMA: u32 = abi::SCHEMA;

/// Where the data plane lives.
#[derive(Debug, Clone)]
pub struct Options {
    /// `/sys/fs/bpf/hawser/<instance>/v<SCHEMA>`. No part may contain a dot: bpffs refuses those.
    pub pin_dir: PathBuf,
    /// The root of the cgroup2 hierarchy; without one there are no socket hooks.
    pub cgroup: Option<PathBuf>,
    /// How many entries some maps have, other than what they were built with. What is pinned with
    /// other sizes is carried over under traffic.
    pub sizes: BTreeMap<&'static str, u32>,
}

/// What a mutation did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Created,
    Changed,
    Unchanged,
}

impl Change {
    /// Of two that make one.
    fn or(self, other: Self) -> Self {
        if self == Self::Unchanged { other } else { self }
    }
}

/// The loaded data plane. All methods are idempotent and may be called from several threads.
pub struct DataPlane {
    parts: Mutex<Parts>,
    tables: tables::Tables,
    /// Apart, because who traces waits.
    tracer: Mutex<trace::Tracer>,
    paths: Vec<String>,
    backends_gone: Mutex<Option<Receiver<BTreeSet<IpAddr>>>>,
}

struct Parts {
    /// Its programs are attached now and then.
    object: aya::Ebpf,
    services: service::Services,
    peers: sever::Peers,
    addresses: address::Addresses,
    sandboxes: sandbox::Sandboxes,
    runtimes: runtime::Runtimes,
    drops: counters::Drops,
    uplinks: uplink::Uplinks,
    fronts: front::Fronts,
    hooks: hook::Hooks,
    edges: endpoint::Edges,
    names: names::Names,
    shortcuts: shortcut::Paths,
    seals: sealed::Seals,
}

impl fmt::Debug for DataPlane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataPlane")
            .field("paths", &self.paths)
            .finish_non_exhaustive()
    }
}

/// The new programs and maps, before a packet meets them.
struct Loaded {
    object: aya::Ebpf,
    pins: pin::Directory,
    services: service::Services,
    backends_gone: Receiver<BTreeSet<IpAddr>>,
    peers: sever::Peers,
    addresses: address::Addresses,
    sandboxes: sandbox::Sandboxes,
    runtimes: runtime::Runtimes,
    drops: counters::Drops,
    names: names::Names,
    shortcuts: shortcut::Paths,
    seals: sealed::Seals,
    tables: tables::Tables,
    tracer: trace::Tracer,
    hooks: hook::Hooks,
}

impl Loaded {
    fn load(options: &Options, older: Option<&upgrade::Older>) -> Result<Self, BpfError> {
        if let Some(older) = older {
            older.share()?;
        }
        let pins = pin::Directory::create(&options.pin_dir)?;
        let mut object = object::load(&pins, &options.sizes)?;
        if let Some(older) = older {
            older.copy()?;
        }
        let (gone, backends_gone) = mpsc::channel();
        let services = service::Services::open(&mut object, gone)?;
        let peers = sever::Peers::open(&mut object, &pins)?;
        let addresses = address::Addresses::open(&mut object)?;
        let sandboxes = sandbox::Sandboxes::open(&mut object)?;
        let runtimes = runtime::Runtimes::open(&mut object)?;
        let drops = counters::Drops::open(&mut object)?;
        object::verify(&mut object);
        object::install_tc(&mut object)?;
        object::install_front(&mut object)?;
        let hooks = hook::Hooks::open(&mut object, pins.clone(), options.cgroup.clone())?;
        hooks.install(&mut object)?;
        let names = names::Names::open(&mut object)?;
        let shortcuts = shortcut::Paths::open(&mut object)?;
        let seals = sealed::Seals::open(&mut object)?;
        let tables = tables::Tables::open(&pins)?;
        let tracer = trace::Tracer::open(&mut object)?;
        Ok(Self {
            object,
            pins,
            services,
            backends_gone,
            peers,
            addresses,
            sandboxes,
            runtimes,
            drops,
            names,
            shortcuts,
            seals,
            tables,
            tracer,
            hooks,
        })
    }

    /// Adopts what is attached, and attaches what is not.
    fn attach(self) -> Result<DataPlane, BpfError> {
        let Self {
            mut object,
            pins,
            services,
            backends_gone,
            peers,
            addresses,
            sandboxes,
            runtimes,
            drops,
            names,
            shortcuts,
            seals,
            tables,
            tracer,
            mut hooks,
        } = self;
        hooks.adopt(&mut object)?;
        let edges = endpoint::Edges::open(&mut object)?;
        let fronts = front::Fronts::open(&mut object, pins.clone())?;
        let uplinks = uplink::Uplinks::open(&mut object, pins)?;
        let paths = vec![format!("uplinks: {}", uplinks.describe()), hooks.describe()];
        let parts = Parts {
            object,
            services,
            peers,
            addresses,
            sandboxes,
            runtimes,
            drops,
            uplinks,
            fronts,
            hooks,
            edges,
            names,
            shortcuts,
            seals,
        };
        Ok(DataPlane {
            parts: Mutex::new(parts),
            tables,
            tracer: Mutex::new(tracer),
            paths,
            backends_gone: Mutex::new(Some(backends_gone)),
        })
    }
}

impl DataPlane {
    /// Adopts the instance below `options.pin_dir`, or creates it.
    ///
    /// # Errors
    /// [`BpfError`]. What was set up before the error stays, and the next call goes on from there.
    pub fn open(options: &Options) -> Result<Self, BpfError> {
        let older = upgrade::Older::find(&options.pin_dir, &options.sizes)?;
        let loaded = Loaded::load(options, older.as_ref());
        let (mut loaded, older) = match (loaded, older) {
            (Ok(loaded), older) => (loaded, older),
            (Err(error), Some(older)) => {
                // The daemon before can go on as if nothing had been tried.
                older.abandon()?;
                return Err(error);
            }
            (Err(error), None) => return Err(error),
        };
        if let Some(older) = &older {
            older.lead_over(&mut loaded.object)?;
        }
        let plane = loaded.attach()?;
        if let Some(older) = older {
            older.finish()?;
        }
        Ok(plane)
    }

    /// Removes every pin, link and filter of the instance, also what an interrupted upgrade left.
    /// Absent ones count as removed.
    ///
    /// # Errors
    /// [`BpfError`] of the first object that stays; calling again goes on from there.
    pub fn uninstall(options: &Options) -> Result<(), BpfError> {
        for path in upgrade::beside(&options.pin_dir)?
            .iter()
            .chain([&options.pin_dir])
        {
            if let Some(pins) = pin::Directory::find(path)? {
                front::remove_all(&pins)?;
                uplink::remove_all(&pins)?;
                pins.remove()?;
            }
        }
        Ok(())
    }

    /// Leads packets for `frontend` to `backend`. Flows to a backend it replaces are cut.
    ///
    /// # Errors
    /// [`BpfError`]; what was published before stays so.
    pub fn publish(&self, frontend: Frontend, backend: SocketAddr) -> Result<Change, BpfError> {
        self.publish_all(&[(frontend, backend)])
    }

    /// As [`Self::publish`], of several at once. Those that are new are all published, or none.
    ///
    /// # Errors
    /// As there.
    pub fn publish_all(&self, ports: &[(Frontend, SocketAddr)]) -> Result<Change, BpfError> {
        self.lock().services.publish(ports)
    }

    /// Undoes [`Self::publish`]; flows in progress are cut.
    ///
    /// # Errors
    /// [`BpfError`]; calling again goes on from where it stopped.
    pub fn unpublish(&self, frontend: &Frontend) -> Result<Change, BpfError> {
        self.unpublish_all(&[*frontend])
    }

    /// As [`Self::unpublish`], of several at once.
    ///
    /// # Errors
    /// As there.
    pub fn unpublish_all(&self, frontends: &[Frontend]) -> Result<Change, BpfError> {
        self.lock().services.unpublish(frontends)
    }

    /// Where `frontend` leads now, read from the kernel.
    ///
    /// # Errors
    /// [`BpfError`].
    pub fn backend(&self, frontend: &Frontend) -> Result<Option<SocketAddr>, BpfError> {
        self.lock().services.backend_of(frontend)
    }

    /// What is published now, read from the kernel.
    ///
    /// # Errors
    /// [`BpfError::Map`].
    pub fn published(&self) -> Result<BTreeMap<Frontend, SocketAddr>, BpfError> {
        self.lock().services.published()
    }

    /// Spreads flows over several backends. `number` is the caller's name for the service. Flows to
    /// backends that stay go on; those to backends that are gone are cut.
    ///
    /// # Errors
    /// [`BpfError::Taken`], before anything is changed; others: calling again goes on from there.
    pub fn balance(&self, number: u64, service: &Balanced) -> Result<Change, BpfError> {
        self.lock().services.balance(number, service)
    }

    /// Undoes [`Self::balance`]; flows in progress are cut.
    ///
    /// # Errors
    /// [`BpfError`]; calling again goes on from where it stopped.
    pub fn unbalance(&self, number: u64) -> Result<Change, BpfError> {
        self.lock().services.unbalance(number)
    }

    /// The services with several backends, read from the kernel.
    ///
    /// # Errors
    /// [`BpfError::Map`].
    pub fn balanced(&self) -> Result<BTreeMap<u64, Balanced>, BpfError> {
        self.lock().services.balanced()
    }

    /// Whether a socket hook is not attached, other than on a host without cgroup2.
    ///
    /// # Errors
    /// [`BpfError`].
    pub fn is_hook_lost(&self) -> Result<bool, BpfError> {
        self.lock().hooks.is_lost()
    }

    /// Attaches the socket hooks that are not attached.
    ///
    /// # Errors
    /// [`BpfError`]; those before the failing one are attached.
    pub fn attach_hooks(&self) -> Result<Change, BpfError> {
        let Parts { object, hooks, .. } = &mut *self.lock();
        hooks.attach_missing(object)
    }

    /// The cookie of the calling thread's network namespace, where the kernel tells it to programs
    /// alone; `None` without a cgroup2 hierarchy.
    ///
    /// # Errors
    /// [`BpfError`].
    pub fn learn_cookie(&self) -> Result<Option<u64>, BpfError> {
        let Parts { object, hooks, .. } = &mut *self.lock();
        hooks.learn_cookie(object)
    }

    /// Begins to act on sockets of the network namespace with this cookie.
    ///
    /// # Errors
    /// [`BpfError::Map`].
    pub fn set_sandbox(&self, cookie: u64, sandbox: Sandbox) -> Result<Change, BpfError> {
        self.lock().sandboxes.set(cookie, sandbox)
    }

    /// Leaves the namespace alone again.
    ///
    /// # Errors
    /// [`BpfError::Map`].
    pub fn remove_sandbox(&self, cookie: u64) -> Result<Change, BpfError> {
        self.lock().sandboxes.remove(cookie)
    }

    /// The namespaces acted on, read from the kernel.
    ///
    /// # Errors
    /// [`BpfError::Map`].
    pub fn sandboxes(&self) -> Result<BTreeMap<u64, Sandbox>, BpfError> {
        self.lock().sandboxes.all()
    }

    /// Lets a process bind published ports, from Linux 6.1.
    ///
    /// # Errors
    /// [`BpfError::Map`].
    pub fn admit_runtime(&self, process: u32) -> Result<Change, BpfError> {
        self.lock().runtimes.admit(process)
    }

    /// Judges what an endpoint sends, at the host's end of its link in the caller's network
    /// namespace.
    ///
    /// # Errors
    /// [`BpfError`]; calling again goes on from where it stopped.
    pub fn attach_endpoint(&self, link: &IfName, edge: &Edge) -> Result<Change, BpfError> {
        let Parts { object, edges, .. } = &mut *self.lock();
        edges.attach(object, link, edge)
    }

    /// Forgets the endpoint, also when its link is gone. Until the link is, it sends nothing more.
    ///
    /// # Errors
    /// [`BpfError::Map`].
    pub fn release_endpoint(&self, link: &IfName) -> Result<Change, BpfError> {
        self.lock().edges.release(link)
    }

    /// What is known of endpoints, by link and its index, read from the kernel.
    ///
    /// # Errors
    /// [`BpfError::Map`].
    pub fn endpoints(&self) -> Result<BTreeMap<IfName, (u32, Edge)>, BpfError> {
        self.lock().edges.all()
    }

    /// Packets that endpoints should not have sent, by reason.
    ///
    /// # Errors
    /// [`BpfError::Map`].
    pub fn refusals(&self) -> Result<Vec<(&'static str, u64)>, BpfError> {
        self.lock().edges.refusals()
    }

    /// Applies changes of names, in their order.
    ///
    /// # Errors
    /// [`BpfError::Map`]; those before it are applied.
    pub fn set_names<'a>(&self, facts: impl Iterator<Item = NameFact<'a>>) -> Result<(), BpfError> {
        self.lock().names.apply(facts)
    }

    /// Makes these all the names there are.
    ///
    /// # Errors
    /// [`BpfError::Map`]; a part of the difference may be applied.
    pub fn replace_names<'a>(
        &self,
        facts: impl Iterator<Item = NameFact<'a>>,
    ) -> Result<(), BpfError> {
        self.lock().names.replace(facts)
    }

    /// Leaves all queries to the daemon.
    ///
    /// # Errors
    /// [`BpfError::Map`].
    pub fn forget_askers(&self) -> Result<(), BpfError> {
        self.lock().names.forget_askers()
    }

    /// How many names and how many askers are known.
    ///
    /// # Errors
    /// [`BpfError::Map`].
    pub fn names(&self) -> Result<(usize, usize), BpfError> {
        self.lock().names.sizes()
    }

    /// DNS queries answered without the daemon, by kind of answer.
    ///
    /// # Errors
    /// [`BpfError::Map`].
    pub fn answers(&self) -> Result<Vec<(&'static str, u64)>, BpfError> {
        self.lock().names.answers()
    }

    /// The traffic of each service, by backend, since it was published.
    ///
    /// # Errors
    /// [`BpfError`].
    pub fn traffic(&self) -> Result<Vec<ServiceTraffic>, BpfError> {
        let active = self.tables.active()?;
        self.lock().services.traffic(&active)
    }

    /// Forgets flows that both ends have closed, once they were silent for so long; returns how many
    /// entries that were.
    ///
    /// # Errors
    /// [`BpfError::Table`]; a part of them may be forgotten.
    pub fn sweep(&self, after: Duration) -> Result<usize, BpfError> {
        self.tables.sweep(after)
    }

    /// How full each table is.
    ///
    /// # Errors
    /// [`BpfError::Table`].
    pub fn fill(&self) -> Result<Vec<Fill>, BpfError> {
        self.tables.fill()
    }

    /// Packets dropped or not served, by reason.
    ///
    /// # Errors
    /// [`BpfError::Map`].
    pub fn drops(&self) -> Result<Vec<(&'static str, u64)>, BpfError> {
        self.lock().drops.read()
    }

    /// The addresses of backends that lose a service, from the start on: see [`Self::suspects`]. For the
    /// first who asks.
    pub fn backends_gone(&self) -> Option<Receiver<BTreeSet<IpAddr>>> {
        let gone = self.backends_gone.lock();
        gone.unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The chosen paths, and why, one line each.
    pub fn describe(&self) -> Vec<String> {
        self.paths.clone()
    }

    /// Runs one Ethernet frame through a program, without a wire: what would become of it.
    /// Flows and counters change as they would for a real packet.
    ///
    /// # Errors
    /// [`BpfError::Replay`]: the frame is shorter than an Ethernet header, or too long.
    pub fn replay(&self, side: Side, frame: &[u8]) -> Result<Replay, BpfError> {
        uplink::replay(&mut self.lock().object, side, frame)
    }

    /// Like [`Self::replay`], for a frame from the endpoint that loopback is taken for.
    ///
    /// # Errors
    /// [`BpfError::Replay`], as there.
    pub fn replay_endpoint(&self, frame: &[u8]) -> Result<Replay, BpfError> {
        endpoint::replay(&mut self.lock().object, frame)
    }

    /// Like [`Self::replay_endpoint`], for a frame that is sent to the endpoint.
    ///
    /// # Errors
    /// [`BpfError::Replay`], as there.
    pub fn replay_to_endpoint(&self, frame: &[u8]) -> Result<Replay, BpfError> {
        endpoint::replay_to(&mut self.lock().object, frame)
    }

    /// Each method leaves the maps in a state the next one can start from, so that the lock of a
    /// thread that panicked is as good as any.
    fn lock(&self) -> MutexGuard<'_, Parts> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
