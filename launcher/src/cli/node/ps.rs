//! `hawser node ps`.

use api::path::SERVICES;
use api::service::Service;
use clap::Args;

use super::find;
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::filter::Filter;
use crate::cli::output;
use crate::cli::service::ps::ListingFlags;
use crate::cli::service::replica;

/// `hawser node ps`.
#[derive(Debug, Clone, Args)]
pub struct NodePsFlags {
    #[command(flatten)]
    pub listing: ListingFlags,
    /// Show only what fits: name=, id=, desired-state=running|shutdown
    #[arg(short, long, value_name = "FILTER")]
    pub filter: Vec<String>,
    /// Ids, beginnings of ids, or names; self for this host
    #[arg(value_name = "NODE", default_value = "self")]
    pub nodes: Vec<String>,
}

/// # Errors
/// A bad filter or template, no daemon, or no manager. A node that is not there is reported, and what
/// is on the others is listed.
pub(super) fn ps(context: &Context, flags: &NodePsFlags) -> Result<i32, CliError> {
    let filter = Filter::parse(&flags.filter, &["name", "id", "desired-state"])?;
    let mut exit_code = 0;
    let mut nodes = Vec::new();
    for key in &flags.nodes {
        match find(context, key) {
            Ok(node) => nodes.push(node.id.to_string()),
            Err(error) => {
                output::failure(&error);
                exit_code = 1;
            }
        }
    }
    if nodes.is_empty() {
        return Ok(exit_code);
    }
    let mut services: Vec<Service> = context.client().get(SERVICES)?;
    services.retain(|service| service.spec.task_template.is_some());
    replica::list(context, &services, &filter, &flags.listing, Some(&nodes))?;
    Ok(exit_code)
}
