//! `hawser network rm` and `prune`.

use api::client::escape;
use api::net::Network;
use api::path::NETWORKS;
use clap::Args;
use jiff::Timestamp;

use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::filter::Filter;
use crate::cli::{moment, output};

use super::list::is_builtin;

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
    /// Remove only what fits: until=TIME|DURATION, label=, label!=
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

/// # Errors
/// A bad filter, or no daemon.
pub fn prune(context: &Context, flags: &PruneFlags) -> Result<i32, CliError> {
    let filter = Filter::parse(&flags.filter, &["until", "label", "label!"])?;
    let until = match filter.get("until") {
        [] => None,
        [text] => Some(moment::parse("--filter until", text, Timestamp::now())?),
        _ => return Err(CliError::Filter("until is given twice".to_owned())),
    };
    let warning = "This will remove all custom networks not used by at least one container.";
    if !flags.force && !output::confirm(warning)? {
        return Ok(0);
    }
    let pruned = unused(context, &filter, until)?;
    output::pruned("Deleted Networks:", &pruned.deleted)?;
    Ok(i32::from(pruned.failed))
}

/// What was removed.
pub(crate) struct Pruned {
    pub(crate) deleted: Vec<String>,
    /// Something was left, and said why.
    pub(crate) failed: bool,
}

/// Removes unused networks one by one: the daemon refuses one that was joined since it was listed.
///
/// # Errors
/// No daemon.
pub(crate) fn unused(
    context: &Context,
    filter: &Filter,
    until: Option<Timestamp>,
) -> Result<Pruned, CliError> {
    let networks: Vec<Network> = context.client().get(NETWORKS)?;
    let fits = |network: &&Network| {
        !is_builtin(network)
            && network.containers.is_empty()
            && until.is_none_or(|until| is_before(network, until))
            && filter.passes(&network.labels, |_until, _time| true)
    };
    let mut pruned = Pruned {
        deleted: Vec::new(),
        failed: false,
    };
    for network in networks.iter().filter(fits) {
        let route = format!("{NETWORKS}/{}", network.id);
        match context.client().delete(&route) {
            Ok(()) => pruned.deleted.push(network.name.to_string()),
            // Somebody else was faster.
            Err(error) if error.is_not_found() => {}
            Err(error) => {
                output::failure(&error.into());
                pruned.failed = true;
            }
        }
    }
    Ok(pruned)
}

fn is_before(network: &Network, until: Timestamp) -> bool {
    let created = network.created.parse::<Timestamp>();
    created.is_ok_and(|created| created < until)
}
