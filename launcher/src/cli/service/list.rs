//! `hawser service ls`.

use api::path::SERVICES;
use api::reference::listed;
use api::service::{PublishMode, Service, ServicePort};
use clap::Args;

use crate::agent::crew::Replicas;
use crate::agent::task::TaskState;
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
    /// Show only what fits: name=, id=, mode=replicated|global|joined, endpoint-mode=vip|dnsrr,
    /// label=, label!=
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
        ("Image", "IMAGE"),
        ("Ports", "PORTS"),
        ("EndpointMode", "ENDPOINT MODE"),
        ("Networks", "NETWORKS"),
        ("CreatedAt", "CREATED AT"),
        ("Labels", "LABELS"),
    ],
    default: "{{.ID}}\t{{.Name}}\t{{.Mode}}\t{{.Replicas}}\t{{.Image}}\t{{.Ports}}",
};

/// # Errors
/// A bad filter or template, or no daemon.
pub fn list(context: &Context, flags: &ListFlags) -> Result<i32, CliError> {
    let filter = Filter::parse(
        &flags.filter,
        &["name", "id", "mode", "endpoint-mode", "label", "label!"],
    )?;
    for value in filter.get("mode") {
        if !matches!(value.as_str(), "replicated" | "global" | JOINED) {
            return Err(CliError::Filter(format!("mode={value}")));
        }
    }
    for value in filter.get("endpoint-mode") {
        if !matches!(value.as_str(), "vip" | "dnsrr") {
            return Err(CliError::Filter(format!("endpoint-mode={value}")));
        }
    }
    let mut services: Vec<Service> = context.client().get(SERVICES)?;
    services.retain(|service| {
        filter.passes(&service.spec.labels, |key, value| {
            matches(key, value, service)
        })
    });
    let kept = services.iter().filter(|s| s.spec.task_template.is_some());
    let replicas = Replicas::read(context, kept)?;
    let counted: Vec<(Service, String)> = services
        .into_iter()
        .map(|service| {
            let counted = count(&replicas, &service);
            (service, counted)
        })
        .collect();
    let id = |(service, _): &(Service, String)| service.id.short().to_owned();
    listing::print(&counted, (flags.quiet, &flags.format), &COLUMNS, id, row)
}

/// The mode of a service that starts no container by itself.
const JOINED: &str = "joined";

fn mode(service: &Service) -> &'static str {
    match &service.spec.task_template {
        Some(_) => service.spec.mode.unwrap_or_default().as_str(),
        None => JOINED,
    }
}

fn row((service, replicas): &(Service, String)) -> Row {
    let spec = &service.spec;
    let networks: Vec<&str> = spec.networks.iter().map(|n| n.target.as_str()).collect();
    Row::new([
        ("ID", service.id.short().into()),
        ("Name", spec.name.as_str().into()),
        ("Mode", mode(service).into()),
        ("EndpointMode", spec.endpoint_spec.mode.as_str().into()),
        ("Replicas", replicas.as_str().into()),
        ("Image", listed(image(service)).into()),
        ("Ports", ports(&service.endpoint.ports).into()),
        ("Networks", networks.join(", ").into()),
        ("CreatedAt", human::moment(&service.created_at, 9).into()),
    ])
    .with_labels(&spec.labels)
}

fn image(service: &Service) -> &str {
    let template = service.spec.task_template.as_ref();
    template.map_or("", |template| &template.container_spec.image)
}

/// Replicas that run, of those wanted; or members that new connections go to, of all.
fn count(replicas: &Replicas, service: &Service) -> String {
    if service.spec.task_template.is_none() {
        return members(service);
    }
    let tasks = replicas.of(service).iter();
    let running = tasks.filter(|task| task.is_wanted() && task.state == TaskState::Running);
    format!("{}/{}", running.count(), replicas.wanted(service))
}

fn members(service: &Service) -> String {
    let used = service.members.iter().filter(|member| member.in_use);
    let warning = if service.last_resort {
        " (none well)"
    } else {
        ""
    };
    format!("{}/{}{warning}", used.count(), service.members.len())
}

fn ports(ports: &[ServicePort]) -> String {
    let ports = ports.iter();
    let everywhere = ports.filter(|port| port.publish_mode == PublishMode::Ingress);
    let shown: Vec<String> = everywhere.map(ToString::to_string).collect();
    shown.join(", ")
}

fn matches(key: &str, value: &str, service: &Service) -> bool {
    match key {
        "name" => name_matches(&service.spec.name, value),
        "id" => service.id.as_str().starts_with(value),
        "mode" => mode(service) == value,
        "endpoint-mode" => service.spec.endpoint_spec.mode.as_str() == value,
        _ => false,
    }
}
