//! From what a service says of its tasks to the flags of one container.

use std::slice::from_ref;

use api::service::{Service, ServiceNetwork};
use api::task::{ContainerSpec, TaskTemplate};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::task::{Slot, Task};
use crate::cli::error::CliError;
use crate::cli::run::flags::CreateFlags;
use crate::cli::run::resource::LimitFlags;
use crate::cli::service::ServiceFlagError;
use crate::cli::words::words;
use crate::format::template::{Template, TemplateError};

/// What tasks are told apart by: all that a task is made of. Replicas and the ways to update are no
/// part of it.
pub fn digest(service: &Service) -> String {
    let spec = &service.spec;
    let of_host: Vec<_> = spec
        .endpoint_spec
        .ports
        .iter()
        .filter(|port| port.publish_mode == api::service::PublishMode::Host)
        .collect();
    let made_of = json!({
        "template": spec.task_template,
        "networks": spec.networks,
        "ports": of_host,
    });
    hex::encode(Sha256::digest(made_of.to_string()))
}

/// The name of a task's container: in mode global with the host's id, as Docker's.
pub fn name(service: &str, slot: &Slot, id: &str) -> String {
    match &slot.node {
        Some(node) => format!("{service}.{node}.{id}"),
        None => format!("{service}.{}.{id}", slot.number),
    }
}

/// The service as it was when the task was decided on; none, if that is longer ago than its last
/// update.
pub fn as_decided(service: &Service, task: &Task) -> Option<Service> {
    let mut decided = service.clone();
    if digest(&decided) != task.template {
        decided.spec = decided.previous_spec.take()?;
    }
    (digest(&decided) == task.template).then_some(decided)
}

/// The flags of `hawser create` for the task. `node` is the host's name.
///
/// # Errors
/// A template of a value cannot be read, or the entrypoint.
pub fn flags(
    service: &Service,
    template: &TaskTemplate,
    task: &Task,
    node: &str,
) -> Result<CreateFlags, CliError> {
    let spec = &template.container_spec;
    let values = json!({
        "Service": { "ID": service.id, "Name": service.spec.name, "Labels": service.spec.labels },
        "Node": { "ID": task.node, "Hostname": node },
        "Task": { "ID": task.id, "Name": task.name, "Slot": task.slot },
    });
    let render = |text: &String| rendered(text, &values).map_err(CliError::from);
    let mut mounts = Vec::new();
    for mount in &spec.mounts {
        mounts.push(render(&mount.fields)?);
    }
    let (entrypoint, arguments) = entrypoint(spec)?;
    let some = |text: &String| (!text.is_empty()).then(|| text.clone());
    let driver = template.log_driver.as_ref();
    let mut labels = spec.labels.clone();
    labels.extend(
        [
            ("node.id", task.node.as_str()),
            ("service.id", service.id.as_str()),
            ("service.name", &service.spec.name),
            // Docker's has nothing either.
            ("task", ""),
            ("task.id", &task.id),
            ("task.name", &task.name),
        ]
        .map(|(name, value)| (format!("com.docker.swarm.{name}"), value.to_owned())),
    );
    Ok(CreateFlags {
        name: Some(task.name.clone()),
        tty: spec.tty,
        service: vec![service.spec.name.clone()],
        hostname: some(&spec.hostname).as_ref().map(render).transpose()?,
        env: spec.env.iter().map(render).collect::<Result<_, _>>()?,
        mount: mounts,
        network: networks(service),
        read_only: spec.read_only,
        init: spec.init,
        workdir: some(&spec.dir),
        user: some(&spec.user),
        group_add: spec.groups.clone(),
        entrypoint,
        stop_signal: some(&spec.stop_signal),
        stop_timeout: Some(seconds(spec.stop_grace_period)),
        add_host: spec.hosts.clone(),
        dns: spec.dns.nameservers.clone(),
        dns_search: spec.dns.search.clone(),
        dns_option: spec.dns.options.clone(),
        cap_add: spec.capability_add.clone(),
        cap_drop: spec.capability_drop.clone(),
        sysctl: pairs(&spec.sysctls),
        ulimit: spec.ulimits.clone(),
        label: pairs(&labels),
        log_driver: driver.and_then(|driver| some(&driver.name)),
        log_opt: driver
            .map(|driver| pairs(&driver.options))
            .unwrap_or_default(),
        limits: limits(template),
        image_and_command: [from_ref(&spec.image), &*arguments, &*spec.args].concat(),
        ..CreateFlags::default()
    })
}

/// The program, and the first of its arguments; an empty text is no entrypoint instead of the image's.
fn entrypoint(spec: &ContainerSpec) -> Result<(Option<String>, Vec<String>), ServiceFlagError> {
    let Some(text) = &spec.entrypoint else {
        return Ok((None, Vec::new()));
    };
    let mut words = words(text)
        .map_err(|why| ServiceFlagError::Words {
            flag: "--entrypoint",
            why,
        })?
        .into_iter();
    Ok((Some(words.next().unwrap_or_default()), words.collect()))
}

/// Where the container has further names; elsewhere it is on the service's networks by itself.
fn networks(service: &Service) -> Vec<String> {
    let networks = &service.spec.networks;
    if networks.iter().all(|network| network.aliases.is_empty()) {
        return Vec::new();
    }
    let fields = |network: &ServiceNetwork| {
        let aliases = network
            .aliases
            .iter()
            .map(|alias| format!(",alias={alias}"));
        format!("name={}{}", network.target, aliases.collect::<String>())
    };
    networks.iter().map(fields).collect()
}

fn limits(template: &TaskTemplate) -> LimitFlags {
    let (limits, kept) = (template.resources.limits, template.resources.reservations);
    let some = |amount: u64| (amount > 0).then(|| amount.to_string());
    let billionths = |nano: u64| format!("{}.{:09}", nano / 1_000_000_000, nano % 1_000_000_000);
    LimitFlags {
        memory: some(limits.memory_bytes),
        memory_reservation: some(kept.memory_bytes),
        cpus: (limits.nano_cpus > 0).then(|| billionths(limits.nano_cpus)),
        pids_limit: i64::try_from(limits.pids).ok().filter(|pids| *pids > 0),
        ..LimitFlags::default()
    }
}

fn rendered(text: &str, values: &Value) -> Result<String, TemplateError> {
    if !text.contains("{{") {
        return Ok(text.to_owned());
    }
    Template::parse(text)?.render(values)
}

fn pairs(map: &std::collections::BTreeMap<String, String>) -> Vec<String> {
    map.iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect()
}

/// Whole seconds, of which a part counts as one: no time is taken from a container.
fn seconds(span: std::time::Duration) -> u32 {
    let whole = span.as_secs() + u64::from(span.subsec_nanos() > 0);
    u32::try_from(whole).unwrap_or(u32::MAX)
}
