//! `hawser service create`.

use std::time::Duration;

use api::path::SERVICES_CREATE;
use api::service::{
    Affinity, EndpointSpec, Service, ServiceNetwork, ServicePort, ServiceRequest, ServiceSpec,
};
use clap::Args;

use super::health::{HealthFlags, duration};
use super::task::{NewTaskFlags, TaskFlags, unused};
use super::{AffinityFlag, ModeFlag, ServiceFlagError, check, login, pin, port, progress};
use crate::agent;
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::output;
use crate::cli::run::create::random_name;
use crate::cli::run::env;
use crate::cli::run::network::parse as parse_network;
use crate::container::NetworkRequest;

/// How long a member's connections may take to end before it is told to stop.
const DRAIN: Duration = Duration::from_secs(5);

/// `hawser service create`.
#[derive(Debug, Clone, Args)]
pub struct CreateFlags {
    /// Name of the service, which resolves on its networks; one with an image gets a random name
    /// otherwise
    #[arg(long)]
    pub name: Option<String>,
    /// Network of the service, also several times; the default network unless given. With further
    /// names of the replicas there: name=NETWORK,alias=NAME
    #[arg(long, value_name = "NETWORK")]
    pub network: Vec<String>,
    /// Publish a port on this host: [PORT:]TARGET[/PROTOCOL], or
    /// target=PORT,published=PORT,protocol=tcp|udp|sctp,mode=ingress|host; each may be a range
    #[arg(short, long, value_name = "PORT")]
    pub publish: Vec<String>,
    /// What the service's name stands for: an address of its own, or those of its members
    #[arg(long, value_name = "MODE", default_value = "vip")]
    pub endpoint_mode: ModeFlag,
    /// Whether all connections of a client go to one member
    #[arg(long, value_name = "KIND", default_value = "none")]
    pub affinity: AffinityFlag,
    /// Label: NAME[=VALUE]
    #[arg(short, long, value_name = "LABEL")]
    pub label: Vec<String>,
    /// How long a member that stops may finish its connections before it gets its signal, 5s unless
    /// given
    #[arg(long, value_name = "DURATION")]
    pub drain: Option<String>,
    /// Print nothing but the id
    #[arg(short, long)]
    pub quiet: bool,
    /// Do not wait until all replicas run
    #[arg(short, long)]
    pub detach: bool,
    #[command(flatten)]
    pub health: HealthFlags,
    #[command(flatten)]
    pub new: NewTaskFlags,
    #[command(flatten)]
    pub task: TaskFlags,
    /// The image of replicas that are started and kept, then the command to run instead of the
    /// image's own; without one, containers join with hawser run --service
    #[arg(value_names = ["IMAGE", "COMMAND"], num_args = 0.., trailing_var_arg = true)]
    pub image_and_command: Vec<String>,
}

/// # Errors
/// Flags that cannot be, or the daemon's refusal.
pub fn create(context: &Context, flags: &CreateFlags) -> Result<i32, CliError> {
    let mut spec = spec(flags)?;
    let has_tasks = spec.task_template.is_some();
    if has_tasks {
        context.require_root()?;
        check::check(context, &spec)?;
    }
    if let Some(template) = &mut spec.task_template
        && !flags.task.no_resolve_image
    {
        pin::pin(context, &mut template.container_spec.image)?;
    }
    if flags.task.with_registry_auth {
        login::carry(&mut spec)?;
    }
    let request = ServiceRequest::from(spec);
    let service: Service = context.client().post(SERVICES_CREATE, &request)?;
    output::line(&service.id)?;
    if !has_tasks {
        return Ok(0);
    }
    agent::ensure(context)?;
    if flags.detach {
        return Ok(0);
    }
    progress::wait(context, &service, flags.quiet)
}

fn spec(flags: &CreateFlags) -> Result<ServiceSpec, CliError> {
    let drain = flags.drain.as_deref();
    let (task_template, mode) = match flags.image_and_command.split_first() {
        None => {
            unused(&flags.new)?;
            (None, None)
        }
        Some((image, command)) => (
            Some(flags.new.template(image, command)?),
            Some(flags.new.mode(flags.task.replicas)?),
        ),
    };
    let mut spec = ServiceSpec {
        name: name(flags)?,
        task_template,
        mode,
        update_config: None,
        rollback_config: None,
        labels: env::labels(&flags.label),
        networks: networks(&flags.network)?,
        endpoint_spec: EndpointSpec {
            mode: flags.endpoint_mode.into(),
            ports: ports(&flags.publish)?,
        },
        affinity: Affinity::from(flags.affinity),
        health: flags.health.check(None)?,
        drain: drain.map_or(Ok(DRAIN), |text| duration("--drain", text))?,
        login: None,
    };
    flags.task.change(&mut spec)?;
    Ok(spec)
}

fn name(flags: &CreateFlags) -> Result<String, CliError> {
    match &flags.name {
        Some(name) => Ok(name.clone()),
        None if flags.image_and_command.is_empty() => Err(ServiceFlagError::NoName.into()),
        None => Ok(random_name(0)?.to_string()),
    }
}

pub(super) fn networks(specs: &[String]) -> Result<Vec<ServiceNetwork>, CliError> {
    let mut networks = Vec::new();
    for spec in specs {
        let asked = parse_network(spec)?;
        let can_be = NetworkRequest {
            network: asked.network.clone(),
            aliases: asked.aliases.clone(),
            ..NetworkRequest::default()
        };
        if asked != can_be {
            return Err(ServiceFlagError::Network(spec.clone()).into());
        }
        networks.push(ServiceNetwork {
            target: asked.network,
            aliases: asked.aliases,
        });
    }
    Ok(networks)
}

pub(super) fn ports(specs: &[String]) -> Result<Vec<ServicePort>, ServiceFlagError> {
    let mut ports = Vec::new();
    for spec in specs {
        ports.extend(port::parse(spec)?);
    }
    Ok(ports)
}
