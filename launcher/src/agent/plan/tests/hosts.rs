//! Several hosts.

use std::collections::BTreeMap;

use api::net::Protocol;
use api::service::{PublishMode, ServicePort};
use api::swarm::Availability;
use api::task::{Preference, Spread};

use super::*;

impl World {
    fn with_hosts(replicas: u64, names: &[&str]) -> Self {
        let mut world = Self::new(replicas);
        world.hosts = names.iter().map(|name| Host::alone(name)).collect();
        world
    }

    fn host(&mut self, name: &str) -> &mut Host {
        let mut hosts = self.hosts.iter_mut();
        hosts.find(|host| host.name == name).unwrap()
    }

    /// How many run on each host.
    fn spread(&self) -> Vec<(&str, usize)> {
        let mut spread = BTreeMap::new();
        for task in self.running() {
            if self.is_heard_of(&task.node) {
                *spread.entry(task.node.as_str()).or_default() += 1;
            }
        }
        spread.into_iter().collect()
    }

    /// Why some have no host.
    fn pending(&self) -> Vec<&str> {
        let tasks = self.tasks.iter();
        let pending = tasks.filter(|task| task.state == TaskState::Pending && task.is_wanted());
        pending.map(|task| task.error.as_str()).collect()
    }
}

fn place(spec: &mut ServiceSpec) -> &mut api::task::Placement {
    &mut spec.task_template.as_mut().unwrap().placement
}

#[test]
fn replicas_are_spread_evenly_and_stay_where_they_are() {
    let mut world = World::with_hosts(5, &["a", "b", "c"]);
    assert_eq!(world.ticks(2).spread(), [("a", 2), ("b", 2), ("c", 1)]);
    world.hosts.push(Host::alone("d"));
    assert_eq!(world.ticks(20).spread(), [("a", 2), ("b", 2), ("c", 1)]);
    world.change(|spec| set_replicas(spec, 7));
    assert_eq!(
        world.ticks(3).spread(),
        [("a", 2), ("b", 2), ("c", 2), ("d", 1)]
    );
}

#[test]
fn fewer_replicas_are_taken_from_the_hosts_that_have_most() {
    let mut world = World::with_hosts(3, &["a"]);
    world.ticks(3);
    world.hosts.push(Host::alone("b"));
    world.change(|spec| set_replicas(spec, 6));
    assert_eq!(world.ticks(3).spread(), [("a", 3), ("b", 3)]);
    world.change(|spec| set_replicas(spec, 2));
    assert_eq!(world.ticks(3).spread(), [("a", 1), ("b", 1)]);
    assert_eq!(world.images(), [(1, "v1"), (4, "v1")]);
    // What is new has the lowest number that is free, also while one that had it ends.
    world.change(|spec| set_replicas(spec, 4));
    assert_eq!(world.ticks(3).spread(), [("a", 2), ("b", 2)]);
    let slots: Vec<u64> = world.images().iter().map(|(slot, _)| *slot).collect();
    assert_eq!(slots, [1, 2, 3, 4]);
    // Of a host's, what does not run goes first, and before all what no host has.
    world.end(1, TaskState::Failed);
    world.change(|spec| set_replicas(spec, 3));
    world.ticks(9);
    let slots: Vec<u64> = world.images().iter().map(|(slot, _)| *slot).collect();
    assert_eq!(slots, [2, 3, 4]);
    assert_eq!(world.tasks.len(), 3, "nothing is left of the others");
}

#[test]
fn what_is_given_up_and_taken_again_is_gone_in_the_end() {
    let mut world = World::new(3);
    world.ticks(3);
    for replicas in [1, 3] {
        world.change(|spec| set_replicas(spec, replicas));
        world.ticks(1);
    }
    assert_eq!(world.ticks(4).images(), [(1, "v1"), (2, "v1"), (3, "v1")]);
    assert_eq!(world.tasks.len(), 3);
}

#[test]
fn what_ran_on_a_host_that_is_silent_runs_elsewhere_at_once() {
    let mut world = World::with_hosts(4, &["a", "b"]);
    assert_eq!(world.ticks(3).spread(), [("a", 2), ("b", 2)]);
    world.host("b").is_alive = false;
    assert_eq!(world.ticks(2).spread(), [("a", 4)]);
    // When it is back, what still ran there ends, and nothing moves.
    world.host("b").is_alive = true;
    assert_eq!(world.ticks(10).spread(), [("a", 4)]);
    let left = world.tasks.iter().filter(|task| task.node == "b");
    assert!(left.clone().all(|task| task.state == TaskState::Shutdown));
    assert_eq!(left.count(), 2);
    // One that never comes back leaves nothing behind once its slots are gone.
    world.host("b").is_alive = false;
    world.change(|spec| set_replicas(spec, 0));
    world.ticks(5);
    assert_eq!(world.tasks, []);
}

#[test]
fn a_host_is_drained_paused_and_used_again() {
    let mut world = World::with_hosts(4, &["a", "b"]);
    world.ticks(3);
    world.host("a").availability = Availability::Pause;
    world.change(|spec| set_replicas(spec, 6));
    assert_eq!(world.ticks(3).spread(), [("a", 2), ("b", 4)]);
    world.host("a").availability = Availability::Drain;
    assert_eq!(world.ticks(4).spread(), [("b", 6)]);
    world.host("b").availability = Availability::Drain;
    world.ticks(4);
    assert_eq!(
        world.pending(),
        ["no suitable node (2 nodes not available for new tasks)"; 6]
    );
    world.host("a").availability = Availability::Active;
    assert_eq!(world.ticks(3).spread(), [("a", 6)]);
    assert_eq!(world.pending(), Vec::<&str>::new());
}

#[test]
fn a_global_service_has_one_on_every_host_that_suits() {
    let mut world = World::with_hosts(1, &["a", "b", "c"]);
    world
        .host("b")
        .labels
        .insert("disk".to_owned(), "ssd".to_owned());
    world.change(|spec| spec.mode = Some(ServiceMode::Global {}));
    assert_eq!(world.ticks(2).spread(), [("a", 1), ("b", 1), ("c", 1)]);
    world.hosts.push(Host::alone("d"));
    assert_eq!(world.ticks(2).spread().len(), 4);
    // What is only not heard of goes on.
    let before = world.tasks.clone();
    world.host("c").is_alive = false;
    assert_eq!(world.ticks(9).spread(), [("a", 1), ("b", 1), ("d", 1)]);
    world.host("c").is_alive = true;
    world.ticks(2);
    assert_eq!(world.tasks, before);
    world.change(|spec| place(spec).constraints = vec!["node.labels.disk==ssd".to_owned()]);
    assert_eq!(world.ticks(20).spread(), [("b", 1)]);
    assert_eq!(
        world.tasks.iter().filter(|task| task.node != "b").count(),
        0
    );
    world.service = None;
    world.host("b").is_alive = false;
    world.ticks(3);
    assert_eq!(world.tasks, []);
}

#[test]
fn an_update_goes_host_by_host() {
    let mut world = World::with_hosts(1, &["a", "b", "c"]);
    world.change(|spec| spec.mode = Some(ServiceMode::Global {}));
    world.ticks(9);
    world.ran.clear();
    world.change(|spec| set_image(spec, "v2"));
    assert_eq!(world.ticks(40).images(), [(0, "v2"); 3]);
    assert_eq!(world.ran.first(), Some(&2), "one at a time");
    assert_eq!(world.update_state(), Some(UpdateState::Completed));
}

#[test]
fn constraints_hold_also_for_what_runs() {
    let mut world = World::with_hosts(2, &["a", "b"]);
    world
        .host("a")
        .labels
        .insert("zone".to_owned(), "east".to_owned());
    world.change(|spec| place(spec).constraints = vec!["node.labels.zone==east".to_owned()]);
    assert_eq!(world.ticks(2).spread(), [("a", 2)]);
    world.host("a").labels.clear();
    world.ticks(4);
    let why = "no suitable node (scheduling constraints not satisfied on 2 nodes)";
    assert_eq!(world.pending(), [why; 2]);
    world
        .host("b")
        .labels
        .insert("zone".to_owned(), "EAST".to_owned());
    assert_eq!(world.ticks(2).spread(), [("b", 2)]);
}

#[test]
fn preferences_spread_over_values_of_labels() {
    let mut world = World::with_hosts(6, &["a", "b", "c", "d"]);
    for (name, zone) in [("a", "east"), ("b", "east"), ("c", "east"), ("d", "west")] {
        world
            .host(name)
            .labels
            .insert("zone".to_owned(), zone.to_owned());
    }
    world.change(|spec| {
        let spread_descriptor = "node.labels.zone".to_owned();
        place(spec).preferences = vec![Preference {
            spread: Spread { spread_descriptor },
        }];
    });
    assert_eq!(
        world.ticks(2).spread(),
        [("a", 1), ("b", 1), ("c", 1), ("d", 3)]
    );
}

#[test]
fn what_a_host_has_no_room_for_waits() {
    let mut world = World::with_hosts(3, &["a", "b"]);
    for host in &mut world.hosts {
        host.resources.memory_bytes = 1 << 30;
    }
    world.change(|spec| {
        let resources = &mut spec.task_template.as_mut().unwrap().resources;
        resources.reservations.memory_bytes = 600 << 20;
    });
    assert_eq!(world.ticks(2).spread(), [("a", 1), ("b", 1)]);
    assert_eq!(
        world.pending(),
        ["no suitable node (insufficient resources on 2 nodes)"]
    );
    world.hosts.push(Host::alone("c"));
    assert_eq!(world.ticks(2).spread(), [("a", 1), ("b", 1), ("c", 1)]);
}

#[test]
fn a_port_of_the_host_is_had_once() {
    let mut world = World::with_hosts(3, &["a", "b"]);
    world.change(|spec| {
        spec.endpoint_spec.ports = vec![ServicePort {
            protocol: Protocol::Tcp,
            target_port: 80,
            published_port: 8080,
            count: 1,
            one_target: false,
            publish_mode: PublishMode::Host,
        }];
    });
    assert_eq!(world.ticks(2).spread(), [("a", 1), ("b", 1)]);
    assert_eq!(
        world.pending(),
        ["no suitable node (host-mode port already in use on 2 nodes)"]
    );
    // An update frees the port first.
    world.change(|spec| {
        set_replicas(spec, 2);
        set_image(spec, "v2");
    });
    assert_eq!(world.ticks(30).images(), [(1, "v2"), (2, "v2")]);
}

#[test]
fn a_limit_of_replicas_on_a_node_holds() {
    let mut world = World::with_hosts(3, &["a", "b"]);
    world.change(|spec| place(spec).max_replicas = 1);
    assert_eq!(world.ticks(2).spread(), [("a", 1), ("b", 1)]);
    assert_eq!(
        world.pending(),
        ["no suitable node (max replicas per node limit exceed)"]
    );
    // What waits is not waited for.
    world.change(|spec| set_image(spec, "v2"));
    world.ticks(30);
    assert_eq!(world.pending().len(), 1);
    assert_eq!(world.running().len(), 2);
}

#[test]
fn a_host_on_which_it_fails_again_and_again_is_tried_last() {
    let mut world = World::with_hosts(1, &["a", "b"]);
    world.change(|spec| {
        let restart = &mut spec.task_template.as_mut().unwrap().restart_policy;
        restart.delay = SECOND;
    });
    for _ in 0..8 {
        world.ticks(3);
        if world.running().iter().all(|task| task.node == "b") {
            break;
        }
        world.end(1, TaskState::Failed);
    }
    assert_eq!(world.ticks(3).spread(), [("b", 1)]);
}
