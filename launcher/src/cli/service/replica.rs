//! The replicas of services, as `hawser service ps` lists them.

use api::reference;
use api::service::Service;
use jiff::Timestamp;

use super::ServiceFlagError;
use super::ps::ListingFlags;
use crate::agent::crew::Replicas;
use crate::agent::task::{Desired, Task, TaskState};
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::filter::{Filter, name_matches};
use crate::cli::listing;
use crate::format::human;
use crate::format::table::{Columns, Row};

const COLUMNS: Columns = Columns {
    headers: &[
        ("ID", "ID"),
        ("Name", "NAME"),
        ("Image", "IMAGE"),
        ("Node", "NODE"),
        ("DesiredState", "DESIRED STATE"),
        ("CurrentState", "CURRENT STATE"),
        ("Error", "ERROR"),
        ("Ports", "PORTS"),
        ("Container", "CONTAINER"),
    ],
    default: "{{.ID}}\t{{.Name}}\t{{.Image}}\t{{.Node}}\t{{.DesiredState}}\t{{.CurrentState}}\t\
              {{.Error}}\t{{.Ports}}",
};
const SHORT_ID: usize = 12;
const SHORT_ERROR: usize = 30;

struct Listed {
    task: Task,
    /// `web.1`, or ` \_ web.1` of one that another has followed.
    name: String,
    /// The name of its host.
    node: String,
    ports: String,
}

/// Lists the replicas of `services`, newest first in each slot; on some `nodes` alone, by their ids, if
/// they are given.
///
/// # Errors
/// A bad filter or template, or no daemon.
pub(in crate::cli) fn list(
    context: &Context,
    services: &[Service],
    filter: &Filter,
    flags: &ListingFlags,
    nodes: Option<&[String]>,
) -> Result<(), CliError> {
    for wanted in filter.get("desired-state") {
        if !matches!(wanted.as_str(), "running" | "shutdown" | "accepted") {
            let text = format!("desired-state={wanted}");
            return Err(ServiceFlagError::Value {
                flag: "--filter",
                text,
                expected: "desired-state=running, shutdown or accepted",
            }
            .into());
        }
    }
    let replicas = Replicas::read(context, services)?;
    let mut listed = Vec::new();
    for service in services {
        listed.extend(of(&replicas, service, filter, flags.no_resolve));
    }
    if let Some(nodes) = nodes {
        listed.retain(|one| nodes.contains(&one.task.node));
    }
    let id = |one: &Listed| match flags.no_trunc {
        true => one.task.id.clone(),
        false => one.task.id.chars().take(SHORT_ID).collect(),
    };
    let now = Timestamp::now();
    let row = |one: &Listed| row(one, (id(one), flags.no_trunc), now);
    listing::print(&listed, (flags.quiet, &flags.format), &COLUMNS, id, row)?;
    Ok(())
}

fn of(replicas: &Replicas, service: &Service, filter: &Filter, by_id: bool) -> Vec<Listed> {
    let mut tasks = replicas.of(service).to_vec();
    tasks.retain(|task| task.desired != Desired::Remove);
    tasks.reverse();
    tasks.sort_by_key(Task::place);
    let host_ports = service.endpoint.ports.iter();
    let host_ports = host_ports.filter(|p| p.publish_mode == api::service::PublishMode::Host);
    let ports: Vec<String> = host_ports.map(ToString::to_string).collect();
    let mut last = None;
    let mut listed = Vec::new();
    for task in tasks {
        let follows = last.replace(task.place()) == Some(task.place());
        let named = |by_id: bool| {
            let (node, service) = match by_id {
                true => (task.node.as_str(), service.id.as_str()),
                false => (replicas.host(&task), service.spec.name.as_str()),
            };
            let own = match task.slot {
                0 => format!("{service}.{}", task.node),
                slot => format!("{service}.{slot}"),
            };
            (node.to_owned(), own)
        };
        let (node, own) = named(false);
        let fits = filter.passes(&std::collections::BTreeMap::new(), |key, value| match key {
            "name" => name_matches(&own, value),
            "id" => task.id.starts_with(value),
            "node" => node == value || task.node == value,
            "desired-state" => task.desired.as_str().eq_ignore_ascii_case(value),
            _ => false,
        });
        if !fits {
            continue;
        }
        let (node, own) = if by_id { named(true) } else { (node, own) };
        listed.push(Listed {
            name: if follows { format!(" \\_ {own}") } else { own },
            ports: match task.state {
                TaskState::Running => ports.join(","),
                _ => String::new(),
            },
            node,
            task,
        });
    }
    listed
}

fn row(one: &Listed, (id, whole): (String, bool), now: Timestamp) -> Row {
    let task = &one.task;
    let since = human::ago(&task.since.to_string(), now);
    let error = match task.error.as_str() {
        "" => String::new(),
        error if whole || error.chars().count() <= SHORT_ERROR => format!("\"{error}\""),
        error => format!(
            "\"{}…\"",
            error.chars().take(SHORT_ERROR).collect::<String>()
        ),
    };
    let container = task.container.as_ref();
    let image = match whole {
        true => task.image.clone(),
        false => reference::listed(&task.image),
    };
    Row::new([
        ("ID", id.into()),
        ("Name", one.name.as_str().into()),
        ("Image", image.into()),
        ("Node", one.node.as_str().into()),
        ("DesiredState", task.desired.as_str().into()),
        (
            "CurrentState",
            format!("{} {since}", task.state.as_str()).into(),
        ),
        ("Error", error.into()),
        ("Ports", one.ports.as_str().into()),
        (
            "Container",
            container
                .map(ToString::to_string)
                .unwrap_or_default()
                .into(),
        ),
    ])
}
