//! `hawser service ls`.

use api::path::SERVICES;
use api::service::{Service, ServicePort};
use clap::Args;

use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::filter::{Filter, name_matches};
use crate::cli::listing;
use crate::format::human;
use crate::format::table::{Columns, Row};

/// `hawser service ls`.
#[derive(Debug, Clone, Args)]
pub struct ListFlags {
    /// Print ids only
    #[arg(short, long)]
    pub quiet: bool,
    /// Show only what fits: name=, id=, mode=vip|dnsrr, label=, label!=
    #[arg(short, long, value_name = "FILTER")]
    pub filter: Vec<String>,
    /// table, json, or a Go template
    #[arg(long, value_name = "FORMAT", default_value = "")]
    pub format: String,
}

const COLUMNS: Columns = Columns {
    headers: &[
        ("ID", "ID"),
        ("Name", "NAME"),
        ("Mode", "MODE"),
        ("Replicas", "REPLICAS"),
        ("Ports", "PORTS"),
        ("Networks", "NETWORKS"),
        ("CreatedAt", "CREATED AT"),
        ("Labels", "LABELS"),
    ],
    default: "{{.ID}}\t{{.Name}}\t{{.Mode}}\t{{.Replicas}}\t{{.Ports}}",
};

/// # Errors
/// A bad filter or template, or no daemon.
pub fn list(context: &Context, flags: &ListFlags) -> Result<i32, CliError> {
    let filter = Filter::parse(&flags.filter, &["name", "id", "mode", "label", "label!"])?;
    for value in filter.get("mode") {
        if !matches!(value.as_str(), "vip" | "dnsrr") {
            return Err(CliError::Filter(format!("mode={value}")));
        }
    }
    let mut services: Vec<Service> = context.client().get(SERVICES)?;
    services.retain(|service| {
        filter.passes(&service.spec.labels, |key, value| {
            matches(key, value, service)
        })
    });
    let id = |service: &Service| service.id.short().to_owned();
    listing::print(&services, (flags.quiet, &flags.format), &COLUMNS, id, row)
}

fn row(service: &Service) -> Row {
    let spec = &service.spec;
    let networks: Vec<&str> = spec.networks.iter().map(|n| n.target.as_str()).collect();
    Row::new([
        ("ID", service.id.short().into()),
        ("Name", spec.name.as_str().into()),
        ("Mode", spec.endpoint_spec.mode.as_str().into()),
        ("Replicas", replicas(service).into()),
        ("Ports", ports(&service.endpoint.ports).into()),
        ("Networks", networks.join(", ").into()),
        ("CreatedAt", human::moment(&service.created_at, 9).into()),
    ])
    .with_labels(&spec.labels)
}

/// Members that new connections go to, of all.
fn replicas(service: &Service) -> String {
    let used = service.members.iter().filter(|member| member.in_use);
    let warning = if service.last_resort {
        " (none well)"
    } else {
        ""
    };
    format!("{}/{}{warning}", used.count(), service.members.len())
}

fn ports(ports: &[ServicePort]) -> String {
    let shown: Vec<String> = ports.iter().map(ToString::to_string).collect();
    shown.join(", ")
}

fn matches(key: &str, value: &str, service: &Service) -> bool {
    match key {
        "name" => name_matches(&service.spec.name, value),
        "id" => service.id.as_str().starts_with(value),
        "mode" => service.spec.endpoint_spec.mode.as_str() == value,
        _ => false,
    }
}
