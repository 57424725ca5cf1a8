//! `hawser node ls`.

use api::path::NODES;
use api::swarm::Node;
use clap::Args;

use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::filter::{Filter, name_matches};
use crate::cli::listing;
use crate::format::table::{Columns, Row};

/// `hawser node ls`.
#[derive(Debug, Clone, Args)]
pub struct ListFlags {
    /// Print ids only
    #[arg(short, long)]
    pub quiet: bool,
    /// Show only what fits: id=, name=, role=worker|manager, node.label=
    #[arg(short, long, value_name = "FILTER")]
    pub filter: Vec<String>,
    /// table, json, or a Go template
    #[arg(long, value_name = "FORMAT", default_value = "")]
    pub format: String,
}

const COLUMNS: Columns = Columns {
    headers: &[
        ("ID", "ID"),
        ("Hostname", "HOSTNAME"),
        ("Status", "STATUS"),
        ("Availability", "AVAILABILITY"),
        ("ManagerStatus", "MANAGER STATUS"),
        ("EngineVersion", "ENGINE VERSION"),
        // A mark behind the id, and no word above it.
        ("Self", ""),
    ],
    default: "{{.ID}} {{if .Self}}*{{else}} {{end}}\t{{.Hostname}}\t{{.Status}}\t{{.Availability}}\t{{.ManagerStatus}}\t{{.EngineVersion}}",
};

/// # Errors
/// A bad filter or template, no daemon, or no manager.
pub(super) fn list(context: &Context, flags: &ListFlags) -> Result<i32, CliError> {
    let filter = Filter::parse(&flags.filter, &["id", "name", "role", "node.label"])?;
    let mut nodes: Vec<Node> = context.client().get(NODES)?;
    nodes.retain(|node| {
        let labels = &node.spec.labels;
        filter.passes(labels, |key, value| matches(key, value, node))
    });
    let id = |node: &Node| node.id.to_string();
    listing::print(&nodes, (flags.quiet, &flags.format), &COLUMNS, id, row)
}

fn matches(key: &str, value: &str, node: &Node) -> bool {
    match key {
        "id" => node.id.as_str().starts_with(value),
        "name" => name_matches(&node.description.hostname, value),
        "role" => node.spec.role.as_str() == value,
        "node.label" => match value.split_once('=') {
            Some((key, value)) => node.spec.labels.get(key).is_some_and(|own| own == value),
            None => node.spec.labels.contains_key(value),
        },
        _ => false,
    }
}

fn row(node: &Node) -> Row {
    Row::new([
        ("ID", node.id.as_str().into()),
        ("Hostname", node.description.hostname.as_str().into()),
        ("Status", capital(&node.status.state).into()),
        (
            "Availability",
            capital(node.spec.availability.as_str()).into(),
        ),
        ("ManagerStatus", manager_status(node).into()),
        (
            "EngineVersion",
            node.description.engine.engine_version.as_str().into(),
        ),
        ("Self", node.own.into()),
    ])
}

/// `Leader`, `Reachable`, `Unreachable`, or nothing for a worker.
pub(super) fn manager_status(node: &Node) -> String {
    match &node.manager_status {
        Some(status) if status.leader => "Leader".to_owned(),
        Some(status) => capital(&status.reachability),
        None => String::new(),
    }
}

/// As people write it.
pub(super) fn capital(word: &str) -> String {
    let mut letters = word.chars();
    let first = letters.next().map(|letter| letter.to_ascii_uppercase());
    first.into_iter().chain(letters).collect()
}
