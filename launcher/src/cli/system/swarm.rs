//! What `hawser info` says of the cluster: Docker's words and shapes.

use std::time::Duration;

use api::daemon::Info;
use api::path::{NODES, SWARM, SWARM_MANAGERS};
use api::swarm::{Membership, Node, Peer, Role, Swarm};
use serde_json::{Value, json};

use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::format::human;

/// A node is taken for gone after so many of Docker's heartbeats.
pub(in crate::cli) const HEARTBEATS: u32 = 3;

/// This host in its cluster.
#[derive(Debug, Clone)]
pub(super) struct Part {
    member: Membership,
    managers: Vec<Peer>,
    /// Of a manager: the cluster, and its nodes.
    cluster: Option<(Swarm, Vec<Node>)>,
    /// Why something is missing.
    error: String,
}

impl Part {
    /// None in no cluster. What the cluster's store does not tell is missing.
    pub(super) fn read(context: &Context, info: &Info) -> Option<Self> {
        let mut part = Self {
            member: info.swarm.clone()?,
            managers: Vec::new(),
            cluster: None,
            error: String::new(),
        };
        if !part.member.locked
            && let Err(error) = part.complete(context)
        {
            part.error = error.to_string();
        }
        Some(part)
    }

    fn complete(&mut self, context: &Context) -> Result<(), CliError> {
        self.managers = context.client().get(SWARM_MANAGERS)?;
        self.managers.sort_by(|a, b| a.addr.cmp(&b.addr));
        if self.member.role == Role::Manager {
            self.cluster = Some((context.client().get(SWARM)?, context.client().get(NODES)?));
        }
        Ok(())
    }

    fn state(&self) -> &'static str {
        match self.member.locked {
            true => "locked",
            false => "active",
        }
    }

    fn address(&self) -> String {
        let address = self.member.node_addr;
        address.map_or_else(String::new, |address| address.to_string())
    }

    fn lines(&self) -> Vec<String> {
        let mut lines = vec![
            format!("Swarm: {}", self.state()),
            format!(" NodeID: {}", self.member.node),
        ];
        if !self.error.is_empty() {
            lines.push(format!(" Error: {}", self.error));
        }
        let is_manager = self.member.role == Role::Manager;
        lines.push(format!(" Is Manager: {is_manager}"));
        lines.push(format!(" ClusterID: {}", self.member.cluster));
        if let Some((swarm, nodes)) = &self.cluster {
            lines.extend(described(swarm, nodes));
        }
        lines.push(format!(" Node Address: {}", self.address()));
        if !self.managers.is_empty() {
            lines.push(" Manager Addresses:".to_owned());
            let managers = self.managers.iter();
            lines.extend(managers.map(|manager| format!("  {}", manager.addr)));
        }
        lines
    }

    fn object(&self) -> Value {
        let mut object = json!({
            "NodeID": self.member.node,
            "NodeAddr": self.address(),
            "LocalNodeState": self.state(),
            "ControlAvailable": self.member.role == Role::Manager && !self.member.locked,
            "Error": self.error,
            "RemoteManagers": self.managers,
        });
        if let (Some((swarm, nodes)), Value::Object(members)) = (&self.cluster, &mut object) {
            members.extend(
                [
                    ("Nodes", json!(nodes.len())),
                    ("Managers", json!(managers(nodes))),
                    ("Cluster", cluster(swarm)),
                ]
                .map(|(name, value)| (name.to_owned(), value)),
            );
        }
        object
    }
}

fn managers(nodes: &[Node]) -> usize {
    let managers = nodes.iter().filter(|node| node.spec.role == Role::Manager);
    managers.count()
}

fn heartbeat(swarm: &Swarm) -> Duration {
    Duration::from_secs(swarm.lease) / HEARTBEATS
}

fn seconds(seconds: u64) -> String {
    human::duration(i64::try_from(seconds).unwrap_or(i64::MAX))
}

/// What managers know.
fn described(swarm: &Swarm, nodes: &[Node]) -> Vec<String> {
    let settings = &swarm.settings;
    let pools = settings.default_addr_pool.iter();
    let pools: Vec<String> = pools.map(ToString::to_string).collect();
    vec![
        format!(" Managers: {}", managers(nodes)),
        format!(" Nodes: {}", nodes.len()),
        format!(" Default Address Pool: {}", pools.join("  ")),
        format!(" SubnetSize: {}", settings.subnet_size),
        format!(" Data Path Port: {}", swarm.data_path_port),
        " Orchestration:".to_owned(),
        format!("  Task History Retention Limit: {}", settings.task_history),
        " Dispatcher:".to_owned(),
        format!(
            "  Heartbeat Period: {}",
            seconds(heartbeat(swarm).as_secs())
        ),
        " CA Configuration:".to_owned(),
        format!("  Expiry Duration: {}", seconds(swarm.cert_expiry)),
        format!(" Autolock Managers: {}", swarm.auto_lock),
        format!(
            " Root Rotation In Progress: {}",
            swarm.root_rotation_in_progress
        ),
    ]
}

/// Docker's `ClusterInfo`, as far as there is such a thing here.
fn cluster(swarm: &Swarm) -> Value {
    let settings = &swarm.settings;
    let nanoseconds = |span: Duration| json!(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX));
    json!({
        "ID": swarm.id,
        "CreatedAt": swarm.created_at,
        "Spec": {
            "Name": "default",
            "Labels": {},
            "Orchestration": { "TaskHistoryRetentionLimit": settings.task_history },
            "Raft": {},
            "Dispatcher": { "HeartbeatPeriod": nanoseconds(heartbeat(swarm)) },
            "CAConfig": { "NodeCertExpiry": nanoseconds(Duration::from_secs(swarm.cert_expiry)) },
            "TaskDefaults": {},
            "EncryptionConfig": { "AutoLockManagers": swarm.auto_lock },
        },
        "TLSInfo": swarm.tls,
        "RootRotationInProgress": swarm.root_rotation_in_progress,
        "DefaultAddrPool": settings.default_addr_pool,
        "SubnetSize": settings.subnet_size,
        "DataPathPort": swarm.data_path_port,
    })
}

pub(super) fn lines(part: Option<&Part>) -> Vec<String> {
    part.map_or_else(|| vec!["Swarm: inactive".to_owned()], Part::lines)
}

pub(super) fn object(part: Option<&Part>) -> Value {
    let none = || {
        json!({
            "NodeID": "",
            "NodeAddr": "",
            "LocalNodeState": "inactive",
            "ControlAvailable": false,
            "Error": "",
            "RemoteManagers": null,
        })
    };
    part.map_or_else(none, Part::object)
}

#[cfg(test)]
mod tests {
    use api::id::NodeId;
    use expect_test::expect;

    use super::*;
    use crate::cli::swarm::token::tests::cluster;

    fn part(role: Role) -> Part {
        let id = |number| NodeId::from_bytes([number; 16]);
        let node = json!({
            "ID": id(1), "CreatedAt": "", "Self": true,
            "Spec": { "Labels": {}, "Role": "manager", "Availability": "active" },
            "Description": { "Hostname": "n1", "Engine": { "EngineVersion": "1" } },
            "Status": { "State": "ready", "Addr": "192.0.2.1" },
        });
        let mut worker = node.clone();
        worker["Spec"]["Role"] = "worker".into();
        let nodes = [node, worker].map(|node| serde_json::from_value(node).unwrap());
        Part {
            member: Membership {
                node: id(1),
                cluster: id(9),
                role,
                locked: false,
                node_addr: Some([192, 0, 2, 1].into()),
            },
            managers: vec![Peer {
                node: id(1),
                addr: "192.0.2.1:2377".to_owned(),
            }],
            cluster: (role == Role::Manager).then(|| (cluster(), nodes.into())),
            error: String::new(),
        }
    }

    #[test]
    fn a_manager_says_what_the_cluster_is_like() {
        let manager = part(Role::Manager);
        let lines = manager.lines();
        let shown = lines.iter().filter(|line| !line.contains("ID: "));
        let shown: Vec<&str> = shown.map(String::as_str).collect();
        expect![[r#"
            Swarm: active
             Is Manager: true
             Managers: 1
             Nodes: 2
             Default Address Pool: 10.0.0.0/8
             SubnetSize: 24
             Data Path Port: 4789
             Orchestration:
              Task History Retention Limit: 5
             Dispatcher:
              Heartbeat Period: 5 seconds
             CA Configuration:
              Expiry Duration: 3 months
             Autolock Managers: true
             Root Rotation In Progress: false
             Node Address: 192.0.2.1
             Manager Addresses:
              192.0.2.1:2377
        "#]]
        .assert_eq(&(shown.join("\n") + "\n"));
        let object = object(Some(&manager));
        let at = |path: &str| object.pointer(path).cloned().unwrap_or_default();
        assert_eq!(at("/Nodes"), 2);
        assert_eq!(at("/Managers"), 1);
        assert_eq!(at("/ControlAvailable"), true);
        assert_eq!(at("/RemoteManagers/0/Addr"), "192.0.2.1:2377");
        assert_eq!(at("/Cluster/DefaultAddrPool/0"), "10.0.0.0/8");
        let beat = at("/Cluster/Spec/Dispatcher/HeartbeatPeriod");
        assert_eq!(beat, 5_000_000_000_u64);
        let text = object.to_string();
        assert!(!text.contains("SWMTKN"), "no token is shown: {text}");
    }

    #[test]
    fn a_worker_knows_its_managers_and_a_host_in_no_cluster_nothing() {
        let worker = part(Role::Worker);
        let object_of_worker = object(Some(&worker));
        assert_eq!(object_of_worker["ControlAvailable"], false);
        assert_eq!(object_of_worker["Cluster"], Value::Null);
        let lines_of_worker = lines(Some(&worker));
        assert_eq!(
            lines_of_worker[4..],
            [
                " Node Address: 192.0.2.1",
                " Manager Addresses:",
                "  192.0.2.1:2377"
            ]
        );
        assert_eq!(lines(None), ["Swarm: inactive"]);
        assert_eq!(object(None)["LocalNodeState"], "inactive");
    }
}
