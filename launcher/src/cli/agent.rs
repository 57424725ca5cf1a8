//! `hawser agent`.

use clap::Args;

use super::context::Context;
use super::error::CliError;
use crate::agent;

/// `hawser agent`.
#[derive(Debug, Clone, Args)]
pub struct AgentFlags {
    /// Leave the session of whoever started it
    #[arg(long, hide = true)]
    pub background: bool,
}

/// # Errors
/// The agent's records cannot be used.
pub fn run(context: &Context, flags: &AgentFlags) -> Result<i32, CliError> {
    if flags.background {
        // Already a session's leader: it has left then.
        let _already = rustix::process::setsid();
    }
    agent::run(context)?;
    Ok(0)
}
