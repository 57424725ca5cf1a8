//! A node's membership: beginning a cluster, joining one, leaving it.
//!
//! What the cluster is lies in its control plane ([`record`]), what this node is on its own disk
//! ([`home`]). A manager lets others in ([`gate`]) by the word of a token.

mod admission;
mod autolock;
mod backup;
mod begin;
mod clerk;
mod error;
mod etcd;
mod gate;
mod home;
mod lock;
mod members;
mod nodes;
mod output;
mod own;
mod record;
mod rights;
mod roles;
mod rotation;
mod safe;
mod seal;
mod settings;
mod tls;
mod tokens;
mod work;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use api::id::NodeId;
use api::swarm::{EtcdAddress, Machine, Membership, SwarmSettings};
use tokio::runtime::Handle;

pub use error::SwarmError;
pub use lock::{InvalidUnlockKey, UnlockKey};
pub use nodes::{Change as NodeChange, NodeState};
pub use record::{CERT_EXPIRY, Cluster};
pub use rotation::Progress;
pub use work::Work;

use self::clerk::Clerk;
use self::gate::Gate;
use self::home::{Home, Papers, State};
use self::lock::{Lock, Stored};
use self::members::Place;
use self::own::{Keeper, Server};
use self::record::Secrets;
use self::safe::Safe;
use crate::control_plane::{ControlPlane, Transaction};
use crate::etcd::Etcd;
use crate::key;
use crate::node::{Availability, Member, Node, Role};
use crate::token::Token;

/// etcd takes 128 operations in one transaction.
const TOGETHER: usize = 100;

/// What the daemon says of itself.
#[derive(Debug, Clone)]
pub struct Host {
    pub hostname: String,
    /// Version of the daemon.
    pub engine: String,
    pub machine: Machine,
    pub etcd: Program,
    /// A directory in memory, for keys that are to be on no disk.
    pub run: PathBuf,
    /// Where this host's agent answers for the output of tasks.
    pub agent: PathBuf,
}

/// The etcd that a manager runs where none is given.
#[derive(Debug, Clone)]
pub struct Program {
    pub path: PathBuf,
    /// Control groups for it, which are made and removed.
    pub groups: Vec<PathBuf>,
}

/// How to begin a cluster.
#[derive(Debug, Clone)]
pub struct Init {
    /// Who this host has been so far, alone.
    pub node: NodeId,
    /// Without addresses, this node runs one, and so does every manager that joins.
    pub etcd: EtcdAddress,
    /// Where other nodes reach this manager.
    pub advertise: SocketAddr,
    pub listen: SocketAddr,
    pub data_address: IpAddr,
    pub data_port: u16,
    pub cert_expiry: Duration,
    pub availability: Availability,
    /// Managers must be unlocked after a restart.
    pub autolock: bool,
    pub settings: SwarmSettings,
}

/// How to join one.
#[derive(Debug, Clone)]
pub struct Join {
    pub token: Token,
    pub manager: SocketAddr,
    /// Absent: the address that this host speaks with the manager from.
    pub advertise: Option<IpAddr>,
    pub listen: SocketAddr,
    pub data_address: Option<IpAddr>,
    pub availability: Availability,
}

/// This node's membership, if it has one.
#[derive(Debug)]
pub struct Swarm {
    home: Home,
    host: Host,
    runtime: Handle,
    active: Mutex<Option<Arc<Active>>>,
    /// In a cluster, and with a key that cannot be read yet.
    locked: Mutex<Option<State>>,
    /// One at a time changes the unlock key.
    locking: Mutex<()>,
}

/// In a cluster.
#[derive(Debug)]
struct Active {
    state: State,
    control: Arc<Etcd>,
    lock: Lock,
    /// The same as this node may use it.
    shared: Arc<dyn ControlPlane>,
    /// When the rights of all nodes were looked at, while this node leads.
    settled: Mutex<Option<Instant>>,
    /// What was said last of this node's certificates.
    said: Mutex<String>,
    /// Of the etcd that managers run, where it is: as on disk.
    endpoints: Mutex<Vec<String>>,
    /// What this node runs of it.
    own: Option<Own>,
    /// Managers let others in, and every node answers managers.
    gate: Option<Arc<Gate>>,
}

/// What goes on when a node becomes something else.
#[derive(Debug, Default)]
struct Kept {
    control: Option<Arc<Etcd>>,
    gate: Option<Arc<Gate>>,
}

/// The etcd of this manager.
#[derive(Debug)]
struct Own {
    server: Server,
    keeper: Mutex<Option<Keeper>>,
    /// Whether it is known to have a vote.
    votes: AtomicBool,
}

impl Active {
    fn member(&self) -> Member {
        Member {
            control: Arc::clone(&self.shared),
            node: self.state.node.clone(),
            manager: self.state.role == Role::Manager,
            data_address: Some(self.state.data_address),
            data_port: self.state.data_port,
        }
    }

    fn control(&self) -> &dyn ControlPlane {
        &*self.control
    }

    fn cluster(&self) -> Result<(Cluster, u64), SwarmError> {
        record::read(self.control(), key::CLUSTER)?.ok_or(SwarmError::Lost)
    }

    fn secrets(&self) -> Result<(Secrets, u64), SwarmError> {
        let (stored, modified) = self.stored()?;
        Ok((stored.open(self.lock.key().as_ref())?, modified))
    }

    fn stored(&self) -> Result<(Stored, u64), SwarmError> {
        record::read(self.control(), key::SECRETS)?.ok_or(SwarmError::Lost)
    }

    /// Says that this node is there.
    fn announce(&self) -> Result<(), SwarmError> {
        self.put_alive("{}")
    }

    fn put_alive(&self, word: &str) -> Result<(), SwarmError> {
        let alive = Transaction::default().put_leased(key::alive(&self.state.node), word);
        self.control.commit(&alive)?;
        Ok(())
    }
}

impl Swarm {
    /// Takes part again in the cluster that is on record in `home`, if there is one. The control plane
    /// need not answer.
    ///
    /// # Errors
    /// [`SwarmError`]: what is on record cannot be read, or the port is taken.
    pub fn open(home: PathBuf, host: Host, runtime: Handle) -> Result<Self, SwarmError> {
        let swarm = Self {
            home: Home::new(home, host.run.clone()),
            host,
            runtime,
            active: Mutex::default(),
            locked: Mutex::default(),
            locking: Mutex::default(),
        };
        let state = swarm.home.state()?;
        swarm.home.settle()?;
        if state.is_none() && swarm.home.exists() {
            // Whoever began or joined was ended in between.
            swarm.undo()?;
        }
        if let Some(state) = state {
            if swarm.home.is_sealed() {
                tracing::warn!("{}", SwarmError::Locked);
                *swarm.locked.lock().unwrap_or_else(PoisonError::into_inner) = Some(state);
                return Ok(swarm);
            }
            swarm.take_part(state)?;
        }
        Ok(swarm)
    }

    /// In the cluster that it is in.
    fn take_part(&self, state: State) -> Result<(), SwarmError> {
        let papers = self.home.papers()?;
        let server = self.server(&state);
        if server.is_none() && self.home.etcd().exists() {
            // It was ended while it became a worker, or a manager.
            self.stop_store()?;
        }
        let active = self.activate(state, &papers, server, Kept::default())?;
        if let Err(error) = active.announce() {
            tracing::warn!(%error, "the cluster does not know yet that this node is back");
        }
        *self.active() = Some(active);
        Ok(())
    }

    /// This node's part, for the networks.
    pub fn member(&self) -> Option<Member> {
        let member = self.active().as_ref().map(|active| active.member());
        member.or_else(|| self.locked().as_ref().map(autolock::silenced))
    }

    /// Ends this node's membership. The others see it down until it is removed.
    ///
    /// # Errors
    /// [`SwarmError::LastManager`], [`SwarmError::Quorum`] without `force`; [`SwarmError::Disk`].
    pub fn leave(&self, force: bool) -> Result<(), SwarmError> {
        if self.is_locked() {
            if !force {
                return Err(SwarmError::Locked);
            }
            self.undo()?;
            *self.locked.lock().unwrap_or_else(PoisonError::into_inner) = None;
            return Ok(());
        }
        let mut active = self.active();
        let current = active.as_ref().ok_or(SwarmError::None)?;
        if current.state.role == Role::Manager
            && let Err(error) = current.resign()
            && !force
        {
            return Err(error);
        }
        if let Some(left) = active.take() {
            left.control.give_back();
            // Whoever is at work for it yet, and waits for an answer, has the rest of it.
            if let Some(gate) = &left.gate {
                gate.close();
            }
            if let Some(own) = &left.own {
                own.unkeep();
            }
        }
        self.undo()
    }

    /// Nothing is left on disk of a cluster, and none of its processes.
    fn undo(&self) -> Result<(), SwarmError> {
        own::stop(&self.home.etcd(), &self.host.etcd.groups)?;
        self.home.clear()
    }

    /// The same on a host whose daemon does not run; whether there was anything.
    ///
    /// # Errors
    /// [`SwarmError::Disk`], [`SwarmError::Etcd`].
    pub fn remove(home: PathBuf, run: PathBuf, groups: &[PathBuf]) -> Result<bool, SwarmError> {
        let home = Home::new(home, run);
        let has_run = own::stop(&home.etcd(), groups)?;
        let exists = home.exists();
        home.clear()?;
        Ok(has_run || exists)
    }

    /// This node in its cluster.
    pub fn membership(&self) -> Option<Membership> {
        let active = self.active().as_ref().map(|active| active.state.clone());
        let state = active.or_else(|| self.locked())?;
        Some(Membership {
            node: state.node,
            cluster: state.cluster,
            role: state.role,
            locked: self.is_locked(),
            node_addr: Some(state.advertise.ip()),
        })
    }

    /// # Errors
    /// As [`Self::tokens`].
    pub fn cluster(&self) -> Result<Cluster, SwarmError> {
        Ok(self.manager()?.cluster()?.0)
    }

    /// Becomes the one manager that decides, if there is none: for as long as it is heard of. Called
    /// again and again.
    ///
    /// # Errors
    /// [`SwarmError::Control`].
    pub fn campaign(&self) -> Result<(), SwarmError> {
        let active = self.member_of().ok();
        let Some(active) = active.filter(|active| active.state.role == Role::Manager) else {
            return Ok(());
        };
        let own = &active.state.node;
        let leader = nodes::leader(active.control())?;
        if leader.is_none() {
            let lead = Transaction::default().when(key::LEADER, 0);
            let lead = lead.put_leased(key::LEADER, own.as_str());
            active.control.commit(&lead)?;
        }
        let leads = leader.as_ref() == Some(own);
        active.settle_rights(leads)?;
        match leads {
            true => active.rotate_on(),
            false => Ok(()),
        }
    }

    fn active(&self) -> MutexGuard<'_, Option<Arc<Active>>> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn locking(&self) -> MutexGuard<'_, ()> {
        self.locking.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn member_of(&self) -> Result<Arc<Active>, SwarmError> {
        self.refuse_locked()?;
        self.active().clone().ok_or(SwarmError::None)
    }

    fn manager(&self) -> Result<Arc<Active>, SwarmError> {
        let active = self.member_of()?;
        match active.state.role {
            Role::Manager => Ok(active),
            Role::Worker => Err(SwarmError::NotManager(crate::managers(active.control()))),
        }
    }

    /// The etcd that this node runs as a manager, where managers do.
    fn server(&self, state: &State) -> Option<Server> {
        let is_wanted = state.own_etcd && state.role == Role::Manager;
        is_wanted.then(|| {
            Server::new(
                self.host.etcd.clone(),
                &self.home,
                (state.cluster.clone(), state.node.clone()),
                (state.listen, state.advertise.ip()),
            )
        })
    }

    /// The store at `endpoints`: the one that this node speaks with, if it does.
    fn control(
        &self,
        state: &State,
        endpoints: &[String],
        control: Option<Arc<Etcd>>,
    ) -> Result<Arc<Etcd>, SwarmError> {
        let mut options = etcd::options(&self.home, state)?;
        options.endpoints = endpoints.to_vec();
        if let Some(control) = control {
            control.redirect(&options.endpoints, options.tls.as_ref())?;
            return Ok(control);
        }
        Ok(Arc::new(Etcd::connect(options, self.runtime.clone())?))
    }

    /// With the `server` of this node kept running, if it has one.
    fn activate(
        &self,
        state: State,
        papers: &Papers,
        server: Option<Server>,
        kept: Kept,
    ) -> Result<Arc<Active>, SwarmError> {
        let endpoints = state.etcd.endpoints.clone();
        let asked = nearest_first(server.as_ref(), &endpoints);
        let control = self.control(&state, &asked, kept.control)?;
        let own = server.map(Own::keep).transpose()?;
        let store = Arc::clone(&control);
        let lock = self.home.lock.clone();
        let shared: Arc<dyn ControlPlane> = match state.role {
            _ if !state.own_etcd => store,
            Role::Manager => Arc::new(Safe { store, lock }),
            Role::Worker => {
                let (node, home) = (state.node.clone(), self.home.clone());
                Arc::new(Clerk::new(store, node, home, self.runtime.clone()))
            }
        };
        let gate = self.door_of(&state, papers, (&control, &shared), kept.gate)?;
        Ok(Arc::new(Active {
            state,
            control,
            lock: self.home.lock.clone(),
            shared,
            settled: Mutex::default(),
            said: Mutex::default(),
            endpoints: Mutex::new(endpoints),
            own,
            gate,
        }))
    }

    /// The etcd of this node is no more, and what it had.
    fn stop_store(&self) -> Result<(), SwarmError> {
        own::stop(&self.home.etcd(), &self.host.etcd.groups)?;
        self.home.clear_store()
    }
}

impl Own {
    fn keep(server: Server) -> Result<Self, SwarmError> {
        let keeper = server.clone().keep();
        let keeper = keeper.map_err(|error| SwarmError::Etcd {
            what: error.to_string(),
        })?;
        Ok(Self {
            server,
            keeper: Mutex::new(Some(keeper)),
            votes: AtomicBool::new(false),
        })
    }

    /// Ends it and starts it again.
    fn restart(&self) -> Result<(), SwarmError> {
        let keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner);
        match &*keeper {
            Some(keeper) => keeper.restart(&self.server),
            None => Ok(()),
        }
    }

    /// Lets it end.
    fn unkeep(&self) {
        let mut keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner);
        *keeper = None;
    }
}

impl Active {
    fn place(&self) -> Place {
        let advertised = self.state.advertise.ip();
        Place {
            client: own::client_url(advertised),
            peer: own::peer_url(advertised),
            door: Some(self.state.advertise),
        }
    }

    /// Asks the managers that there are, this one first.
    fn follow_managers(&self, home: &Home) -> Result<(), SwarmError> {
        let places = members::places(self.control())?;
        let mut endpoints: Vec<String> = places.into_iter().map(|(_, p)| p.client).collect();
        endpoints.sort();
        let mut known = self
            .endpoints
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if !endpoints.is_empty() && *known != endpoints {
            self.redirect(home, &endpoints)?;
            let mut state = self.state.clone();
            state.etcd.endpoints.clone_from(&endpoints);
            home.keep_state(&state)?;
            *known = endpoints;
        }
        drop(known);
        self.promote()
    }

    fn endpoints(&self) -> Vec<String> {
        let endpoints = self.endpoints.lock();
        endpoints.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn redirect(&self, home: &Home, endpoints: &[String]) -> Result<(), SwarmError> {
        let own = self.own.as_ref().map(|own| &own.server);
        let asked = nearest_first(own, endpoints);
        Ok(self.control.redirect(&asked, Some(&etcd::own_tls(home)))?)
    }

    /// Shows other papers from now on, to whoever comes and to etcd. Those on disk are these.
    fn show(&self, home: &Home, papers: &Papers) -> Result<(), SwarmError> {
        if let Some(gate) = &self.gate {
            gate.show(papers)?;
        }
        if self.state.own_etcd {
            self.redirect(home, &self.endpoints())?;
        }
        Ok(())
    }

    /// Gives this manager's etcd a vote, unless it has one.
    fn promote(&self) -> Result<(), SwarmError> {
        if let Some(own) = &self.own
            && !own.votes.load(Ordering::Relaxed)
        {
            members::promote(&self.control, &self.state.node, &self.place().peer)?;
            own.votes.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// This node is no manager any more, in everybody's eyes: nothing of the cluster hangs on it.
    fn resign(&self) -> Result<(), SwarmError> {
        let control = self.control();
        if self.is_last(&self.state.node)? {
            return Err(SwarmError::LastManager);
        }
        if self.own.is_some() {
            let member = (&self.state.node, &*self.place().peer);
            let what = "this node cannot leave";
            members::remove(&self.control, member, what, ", or use --force")?;
        }
        self.depose(&self.state.node)?;
        let name = key::node(&self.state.node);
        let mut gone = Transaction::default().delete(key::manager(&self.state.node));
        if let Some((mut node, modified)) = record::read::<Node>(control, &name)? {
            node.role = Role::Worker;
            node.manager_address = None;
            gone = gone
                .when(name.as_str(), modified)
                .put(name, record::write(&node));
        }
        control.commit(&gone)?;
        self.grant(&self.state.node, Role::Worker)
    }
}

/// The own one is asked before those of other hosts.
fn nearest_first(own: Option<&Server>, endpoints: &[String]) -> Vec<String> {
    let own = own.map(Server::own_url);
    let others = endpoints.iter().filter(|url| Some(*url) != own.as_ref());
    own.iter().chain(others).cloned().collect()
}

/// RFC 3339 with nanoseconds, as Docker writes it.
fn now() -> String {
    format!("{:.9}", jiff::Timestamp::now())
}
