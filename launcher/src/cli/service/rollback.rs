//! `hawser service rollback`.

use api::path::SERVICE_ROLLBACK;
use api::service::Service;
use clap::Args;

use super::{find, route, update};
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::output;

/// `hawser service rollback`.
#[derive(Debug, Clone, Args)]
pub struct RollbackFlags {
    /// Do not wait until the rollback is done
    #[arg(short, long)]
    pub detach: bool,
    /// Print nothing but the name
    #[arg(short, long)]
    pub quiet: bool,
    /// Service whose last update to take back
    pub service: String,
}

/// # Errors
/// There is no such service, or nothing to go back to.
pub fn roll_back(context: &Context, flags: &RollbackFlags) -> Result<i32, CliError> {
    let service = find(context, &flags.service)?;
    let how = (flags.detach, flags.quiet);
    back(context, &service, how, &flags.service)
}

pub(super) fn back(
    context: &Context,
    service: &Service,
    how: (bool, bool),
    key: &str,
) -> Result<i32, CliError> {
    let own = route(service.id.as_str());
    let route = format!("{own}/{SERVICE_ROLLBACK}?version={}", service.version.index);
    let service: Service = context.client().post(&route, &())?;
    output::line(key)?;
    update::settle(context, &service, how)
}
