//! What a service that starts its members by itself says of them: the shapes of the Docker Engine
//! API's `TaskTemplate`, `Mode` and `UpdateConfig`. hawserd keeps it; `hawser agent` acts on it.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::duration::nanoseconds;

/// What every task of a service is made of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct TaskTemplate {
    pub container_spec: ContainerSpec,
    pub resources: Resources,
    pub restart_policy: TaskRestart,
    pub placement: Placement,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_driver: Option<LogDriver>,
    /// Ascends when tasks are to be replaced though nothing has changed.
    pub force_update: u64,
}

/// A task's container. Texts are as `hawser run` takes them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ContainerSpec {
    pub image: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Replaces the image's entrypoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<String>,
    /// Replaces the image's command.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub hostname: String,
    /// `KEY=VALUE`; values may have templates such as `{{.Node.Hostname}}`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub dir: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub user: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    #[serde(rename = "TTY")]
    pub tty: bool,
    pub read_only: bool,
    /// An init is the first process.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub init: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<TaskMount>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub stop_signal: String,
    #[serde(with = "nanoseconds")]
    pub stop_grace_period: Duration,
    /// `NAME:ADDRESS`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
    #[serde(rename = "DNSConfig")]
    pub dns: TaskDns,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub capability_add: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub capability_drop: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub sysctls: BTreeMap<String, String>,
    /// `NAME=SOFT[:HARD]`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ulimits: Vec<String>,
}

/// One `--mount`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct TaskMount {
    #[serde(rename = "Type")]
    pub kind: String,
    pub source: String,
    pub target: String,
    pub read_only: bool,
    /// The fields as typed, which have everything.
    pub fields: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct TaskDns {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Resources {
    pub limits: Amounts,
    pub reservations: Amounts,
}

/// Zero is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Amounts {
    #[serde(rename = "NanoCPUs", skip_serializing_if = "is_zero")]
    pub nano_cpus: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub memory_bytes: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub pids: u64,
}

fn is_zero(amount: &u64) -> bool {
    *amount == 0
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct LogDriver {
    pub name: String,
    pub options: BTreeMap<String, String>,
}

/// What happens when a task ends by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct TaskRestart {
    pub condition: RestartCondition,
    #[serde(with = "nanoseconds")]
    pub delay: Duration,
    /// Zero is no limit.
    pub max_attempts: u64,
    /// Ends older than this do not count as attempts; zero counts all.
    #[serde(with = "nanoseconds")]
    pub window: Duration,
}

impl Default for TaskRestart {
    /// Docker's: always, after five seconds.
    fn default() -> Self {
        Self {
            condition: RestartCondition::Any,
            delay: Duration::from_secs(5),
            max_attempts: 0,
            window: Duration::ZERO,
        }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartCondition {
    None,
    OnFailure,
    #[default]
    Any,
}

impl RestartCondition {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::OnFailure => "on-failure",
            Self::Any => "any",
        }
    }
}

/// Where tasks may run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Placement {
    /// `node.hostname==NAME` and the like.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub constraints: Vec<String>,
    /// The first counts most.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub preferences: Vec<Preference>,
    /// On one node; zero is no limit.
    #[serde(skip_serializing_if = "is_zero")]
    pub max_replicas: u64,
}

/// Over which values of a label tasks are spread evenly.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Preference {
    pub spread: Spread,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Spread {
    /// `node.labels.NAME`.
    pub spread_descriptor: String,
}

/// How many tasks: `{"Replicated":{"Replicas":3}}` or `{"Global":{}}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServiceMode {
    Replicated {
        #[serde(rename = "Replicas")]
        replicas: u64,
    },
    /// One on every host.
    Global {},
}

impl Default for ServiceMode {
    fn default() -> Self {
        Self::Replicated { replicas: 1 }
    }
}

impl ServiceMode {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Replicated { .. } => "replicated",
            Self::Global {} => "global",
        }
    }

    /// On one host.
    pub fn replicas(self) -> u64 {
        match self {
            Self::Replicated { replicas } => replicas,
            Self::Global {} => 1,
        }
    }
}

/// How tasks are replaced when the template has changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct UpdateConfig {
    /// Slots at a time; zero is all.
    pub parallelism: u64,
    /// Between two.
    #[serde(with = "nanoseconds")]
    pub delay: Duration,
    pub failure_action: FailureAction,
    /// A task that ends so soon after its start has failed.
    #[serde(with = "nanoseconds")]
    pub monitor: Duration,
    /// Of the tasks, from 0 to 1: more than this, and the update has failed.
    pub max_failure_ratio: f64,
    pub order: UpdateOrder,
}

// A ratio that is no number is refused where it comes in.
impl Eq for UpdateConfig {}

impl Default for UpdateConfig {
    fn default() -> Self {
        Self {
            parallelism: 1,
            delay: Duration::ZERO,
            failure_action: FailureAction::Pause,
            monitor: Duration::from_secs(5),
            max_failure_ratio: 0.0,
            order: UpdateOrder::StopFirst,
        }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FailureAction {
    #[default]
    Pause,
    Continue,
    Rollback,
}

impl FailureAction {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Continue => "continue",
            Self::Rollback => "rollback",
        }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UpdateOrder {
    #[default]
    StopFirst,
    StartFirst,
}

impl UpdateOrder {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::StopFirst => "stop-first",
            Self::StartFirst => "start-first",
        }
    }
}

/// How far an update is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct UpdateStatus {
    pub state: UpdateState,
    /// RFC 3339.
    pub started_at: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<String>,
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UpdateState {
    Updating,
    Paused,
    Completed,
    RollbackStarted,
    RollbackPaused,
    RollbackCompleted,
}

impl UpdateState {
    /// Tasks are being replaced.
    pub fn is_active(self) -> bool {
        matches!(self, Self::Updating | Self::RollbackStarted)
    }

    pub fn is_paused(self) -> bool {
        matches!(self, Self::Paused | Self::RollbackPaused)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Updating => "updating",
            Self::Paused => "paused",
            Self::Completed => "completed",
            Self::RollbackStarted => "rollback_started",
            Self::RollbackPaused => "rollback_paused",
            Self::RollbackCompleted => "rollback_completed",
        }
    }
}

impl fmt::Display for UpdateState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shapes_are_dockers() {
        let modes = [
            (r#"{"Replicated":{"Replicas":3}}"#, 3, "replicated"),
            (r#"{"Global":{}}"#, 1, "global"),
        ];
        for (text, replicas, name) in modes {
            let mode: ServiceMode = serde_json::from_str(text).unwrap();
            assert_eq!((mode.replicas(), mode.as_str()), (replicas, name));
            assert_eq!(serde_json::to_string(&mode).unwrap(), text);
        }
        let template: TaskTemplate = serde_json::from_str(
            r#"{"ContainerSpec":{"Image":"web:1","TTY":true,"StopGracePeriod":5000000000},
                "RestartPolicy":{"Condition":"on-failure","Delay":1000000000},
                "Resources":{"Limits":{"NanoCPUs":500000000}}}"#,
        )
        .unwrap();
        assert!(template.container_spec.tty);
        assert_eq!(
            template.restart_policy,
            TaskRestart {
                condition: RestartCondition::OnFailure,
                delay: Duration::from_secs(1),
                ..TaskRestart::default()
            }
        );
        assert_eq!(template.resources.limits.nano_cpus, 500_000_000);
        let text = serde_json::to_string(&template).unwrap();
        assert_eq!(
            serde_json::from_str::<TaskTemplate>(&text).unwrap(),
            template
        );
    }
}
