//! The hosts that tasks may run on, and which of them suits a task best.

use std::collections::{BTreeMap, BTreeSet};

use api::net::Protocol;
use api::service::{PublishMode, Service};
use api::swarm::{Availability, Node, Role};
use api::task::{Amounts, Placement, TaskTemplate};

use super::constraint;
use super::plan::Situation;
use super::task::Slot;

/// A task that has ended by itself so often on a host is tried elsewhere first; Docker's number.
const MISFORTUNES: usize = 5;

/// A host, and what it has to do.
#[derive(Debug, Clone, PartialEq)]
pub struct Host {
    /// Its id in the cluster; of a host in none, its name.
    pub id: String,
    pub name: String,
    pub role: Role,
    pub labels: BTreeMap<String, String>,
    pub architecture: String,
    pub os: String,
    pub availability: Availability,
    /// It is heard of.
    pub is_alive: bool,
    /// It is not, and may be soon: what it has is not given to others yet.
    pub is_awaited: bool,
    /// Zero is not known.
    pub resources: Amounts,
    /// Kept for the tasks that it has.
    pub reserved: Amounts,
    /// How many these are, of all services.
    pub tasks: usize,
    /// Ports of its own that they have.
    pub ports: BTreeSet<(u16, Protocol)>,
}

impl Host {
    /// One that is in no cluster.
    pub fn alone(name: &str) -> Self {
        Self {
            id: name.to_owned(),
            name: name.to_owned(),
            // The one host there is decides what runs.
            role: Role::Manager,
            labels: [].into(),
            architecture: std::env::consts::ARCH.to_owned(),
            os: std::env::consts::OS.to_owned(),
            availability: Availability::Active,
            is_alive: true,
            is_awaited: false,
            resources: Amounts::default(),
            reserved: Amounts::default(),
            tasks: 0,
            ports: BTreeSet::new(),
        }
    }

    pub fn of(node: &Node) -> Self {
        let machine = &node.description.machine;
        Self {
            role: node.spec.role,
            labels: node.spec.labels.clone(),
            architecture: machine.platform.architecture.clone(),
            os: machine.platform.os.clone(),
            availability: node.spec.availability,
            is_alive: node.status.state == "ready",
            is_awaited: node.status.state == "unknown",
            resources: machine.resources,
            id: node.id.to_string(),
            ..Self::alone(&node.description.hostname)
        }
    }

    /// Has a task of the service from now on.
    pub fn take(&mut self, service: &Service) {
        let kept = reservations(service);
        self.reserved.nano_cpus += kept.nano_cpus;
        self.reserved.memory_bytes += kept.memory_bytes;
        self.tasks += 1;
        self.ports.extend(own_ports(service));
    }

    /// Tasks of the service that run here may go on.
    pub fn keeps(&self, service: &Service) -> bool {
        let placement = placement(service).map(|placement| &placement.constraints[..]);
        self.availability != Availability::Drain
            && constraint::allow(placement.unwrap_or_default(), self)
    }

    /// New tasks may come.
    pub fn is_ready(&self) -> bool {
        self.is_alive && self.availability == Availability::Active
    }

    fn has_room(&self, service: &Service, more: u64) -> bool {
        let kept = reservations(service);
        let fits = |has: u64, reserved: u64, wanted: u64| {
            has == 0 || wanted == 0 || reserved + wanted * (more + 1) <= has
        };
        let (has, reserved) = (self.resources, self.reserved);
        fits(has.nano_cpus, reserved.nano_cpus, kept.nano_cpus)
            && fits(has.memory_bytes, reserved.memory_bytes, kept.memory_bytes)
    }

    /// The value of the label that a preference names; none counts as a value too.
    fn value(&self, preference: &str) -> &str {
        constraint::fact(preference, self)
    }
}

fn template(service: &Service) -> Option<&TaskTemplate> {
    service.spec.task_template.as_ref()
}

fn placement(service: &Service) -> Option<&Placement> {
    template(service).map(|template| &template.placement)
}

fn reservations(service: &Service) -> Amounts {
    template(service).map_or_else(Amounts::default, |t| t.resources.reservations)
}

/// The ports that each task has of its host. One that is left open is whichever is free.
fn own_ports(service: &Service) -> impl Iterator<Item = (u16, Protocol)> {
    let ports = service.spec.endpoint_spec.ports.iter();
    let own = ports.filter(|p| p.publish_mode == PublishMode::Host && p.published_port != 0);
    own.flat_map(|port| {
        (0..port.count).map(|more| (port.published_port.saturating_add(more), port.protocol))
    })
}

/// The host that a new task for the slot goes to, beside those that this plan has sent to `sent`: what
/// suits, then what spreads as preferred, then the fewest tasks of the service, then the fewest of all.
///
/// # Errors
/// Why none suits, in Docker's words.
pub fn choose(
    situation: &Situation<'_>,
    service: &Service,
    slot: &Slot,
    sent: &[String],
) -> Result<String, String> {
    let mut why = Refusals::default();
    let crowd = Crowd::of(situation, sent);
    let placement = placement(service).cloned().unwrap_or_default();
    let most = placement.max_replicas;
    let fits = |host: &&Host| {
        let more = crowd.sent(host);
        let refusal = if !host.is_ready() {
            &mut why.unavailable
        } else if !constraint::allow(&placement.constraints, host) {
            &mut why.constraints
        } else if !host.has_room(service, more as u64) {
            &mut why.resources
        } else if own_ports(service).any(|port| more > 0 || host.ports.contains(&port)) {
            &mut why.ports
        } else if most > 0 && crowd.own(host) as u64 >= most {
            &mut why.replicas
        } else {
            return true;
        };
        *refusal += 1;
        false
    };
    let hosts = situation.hosts.iter();
    let meant = hosts.filter(|host| slot.node.as_ref().is_none_or(|node| *node == host.id));
    let fitting: Vec<&Host> = meant.filter(fits).collect();
    // How many tasks are on hosts like one, as far as the preferences go.
    let preferences = placement.preferences.iter();
    let labels: Vec<&str> = preferences
        .map(|preference| preference.spread.spread_descriptor.as_str())
        .collect();
    let likeness = |host: &Host, depth: usize| -> Vec<String> {
        let labels = labels.iter().take(depth);
        labels.map(|label| host.value(label).to_owned()).collect()
    };
    let mut alike: BTreeMap<Vec<String>, usize> = BTreeMap::new();
    for host in &fitting {
        for depth in 1..=labels.len() {
            *alike.entry(likeness(host, depth)).or_default() += crowd.own(host);
        }
    }
    let rank = |host: &&&Host| {
        let crowds = (1..=labels.len()).map(|depth| alike[&likeness(host, depth)]);
        (
            crowds.collect::<Vec<usize>>(),
            crowd.failed(host) >= MISFORTUNES,
            crowd.own(host),
            host.tasks + crowd.sent(host),
            host.id.clone(),
        )
    };
    let best = fitting.iter().min_by_key(rank);
    best.map(|host| host.id.clone()).ok_or_else(|| why.text())
}

/// How many of a service's tasks are, were, and are about to be on each host.
#[derive(Default)]
struct Crowd<'s> {
    running: BTreeMap<&'s str, usize>,
    failed: BTreeMap<&'s str, usize>,
    sent: BTreeMap<&'s str, usize>,
}

impl<'s> Crowd<'s> {
    fn of(situation: &Situation<'s>, sent: &'s [String]) -> Self {
        let mut crowd = Self::default();
        for task in situation.tasks {
            if task.is_wanted() && !task.is_over() {
                *crowd.running.entry(&task.node).or_default() += 1;
            }
            if task.template == situation.template && task.ended_by_itself() {
                *crowd.failed.entry(&task.node).or_default() += 1;
            }
        }
        for node in sent {
            *crowd.sent.entry(node).or_default() += 1;
        }
        crowd
    }

    /// Those that run there, or are about to.
    fn own(&self, host: &Host) -> usize {
        count(&self.running, host) + self.sent(host)
    }

    fn sent(&self, host: &Host) -> usize {
        count(&self.sent, host)
    }

    fn failed(&self, host: &Host) -> usize {
        count(&self.failed, host)
    }
}

fn count(tasks: &BTreeMap<&str, usize>, host: &Host) -> usize {
    tasks.get(host.id.as_str()).copied().unwrap_or_default()
}

/// How many hosts are out of the question, and why.
#[derive(Debug, Default)]
struct Refusals {
    unavailable: usize,
    constraints: usize,
    resources: usize,
    ports: usize,
    replicas: usize,
}

impl Refusals {
    fn text(&self) -> String {
        let nodes = |count: usize| match count {
            1 => "1 node".to_owned(),
            count => format!("{count} nodes"),
        };
        let said = [
            (
                self.unavailable,
                format!("{} not available for new tasks", nodes(self.unavailable)),
            ),
            (
                self.constraints,
                format!(
                    "scheduling constraints not satisfied on {}",
                    nodes(self.constraints)
                ),
            ),
            (
                self.resources,
                format!("insufficient resources on {}", nodes(self.resources)),
            ),
            (
                self.ports,
                format!("host-mode port already in use on {}", nodes(self.ports)),
            ),
            (
                self.replicas,
                "max replicas per node limit exceed".to_owned(),
            ),
        ];
        let said: Vec<String> = said
            .into_iter()
            .filter_map(|(count, text)| (count > 0).then_some(text))
            .collect();
        match said.is_empty() {
            true => "no suitable node".to_owned(),
            false => format!("no suitable node ({})", said.join("; ")),
        }
    }
}
