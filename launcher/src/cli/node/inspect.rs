//! `hawser node inspect`.

use api::swarm::Node;
use clap::Args;

use super::find;
use super::list::{capital, manager_status};
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::inspect::{self, InspectFlags, Kind};
use crate::cli::output;
use crate::cli::service::ServiceFlagError;
use crate::format::human;

/// `hawser node inspect`.
#[derive(Debug, Clone, Args)]
pub struct InspectNodeFlags {
    /// Show what matters, for people
    #[arg(long)]
    pub pretty: bool,
    #[command(flatten)]
    pub flags: InspectFlags,
}

/// # Errors
/// A bad template, no daemon, or no manager.
pub(super) fn inspect(context: &Context, node: &InspectNodeFlags) -> Result<i32, CliError> {
    if !node.pretty {
        return inspect::inspect(context, &node.flags, Some(Kind::Node));
    }
    if node.flags.format.is_some() {
        return Err(ServiceFlagError::Both("--pretty", "--format").into());
    }
    let mut exit_code = 0;
    for key in &node.flags.keys {
        match find(context, key) {
            Ok(node) => output::line(pretty(&node))?,
            Err(error) => {
                output::failure(&error);
                exit_code = 1;
            }
        }
    }
    Ok(exit_code)
}

fn pretty(node: &Node) -> String {
    let mut lines = vec![format!("ID:\t\t\t{}", node.id)];
    if !node.spec.labels.is_empty() {
        lines.push("Labels:".to_owned());
        let labels = node.spec.labels.iter();
        lines.extend(labels.map(|(name, value)| format!(" - {name}={value}")));
    }
    lines.extend([
        format!("Hostname:\t\t{}", node.description.hostname),
        format!("Joined at:\t\t{}", human::moment(&node.created_at, 9)),
        "Status:".to_owned(),
        format!(" State:\t\t\t{}", capital(&node.status.state)),
        format!(
            " Availability:\t\t{}",
            capital(node.spec.availability.as_str())
        ),
        format!(" Address:\t\t{}", node.status.addr),
    ]);
    if let Some(manager) = &node.manager_status {
        lines.extend([
            "Manager Status:".to_owned(),
            format!(" Address:\t\t{}", manager.addr),
            format!(" Raft Status:\t\t{}", capital(&manager.reachability)),
            format!(
                " Leader:\t\t{}",
                if manager_status(node) == "Leader" {
                    "Yes"
                } else {
                    "No"
                }
            ),
        ]);
    }
    let engine = &node.description.engine.engine_version;
    lines.push(format!("Engine Version:\t\t{engine}"));
    lines.join("\n")
}
