//! `hawser network …`.

pub mod connect;
pub mod create;
pub mod list;
pub mod remove;

use api::client::escape;
use api::net::Network;
use api::path::NETWORKS;
use clap::{Args, Subcommand};

use super::context::Context;
use super::error::CliError;
use super::inspect::{self, InspectFlags, Kind};

/// `hawser network`.
#[derive(Debug, Clone, Subcommand)]
pub enum NetworkCommand {
    /// Create a network
    Create(create::CreateFlags),
    /// List networks
    #[command(visible_alias = "list")]
    Ls(list::ListFlags),
    /// Show networks in detail
    Inspect(InspectNetworkFlags),
    /// Remove networks that nobody uses
    #[command(visible_alias = "remove")]
    Rm(remove::RemoveFlags),
    /// Connect a container to a network
    Connect(connect::ConnectFlags),
    /// Disconnect a container from a network
    Disconnect(connect::DisconnectFlags),
    /// Remove all networks that no container uses
    Prune(remove::PruneFlags),
}

/// `hawser network inspect`.
#[derive(Debug, Clone, Args)]
pub struct InspectNetworkFlags {
    /// Show everything, which is what happens anyway
    #[arg(short, long)]
    pub verbose: bool,
    #[command(flatten)]
    pub flags: InspectFlags,
}

/// # Errors
/// [`CliError`] of the command.
pub fn run(context: &Context, command: &NetworkCommand) -> Result<i32, CliError> {
    match command {
        NetworkCommand::Create(flags) => create::create(context, flags),
        NetworkCommand::Ls(flags) => list::list(context, flags),
        NetworkCommand::Inspect(network) => {
            inspect::inspect(context, &network.flags, Some(Kind::Network))
        }
        NetworkCommand::Rm(flags) => remove::remove(context, flags),
        NetworkCommand::Connect(flags) => connect::connect(context, flags),
        NetworkCommand::Disconnect(flags) => connect::disconnect(context, flags),
        NetworkCommand::Prune(flags) => remove::prune(context, flags),
    }
}

/// # Errors
/// There is no such network.
pub fn find(context: &Context, key: &str) -> Result<Network, CliError> {
    Ok(context
        .client()
        .get(&format!("{NETWORKS}/{}", escape(key)))?)
}
