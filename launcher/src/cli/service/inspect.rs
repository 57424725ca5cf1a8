//! `hawser service inspect`.

use api::service::{Service, ServicePort};
use api::task::{Amounts, ServiceMode};
use clap::Args;
use jiff::Timestamp;

use super::{ServiceFlagError, find};
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::inspect::{self, InspectFlags, Kind};
use crate::cli::output;
use crate::format::human;

/// `hawser service inspect`.
#[derive(Debug, Clone, Args)]
pub struct InspectServiceFlags {
    /// Show what matters, for people
    #[arg(long)]
    pub pretty: bool,
    #[command(flatten)]
    pub flags: InspectFlags,
}

/// # Errors
/// A bad template, or no daemon.
pub fn inspect(context: &Context, service: &InspectServiceFlags) -> Result<i32, CliError> {
    if !service.pretty {
        return inspect::inspect(context, &service.flags, Some(Kind::Service));
    }
    if service.flags.format.is_some() {
        return Err(ServiceFlagError::Both("--pretty", "--format").into());
    }
    let mut exit_code = 0;
    for key in &service.flags.keys {
        match find(context, key) {
            Ok(service) => output::line(pretty(&service))?,
            Err(error @ CliError::Client(_)) => {
                output::failure(&error);
                exit_code = 1;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(exit_code)
}

fn pretty(service: &Service) -> String {
    let spec = &service.spec;
    let mut lines = vec![
        format!("ID:\t\t{}", service.id),
        format!("Name:\t\t{}", spec.name),
    ];
    if !spec.labels.is_empty() {
        lines.push("Labels:".to_owned());
        let labels = spec.labels.iter();
        lines.extend(labels.map(|(name, value)| format!(" {name}={value}")));
    }
    lines.extend(replicas(service));
    let networks: Vec<&str> = spec.networks.iter().map(|n| n.target.as_str()).collect();
    lines.push(format!("Networks:\t{}", networks.join(" ")));
    lines.push(format!(
        "Endpoint Mode:\t{}",
        spec.endpoint_spec.mode.as_str()
    ));
    for vip in &service.endpoint.virtual_ips {
        lines.push(format!(" Virtual IP:\t{}", vip.addr));
    }
    lines.push(format!("Affinity:\t{}", spec.affinity.as_str()));
    lines.push(format!("Drain:\t\t{:?}", spec.drain));
    if let Some(health) = &spec.health {
        lines.push("Health:".to_owned());
        lines.push(format!(" Probe:\t\t{}", health.probe));
        lines.push(format!(" Interval:\t{:?}", health.interval));
        lines.push(format!(" Timeout:\t{:?}", health.timeout));
        lines.push(format!(" Start Period:\t{:?}", health.start_period));
        lines.push(format!(" Rise, Fall:\t{}, {}", health.rise, health.fall));
    }
    if !service.endpoint.ports.is_empty() {
        lines.push("Ports:".to_owned());
        lines.extend(service.endpoint.ports.iter().map(port));
    }
    let well = if service.last_resort {
        ", none well: all are used"
    } else {
        ""
    };
    // Those of replicas are on their own hosts: service ps has them all.
    if spec.task_template.is_none() || !service.members.is_empty() {
        lines.push(format!("Members:\t{}{well}", service.members.len()));
    }
    for member in &service.members {
        let addresses: Vec<String> = member.addresses.iter().map(ToString::to_string).collect();
        let mut line = format!(
            " {}\t{}\t{}\tweight {}\t{}",
            member.name,
            member.network,
            addresses.join(" "),
            member.weight,
            member.state.as_str()
        );
        if !member.error.is_empty() {
            line.push('\t');
            line.push_str(&member.error);
        }
        lines.push(line);
    }
    lines.join("\n")
}

/// What Docker says of replicas, in its words.
fn replicas(service: &Service) -> Vec<String> {
    let spec = &service.spec;
    let Some(template) = &spec.task_template else {
        return Vec::new();
    };
    let mode = spec.mode.unwrap_or_default();
    let mut lines = vec![match mode {
        ServiceMode::Global {} => "Service Mode:\tGlobal".to_owned(),
        ServiceMode::Replicated { replicas } => {
            format!("Service Mode:\tReplicated\n Replicas:\t{replicas}")
        }
    }];
    if let Some(status) = &service.update_status {
        lines.push("UpdateStatus:".to_owned());
        lines.push(format!(" State:\t\t{}", status.state));
        lines.push(format!(" Started:\t{}", ago(&status.started_at)));
        if let Some(completed) = &status.completed_at {
            lines.push(format!(" Completed:\t{}", ago(completed)));
        }
        lines.push(format!(" Message:\t{}", status.message));
    }
    lines.push("Placement:".to_owned());
    let constraints = &template.placement.constraints;
    if !constraints.is_empty() {
        lines.push(format!(" Constraints:\t[{}]", constraints.join(" ")));
    }
    let preferences = template.placement.preferences.iter();
    let spread = preferences.map(|preference| preference.spread.spread_descriptor.as_str());
    let spread: Vec<&str> = spread.collect();
    if !spread.is_empty() {
        lines.push(format!(" Preferences:\tSpread over {}", spread.join(", ")));
    }
    if template.placement.max_replicas > 0 {
        let most = template.placement.max_replicas;
        lines.push(format!(" Max Replicas Per Node:\t{most}"));
    }
    for (title, word, config) in [
        ("UpdateConfig:", "Update", &spec.update_config),
        ("RollbackConfig:", "Rollback", &spec.rollback_config),
    ] {
        let config = config.clone().unwrap_or_default();
        lines.push(title.to_owned());
        lines.push(format!(" Parallelism:\t{}", config.parallelism));
        if !config.delay.is_zero() {
            lines.push(format!(" Delay:\t\t{:?}", config.delay));
        }
        lines.push(format!(" On failure:\t{}", config.failure_action.as_str()));
        lines.push(format!(" Monitoring Period: {:?}", config.monitor));
        lines.push(format!(" Max failure ratio: {}", config.max_failure_ratio));
        lines.push(format!(" {word} order:    {}", config.order.as_str()));
    }
    lines.push("ContainerSpec:".to_owned());
    let container = &template.container_spec;
    lines.push(format!(" Image:\t\t{}", container.image));
    for (title, words) in [
        ("Args", container.args.join(" ")),
        ("Env", container.env.join(" ")),
        ("Dir", container.dir.clone()),
        ("User", container.user.clone()),
    ] {
        if !words.is_empty() {
            lines.push(format!(" {title}:\t\t{words}"));
        }
    }
    if !container.mounts.is_empty() {
        lines.push("Mounts:".to_owned());
        for mount in &container.mounts {
            lines.push(format!(" Target:\t{}", mount.target));
            lines.push(format!("  Source:\t{}", mount.source));
            lines.push(format!("  ReadOnly:\t{}", mount.read_only));
            lines.push(format!("  Type:\t\t{}", mount.kind));
        }
    }
    lines.push("Resources:".to_owned());
    for (title, amounts) in [
        (" Reservations:", template.resources.reservations),
        (" Limits:", template.resources.limits),
    ] {
        if amounts == Amounts::default() {
            continue;
        }
        lines.push(title.to_owned());
        if amounts.nano_cpus > 0 {
            lines.push(format!("  CPU:\t\t{}", amounts.nano_cpus as f64 / 1e9));
        }
        if amounts.memory_bytes > 0 {
            lines.push(format!(
                "  Memory:\t{}",
                human::size(amounts.memory_bytes, 4)
            ));
        }
    }
    lines
}

fn ago(moment: &str) -> String {
    human::ago(moment, Timestamp::now())
}

fn port(port: &ServicePort) -> String {
    let more = port.count - 1;
    let run = |first: u16, more: u16| match more {
        0 => first.to_string(),
        more => format!("{first}-{}", first.saturating_add(more)),
    };
    let targets = if port.one_target { 0 } else { more };
    format!(
        " PublishedPort = {}\n  Protocol = {}\n  TargetPort = {}\n  PublishMode = {}",
        run(port.published_port, more),
        port.protocol,
        run(port.target_port, targets),
        port.publish_mode.as_str()
    )
}
