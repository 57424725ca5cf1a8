//! `hawser swarm …`.

mod backup;
mod ca;
mod lock;
pub(super) mod token;

use std::path::PathBuf;
use std::time::Duration;

use api::path::{SWARM_INIT, SWARM_JOIN, SWARM_LEAVE, SWARM_UPDATE};
use api::swarm::{
    EtcdAddress, Membership, Role, Swarm, SwarmInit, SwarmJoin, SwarmSettings, SwarmUpdate,
};
use clap::{Args, Subcommand};
use ipnet::IpNet;

use super::context::Context;
use super::error::CliError;
use super::node::AvailabilityFlag;
use super::output;
use super::system::HEARTBEATS;
use super::trace::duration;
use crate::agent;

pub use backup::{BackupFlags, RestoreFlags};
pub use ca::CaFlags;
pub use lock::UnlockKeyFlags;
pub use token::{RoleFlag, TokenFlags};

/// `hawser swarm`.
#[derive(Debug, Clone, Subcommand)]
pub enum SwarmCommand {
    /// Begin a cluster with this host as its first manager
    Init(Box<InitFlags>),
    /// Join a cluster; the token says as what
    Join(JoinFlags),
    /// Show how other hosts join, and change the token
    JoinToken(TokenFlags),
    /// Change what the cluster has of settings
    Update(UpdateFlags),
    /// Show the certificate of the cluster's authority, and replace it
    Ca(CaFlags),
    /// Let this manager take part again, which was restarted; asks for the key
    Unlock,
    /// Show what managers are unlocked with, and change it
    UnlockKey(UnlockKeyFlags),
    /// Write the cluster to a file, which can begin it again
    Backup(BackupFlags),
    /// Begin the cluster of a backup again, with this host as its only manager
    Restore(RestoreFlags),
    /// Leave the cluster
    Leave(LeaveFlags),
}

/// `hawser swarm init`.
#[derive(Debug, Clone, Args)]
pub struct InitFlags {
    /// Address at which others reach this host: IP[:PORT] or INTERFACE[:PORT]. The only address that
    /// others can send to, otherwise
    #[arg(long, value_name = "ADDRESS")]
    pub advertise_addr: Option<String>,
    /// Address at which to wait for hosts that join; --advertise-addr otherwise
    #[arg(long, value_name = "ADDRESS")]
    pub listen_addr: Option<String>,
    /// Address for the traffic of containers between hosts; --advertise-addr otherwise
    #[arg(long, value_name = "ADDRESS")]
    pub data_path_addr: Option<String>,
    /// UDP port for the same, on every host
    #[arg(long, value_name = "PORT", default_value_t = 4789)]
    pub data_path_port: u16,
    /// active, pause or drain
    #[arg(long, value_enum, default_value_t)]
    pub availability: AvailabilityFlag,
    /// How long the certificates of hosts are good for
    #[arg(long, value_name = "DURATION", default_value = "2160h", value_parser = duration)]
    pub cert_expiry: Duration,
    /// An etcd that exists and is to keep the cluster: https://HOST:PORT,…. Managers run one by
    /// themselves, otherwise
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    pub etcd: Vec<String>,
    /// The authority of its certificates (PEM), at this path on every host
    #[arg(long, value_name = "FILE", requires = "etcd")]
    pub etcd_ca: Option<PathBuf>,
    /// The certificate that hosts show it (PEM), at this path on every host
    #[arg(long, value_name = "FILE", requires = "etcd")]
    pub etcd_cert: Option<PathBuf>,
    /// Its key (PEM)
    #[arg(long, value_name = "FILE", requires = "etcd")]
    pub etcd_key: Option<PathBuf>,
    /// Managers must be unlocked after they were restarted, with a key that is printed
    #[arg(long)]
    pub autolock: bool,
    /// How long a host may be silent before the others take it for gone; 15s unless given
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub node_lease: Option<Duration>,
    /// The same in Docker's measure, of which it is three times as long
    #[arg(
        long,
        value_name = "DURATION",
        value_parser = duration,
        conflicts_with = "node_lease"
    )]
    pub dispatcher_heartbeat: Option<Duration>,
    /// Where networks of the cluster have subnets from that are given none: SUBNET,…; 10.0.0.0/8 unless
    /// given
    #[arg(long, value_name = "SUBNET", value_delimiter = ',')]
    pub default_addr_pool: Vec<IpNet>,
    /// Prefix length of each of these
    #[arg(long, value_name = "LENGTH", default_value_t = 24)]
    pub default_addr_pool_mask_length: u8,
    #[command(flatten)]
    pub kept: KeptFlags,
}

/// Flags of `hawser swarm init` and `hawser swarm update`.
#[derive(Debug, Clone, Args)]
pub struct KeptFlags {
    /// How many tasks of a replica are kept to be looked at, the present one included; 5 unless given
    #[arg(long, value_name = "NUMBER", value_parser = history)]
    pub task_history_limit: Option<u64>,
    /// Taken for Docker's sake: etcd has its own way
    #[arg(long, hide = true)]
    pub max_snapshots: Option<u64>,
    /// The same
    #[arg(long, hide = true)]
    pub snapshot_interval: Option<u64>,
}

impl KeptFlags {
    fn warn(&self) {
        for (flag, given) in [
            ("--max-snapshots", self.max_snapshots),
            ("--snapshot-interval", self.snapshot_interval),
        ] {
            if given.is_some() {
                output::warn(format_args!(
                    "{flag} has no effect: etcd keeps the cluster, and its snapshots by itself"
                ));
            }
        }
    }
}

/// Docker takes a negative number for no limit.
fn history(text: &str) -> Result<u64, &'static str> {
    match text.parse::<i64>() {
        Ok(limit) => Ok(u64::try_from(limit).unwrap_or(u64::MAX)),
        Err(_not_a_number) => Err("expected a number"),
    }
}

/// `hawser swarm join`.
#[derive(Debug, Clone, Args)]
pub struct JoinFlags {
    /// What hawser swarm join-token prints on a manager
    #[arg(long, value_name = "TOKEN")]
    pub token: String,
    /// Address at which others reach this host; the one that the manager is reached from, otherwise
    #[arg(long, value_name = "ADDRESS")]
    pub advertise_addr: Option<String>,
    /// Address at which to wait for hosts that join, as a manager
    #[arg(long, value_name = "ADDRESS")]
    pub listen_addr: Option<String>,
    /// Address for the traffic of containers between hosts
    #[arg(long, value_name = "ADDRESS")]
    pub data_path_addr: Option<String>,
    /// active, pause or drain
    #[arg(long, value_enum, default_value_t)]
    pub availability: AvailabilityFlag,
    /// A manager
    #[arg(value_name = "HOST[:PORT]")]
    pub manager: String,
}

/// `hawser swarm update`.
#[derive(Debug, Clone, Args)]
pub struct UpdateFlags {
    /// How long the certificates of hosts are good for, from the next one of each on
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub cert_expiry: Option<Duration>,
    /// Whether managers must be unlocked after they were restarted, with a key that is printed
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub autolock: Option<bool>,
    #[command(flatten)]
    pub kept: KeptFlags,
}

/// `hawser swarm leave`.
#[derive(Debug, Clone, Args)]
pub struct LeaveFlags {
    /// Also as the last manager: the cluster ends
    #[arg(short, long)]
    pub force: bool,
}

/// # Errors
/// [`CliError`].
pub fn run(context: &Context, command: &SwarmCommand) -> Result<i32, CliError> {
    match command {
        SwarmCommand::Init(flags) => init(context, flags),
        SwarmCommand::Join(flags) => join(context, flags),
        SwarmCommand::JoinToken(flags) => token::join_token(context, flags),
        SwarmCommand::Update(flags) => update(context, flags),
        SwarmCommand::Ca(flags) => ca::ca(context, flags),
        SwarmCommand::Unlock => lock::unlock(context),
        SwarmCommand::UnlockKey(flags) => lock::unlock_key(context, flags),
        SwarmCommand::Backup(flags) => backup::backup(context, flags),
        SwarmCommand::Restore(flags) => backup::restore(context, flags),
        SwarmCommand::Leave(flags) => leave(context, flags),
    }
}

/// How long a host may be silent: three heartbeats, where these are given.
fn lease(flags: &InitFlags) -> Option<u64> {
    let beats = flags.dispatcher_heartbeat.map(|beat| beat * HEARTBEATS);
    let lease = flags.node_lease.or(beats)?;
    Some(lease.as_secs())
}

fn settings(flags: &InitFlags) -> SwarmSettings {
    let default = SwarmSettings::default();
    SwarmSettings {
        default_addr_pool: match flags.default_addr_pool.as_slice() {
            [] => default.default_addr_pool,
            pools => pools.to_vec(),
        },
        subnet_size: flags.default_addr_pool_mask_length,
        task_history: flags
            .kept
            .task_history_limit
            .unwrap_or(default.task_history),
    }
}

fn init(context: &Context, flags: &InitFlags) -> Result<i32, CliError> {
    flags.kept.warn();
    let request = SwarmInit {
        advertise_addr: flags.advertise_addr.clone(),
        listen_addr: flags.listen_addr.clone(),
        data_path_addr: flags.data_path_addr.clone(),
        data_path_port: Some(flags.data_path_port),
        availability: flags.availability.into(),
        cert_expiry: Some(flags.cert_expiry.as_secs()),
        etcd: EtcdAddress {
            endpoints: flags.etcd.clone(),
            ca: flags.etcd_ca.clone(),
            certificate: flags.etcd_cert.clone(),
            key: flags.etcd_key.clone(),
            lease: lease(flags),
        },
        auto_lock: flags.autolock,
        settings: settings(flags),
    };
    let member: Membership = context.client().post(SWARM_INIT, &request)?;
    let node = &member.node;
    output::line(format_args!(
        "Swarm initialized: current node ({node}) is now a manager.\n"
    ))?;
    let swarm: Swarm = context.client().get(api::path::SWARM)?;
    output::line(token::instruction(&swarm, Role::Worker))?;
    output::line(
        "\nTo add a manager to this swarm, run 'hawser swarm join-token manager' and follow the \
         instructions.",
    )?;
    if flags.autolock {
        lock::show(context)?;
    }
    run_replicas(context)
}

/// Has this host run what the cluster sends it.
pub(super) fn run_replicas(context: &Context) -> Result<i32, CliError> {
    match context.require_root() {
        Ok(()) => agent::ensure(context)?,
        Err(_other) => output::warn(
            "replicas of services run on this host when root has started hawser agent, or the host again",
        ),
    }
    Ok(0)
}

fn join(context: &Context, flags: &JoinFlags) -> Result<i32, CliError> {
    let request = SwarmJoin {
        token: flags.token.clone(),
        manager: flags.manager.clone(),
        advertise_addr: flags.advertise_addr.clone(),
        listen_addr: flags.listen_addr.clone(),
        data_path_addr: flags.data_path_addr.clone(),
        availability: flags.availability.into(),
    };
    let member: Membership = context.client().post(SWARM_JOIN, &request)?;
    let role = member.role.as_str();
    output::line(format_args!("This node joined a swarm as a {role}."))?;
    run_replicas(context)
}

fn update(context: &Context, flags: &UpdateFlags) -> Result<i32, CliError> {
    flags.kept.warn();
    let request = SwarmUpdate {
        cert_expiry: flags.cert_expiry.map(|expiry| expiry.as_secs()),
        auto_lock: flags.autolock,
        rotate_unlock_key: false,
        task_history: flags.kept.task_history_limit,
    };
    context.client().post::<()>(SWARM_UPDATE, &request)?;
    output::line("Swarm updated.")?;
    if flags.autolock == Some(true) {
        lock::show(context)?;
    }
    Ok(0)
}

fn leave(context: &Context, flags: &LeaveFlags) -> Result<i32, CliError> {
    let path = format!("{SWARM_LEAVE}?force={}", flags.force);
    context.client().post::<()>(&path, &())?;
    output::line("Node left the swarm.")?;
    Ok(0)
}
