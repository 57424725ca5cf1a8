//! The agent of the node that leads: decides what the nodes are to run.

use std::collections::{BTreeMap, BTreeSet};

use api::id::Id;
use api::service::Service;
use jiff::Timestamp;

use super::Agent;
use super::crew::{Changes, Crew, Order, Standing};
use super::host::Host;
use super::plan::{self, Situation, Step};
use super::task::{self, Desired, Slot, Task, TaskState};
use super::template;
use crate::cli::error::CliError;

/// A new try for the slot, on a host or on none and why.
///
/// # Errors
/// The kernel has no random numbers.
pub(crate) fn new_task(
    service: &Service,
    slot: &Slot,
    host: Result<String, String>,
    now: Timestamp,
) -> Result<Task, CliError> {
    let mut random = [0; 25];
    getrandom::fill(&mut random).map_err(|error| CliError::Io {
        op: "read random bytes",
        source: std::io::Error::other(error),
    })?;
    let id = task::new_id(random);
    let template = service.spec.task_template.as_ref();
    let mut task = Task {
        name: template::name(&service.spec.name, slot, &id),
        id,
        slot: slot.number,
        node: slot.node.clone().unwrap_or_default(),
        template: template::digest(service),
        image: template
            .map(|t| t.container_spec.image.clone())
            .unwrap_or_default(),
        desired: Desired::Running,
        state: TaskState::Pending,
        since: now,
        created: now,
        revision: service.revision.unwrap_or(0),
        ran: None,
        container: None,
        error: String::new(),
    };
    task.is_placed(host, now);
    Ok(task)
}

/// A service of the cluster in one pass.
struct Led<'s> {
    id: &'s Id,
    service: Option<&'s Service>,
    name: String,
    tasks: Vec<Task>,
}

impl Led<'_> {
    fn order(&self, task: &Task) -> Order {
        Order {
            service: self.id.clone(),
            service_name: self.name.clone(),
            task: task.clone(),
        }
    }

    fn change(
        &mut self,
        task: &str,
        changes: &mut Changes,
        change: impl FnOnce(&mut Task),
    ) -> Result<(), CliError> {
        let Some(at) = self.tasks.iter().position(|other| other.id == task) else {
            return Ok(());
        };
        let before = self.tasks[at].clone();
        change(&mut self.tasks[at]);
        let task = &self.tasks[at];
        if task.node != before.node {
            // First, so that it never is in two places.
            changes.withdraw(&self.order(&before));
        }
        changes.give(&self.order(task))
    }
}

impl Agent<'_> {
    /// Plans for all nodes and tells the cluster; when to look again.
    pub(super) fn lead(
        &mut self,
        services: &BTreeMap<Id, Service>,
        crew: Crew,
        leads: u64,
    ) -> Result<Option<Timestamp>, CliError> {
        let now = Timestamp::now();
        let of_cluster = services.keys().filter(|id| id.is_of_cluster());
        let ids: BTreeSet<&Id> = of_cluster.chain(crew.services()).collect();
        let mut hosts = crew.hosts.clone();
        let mut all = Vec::new();
        for id in ids {
            let mut tasks = crew.tasks(id);
            // Its host has said last when it was started, or so.
            for task in tasks.iter_mut().filter(|task| !crew.is_noted(task)) {
                task.since = now;
            }
            self.heard.translate(&mut tasks, now);
            let known = services.get(id);
            for task in tasks.iter().filter(|task| !task.is_over()) {
                burden(&mut hosts, known, &task.node);
            }
            let service = match crew.standing(id, known) {
                Standing::Gone => None,
                Standing::Known => known,
                // What it is to be is not known here yet.
                Standing::Unknown => continue,
            };
            all.push(Led {
                id,
                service,
                name: crew.service_name(id, service),
                tasks,
            });
        }
        let mut changes = Changes::default();
        let mut wake = None;
        for led in &mut all {
            let due = self.lead_one(led, &mut hosts, &mut changes, (crew.history, now))?;
            wake = wake.into_iter().chain(due).min();
            for task in led.tasks.iter().filter(|task| !crew.is_noted(task)) {
                changes.renew(&led.order(task))?;
            }
        }
        self.heard.end_pass(&crew.task_ids());
        changes.send(self.context, leads)?;
        Ok(wake)
    }

    fn lead_one(
        &mut self,
        led: &mut Led<'_>,
        hosts: &mut [Host],
        changes: &mut Changes,
        (history, now): (u64, Timestamp),
    ) -> Result<Option<Timestamp>, CliError> {
        let template = led.service.map(template::digest).unwrap_or_default();
        let plan = plan::plan(Situation {
            now,
            service: led.service,
            template: &template,
            tasks: &led.tasks,
            hosts,
            history,
        });
        for step in plan.steps {
            match step {
                Step::Create { slot, host } => {
                    let Some(service) = led.service else { continue };
                    let task = new_task(service, &slot, host, now)?;
                    burden(hosts, led.service, &task.node);
                    changes.give(&led.order(&task))?;
                }
                Step::Place { task, host } => led.change(&task, changes, |task| {
                    task.is_placed(host, now);
                })?,
                Step::End { task, desired } => led.change(&task, changes, |task| {
                    task.is_to_end(desired, now);
                })?,
                Step::Forget { task } => {
                    let mut tasks = led.tasks.iter();
                    if let Some(task) = tasks.find(|other| other.id == task) {
                        changes.withdraw(&led.order(task));
                    }
                }
                Step::Status(status) => self.tell_status(led.service, &status),
                Step::RollBack { why } => self.roll_back(led.service, &why),
            }
        }
        Ok(plan.wake)
    }
}

fn burden(hosts: &mut [Host], service: Option<&Service>, node: &str) {
    if let (Some(service), Some(host)) = (service, hosts.iter_mut().find(|host| host.id == node)) {
        host.take(service);
    }
}
