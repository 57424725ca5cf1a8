//! This host's part in a cluster: which addresses it has there, and who is told when that changes.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api::storage::Secret;
use api::swarm::{
    JoinTokens, Machine, ManagerStatus, Membership, Node, NodeDescription, NodeEngine, NodeSpec,
    NodeStatus, NodeUpdate, Peer, Platform, Role, RotationProgress, SwarmInit, SwarmJoin, SwarmKey,
    SwarmRotation, SwarmUpdate, TlsInfo,
};
use api::task::Amounts;
use api::work::{Work, WorkChange};
use api::{ApiError, ErrorCode, path};
use axum::body::Body;
use cluster::Member;
use cluster::swarm::{
    CERT_EXPIRY, Host, Init, Join, NodeChange, NodeState, Program, Swarm, SwarmError,
};
use netd::{NetError, Netd};
use redb::Database;
use serde_json::Value;
use tokio::runtime::Handle;

use crate::alone;
use crate::cgroup;
use crate::config::Config;
use crate::events::Events;
use crate::news::News;
use crate::pools;
use crate::routes::system::VERSION;
use crate::start::StartError;

const HOME: &str = "swarm";
const PORT: u16 = cluster::DOOR;

#[derive(Debug, thiserror::Error)]
pub(crate) enum ClusterError {
    #[error(transparent)]
    Swarm(#[from] SwarmError),
    #[error(transparent)]
    Network(#[from] NetError),
    #[error("networks: {0}")]
    Join(#[from] netd::OpenError),
    #[error("{flag} {text:?}: expected IP, IP:PORT, INTERFACE or INTERFACE:PORT{hint}")]
    Address {
        flag: &'static str,
        text: String,
        hint: String,
    },
    #[error(
        "could not choose an IP address to advertise since this system has {found}: specify one with \
         --advertise-addr"
    )]
    Choice { found: String },
    #[error("manager {0:?}: expected HOST or HOST:PORT")]
    Manager(String),
    #[error("invalid default address pools: {0}")]
    Pool(String),
}

impl From<ClusterError> for ApiError {
    fn from(error: ClusterError) -> Self {
        let code = match &error {
            ClusterError::Swarm(error) => code(error),
            ClusterError::Network(_) | ClusterError::Join(_) => ErrorCode::Internal,
            ClusterError::Address { .. }
            | ClusterError::Choice { .. }
            | ClusterError::Manager(_)
            | ClusterError::Pool(_) => ErrorCode::InvalidInput,
        };
        Self::new(code, error.to_string())
    }
}

fn code(error: &SwarmError) -> ErrorCode {
    match error {
        SwarmError::NoNode(_) => ErrorCode::NotFound,
        SwarmError::Already
        | SwarmError::Active
        | SwarmError::Taken(_)
        | SwarmError::Alive(_)
        | SwarmError::LastManager
        | SwarmError::DemoteLast
        | SwarmError::IsManager(_)
        | SwarmError::Quorum(..)
        | SwarmError::NotLocked
        | SwarmError::NoLock
        | SwarmError::NotLeading
        | SwarmError::Rotating(_)
        | SwarmError::Busy(_) => ErrorCode::Conflict,
        SwarmError::None
        | SwarmError::Worker
        | SwarmError::NotManager(_)
        | SwarmError::Locked
        | SwarmError::OtherLock
        | SwarmError::Control(_)
        | SwarmError::Manager { .. }
        | SwarmError::NoManager(_)
        | SwarmError::Silent { .. }
        | SwarmError::Agent(_)
        | SwarmError::Listen { .. }
        | SwarmError::Etcd { .. }
        | SwarmError::Lost => ErrorCode::Unavailable,
        SwarmError::NoProgram(_) | SwarmError::NotOurs => ErrorCode::Unsupported,
        SwarmError::HalfTls
        | SwarmError::Backup(_)
        | SwarmError::LockedBackup
        | SwarmError::NotHere(_)
        | SwarmError::Given(_)
        | SwarmError::WrongKey
        | SwarmError::InvalidUnlockKey(_)
        | SwarmError::Token
        | SwarmError::InvalidToken(_)
        | SwarmError::NotIts(_)
        | SwarmError::NotToRun(_)
        | SwarmError::NoTask
        | SwarmError::Ambiguous { .. } => ErrorCode::InvalidInput,
        SwarmError::Authority(_)
        | SwarmError::Tls { .. }
        | SwarmError::Program { .. }
        | SwarmError::Disk { .. }
        | SwarmError::Record { .. }
        | SwarmError::Random(_) => ErrorCode::Internal,
    }
}

/// The cluster of this host, or the control plane that it has for itself.
#[derive(Debug)]
pub(crate) struct Clustering {
    swarm: Swarm,
    alone: Member,
    netd: Arc<Netd>,
    events: Arc<Events>,
    /// Tells of what changes there.
    news: Mutex<Option<News>>,
}

impl Clustering {
    /// Takes part again in what is on record.
    pub(crate) fn open(
        config: &Config,
        database: &Arc<Database>,
        netd: Arc<Netd>,
        events: Arc<Events>,
        runtime: Handle,
    ) -> Result<Self, StartError> {
        let host = Host {
            hostname: hostname(),
            engine: VERSION.to_owned(),
            machine: machine(),
            etcd: Program {
                path: config.etcd.clone(),
                groups: groups(config),
            },
            run: config.run_dir.join(HOME),
            agent: config.run_dir.join(path::AGENT_SOCKET),
        };
        let swarm = Swarm::open(config.state_dir.join(HOME), host, runtime);
        let clustering = Self {
            swarm: swarm.map_err(StartError::Cluster)?,
            alone: alone::member(database).map_err(|error| StartError::Cluster(error.into()))?,
            netd,
            events,
            news: Mutex::default(),
        };
        clustering.follow().map_err(StartError::Network)?;
        Ok(clustering)
    }

    /// Tells the networks whose part they are.
    fn follow(&self) -> Result<(), netd::OpenError> {
        let member = self.swarm.member();
        let news = member
            .as_ref()
            .map(|member| News::follow(member, &self.events));
        *self.news.lock().unwrap_or_else(PoisonError::into_inner) = news;
        self.netd.join(member.unwrap_or_else(|| self.alone.clone()))
    }

    pub(crate) fn init(&self, asked: SwarmInit) -> Result<Membership, ClusterError> {
        pools::check(&asked.settings)?;
        let advertise = self.advertised(asked.advertise_addr.as_deref())?;
        let listen = match &asked.listen_addr {
            Some(text) => self.resolve("--listen-addr", text)?,
            None => SocketAddr::new(advertise.ip(), advertise.port()),
        };
        let data_address = match &asked.data_path_addr {
            Some(text) => self.resolve("--data-path-addr", text)?.ip(),
            None => advertise.ip(),
        };
        let init = Init {
            // What it has claimed stays its own.
            node: self.alone.node.clone(),
            etcd: asked.etcd,
            advertise,
            listen,
            data_address,
            data_port: asked.data_path_port.unwrap_or(Member::DATA_PORT),
            cert_expiry: asked.cert_expiry.map_or(CERT_EXPIRY, Duration::from_secs),
            availability: asked.availability,
            autolock: asked.auto_lock,
            settings: asked.settings,
        };
        self.swarm.init(init, &*self.alone.control)?;
        self.swarm.campaign()?;
        self.follow()?;
        self.netd.ensure_ingress()?;
        self.membership().ok_or(SwarmError::None.into())
    }

    pub(crate) fn join(&self, asked: &SwarmJoin) -> Result<Membership, ClusterError> {
        let advertise = asked.advertise_addr.as_deref();
        let advertise = advertise.map(|text| self.resolve("--advertise-addr", text));
        let advertise = advertise.transpose()?;
        let listen = match &asked.listen_addr {
            Some(text) => self.resolve("--listen-addr", text)?,
            None => advertise.unwrap_or(SocketAddr::new([0, 0, 0, 0].into(), PORT)),
        };
        let data_address = asked.data_path_addr.as_deref();
        let data_address = data_address.map(|text| self.resolve("--data-path-addr", text));
        let join = Join {
            token: asked.token.parse().map_err(SwarmError::from)?,
            manager: manager(&asked.manager)?,
            advertise: advertise.map(|address| address.ip()),
            listen,
            data_address: data_address.transpose()?.map(|address| address.ip()),
            availability: asked.availability,
        };
        self.swarm.join(&join)?;
        self.follow()?;
        self.membership().ok_or(SwarmError::None.into())
    }

    pub(crate) fn leave(&self, force: bool) -> Result<(), ClusterError> {
        self.swarm.leave(force)?;
        Ok(self.follow()?)
    }

    pub(crate) fn backup(&self) -> Result<String, ClusterError> {
        Ok(self.swarm.backup()?)
    }

    pub(crate) fn restore(
        &self,
        backup: &str,
        advertise: Option<&str>,
        force: bool,
    ) -> Result<Membership, ClusterError> {
        let advertise = advertise.map(|text| self.resolve("--advertise-addr", text));
        let restored = self.swarm.restore(backup, advertise.transpose()?, force);
        // It may have left one cluster and not begun another.
        self.follow()?;
        restored?;
        self.swarm.campaign()?;
        self.membership().ok_or(SwarmError::None.into())
    }

    pub(crate) fn membership(&self) -> Option<Membership> {
        self.swarm.membership()
    }

    /// Where managers are; no worker is refused.
    pub(crate) fn managers(&self) -> Result<Vec<Peer>, ClusterError> {
        let managers = self.swarm.managers()?.into_iter();
        let peer = |node: cluster::Node| {
            let addr = node.manager_address?.to_string();
            Some(Peer {
                node: node.id,
                addr,
            })
        };
        Ok(managers.filter_map(peer).collect())
    }

    pub(crate) fn unlock(&self, key: &SwarmKey) -> Result<(), ClusterError> {
        let key = key.unlock_key.expose().parse();
        self.swarm.unlock(&key.map_err(SwarmError::from)?)?;
        Ok(self.follow()?)
    }

    pub(crate) fn unlock_key(&self) -> Result<SwarmKey, ClusterError> {
        let key = self.swarm.unlock_key()?;
        let text = key.map_or_else(String::new, |key| key.to_string());
        Ok(SwarmKey {
            unlock_key: Secret::new(text),
        })
    }

    pub(crate) fn inspect(&self) -> Result<api::swarm::Swarm, ClusterError> {
        let cluster = self.swarm.cluster()?;
        let (worker, manager) = self.swarm.tokens()?;
        let (cert_issuer_subject, cert_issuer_public_key) = cluster.signature();
        let progress = self.swarm.progress()?;
        Ok(api::swarm::Swarm {
            id: cluster.id,
            created_at: cluster.created,
            join_tokens: JoinTokens {
                worker: worker.to_string(),
                manager: manager.to_string(),
            },
            tls: TlsInfo {
                trust_root: progress.goal,
                cert_issuer_subject,
                cert_issuer_public_key,
            },
            root_rotation_in_progress: progress.rotating,
            rotation: RotationProgress {
                digest: progress.digest,
                nodes: progress.nodes,
                certificates: progress.certificates,
                roots: progress.roots,
                waits: progress.waits,
            },
            cert_expiry: cluster.cert_expiry.as_secs(),
            data_path_port: cluster.data_port,
            join_address: self.swarm.door()?.to_string(),
            settings: cluster.settings,
            lease: self.swarm.lease()?.as_secs(),
            auto_lock: self.swarm.unlock_key()?.is_some(),
        })
    }

    pub(crate) fn update(&self, asked: &SwarmUpdate) -> Result<(), ClusterError> {
        if let Some(seconds) = asked.cert_expiry {
            self.swarm.set_cert_expiry(Duration::from_secs(seconds))?;
        }
        if let Some(limit) = asked.task_history {
            self.swarm.set_task_history(limit)?;
        }
        if let Some(on) = asked.auto_lock {
            self.swarm.set_autolock(on)?;
        }
        if asked.rotate_unlock_key {
            self.swarm.rotate_unlock_key()?;
        }
        Ok(())
    }

    pub(crate) fn rotate_authority(&self, asked: &SwarmRotation) -> Result<(), ClusterError> {
        let given = match (&asked.ca_cert, &asked.ca_key) {
            (None, None) => None,
            (Some(certificate), Some(key)) => Some((certificate.as_str(), key.expose())),
            _ => {
                let why = "a certificate and its key go together".to_owned();
                return Err(SwarmError::Given(why).into());
            }
        };
        self.swarm.rotate_authority(given)?;
        if let Some(seconds) = asked.cert_expiry {
            self.swarm.set_cert_expiry(Duration::from_secs(seconds))?;
        }
        Ok(())
    }

    pub(crate) fn rotate(&self, role: Role) -> Result<(), ClusterError> {
        Ok(self.swarm.rotate(role)?)
    }

    /// Knows which managers there are, and what this node is to be; one of them decides, as long as one
    /// answers.
    pub(crate) fn attend(&self) {
        let told = match self.swarm.attend() {
            Ok(true) => self.follow(),
            Ok(false) => Ok(()),
            Err(error) => {
                tracing::debug!(%error, "no word of the cluster");
                return;
            }
        };
        if let Err(error) = told {
            tracing::warn!(%error, "the networks do not know what this node has become");
        }
    }

    pub(crate) fn nodes(&self) -> Result<Vec<Node>, ClusterError> {
        let nodes = self.swarm.nodes()?;
        Ok(nodes.into_iter().map(described).collect())
    }

    pub(crate) fn node(&self, key: &str) -> Result<Node, ClusterError> {
        Ok(described(self.swarm.node(key)?))
    }

    pub(crate) fn update_node(&self, key: &str, asked: NodeUpdate) -> Result<(), ClusterError> {
        let change = NodeChange {
            availability: asked.availability,
            add_labels: asked.add_labels,
            remove_labels: asked.remove_labels,
        };
        if let Some(role) = asked.role {
            self.swarm.give_role(key, role)?;
        }
        Ok(self.swarm.update_node(key, &change)?)
    }

    pub(crate) fn remove_node(&self, key: &str, force: bool) -> Result<(), ClusterError> {
        Ok(self.swarm.remove_node(key, force)?)
    }

    pub(crate) fn work(&self, all: bool) -> Result<Option<Work>, ClusterError> {
        let work = self.swarm.work(all)?;
        Ok(work.map(|work| Work {
            node: work.node,
            leads: work.leads,
            nodes: work.nodes.into_iter().map(described).collect(),
            services: work.services,
            history: work.history,
            tasks: work.items,
        }))
    }

    pub(crate) fn change_work(&self, change: &WorkChange) -> Result<(), ClusterError> {
        Ok(self.swarm.change_work(change)?)
    }

    pub(crate) fn output(&self, node: &str, wanted: Value) -> Result<Body, ClusterError> {
        Ok(self.swarm.output(node, wanted)?)
    }

    /// Where others reach this manager: as asked, or by its only address.
    fn advertised(&self, asked: Option<&str>) -> Result<SocketAddr, ClusterError> {
        if let Some(text) = asked {
            return self.resolve("--advertise-addr", text);
        }
        let links = self.netd.host_addresses()?;
        let mut all = links
            .iter()
            .flat_map(|(link, addresses)| addresses.iter().map(move |address| (link, *address)));
        let chosen = all.next();
        match (chosen, all.next()) {
            (Some((_, only)), None) => Ok(SocketAddr::new(only, PORT)),
            (None, _) => Err(ClusterError::Choice {
                found: "no address that others can send to".to_owned(),
            }),
            _ => {
                let named = links.iter().flat_map(|(link, addresses)| {
                    let named = addresses.iter();
                    named.map(move |address| format!("{address} on interface {link}"))
                });
                let named: Vec<String> = named.collect();
                Err(ClusterError::Choice {
                    found: format!("multiple addresses ({})", named.join(", ")),
                })
            }
        }
    }

    /// An address by itself or by its interface, with the port if there is one.
    fn resolve(&self, flag: &'static str, text: &str) -> Result<SocketAddr, ClusterError> {
        if let Ok(address) = text.parse() {
            return Ok(address);
        }
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(SocketAddr::new(ip, PORT));
        }
        let (name, port) = match text.rsplit_once(':') {
            Some((name, port)) => (name, port.parse().ok()),
            None => (text, Some(PORT)),
        };
        let links = self.netd.host_addresses()?;
        let found = links.iter().find(|(link, _)| link.as_str() == name);
        let hint = match found {
            Some((link, addresses)) => match (addresses.as_slice(), port) {
                ([only], Some(port)) => return Ok(SocketAddr::new(*only, port)),
                _ => format!("; {link} has {} addresses", addresses.len()),
            },
            None => String::new(),
        };
        Err(ClusterError::Address {
            flag,
            text: text.chars().take(64).collect(),
            hint,
        })
    }
}

/// Ends the etcd of this host, and forgets the cluster. What was removed.
pub(crate) fn uninstall(config: &Config) -> Result<Option<String>, SwarmError> {
    let home = config.state_dir.join(HOME);
    let name = home.display().to_string();
    Ok(Swarm::remove(home, config.run_dir.join(HOME), &groups(config))?.then_some(name))
}

/// Control groups of this host's etcd.
fn groups(config: &Config) -> Vec<PathBuf> {
    cgroup::groups_apart(&format!("etcd-{}", config.instance))
}

/// Where a manager is: `HOST` or `HOST:PORT`.
fn manager(text: &str) -> Result<SocketAddr, ClusterError> {
    let invalid = || ClusterError::Manager(text.chars().take(64).collect());
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok(SocketAddr::new(ip, PORT));
    }
    let with_port = if text.rsplit_once(':').is_some() {
        text.to_owned()
    } else {
        format!("{text}:{PORT}")
    };
    let mut found = with_port.to_socket_addrs().map_err(|_unknown| invalid())?;
    found.next().ok_or_else(invalid)
}

fn hostname() -> String {
    let system = rustix::system::uname();
    system.nodename().to_string_lossy().into_owned()
}

fn machine() -> Machine {
    let system = rustix::system::uname();
    let text = |name: &std::ffi::CStr| name.to_string_lossy().into_owned();
    let memory = rustix::system::sysinfo();
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    Machine {
        platform: Platform {
            architecture: text(system.machine()),
            os: std::env::consts::OS.to_owned(),
        },
        resources: Amounts {
            nano_cpus: processors as u64 * 1_000_000_000,
            memory_bytes: memory.totalram.saturating_mul(memory.mem_unit.into()),
            pids: 0,
        },
    }
}

fn described(state: NodeState) -> Node {
    let NodeState {
        node,
        alive,
        awaited,
        leader,
        own,
    } = state;
    let status = |yes: &str, no: &str| {
        let word = match (alive, awaited) {
            (true, _) => yes,
            (false, true) => "unknown",
            (false, false) => no,
        };
        word.to_owned()
    };
    Node {
        id: node.id,
        created_at: node.created,
        spec: NodeSpec {
            labels: node.labels,
            role: node.role,
            availability: node.availability,
        },
        description: NodeDescription {
            hostname: node.hostname,
            machine: node.machine,
            engine: NodeEngine {
                engine_version: node.engine,
            },
        },
        status: NodeStatus {
            state: status("ready", "down"),
            addr: node.data_address,
        },
        manager_status: node.manager_address.map(|address| ManagerStatus {
            leader,
            reachability: status("reachable", "unreachable"),
            addr: address.to_string(),
        }),
        own,
    }
}
