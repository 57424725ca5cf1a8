//! How a worker claims addresses: a manager writes them for it; and how it learns logins.
//!
//! An address is a key that must be absent, wherever its node: etcd cannot tell by the key whose it
//! is. A manager can, by the certificate of whoever asks and by what the claim says. So it is with the
//! logins of services, which are for nodes that are to run them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api::id::NodeId;
use serde::Deserialize;
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::gate::{Plea, Visit, Wish};
use super::home::Home;
use super::nodes::Claim;
use super::tls::Trust;
use super::{SwarmError, members, record};
use crate::control_plane::{
    ControlError, ControlPlane, Entry, Op, Outcome, Snapshot, Transaction, Watch,
};
use crate::etcd::Etcd;
use crate::key;
use crate::node::Node;

/// How long one manager may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// The store of a worker.
#[derive(Debug)]
pub(super) struct Clerk {
    store: Arc<Etcd>,
    node: NodeId,
    home: Home,
    runtime: Handle,
    /// Where managers are, the one that has answered last first.
    doors: Mutex<Vec<SocketAddr>>,
}

impl ControlPlane for Clerk {
    /// Logins are the managers', who tell those of what this node is to run.
    fn snapshot(&self, prefix: &str) -> Result<Snapshot, ControlError> {
        match key::service_of(prefix) {
            Some(service) => self.logins(service),
            None => self.store.snapshot(prefix),
        }
    }

    fn watch(&self, prefix: &str, after: u64) -> Result<Box<dyn Watch>, ControlError> {
        self.store.watch(prefix, after)
    }

    /// In this order, so that the others never know of somebody at an address that is free: what
    /// ends of this node's own, claims, what begins. Comparisons hold for the claims.
    fn commit(&self, transaction: &Transaction) -> Result<Outcome, ControlError> {
        let ops = transaction.ops.iter().cloned();
        let (claims, own): (Vec<Op>, Vec<Op>) = ops.partition(is_claim);
        if claims.is_empty() {
            return self.store.commit(transaction);
        }
        let is_end = |op: &Op| matches!(op, Op::Delete { .. });
        let (ends, begins): (Vec<Op>, Vec<Op>) = own.into_iter().partition(is_end);
        self.put(ends)?;
        let claims = Transaction {
            compares: transaction.compares.clone(),
            ops: claims,
        };
        let wish = Wish {
            node: self.node.clone(),
            transaction: claims,
        };
        let claimed = self.ask(async |visit| visit.commit(&wish).await)?;
        if claimed != Outcome::Refused {
            self.put(begins)?;
        }
        Ok(claimed)
    }
}

fn is_claim(op: &Op) -> bool {
    op.key().starts_with(key::CLAIMS)
}

impl Clerk {
    pub(super) fn new(store: Arc<Etcd>, node: NodeId, home: Home, runtime: Handle) -> Self {
        Self {
            store,
            node,
            home,
            runtime,
            doors: Mutex::default(),
        }
    }

    fn put(&self, ops: Vec<Op>) -> Result<(), ControlError> {
        if !ops.is_empty() {
            let compares = Vec::new();
            self.store.commit(&Transaction { compares, ops })?;
        }
        Ok(())
    }

    fn logins(&self, service: &str) -> Result<Snapshot, ControlError> {
        let plea = Plea {
            node: self.node.clone(),
            service: service.to_owned(),
        };
        let entries = self.ask(async |visit| visit.logins(&plea).await)?;
        let revision = 0;
        Ok(Snapshot { revision, entries })
    }

    /// Asks one manager after the other until one answers.
    fn ask<T>(
        &self,
        errand: impl AsyncFn(Visit) -> Result<T, SwarmError>,
    ) -> Result<T, ControlError> {
        let papers = self.home.papers().map_err(SwarmError::of_store)?;
        let mut asked = Vec::new();
        let mut last = "no manager is known".to_owned();
        for look in [Self::doors, Self::look_up] {
            for door in look(self).map_err(SwarmError::of_store)? {
                if asked.contains(&door) {
                    continue;
                }
                let visit = async {
                    let visit = Visit::to(door, Trust::Members(&papers)).await?;
                    errand(visit).await
                };
                // The timer belongs to the runtime.
                let visit = async { timeout(PATIENCE, visit).await };
                let answer = self.runtime.block_on(visit);
                match answer {
                    Ok(Ok(answer)) => {
                        self.prefer(door);
                        return Ok(answer);
                    }
                    Ok(Err(error)) => last = error.to_string(),
                    Err(_elapsed) => last = format!("manager {door}: no answer"),
                }
                asked.push(door);
            }
        }
        Err(ControlError::Unreachable(last))
    }

    fn doors(&self) -> Result<Vec<SocketAddr>, SwarmError> {
        let doors = self.doors.lock();
        Ok(doors.unwrap_or_else(PoisonError::into_inner).clone())
    }

    fn look_up(&self) -> Result<Vec<SocketAddr>, SwarmError> {
        let places = members::places(&*self.store)?.into_iter();
        Ok(places.filter_map(|(_, place)| place.door).collect())
    }

    fn prefer(&self, door: SocketAddr) {
        let mut doors = self.doors.lock().unwrap_or_else(PoisonError::into_inner);
        doors.retain(|other| *other != door);
        doors.insert(0, door);
    }
}

/// Makes what a worker wishes, if it concerns addresses that are its own or nobody's.
pub(super) fn commit(control: &dyn ControlPlane, wish: &Wish) -> Result<Outcome, SwarmError> {
    let name = key::node(&wish.node);
    let gone = || SwarmError::NoNode(wish.node.to_string());
    let (_, modified): (Node, u64) = record::read(control, &name)?.ok_or_else(gone)?;
    for op in &wish.transaction.ops {
        let denied = || SwarmError::NotIts(op.key().to_owned());
        let mut compares = wish.transaction.compares.iter();
        let compared = compares.find(|compare| compare.key == op.key());
        let compared = compared.filter(|_| is_claim(op)).ok_or_else(denied)?;
        if compared.modified > 0 {
            let holder: Option<(Claim, u64)> = record::read(control, op.key())?;
            match holder {
                Some((claim, modified)) if modified == compared.modified => {
                    is_of(&claim, wish).then_some(()).ok_or_else(denied)?;
                }
                _other => return Ok(Outcome::Refused),
            }
        }
        if let Op::Put { value, leased, .. } = op {
            let claim = serde_json::from_str(value).ok();
            let is_its = claim.is_some_and(|claim| is_of(&claim, wish));
            (is_its && !leased).then_some(()).ok_or_else(denied)?;
        }
    }
    // Nobody who is removed meanwhile.
    let all = wish.transaction.clone().when(name, modified);
    Ok(control.commit(&all)?)
}

/// Of an order, what it is for; all else in it is between the agents.
#[derive(Deserialize)]
struct Ordered {
    service: String,
}

/// The logins of a service, for a node that is to run it.
pub(super) fn logins(
    control: &dyn ControlPlane,
    plea: &Plea,
) -> Result<BTreeMap<String, Entry>, SwarmError> {
    let gone = || SwarmError::NoNode(plea.node.to_string());
    record::read::<Node>(control, &key::node(&plea.node))?.ok_or_else(gone)?;
    let orders = control.snapshot(&key::orders(&plea.node))?.entries;
    let is_its = |entry: &Entry| {
        let order: Result<Ordered, _> = serde_json::from_str(&entry.value);
        order.is_ok_and(|order| order.service == plea.service)
    };
    if !orders.values().any(is_its) {
        return Err(SwarmError::NotToRun(plea.service.clone()));
    }
    Ok(control.snapshot(&key::logins(&plea.service))?.entries)
}

fn is_of(claim: &Claim, wish: &Wish) -> bool {
    claim.node == wish.node
}
