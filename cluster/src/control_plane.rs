//! A store that all nodes read and write, and that tells of changes.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What the nodes of a cluster have in common: texts by key.
///
/// Every change has a revision of its own, later ones a greater one. The words are etcd's.
///
/// A leased entry goes when the node that put it has been silent for the time of its lease, so that
/// the others learn of its end. A node that was only cut off finds its entries gone when it is back;
/// the control plane then puts them again by itself. After a restart of the daemon it knows of none:
/// whoever put them puts them again.
pub trait ControlPlane: Send + Sync + fmt::Debug {
    /// Every entry whose key begins with `prefix`, as of one revision.
    ///
    /// # Errors
    /// [`ControlError::Unreachable`].
    fn snapshot(&self, prefix: &str) -> Result<Snapshot, ControlError>;

    /// Tells of every change after revision `after` below `prefix`.
    ///
    /// # Errors
    /// [`ControlError::Unreachable`], [`ControlError::Compacted`].
    fn watch(&self, prefix: &str, after: u64) -> Result<Box<dyn Watch>, ControlError>;

    /// Makes all changes of `transaction`, or none.
    ///
    /// # Errors
    /// [`ControlError::Unreachable`]: it may have been made all the same.
    fn commit(&self, transaction: &Transaction) -> Result<Outcome, ControlError>;
}

/// Changes as they come.
pub trait Watch: Send {
    /// Waits at most `timeout` for changes; none when there were none. Those of one transaction come
    /// together.
    ///
    /// # Errors
    /// [`ControlError::Compacted`]: a new snapshot is needed. [`ControlError::Unreachable`]: the watch
    /// is over; another one may go on after the last revision seen.
    fn next(&mut self, timeout: Duration) -> Result<Vec<Change>, ControlError>;
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub value: String,
    /// The revision that put it.
    pub modified: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    pub revision: u64,
    pub entries: BTreeMap<String, Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub key: String,
    /// Nothing when the entry is gone.
    pub value: Option<String>,
    pub revision: u64,
}

/// Holds while the entry of `key` is as revision `modified` put it; 0 while there is none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compare {
    pub key: String,
    pub modified: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    Put {
        key: String,
        value: String,
        leased: bool,
    },
    /// Nothing happens when there is no such entry.
    Delete { key: String },
}

impl Op {
    pub fn key(&self) -> &str {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }
}

/// Changes that are made together if all that is compared holds. A key is changed once at most.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transaction {
    pub compares: Vec<Compare>,
    pub ops: Vec<Op>,
}

impl Transaction {
    /// Nothing changes unless `key` is as revision `modified` put it, or absent when that is 0.
    #[must_use]
    pub fn when(mut self, key: impl Into<String>, modified: u64) -> Self {
        let key = key.into();
        self.compares.push(Compare { key, modified });
        self
    }

    #[must_use]
    pub fn put(self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.op(Op::Put {
            key: key.into(),
            value: value.into(),
            leased: false,
        })
    }

    /// As [`Self::put`], for as long as this node is heard of.
    #[must_use]
    pub fn put_leased(self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.op(Op::Put {
            key: key.into(),
            value: value.into(),
            leased: true,
        })
    }

    #[must_use]
    pub fn delete(self, key: impl Into<String>) -> Self {
        self.op(Op::Delete { key: key.into() })
    }

    fn op(mut self, op: Op) -> Self {
        self.ops.push(op);
        self
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// All is made, by this revision.
    Committed(u64),
    /// Something compared does not hold: nothing has changed.
    Refused,
}

#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error("the control plane does not answer: {0}")]
    Unreachable(String),
    #[error("the control plane refuses: {0}")]
    Denied(String),
    #[error("the control plane has forgotten what changed after revision {0}")]
    Compacted(u64),
    #[error("the control plane cannot be asked: {0}")]
    Options(String),
    #[error("the control plane's records: {0}")]
    Store(#[from] Box<redb::Error>),
}
