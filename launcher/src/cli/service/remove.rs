//! `hawser service rm`: without a question, as Docker's. Its members are containers that somebody ran,
//! and stay that, but for its replicas: what is removed is what `service create` made.

use api::service::Service;
use clap::Args;

use super::route;
use crate::agent::crew::Replicas;
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::output;

/// `hawser service rm`.
#[derive(Debug, Clone, Args)]
pub struct RemoveFlags {
    /// Services to remove, with their replicas. Containers that joined run on; connections through the
    /// service end
    #[arg(required = true, value_name = "SERVICE")]
    pub services: Vec<String>,
}

/// # Errors
/// Standard output is closed; other failures are reported service by service.
pub fn remove(context: &Context, flags: &RemoveFlags) -> Result<i32, CliError> {
    let mut exit_code = 0;
    for service in &flags.services {
        match remove_one(context, service) {
            Ok(members) => {
                output::line(service)?;
                if !members.is_empty() {
                    let run = if members.len() == 1 { "runs" } else { "run" };
                    let members = members.join(", ");
                    output::warn(format_args!("{service} is removed, and {members} {run} on"));
                }
            }
            Err(error) => {
                output::failure(&error);
                exit_code = 1;
            }
        }
    }
    Ok(exit_code)
}

/// Returns the names of the members that it had and that nobody ends.
fn remove_one(context: &Context, service: &str) -> Result<Vec<String>, CliError> {
    let client = context.client();
    let before: Service = client.get(&route(service))?;
    let replicas = match before.spec.task_template {
        Some(_) => Some(Replicas::read(context, [&before])?),
        None => None,
    };
    client.delete(&format!("{}?force=true", route(service)))?;
    let tasks = replicas.iter().flat_map(|replicas| replicas.of(&before));
    let ended: Vec<&String> = tasks.map(|task| &task.name).collect();
    let members = before.members.iter().map(|member| &member.name);
    let mut members: Vec<String> = members
        .filter(|name| !ended.contains(name))
        .cloned()
        .collect();
    // A member is one on each network of the service.
    members.sort_unstable();
    members.dedup();
    Ok(members)
}
