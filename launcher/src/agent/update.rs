//! Updates in steps: which tasks of an old template go next, and when the whole is done, paused or
//! undone. Docker's rules: an update begins when tasks of another template run, a slot is done with
//! when its new task runs, and failures count until the monitoring period of a task is over.

use std::time::Duration;

use api::service::Service;
use api::task::{FailureAction, UpdateConfig, UpdateOrder, UpdateState, UpdateStatus};
use jiff::Timestamp;

use super::plan::{Plan, Situation, Step, after, next_try};
use super::task::{Desired, Slot, Task, TaskState};

/// A task that fails at its start has done so by then: the next slot waits for it, where Docker's
/// would have been stopped already.
const SETTLE: Duration = Duration::from_secs(1);

/// Where a slot is on its way to the new template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// A task of an old template runs, alone.
    Old,
    /// Between the two.
    Busy,
    /// The new task runs since then.
    New(Timestamp),
    /// The new task ended by itself then, and another will follow or not: the update goes on.
    Tried(Timestamp),
}

pub(super) fn plan(situation: &Situation<'_>, service: &Service, slots: &[Slot], plan: &mut Plan) {
    let states: Vec<(&Slot, Progress)> = slots
        .iter()
        .map(|slot| (slot, state(situation, slot)))
        .collect();
    let has_old = states.iter().any(|(_, state)| *state == Progress::Old);
    let status = match &service.update_status {
        Some(status) if status.state.is_paused() => return,
        Some(status) if status.state.is_active() => status.clone(),
        // An update is over, or there was none yet.
        _ if !has_old => return,
        _ => {
            let status = UpdateStatus {
                state: UpdateState::Updating,
                started_at: situation.now.to_string(),
                completed_at: None,
                message: "update in progress".to_owned(),
            };
            plan.steps.push(Step::Status(status.clone()));
            status
        }
    };
    let rolls_back = status.state == UpdateState::RollbackStarted;
    let config = if rolls_back {
        &service.spec.rollback_config
    } else {
        &service.spec.update_config
    };
    let config = config.clone().unwrap_or_default();
    if let Some(step) = failure(situation, &config, &status, slots.len()) {
        plan.steps.push(step);
        return;
    }
    go_on(situation, service, &config, &states, plan);
    if !has_old {
        finish(situation, &config, &states, &status, plan);
    }
}

fn state(situation: &Situation<'_>, slot: &Slot) -> Progress {
    let wanted: Vec<&Task> = situation.wanted_in(slot).collect();
    let is_new = |task: &Task| task.template == situation.template;
    let last = situation.in_slot(slot).next_back();
    match wanted.as_slice() {
        [] => match last {
            Some(last) if is_new(last) && last.ended_by_itself() => Progress::Tried(last.since),
            _ => Progress::Busy,
        },
        [task] if !is_new(task) => Progress::Old,
        [task] if task.state == TaskState::Running => Progress::New(task.since),
        _ => Progress::Busy,
    }
}

/// Too many of the new tasks have failed.
fn failure(
    situation: &Situation<'_>,
    config: &UpdateConfig,
    status: &UpdateStatus,
    slots: usize,
) -> Option<Step> {
    if config.failure_action == FailureAction::Continue || slots == 0 {
        return None;
    }
    let started: Timestamp = status.started_at.parse().ok()?;
    let failed: Vec<&Task> = situation
        .tasks
        .iter()
        .filter(|task| task.template == situation.template && task.created >= started)
        .filter(|task| task.ended_by_itself() && ended_early(task, config.monitor))
        .collect();
    let last = failed.last()?;
    let mut failed_slots: Vec<Slot> = failed.iter().map(|task| task.place()).collect();
    failed_slots.sort_unstable();
    failed_slots.dedup();
    let ratio = failed_slots.len() as f64 / slots as f64;
    if ratio <= config.max_failure_ratio {
        return None;
    }
    let rolls_back = status.state == UpdateState::RollbackStarted;
    let why = format!("due to failure or early termination of task {}", last.id);
    if config.failure_action == FailureAction::Rollback && !rolls_back {
        return Some(Step::RollBack {
            why: format!("update rolled back {why}"),
        });
    }
    let (state, what) = match rolls_back {
        true => (UpdateState::RollbackPaused, "rollback"),
        false => (UpdateState::Paused, "update"),
    };
    Some(Step::Status(UpdateStatus {
        state,
        message: format!("{what} paused {why}"),
        ..status.clone()
    }))
}

/// Within the monitoring period of its start, or before it ever ran.
fn ended_early(task: &Task, monitor: Duration) -> bool {
    task.ran.is_none_or(|ran| task.since < after(ran, monitor))
}

fn go_on(
    situation: &Situation<'_>,
    service: &Service,
    config: &UpdateConfig,
    states: &[(&Slot, Progress)],
    plan: &mut Plan,
) {
    let mut busy = 0;
    let pause = config.delay.max(SETTLE);
    for (_, state) in states {
        match state {
            Progress::Busy => busy += 1,
            Progress::New(since) if after(*since, pause) > situation.now => {
                let is_last = states.iter().all(|(_, state)| *state != Progress::Old);
                if !is_last {
                    plan.wake_at(after(*since, pause));
                }
                busy += 1;
            }
            Progress::New(_) | Progress::Tried(_) | Progress::Old => {}
        }
    }
    let free = match config.parallelism {
        0 => usize::MAX,
        most => usize::try_from(most)
            .unwrap_or(usize::MAX)
            .saturating_sub(busy),
    };
    let old = states.iter().filter(|(_, state)| *state == Progress::Old);
    for (slot, _) in old.take(free) {
        match config.order {
            UpdateOrder::StopFirst => plan.steps.extend(end_old(situation, slot)),
            UpdateOrder::StartFirst => match next_try(situation, service, slot) {
                Some(due) if due <= situation.now => {
                    plan.create(situation, service, slot);
                }
                Some(due) => plan.wake_at(due),
                None => {}
            },
        }
    }
    // Started first: the new one runs beside the old one, which can go.
    for (slot, _) in states.iter().filter(|(_, state)| *state == Progress::Busy) {
        let new = situation
            .wanted_in(slot)
            .filter(|task| task.template == situation.template);
        for task in new.filter(|task| task.state == TaskState::Running) {
            match after(task.since, SETTLE) {
                settled if settled <= situation.now => {
                    plan.steps.extend(end_old(situation, slot));
                }
                settled => plan.wake_at(settled),
            }
        }
    }
}

fn end_old<'a, 's>(
    situation: &Situation<'a>,
    slot: &'s Slot,
) -> impl Iterator<Item = Step> + use<'a, 's> {
    let template = situation.template;
    let old = situation.wanted_in(slot);
    old.filter(move |task| task.template != template)
        .map(|task| Step::End {
            task: task.id.clone(),
            desired: Desired::Shutdown,
        })
}

/// Done, when all new tasks have been watched for long enough.
fn finish(
    situation: &Situation<'_>,
    config: &UpdateConfig,
    states: &[(&Slot, Progress)],
    status: &UpdateStatus,
    plan: &mut Plan,
) {
    let mut done = situation.now;
    for (_, state) in states {
        match state {
            Progress::New(since) | Progress::Tried(since) => {
                done = done.max(after(*since, config.monitor))
            }
            Progress::Busy | Progress::Old => return,
        }
    }
    if done > situation.now {
        plan.wake_at(done);
        return;
    }
    let (state, message) = match status.state {
        UpdateState::RollbackStarted => (UpdateState::RollbackCompleted, "rollback completed"),
        _ => (UpdateState::Completed, "update completed"),
    };
    plan.steps.push(Step::Status(UpdateStatus {
        state,
        started_at: status.started_at.clone(),
        completed_at: Some(situation.now.to_string()),
        message: message.to_owned(),
    }));
}
