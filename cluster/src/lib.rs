//! What the nodes of a cluster share.
//!
//! [`ControlPlane`] is a store of texts that tells of every change, in order. [`Local`] is the one of
//! a single host, kept in its database, [`Etcd`] that of several. [`swarm`] is how a node gets into a cluster. [`key`] says what is where, [`Node`] and its kin what is there.
//!
//! **Invariant:** nothing that carries traffic waits for a control plane. Who has no answer goes on
//! with what is known.

// The same script runs against etcd, in tests/.
#[cfg(test)]
extern crate self as cluster;

mod authority;
#[cfg(test)]
mod conformance;
mod control_plane;
mod etcd;
pub mod key;
mod local;
mod node;
pub mod swarm;
mod token;

pub use authority::{Authority, AuthorityError, KeyRequest, Subject, digest};
pub use control_plane::{
    Change, Compare, ControlError, ControlPlane, Entry, Op, Outcome, Snapshot, Transaction, Watch,
};
pub use etcd::{Etcd, EtcdOptions, EtcdTls};
pub use local::{Local, LocalSession};
pub use node::{Availability, DOOR, Member, Node, Role, managers, random_node};
pub use token::{InvalidToken, Token};
