//! `hawser cni`: the plugins for other container runtimes.

pub mod conflist;
pub mod install;

use clap::Subcommand;

use super::context::Context;
use super::error::CliError;

/// `hawser cni …`.
#[derive(Debug, Subcommand)]
pub enum CniCommand {
    /// Let other container runtimes use a network: write the plugins and a configuration list
    Install(install::InstallFlags),
    /// Remove what install wrote
    Uninstall(install::UninstallFlags),
}

/// # Errors
/// What cannot be written or removed.
pub fn run(context: &Context, command: &CniCommand) -> Result<i32, CliError> {
    match command {
        CniCommand::Install(flags) => install::install(context, flags),
        CniCommand::Uninstall(flags) => install::uninstall(flags),
    }
}
