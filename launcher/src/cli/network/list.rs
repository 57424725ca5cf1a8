//! `hawser network ls`.

use api::net::Network;
use api::path::NETWORKS;
use clap::Args;

use crate::cli::container::filter::{has_label, name_matches, parse_pairs};
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::output;
use crate::format::table::{self, Columns, Row};

/// `hawser network ls`.
#[derive(Debug, Clone, Args)]
pub struct ListFlags {
    /// Print ids only
    #[arg(short, long)]
    pub quiet: bool,
    /// Do not shorten ids
    #[arg(long)]
    pub no_trunc: bool,
    /// Show only what fits: name=, id=, driver=, scope=, label=, type=custom|builtin, dangling=
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
    let networks = filtered(context, &flags.filter)?;
    let id = |network: &Network| {
        let id = &network.id;
        if flags.no_trunc {
            id.as_str()
        } else {
            id.short()
        }
        .to_owned()
    };
    if flags.quiet {
        for network in &networks {
            output::line(id(network))?;
        }
        return Ok(0);
    }
    let rows: Vec<Row> = networks
        .iter()
        .map(|network| {
            Row::new([
                ("ID", id(network).into()),
                ("Name", network.name.as_str().into()),
                ("Driver", network.driver.as_str().into()),
                ("Scope", network.scope.as_str().into()),
                ("IPv6", network.enable_ipv6.to_string().into()),
                ("Internal", network.internal.to_string().into()),
                ("CreatedAt", network.created.as_str().into()),
            ])
            .with_labels(&network.labels)
        })
        .collect();
    output::write(table::list(&COLUMNS, &rows, &flags.format)?)?;
    Ok(0)
}

/// The networks that pass all keys, by name; of several values of one key, one is enough.
///
/// # Errors
/// A bad filter, or no daemon.
pub fn filtered(context: &Context, filters: &[String]) -> Result<Vec<Network>, CliError> {
    let keys = ["name", "id", "driver", "scope", "label", "type", "dangling"];
    let filters = parse_pairs(filters, &keys)?;
    for value in filters.get("type").into_iter().flatten() {
        if !matches!(value.as_str(), "custom" | "builtin") {
            return Err(CliError::Filter(format!("type={value}")));
        }
    }
    let mut networks: Vec<Network> = context.client().get(NETWORKS)?;
    networks.retain(|network| {
        filters.iter().all(|(key, values)| match key.as_str() {
            "label" => values.iter().all(|label| has_label(&network.labels, label)),
            key => values.iter().any(|value| matches(key, value, network)),
        })
    });
    networks.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(networks)
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
            unused == matches!(value, "true" | "1")
        }
        _ => false,
    }
}
