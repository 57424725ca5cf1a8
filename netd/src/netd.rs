//! The subsystem's state, how it starts, and what can be read of it.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use api::id::Id;
use api::net::{Attachment, Network};
use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::runtime::Handle;

use crate::announcement::Announcements;
use crate::apply::Host;
use crate::bpf::{self, DataPlane};
use crate::config::NetConfig;
use crate::departure::Departures;
use crate::dns::{self, DnsError, DnsServer};
use crate::error::{NetError, OpenError};
use crate::kernel::Kernel;
use crate::laps::Laps;
use crate::mode::Chosen;
use crate::model::desired::Desired;
use crate::model::endpoint::Endpoint;
use crate::model::ipam::Walks;
use crate::model::port::{PortHolder, PortTable};
use crate::model::traffic::Episodes;
use crate::overlay::Membership;
use crate::service::HealthNotes;
use crate::severance;
use crate::store::Store;

/// What the daemon gives the subsystem.
#[derive(Debug)]
pub struct Options {
    /// The durable `meta.redb`, shared with others; our tables are `net_*`.
    pub database: Arc<redb::Database>,
    /// Where that is.
    pub state_dir: PathBuf,
    /// For what is as long-lived as a boot: endpoints.
    pub run_dir: PathBuf,
    /// On a bpffs, ending in [`crate::PIN_SCHEMA`].
    pub pin_dir: PathBuf,
    /// The root of the cgroup2 hierarchy, if there is one.
    pub cgroup: Option<PathBuf>,
    /// Tells several daemons of one host apart.
    pub instance: String,
    pub config: NetConfig,
}

/// The network subsystem of one network namespace.
///
/// All operations may be called from several threads: changes take turns, readers see the last
/// committed state and never wait for the kernel.
pub struct Netd {
    pub(crate) kernel: Arc<dyn Kernel>,
    pub(crate) data_plane: Option<Arc<DataPlane>>,
    pub(crate) dns: DnsServer,
    pub(crate) store: Arc<Store>,
    pub(crate) departures: Departures,
    pub(crate) announcements: Announcements,
    pub(crate) config: NetConfig,
    pub(crate) health_notes: HealthNotes,
    /// Whether socket hooks lead 127.0.0.11:53 to where the resolver listens.
    pub(crate) hooks: bool,
    /// This node's part in a cluster, or of a host that is alone.
    pub(crate) membership: ArcSwapOption<Membership>,
    view: ArcSwap<Desired>,
    writer: Mutex<Writer>,
    episodes: Mutex<Episodes>,
    mode: Mutex<Option<Chosen>>,
    /// Says to who works for a client without end that the daemon goes.
    pub(crate) stopping: AtomicBool,
}

/// Held by the one operation that changes something; derived from the records.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    pub(crate) ports: PortTable,
    pub(crate) walks: Walks,
}

impl Writer {
    /// Frees the ports and addresses of an endpoint that is gone.
    pub(crate) fn free(&mut self, desired: &Desired, endpoint: &Endpoint) {
        self.ports
            .remove(&endpoint.key().into(), &endpoint.attachment.ports);
        if let Some(network) = desired.networks.get(&endpoint.attachment.network_id) {
            for (subnet, address) in network.subnets_of(endpoint) {
                self.walks.freed(&network.id, subnet, address);
            }
        }
    }

    /// Notes that an endpoint of `desired` publishes other ports.
    pub(crate) fn replace_ports(&mut self, desired: &Desired, endpoint: &Endpoint) {
        let key = endpoint.key();
        let holder = PortHolder::from(key.clone());
        if let Some(was) = desired.endpoints.get(&key) {
            self.ports.remove(&holder, &was.attachment.ports);
        }
        self.ports.insert(&holder, &endpoint.attachment.ports);
    }
}

impl fmt::Debug for Netd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Netd")
            .field("view", &self.view)
            .finish_non_exhaustive()
    }
}

impl Netd {
    /// Starts in the calling thread's network namespace: adopts what is on record, undoes what was
    /// interrupted, repairs what differs. Flushes and detaches nothing.
    ///
    /// # Errors
    /// [`OpenError`]: the records cannot be read, the data plane cannot be loaded, or the default
    /// network cannot be created. A network that cannot be repaired is no error: it is logged, and
    /// tried again by every reconcile.
    pub fn open(options: Options, runtime: Handle) -> Result<Arc<Self>, OpenError> {
        let mut laps = Laps::start();
        let data_plane = Arc::new(DataPlane::open(&bpf::Options {
            pin_dir: options.pin_dir,
            cgroup: options.cgroup.clone(),
            sizes: options.config.table_sizes(),
        })?);
        laps.end("data plane");
        data_plane.want_front(options.config.front() == Ok(true));
        let host = Host::open(Arc::clone(&data_plane))?;
        let cookie = host.cookie();
        let kernel: Arc<dyn Kernel> = Arc::new(host);
        let store = Arc::new(Store::open(
            options.database,
            &options.state_dir,
            &options.run_dir,
        )?);
        let departures = Departures::start(Arc::clone(&kernel), Arc::clone(&store));
        let announcements = Announcements::start(Arc::clone(&kernel));
        let netd = Self {
            departures: departures.map_err(OpenError::Thread)?,
            announcements: announcements.map_err(OpenError::Thread)?,
            kernel,
            store,
            data_plane: Some(data_plane),
            dns: dns_server(&options.config, runtime)?,
            config: options.config,
            hooks: options.cgroup.is_some() && cookie.is_some(),
            health_notes: HealthNotes::default(),
            membership: ArcSwapOption::empty(),
            view: ArcSwap::default(),
            writer: Mutex::default(),
            episodes: Mutex::default(),
            mode: Mutex::default(),
            stopping: AtomicBool::new(false),
        };
        netd.start(cookie, &mut laps)?;
        // What others changed meanwhile was heard by nobody. The mode comes after the packet filter,
        // which brings connection tracking and its settings into the kernel.
        netd.renew_shortcuts();
        netd.follow_mode();
        tracing::info!(endpoints = netd.view().endpoints.len(), took = %laps, "networks opened");
        let netd = Arc::new(netd);
        severance::start(&netd).map_err(OpenError::Thread)?;
        Ok(netd)
    }

    /// On another kernel, for tests.
    #[cfg(test)]
    pub(crate) fn on(
        kernel: Arc<dyn Kernel>,
        store: Arc<Store>,
        departures: Departures,
        runtime: Handle,
    ) -> Result<Self, OpenError> {
        let config = NetConfig::default();
        let netd = Self {
            departures,
            announcements: Announcements::inline(Arc::clone(&kernel)),
            kernel,
            data_plane: None,
            dns: dns_server(&config, runtime)?,
            store,
            config,
            hooks: true,
            health_notes: HealthNotes::default(),
            membership: ArcSwapOption::empty(),
            view: ArcSwap::default(),
            writer: Mutex::default(),
            episodes: Mutex::default(),
            mode: Mutex::default(),
            stopping: AtomicBool::new(false),
        };
        netd.start(Some(crate::fake::HOST_COOKIE), &mut Laps::start())?;
        Ok(netd)
    }

    /// All networks, ordered by name. A worker knows those of the cluster that it has part in.
    pub fn networks(&self) -> Vec<Network> {
        let view = self.view();
        let to_api = |network: &Arc<_>| to_api(&view, network);
        let mut networks: Vec<Network> = match self.is_manager() {
            true => view.all_networks().map(to_api).collect(),
            false => view.networks.values().map(to_api).collect(),
        };
        networks.sort_by(|a, b| a.name.cmp(&b.name));
        networks
    }

    /// The network that a name, an id or an unambiguous prefix of an id means.
    ///
    /// # Errors
    /// [`NetError::Network`] when there is none, or several.
    pub fn network(&self, key: &str) -> Result<Network, NetError> {
        let view = self.view();
        // Those of the cluster that are not on this node yet, too: a container may ask for one.
        let network = view.any_network(key)?;
        let mut shown = to_api(&view, network);
        let data_plane = self.data_plane.as_ref();
        let counts = data_plane.filter(|_| view.networks.contains_key(&network.id));
        shown.clear_text_dropped = match counts.map(|data_plane| data_plane.exposed()) {
            Some(Ok(counts)) => network.exposed(&counts),
            Some(Err(error)) => {
                tracing::warn!(%error, "no counters of frames in clear text");
                None
            }
            None => None,
        };
        Ok(shown)
    }

    /// The endpoints of one container, or all.
    pub fn endpoints(&self, container: Option<&str>) -> Vec<Attachment> {
        let view = self.view();
        let attachments = |endpoint: &Arc<Endpoint>| endpoint.attachment.clone();
        match container {
            Some(id) => view.endpoints.of_container(id).map(attachments).collect(),
            None => view.endpoints.values().map(attachments).collect(),
        }
    }

    /// The chosen data path and why, one line each.
    pub fn data_path(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.data_plane.iter().flat_map(|d| d.describe()).collect();
        lines.extend(self.mode().as_ref().map(Chosen::describe));
        lines.extend(self.describe_front());
        lines.push(if self.hooks {
            "container DNS: 127.0.0.11 by socket hooks".to_owned()
        } else {
            "container DNS: 127.0.0.11:53 inside each container, there are no socket hooks"
                .to_owned()
        });
        lines.push("masquerade and isolation: nftables table inet hawser".to_owned());
        lines
    }

    /// Which uplinks XDP serves, where that is wanted, and why it does not the others.
    fn describe_front(&self) -> Option<String> {
        let data_plane = self.data_plane.as_ref()?;
        match self.config.front() {
            Ok(false) => None,
            Ok(true) => data_plane
                .describe_front()
                .unwrap_or_else(|error| Some(format!("front: unknown, {error}"))),
            Err(why) => Some(format!("front: tc, because {why}")),
        }
    }

    pub(crate) fn view(&self) -> Arc<Desired> {
        self.view.load_full()
    }

    pub(crate) fn publish_view(&self, desired: Desired) {
        self.view.store(Arc::new(desired));
    }

    /// The writer's tables are changed only after the store: one that a panic left behind is at
    /// worst too careful about a port.
    pub(crate) fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How packets of published ports go, once that is known.
    pub(crate) fn mode(&self) -> MutexGuard<'_, Option<Chosen>> {
        self.mode.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Which tables the log has called nearly full.
    pub(crate) fn episodes(&self) -> MutexGuard<'_, Episodes> {
        self.episodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts serving names on a network and remembers where.
    pub(crate) fn listen(
        &self,
        desired: &mut Desired,
        network: &Id,
        gateway: IpAddr,
    ) -> Result<(), NetError> {
        let address = self.dns.listen(network, gateway, HIGH_PORT)?;
        desired.resolvers.insert(network.clone(), address);
        Ok(())
    }
}

fn to_api(view: &Desired, network: &Arc<crate::model::network::Network>) -> Network {
    network.to_api(view.containers(&network.id))
}

/// Where the resolvers listen: not on 53, which belongs to servers of the host's or the container's
/// own. Always the same, so that connected sockets outlive the daemon.
pub(crate) const HIGH_PORT: u16 = 10053;

fn dns_server(config: &NetConfig, runtime: Handle) -> Result<DnsServer, DnsError> {
    let config = dns::Config {
        upstreams: config.dns.clone(),
        ..dns::Config::default()
    };
    DnsServer::new(config, runtime)
}
