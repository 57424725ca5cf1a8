//! `hawser swarm unlock` and `hawser swarm unlock-key`.

use api::path::{SWARM_UNLOCK, SWARM_UNLOCK_KEY, SWARM_UPDATE};
use api::storage::Secret;
use api::swarm::{SwarmKey, SwarmUpdate};
use clap::Args;

use super::run_replicas;
use crate::cli::ask;
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::output;

/// `hawser swarm unlock-key`.
#[derive(Debug, Clone, Args)]
pub struct UnlockKeyFlags {
    /// Print the key only
    #[arg(short, long)]
    pub quiet: bool,
    /// Replace the key: managers that are restarted need the new one
    #[arg(long)]
    pub rotate: bool,
}

pub(super) fn unlock(context: &Context) -> Result<i32, CliError> {
    let key = ask::secret("Please enter unlock key: ")?;
    let key = SwarmKey {
        unlock_key: Secret::new(key),
    };
    context.client().post::<()>(SWARM_UNLOCK, &key)?;
    run_replicas(context)
}

pub(super) fn unlock_key(context: &Context, flags: &UnlockKeyFlags) -> Result<i32, CliError> {
    if flags.rotate {
        let request = SwarmUpdate {
            rotate_unlock_key: true,
            ..SwarmUpdate::default()
        };
        context.client().post::<()>(SWARM_UPDATE, &request)?;
        if !flags.quiet {
            output::line("Successfully rotated manager unlock key.\n")?;
        }
    }
    let key: SwarmKey = context.client().get(SWARM_UNLOCK_KEY)?;
    match key.unlock_key.expose() {
        "" => return Err(CliError::NoUnlockKey),
        key if flags.quiet => output::line(key)?,
        _ => instruct(&key)?,
    }
    Ok(0)
}

/// What to do with the key of a cluster that is locked.
pub(super) fn show(context: &Context) -> Result<(), CliError> {
    let key: SwarmKey = context.client().get(SWARM_UNLOCK_KEY)?;
    output::line("")?;
    instruct(&key)
}

/// Docker's words.
fn instruct(key: &SwarmKey) -> Result<(), CliError> {
    let key = key.unlock_key.expose();
    output::line(format_args!(
        "To unlock a swarm manager after it restarts, run the `hawser swarm unlock`\n\
         command and provide the following key:\n\n    {key}\n\n\
         Please remember to store this key in a password manager, since without it you\n\
         will not be able to restart the manager."
    ))
}
