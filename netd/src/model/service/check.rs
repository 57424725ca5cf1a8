//! What of a service can be checked without looking at anything else.

use std::time::Duration;

use api::service::{EndpointMode, Health, Probe, PublishMode, ServiceSpec};

use super::{ServiceError, binding};
use crate::model::port;

/// More than anybody's shares need; the sum of all members' stays far from overflow.
pub(super) const MAX_WEIGHT: u32 = 1000;
const MAX_NAME: usize = 63;
/// A bridge has 1 023 ports.
const MAX_REPLICAS: u64 = 1000;
const MAX_DRAIN: Duration = Duration::from_secs(3600);
const SHORTEST: Duration = Duration::from_millis(1);
const LONGEST: Duration = Duration::from_secs(24 * 3600);
const MAX_RUN: u32 = 1000;

/// # Errors
/// [`ServiceError`] names what a service cannot be.
pub(crate) fn check(spec: &ServiceSpec) -> Result<(), ServiceError> {
    if !is_name(&spec.name) {
        return Err(ServiceError::Name(spec.name.chars().take(64).collect()));
    }
    let dnsrr = spec.endpoint_spec.mode == EndpointMode::Dnsrr;
    for port in &spec.endpoint_spec.ports {
        let mut on_host = binding(port);
        if port.one_target {
            // Whatever the length of the run.
            on_host.container_port = 1;
            if port.publish_mode == PublishMode::Host || port.target_port == 0 {
                return Err(ServiceError::OneTarget(port.to_string()));
            }
        }
        port::check(&on_host)?;
        if dnsrr && port.publish_mode == PublishMode::Ingress {
            return Err(ServiceError::DnsrrPort(port.to_string()));
        }
    }
    check_tasks(spec)?;
    if spec.drain > MAX_DRAIN {
        return Err(ServiceError::Drain);
    }
    spec.health.as_ref().map_or(Ok(()), check_health)
}

fn check_tasks(spec: &ServiceSpec) -> Result<(), ServiceError> {
    let invalid = |why: &str| Err(ServiceError::Template(why.to_owned()));
    let Some(template) = &spec.task_template else {
        return match spec.mode {
            Some(_) => invalid("replicas need an image"),
            None => Ok(()),
        };
    };
    if template.container_spec.image.is_empty() {
        return invalid("its image has no name");
    }
    for config in [&spec.update_config, &spec.rollback_config]
        .into_iter()
        .flatten()
    {
        if !(0.0..=1.0).contains(&config.max_failure_ratio) {
            return invalid("its largest ratio of failures is not between 0 and 1");
        }
    }
    match spec.mode.unwrap_or_default().replicas() {
        0..=MAX_REPLICAS => Ok(()),
        _ => invalid("one host runs at most 1000 replicas"),
    }
}

/// # Errors
/// [`ServiceError::Weight`].
pub(crate) fn check_weight(weight: u32) -> Result<(), ServiceError> {
    match weight {
        0..=MAX_WEIGHT => Ok(()),
        _ => Err(ServiceError::Weight(weight)),
    }
}

fn check_health(health: &Health) -> Result<(), ServiceError> {
    let invalid = |why: String| Err(ServiceError::Health(why));
    for (what, duration) in [("interval", health.interval), ("timeout", health.timeout)] {
        if !(SHORTEST..=LONGEST).contains(&duration) {
            return invalid(format!("its {what} is not between 1 ms and a day"));
        }
    }
    if health.start_period > LONGEST {
        return invalid("its start period is longer than a day".to_owned());
    }
    for (what, count) in [("rise", health.rise), ("fall", health.fall)] {
        if !(1..=MAX_RUN).contains(&count) {
            return invalid(format!(
                "its {what} is {count}, not between 1 and {MAX_RUN}"
            ));
        }
    }
    match &health.probe {
        Probe::Tcp { port: 0 } | Probe::Http { port: 0, .. } => invalid("its port is 0".to_owned()),
        Probe::Http { path, .. } if !is_path(path) => invalid(format!(
            "{path:?} is no path: it begins with / and has no white space"
        )),
        Probe::Command { command } if command.is_empty() => {
            invalid("its command is empty".to_owned())
        }
        Probe::Tcp { .. } | Probe::Http { .. } | Probe::Command { .. } => Ok(()),
    }
}

/// A label of a domain name, so that it resolves.
fn is_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    let is_end = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    bytes.len() <= MAX_NAME
        && is_end(bytes.first())
        && is_end(bytes.last())
        && bytes
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

/// It goes into a request line as it is.
fn is_path(path: &str) -> bool {
    path.starts_with('/') && path.bytes().all(|b| b.is_ascii_graphic())
}
