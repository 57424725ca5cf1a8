//! What containers say of the tasks that they are of.

use api::id::Id;
use api::service::{MemberState, Service, ServiceMember};
use jiff::Timestamp;

use super::act;
use super::task::{Task, TaskState};
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::container::{HealthStatus, Status};
use crate::store::ContainerDir;

/// What the container of a task says of it.
pub(super) fn look_at(
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
