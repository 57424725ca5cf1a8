//! What the agent has done, each in a thread of its own: a stop may take as long as the container
//! wants, and no other task waits for it. Each is idempotent, so that an agent that died in the
//! middle of one does it again.

use std::collections::BTreeMap;
use std::sync::mpsc::Sender;
use std::thread;

use api::id::Id;
use api::path::{SERVICE_LOGINS, SERVICES};
use api::service::Service;
use api::storage::Secret;
use jiff::Timestamp;

use super::news::Wake;
use super::task::Task;
use super::template;
use crate::cli::container::{remove, stop};
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::run::create::{self, Attached};
use crate::cli::run::start;
use crate::registry::RegistryError;
use crate::store::{ContainerDir, StoreError};

/// What became of a job.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) service: Id,
    pub(super) task: String,
    pub(super) done: Done,
}

#[derive(Debug)]
pub(super) enum Done {
    /// The container runs, or ran.
    Started(Id),
    /// It could not be made, or not be started.
    Rejected(Option<Id>, String),
    Ended,
    /// Nothing is left of it.
    Forgotten,
    /// To be tried again.
    Failed(String),
}

#[derive(Debug, Clone)]
pub(super) enum Job {
    Start(Box<Service>),
    End,
    Forget,
}

/// Does the job in a thread, which tells of its end.
pub(super) fn spawn(
    context: &Context,
    node: &str,
    (service, task): (&Id, &Task),
    job: Job,
    wakes: &Sender<Wake>,
) {
    let context = context.another();
    let (service, task, node) = (service.clone(), task.clone(), node.to_owned());
    let wakes = wakes.clone();
    thread::spawn(move || {
        let done = match job {
            Job::Start(of) => begin(&context, &of, &task, &node),
            Job::End => end(&context, &task),
            Job::Forget => forget(&context, &task),
        };
        let report = Report {
            service,
            task: task.id,
            done,
        };
        // Nobody listens when the agent ends.
        drop(wakes.send(Wake::Done(report)));
    });
}

fn begin(context: &Context, service: &Service, task: &Task, node: &str) -> Done {
    let container = match made(context, service, task, node) {
        Ok(container) => container,
        Err(error) => return Done::Rejected(None, refusal(&error)),
    };
    match start::detached(context, &container) {
        Ok(()) => Done::Started(container.id().clone()),
        Err(error) => Done::Rejected(Some(container.id().clone()), error.to_string()),
    }
}

fn made(
    context: &Context,
    service: &Service,
    task: &Task,
    node: &str,
) -> Result<ContainerDir, CliError> {
    if let Some(container) = find(context, task)? {
        return Ok(container);
    }
    let template = service.spec.task_template.clone().unwrap_or_default();
    let flags = template::flags(service, &template, task, node)?;
    let context = context.with_logins(logins(context, service, &template.container_spec.image));
    let (container, _stays) = create::create(&context, &flags, Attached::default())?;
    Ok(container)
}

/// Those that the service keeps for who pulls its image. Without an answer this host's own have to do.
fn logins(context: &Context, service: &Service, image: &str) -> BTreeMap<String, Secret> {
    if context.image(image).is_ok() {
        return BTreeMap::new();
    }
    let route = format!("{SERVICES}/{}/{SERVICE_LOGINS}", service.id);
    context.client().get(&route).unwrap_or_else(|error| {
        crate::cli::warn(format_args!("{} logins: {error}", Timestamp::now()));
        BTreeMap::new()
    })
}

/// Why a container could not be made, with the way out.
fn refusal(error: &CliError) -> String {
    match error {
        CliError::Registry(RegistryError::Denied { .. }) => {
            format!(
                "{error} there, or --with-registry-auth where the service is created or updated"
            )
        }
        other => other.to_string(),
    }
}

fn end(context: &Context, task: &Task) -> Done {
    let ended = find(context, task).and_then(|container| match container {
        Some(container) => stop::stop_in_time(context, &container),
        None => Ok(()),
    });
    match ended {
        Ok(()) => Done::Ended,
        Err(error) => Done::Failed(error.to_string()),
    }
}

fn forget(context: &Context, task: &Task) -> Done {
    let gone = find(context, task).and_then(|container| match container {
        Some(container) => remove::discard(context, container.id().as_str()),
        None => Ok(()),
    });
    match gone {
        Ok(()) | Err(CliError::Store(StoreError::NotFound { .. })) => Done::Forgotten,
        Err(error) => Done::Failed(error.to_string()),
    }
}

/// The task's container, which its name tells even when its id was not recorded yet.
pub(super) fn find(context: &Context, task: &Task) -> Result<Option<ContainerDir>, CliError> {
    let key = task
        .container
        .as_ref()
        .map_or(task.name.as_str(), Id::as_str);
    match context.container(key) {
        Ok(container) => Ok(Some(container)),
        Err(CliError::Store(StoreError::NotFound { .. })) => Ok(None),
        Err(error) => Err(error),
    }
}
