//! `hawser service ps`.

use std::collections::BTreeMap;

use api::service::{Service, ServiceMember};
use clap::Args;

use super::{find, replica};
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::filter::{Filter, name_matches};
use crate::cli::listing;
use crate::cli::output;
use crate::format::table::{Columns, Row};

/// `hawser service ps`.
#[derive(Debug, Clone, Args)]
pub struct PsFlags {
    #[command(flatten)]
    pub listing: ListingFlags,
    /// Show only what fits: of replicas name=, id=, node=, desired-state=running|shutdown; of members
    /// that joined name=, id=, network=, state=starting|serving|draining|down
    #[arg(short, long, value_name = "FILTER")]
    pub filter: Vec<String>,
    /// Services whose members to list
    #[arg(required = true, value_name = "SERVICE")]
    pub services: Vec<String>,
}

/// How replicas and members are listed.
#[derive(Debug, Clone, Args)]
pub struct ListingFlags {
    /// Print ids only: those of replicas, or of the containers that are members
    #[arg(short, long)]
    pub quiet: bool,
    /// Do not shorten ids and errors
    #[arg(long)]
    pub no_trunc: bool,
    /// Show ids of services and hosts instead of their names
    #[arg(long)]
    pub no_resolve: bool,
    /// table, json, or a Go template
    #[arg(long, value_name = "FORMAT", default_value = "")]
    pub format: String,
}

const COLUMNS: Columns = Columns {
    headers: &[
        ("ID", "ID"),
        ("Name", "NAME"),
        ("Service", "SERVICE"),
        ("Network", "NETWORK"),
        ("Addresses", "ADDRESSES"),
        ("Weight", "WEIGHT"),
        ("CurrentState", "CURRENT STATE"),
        ("InUse", "IN USE"),
        ("Error", "ERROR"),
    ],
    default: "{{.ID}}\t{{.Name}}\t{{.Network}}\t{{.Addresses}}\t{{.Weight}}\t{{.CurrentState}}\t\
              {{.InUse}}\t{{.Error}}",
};
const SHORT_ERROR: usize = 40;

/// # Errors
/// A bad filter or template, or no daemon. A service that is not there is reported, and the others
/// are listed.
pub fn ps(context: &Context, flags: &PsFlags) -> Result<i32, CliError> {
    let keys = ["name", "id", "network", "state", "node", "desired-state"];
    let filter = Filter::parse(&flags.filter, &keys)?;
    let mut exit_code = 0;
    let mut kept: Vec<Service> = Vec::new();
    let mut members: Vec<(String, ServiceMember)> = Vec::new();
    for key in &flags.services {
        match find(context, key) {
            Ok(service) if service.spec.task_template.is_some() => kept.push(service),
            Ok(Service {
                spec, members: all, ..
            }) => {
                let own = all.into_iter().map(|member| (spec.name.clone(), member));
                members.extend(own);
            }
            Err(error @ CliError::Client(_)) => {
                output::failure(&error);
                exit_code = 1;
            }
            Err(error) => return Err(error),
        }
    }
    if !kept.is_empty() {
        replica::list(context, &kept, &filter, &flags.listing, None)?;
    }
    if !kept.is_empty() && members.is_empty() {
        return Ok(exit_code);
    }
    members.retain(|(_, member)| {
        filter.passes(&BTreeMap::new(), |key, value| matches(key, value, member))
    });
    let id = |(_, member): &(String, ServiceMember)| {
        let length = if flags.listing.no_trunc {
            usize::MAX
        } else {
            12
        };
        member.container_id.chars().take(length).collect::<String>()
    };
    let row = |listed: &(String, ServiceMember)| row(listed, id(listed), flags.listing.no_trunc);
    listing::print(
        &members,
        (flags.listing.quiet, &flags.listing.format),
        &COLUMNS,
        id,
        row,
    )?;
    Ok(exit_code)
}

fn row((service, member): &(String, ServiceMember), id: String, whole: bool) -> Row {
    let addresses: Vec<String> = member.addresses.iter().map(ToString::to_string).collect();
    let length = if whole { usize::MAX } else { SHORT_ERROR };
    let error: String = member.error.chars().take(length).collect();
    let cut = if error.len() < member.error.len() {
        "…"
    } else {
        ""
    };
    Row::new([
        ("ID", id.into()),
        ("Name", member.name.as_str().into()),
        ("Service", service.as_str().into()),
        ("Network", member.network.as_str().into()),
        ("Addresses", addresses.join(", ").into()),
        ("Weight", member.weight.to_string().into()),
        ("CurrentState", member.state.as_str().into()),
        ("InUse", (if member.in_use { "yes" } else { "no" }).into()),
        ("Error", format!("{error}{cut}").into()),
    ])
}

fn matches(key: &str, value: &str, member: &ServiceMember) -> bool {
    match key {
        "name" => name_matches(&member.name, value),
        "id" => member.container_id.starts_with(value),
        "network" => member.network.as_str() == value,
        "state" => member.state.as_str() == value,
        _ => false,
    }
}
