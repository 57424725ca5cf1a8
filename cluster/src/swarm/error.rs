//! Why a node is not let in, or does not do what it is asked of its cluster.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use api::id::NodeId;

use super::lock::InvalidUnlockKey;
use crate::authority::AuthorityError;
use crate::control_plane::ControlError;
use crate::token::InvalidToken;

#[derive(Debug, thiserror::Error)]
pub enum SwarmError {
    #[error("this node is in a cluster already: hawser swarm leave first")]
    Already,
    #[error("this node is in a cluster: hawser swarm leave first, or use --force, which leaves it")]
    Active,
    #[error("this is no backup of a cluster, or it is damaged: {0}")]
    Backup(String),
    #[error(
        "the cluster is in an etcd that existed before: make a backup of that with its own tools"
    )]
    NotOurs,
    #[error("this host has no address {0}: name one that it has with --advertise-addr")]
    NotHere(IpAddr),
    #[error("the backup is of a cluster that is locked: give its unlock key with --unlock")]
    LockedBackup,
    #[error(
        "{} is not there: install the package etcd-server, or give --etcd URL of an etcd that exists",
        .0.display()
    )]
    NoProgram(PathBuf),
    #[error("cannot start {}: {source}", path.display())]
    Program { path: PathBuf, source: io::Error },
    #[error("the etcd of this node: {what}")]
    Etcd { what: String },
    #[error(
        "{0}: the cluster would be left without a quorum of its managers; bring the others back \
         first{1}"
    )]
    Quorum(String, &'static str),
    #[error(
        "node {0} is a cluster manager and is a member of its store. It must be demoted to worker \
         before removal"
    )]
    IsManager(String),
    #[error("--etcd-ca, --etcd-cert and --etcd-key go together")]
    HalfTls,
    #[error(
        "Swarm is encrypted and needs to be unlocked before it can be used. Please use \"hawser swarm \
         unlock\" to unlock it"
    )]
    Locked,
    #[error("swarm is not locked")]
    NotLocked,
    #[error("no unlock key is set: hawser swarm update --autolock=true sets one")]
    NoLock,
    #[error("invalid key: it does not unlock this manager")]
    WrongKey,
    #[error(
        "the secrets of the cluster are sealed by another unlock key: managers learn it within seconds \
         of each other"
    )]
    OtherLock,
    #[error(transparent)]
    InvalidUnlockKey(#[from] InvalidUnlockKey),
    #[error("this node is in no cluster: hawser swarm init or join makes it a member")]
    None,
    #[error("this node is not a swarm manager: ask one of those that are")]
    Worker,
    /// With those that are.
    #[error("this node is not a swarm manager: run it on {0}")]
    NotManager(String),
    #[error(
        "this etcd has cluster {0} already: join it with its token, or give another etcd or prefix"
    )]
    Taken(NodeId),
    #[error("the store has no cluster: somebody removed what hawser swarm init wrote")]
    Lost,
    #[error(
        "the token is not one of this cluster, or was rotated: hawser swarm join-token on a manager prints the valid ones"
    )]
    Token,
    #[error(transparent)]
    InvalidToken(#[from] InvalidToken),
    #[error("node {0} is no manager of the cluster")]
    NoManager(NodeId),
    #[error("node {hostname} at {address}: {what}")]
    Silent {
        hostname: String,
        address: SocketAddr,
        what: String,
    },
    #[error("the agent of this node does not answer: {0}; hawser resume starts it")]
    Agent(io::Error),
    #[error("manager {address}: {what}")]
    Manager { address: SocketAddr, what: String },
    #[error("cannot take requests of other nodes at {address}: {source}")]
    Listen {
        address: SocketAddr,
        source: io::Error,
    },
    #[error("{0} is not this node's to write")]
    NotIts(String),
    #[error("this node is not to run service {0}, and learns nothing of its logins")]
    NotToRun(String),
    #[error("node {0} not found")]
    NoNode(String),
    #[error(
        "node {key} is ambiguous: {matches} nodes are called so or have ids that begin with it, give more of the id"
    )]
    Ambiguous { key: String, matches: usize },
    #[error("node {0} is not down: stop its daemon or let it leave, or use --force")]
    Alive(String),
    #[error(
        "the last manager cannot leave: the cluster ends with it, use --force if that is wanted"
    )]
    LastManager,
    #[error(
        "the authority is being replaced already, which waits for {0}: nodes that do not come back are \
         removed with hawser node rm"
    )]
    Rotating(String),
    #[error("the authority that was given cannot be the cluster's: {0}")]
    Given(String),
    #[error("attempting to demote the last manager of the swarm")]
    DemoteLast,
    #[error("another node leads the cluster by now")]
    NotLeading,
    #[error("invalid id of a task: expected letters and digits")]
    NoTask,
    #[error("others have changed {0} again and again meanwhile: try again")]
    Busy(String),
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    #[error("{action}: {source}")]
    Tls {
        action: &'static str,
        source: rustls::Error,
    },
    #[error("{action} {}: {source}", path.display())]
    Disk {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("record {key} of the cluster cannot be read: {source}")]
    Record {
        key: String,
        source: serde_json::Error,
    },
    #[error("random numbers: {0}")]
    Random(#[from] getrandom::Error),
}

impl SwarmError {
    /// As the store itself would say it.
    pub(super) fn of_store(self) -> ControlError {
        match self {
            Self::Control(error) => error,
            other => ControlError::Unreachable(other.to_string()),
        }
    }
}
