//! `hawser network ls`.

use api::net::Network;
use api::path::NETWORKS;
use clap::Args;

use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::filter::{Filter, name_matches};
use crate::cli::listing;
use crate::format::human;
use crate::format::table::{Columns, Row};

/// `hawser network ls`.
#[derive(Debug, Clone, Args)]
pub struct ListFlags {
    /// Print ids only
    #[arg(short, long)]
    pub quiet: bool,
    /// Do not shorten ids
    #[arg(long)]
    pub no_trunc: bool,
    /// Show only what fits: name=, id=, driver=, scope=, label=, label!=, type=custom|builtin,
    /// dangling=true|false
    #[arg(short, long, value_name = "FILTER")]
    pub filter: Vec<String>,
    /// table, json, or a Go template
    #[arg(long, value_name = "FORMAT", default_value = "")]
    pub format: String,
}

const COLUMNS: Columns = Columns {
    headers: &[
        ("ID", "NETWORK ID"),
        ("Name", "NAME"),
        ("Driver", "DRIVER"),
        ("Scope", "SCOPE"),
        ("IPv4", "IPV4"),
        ("IPv6", "IPV6"),
        ("Internal", "INTERNAL"),
        ("CreatedAt", "CREATED AT"),
        ("Labels", "LABELS"),
    ],
    default: "{{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.Scope}}",
};
/// Networks that are always there.
const BUILTIN: [&str; 3] = ["bridge", "host", "none"];

pub fn is_builtin(network: &Network) -> bool {
    BUILTIN.contains(&network.name.as_str())
}

/// # Errors
/// A bad filter or template, or no daemon.
pub fn list(context: &Context, flags: &ListFlags) -> Result<i32, CliError> {
    let keys = [
        "name", "id", "driver", "scope", "label", "label!", "type", "dangling",
    ];
    let filter = Filter::parse(&flags.filter, &keys)?;
    filter.truth("dangling")?;
    for value in filter.get("type") {
        if !matches!(value.as_str(), "custom" | "builtin") {
            return Err(CliError::Filter(format!("type={value}")));
        }
    }
    let mut networks: Vec<Network> = context.client().get(NETWORKS)?;
    networks.retain(|network| {
        filter.passes(&network.labels, |key, value| matches(key, value, network))
    });
    networks.sort_by(|a, b| a.name.cmp(&b.name));
    let id = |network: &Network| {
        let id = &network.id;
        let shown = if flags.no_trunc {
            id.as_str()
        } else {
            id.short()
        };
        shown.to_owned()
    };
    let row = |network: &Network| row(network, id(network));
    listing::print(&networks, (flags.quiet, &flags.format), &COLUMNS, id, row)
}

fn row(network: &Network, id: String) -> Row {
    Row::new([
        ("ID", id.into()),
        ("Name", network.name.as_str().into()),
        ("Driver", network.driver.as_str().into()),
        ("Scope", network.scope.as_str().into()),
        ("IPv4", network.enable_ipv4.to_string().into()),
        ("IPv6", network.enable_ipv6.to_string().into()),
        ("Internal", network.internal.to_string().into()),
        ("CreatedAt", human::moment(&network.created, 9).into()),
    ])
    .with_labels(&network.labels)
}

fn matches(key: &str, value: &str, network: &Network) -> bool {
    match key {
        "name" => name_matches(network.name.as_str(), value),
        "id" => network.id.as_str().starts_with(value),
        "driver" => network.driver == value,
        "scope" => network.scope == value,
        "type" => is_builtin(network) == (value == "builtin"),
        "dangling" => {
            let unused = network.containers.is_empty() && !is_builtin(network);
            unused == matches!(value, "true" | "1" | "t")
        }
        _ => false,
    }
}
