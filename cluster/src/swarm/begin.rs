//! Beginning a cluster, and joining one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use api::swarm::EtcdAddress;

use super::gate::{Application, Visit};
use super::home::{Papers, State};
use super::lock::{Stored, UnlockKey};
use super::members::{self, Place};
use super::own::{self, Beginning, Server};
use super::record::{self, Secrets};
use super::seal::Seal;
use super::tls::Trust;
use super::{Active, Cluster, Init, Join, Kept, Swarm, SwarmError, TOGETHER, now, rights};
use crate::authority::{Authority, KeyRequest, Subject};
use crate::control_plane::{ControlPlane, Outcome, Transaction};
use crate::key;
use crate::node::{Member, Node, Role};

/// How long an etcd may take until it answers, and one that joins until it knows everything.
const START: Duration = Duration::from_secs(30);
const AGAIN: Duration = Duration::from_millis(300);

impl Swarm {
    /// Begins a cluster with this node as its first manager. What `before` has, the control plane of
    /// the host alone, goes along.
    ///
    /// # Errors
    /// [`SwarmError`]; the node is in no cluster then.
    pub fn init(&self, init: Init, before: &dyn ControlPlane) -> Result<Member, SwarmError> {
        self.refuse_locked()?;
        let mut active = self.active();
        if active.is_some() {
            return Err(SwarmError::Already);
        }
        let begun = self
            .begin(init, before)
            .or_else(|error| self.forget(error))?;
        let member = begun.member();
        *active = Some(begun);
        Ok(member)
    }

    /// Joins the cluster of a manager; the role is the token's.
    ///
    /// # Errors
    /// [`SwarmError`]; the node is in no cluster then.
    pub fn join(&self, join: &Join) -> Result<(Member, Role), SwarmError> {
        self.refuse_locked()?;
        let mut active = self.active();
        if active.is_some() {
            return Err(SwarmError::Already);
        }
        let joined = self.enter(join).or_else(|error| self.forget(error))?;
        let member = joined.member();
        let role = joined.state.role;
        *active = Some(joined);
        Ok((member, role))
    }

    /// What was begun is no more, because of `error`.
    pub(super) fn forget<T>(&self, error: SwarmError) -> Result<T, SwarmError> {
        if let Err(error) = self.undo() {
            tracing::warn!(%error, "something is left of what did not begin");
        }
        Err(error)
    }

    fn begin(&self, init: Init, before: &dyn ControlPlane) -> Result<Arc<Active>, SwarmError> {
        let authority = Authority::create()?;
        let cluster = Cluster {
            id: crate::random_node()?,
            created: now(),
            authority: authority.certificate().to_owned(),
            cert_expiry: init.cert_expiry,
            data_port: init.data_port,
            rotation: None,
            settings: init.settings,
        };
        let secrets = Secrets {
            key: authority.key(),
            next_key: None,
            worker: crate::random_node()?,
            manager: crate::random_node()?,
            logins: Some(Seal::random()?),
        };
        let own_etcd = init.etcd.endpoints.is_empty();
        let place = Place {
            client: own::client_url(init.advertise.ip()),
            peer: own::peer_url(init.advertise.ip()),
            door: Some(init.advertise),
        };
        let etcd = if own_etcd {
            EtcdAddress {
                endpoints: vec![place.client.clone()],
                lease: init.etcd.lease,
                ..EtcdAddress::default()
            }
        } else {
            init.etcd
        };
        let state = State {
            cluster: cluster.id.clone(),
            node: init.node,
            role: Role::Manager,
            etcd,
            own_etcd,
            listen: init.listen,
            advertise: init.advertise,
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
        let unlock = init.autolock.then(UnlockKey::random).transpose()?;
        let secrets = Stored::seal(secrets, unlock.as_ref())?;
        self.home.lock.set(unlock);
        let begun = self.found(state, &papers)?;
        let control = begun.control();
        let node = Node {
            id: begun.state.node.clone(),
            hostname: self.host.hostname.clone(),
            role: Role::Manager,
            availability: init.availability,
            labels: [].into(),
            created: now(),
            manager_address: Some(init.advertise),
            door: Some(init.advertise),
            data_address: init.data_address,
            data_port: init.data_port,
            engine: self.host.engine.clone(),
            machine: self.host.machine.clone(),
        };
        bring(control, before)?;
        let mut first = Transaction::default()
            .when(key::CLUSTER, 0)
            .put(key::CLUSTER, record::write(&cluster))
            .put(key::SECRETS, record::write(&secrets))
            .put(key::node(&node.id), record::write(&node));
        if own_etcd {
            first = first.put(key::manager(&node.id), record::write(&place));
        }
        // On disk first: a cluster that nobody is in could not be ended.
        self.home.keep_state(&begun.state)?;
        if control.commit(&first)? == Outcome::Refused {
            return Err(SwarmError::Busy(key::CLUSTER.to_owned()));
        }
        if own_etcd {
            rights::settle(&begun.control, true)?;
        }
        begun.announce()?;
        Ok(begun)
    }

    /// As the first node at a store that has no cluster yet.
    pub(super) fn found(&self, state: State, papers: &Papers) -> Result<Arc<Active>, SwarmError> {
        self.home.keep_papers(papers)?;
        let server = self.server(&state);
        if let Some(server) = &server {
            server.start(&Beginning::New)?;
        }
        let begun = self.activate(state, papers, server, Kept::default())?;
        let taken = || record::read::<Cluster>(begun.control(), key::CLUSTER);
        let taken = match &begun.own {
            Some(own) => own.server.wait(START, taken)?,
            None => taken()?,
        };
        match taken {
            Some((taken, _)) => Err(SwarmError::Taken(taken.id)),
            None => Ok(begun),
        }
    }

    fn enter(&self, join: &Join) -> Result<Arc<Active>, SwarmError> {
        let made = KeyRequest::make()?;
        let (admission, advertise, data_address) = self.runtime.block_on(async {
            let visit = Visit::to(join.manager, Trust::Token(join.token.digest)).await?;
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
                machine: self.host.machine.clone(),
            };
            let admission = visit.apply(&application).await?;
            Ok::<_, SwarmError>((admission, application.manager_address, data_address))
        })?;
        let state = State {
            cluster: admission.cluster,
            node: admission.node,
            role: admission.role,
            etcd: admission.etcd,
            own_etcd: admission.own_etcd,
            listen: join.listen,
            advertise,
            data_address,
            data_port: admission.data_port,
        };
        let papers = Papers {
            authority: admission.authority,
            certificate: admission.certificate,
            key: made.key,
        };
        self.home.lock.set(admission.unlock);
        self.home.keep_papers(&papers)?;
        let joined = match self.server(&state) {
            Some(server) => self.join_store(state, &papers, server, Kept::default())?,
            None => self.activate(state, &papers, None, Kept::default())?,
        };
        self.home.keep_state(&joined.state)?;
        joined.announce()?;
        joined.vote()?;
        Ok(joined)
    }

    /// As a member of the etcd that managers run: without a vote, until the state is on disk.
    pub(super) fn join_store(
        &self,
        state: State,
        papers: &Papers,
        server: Server,
        kept: Kept,
    ) -> Result<Arc<Active>, SwarmError> {
        let peer = own::peer_url(state.advertise.ip());
        let node = state.node.clone();
        let others = self.control(&state, &state.etcd.endpoints, kept.control)?;
        let members = members::add(&others, &node, &peer)?;
        let kept = Kept {
            control: Some(Arc::clone(&others)),
            gate: kept.gate,
        };
        let joined = server
            .start(&Beginning::Joins(members))
            .and_then(|()| self.activate(state, papers, Some(server), kept));
        if joined.is_err()
            && let Err(error) = members::remove(&others, (&node, &peer), "undo", "")
        {
            tracing::warn!(%error, "the cluster has a member that does not exist");
        }
        joined
    }
}

impl Active {
    /// Gives this manager's etcd a vote, when it knows everything, and tells everybody where it is. What
    /// takes longer is done later.
    pub(super) fn vote(&self) -> Result<(), SwarmError> {
        if self.own.is_none() {
            return Ok(());
        }
        let place = self.place();
        let put = Transaction::default().put(key::manager(&self.state.node), record::write(&place));
        self.control().commit(&put)?;
        let deadline = Instant::now() + START;
        loop {
            match self.promote() {
                Err(_not_yet) if Instant::now() < deadline => thread::sleep(AGAIN),
                Err(error) => {
                    tracing::warn!(%error, "the etcd of this node has no vote yet");
                    return Ok(());
                }
                Ok(()) => return Ok(()),
            }
        }
    }
}

/// Puts what is durable in `from` into `to`, where there is nothing yet.
fn bring(to: &dyn ControlPlane, from: &dyn ControlPlane) -> Result<(), SwarmError> {
    let durable = [key::NETWORKS, key::CLAIMS, key::GUARD];
    let entries = from.snapshot("")?.entries;
    let kept = entries
        .iter()
        .filter(|(key, _)| durable.iter().any(|prefix| key.starts_with(prefix)));
    put_all(
        to,
        kept.map(|(key, entry)| (key.as_str(), entry.value.as_str())),
    )
}

/// Puts everything, some at a time.
pub(super) fn put_all<'a>(
    to: &dyn ControlPlane,
    entries: impl Iterator<Item = (&'a str, &'a str)>,
) -> Result<(), SwarmError> {
    let entries: Vec<(&str, &str)> = entries.collect();
    for some in entries.chunks(TOGETHER) {
        let puts = some
            .iter()
            .fold(Transaction::default(), |all, (key, value)| {
                all.put(*key, *value)
            });
        to.commit(&puts)?;
    }
    Ok(())
}
