//! What changes in the cluster, as events: on managers all of it, on workers what they are to run.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use api::event::Event;
use cluster::{Change, ControlError, ControlPlane, Member, Watch, key};
use serde::Deserialize;

use crate::events::Events;

/// Also how often a control plane that is silent is asked again.
const WAIT: Duration = Duration::from_millis(500);

/// A thread that follows one membership until this is dropped.
#[derive(Debug)]
pub(crate) struct News {
    over: Arc<AtomicBool>,
}

impl Drop for News {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

impl News {
    pub(crate) fn follow(member: &Member, events: &Arc<Events>) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let mut follower = Follower {
            control: Arc::clone(&member.control),
            prefix: match member.manager {
                true => String::new(),
                false => key::orders(&member.node),
            },
            node: member.node.to_string(),
            events: Arc::downgrade(events),
            over: Arc::clone(&over),
            watch: None,
            names: BTreeMap::new(),
        };
        let started = thread::Builder::new()
            .name("news".to_owned())
            .spawn(move || while follower.step() {});
        if let Err(error) = started {
            tracing::warn!(%error, "nobody hears of what changes in the cluster");
        }
        Self { over }
    }
}

struct Follower {
    control: Arc<dyn ControlPlane>,
    prefix: String,
    node: String,
    events: Weak<Events>,
    over: Arc<AtomicBool>,
    watch: Option<Box<dyn Watch>>,
    /// Of services and nodes, by their keys: what is gone has a name too.
    names: BTreeMap<String, String>,
}

impl Follower {
    /// Waits for news once; false when it is over.
    fn step(&mut self) -> bool {
        let told = match &mut self.watch {
            Some(watch) => watch.next(WAIT),
            None => self.begin().map(|()| Vec::new()),
        };
        let Some(events) = self.events.upgrade() else {
            return false;
        };
        if self.over.load(Ordering::Relaxed) {
            return false;
        }
        match told {
            Ok(changes) => {
                for change in changes {
                    if let Some(event) = self.event(&change) {
                        events.record(event);
                    }
                }
            }
            Err(_silent) => {
                self.watch = None;
                drop(events);
                thread::sleep(WAIT);
            }
        }
        true
    }

    /// What has happened before nobody tells any more: whoever listens looks again.
    fn begin(&mut self) -> Result<(), ControlError> {
        let mut known = self.control.snapshot(key::NODES)?;
        let services = self.control.snapshot(key::SERVICES)?;
        known.entries.extend(services.entries);
        for (key, entry) in known.entries {
            self.name(&key, Some(&entry.value));
        }
        self.watch = Some(self.control.watch(&self.prefix, known.revision)?);
        if let Some(events) = self.events.upgrade() {
            events.record(cluster_event("node", "update", &self.node).with("state.new", "ready"));
        }
        Ok(())
    }

    /// The name that goes with a key, from now on if it has one in `value`.
    fn name(&mut self, key: &str, value: Option<&str>) -> Option<String> {
        match value {
            None => self.names.remove(key),
            Some(value) => {
                let named: Named = serde_json::from_str(value).ok()?;
                let name = named.spec.map(|spec| spec.name).or(named.hostname)?;
                self.names.insert(key.to_owned(), name.clone());
                Some(name)
            }
        }
    }

    fn event(&mut self, change: &Change) -> Option<Event> {
        let (key, value) = (change.key.as_str(), change.value.as_deref());
        let action = if value.is_some() { "update" } else { "remove" };
        for (prefix, kind) in [(key::SERVICES, "service"), (key::NODES, "node")] {
            let Some(id) = key.strip_prefix(prefix) else {
                continue;
            };
            let is_new = value.is_some() && !self.names.contains_key(key);
            let action = if is_new { "create" } else { action };
            let name = self.name(key, value).unwrap_or_default();
            return Some(cluster_event(kind, action, id).with("name", name));
        }
        if let Some(id) = key.strip_prefix(key::ALIVE) {
            let state = if value.is_some() { "ready" } else { "down" };
            return Some(cluster_event("node", "update", id).with("state.new", state));
        }
        if key == key::LEADER {
            return Some(cluster_event("node", "update", value?).with("leader.new", "true"));
        }
        let (node, task) = key::node_and_task(key)?;
        let node = node.map(|node| node.to_string());
        Some(cluster_event("task", action, task).with("node", node.unwrap_or_default()))
    }
}

fn cluster_event(kind: &str, action: &str, id: &str) -> Event {
    Event {
        scope: "swarm".to_owned(),
        ..Event::new(kind, action, id)
    }
}

/// Of a record, what people call it.
#[derive(Deserialize)]
struct Named {
    spec: Option<Spec>,
    hostname: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Spec {
    name: String,
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use api::id::NodeId;
    use cluster::{Local, Transaction};
    use redb::Database;
    use redb::backends::InMemoryBackend;

    use super::*;

    /// The events of the cluster as (kind, action, name or state), in order.
    fn told(events: &Events, expected: &[(&str, &str, &str)]) {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let (past, _) = events.listen(Some(0));
            let found: Vec<_> = past.iter().map(line).collect();
            if found == expected {
                return;
            }
            assert!(Instant::now() < deadline, "{found:?}");
            thread::yield_now();
        }
    }

    fn line(event: &Event) -> (&str, &str, &str) {
        assert_eq!(event.scope, "swarm");
        let value = event.actor.attributes.values().next();
        let value = value.map_or("", String::as_str);
        (&event.kind, &event.action, value)
    }

    #[test]
    fn managers_hear_of_everything_and_workers_of_their_orders() {
        let database = Database::builder().create_with_backend(InMemoryBackend::new());
        let control = Local::open(Arc::new(database.unwrap())).unwrap().session();
        let node = NodeId::from_bytes([1; 16]);
        let member = |manager| Member {
            control: Arc::clone(&control) as Arc<dyn ControlPlane>,
            node: node.clone(),
            manager,
            data_address: None,
            data_port: 4789,
        };
        let (all, own) = (Arc::new(Events::new()), Arc::new(Events::new()));
        let _followed = [
            News::follow(&member(true), &all),
            News::follow(&member(false), &own),
        ];
        told(&all, &[("node", "update", "ready")]);
        told(&own, &[("node", "update", "ready")]);
        let other = NodeId::from_bytes([2; 16]);
        let put = |key: &str, value: &str| {
            let put = Transaction::default().put(key, value);
            control.commit(&put).unwrap();
        };
        put(&key::service("s1"), r#"{"spec":{"Name":"web"}}"#);
        put(&key::service("s1"), r#"{"spec":{"Name":"web"}}"#);
        put(&key::order(Some(&node), "t1"), "{}");
        put(&key::order(Some(&other), "t2"), "{}");
        put(&key::alive(&other), "{}");
        for gone in [key::alive(&other), key::service("s1")] {
            let gone = Transaction::default().delete(gone);
            control.commit(&gone).unwrap();
        }
        told(
            &all,
            &[
                ("node", "update", "ready"),
                ("service", "create", "web"),
                ("service", "update", "web"),
                ("task", "update", node.as_str()),
                ("task", "update", other.as_str()),
                ("node", "update", "ready"),
                ("node", "update", "down"),
                ("service", "remove", "web"),
            ],
        );
        told(
            &own,
            &[
                ("node", "update", "ready"),
                ("task", "update", node.as_str()),
            ],
        );
    }
}
