//! `hawser service scale`.

use api::path::SERVICE_UPDATE;
use api::service::Service;
use api::task::ServiceMode;
use clap::Args;

use super::{ServiceFlagError, find, route, update};
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::output;

/// `hawser service scale`.
#[derive(Debug, Clone, Args)]
pub struct ScaleFlags {
    /// Do not wait until all replicas run
    #[arg(short, long)]
    pub detach: bool,
    /// Services with their new numbers of replicas
    #[arg(required = true, value_name = "SERVICE=REPLICAS")]
    pub services: Vec<String>,
}

/// # Errors
/// An argument that cannot be. Services that cannot be scaled are reported one by one.
pub fn scale(context: &Context, flags: &ScaleFlags) -> Result<i32, CliError> {
    let mut wanted = Vec::new();
    for text in &flags.services {
        let pair = text.split_once('=');
        let pair = pair.and_then(|(key, number)| Some((key, number.parse::<u64>().ok()?)));
        wanted.push(pair.ok_or_else(|| ServiceFlagError::Scale(text.clone()))?);
    }
    let mut exit_code = 0;
    for (key, replicas) in wanted {
        match scale_one(context, key, replicas) {
            Ok(service) => {
                output::line(format_args!("{key} scaled to {replicas}"))?;
                exit_code |= update::settle(context, &service, (flags.detach, false))?;
            }
            Err(error) => {
                output::failure(&error);
                exit_code = 1;
            }
        }
    }
    Ok(exit_code)
}

fn scale_one(context: &Context, key: &str, replicas: u64) -> Result<Service, CliError> {
    let service = find(context, key)?;
    let mut spec = service.spec.clone();
    match (&spec.task_template, spec.mode) {
        (None, _) => return Err(ServiceFlagError::Joined(key.to_owned()).into()),
        (Some(_), Some(ServiceMode::Global {})) => {
            return Err(ServiceFlagError::ScaleGlobal(key.to_owned()).into());
        }
        (Some(_), _) => spec.mode = Some(ServiceMode::Replicated { replicas }),
    }
    let own = route(service.id.as_str());
    let route = format!("{own}/{SERVICE_UPDATE}?version={}", service.version.index);
    Ok(context.client().post(&route, &spec)?)
}
