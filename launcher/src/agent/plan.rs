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

/// Tasks of a slot that are kept to be looked at, the present one included, where nothing else is said;
/// Docker's number.
pub const HISTORY: u64 = 5;

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
    /// Tasks of a slot that are kept to be looked at, the present one included.
    pub history: u64,
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

    /// The slot's tasks, oldest first, but for those of which nothing is to be left: it may have been
    /// given up and taken again since.
    pub(super) fn in_slot<'s>(
        self,
        slot: &'s Slot,
    ) -> impl DoubleEndedIterator<Item = &'a Task> + use<'a, 's> {
        let tasks = self.tasks.iter();
        tasks.filter(move |task| task.is_in(slot) && task.desired != Desired::Remove)
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

/// The slots of a service with these tasks, as far as its hosts are heard of.
pub fn slots(service: &Service, hosts: &[Host], tasks: &[Task]) -> Vec<Slot> {
    if service.spec.task_template.is_none() {
        return Vec::new();
    }
    match service.spec.mode.unwrap_or_default() {
        ServiceMode::Replicated { replicas } => numbers(replicas, tasks),
        ServiceMode::Global {} => {
            let keep = hosts
                .iter()
                .filter(|host| host.is_alive && host.keeps(service));
            keep.map(|host| Slot::on(&host.id)).collect()
        }
    }
}

/// As many slots: those that have tasks, and the lowest numbers that are free. Of too many, those of the
/// hosts that have most of them go first, and there those that do not run: Docker's way.
fn numbers(replicas: u64, tasks: &[Task]) -> Vec<Slot> {
    let wanted = usize::try_from(replicas).unwrap_or(usize::MAX);
    let mut kept = by_load(tasks);
    kept.truncate(wanted);
    let free = (1..).filter(|number| !kept.contains(number));
    let free: Vec<u64> = free.take(wanted - kept.len()).collect();
    kept.extend(free);
    kept.sort_unstable();
    kept.into_iter().map(Slot::numbered).collect()
}

/// The numbers that have tasks: the first of each host, the second of each, and so on; last what no
/// host has.
fn by_load(tasks: &[Task]) -> Vec<u64> {
    let mut slots: BTreeMap<u64, Option<&Task>> = BTreeMap::new();
    for task in tasks {
        if task.slot == 0 || task.desired == Desired::Remove {
            continue;
        }
        let shown = slots.entry(task.slot).or_default();
        let runs = shown.is_some_and(|shown| shown.state == TaskState::Running);
        if task.is_wanted() && !task.is_over() && !task.node.is_empty() && !runs {
            *shown = Some(task);
        }
    }
    let mut slots: Vec<(u64, Option<&Task>)> = slots.into_iter().collect();
    slots.sort_by_key(|(_, task)| task.is_none_or(|task| task.state != TaskState::Running));
    let mut of_hosts: BTreeMap<&str, usize> = BTreeMap::new();
    let mut ranked: Vec<(usize, u64)> = Vec::new();
    for (number, task) in slots {
        let rank = task.map_or(usize::MAX, |task| {
            let before = of_hosts.entry(&task.node).or_default();
            *before += 1;
            *before
        });
        ranked.push((rank, number));
    }
    ranked.sort_unstable();
    ranked.into_iter().map(|(_, number)| number).collect()
}

pub(super) fn after(at: Timestamp, span: Duration) -> Timestamp {
    at.checked_add(span).unwrap_or(Timestamp::MAX)
}

/// What to do next.
pub fn plan(situation: Situation<'_>) -> Plan {
    let mut plan = Plan::default();
    let slots = situation
        .service
        .map(|service| slots(service, situation.hosts, situation.tasks));
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
        if task.desired == Desired::Remove {
            if task.is_over() {
                plan.steps.push(Step::Forget {
                    task: task.id.clone(),
                });
            }
        } else if !slots.contains(&task.place()) && !waits_for_its_host(situation, task) {
            plan.end(task, Desired::Remove);
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
    let kept = situation.history.max(counted(situation.service));
    let kept = usize::try_from(kept).unwrap_or(usize::MAX);
    for tasks in of_slots.values() {
        let spare = tasks.len().saturating_sub(kept);
        let old = tasks.iter().take(spare);
        let old = old.filter(|task| task.desired == Desired::Shutdown && task.is_over());
        plan.steps.extend(old.map(|task| Step::Forget {
            task: task.id.clone(),
        }));
    }
}

/// Tasks of a slot that say when the next one may follow: the last, and those that its attempts are
/// counted by.
fn counted(service: Option<&Service>) -> u64 {
    let template = service.and_then(|service| service.spec.task_template.as_ref());
    let attempts = template.map_or(0, |template| template.restart_policy.max_attempts);
    attempts.saturating_add(1)
}

#[cfg(test)]
mod tests;
