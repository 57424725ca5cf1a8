//! `hawser service rm`.

use clap::Args;

use super::route;
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::output;

/// `hawser service rm`.
#[derive(Debug, Clone, Args)]
pub struct RemoveFlags {
    /// Remove services that have members: these run on, and connections through the service end
    #[arg(short, long)]
    pub force: bool,
    /// Services to remove
    #[arg(required = true, value_name = "SERVICE")]
    pub services: Vec<String>,
}

/// # Errors
/// Standard output is closed; other failures are reported service by service.
pub fn remove(context: &Context, flags: &RemoveFlags) -> Result<i32, CliError> {
    let mut exit_code = 0;
    for service in &flags.services {
        let route = format!("{}?force={}", route(service), flags.force);
        match context.client().delete(&route) {
            Ok(()) => output::line(service)?,
            Err(error) => {
                output::failure(&error.into());
                exit_code = 1;
            }
        }
    }
    Ok(exit_code)
}
