//! What the hosts of a cluster have to do: the tasks of its services, by the orders of the node that
//! leads and by what each node reports.

use std::collections::{BTreeMap, BTreeSet};

use api::id::{Id, NodeId};
use api::path::WORK;
use api::service::Service;
use api::work::{self, TaskReport, Work, WorkChange, WorkItem};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::host::Host;
use super::plan;
use super::record::{Records, ServiceTasks};
use super::task::{Desired, Task, TaskState};
use crate::cli::context::Context;
use crate::cli::error::CliError;

/// Orders in one request.
const TOGETHER: usize = 200;

/// What a node is told of a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    pub service: Id,
    /// The service's name.
    pub service_name: String,
    #[serde(flatten)]
    pub task: Task,
}

impl Order {
    /// The change that gives or replaces it.
    fn given(&self) -> Result<work::Order, CliError> {
        Ok(work::Order {
            order: Some(encode(self)?),
            ..self.withdrawn()
        })
    }

    /// The change that takes it back.
    fn withdrawn(&self) -> work::Order {
        work::Order {
            task: self.task.id.clone(),
            node: NodeId::parse(&self.task.node).ok(),
            order: None,
        }
    }
}

fn encode(value: &impl Serialize) -> Result<serde_json::Value, CliError> {
    serde_json::to_value(value).map_err(|error| CliError::Io {
        op: "write an order",
        source: error.into(),
    })
}

/// The hosts, and what they are to run.
#[derive(Debug, Clone, PartialEq)]
pub struct Crew {
    /// This node.
    pub node: String,
    /// It leads, by this revision.
    pub leads: Option<u64>,
    /// With what their tasks take of them.
    pub hosts: Vec<Host>,
    /// Tasks of a slot that are kept to be looked at.
    pub history: u64,
    /// The services that there are, by the revision that put each.
    revisions: BTreeMap<Id, u64>,
    /// Of each service, oldest first; those of other nodes only where they were asked for.
    orders: BTreeMap<Id, Vec<Order>>,
    /// What this node has reported, by task.
    reports: BTreeMap<String, Task>,
    /// Since when the one that leads has not heard of a task's host, by task.
    unheard: BTreeMap<String, Timestamp>,
}

impl Crew {
    /// None on a host in no cluster. Of other nodes if this one leads, or `all`.
    ///
    /// # Errors
    /// The daemon or the cluster's store does not answer.
    pub fn read(context: &Context, all: bool) -> Result<Option<Self>, CliError> {
        let route = format!("{WORK}?all={all}");
        let work: Option<Work> = context.client().get(&route)?;
        Ok(work.map(|work| Self::of(&work)))
    }

    fn of(work: &Work) -> Self {
        let mut crew = Self {
            node: work.node.to_string(),
            leads: work.leads,
            hosts: work.nodes.iter().map(Host::of).collect(),
            history: work.history.unwrap_or(plan::HISTORY),
            revisions: work.services.iter().cloned().collect(),
            orders: BTreeMap::new(),
            reports: BTreeMap::new(),
            unheard: BTreeMap::new(),
        };
        for item in &work.tasks {
            crew.add(&work.node, item);
        }
        for orders in crew.orders.values_mut() {
            orders.sort_by(|a, b| (a.task.created, &a.task.id).cmp(&(b.task.created, &b.task.id)));
        }
        crew
    }

    fn add(&mut self, own: &NodeId, item: &WorkItem) {
        let report: Option<Task> = parse(item.report.as_ref());
        if item.node.as_ref() == Some(own)
            && let Some(report) = &report
        {
            self.reports.insert(report.id.clone(), report.clone());
        }
        let Some(mut order) = parse::<Order>(item.order.as_ref()) else {
            return;
        };
        if order.task.state == TaskState::Orphaned {
            let id = order.task.id.clone();
            self.unheard.insert(id, order.task.since);
            // Where it is heard of again it is as its host says, and begins where it says nothing.
            order.task.state = TaskState::Starting;
        }
        if let Some(report) = report {
            order.task.hear(report);
        }
        let orders = self.orders.entry(order.service.clone()).or_default();
        orders.push(order);
    }

    /// The orders of one node.
    pub fn orders_of<'c>(&'c self, node: &'c str) -> impl Iterator<Item = &'c Order> {
        let all = self.orders.values().flatten();
        all.filter(move |order| order.task.node == node)
    }

    /// A service's tasks, oldest first, as far as their hosts are heard of or may be soon.
    pub fn tasks(&self, service: &Id) -> Vec<Task> {
        let orders = self.orders.get(service).into_iter().flatten();
        let mut tasks: Vec<Task> = orders.map(|order| order.task.clone()).collect();
        for task in &mut tasks {
            if !task.node.is_empty() && !task.is_over() && self.is_gone(&task.node) {
                task.state = TaskState::Orphaned;
                task.since = self.unheard.get(&task.id).copied().unwrap_or(task.since);
            }
        }
        tasks
    }

    /// Whether it is on record that nothing is heard of the task's host, and since when.
    pub fn is_noted(&self, task: &Task) -> bool {
        task.state != TaskState::Orphaned || self.unheard.get(&task.id) == Some(&task.since)
    }

    fn is_gone(&self, node: &str) -> bool {
        let mut hosts = self.hosts.iter().filter(|host| host.id == node);
        !hosts.any(|host| host.is_alive || host.is_awaited)
    }

    /// As the service is called, or was.
    pub fn service_name(&self, id: &Id, service: Option<&Service>) -> String {
        let ordered = self.orders.get(id).and_then(|orders| orders.last());
        let name = service.map(|service| &service.spec.name);
        let name = name.or(ordered.map(|order| &order.service_name));
        name.cloned().unwrap_or_default()
    }

    /// Ids of all tasks that are ordered.
    pub fn task_ids(&self) -> BTreeSet<&str> {
        let orders = self.orders.values().flatten();
        orders.map(|order| order.task.id.as_str()).collect()
    }

    /// The services that have tasks.
    pub fn services(&self) -> impl Iterator<Item = &Id> {
        self.orders.keys()
    }

    /// What the cluster's store has of a service: nothing any more, the same, or another one that is
    /// yet to be heard of here.
    pub fn standing(&self, service: &Id, known: Option<&Service>) -> Standing {
        match (self.revisions.get(service), known) {
            (None, _) => Standing::Gone,
            (Some(revision), Some(known)) if known.revision == Some(*revision) => Standing::Known,
            _ => Standing::Unknown,
        }
    }

    /// What this node has to tell of its own tasks that it has not told yet.
    ///
    /// # Errors
    /// A task cannot be written.
    pub fn news<'t>(
        &self,
        own: impl Iterator<Item = &'t Task>,
    ) -> Result<Vec<TaskReport>, CliError> {
        let mut gone: Vec<&String> = self.reports.keys().collect();
        let mut reports = Vec::new();
        for task in own {
            gone.retain(|id| **id != task.id);
            if self.reports.get(&task.id) != Some(task) {
                reports.push(TaskReport {
                    task: task.id.clone(),
                    report: Some(encode(task)?),
                });
            }
        }
        reports.extend(gone.into_iter().map(|id| TaskReport {
            task: id.clone(),
            report: None,
        }));
        Ok(reports)
    }
}

/// See [`Crew::standing`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    Gone,
    Known,
    Unknown,
}

fn parse<T: serde::de::DeserializeOwned>(value: Option<&serde_json::Value>) -> Option<T> {
    serde_json::from_value(value?.clone()).ok()
}

/// Tells the cluster's store.
///
/// # Errors
/// It does not answer, or another node leads by now.
pub fn tell(context: &Context, change: &WorkChange) -> Result<(), CliError> {
    Ok(context.client().post(WORK, change)?)
}

/// Orders that changed in one pass, to be given together.
#[derive(Debug, Default)]
pub struct Changes {
    changes: Vec<work::Order>,
}

impl Changes {
    /// # Errors
    /// The order cannot be written.
    pub fn give(&mut self, order: &Order) -> Result<(), CliError> {
        self.changes.push(order.given()?);
        Ok(())
    }

    pub fn withdraw(&mut self, order: &Order) {
        self.changes.push(order.withdrawn());
    }

    fn concern(&self, task: &Task) -> bool {
        self.changes.iter().any(|change| change.task == task.id)
    }

    /// Gives the order anew, unless another change of the task does so.
    ///
    /// # Errors
    /// As [`Self::give`].
    pub fn renew(&mut self, order: &Order) -> Result<(), CliError> {
        match self.concern(&order.task) {
            true => Ok(()),
            false => self.give(order),
        }
    }

    /// # Errors
    /// As [`tell`]; what comes later is not given then.
    pub fn send(self, context: &Context, leads: u64) -> Result<(), CliError> {
        for orders in self.changes.chunks(TOGETHER) {
            let change = WorkChange {
                leads: Some(leads),
                orders: orders.to_vec(),
                reports: Vec::new(),
            };
            tell(context, &change)?;
        }
        Ok(())
    }
}

/// The tasks of services, of this host's and of the cluster's, and the hosts that they are on.
#[derive(Debug)]
pub struct Replicas {
    tasks: BTreeMap<Id, Vec<Task>>,
    /// As services see it that are in no cluster.
    alone: [Host; 1],
    crew: Option<Crew>,
}

impl Replicas {
    /// # Errors
    /// The records cannot be read, or the cluster's store does not answer.
    pub fn read<'s>(
        context: &Context,
        services: impl IntoIterator<Item = &'s Service>,
    ) -> Result<Self, CliError> {
        let info = context.info()?;
        let records = Records::open(std::path::Path::new(&info.state_dir))?;
        let mut replicas = Self {
            tasks: BTreeMap::new(),
            alone: [Host::alone(&info.name)],
            crew: None,
        };
        for Service { id, .. } in services {
            let tasks = if id.is_of_cluster() {
                if replicas.crew.is_none() {
                    replicas.crew = Crew::read(context, true)?;
                }
                let crew = replicas.crew.as_ref();
                crew.map(|crew| crew.tasks(id)).unwrap_or_default()
            } else {
                records.tasks(id)?.tasks
            };
            replicas.tasks.insert(id.clone(), tasks);
        }
        Ok(replicas)
    }

    pub fn of(&self, service: &Service) -> &[Task] {
        self.tasks.get(&service.id).map_or(&[], Vec::as_slice)
    }

    /// How many there should be.
    pub fn wanted(&self, service: &Service) -> u64 {
        let hosts = match service.id.is_of_cluster() {
            true => self.crew.as_ref().map_or(&[][..], |crew| &crew.hosts),
            false => &self.alone,
        };
        plan::slots(service, hosts, self.of(service)).len() as u64
    }

    /// The name of a task's host; empty while it has none.
    pub fn host<'r>(&'r self, task: &'r Task) -> &'r str {
        let hosts = self.crew.iter().flat_map(|crew| &crew.hosts);
        let mut hosts = hosts.chain(&self.alone);
        let host = hosts.find(|host| host.id == task.node);
        host.map_or(&task.node, |host| &host.name)
    }

    /// Whether a task is on this host.
    pub fn is_here(&self, task: &Task) -> bool {
        let node = self.crew.as_ref().map(|crew| &crew.node);
        task.node == self.alone[0].id || Some(&task.node) == node
    }
}

/// When something was heard of first, by this host's clock: those of others may be wrong.
#[derive(Debug, Default)]
pub struct Heard {
    since: BTreeMap<String, (TaskState, Timestamp)>,
    has_listened: bool,
}

impl Heard {
    /// Writes the times of tasks as this clock would have.
    pub fn translate(&mut self, tasks: &mut [Task], now: Timestamp) {
        for task in tasks {
            let since = match self.since.get(&task.id) {
                Some((state, since)) if *state == task.state => *since,
                // What was before this node began to lead is known from others alone.
                _ if !self.has_listened => task.since.min(now),
                _ => now,
            };
            self.since.insert(task.id.clone(), (task.state, since));
            let behind = since.duration_since(task.since);
            task.ran = task.ran.and_then(|ran| ran.checked_add(behind).ok());
            task.since = since;
        }
    }

    /// All are translated.
    pub fn end_pass(&mut self, tasks: &BTreeSet<&str>) {
        self.has_listened = true;
        self.since.retain(|task, _| tasks.contains(task.as_str()));
    }
}

/// Tasks of this host that nobody orders any more are to go; returns those that are over.
pub fn dismiss(own: &mut ServiceTasks, is_ordered: impl Fn(&Task) -> bool) -> Vec<String> {
    let mut over = Vec::new();
    for task in own.tasks.iter_mut().filter(|task| !is_ordered(task)) {
        task.desired = Desired::Remove;
        if task.is_over() {
            over.push(task.id.clone());
        }
    }
    over
}

#[cfg(test)]
mod tests;
