//! `hawser agent`: keeps the replicas of services that name an image.
//!
//! A loop of passes, woken by what happens ([`news`]). A pass looks at the services, at the recorded
//! tasks and at their containers; [`plan`] says what is to be done next, which [`act`] does in
//! threads. Whatever is decided is on record before it is done, so that an agent that is killed at
//! any moment, the host included, goes on where it was. There is one agent for a state directory; it
//! starts when a service needs it, or a cluster, and ends when none does.
//!
//! In a cluster every node's agent carries out what it is ordered to ([`crew`]) and reports on it. The
//! one of the node that leads plans for all ([`lead`]).

mod act;
pub mod constraint;
pub mod crew;
pub mod host;
pub(crate) mod lead;
mod news;
mod observe;
mod output;
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
use api::daemon::Info;
use api::id::Id;
use api::path::{INFO, SERVICE_ROLLBACK, SERVICE_UPDATE_STATUS, SERVICES};
use api::service::Service;
use api::task::UpdateStatus;
use api::work::WorkChange;
use jiff::Timestamp;

use crate::cli::context::Context;
use crate::cli::error::CliError;
use act::{Done, Job, Report};
use crew::{Crew, Heard};
use host::Host;
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

/// Of a task that comes to a host after its service has changed twice: what it was to be made of is on
/// record no more.
const SUPERSEDED: &str = "not started: the service has been updated more than once since, and another \
                          task takes its place";

/// Keeps replicas until no service has any and the host is in no cluster, or its lock is removed.
///
/// # Errors
/// Its records cannot be used. A daemon that does not answer is waited for.
pub fn run(context: &Context) -> Result<(), CliError> {
    context.require_root()?;
    let records = Records::open(Path::new(&context.info()?.state_dir))?;
    let mut answers = false;
    loop {
        let Some(mut lock) = records.lock()? else {
            return Ok(());
        };
        lock.sign()?;
        if !std::mem::replace(&mut answers, true)
            && let Err(error) = output::answer(context, &records)
        {
            crate::cli::warn(format_args!("no output for other hosts: {error}"));
        }
        Agent::new(context, &records)?.keep(&lock)?;
        if !lock.is_current() {
            return Ok(());
        }
        drop(lock);
        // Whoever made a service since our last look saw an agent that ran.
        if records.lock()?.is_none() || !is_needed(context)? {
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

/// Whether a service has replicas to keep, or the host is in a cluster, which may have.
///
/// # Errors
/// The daemon cannot be asked.
pub fn is_needed(context: &Context) -> Result<bool, CliError> {
    let info: Info = context.client().get(INFO)?;
    if info.swarm.is_some() {
        return Ok(true);
    }
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
        .filter(|service| service.spec.task_template.is_some());
    Ok(own.map(|service| (service.id.clone(), service)).collect())
}

struct Agent<'c> {
    context: &'c Context,
    records: &'c Records,
    /// This host's name.
    node: String,
    /// Those that this host has.
    tasks: BTreeMap<Id, ServiceTasks>,
    /// Tasks that a job is about.
    busy: BTreeSet<String>,
    wakes: (Sender<Wake>, Receiver<Wake>),
    /// When something happened last.
    stirred: Instant,
    /// What was said last of a daemon that does not answer.
    complaint: String,
    /// Of the cluster, while this node leads.
    heard: Heard,
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
            heard: Heard::default(),
        })
    }

    /// Pass by pass, until there is nothing to keep.
    fn keep(&mut self, lock: &AgentLock) -> Result<(), CliError> {
        news::listen(self.context.client(), &self.wakes.0);
        while lock.is_current() {
            let wait = match services(self.context) {
                Ok(services) => {
                    let crew = Crew::read(self.context, false);
                    match &crew {
                        Ok(_) => self.complaint.clear(),
                        // What was ordered last is carried out.
                        Err(error) => self.complain(error),
                    }
                    let is_alone = matches!(crew, Ok(None));
                    let wake = self.pass(&services, crew.ok())?;
                    let rests = self.tasks.is_empty() && self.busy.is_empty();
                    if is_alone && services.is_empty() && rests {
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

    /// `crew` is of the cluster, if there is one; absent while nobody knows.
    fn pass(
        &mut self,
        services: &BTreeMap<Id, Service>,
        crew: Option<Option<Crew>>,
    ) -> Result<Option<Timestamp>, CliError> {
        while let Ok(wake) = self.wakes.1.try_recv() {
            self.take(wake)?;
        }
        for service in services.values().filter(|s| !s.id.is_of_cluster()) {
            let tasks = self.tasks.entry(service.id.clone()).or_default();
            tasks.service.clone_from(&service.spec.name);
        }
        if let Some(crew) = &crew {
            self.obey(crew.as_ref())?;
        }
        let mut wake: Option<Timestamp> = None;
        let ids: Vec<Id> = self.tasks.keys().cloned().collect();
        for id in &ids {
            self.observe(id, services.get(id))?;
        }
        for id in &ids {
            let service = services.get(id);
            if !id.is_of_cluster() {
                let hosts = [self.own_host(services)];
                let plan = self.plan(id, service, &hosts);
                wake = wake.into_iter().chain(plan.wake).min();
                self.carry_out(id, service, plan)?;
            }
            self.execute(id, service)?;
            let is_empty = self.tasks.get(id).is_none_or(|own| own.tasks.is_empty());
            if is_empty && (service.is_none() || id.is_of_cluster()) {
                self.records.forget(id)?;
                self.tasks.remove(id);
            }
        }
        if let Some(crew) = crew.flatten() {
            let led = self.report(&crew).and_then(|()| match crew.leads {
                Some(leads) => self.lead(services, crew, leads),
                None => {
                    self.heard = Heard::default();
                    Ok(None)
                }
            });
            match led {
                Ok(due) => wake = wake.into_iter().chain(due).min(),
                Err(error) => self.complain(&error),
            }
        }
        Ok(wake)
    }

    /// Takes down what the node that leads orders; in no cluster it orders nothing.
    fn obey(&mut self, crew: Option<&Crew>) -> Result<(), CliError> {
        let before = self.tasks.clone();
        let mut ordered = BTreeSet::new();
        for order in crew.iter().flat_map(|crew| crew.orders_of(&crew.node)) {
            ordered.insert(&order.task.id);
            let own = self.tasks.entry(order.service.clone()).or_default();
            own.service.clone_from(&order.service_name);
            match own.tasks.iter_mut().find(|task| task.id == order.task.id) {
                Some(task) => task.desired = order.task.desired,
                None => own.tasks.push(order.task.clone()),
            }
        }
        let mut gone = Vec::new();
        for (id, own) in &mut self.tasks {
            if !id.is_of_cluster() {
                continue;
            }
            // Nobody waits to see how they ended.
            let over = crew::dismiss(own, |task| ordered.contains(&task.id));
            gone.extend(over.into_iter().map(|task| (id.clone(), task)));
            if before.get(id) != Some(own) {
                self.records.write(id, own)?;
            }
        }
        for (id, task) in gone {
            self.begin(&id, &task, Job::Forget);
        }
        Ok(())
    }

    /// Tells the cluster of what has become of this host's tasks.
    fn report(&self, crew: &Crew) -> Result<(), CliError> {
        let own = self.tasks.iter().filter(|(id, _)| id.is_of_cluster());
        let reports = crew.news(own.flat_map(|(_, own)| &own.tasks))?;
        if reports.is_empty() {
            return Ok(());
        }
        let change = WorkChange {
            reports,
            ..WorkChange::default()
        };
        crew::tell(self.context, &change)
    }

    /// This host, with what its tasks take of it.
    fn own_host(&self, services: &BTreeMap<Id, Service>) -> Host {
        let mut host = Host::alone(&self.node);
        for (id, own) in &self.tasks {
            let Some(service) = services.get(id) else {
                continue;
            };
            for _task in own.tasks.iter().filter(|task| !task.is_over()) {
                host.take(service);
            }
        }
        host
    }

    fn plan(&self, id: &Id, service: Option<&Service>, hosts: &[Host]) -> Plan {
        let template = service.map(template::digest).unwrap_or_default();
        let none = Vec::new();
        plan::plan(Situation {
            now: Timestamp::now(),
            service,
            template: &template,
            tasks: self.tasks.get(id).map_or(&none, |own| &own.tasks),
            hosts,
            history: plan::HISTORY,
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
            observe::look_at(self.context, service, task, now)?;
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
        let now = Timestamp::now();
        for step in plan.steps {
            match step {
                Step::Create { slot, host } => {
                    let Some(service) = service else { continue };
                    let task = lead::new_task(service, &slot, host, now)?;
                    let own = self.tasks.entry(id.clone()).or_default();
                    own.tasks.push(task);
                    self.records.write(id, own)?;
                }
                Step::Place { task, host } => self.change(id, &task, |task| {
                    task.is_placed(host, now);
                })?,
                Step::End { task, desired } => self.change(id, &task, |task| {
                    task.is_to_end(desired, now);
                })?,
                Step::Forget { task } => self.begin(id, &task, Job::Forget),
                Step::Status(status) => self.tell_status(service, &status),
                Step::RollBack { why } => self.roll_back(service, &why),
            }
        }
        Ok(())
    }

    /// What is to run or to end, and is not, also after a job that failed or an agent that died.
    fn execute(&mut self, id: &Id, service: Option<&Service>) -> Result<(), CliError> {
        let own = self.tasks.get(id).map(|own| own.tasks.clone());
        for task in own.unwrap_or_default() {
            let is_new = task.state == TaskState::Starting && task.container.is_none();
            match task.desired {
                Desired::Running if is_new => self.start(id, service, &task)?,
                Desired::Shutdown | Desired::Remove if !task.is_over() => {
                    self.begin(id, &task.id, Job::End);
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn start(&mut self, id: &Id, service: Option<&Service>, task: &Task) -> Result<(), CliError> {
        // One of the cluster may be heard of later than its tasks.
        let known = service.filter(|service| service.revision.unwrap_or(0) >= task.revision);
        let Some(service) = known else {
            return Ok(());
        };
        match template::as_decided(service, task) {
            Some(decided) => self.begin(id, &task.id, Job::Start(Box::new(decided))),
            None => self.change(id, &task.id, |task| {
                task.error = SUPERSEDED.to_owned();
                task.becomes(TaskState::Rejected, Timestamp::now());
            })?,
        }
        Ok(())
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
