//! A node's membership: beginning a cluster, joining one, leaving it.
//!
//! What the cluster is lies in its control plane ([`record`]), what this node is on its own disk
//! ([`home`]). A manager lets others in ([`gate`]) by the word of a token.

mod error;
mod etcd;
mod gate;
mod home;
mod nodes;
mod record;
mod tls;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use api::id::NodeId;
use api::swarm::EtcdAddress;
use tokio::runtime::Handle;

pub use error::SwarmError;
pub use nodes::{Change as NodeChange, NodeState};
pub use record::{CERT_EXPIRY, Cluster};

use self::gate::{Admission, Application, Gate, Visit};
use self::home::{Home, Papers, State};
use self::record::Secrets;
use crate::authority::{Authority, KeyRequest, Subject, digest};
use crate::control_plane::{ControlPlane, Outcome, Transaction};
use crate::etcd::Etcd;
use crate::key;
use crate::node::{Availability, Member, Node, Role};
use crate::token::Token;

/// etcd takes 128 operations in one transaction.
const TOGETHER: usize = 100;
/// How often a change is tried that others are quicker with.
const TRIES: u32 = 16;

/// What the daemon says of itself.
#[derive(Debug, Clone)]
pub struct Host {
    pub hostname: String,
    /// Version of the daemon.
    pub engine: String,
}

/// How to begin a cluster.
#[derive(Debug, Clone)]
pub struct Init {
    /// Who this host has been so far, alone.
    pub node: NodeId,
    pub etcd: EtcdAddress,
    /// Where other nodes reach this manager.
    pub advertise: SocketAddr,
    pub listen: SocketAddr,
    pub data_address: IpAddr,
    pub data_port: u16,
    pub cert_expiry: Duration,
    pub availability: Availability,
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
}

/// In a cluster.
#[derive(Debug)]
struct Active {
    state: State,
    control: Arc<Etcd>,
    /// Managers let others in.
    _gate: Option<Gate>,
}

impl Active {
    fn member(&self) -> Member {
        let control: Arc<dyn ControlPlane> = self.control.clone();
        Member {
            control,
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
        record::read(self.control(), key::SECRETS)?.ok_or(SwarmError::Lost)
    }

    /// Says that this node is there.
    fn announce(&self) -> Result<(), SwarmError> {
        let alive = Transaction::default().put_leased(key::alive(&self.state.node), "{}");
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
            home: Home::new(home),
            host,
            runtime,
            active: Mutex::default(),
        };
        if let Some(state) = swarm.home.state()? {
            let papers = swarm.home.papers()?;
            let active = swarm.activate(state, &papers)?;
            if let Err(error) = active.announce() {
                tracing::warn!(%error, "the cluster does not know yet that this node is back");
            }
            *swarm.active() = Some(active);
        }
        Ok(swarm)
    }

    /// This node's part, for the networks.
    pub fn member(&self) -> Option<Member> {
        self.active().as_ref().map(|active| active.member())
    }

    /// Begins a cluster with this node as its first manager. What `before` has, the control plane of
    /// the host alone, goes along.
    ///
    /// # Errors
    /// [`SwarmError`]; the node is in no cluster then.
    pub fn init(&self, init: Init, before: &dyn ControlPlane) -> Result<Member, SwarmError> {
        let mut active = self.active();
        if active.is_some() {
            return Err(SwarmError::Already);
        }
        let authority = Authority::create()?;
        let cluster = Cluster {
            id: crate::random_node()?,
            created: now(),
            authority: authority.certificate().to_owned(),
            cert_expiry: init.cert_expiry,
            data_port: init.data_port,
        };
        let secrets = Secrets {
            key: authority.key(),
            worker: crate::random_node()?,
            manager: crate::random_node()?,
        };
        let state = State {
            cluster: cluster.id.clone(),
            node: init.node,
            role: Role::Manager,
            etcd: init.etcd.clone(),
            listen: Some(init.listen),
            data_address: init.data_address,
            data_port: init.data_port,
        };
        let made = KeyRequest::make()?;
        let subject = Subject {
            node: state.node.clone(),
            role: Role::Manager,
            cluster: cluster.id.clone(),
            addresses: vec![init.advertise.ip()],
        };
        let papers = Papers {
            authority: cluster.authority.clone(),
            certificate: authority.sign(&made.request, &subject, init.cert_expiry)?,
            key: made.key,
        };
        let begun = self.activate(state, &papers)?;
        let node = Node {
            id: begun.state.node.clone(),
            hostname: self.host.hostname.clone(),
            role: Role::Manager,
            availability: init.availability,
            labels: [].into(),
            created: now(),
            manager_address: Some(init.advertise),
            data_address: init.data_address,
            data_port: init.data_port,
            engine: self.host.engine.clone(),
        };
        let control = begun.control();
        if let Some((taken, _)) = record::read::<Cluster>(control, key::CLUSTER)? {
            return Err(SwarmError::Taken(taken.id));
        }
        bring(control, before)?;
        let first = Transaction::default()
            .when(key::CLUSTER, 0)
            .put(key::CLUSTER, record::write(&cluster))
            .put(key::SECRETS, record::write(&secrets))
            .put(key::node(&node.id), record::write(&node));
        // On disk first: a cluster that nobody is in could not be ended.
        self.home.settle(&begun.state, &papers)?;
        let committed = control.commit(&first);
        if !matches!(committed, Ok(Outcome::Committed(_))) {
            self.home.clear()?;
            committed?;
            return Err(SwarmError::Busy(key::CLUSTER.to_owned()));
        }
        begun.announce()?;
        let member = begun.member();
        *active = Some(begun);
        Ok(member)
    }

    /// Joins the cluster of a manager; the role is the token's.
    ///
    /// # Errors
    /// [`SwarmError`]; the node is in no cluster then.
    pub fn join(&self, join: &Join) -> Result<(Member, Role), SwarmError> {
        let mut active = self.active();
        if active.is_some() {
            return Err(SwarmError::Already);
        }
        let made = KeyRequest::make()?;
        let (admission, data_address) = self.runtime.block_on(async {
            let visit = Visit::to(join.manager, &join.token).await?;
            let here = visit.local.ip();
            let advertise = join.advertise.unwrap_or(here);
            let data_address = join.data_address.unwrap_or(advertise);
            let application = Application {
                secret: join.token.secret.clone(),
                request: made.request.clone(),
                hostname: self.host.hostname.clone(),
                manager_address: SocketAddr::new(advertise, join.listen.port()),
                data_address,
                availability: join.availability,
                engine: self.host.engine.clone(),
            };
            let admission = visit.apply(&application).await?;
            Ok::<_, SwarmError>((admission, data_address))
        })?;
        let role = admission.role;
        let state = State {
            cluster: admission.cluster,
            node: admission.node,
            role,
            etcd: admission.etcd,
            listen: (role == Role::Manager).then_some(join.listen),
            data_address,
            data_port: admission.data_port,
        };
        let papers = Papers {
            authority: admission.authority,
            certificate: admission.certificate,
            key: made.key,
        };
        let joined = self.activate(state, &papers)?;
        joined.announce()?;
        self.home.settle(&joined.state, &papers)?;
        let member = joined.member();
        *active = Some(joined);
        Ok((member, role))
    }

    /// Ends this node's membership. The others see it down until it is removed.
    ///
    /// # Errors
    /// [`SwarmError::LastManager`] without `force`; [`SwarmError::Disk`].
    pub fn leave(&self, force: bool) -> Result<(), SwarmError> {
        let mut active = self.active();
        let current = active.as_ref().ok_or(SwarmError::None)?;
        if current.state.role == Role::Manager && !force {
            let nodes = nodes::list(current.control())?;
            let is_other =
                |node: &Node| node.role == Role::Manager && node.id != current.state.node;
            if !nodes.iter().any(|(node, _)| is_other(node)) {
                return Err(SwarmError::LastManager);
            }
        }
        self.home.clear()?;
        if let Some(left) = active.take() {
            left.control.give_back();
        }
        Ok(())
    }

    /// The cluster, and the tokens that open it.
    ///
    /// # Errors
    /// [`SwarmError`]: in none, no manager, or the store does not answer.
    pub fn tokens(&self) -> Result<(Token, Token), SwarmError> {
        let active = self.manager()?;
        let (cluster, _) = active.cluster()?;
        let (secrets, _) = active.secrets()?;
        let digest = authority_digest(&cluster.authority)?;
        let token = |role| Token {
            digest,
            secret: secrets.of(role).clone(),
        };
        Ok((token(Role::Worker), token(Role::Manager)))
    }

    /// Where managers take requests to join: this node's own address.
    ///
    /// # Errors
    /// As [`Self::tokens`].
    pub fn door(&self) -> Result<SocketAddr, SwarmError> {
        let active = self.manager()?;
        let (own, _) = active.find(active.state.node.as_str())?;
        own.manager_address.ok_or(SwarmError::Worker)
    }

    /// The token of a role opens nothing any more; another does.
    ///
    /// # Errors
    /// As [`Self::tokens`].
    pub fn rotate(&self, role: Role) -> Result<(), SwarmError> {
        let active = self.manager()?;
        for _ in 0..TRIES {
            let (mut secrets, modified) = active.secrets()?;
            secrets.replace(role, crate::random_node()?);
            let change = Transaction::default()
                .when(key::SECRETS, modified)
                .put(key::SECRETS, record::write(&secrets));
            if active.control.commit(&change)? != Outcome::Refused {
                return Ok(());
            }
        }
        Err(SwarmError::Busy("the tokens".to_owned()))
    }

    /// This node and its cluster: (cluster, node, role).
    pub fn identity(&self) -> Option<(NodeId, NodeId, Role)> {
        let active = self.active();
        let state = &active.as_ref()?.state;
        Some((state.cluster.clone(), state.node.clone(), state.role))
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
        let Ok(active) = self.manager() else {
            return Ok(());
        };
        let leader = active.control.snapshot(key::LEADER)?;
        if leader.entries.is_empty() {
            let own = active.state.node.as_str();
            let lead = Transaction::default().when(key::LEADER, 0);
            active.control.commit(&lead.put_leased(key::LEADER, own))?;
        }
        Ok(())
    }

    fn active(&self) -> MutexGuard<'_, Option<Arc<Active>>> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn member_of(&self) -> Result<Arc<Active>, SwarmError> {
        self.active().clone().ok_or(SwarmError::None)
    }

    fn manager(&self) -> Result<Arc<Active>, SwarmError> {
        let active = self.member_of()?;
        match active.state.role {
            Role::Manager => Ok(active),
            Role::Worker => Err(SwarmError::Worker),
        }
    }

    fn activate(&self, state: State, papers: &Papers) -> Result<Arc<Active>, SwarmError> {
        let control = Etcd::connect(etcd::options(&state.etcd)?, self.runtime.clone())?;
        let control = Arc::new(control);
        let gate = match state.listen {
            Some(address) if state.role == Role::Manager => {
                let (control, state) = (Arc::clone(&control), state.clone());
                let admit = move |asked| admit(&*control, &state, asked);
                let open = Gate::open(address, papers, Arc::new(admit));
                Some(self.runtime.block_on(open)?)
            }
            _ => None,
        };
        Ok(Arc::new(Active {
            state,
            control,
            _gate: gate,
        }))
    }
}

/// Lets a node in whose token is valid.
fn admit(
    control: &dyn ControlPlane,
    own: &State,
    asked: Application,
) -> Result<Admission, SwarmError> {
    let lost = || SwarmError::Lost;
    let (secrets, _): (Secrets, u64) = record::read(control, key::SECRETS)?.ok_or_else(lost)?;
    let (cluster, _): (Cluster, u64) = record::read(control, key::CLUSTER)?.ok_or_else(lost)?;
    let role = secrets.role(&asked.secret).ok_or(SwarmError::Token)?;
    let authority = Authority::from_pem(&cluster.authority, &secrets.key)?;
    let node = Node {
        id: crate::random_node()?,
        hostname: asked.hostname,
        role,
        availability: asked.availability,
        labels: [].into(),
        created: now(),
        manager_address: (role == Role::Manager).then_some(asked.manager_address),
        data_address: asked.data_address,
        data_port: cluster.data_port,
        engine: asked.engine,
    };
    let subject = Subject {
        node: node.id.clone(),
        role,
        cluster: cluster.id.clone(),
        addresses: vec![asked.manager_address.ip()],
    };
    let certificate = authority.sign(&asked.request, &subject, cluster.cert_expiry)?;
    let added = Transaction::default()
        .when(key::node(&node.id), 0)
        .put(key::node(&node.id), record::write(&node));
    if control.commit(&added)? == Outcome::Refused {
        return Err(SwarmError::Busy(key::node(&node.id)));
    }
    tracing::info!(node = %node.id, hostname = %node.hostname, ?role, "a node has joined");
    Ok(Admission {
        cluster: cluster.id,
        node: node.id,
        role,
        authority: cluster.authority,
        certificate,
        etcd: own.etcd.clone(),
        data_port: cluster.data_port,
    })
}

/// Puts what is durable in `from` into `to`, where there is nothing yet.
fn bring(to: &dyn ControlPlane, from: &dyn ControlPlane) -> Result<(), SwarmError> {
    let durable = [key::NETWORKS, key::CLAIMS, key::GUARD];
    let entries = from.snapshot("")?.entries;
    let kept = entries
        .iter()
        .filter(|(key, _)| durable.iter().any(|prefix| key.starts_with(prefix)));
    let kept: Vec<_> = kept.collect();
    for some in kept.chunks(TOGETHER) {
        let puts = some
            .iter()
            .fold(Transaction::default(), |all, (key, entry)| {
                all.put(key.as_str(), entry.value.as_str())
            });
        to.commit(&puts)?;
    }
    Ok(())
}

fn authority_digest(pem: &str) -> Result<[u8; 32], SwarmError> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    let der = CertificateDer::from_pem_slice(pem.as_bytes());
    let der = der.map_err(|error| SwarmError::Tls {
        action: "read the authority's certificate",
        source: rustls::Error::General(error.to_string()),
    })?;
    Ok(digest(&der))
}

/// RFC 3339 with nanoseconds, as Docker writes it.
fn now() -> String {
    format!("{:.9}", jiff::Timestamp::now())
}
