//! A cluster as one text, and beginning it again from that.
//!
//! The text has everything in the store that does not go with its node, and who the manager is that was
//! asked. It needs no etcd of the version that it came from.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::begin::put_all;
use super::home::{Papers, State};
use super::lock::{Stored, UnlockKey};
use super::members::Place;
use super::record::{self, Secrets};
use super::{Active, Cluster, Host, Swarm, SwarmError, key, now, own, rights};
use crate::authority::{KeyRequest, hex};
use crate::node::{Member, Node, Role};

/// What a backup begins with; the digest of the rest is behind it.
const BEGINNING: &str = "hawser-swarm-backup 1 sha256:";

#[derive(Serialize, Deserialize)]
struct Content {
    created: String,
    /// Version of the daemon that wrote it.
    engine: String,
    state: State,
    entries: BTreeMap<String, String>,
}

impl Content {
    fn to_text(&self) -> String {
        let content = record::write(self);
        format!("{BEGINNING}{}\n{content}\n", digest(&content))
    }

    fn parse(text: &str) -> Result<Self, SwarmError> {
        let damaged = |what: &str| SwarmError::Backup(what.to_owned());
        let rest = text.strip_prefix(BEGINNING);
        let rest = rest.ok_or_else(|| damaged("it does not begin as one"))?;
        let (sum, content) = rest.split_once('\n').unwrap_or_default();
        let content = content.strip_suffix('\n').unwrap_or_default();
        if sum != digest(content) {
            return Err(damaged("it is not as it was written"));
        }
        serde_json::from_str(content).map_err(|error| SwarmError::Backup(error.to_string()))
    }

    fn record<T: for<'de> Deserialize<'de>>(&self, key: &str) -> Result<T, SwarmError> {
        let value = self.entries.get(key).ok_or(SwarmError::Lost)?;
        serde_json::from_str(value).map_err(|source| SwarmError::Record {
            key: key.to_owned(),
            source,
        })
    }

    /// Without managers other than `own`: nobody knows what their stores have by now. That one is `host`
    /// from now on.
    fn depose_others(&mut self, own: &State, place: &Place, host: &Host) -> Result<(), SwarmError> {
        self.entries
            .retain(|name, _| !name.starts_with(key::MANAGERS));
        let place = record::write(place);
        self.entries.insert(key::manager(&own.node), place);
        let names = self.entries.keys().filter(|k| k.starts_with(key::NODES));
        for name in names.cloned().collect::<Vec<_>>() {
            let mut node: Node = self.record(&name)?;
            if node.id == own.node {
                node.role = Role::Manager;
                node.manager_address = Some(own.advertise);
                node.door = Some(own.advertise);
                node.data_address = own.data_address;
                node.hostname.clone_from(&host.hostname);
                node.engine.clone_from(&host.engine);
                node.machine.clone_from(&host.machine);
            } else {
                node.role = Role::Worker;
                node.manager_address = None;
            }
            self.entries.insert(name, record::write(&node));
        }
        Ok(())
    }
}

fn digest(text: &str) -> String {
    hex(&Sha256::digest(text.as_bytes()))
}

impl Swarm {
    /// The cluster, as [`Self::restore`] takes it. Whoever has it has the cluster's keys.
    ///
    /// # Errors
    /// [`SwarmError`]: in none, no manager, or the store does not answer.
    pub fn backup(&self) -> Result<String, SwarmError> {
        let active = self.manager()?;
        if !active.state.own_etcd {
            return Err(SwarmError::NotOurs);
        }
        let entries = active.control.durable()?.entries.into_iter();
        let content = Content {
            created: now(),
            engine: self.host.engine.clone(),
            state: active.state.clone(),
            entries: entries.map(|(key, entry)| (key, entry.value)).collect(),
        };
        Ok(content.to_text())
    }

    /// Begins the cluster of a backup again, with this host as its only manager: the one that was asked
    /// for the backup, at `advertise` if it has another address now. Leaves the one that it is in if
    /// `force` says so.
    ///
    /// # Errors
    /// [`SwarmError`]: nothing has changed where the input is to blame, which is looked at first
    /// ([`SwarmError::Backup`], [`SwarmError::NotHere`] and their like); otherwise the node is in no
    /// cluster then.
    pub fn restore(
        &self,
        backup: &str,
        advertise: Option<SocketAddr>,
        force: bool,
    ) -> Result<Member, SwarmError> {
        // The unlock key comes first, where one is needed.
        let (unlock, backup) = match backup.split_once('\n') {
            Some((first, rest)) if !first.starts_with(BEGINNING) => (first.parse().ok(), rest),
            _ => (None, backup),
        };
        let content = Content::parse(backup)?;
        let stored: Stored = content.record(key::SECRETS)?;
        let secrets = stored.open(unlock.as_ref());
        let secrets = secrets.map_err(|_other| SwarmError::LockedBackup)?;
        // Before anything changes: what is wrong with the input ends here.
        let again = self.prepare(content, &secrets, advertise)?;
        if self.membership().is_some() {
            if !force {
                return Err(SwarmError::Active);
            }
            self.leave(true)?;
        }
        let mut active = self.active();
        if active.is_some() {
            return Err(SwarmError::Already);
        }
        let again = self
            .begin_again(again, unlock)
            .or_else(|error| self.forget(error))?;
        let member = again.member();
        *active = Some(again);
        Ok(member)
    }

    fn prepare(
        &self,
        mut content: Content,
        secrets: &Secrets,
        advertise: Option<SocketAddr>,
    ) -> Result<Again, SwarmError> {
        let cluster: Cluster = content.record(key::CLUSTER)?;
        let mut state = content.state.clone();
        state.role = Role::Manager;
        if let Some(advertise) = advertise {
            if state.data_address == state.advertise.ip() {
                state.data_address = advertise.ip();
            }
            state.advertise = advertise;
            state.listen = advertise;
        }
        let served = own::served(state.listen, state.advertise.ip());
        if !is_here(served) {
            return Err(SwarmError::NotHere(served));
        }
        let place = Place {
            client: own::client_url(state.advertise.ip()),
            peer: own::peer_url(state.advertise.ip()),
            door: Some(state.advertise),
        };
        state.etcd.endpoints = vec![place.client.clone()];
        content.depose_others(&state, &place, &self.host)?;
        let node: Node = content.record(&key::node(&state.node))?;
        let authority = cluster.signer(secrets)?;
        let made = KeyRequest::make()?;
        let subject = super::admission::subject(&cluster, &node, state.advertise.ip());
        let papers = Papers {
            authority: cluster.roots(),
            certificate: authority.sign(&made.request, &subject, cluster.cert_expiry)?,
            key: made.key,
        };
        Ok(Again {
            state,
            papers,
            entries: content.entries,
        })
    }

    fn begin_again(
        &self,
        again: Again,
        unlock: Option<UnlockKey>,
    ) -> Result<Arc<Active>, SwarmError> {
        self.home.lock.set(unlock);
        let Again {
            state,
            papers,
            entries,
        } = again;
        let again = self.found(state, &papers)?;
        let control = again.control();
        // What says that there is a cluster comes last.
        let entries = || entries.iter().map(|(k, v)| (k.as_str(), v.as_str()));
        put_all(control, entries().filter(|(key, _)| *key != key::CLUSTER))?;
        again.await_nodes()?;
        self.home.keep_state(&again.state)?;
        put_all(control, entries().filter(|(key, _)| *key == key::CLUSTER))?;
        rights::settle(&again.control, true)?;
        again.announce()?;
        Ok(again)
    }
}

/// What a cluster begins again with.
struct Again {
    state: State,
    papers: Papers,
    entries: BTreeMap<String, String>,
}

/// Whether this host has an address.
fn is_here(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backup_that_was_changed_is_none() {
        let content = Content {
            created: String::new(),
            engine: String::new(),
            state: State {
                cluster: api::id::NodeId::from_bytes([1; 16]),
                node: api::id::NodeId::from_bytes([2; 16]),
                role: Role::Manager,
                etcd: Default::default(),
                own_etcd: true,
                listen: "192.0.2.1:2377".parse().unwrap(),
                advertise: "192.0.2.1:2377".parse().unwrap(),
                data_address: [192, 0, 2, 1].into(),
                data_port: 4789,
            },
            entries: [("networks/n".to_owned(), "{}".to_owned())].into(),
        };
        let text = content.to_text();
        assert_eq!(Content::parse(&text).unwrap().entries, content.entries);
        let changed = text.replace("networks/n", "networks/m");
        for bad in ["", BEGINNING, &changed, &text[..text.len() - 1], &text[1..]] {
            assert!(matches!(Content::parse(bad), Err(SwarmError::Backup(_))));
        }
    }
}
