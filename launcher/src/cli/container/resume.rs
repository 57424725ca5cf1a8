//! `hawser resume`: what the unit `hawser-resume` does when the daemon or the host has started.

use crate::agent;
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::output;
use crate::cli::run::start;
use crate::container::Status;
use crate::shim::restart::resumes;
use crate::store::ContainerDir;

use super::view::{self, View};

/// Starts the containers whose policy says so, the oldest first, and prints their names. Replicas of
/// services are the agent's, which is started if there are any.
///
/// # Errors
/// The daemon cannot be reached.
pub fn resume(context: &Context) -> Result<i32, CliError> {
    context.require_root()?;
    if agent::is_needed(context)? {
        agent::ensure(context)?;
    }
    let store = context.store()?;
    let mut waiting: Vec<(View, ContainerDir)> = view::all(context)?
        .into_iter()
        .rev()
        .filter(is_due)
        .map(|view| {
            let container = store.container(&view.record.id);
            (view, container)
        })
        .collect();
    // Who shares another one's namespaces, or has a link to it, can start when that one runs.
    while !waiting.is_empty() {
        let (mut failed, before) = (Vec::new(), waiting.len());
        for (view, container) in waiting {
            match start::detached(context, &container) {
                Ok(()) => output::line(&view.record.name)?,
                Err(error) => failed.push((view, container, error)),
            }
        }
        if failed.len() == before {
            for (view, _, error) in failed {
                output::warn(format_args!("hawser: {}: {error}", view.record.name));
            }
            return Ok(1);
        }
        waiting = failed
            .into_iter()
            .map(|(view, container, _)| (view, container))
            .collect();
    }
    Ok(0)
}

fn is_due(view: &View) -> bool {
    let is_down = !matches!(view.state.status, Status::Running | Status::Removing);
    is_down && resumes(&view.record.host_config.restart_policy, &view.state)
}
