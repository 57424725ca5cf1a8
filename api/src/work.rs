//! What the nodes of a cluster run: ordered by the agent of the node that leads, carried out and
//! reported on by each node's own agent. The daemon passes both on as they are.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::id::{Id, NodeId};
use crate::swarm::Node;

/// As the cluster has it: for the node that leads all of it, for any other its own part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Work {
    /// The node that was asked.
    pub node: NodeId,
    /// It leads, by the revision that made it do so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leads: Option<u64>,
    pub nodes: Vec<Node>,
    /// Of a node that leads: the services of the cluster, by the revision that put each.
    #[serde(default)]
    pub services: Vec<(Id, u64)>,
    /// Of a node that leads: [`crate::swarm::SwarmSettings::task_history`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history: Option<u64>,
    pub tasks: Vec<WorkItem>,
}

/// A task, by what is ordered and what is reported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct WorkItem {
    pub task: String,
    /// Absent while no node suits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<Value>,
}

/// `POST`: made in order, and nothing of the orders once another node leads.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields, default)]
pub struct WorkChange {
    /// [`Work::leads`] as it was read; without it there are no orders.
    pub leads: Option<u64>,
    pub orders: Vec<Order>,
    pub reports: Vec<TaskReport>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct Order {
    pub task: String,
    #[serde(default)]
    pub node: Option<NodeId>,
    /// Absent when nothing is to be left of it.
    #[serde(default)]
    pub order: Option<Value>,
}

/// By the node that was asked, of a task of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct TaskReport {
    pub task: String,
    /// Absent when nothing is left of it.
    #[serde(default)]
    pub report: Option<Value>,
}

/// What of the log of a task is wanted, as `hawser logs` has it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct OutputRequest {
    pub task: String,
    #[serde(default)]
    pub follow: bool,
    pub tail: String,
    #[serde(default)]
    pub since: Option<String>,
    #[serde(default)]
    pub timestamps: bool,
    #[serde(default)]
    pub details: bool,
}
