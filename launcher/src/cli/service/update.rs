//! `hawser service update`: what is not mentioned stays.

use api::client::escape;
use api::path::{SERVICE_MEMBERS, SERVICE_UPDATE};
use api::service::{Affinity, MemberUpdate, Service, ServiceNetwork, ServiceRequest, ServiceSpec};
use clap::Args;

use super::change::ChangedTaskFlags;
use super::create::{networks, ports};
use super::health::{HealthFlags, duration};
use super::task::{TaskFlags, unused};
use super::{
    AffinityFlag, ModeFlag, ServiceFlagError, check, find, login, pin, port, progress, rollback,
    route,
};
use crate::agent;
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::output;
use crate::cli::run::env;

/// `hawser service update`.
#[derive(Debug, Clone, Args)]
pub struct UpdateFlags {
    /// Publish a further port, as --publish of hawser service create
    #[arg(long, value_name = "PORT")]
    pub publish_add: Vec<String>,
    /// Publish a port no more: TARGET[/PROTOCOL], or PORT:TARGET of several; its connections end
    #[arg(long, value_name = "PORT")]
    pub publish_rm: Vec<String>,
    /// Be on a further network
    #[arg(long, value_name = "NETWORK")]
    pub network_add: Vec<String>,
    /// Leave a network that no member is on
    #[arg(long, value_name = "NETWORK")]
    pub network_rm: Vec<String>,
    /// What the service's name stands for: an address of its own, or those of its members
    #[arg(long, value_name = "MODE")]
    pub endpoint_mode: Option<ModeFlag>,
    /// Whether all connections of a client go to one member
    #[arg(long, value_name = "KIND")]
    pub affinity: Option<AffinityFlag>,
    /// Add or change a label: NAME[=VALUE]
    #[arg(long, value_name = "LABEL")]
    pub label_add: Vec<String>,
    /// Remove a label
    #[arg(long, value_name = "NAME")]
    pub label_rm: Vec<String>,
    /// How long a member that stops may finish its connections before it gets its signal
    #[arg(long, value_name = "DURATION")]
    pub drain: Option<String>,
    /// A member's share of new connections relative to the others': CONTAINER=WEIGHT; 0 sends it
    /// nothing new
    #[arg(long, value_name = "CONTAINER=WEIGHT")]
    pub member_weight: Vec<String>,
    /// Take the last update back
    #[arg(long)]
    pub rollback: bool,
    /// Print nothing but the name
    #[arg(short, long)]
    pub quiet: bool,
    /// Do not wait until the update is done
    #[arg(short, long)]
    pub detach: bool,
    #[command(flatten)]
    pub health: HealthFlags,
    #[command(flatten)]
    pub changed: ChangedTaskFlags,
    #[command(flatten)]
    pub task: TaskFlags,
    /// Service to change
    pub service: String,
}

/// # Errors
/// Flags that cannot be, or the daemon's refusal.
pub fn update(context: &Context, flags: &UpdateFlags) -> Result<i32, CliError> {
    let mut service = find(context, &flags.service)?;
    if flags.rollback {
        return rollback::back(
            context,
            &service,
            (flags.detach, flags.quiet),
            &flags.service,
        );
    }
    let weights = weights(&flags.member_weight)?;
    let mut spec = changed(flags, &service)?;
    check::check(context, &spec)?;
    if let Some(template) = &mut spec.task_template
        && flags.changed.image.is_some()
        && !flags.task.no_resolve_image
    {
        pin::pin(context, &mut template.container_spec.image)?;
    }
    if flags.task.with_registry_auth {
        login::carry(&mut spec)?;
    }
    let own = route(service.id.as_str());
    if spec != service.spec {
        let version = service.version.index;
        let route = format!("{own}/{SERVICE_UPDATE}?version={version}");
        service = context.client().post(&route, &ServiceRequest::from(spec))?;
    }
    for (container, weight) in weights {
        let route = format!("{own}/{SERVICE_MEMBERS}/{}", escape(container));
        let update = MemberUpdate {
            weight: Some(weight),
            ..MemberUpdate::default()
        };
        context.client().post::<Service>(&route, &update)?;
    }
    output::line(&flags.service)?;
    settle(context, &service, (flags.detach, flags.quiet))
}

/// Waits until the replicas are as the service says.
pub(super) fn settle(
    context: &Context,
    service: &Service,
    (detach, quiet): (bool, bool),
) -> Result<i32, CliError> {
    if service.spec.task_template.is_none() {
        return Ok(0);
    }
    agent::ensure(context)?;
    if detach {
        return Ok(0);
    }
    progress::wait(context, service, quiet)
}

fn changed(flags: &UpdateFlags, service: &Service) -> Result<ServiceSpec, CliError> {
    let mut spec = service.spec.clone();
    for text in &flags.publish_rm {
        let ports = &spec.endpoint_spec.ports;
        spec.endpoint_spec.ports = port::without(ports, text, &spec.name)?;
    }
    spec.endpoint_spec.ports.extend(ports(&flags.publish_add)?);
    if let Some(mode) = flags.endpoint_mode {
        spec.endpoint_spec.mode = mode.into();
    }
    if let Some(affinity) = flags.affinity {
        spec.affinity = Affinity::from(affinity);
    }
    let (left, added) = (networks(&flags.network_rm)?, networks(&flags.network_add)?);
    let is_one_of = |all: &[ServiceNetwork], own: &ServiceNetwork| {
        all.iter().any(|other| other.target == own.target)
    };
    spec.networks
        .retain(|network| !is_one_of(&left, network) && !is_one_of(&added, network));
    spec.networks.extend(added);
    spec.labels.extend(env::labels(&flags.label_add));
    spec.labels.retain(|name, _| !flags.label_rm.contains(name));
    if let Some(text) = &flags.drain {
        spec.drain = duration("--drain", text)?;
    }
    spec.health = flags.health.check(service.spec.health.as_ref())?;
    match &mut spec.task_template {
        Some(template) => flags.changed.change(template)?,
        None => unused(&flags.changed)?,
    }
    flags.task.change(&mut spec)?;
    Ok(spec)
}

fn weights(texts: &[String]) -> Result<Vec<(&str, u32)>, ServiceFlagError> {
    let mut weights = Vec::new();
    for text in texts {
        let invalid = || ServiceFlagError::Value {
            flag: "--member-weight",
            text: text.clone(),
            expected: "CONTAINER=WEIGHT, such as web1=3",
        };
        let (container, weight) = text.rsplit_once('=').ok_or_else(invalid)?;
        weights.push((
            container,
            weight.parse().map_err(|_not_a_number| invalid())?,
        ));
    }
    Ok(weights)
}
