//! A task: one try to have one of a service's containers run.

use api::id::Id;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// One try. It is never started again: what takes its place in the slot is another task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// 25 letters and digits, as Docker's.
    pub id: String,
    /// From 1 on; 0 in mode global.
    pub slot: u64,
    /// Where it runs ([`super::host::Host::id`]); empty as long as no host suits.
    #[serde(default)]
    pub node: String,
    /// What it was made from ([`super::template::digest`]).
    pub template: String,
    pub image: String,
    /// The container's name.
    pub name: String,
    /// What is to become of it.
    pub desired: Desired,
    pub state: TaskState,
    /// When the state began.
    pub since: Timestamp,
    pub created: Timestamp,
    /// Of a task of the cluster, the revision of the service that it was made from.
    #[serde(default)]
    pub revision: u64,
    /// When it ran first.
    #[serde(default)]
    pub ran: Option<Timestamp>,
    #[serde(default)]
    pub container: Option<Id>,
    /// Why it failed, or is about to; empty otherwise.
    #[serde(default)]
    pub error: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Desired {
    Running,
    /// It is to stop, and stays to be looked at for a while.
    Shutdown,
    /// Nothing is to be left of it.
    Remove,
}

impl Desired {
    /// As `service ps` shows it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "Running",
            Self::Shutdown => "Shutdown",
            Self::Remove => "Remove",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TaskState {
    /// No host suits.
    Pending,
    /// Its container is made and started.
    Starting,
    Running,
    /// It ended by itself, with exit code 0.
    Complete,
    /// It ended by itself, with another.
    Failed,
    /// It could not be started.
    Rejected,
    /// It was stopped.
    Shutdown,
    /// Nothing is heard of its host, on which it may still run.
    Orphaned,
}

impl TaskState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Starting => "Starting",
            Self::Running => "Running",
            Self::Complete => "Complete",
            Self::Failed => "Failed",
            Self::Rejected => "Rejected",
            Self::Shutdown => "Shutdown",
            Self::Orphaned => "Orphaned",
        }
    }
}

/// What one task at a time has of a service: a number, or in mode global a host.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Slot {
    pub number: u64,
    /// In mode global.
    pub node: Option<String>,
}

impl Slot {
    pub fn numbered(number: u64) -> Self {
        Self { number, node: None }
    }

    /// The one on a host in mode global.
    pub fn on(node: &str) -> Self {
        Self {
            number: 0,
            node: Some(node.to_owned()),
        }
    }
}

impl Task {
    pub fn place(&self) -> Slot {
        match self.slot {
            0 => Slot::on(&self.node),
            number => Slot::numbered(number),
        }
    }

    pub fn is_in(&self, slot: &Slot) -> bool {
        self.slot == slot.number && slot.node.as_ref().is_none_or(|node| *node == self.node)
    }

    /// Its container runs no more, or never did.
    pub fn is_over(&self) -> bool {
        !matches!(
            self.state,
            TaskState::Pending | TaskState::Starting | TaskState::Running
        )
    }

    /// Nobody told it to end.
    pub fn ended_by_itself(&self) -> bool {
        matches!(
            self.state,
            TaskState::Complete | TaskState::Failed | TaskState::Rejected
        )
    }

    /// It is to run: nothing has told it to stop.
    pub fn is_wanted(&self) -> bool {
        self.desired == Desired::Running
    }

    /// It runs, and its health check says that it had better not.
    pub fn is_ill(&self) -> bool {
        self.state == TaskState::Running && !self.error.is_empty()
    }

    /// It was told to end, and has: for what was wrong with it, if anything was.
    pub fn has_ended(&mut self, now: Timestamp) {
        let state = if self.is_ill() {
            TaskState::Failed
        } else {
            TaskState::Shutdown
        };
        self.becomes(state, now);
    }

    /// A host suits, or none does and why.
    pub fn is_placed(&mut self, host: Result<String, String>, now: Timestamp) {
        match host {
            Ok(host) => {
                self.node = host;
                self.error.clear();
                self.becomes(TaskState::Starting, now);
            }
            Err(why) => self.error = why,
        }
    }

    /// It is to stop; one that no host has has stopped.
    pub fn is_to_end(&mut self, desired: Desired, now: Timestamp) {
        self.desired = desired;
        if self.state == TaskState::Pending {
            self.has_ended(now);
        }
    }

    /// Takes over what its host says of it.
    pub fn hear(&mut self, report: Self) {
        self.state = report.state;
        self.since = report.since;
        self.ran = report.ran;
        self.container = report.container;
        self.error = report.error;
    }

    pub fn becomes(&mut self, state: TaskState, now: Timestamp) {
        if self.state != state {
            self.state = state;
            self.since = now;
        }
        if state == TaskState::Running && self.ran.is_none() {
            self.ran = Some(now);
        }
    }
}

/// A new id of a task: Docker's are 25 digits in base 36.
pub fn new_id(random: [u8; 25]) -> String {
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    random
        .iter()
        .map(|byte| char::from(DIGITS[usize::from(*byte) % DIGITS.len()]))
        .collect()
}
