//! `hawser node inspect`.

use api::path::SWARM;
use api::swarm::{Machine, Node, Swarm, TlsInfo};
use clap::Args;

use super::find;
use super::list::{capital, manager_status};
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::inspect::{self, InspectFlags, Kind};
use crate::cli::output;
use crate::cli::service::ServiceFlagError;
use crate::format::human;

/// `hawser node inspect`.
#[derive(Debug, Clone, Args)]
pub struct InspectNodeFlags {
    /// Show what matters, for people
    #[arg(long)]
    pub pretty: bool,
    #[command(flatten)]
    pub flags: InspectFlags,
}

/// # Errors
/// A bad template, no daemon, or no manager.
pub(super) fn inspect(context: &Context, node: &InspectNodeFlags) -> Result<i32, CliError> {
    if !node.pretty {
        return inspect::inspect(context, &node.flags, Some(Kind::Node));
    }
    if node.flags.format.is_some() {
        return Err(ServiceFlagError::Both("--pretty", "--format").into());
    }
    let Swarm { tls, .. } = context.client().get(SWARM)?;
    let mut exit_code = 0;
    for key in &node.flags.keys {
        match find(context, key) {
            Ok(node) => output::line(pretty(&node, &tls))?,
            Err(error) => {
                output::failure(&error);
                exit_code = 1;
            }
        }
    }
    Ok(exit_code)
}

/// Docker's lines.
fn pretty(node: &Node, tls: &TlsInfo) -> String {
    let mut lines = vec![format!("ID:\t\t\t{}", node.id)];
    if !node.spec.labels.is_empty() {
        lines.push("Labels:".to_owned());
        let labels = node.spec.labels.iter();
        lines.extend(labels.map(|(name, value)| format!(" - {name}={value}")));
    }
    lines.extend([
        format!("Hostname:\t\t{}", node.description.hostname),
        format!("Joined at:\t\t{}", human::moment(&node.created_at, 9)),
        "Status:".to_owned(),
        format!(" State:\t\t\t{}", capital(&node.status.state)),
        format!(
            " Availability:\t\t{}",
            capital(node.spec.availability.as_str())
        ),
        format!(" Address:\t\t{}", node.status.addr),
    ]);
    if let Some(manager) = &node.manager_status {
        lines.extend([
            "Manager Status:".to_owned(),
            format!(" Address:\t\t{}", manager.addr),
            format!(" Raft Status:\t\t{}", capital(&manager.reachability)),
            format!(
                " Leader:\t\t{}",
                if manager_status(node) == "Leader" {
                    "Yes"
                } else {
                    "No"
                }
            ),
        ]);
    }
    let description = &node.description;
    let Machine {
        platform,
        resources,
    } = &description.machine;
    lines.extend([
        "Platform:".to_owned(),
        format!(" Operating System:\t{}", platform.os),
        format!(" Architecture:\t\t{}", platform.architecture),
        "Resources:".to_owned(),
        format!(" CPUs:\t\t\t{}", resources.nano_cpus / 1_000_000_000),
        format!(
            " Memory:\t\t{}",
            human::binary_size(resources.memory_bytes, 4)
        ),
        format!("Engine Version:\t\t{}", description.engine.engine_version),
        "TLS Info:".to_owned(),
        " TrustRoot:".to_owned(),
        tls.trust_root.trim_end().to_owned(),
        format!(" Issuer Subject:\t{}", tls.cert_issuer_subject),
        format!(" Issuer Public Key:\t{}", tls.cert_issuer_public_key),
    ]);
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use api::id::NodeId;
    use api::swarm::{
        Availability, NodeDescription, NodeEngine, NodeSpec, NodeStatus, Platform, Role,
    };
    use api::task::Amounts;
    use expect_test::expect;

    use super::*;

    #[test]
    fn a_node_is_shown_as_docker_shows_it() {
        let node = Node {
            id: NodeId::from_bytes([1; 16]),
            created_at: "2026-01-02T03:04:05.5Z".to_owned(),
            spec: NodeSpec {
                labels: [("zone".to_owned(), "east".to_owned())].into(),
                role: Role::Worker,
                availability: Availability::Active,
            },
            description: NodeDescription {
                hostname: "n1".to_owned(),
                machine: Machine {
                    platform: Platform {
                        architecture: "x86_64".to_owned(),
                        os: "linux".to_owned(),
                    },
                    resources: Amounts {
                        nano_cpus: 2_000_000_000,
                        memory_bytes: 3 << 29,
                        pids: 0,
                    },
                },
                engine: NodeEngine {
                    engine_version: "1.2.3".to_owned(),
                },
            },
            status: NodeStatus {
                state: "ready".to_owned(),
                addr: [192, 0, 2, 1].into(),
            },
            manager_status: None,
            own: true,
        };
        let tls = TlsInfo {
            trust_root: "-----BEGIN CERTIFICATE-----\n".to_owned(),
            cert_issuer_subject: "MBMx".to_owned(),
            cert_issuer_public_key: "MFkw".to_owned(),
        };
        let shown = pretty(&node, &tls).replace('\t', "|");
        let lines: Vec<&str> = shown.lines().skip(1).collect();
        expect![[r#"
            Labels:
             - zone=east
            Hostname:||n1
            Joined at:||2026-01-02 03:04:05.5 +0000 UTC
            Status:
             State:|||Ready
             Availability:||Active
             Address:||192.0.2.1
            Platform:
             Operating System:|linux
             Architecture:||x86_64
            Resources:
             CPUs:|||2
             Memory:||1.5GiB
            Engine Version:||1.2.3
            TLS Info:
             TrustRoot:
            -----BEGIN CERTIFICATE-----
             Issuer Subject:|MBMx
             Issuer Public Key:|MFkw
        "#]]
        .assert_eq(&(lines.join("\n") + "\n"));
    }
}
