//! `hawser service …`.

pub mod change;
mod check;
pub mod create;
pub mod health;
pub mod inspect;
pub mod list;
mod login;
pub mod logs;
mod pin;
pub mod port;
mod progress;
pub mod ps;
mod remote;
pub mod remove;
pub(super) mod replica;
pub mod rollback;
pub mod scale;
mod step;
pub mod task;
pub mod top;
pub mod update;

use api::client::escape;
use api::path::SERVICES;
use api::service::{Affinity, EndpointMode, Service};
use clap::{Subcommand, ValueEnum};

use super::context::Context;
use super::error::CliError;
use super::network;
use super::run::network::DEFAULT;
use crate::agent::constraint::ConstraintError;

/// `hawser service`.
#[derive(Debug, Clone, Subcommand)]
pub enum ServiceCommand {
    /// Create a service: of replicas that are started and kept, or joined by hawser run --service
    Create(Box<create::CreateFlags>),
    /// List services
    #[command(visible_alias = "list")]
    Ls(list::ListFlags),
    /// List the replicas of services, or their members
    Ps(ps::PsFlags),
    /// Show services in detail
    Inspect(inspect::InspectServiceFlags),
    /// Change a service, without cutting connections to its members; replicas are replaced in steps
    Update(Box<update::UpdateFlags>),
    /// Change how many replicas services have: SERVICE=NUMBER
    Scale(scale::ScaleFlags),
    /// Take the last update back
    Rollback(rollback::RollbackFlags),
    /// Show the output of a service's replicas
    Logs(logs::LogsFlags),
    /// Show what goes through services and published ports, as it goes
    Top(top::TopFlags),
    /// Remove services
    #[command(visible_alias = "remove")]
    Rm(remove::RemoveFlags),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ServiceFlagError {
    #[error("{0}")]
    Port(#[from] super::run::port::PortError),
    #[error(transparent)]
    Constraint(#[from] ConstraintError),
    #[error("invalid published port {spec:?}: a service answers on all addresses of the host")]
    Address { spec: String },
    #[error("invalid published port {spec:?}: expected mode=ingress or mode=host")]
    Mode { spec: String },
    #[error("invalid {flag} value {text:?}: expected {expected}")]
    Value {
        flag: &'static str,
        text: String,
        expected: &'static str,
    },
    #[error(
        "invalid --network {0:?}: a service has networks by name=NETWORK and alias=NAME; addresses are \
         for single containers"
    )]
    Network(String),
    #[error("invalid {flag} value: {why}")]
    Words { flag: &'static str, why: String },
    #[error("conflicting options: {0} and {1}")]
    Both(&'static str, &'static str),
    #[error("{flag} needs a health check: give --health-tcp, --health-http or --health-cmd")]
    NoProbe { flag: &'static str },
    #[error("--service-weight needs a --service")]
    WeightOfNothing,
    #[error("conflicting options: --service does not go with --network {mode}")]
    Unfit { mode: String },
    #[error(
        "service {service} is on none of the container's networks, but on {networks}: name one with \
         --network"
    )]
    Elsewhere { service: String, networks: String },
    #[error("a flag such as --replicas needs replicas: this service has no image")]
    NoImage,
    #[error("a service without an image needs a --name")]
    NoName,
    #[error("--replicas does not go with mode global, which has one replica on every host")]
    GlobalReplicas,
    #[error("service {0} is global: it has one replica on every host, and cannot be scaled")]
    ScaleGlobal(String),
    #[error("invalid scale specifier {0:?}: expected SERVICE=NUMBER")]
    Scale(String),
    #[error("service {0} has no replicas: containers join it with hawser run --service")]
    Joined(String),
    #[error("service {service} publishes no port {port}")]
    NotPublished { service: String, port: String },
}

/// `--endpoint-mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ModeFlag {
    /// The service has one address on each of its networks
    Vip,
    /// The service's name stands for the addresses of its members
    Dnsrr,
}

impl From<ModeFlag> for EndpointMode {
    fn from(flag: ModeFlag) -> Self {
        match flag {
            ModeFlag::Vip => Self::Vip,
            ModeFlag::Dnsrr => Self::Dnsrr,
        }
    }
}

/// `--affinity`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum AffinityFlag {
    /// Connections are spread, whoever makes them
    None,
    /// A client's connections go to one member
    Client,
}

impl From<AffinityFlag> for Affinity {
    fn from(flag: AffinityFlag) -> Self {
        match flag {
            AffinityFlag::None => Self::None,
            AffinityFlag::Client => Self::Client,
        }
    }
}

/// # Errors
/// [`CliError`] of the command.
pub fn run(context: &Context, command: &ServiceCommand) -> Result<i32, CliError> {
    let member = context.info()?.swarm.as_ref();
    if member.is_some_and(|member| member.locked) {
        return Err(CliError::Locked);
    }
    match command {
        ServiceCommand::Create(flags) => create::create(context, flags),
        ServiceCommand::Ls(flags) => list::list(context, flags),
        ServiceCommand::Ps(flags) => ps::ps(context, flags),
        ServiceCommand::Inspect(flags) => inspect::inspect(context, flags),
        ServiceCommand::Update(flags) => update::update(context, flags),
        ServiceCommand::Scale(flags) => scale::scale(context, flags),
        ServiceCommand::Rollback(flags) => rollback::roll_back(context, flags),
        ServiceCommand::Logs(flags) => logs::logs(context, flags),
        ServiceCommand::Top(flags) => top::top(context, flags),
        ServiceCommand::Rm(flags) => remove::remove(context, flags),
    }
}

/// # Errors
/// There is no such service.
pub fn find(context: &Context, key: &str) -> Result<Service, CliError> {
    Ok(context.client().get(&route(key))?)
}

/// The networks of a service, by name.
///
/// # Errors
/// One of them is not there.
pub fn networks(context: &Context, service: &Service) -> Result<Vec<String>, CliError> {
    let targets = service.spec.networks.iter().map(|n| n.target.as_str());
    let targets: Vec<&str> = match service.spec.networks.as_slice() {
        [] => vec![DEFAULT],
        _ => targets.collect(),
    };
    let mut names = Vec::new();
    for target in targets {
        names.push(network::find(context, target)?.name.to_string());
    }
    Ok(names)
}

pub(super) fn route(key: &str) -> String {
    format!("{SERVICES}/{}", escape(key))
}
