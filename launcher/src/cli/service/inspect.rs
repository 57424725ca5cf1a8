//! `hawser service inspect`.

use api::service::{Service, ServicePort};
use clap::Args;

use super::{ServiceFlagError, find};
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::inspect::{self, InspectFlags, Kind};
use crate::cli::output;

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
    lines.push(format!("Members:\t{}{well}", service.members.len()));
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
