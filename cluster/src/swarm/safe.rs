//! The store of a manager, in which logins are sealed.
//!
//! Their key is one of the secrets of the cluster, so that nobody reads them who has the disk of a manager
//! that is locked.

use std::sync::Arc;

use super::lock::{Lock, Stored};
use super::seal::Seal;
use super::{SwarmError, record};
use crate::control_plane::{ControlError, ControlPlane, Op, Outcome, Snapshot, Transaction, Watch};
use crate::etcd::Etcd;
use crate::key;

/// Before what is sealed: no login has it.
const SEALED: &str = "sealed:";

#[derive(Debug)]
pub(super) struct Safe {
    pub(super) store: Arc<Etcd>,
    pub(super) lock: Lock,
}

impl Safe {
    fn seal(&self) -> Result<Option<Seal>, SwarmError> {
        let stored = record::read::<Stored>(&*self.store, key::SECRETS)?;
        let (stored, _) = stored.ok_or(SwarmError::Lost)?;
        Ok(stored.open(self.lock.key().as_ref())?.logins)
    }

    fn sealed(&self, transaction: &Transaction) -> Result<Transaction, SwarmError> {
        let Some(seal) = self.seal()? else {
            return Ok(transaction.clone());
        };
        let mut sealed = transaction.clone();
        for op in &mut sealed.ops {
            if let Op::Put { key, value, .. } = op
                && is_login(key)
            {
                *value = format!("{SEALED}{}", seal.seal(key, value)?);
            }
        }
        Ok(sealed)
    }

    /// Those of earlier versions are as they are.
    fn opened(&self, mut read: Snapshot) -> Result<Snapshot, SwarmError> {
        let seal = self.seal()?;
        for (name, entry) in &mut read.entries {
            if let Some(text) = entry.value.strip_prefix(SEALED) {
                let opened = seal.as_ref().and_then(|seal| seal.open(name, text));
                entry.value = opened.ok_or(SwarmError::OtherLock)?;
            }
        }
        Ok(read)
    }
}

fn is_login(key: &str) -> bool {
    key.starts_with(key::LOGINS)
}

impl ControlPlane for Safe {
    fn snapshot(&self, prefix: &str) -> Result<Snapshot, ControlError> {
        let read = self.store.snapshot(prefix)?;
        match is_login(prefix) {
            true => self.opened(read).map_err(SwarmError::of_store),
            false => Ok(read),
        }
    }

    fn watch(&self, prefix: &str, after: u64) -> Result<Box<dyn Watch>, ControlError> {
        self.store.watch(prefix, after)
    }

    fn commit(&self, transaction: &Transaction) -> Result<Outcome, ControlError> {
        let is_put = |op: &Op| matches!(op, Op::Put { key, .. } if is_login(key));
        if !transaction.ops.iter().any(is_put) {
            return self.store.commit(transaction);
        }
        let sealed = self.sealed(transaction);
        self.store.commit(&sealed.map_err(SwarmError::of_store)?)
    }
}
