//! `hawser network rm` and `prune`.

use api::client::escape;
use api::path::NETWORKS;
use clap::Args;

use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::output;

use super::list::{filtered, is_builtin};

/// `hawser network rm`.
#[derive(Debug, Clone, Args)]
pub struct RemoveFlags {
    /// A network that does not exist is no error
    #[arg(short, long)]
    pub force: bool,
    /// Networks to remove
    #[arg(required = true, value_name = "NETWORK")]
    pub networks: Vec<String>,
}

/// `hawser network prune`.
#[derive(Debug, Clone, Args)]
pub struct PruneFlags {
    /// Do not ask
    #[arg(short, long)]
    pub force: bool,
    /// Remove only what fits: label=
    #[arg(long, value_name = "FILTER")]
    pub filter: Vec<String>,
}

/// # Errors
/// Standard output is closed; other failures are reported network by network.
pub fn remove(context: &Context, flags: &RemoveFlags) -> Result<i32, CliError> {
    let mut exit_code = 0;
    for network in &flags.networks {
        match context
            .client()
            .delete(&format!("{NETWORKS}/{}", escape(network)))
        {
            Ok(()) => output::line(network)?,
            Err(error) if error.is_not_found() && flags.force => {}
            Err(error) => {
                output::failure(&error.into());
                exit_code = 1;
            }
        }
    }
    Ok(exit_code)
}

/// Removes networks one by one: the daemon refuses one that was joined since it was listed.
///
/// # Errors
/// A bad filter, or no daemon.
pub fn prune(context: &Context, flags: &PruneFlags) -> Result<i32, CliError> {
    let warning = "This will remove all custom networks not used by at least one container.";
    if !flags.force && !output::confirm(warning)? {
        return Ok(0);
    }
    let mut deleted = Vec::new();
    for network in filtered(context, &flags.filter)? {
        if is_builtin(&network) || !network.containers.is_empty() {
            continue;
        }
        match context
            .client()
            .delete(&format!("{NETWORKS}/{}", network.id))
        {
            Ok(()) => deleted.push(network.name),
            Err(error) => output::failure(&error.into()),
        }
    }
    if !deleted.is_empty() {
        output::line("Deleted Networks:")?;
        for name in deleted {
            output::line(name)?;
        }
        output::line("")?;
    }
    Ok(0)
}
