//! What the nodes run: orders of the one that leads, and each node's reports.

use std::collections::BTreeMap;

use api::id::{Id, NodeId};
use api::work::{Order, TaskReport, WorkChange, WorkItem};
use serde_json::Value;

use super::nodes::NodeState;
use super::{Active, Swarm, SwarmError, TOGETHER};
use crate::control_plane::{Entry, Outcome, Transaction};
use crate::key;
use crate::node::Role;

/// As [`api::work::Work`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Work {
    pub node: NodeId,
    pub leads: Option<u64>,
    pub nodes: Vec<NodeState>,
    pub services: Vec<(Id, u64)>,
    pub history: Option<u64>,
    pub items: Vec<WorkItem>,
}

impl Swarm {
    /// Nothing in no cluster. Of other nodes only what one that leads needs to know, or `all`.
    ///
    /// # Errors
    /// [`SwarmError::Locked`], or the store does not answer.
    pub fn work(&self, all: bool) -> Result<Option<Work>, SwarmError> {
        self.refuse_locked()?;
        let Some(active) = self.active().clone() else {
            return Ok(None);
        };
        let (control, node) = (active.control(), &active.state.node);
        let leader = match active.state.role {
            Role::Manager => control.snapshot(key::LEADER)?.entries.remove(key::LEADER),
            Role::Worker => None,
        };
        let leads = leader.filter(|leader| leader.value == node.as_str());
        let leads = leads.map(|leader| leader.modified);
        let all = all || leads.is_some();
        let (orders, tasks) = match all {
            true => (key::ORDERS.to_owned(), key::TASKS.to_owned()),
            false => (key::orders(node), key::tasks(node)),
        };
        // Before the services: what is ordered is of none that comes later.
        let orders = control.snapshot(&orders)?.entries;
        let services = match leads {
            Some(_) => control.snapshot(key::SERVICES)?.entries,
            None => BTreeMap::new(),
        };
        let reports = control.snapshot(&tasks)?.entries;
        let cluster = leads.map(|_| active.cluster()).transpose()?;
        let mut nodes = active.node_states(leads.map(|_| node))?;
        nodes.retain(|state| all || state.own);
        let service = |(key, entry): (String, Entry)| {
            let id = key.strip_prefix(key::SERVICES)?.to_owned();
            Some((Id::try_from(id).ok()?, entry.modified))
        };
        Ok(Some(Work {
            node: node.clone(),
            leads,
            nodes,
            services: services.into_iter().filter_map(service).collect(),
            history: cluster.map(|(cluster, _)| cluster.settings.task_history),
            items: items(&orders, &reports),
        }))
    }

    /// # Errors
    /// [`SwarmError::NotLeading`], with nothing ordered that was not before; the store does not answer.
    pub fn change_work(&self, change: &WorkChange) -> Result<(), SwarmError> {
        let active = self.member_of()?;
        let own = &active.state.node;
        let (mut reports, mut orders) = (Vec::new(), Vec::new());
        for TaskReport { task, report } in &change.reports {
            check(task)?;
            reports.push((key::task(own, task), report.as_ref()));
        }
        for Order { task, node, order } in &change.orders {
            check(task)?;
            orders.push((key::order(node.as_ref(), task), order.as_ref()));
        }
        active.put(&reports, None)?;
        if orders.is_empty() {
            return Ok(());
        }
        active.put(&orders, Some(change.leads.ok_or(SwarmError::NotLeading)?))
    }
}

impl Active {
    /// Puts or deletes entries, as long as this node leads by the revision `leads`.
    fn put(
        &self,
        entries: &[(String, Option<&Value>)],
        leads: Option<u64>,
    ) -> Result<(), SwarmError> {
        for some in entries.chunks(TOGETHER) {
            let mut all = Transaction::default();
            if let Some(leads) = leads {
                all = all.when(key::LEADER, leads);
            }
            for (key, value) in some {
                all = match value {
                    Some(value) => all.put(key.as_str(), value.to_string()),
                    None => all.delete(key.as_str()),
                };
            }
            if self.control().commit(&all)? == Outcome::Refused {
                return Err(SwarmError::NotLeading);
            }
        }
        Ok(())
    }

    /// What a node has reported concerns nobody any more.
    pub(super) fn forget_reports(&self, node: &NodeId) -> Result<(), SwarmError> {
        let reports = self.control().snapshot(&key::tasks(node))?.entries;
        let gone: Vec<_> = reports.into_keys().map(|key| (key, None)).collect();
        self.put(&gone, None)
    }
}

/// A task's id becomes part of a key.
fn check(task: &str) -> Result<(), SwarmError> {
    let is_fit = (1..=64).contains(&task.len()) && task.bytes().all(|b| b.is_ascii_alphanumeric());
    is_fit.then_some(()).ok_or(SwarmError::NoTask)
}

/// What is ordered and what is reported, together for each task on its node.
fn items(orders: &BTreeMap<String, Entry>, reports: &BTreeMap<String, Entry>) -> Vec<WorkItem> {
    let mut items: BTreeMap<(Option<NodeId>, String), WorkItem> = BTreeMap::new();
    for (key, entry) in orders.iter().chain(reports) {
        let Some((node, task)) = key::node_and_task(key) else {
            continue;
        };
        let value = serde_json::from_str(&entry.value).ok();
        let item = items
            .entry((node.clone(), task.to_owned()))
            .or_insert_with(|| WorkItem {
                task: task.to_owned(),
                node,
                order: None,
                report: None,
            });
        match key.starts_with(key::ORDERS) {
            true => item.order = value,
            false => item.report = value,
        }
    }
    items.into_values().collect()
}
