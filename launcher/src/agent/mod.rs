//! `hawser agent`: keeps the replicas of services that name an image.
//!
//! A loop of passes, woken by what happens ([`news`]). A pass looks at the services, at the recorded
//! tasks and at their containers; [`plan`] says what is to be done next, which [`act`] does in
//! threads. Whatever is decided is on record before it is done, so that an agent that is killed at
//! any moment, the host included, goes on where it was. There is one agent for a state directory; it
//! starts when a service needs it and ends when none does.

mod act;
pub mod constraint;
mod news;
pub mod plan;
pub mod record;
pub mod task;
pub mod template;
mod update;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};

use api::client::escape;
use api::id::Id;
use api::path::{SERVICE_ROLLBACK, SERVICE_UPDATE_STATUS, SERVICES};
use api::service::{MemberState, Service, ServiceMember};
use api::task::UpdateStatus;
use jiff::Timestamp;

use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::container::{HealthStatus, Status};
use crate::store::ContainerDir;
use act::{Done, Job, Report};
use news::Wake;
use plan::{Plan, Situation, Step};
use record::{AgentLock, Records, ServiceTasks};
use task::{Desired, Task, TaskState};

/// How often the agent looks while something is going on.
const TICK: Duration = Duration::from_millis(500);
/// How long after news it does so: what is told of may be on record only a little later.
const ATTENTION: Duration = Duration::from_secs(3);
/// How often it looks when nobody tells it anything.
const RESYNC: Duration = Duration::from_secs(10);

/// Keeps replicas until no service has any.
///
/// # Errors
/// Its records cannot be used. A daemon that does not answer is waited for.
pub fn run(context: &Context) -> Result<(), CliError> {
    context.require_root()?;
    let records = Records::open(Path::new(&context.info()?.state_dir))?;
    loop {
        let Some(mut lock) = records.lock()? else {
            return Ok(());
        };
        lock.sign()?;
        Agent::new(context, &records)?.keep(&lock)?;
        drop(lock);
        // Whoever made a service since our last look saw an agent that ran.
        let is_current = records.lock()?.is_some_and(|lock| lock.is_current());
        if !is_current || services(context)?.is_empty() {
            return Ok(());
        }
    }
}

/// Starts an agent in the background, unless one runs.
///
/// # Errors
/// It cannot be started.
pub fn ensure(context: &Context) -> Result<(), CliError> {
    let records = Records::open(Path::new(&context.info()?.state_dir))?;
    if records.lock()?.is_none() {
        return Ok(());
    }
    let failed = |source| CliError::Io {
        op: "start the agent",
        source,
    };
    let log = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(records.log_path())
        .map_err(failed)?;
    let mut host = std::ffi::OsString::from("unix://");
    host.push(context.client().socket());
    Command::new(std::env::current_exe().map_err(failed)?)
        .arg("--host")
        .arg(host)
        .args(["agent", "--background"])
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone().map_err(failed)?)
        .stderr(log)
        .spawn()
        .map_err(failed)?;
    Ok(())
}

/// Whether a service has replicas to keep.
///
/// # Errors
/// The daemon cannot be asked.
pub fn is_needed(context: &Context) -> Result<bool, CliError> {
    match services(context) {
        Ok(services) => Ok(!services.is_empty()),
        // It knows of none.
        Err(CliError::Client(error)) if error.is_not_found() => Ok(false),
        Err(error) => Err(error),
    }
}

/// The services that have tasks.
fn services(context: &Context) -> Result<BTreeMap<Id, Service>, CliError> {
    let all: Vec<Service> = context.client().get(SERVICES)?;
    let own = all
        .into_iter()
        .filter(|service| service.spec.task_template.is_some() && !service.kept_elsewhere);
    Ok(own.map(|service| (service.id.clone(), service)).collect())
}

struct Agent<'c> {
    context: &'c Context,
    records: &'c Records,
    /// This host's name.
    node: String,
    tasks: BTreeMap<Id, ServiceTasks>,
    /// Tasks that a job is about.
    busy: BTreeSet<String>,
    wakes: (Sender<Wake>, Receiver<Wake>),
    /// When something happened last.
    stirred: Instant,
    /// What was said last of a daemon that does not answer.
    complaint: String,
}

impl<'c> Agent<'c> {
    fn new(context: &'c Context, records: &'c Records) -> Result<Self, CliError> {
        let mut tasks = BTreeMap::new();
        for service in records.services()? {
            tasks.insert(service.clone(), records.tasks(&service)?);
        }
        Ok(Self {
            context,
            records,
            node: context.info()?.name.clone(),
            tasks,
            busy: BTreeSet::new(),
            wakes: mpsc::channel(),
            stirred: Instant::now(),
            complaint: String::new(),
        })
    }

    /// Pass by pass, until there is nothing to keep.
    fn keep(&mut self, lock: &AgentLock) -> Result<(), CliError> {
        news::listen(self.context.client(), &self.wakes.0);
        while lock.is_current() {
            let wait = match services(self.context) {
                Ok(services) => {
                    self.complaint.clear();
                    let wake = self.pass(&services)?;
                    if services.is_empty() && self.tasks.is_empty() && self.busy.is_empty() {
                        return Ok(());
                    }
                    let rest = self.rest();
                    wake.map_or(rest, |wake| until(wake).min(rest))
                }
                Err(error) => {
                    self.complain(&error);
                    TICK
                }
            };
            if let Ok(wake) = self.wakes.1.recv_timeout(wait) {
                self.take(wake)?;
            }
        }
        Ok(())
    }

    /// How long nothing needs to be looked at.
    fn rest(&self) -> Duration {
        if self.stirred.elapsed() < ATTENTION {
            TICK
        } else {
            RESYNC
        }
    }

    fn complain(&mut self, error: &CliError) {
        let complaint = error.to_string();
        if complaint != self.complaint {
            crate::cli::warn(format_args!("{} {complaint}", Timestamp::now()));
            self.complaint = complaint;
        }
    }

    fn pass(&mut self, services: &BTreeMap<Id, Service>) -> Result<Option<Timestamp>, CliError> {
        while let Ok(wake) = self.wakes.1.try_recv() {
            self.take(wake)?;
        }
        for service in services.values() {
            let tasks = self.tasks.entry(service.id.clone()).or_default();
            tasks.service.clone_from(&service.spec.name);
        }
        let mut wake: Option<Timestamp> = None;
        let ids: Vec<Id> = self.tasks.keys().cloned().collect();
        for id in ids {
            let service = services.get(&id);
            self.observe(&id, service)?;
            let plan = self.plan(&id, service);
            wake = wake.into_iter().chain(plan.wake).min();
            self.carry_out(&id, service, plan)?;
            let is_empty = self.tasks.get(&id).is_none_or(|own| own.tasks.is_empty());
            if service.is_none() && is_empty {
                self.records.forget(&id)?;
                self.tasks.remove(&id);
            }
        }
        Ok(wake)
    }

    fn plan(&self, id: &Id, service: Option<&Service>) -> Plan {
        let template = service.map(template::digest).unwrap_or_default();
        let none = Vec::new();
        plan::plan(Situation {
            now: Timestamp::now(),
            service,
            template: &template,
            tasks: self.tasks.get(id).map_or(&none, |own| &own.tasks),
        })
    }

    /// Takes down what the containers are by now.
    fn observe(&mut self, id: &Id, service: Option<&Service>) -> Result<(), CliError> {
        let Some(own) = self.tasks.get_mut(id) else {
            return Ok(());
        };
        let before = own.clone();
        let now = Timestamp::now();
        for task in &mut own.tasks {
            if task.is_over() || self.busy.contains(&task.id) {
                continue;
            }
            look_at(self.context, service, task, now)?;
        }
        if *own != before {
            self.records.write(id, own)?;
        }
        Ok(())
    }

    fn carry_out(
        &mut self,
        id: &Id,
        service: Option<&Service>,
        plan: Plan,
    ) -> Result<(), CliError> {
        for step in plan.steps {
            match step {
                Step::Create { slot } => self.create(id, service, slot)?,
                Step::End { task, desired } => self.change(id, &task, |task| {
                    task.desired = desired;
                })?,
                Step::Forget { task } => self.begin(id, &task, Job::Forget),
                Step::Status(status) => self.tell_status(service, &status),
                Step::RollBack { why } => self.roll_back(service, &why),
            }
        }
        // What is to run or to end, and is not, also after a job that failed or an agent that died.
        let own = self.tasks.get(id).map(|own| own.tasks.clone());
        for task in own.unwrap_or_default() {
            match (task.desired, task.state, service) {
                (Desired::Running, TaskState::Starting, Some(service))
                    if task.container.is_none() =>
                {
                    self.begin(id, &task.id, Job::Start(Box::new(service.clone())));
                }
                (Desired::Shutdown | Desired::Remove, _, _) if !task.is_over() => {
                    self.begin(id, &task.id, Job::End);
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn create(&mut self, id: &Id, service: Option<&Service>, slot: u64) -> Result<(), CliError> {
        let Some(service) = service else {
            return Ok(());
        };
        let template = service.spec.task_template.as_ref();
        let mut random = [0; 25];
        getrandom::fill(&mut random).map_err(|error| CliError::Io {
            op: "read random bytes",
            source: std::io::Error::other(error),
        })?;
        let task = task::new_id(random);
        let now = Timestamp::now();
        let own = self.tasks.entry(id.clone()).or_default();
        own.tasks.push(Task {
            name: template::name(&service.spec.name, slot, &task, &self.node),
            id: task,
            slot,
            template: template::digest(service),
            image: template
                .map(|t| t.container_spec.image.clone())
                .unwrap_or_default(),
            desired: Desired::Running,
            state: TaskState::Starting,
            since: now,
            created: now,
            ran: None,
            container: None,
            error: String::new(),
        });
        Ok(self.records.write(id, own)?)
    }

    fn change(
        &mut self,
        id: &Id,
        task: &str,
        change: impl FnOnce(&mut Task),
    ) -> Result<(), CliError> {
        let Some(own) = self.tasks.get_mut(id) else {
            return Ok(());
        };
        if let Some(task) = own.tasks.iter_mut().find(|other| other.id == task) {
            change(task);
        }
        Ok(self.records.write(id, own)?)
    }

    fn begin(&mut self, id: &Id, task: &str, job: Job) {
        let own = self.tasks.get(id);
        let found = own.and_then(|own| own.tasks.iter().find(|other| other.id == task));
        if let Some(task) = found
            && self.busy.insert(task.id.clone())
        {
            act::spawn(self.context, &self.node, (id, task), job, &self.wakes.0);
        }
    }

    /// Takes down what a job has done.
    fn take(&mut self, wake: Wake) -> Result<(), CliError> {
        self.stirred = Instant::now();
        match wake {
            Wake::Done(report) => self.note(report),
            Wake::News => Ok(()),
        }
    }

    fn note(&mut self, report: Report) -> Result<(), CliError> {
        self.busy.remove(&report.task);
        let now = Timestamp::now();
        match report.done {
            Done::Started(container) => self.change(&report.service, &report.task, |task| {
                task.container = Some(container);
            }),
            Done::Rejected(container, error) => {
                self.change(&report.service, &report.task, |task| {
                    task.container = container;
                    task.error = error;
                    task.becomes(TaskState::Rejected, now);
                })
            }
            Done::Ended => self.change(&report.service, &report.task, |task| task.has_ended(now)),
            Done::Failed(error) => {
                crate::cli::warn(format_args!("{now} task {}: {error}", report.task));
                Ok(())
            }
            Done::Forgotten => {
                if let Some(own) = self.tasks.get_mut(&report.service) {
                    own.tasks.retain(|task| task.id != report.task);
                    self.records.write(&report.service, own)?;
                }
                Ok(())
            }
        }
    }

    /// A service that was changed meanwhile is looked at again in the next pass.
    fn tell_status(&mut self, service: Option<&Service>, status: &UpdateStatus) {
        let Some(service) = service else { return };
        let route = format!(
            "{SERVICES}/{}/{SERVICE_UPDATE_STATUS}?version={}",
            service.id, service.version.index
        );
        if let Err(error) = self.context.client().post::<Service>(&route, status) {
            self.complain(&error.into());
        }
    }

    fn roll_back(&mut self, service: Option<&Service>, why: &str) {
        let Some(service) = service else { return };
        let route = format!(
            "{SERVICES}/{}/{SERVICE_ROLLBACK}?version={}&message={}",
            service.id,
            service.version.index,
            escape(why)
        );
        if let Err(error) = self.context.client().post::<Service>(&route, &()) {
            self.complain(&error.into());
        }
    }
}

fn until(at: Timestamp) -> Duration {
    let span = at.duration_since(Timestamp::now());
    Duration::try_from(span).unwrap_or_default()
}

/// What the container of a task says of it.
fn look_at(
    context: &Context,
    service: Option<&Service>,
    task: &mut Task,
    now: Timestamp,
) -> Result<(), CliError> {
    let Some(container) = act::find(context, task)? else {
        if task.container.is_some() {
            task.error = "its container is gone".to_owned();
            task.becomes(TaskState::Failed, now);
        }
        return Ok(());
    };
    let state = container.state()?;
    match state.status {
        Status::Created => {}
        Status::Running if !is_ready(service, container.id()) => {}
        Status::Running => {
            task.container = Some(container.id().clone());
            task.becomes(TaskState::Running, now);
            if task.is_wanted() {
                task.error = complaint(service, &container)?;
            }
        }
        _ if !task.is_wanted() => task.has_ended(now),
        _ if state.exit_code == 0 => task.becomes(TaskState::Complete, now),
        _ => {
            task.error = format!("task: non-zero exit ({})", state.exit_code);
            task.becomes(TaskState::Failed, now);
        }
    }
    Ok(())
}

/// A member that no probe has found well yet is still starting.
fn is_ready(service: Option<&Service>, container: &Id) -> bool {
    probed(service, container).all(|member| member.state != MemberState::Starting)
}

/// What a health check finds wrong with a container: the service's, or its own. Empty when all is
/// well.
fn complaint(service: Option<&Service>, container: &ContainerDir) -> Result<String, CliError> {
    let mut members = probed(service, container.id());
    if let Some(member) = members.find(|member| member.state == MemberState::Down) {
        return Ok(format!("unhealthy: {}", member.error));
    }
    let health = container.health()?.unwrap_or_default();
    if health.status != HealthStatus::Unhealthy {
        return Ok(String::new());
    }
    let last = health.log.last().map(|check| check.output.trim());
    Ok(format!("unhealthy: {}", last.unwrap_or_default()))
}

/// The container's parts in a service that is probed.
fn probed<'a>(
    service: Option<&'a Service>,
    container: &Id,
) -> impl Iterator<Item = &'a ServiceMember> {
    let service = service.filter(|service| service.spec.health.is_some());
    let members = service.into_iter().flat_map(|service| &service.members);
    members.filter(move |member| member.container_id == container.as_str())
}
