//! What to do next for a service, from what it should be and what its tasks are. Pure: every pass
//! begins anew from what is recorded, so that an agent that died goes on where it was.

use std::collections::BTreeMap;
use std::time::Duration;

use api::service::Service;
use api::task::{RestartCondition, ServiceMode, TaskRestart, UpdateStatus};
use jiff::Timestamp;

use super::task::{Desired, Task, TaskState};
use super::update;

/// Tasks of a slot that are kept to be looked at, the present one included; Docker's number.
const HISTORY: usize = 5;

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A new task for the slot.
    Create { slot: u64 },
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
}

impl Plan {
    pub(super) fn wake_at(&mut self, at: Timestamp) {
        self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
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
}

impl<'a> Situation<'a> {
    /// The slot's tasks that should run, oldest first: more than one only while an update replaces
    /// one by another that is started first.
    pub(super) fn wanted_in(self, slot: u64) -> impl Iterator<Item = &'a Task> + use<'a> {
        let tasks = self.tasks.iter();
        tasks.filter(move |task| task.slot == slot && task.is_wanted() && !task.is_over())
    }

    pub(super) fn slots(&self) -> Vec<u64> {
        let template = self.service.and_then(|s| s.spec.task_template.as_ref());
        if template.is_none() {
            return Vec::new();
        }
        match mode(self.service) {
            ServiceMode::Replicated { replicas } => (1..=replicas).collect(),
            ServiceMode::Global {} => vec![0],
        }
    }
}

fn mode(service: Option<&Service>) -> ServiceMode {
    service.and_then(|s| s.spec.mode).unwrap_or_default()
}

pub(super) fn after(at: Timestamp, span: Duration) -> Timestamp {
    at.checked_add(span).unwrap_or(Timestamp::MAX)
}

/// What to do next.
pub fn plan(situation: Situation<'_>) -> Plan {
    let mut plan = Plan::default();
    let slots = situation.slots();
    remove_unwanted(&situation, &slots, &mut plan);
    retire_failed(&situation, &slots, &mut plan);
    if let Some(service) = situation.service {
        update::plan(&situation, service, &slots, &mut plan);
        for slot in &slots {
            fill(&situation, service, *slot, &mut plan);
        }
    }
    forget_old(&situation, &mut plan);
    plan
}

/// Slots that are too many, and services that are gone.
fn remove_unwanted(situation: &Situation<'_>, slots: &[u64], plan: &mut Plan) {
    for task in situation.tasks {
        if slots.contains(&task.slot) {
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

/// What has ended by itself, or is ill, is not to run any more: another task takes its place.
fn retire_failed(situation: &Situation<'_>, slots: &[u64], plan: &mut Plan) {
    for task in situation.tasks {
        let has_failed = task.is_over() || task.is_ill();
        if slots.contains(&task.slot) && task.is_wanted() && has_failed {
            plan.end(task, Desired::Shutdown);
        }
    }
}

/// A slot in which nothing runs gets a new task when it may.
fn fill(situation: &Situation<'_>, service: &Service, slot: u64, plan: &mut Plan) {
    let mut of_slot = situation.tasks.iter().filter(|task| task.slot == slot);
    if of_slot.any(|task| !task.is_over()) {
        return;
    }
    match next_try(situation, service, slot) {
        Some(due) if due <= situation.now => plan.steps.push(Step::Create { slot }),
        Some(due) => plan.wake_at(due),
        None => {}
    }
}

/// When a task of the present template may be tried in the slot; never, if it was tried enough.
pub(super) fn next_try(
    situation: &Situation<'_>,
    service: &Service,
    slot: u64,
) -> Option<Timestamp> {
    let of_slot = situation.tasks.iter().filter(|task| task.slot == slot);
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
    let mut of_slots: BTreeMap<u64, Vec<&Task>> = BTreeMap::new();
    for task in situation.tasks {
        of_slots.entry(task.slot).or_default().push(task);
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
