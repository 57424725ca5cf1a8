//! `hawser node …`.

mod inspect;
mod list;
mod ps;

use std::collections::BTreeSet;

use api::client::escape;
use api::path::{NODE_UPDATE, NODES};
use api::swarm::{Availability, Node, NodeUpdate, Role};
use clap::{Args, Subcommand, ValueEnum};

use super::context::Context;
use super::error::CliError;
use super::output;
use super::run::env;
use super::swarm::RoleFlag;

/// `hawser node`.
#[derive(Debug, Clone, Subcommand)]
pub enum NodeCommand {
    /// List the hosts of the cluster
    #[command(visible_alias = "list")]
    Ls(list::ListFlags),
    /// Show hosts in detail
    Inspect(inspect::InspectNodeFlags),
    /// List the replicas of services that hosts have
    Ps(ps::NodePsFlags),
    /// Change a host's labels, or whether it is to run replicas
    Update(UpdateFlags),
    /// Make hosts managers
    Promote(NodesFlags),
    /// Make managers workers
    Demote(NodesFlags),
    /// Remove hosts that have left, with the addresses they had
    #[command(visible_alias = "remove")]
    Rm(RemoveFlags),
}

/// `--availability`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum AvailabilityFlag {
    /// Runs replicas of services
    #[default]
    Active,
    /// Gets no new ones
    Pause,
    /// Runs none
    Drain,
}

impl From<AvailabilityFlag> for Availability {
    fn from(flag: AvailabilityFlag) -> Self {
        match flag {
            AvailabilityFlag::Active => Self::Active,
            AvailabilityFlag::Pause => Self::Pause,
            AvailabilityFlag::Drain => Self::Drain,
        }
    }
}

/// `hawser node update`.
#[derive(Debug, Clone, Args)]
pub struct UpdateFlags {
    /// active, pause or drain
    #[arg(long, value_enum)]
    pub availability: Option<AvailabilityFlag>,
    /// worker or manager
    #[arg(long, value_enum)]
    pub role: Option<RoleFlag>,
    /// Add a label, or change its value: KEY=VALUE
    #[arg(long, value_name = "LABEL")]
    pub label_add: Vec<String>,
    /// Remove a label
    #[arg(long, value_name = "KEY")]
    pub label_rm: Vec<String>,
    /// Id, beginning of an id, or name; self for this host
    #[arg(value_name = "NODE")]
    pub node: String,
}

/// `hawser node promote` and `demote`.
#[derive(Debug, Clone, Args)]
pub struct NodesFlags {
    /// Ids, beginnings of ids, or names; self for this host
    #[arg(required = true, value_name = "NODE")]
    pub nodes: Vec<String>,
}

/// `hawser node rm`.
#[derive(Debug, Clone, Args)]
pub struct RemoveFlags {
    /// Also one that is heard of
    #[arg(short, long)]
    pub force: bool,
    /// Ids, beginnings of ids, or names
    #[arg(required = true, value_name = "NODE")]
    pub nodes: Vec<String>,
}

/// # Errors
/// [`CliError`].
pub fn run(context: &Context, command: &NodeCommand) -> Result<i32, CliError> {
    match command {
        NodeCommand::Ls(flags) => list::list(context, flags),
        NodeCommand::Inspect(flags) => inspect::inspect(context, flags),
        NodeCommand::Ps(flags) => ps::ps(context, flags),
        NodeCommand::Update(flags) => update(context, flags),
        NodeCommand::Promote(flags) => give_role(context, &flags.nodes, Role::Manager),
        NodeCommand::Demote(flags) => give_role(context, &flags.nodes, Role::Worker),
        NodeCommand::Rm(flags) => remove(context, flags),
    }
}

fn route(node: &str) -> String {
    format!("{NODES}/{}", escape(node))
}

/// # Errors
/// [`CliError`]: none is called so, or this host is no manager.
pub(super) fn find(context: &Context, node: &str) -> Result<Node, CliError> {
    Ok(context.client().get(&route(node))?)
}

fn update(context: &Context, flags: &UpdateFlags) -> Result<i32, CliError> {
    let change = NodeUpdate {
        role: flags.role.map(Role::from),
        availability: flags.availability.map(Availability::from),
        add_labels: env::labels(&flags.label_add),
        remove_labels: BTreeSet::from_iter(flags.label_rm.iter().cloned()),
    };
    let path = format!("{}/{NODE_UPDATE}", route(&flags.node));
    context.client().post::<()>(&path, &change)?;
    output::line(&flags.node)?;
    Ok(0)
}

fn remove(context: &Context, flags: &RemoveFlags) -> Result<i32, CliError> {
    each(&flags.nodes, |node| {
        let path = format!("{}?force={}", route(node), flags.force);
        context.client().delete(&path)?;
        Ok(node.to_owned())
    })
}

fn give_role(context: &Context, nodes: &[String], role: Role) -> Result<i32, CliError> {
    each(nodes, |key| {
        if find(context, key)?.spec.role == role {
            return Ok(format!("Node {key} is already a {}.", role.as_str()));
        }
        let change = NodeUpdate {
            role: Some(role),
            ..NodeUpdate::default()
        };
        let path = format!("{}/{NODE_UPDATE}", route(key));
        context.client().post::<()>(&path, &change)?;
        Ok(match role {
            Role::Manager => format!("Node {key} promoted to a manager in the swarm."),
            Role::Worker => format!("Manager {key} demoted in the swarm."),
        })
    })
}

/// Says what was done with each, or why it was not.
fn each(nodes: &[String], act: impl Fn(&str) -> Result<String, CliError>) -> Result<i32, CliError> {
    let mut exit_code = 0;
    for node in nodes {
        match act(node) {
            Ok(done) => output::line(done)?,
            Err(error) => {
                output::failure(&error);
                exit_code = 1;
            }
        }
    }
    Ok(exit_code)
}
