//! What to do next for a service, from what it should be and what its tasks are. Pure: every pass
//! begins anew from what is recorded, so that an agent that died goes on where it was.

use std::collections::BTreeMap;
use std::time::Duration;

use api::service::Service;
use api::task::{RestartCondition, ServiceMode, TaskRestart, UpdateStatus};
use jiff::Timestamp;

use super::host::{self, Host};
use super::task::{Desired, Slot, Task, TaskState};
use super::update;

/// Tasks of a slot that are kept to be looked at, the present one included; Docker's number.
const HISTORY: usize = 5;

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A new task for the slot, on a host or on none, and why.
    Create {
        slot: Slot,
        host: Result<String, String>,
    },
    /// The same for a task that has had none.
    Place {
        task: String,
        host: Result<String, String>,
    },
    /// The task stops, if it has not yet, and is then as desired.
    End { task: String, desired: Desired },
    /// The task's container and record go. It is over.
    Forget { task: String },
    /// How far the update is.
    Status(UpdateStatus),
    /// The update has failed: back to what was before.
    RollBack { why: String },
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    pub steps: Vec<Step>,
    /// When to look again though nothing happens.
    pub wake: Option<Timestamp>,
    /// Hosts of new tasks.
    sent: Vec<String>,
}

impl Plan {
    pub(super) fn wake_at(&mut self, at: Timestamp) {
        self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
    }

    /// A new task for the slot, wherever it suits best.
    pub(super) fn create(&mut self, situation: &Situation<'_>, service: &Service, slot: &Slot) {
        let host = host::choose(situation, service, slot, &self.sent);
        self.sent.extend(host.clone());
        self.steps.push(Step::Create {
            slot: slot.clone(),
            host,
        });
    }

    fn end(&mut self, task: &Task, desired: Desired) {
        self.steps.push(Step::End {
            task: task.id.clone(),
            desired,
        });
    }
}

/// What the plan is made from.
#[derive(Debug, Clone, Copy)]
pub struct Situation<'a> {
    pub now: Timestamp,
    /// None when the service is gone.
    pub service: Option<&'a Service>,
    /// Of what new tasks are made.
    pub template: &'a str,
    /// Oldest first.
    pub tasks: &'a [Task],
    /// With what all services' tasks take of them.
    pub hosts: &'a [Host],
}

impl<'a> Situation<'a> {
    /// The slot's tasks that should run, oldest first: more than one only while an update replaces
    /// one by another that is started first.
    pub(super) fn wanted_in<'s>(
        self,
        slot: &'s Slot,
    ) -> impl Iterator<Item = &'a Task> + use<'a, 's> {
        let tasks = self.tasks.iter();
        tasks.filter(move |task| task.is_in(slot) && task.is_wanted() && !task.is_over())
    }

    fn in_slot<'s>(self, slot: &'s Slot) -> impl Iterator<Item = &'a Task> + use<'a, 's> {
        let tasks = self.tasks.iter();
        tasks.filter(move |task| task.is_in(slot))
    }

    fn host(&self, id: &str) -> Option<&'a Host> {
        self.hosts.iter().find(|host| host.id == id)
    }

    /// The task's host may not have it any more.
    fn is_displaced(&self, service: &Service, task: &Task) -> bool {
        let host = self.host(&task.node);
        !task.node.is_empty() && host.is_none_or(|host| !host.keeps(service))
    }
}

/// The slots of a service, as far as its hosts are heard of.
pub fn slots(service: &Service, hosts: &[Host]) -> Vec<Slot> {
    if service.spec.task_template.is_none() {
        return Vec::new();
    }
    match service.spec.mode.unwrap_or_default() {
        ServiceMode::Replicated { replicas } => (1..=replicas).map(Slot::numbered).collect(),
        ServiceMode::Global {} => {
            let keep = hosts
                .iter()
                .filter(|host| host.is_alive && host.keeps(service));
            keep.map(|host| Slot::on(&host.id)).collect()
        }
    }
}

pub(super) fn after(at: Timestamp, span: Duration) -> Timestamp {
    at.checked_add(span).unwrap_or(Timestamp::MAX)
}

/// What to do next.
pub fn plan(situation: Situation<'_>) -> Plan {
    let mut plan = Plan::default();
    let slots = situation
        .service
        .map(|service| slots(service, situation.hosts));
    let slots = slots.unwrap_or_default();
    remove_unwanted(&situation, &slots, &mut plan);
    if let Some(service) = situation.service {
        retire_failed(&situation, service, &slots, &mut plan);
        update::plan(&situation, service, &slots, &mut plan);
        for slot in &slots {
            fill(&situation, service, slot, &mut plan);
        }
    }
    forget_old(&situation, &mut plan);
    plan
}

/// Slots that are too many, and services that are gone.
fn remove_unwanted(situation: &Situation<'_>, slots: &[Slot], plan: &mut Plan) {
    for task in situation.tasks {
        if slots.contains(&task.place()) || waits_for_its_host(situation, task) {
            continue;
        }
        if task.desired != Desired::Remove {
            plan.end(task, Desired::Remove);
        } else if task.is_over() {
            plan.steps.push(Step::Forget {
                task: task.id.clone(),
            });
        }
    }
}

/// In mode global nothing takes the place of a task whose host is not heard of, so that it goes on when
/// it is.
fn waits_for_its_host(situation: &Situation<'_>, task: &Task) -> bool {
    let keeps = |service| {
        let host = situation.host(&task.node);
        host.is_some_and(|host| !host.is_alive && host.keeps(service))
    };
    task.slot == 0 && task.desired != Desired::Remove && situation.service.is_some_and(keeps)
}

/// What has ended by itself, is ill, or may not be where it is, is not to run any more: another task
/// takes its place.
fn retire_failed(situation: &Situation<'_>, service: &Service, slots: &[Slot], plan: &mut Plan) {
    for task in situation.tasks {
        let is_out = task.is_over() || task.is_ill() || situation.is_displaced(service, task);
        if slots.contains(&task.place()) && task.is_wanted() && is_out {
            plan.end(task, Desired::Shutdown);
        }
    }
}

/// A slot in which nothing runs gets a new task when it may.
fn fill(situation: &Situation<'_>, service: &Service, slot: &Slot, plan: &mut Plan) {
    let mut is_empty = true;
    for task in situation.in_slot(slot).filter(|task| !task.is_over()) {
        is_empty = false;
        if task.state == TaskState::Pending && task.is_wanted() {
            place(situation, service, task, plan);
        }
    }
    // In mode global a host that gets nothing new lacks nothing.
    let mut host = slot.node.iter().filter_map(|id| situation.host(id));
    if !is_empty || host.any(|host| !host.is_ready()) {
        return;
    }
    match next_try(situation, service, slot) {
        Some(due) if due <= situation.now => plan.create(situation, service, slot),
        Some(due) => plan.wake_at(due),
        None => {}
    }
}

/// A task that no host suited so far.
fn place(situation: &Situation<'_>, service: &Service, task: &Task, plan: &mut Plan) {
    let host = host::choose(situation, service, &task.place(), &plan.sent);
    if host.as_ref().err() == Some(&task.error) {
        return;
    }
    plan.sent.extend(host.clone());
    plan.steps.push(Step::Place {
        task: task.id.clone(),
        host,
    });
}

/// When a task of the present template may be tried in the slot; never, if it was tried enough.
pub(super) fn next_try(
    situation: &Situation<'_>,
    service: &Service,
    slot: &Slot,
) -> Option<Timestamp> {
    let of_slot = situation.in_slot(slot);
    let tries: Vec<&Task> = of_slot
        .filter(|task| task.template == situation.template)
        .collect();
    match tries.last() {
        Some(last) if last.ended_by_itself() => {
            let template = service.spec.task_template.as_ref();
            let policy = template.map(|template| template.restart_policy.clone());
            due(&policy.unwrap_or_default(), last, &tries, situation.now)
        }
        // Nothing of this template was tried, or it was stopped on purpose.
        _ => Some(situation.now),
    }
}

/// When a task may follow `last`, which ended by itself; never, if the policy says so.
fn due(policy: &TaskRestart, last: &Task, tries: &[&Task], now: Timestamp) -> Option<Timestamp> {
    let restarts = match policy.condition {
        RestartCondition::None => false,
        RestartCondition::OnFailure => last.state != TaskState::Complete,
        RestartCondition::Any => true,
    };
    let counts = |task: &&&Task| {
        task.ended_by_itself()
            && (policy.window.is_zero() || after(task.since, policy.window) > now)
    };
    // The first try is no attempt to restart.
    let attempts = tries.iter().filter(counts).count().saturating_sub(1);
    let is_spent = policy.max_attempts != 0 && attempts as u64 >= policy.max_attempts;
    (restarts && !is_spent).then(|| after(last.since, policy.delay))
}

/// The oldest of a slot's tasks that are over go, when there are too many to look at.
fn forget_old(situation: &Situation<'_>, plan: &mut Plan) {
    let mut of_slots: BTreeMap<Slot, Vec<&Task>> = BTreeMap::new();
    for task in situation.tasks {
        of_slots.entry(task.place()).or_default().push(task);
    }
    for tasks in of_slots.values() {
        let spare = tasks.len().saturating_sub(HISTORY);
        let old = tasks.iter().take(spare);
        let old = old.filter(|task| task.desired == Desired::Shutdown && task.is_over());
        plan.steps.extend(old.map(|task| Step::Forget {
            task: task.id.clone(),
        }));
    }
}

#[cfg(test)]
mod tests;
