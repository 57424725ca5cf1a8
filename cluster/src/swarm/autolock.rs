//! Managers that must be unlocked after they were restarted.
//!
//! The unlock key is in the memory of managers that run, and on no disk. What it seals: a manager's own
//! key, without which it can ask nobody anything, and the secrets of the cluster in the store. A manager
//! learns another unlock key as it gets another certificate.

use std::sync::Arc;
use std::sync::PoisonError;

use super::home::State;
use super::lock::{Stored, UnlockKey};
use super::{Active, Swarm, SwarmError, key, record};
use crate::control_plane::{ControlError, ControlPlane, Outcome, Snapshot, Transaction, Watch};
use crate::node::{Member, Role};

impl Swarm {
    /// A manager whose keys cannot be read takes part again.
    ///
    /// # Errors
    /// [`SwarmError::NotLocked`], [`SwarmError::WrongKey`], and as [`Self::open`].
    pub fn unlock(&self, key: &UnlockKey) -> Result<(), SwarmError> {
        let _locking = self.locking();
        let state = self.locked().ok_or(SwarmError::NotLocked)?;
        self.home.unlock(key)?;
        self.take_part(state)?;
        *self.locked.lock().unwrap_or_else(PoisonError::into_inner) = None;
        Ok(())
    }

    /// Whether [`Self::unlock`] is needed.
    pub fn is_locked(&self) -> bool {
        self.locked().is_some()
    }

    pub(super) fn locked(&self) -> Option<State> {
        let locked = self.locked.lock();
        locked.unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn refuse_locked(&self) -> Result<(), SwarmError> {
        match self.is_locked() {
            true => Err(SwarmError::Locked),
            false => Ok(()),
        }
    }

    /// What managers are unlocked with; nothing where they need not be.
    ///
    /// # Errors
    /// As [`Self::tokens`].
    pub fn unlock_key(&self) -> Result<Option<UnlockKey>, SwarmError> {
        let active = self.manager()?;
        let (stored, _) = active.stored()?;
        stored.open(active.lock.key().as_ref())?;
        Ok(active.lock.key().filter(|_| stored.is_sealed()))
    }

    /// Managers must be unlocked from their next restart on, or need not be any more.
    ///
    /// # Errors
    /// As [`Self::tokens`].
    pub fn set_autolock(&self, on: bool) -> Result<(), SwarmError> {
        let is_on = self.unlock_key()?.is_some();
        match on {
            _ if on == is_on => Ok(()),
            true => self.lock_with(Some(UnlockKey::random()?)),
            false => self.lock_with(None),
        }
    }

    /// Another unlock key is needed from now on.
    ///
    /// # Errors
    /// As [`Self::tokens`]; [`SwarmError::NoLock`].
    pub fn rotate_unlock_key(&self) -> Result<(), SwarmError> {
        self.unlock_key()?.ok_or(SwarmError::NoLock)?;
        self.lock_with(Some(UnlockKey::random()?))
    }

    fn lock_with(&self, key: Option<UnlockKey>) -> Result<(), SwarmError> {
        let _locking = self.locking();
        let active = self.manager()?;
        let (stored, modified) = active.stored()?;
        let secrets = stored.open(active.lock.key().as_ref())?;
        let sealed = Stored::seal(secrets, key.as_ref())?;
        let change = Transaction::default()
            .when(key::SECRETS, modified)
            .put(key::SECRETS, record::write(&sealed));
        if active.control().commit(&change)? == Outcome::Refused {
            return Err(SwarmError::Busy("the unlock key".to_owned()));
        }
        let papers = self.home.papers()?;
        active.lock.set(key);
        self.home.keep_papers(&papers)
    }

    /// Knows the unlock key that the cluster has by now.
    pub(super) fn follow_lock(&self, active: &Active) -> Result<(), SwarmError> {
        if active.state.role != Role::Manager {
            return Ok(());
        }
        let _locking = self.locking();
        let (stored, _) = active.stored()?;
        let own = active.lock.key();
        let papers = match stored.open(own.as_ref()) {
            Ok(_) if stored.is_sealed() == own.is_some() => return Ok(()),
            Ok(_) => {
                let papers = self.home.papers()?;
                active.lock.set(None);
                papers
            }
            Err(_other) => {
                let renewed = self.other_papers(active)?;
                if renewed.role != Role::Manager {
                    // Next time.
                    return Ok(());
                }
                active.lock.set(renewed.unlock);
                renewed.papers
            }
        };
        self.home.keep_papers(&papers)?;
        active.show(&self.home, &papers)?;
        tracing::info!("this manager knows another unlock key");
        Ok(())
    }
}

/// A member that is not let to its control plane yet.
pub(super) fn silenced(state: &State) -> Member {
    Member {
        control: Arc::new(Silent),
        node: state.node.clone(),
        manager: state.role == Role::Manager,
        data_address: Some(state.data_address),
        data_port: state.data_port,
    }
}

/// The store of a manager that is locked: what is there goes on.
#[derive(Debug)]
struct Silent;

impl Silent {
    fn refuse<T>() -> Result<T, ControlError> {
        Err(ControlError::Unreachable(SwarmError::Locked.to_string()))
    }
}

impl ControlPlane for Silent {
    fn snapshot(&self, _prefix: &str) -> Result<Snapshot, ControlError> {
        Self::refuse()
    }

    fn watch(&self, _prefix: &str, _after: u64) -> Result<Box<dyn Watch>, ControlError> {
        Self::refuse()
    }

    fn commit(&self, _transaction: &Transaction) -> Result<Outcome, ControlError> {
        Self::refuse()
    }
}
