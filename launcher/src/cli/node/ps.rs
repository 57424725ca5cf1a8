//! `hawser node ps`.

use api::path::SERVICES;
use api::service::Service;
use clap::Args;

use super::find;
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::filter::Filter;
use crate::cli::output;
use crate::cli::service::ps::PsFlags;
use crate::cli::service::replica;

/// `hawser node ps`.
#[derive(Debug, Clone, Args)]
pub struct NodePsFlags {
    /// Print the replicas' ids only
    #[arg(short, long)]
    pub quiet: bool,
    /// Do not shorten ids and errors
    #[arg(long)]
    pub no_trunc: bool,
    /// Show only what fits: name=, id=, desired-state=running|shutdown
    #[arg(short, long, value_name = "FILTER")]
    pub filter: Vec<String>,
    /// table, json, or a Go template
    #[arg(long, value_name = "FORMAT", default_value = "")]
    pub format: String,
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
    let listing = PsFlags {
        quiet: flags.quiet,
        no_trunc: flags.no_trunc,
        filter: Vec::new(),
        format: flags.format.clone(),
        services: Vec::new(),
    };
    replica::list(context, &services, &filter, &listing, Some(&nodes))?;
    Ok(exit_code)
}
