mod hosts;

use std::collections::BTreeSet;

use api::id::Id;
use api::service::{ServiceEndpoint, ServiceSpec, Version};
use api::task::{FailureAction, TaskTemplate, UpdateConfig, UpdateOrder, UpdateState};

use super::*;

const SECOND: Duration = Duration::from_secs(1);
/// An image whose containers end as soon as they run.
const BAD: &str = "bad";

/// Hosts on which containers start and stop within a second.
struct World {
    now: Timestamp,
    hosts: Vec<Host>,
    service: Option<Service>,
    tasks: Vec<Task>,
    made: u64,
    history: u64,
    /// The fewest and the most tasks that ran at a time.
    ran: BTreeSet<usize>,
}

impl World {
    fn new(replicas: u64) -> Self {
        let spec = ServiceSpec {
            name: "web".to_owned(),
            task_template: Some(TaskTemplate::default()),
            mode: Some(ServiceMode::Replicated { replicas }),
            ..ServiceSpec::default()
        };
        let mut world = Self {
            now: Timestamp::from_second(1_000_000).unwrap(),
            hosts: vec![Host::alone("alpha")],
            service: Some(Service {
                id: Id::from_bytes([1; 32]),
                version: Version { index: 1 },
                created_at: String::new(),
                updated_at: String::new(),
                spec,
                previous_spec: None,
                update_status: None,
                endpoint: ServiceEndpoint::default(),
                members: Vec::new(),
                last_resort: false,
                revision: None,
            }),
            tasks: Vec::new(),
            made: 0,
            history: HISTORY,
            ran: BTreeSet::new(),
        };
        world.change(|spec| set_image(spec, "v1"));
        world
    }

    /// As hawserd updates a service.
    fn change(&mut self, change: impl FnOnce(&mut ServiceSpec)) {
        let service = self.service.as_mut().unwrap();
        service.previous_spec = Some(service.spec.clone());
        service.update_status = None;
        change(&mut service.spec);
    }

    fn image(&self) -> String {
        let template = self.service.as_ref().unwrap().spec.task_template.as_ref();
        template.unwrap().container_spec.image.clone()
    }

    fn is_heard_of(&self, node: &str) -> bool {
        self.hosts
            .iter()
            .any(|host| host.id == node && host.is_alive)
    }

    /// What is planned, from what is heard of.
    fn plan(&self) -> Plan {
        let service = self.service.as_ref();
        let template = service.map(|_| self.image()).unwrap_or_default();
        let mut tasks = self.tasks.clone();
        let mut hosts = self.hosts.clone();
        for task in tasks
            .iter_mut()
            .filter(|task| !task.is_over() && !task.node.is_empty())
        {
            if !self.is_heard_of(&task.node) {
                task.state = TaskState::Orphaned;
            } else if let Some(host) = hosts.iter_mut().find(|host| host.id == task.node) {
                service.into_iter().for_each(|service| host.take(service));
            }
        }
        plan(Situation {
            now: self.now,
            service,
            template: &template,
            tasks: &tasks,
            hosts: &hosts,
            history: self.history,
        })
    }

    /// A second passes.
    fn tick(&mut self) {
        let alive: BTreeSet<String> = self
            .hosts
            .iter()
            .filter(|host| host.is_alive)
            .map(|host| host.id.clone())
            .collect();
        for task in self
            .tasks
            .iter_mut()
            .filter(|task| alive.contains(&task.node))
        {
            if !task.is_over() && !task.is_wanted() {
                task.has_ended(self.now);
                continue;
            }
            let state = match (task.state, task.desired) {
                (TaskState::Starting, _) => TaskState::Running,
                (TaskState::Running, _) if task.image == BAD => TaskState::Failed,
                (state, _) => state,
            };
            task.becomes(state, self.now);
        }
        for step in self.plan().steps {
            self.carry_out(step);
        }
        self.ran.insert(self.running().len());
        self.now = after(self.now, SECOND);
    }

    fn carry_out(&mut self, step: Step) {
        match step {
            Step::Create { slot, host } => {
                self.made += 1;
                let mut task = Task {
                    id: self.made.to_string(),
                    slot: slot.number,
                    node: slot.node.unwrap_or_default(),
                    template: self.image(),
                    image: self.image(),
                    name: format!("web.{}.{}", slot.number, self.made),
                    desired: Desired::Running,
                    state: TaskState::Pending,
                    since: self.now,
                    created: self.now,
                    revision: 0,
                    ran: None,
                    container: None,
                    error: String::new(),
                };
                task.is_placed(host, self.now);
                self.tasks.push(task);
            }
            Step::Place { task, host } => {
                let now = self.now;
                self.task(&task).is_placed(host, now);
            }
            Step::End { task, desired } => {
                let now = self.now;
                self.task(&task).is_to_end(desired, now);
            }
            Step::Forget { task } => {
                let forgotten = self.task(&task).clone();
                assert!(
                    forgotten.is_over() || !self.is_heard_of(&forgotten.node),
                    "{forgotten:?}"
                );
                self.tasks.retain(|other| other.id != task);
            }
            Step::Status(status) => self.service.as_mut().unwrap().update_status = Some(status),
            Step::RollBack { why } => {
                let service = self.service.as_mut().unwrap();
                service.spec = service.previous_spec.clone().unwrap();
                service.update_status = Some(UpdateStatus {
                    state: UpdateState::RollbackStarted,
                    started_at: self.now.to_string(),
                    completed_at: None,
                    message: why,
                });
            }
        }
    }

    fn task(&mut self, id: &str) -> &mut Task {
        let mut tasks = self.tasks.iter_mut();
        tasks.find(|task| task.id == id).unwrap()
    }

    fn ticks(&mut self, seconds: u64) -> &mut Self {
        (0..seconds).for_each(|_| self.tick());
        self
    }

    fn running(&self) -> Vec<&Task> {
        let tasks = self.tasks.iter();
        tasks
            .filter(|task| task.state == TaskState::Running && task.is_wanted())
            .collect()
    }

    /// The images that run, by slot.
    fn images(&self) -> Vec<(u64, &str)> {
        let mut images: Vec<(u64, &str)> = self
            .running()
            .iter()
            .map(|task| (task.slot, task.image.as_str()))
            .collect();
        images.sort_unstable();
        images
    }

    fn update_state(&self) -> Option<UpdateState> {
        let status = self.service.as_ref().unwrap().update_status.as_ref();
        status.map(|status| status.state)
    }

    fn end(&mut self, slot: u64, state: TaskState) {
        let now = self.now;
        let mut tasks = self.tasks.iter_mut().rev();
        let task = tasks.find(|task| task.slot == slot).unwrap();
        task.becomes(state, now);
    }
}

fn set_image(spec: &mut ServiceSpec, image: &str) {
    let template = spec.task_template.as_mut().unwrap();
    image.clone_into(&mut template.container_spec.image);
}

fn set_replicas(spec: &mut ServiceSpec, replicas: u64) {
    spec.mode = Some(ServiceMode::Replicated { replicas });
}

#[test]
fn as_many_run_as_are_asked_for() {
    let mut world = World::new(3);
    assert_eq!(world.ticks(2).images(), [(1, "v1"), (2, "v1"), (3, "v1")]);
    world.change(|spec| set_replicas(spec, 5));
    assert_eq!(world.ticks(2).running().len(), 5);
    world.change(|spec| set_replicas(spec, 1));
    assert_eq!(world.ticks(3).images(), [(1, "v1")]);
    assert_eq!(world.tasks.len(), 1, "nothing is left of the others");
    assert_eq!(world.update_state(), None, "scaling is no update");
    world.change(|spec| spec.mode = Some(ServiceMode::Global {}));
    assert_eq!(world.ticks(3).images(), [(0, "v1")]);
    world.service = None;
    world.ticks(3);
    assert!(world.tasks.is_empty());
}

#[test]
fn one_that_ends_is_followed_by_another_after_the_delay() {
    let mut world = World::new(2);
    world.ticks(2);
    world.end(1, TaskState::Failed);
    assert_eq!(world.ticks(5).images(), [(2, "v1")]);
    assert_eq!(world.ticks(2).images(), [(1, "v1"), (2, "v1")]);
    assert_eq!(world.made, 3);
}

#[test]
fn one_that_is_ill_is_stopped_and_followed_after_the_delay() {
    let mut world = World::new(2);
    world.ticks(3);
    let ill = world.tasks.iter_mut().find(|task| task.slot == 2).unwrap();
    ill.error = "unhealthy: exit code 1".to_owned();
    world.ticks(2);
    let of_slot = |world: &World| -> Vec<TaskState> {
        let tasks = world.tasks.iter().filter(|task| task.slot == 2);
        tasks.map(|task| task.state).collect()
    };
    assert_eq!(of_slot(&world), [TaskState::Failed], "and no other yet");
    world.ticks(7);
    assert_eq!(of_slot(&world), [TaskState::Failed, TaskState::Running]);
    assert_eq!(world.running().len(), 2);
}

#[test]
fn the_restart_policy_says_who_is_followed() {
    let cases = [
        (RestartCondition::Any, TaskState::Complete, true),
        (RestartCondition::OnFailure, TaskState::Complete, false),
        (RestartCondition::OnFailure, TaskState::Failed, true),
        (RestartCondition::OnFailure, TaskState::Rejected, true),
        (RestartCondition::None, TaskState::Failed, false),
    ];
    for (condition, state, follows) in cases {
        let mut world = World::new(1);
        world.change(|spec| {
            let template = spec.task_template.as_mut().unwrap();
            template.restart_policy.condition = condition;
        });
        world.ticks(2);
        world.end(1, state);
        world.ticks(10);
        assert_eq!(world.made == 2, follows, "{condition:?} {state:?}");
    }
}

#[test]
fn attempts_are_counted() {
    let mut world = World::new(1);
    world.change(|spec| {
        set_image(spec, BAD);
        let restart = &mut spec.task_template.as_mut().unwrap().restart_policy;
        (restart.delay, restart.max_attempts) = (SECOND, 3);
    });
    world.ticks(60);
    assert_eq!(world.made, 4, "the first and three attempts");
    world.change(|spec| set_image(spec, "v2"));
    assert_eq!(
        world.ticks(3).images(),
        [(1, "v2")],
        "a new image has not failed yet"
    );
}

#[test]
fn the_past_of_a_slot_is_short() {
    let mut world = World::new(1);
    world.change(|spec| set_image(spec, BAD));
    world.ticks(200);
    assert!(world.made > 10);
    assert_eq!(world.tasks.len() as u64, HISTORY);
    world.history = 2;
    assert_eq!(world.ticks(20).tasks.len(), 2);
    // Without the last one nobody would know when the next is due.
    world.history = 0;
    let made = world.made;
    world.ticks(21);
    assert_eq!(world.tasks.len(), 1);
    assert!(world.made - made <= 4, "{} tries", world.made - made);
}

#[test]
fn more_attempts_than_are_looked_at_are_counted_too() {
    let mut world = World::new(1);
    world.change(|spec| {
        set_image(spec, BAD);
        let restart = &mut spec.task_template.as_mut().unwrap().restart_policy;
        (restart.delay, restart.max_attempts) = (SECOND, 8);
    });
    world.ticks(90);
    assert_eq!(world.made, 9);
}

#[test]
fn an_update_goes_slot_by_slot() {
    let mut world = World::new(3);
    world.ticks(10);
    world.ran.clear();
    world.change(|spec| {
        set_image(spec, "v2");
        spec.update_config = Some(UpdateConfig {
            delay: 3 * SECOND,
            ..UpdateConfig::default()
        });
    });
    world.tick();
    assert_eq!(world.update_state(), Some(UpdateState::Updating));
    let mut seen = BTreeSet::new();
    for _ in 0..40 {
        world.tick();
        let new = world
            .images()
            .iter()
            .filter(|(_, image)| *image == "v2")
            .count();
        seen.insert(new);
    }
    assert_eq!(seen, BTreeSet::from([0, 1, 2, 3]));
    assert_eq!(world.images(), [(1, "v2"), (2, "v2"), (3, "v2")]);
    assert_eq!(world.ran.first(), Some(&2), "one at a time");
    assert_eq!(world.update_state(), Some(UpdateState::Completed));
    assert_eq!(world.made, 6);
}

#[test]
fn what_starts_first_leaves_no_gap() {
    let mut world = World::new(2);
    world.ticks(5);
    world.ran.clear();
    world.change(|spec| {
        set_image(spec, "v2");
        spec.update_config = Some(UpdateConfig {
            parallelism: 0,
            order: UpdateOrder::StartFirst,
            ..UpdateConfig::default()
        });
    });
    assert_eq!(world.ticks(20).images(), [(1, "v2"), (2, "v2")]);
    assert_eq!(world.ran.first(), Some(&2));
    assert_eq!(world.update_state(), Some(UpdateState::Completed));
    assert_eq!(world.made, 4);
}

#[test]
fn what_starts_first_and_fails_is_not_tried_without_end() {
    let mut world = World::new(1);
    world.ticks(5);
    world.change(|spec| {
        set_image(spec, BAD);
        spec.update_config = Some(UpdateConfig {
            order: UpdateOrder::StartFirst,
            failure_action: FailureAction::Continue,
            ..UpdateConfig::default()
        });
    });
    world.ticks(1);
    let before = world.made;
    world.ticks(14);
    assert!(world.made <= before + 3, "{} tries", world.made - before);
}

#[test]
fn a_failed_update_pauses_and_the_others_go_on() {
    let mut world = World::new(3);
    world.ticks(5);
    world.change(|spec| set_image(spec, BAD));
    world.ticks(10);
    assert_eq!(world.update_state(), Some(UpdateState::Paused));
    world.ticks(60);
    assert_eq!(world.update_state(), Some(UpdateState::Paused));
    let good = world
        .images()
        .iter()
        .filter(|(_, image)| *image == "v1")
        .count();
    assert_eq!(good, 2);
    // A paused update ends with the next one.
    world.change(|spec| set_image(spec, "v2"));
    assert_eq!(world.ticks(40).images(), [(1, "v2"), (2, "v2"), (3, "v2")]);
    assert_eq!(world.update_state(), Some(UpdateState::Completed));
}

#[test]
fn some_may_fail() {
    let mut world = World::new(2);
    world.ticks(5);
    world.change(|spec| {
        set_image(spec, BAD);
        spec.update_config = Some(UpdateConfig {
            max_failure_ratio: 0.5,
            ..UpdateConfig::default()
        });
    });
    world.ticks(4);
    assert_eq!(world.update_state(), Some(UpdateState::Updating));
    world.ticks(60);
    assert_eq!(
        world.update_state(),
        Some(UpdateState::Paused),
        "both is too much"
    );
}

#[test]
fn a_failed_update_is_taken_back() {
    let mut world = World::new(2);
    world.ticks(5);
    world.change(|spec| {
        spec.update_config = Some(UpdateConfig {
            failure_action: FailureAction::Rollback,
            ..UpdateConfig::default()
        });
    });
    world.change(|spec| set_image(spec, BAD));
    world.ticks(60);
    assert_eq!(world.update_state(), Some(UpdateState::RollbackCompleted));
    assert_eq!(world.images(), [(1, "v1"), (2, "v1")]);
}

#[test]
fn an_agent_may_die_between_any_two_steps() {
    // What is recorded is all that a pass begins from: carrying out a prefix of a plan, and then
    // another plan, must end the same.
    for cut in 0..4 {
        let mut world = World::new(3);
        for _ in 0..60 {
            let steps = world.plan().steps;
            steps
                .into_iter()
                .take(cut)
                .for_each(|step| world.carry_out(step));
            world.tick();
            if world.made == 3 && world.image() == "v1" && world.running().len() == 3 {
                world.change(|spec| set_image(spec, "v2"));
            }
        }
        assert_eq!(
            world.images(),
            [(1, "v2"), (2, "v2"), (3, "v2")],
            "cut at {cut}"
        );
        assert_eq!(world.made, 6, "cut at {cut}");
    }
}
