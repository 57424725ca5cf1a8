//! `hawser service …`.

pub mod top;

use clap::Subcommand;

use super::context::Context;
use super::error::CliError;

#[derive(Debug, Subcommand)]
pub enum ServiceCommand {
    /// Show what goes through services and published ports, as it goes
    Top(top::TopFlags),
}

/// # Errors
/// Those of the subcommand.
pub fn run(context: &Context, command: &ServiceCommand) -> Result<i32, CliError> {
    match command {
        ServiceCommand::Top(flags) => top::top(context, flags),
    }
}
