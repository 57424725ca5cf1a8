//! Members: joining, weights, verdicts, draining.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use api::id::Id;
use api::net::{AttachRequest, PortBinding};
use api::service::{self as wire, Drained, MemberUpdate, Probe};

use super::{connection, with_part};
use crate::apply;
use crate::error::NetError;
use crate::model::desired::Desired;
use crate::model::endpoint::{Endpoint, EndpointKey};
use crate::model::network::Network;
use crate::model::service::{Membership, Service, ServiceError, Verdict, check_weight, plan};
use crate::netd::Netd;

/// How often a drain looks whether the connections have ended.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long it takes at most until other nodes that hear of anything have heard of a member's end.
const HEARD: Duration = Duration::from_millis(500);

/// The part that a new endpoint gets in each service it asks for.
pub(crate) fn memberships(
    before: &Desired,
    request: &AttachRequest,
    network: &Network,
) -> Result<Vec<Membership>, ServiceError> {
    let mut memberships: Vec<Membership> = Vec::new();
    for join in &request.services {
        check_weight(join.weight)?;
        let service = before.services.find(&join.service)?;
        if !service.is_on(&network.id) {
            return Err(not_on(before, service, network));
        }
        if memberships.iter().any(|part| part.service == service.id) {
            return Err(ServiceError::Twice(service.spec.name.clone()));
        }
        memberships.push(Membership {
            service: service.id.clone(),
            weight: join.weight,
            draining: false,
            verdict: service.first_verdict(),
        });
    }
    Ok(memberships)
}

fn not_on(before: &Desired, service: &Service, network: &Network) -> ServiceError {
    let places = service.places.iter();
    let networks = places.filter_map(|place| before.any_network(place.network.as_str()).ok());
    let names: Vec<&str> = networks.map(|network| network.name.as_str()).collect();
    ServiceError::NotOnNetwork {
        service: service.spec.name.clone(),
        network: network.name.to_string(),
        networks: names.join(", "),
    }
}

/// The ports asked for, and those that its services have each member publish. A container that is
/// on several networks of a service publishes them once.
pub(crate) fn with_member_ports(
    before: &Desired,
    request: &AttachRequest,
    memberships: &[Membership],
) -> Vec<PortBinding> {
    let mut ports = request.ports.clone();
    for part in memberships {
        let mut others = before.endpoints.of_container(&request.container_id);
        let is_first = !others.any(|other| other.membership(&part.service).is_some());
        if let Some(service) = before.services.get(&part.service).filter(|_| is_first) {
            ports.extend(service.member_ports());
        }
    }
    ports
}

/// The members of a service whose health check has come or gone.
pub(crate) fn with_health_of(before: &Desired, old: &Service, new: &Service) -> Vec<Endpoint> {
    if old.spec.health == new.spec.health || new.spec.health.is_some() {
        // Who was well is believed until probes say otherwise.
        return Vec::new();
    }
    let members = before.members_here(&new.id);
    members
        .map(|member| with_part(member, new, |part| part.verdict = Verdict::Up))
        .collect()
}

/// The members of a service, without their part in it.
pub(super) fn without(before: &Desired, service: &Service) -> Vec<Endpoint> {
    let members = before.endpoints.in_service(&service.id);
    members
        .map(|endpoint| {
            let mut endpoint = Endpoint::clone(endpoint);
            endpoint
                .memberships
                .retain(|part| part.service != service.id);
            endpoint
        })
        .collect()
}

impl Netd {
    /// Changes a member's weight, or takes a report of its health.
    ///
    /// # Errors
    /// [`NetError`]: unknown, no member, a weight that is none, or health that is checked here.
    pub fn update_member(
        &self,
        service: &str,
        container: &str,
        update: &MemberUpdate,
    ) -> Result<wire::Service, NetError> {
        let view = self.view();
        let found = Arc::clone(view.services.find(service)?);
        let keys = member_keys(&view, &found, container)?;
        if let Some(weight) = update.weight {
            check_weight(weight)?;
            self.change_parts(&found.id, &keys, |part| part.weight = weight)?;
        }
        if let Some(result) = &update.probe {
            let health = found.spec.health.as_ref();
            let Some(health) = health.filter(|h| matches!(h.probe, Probe::Command { .. })) else {
                return Err(ServiceError::NotReported {
                    service: found.spec.name.clone(),
                }
                .into());
            };
            for key in &keys {
                self.probed(&found, health, key, result)?;
            }
        }
        self.service(found.id.as_str())
    }

    /// Sends a container nothing new through its services, and waits until the connections it has
    /// are gone, or for `wait`, or for as long as its services allow.
    ///
    /// A container that is no member of anything has nothing to wait for.
    ///
    /// # Errors
    /// [`NetError`] when the kernel or the records refuse; the container may get new connections.
    pub fn drain(&self, container: &str, wait: Duration) -> Result<Drained, NetError> {
        let view = self.view();
        let members: Vec<&Arc<Endpoint>> = view
            .endpoints
            .of_container(container)
            .filter(|endpoint| !endpoint.memberships.is_empty())
            .collect();
        let mut allowed = Duration::ZERO;
        for endpoint in &members {
            for part in &endpoint.memberships {
                let key = endpoint.key();
                self.change_parts(&part.service, &[key], |part| part.draining = true)?;
                let service = view.services.get(&part.service);
                allowed = allowed.max(service.map_or(Duration::ZERO, |s| s.spec.drain));
            }
        }
        let Some(endpoint) = members.first() else {
            return Ok(Drained::default());
        };
        tracing::info!(%container, "draining");
        let until = Instant::now() + wait.min(allowed);
        // What other nodes have begun by then has come.
        let heard = match self.is_reached_by_others(&members) {
            true => Instant::now() + HEARD,
            false => Instant::now(),
        };
        let left = self.wait_for_end(endpoint, heard.min(until), until)?;
        Ok(Drained { left })
    }

    fn is_reached_by_others(&self, members: &[&Arc<Endpoint>]) -> bool {
        let view = self.view();
        let mut parts = members.iter().flat_map(|endpoint| &endpoint.memberships);
        parts.any(|part| {
            let service = view.services.get(&part.service);
            service.is_some_and(|service| service.shared.is_some())
        })
    }

    /// Two looks without a connection, the second after `heard`: one may have been on its way at the
    /// first.
    fn wait_for_end(
        &self,
        endpoint: &Endpoint,
        heard: Instant,
        until: Instant,
    ) -> Result<usize, NetError> {
        let mut was_idle = false;
        loop {
            let sockets = self.kernel.sandbox_sockets(&endpoint.sandbox)?;
            let left = connection::from_others(&sockets);
            let now = Instant::now();
            if (left == 0 && was_idle && now >= heard) || now >= until {
                return Ok(left);
            }
            was_idle = left == 0;
            thread::sleep(LOOK_EVERY);
        }
    }

    /// Changes what endpoints have as their part in a service: record, kernel, names. What has gone
    /// meanwhile is left alone.
    pub(super) fn change_parts(
        &self,
        service: &Id,
        keys: &[EndpointKey],
        change: impl Fn(&mut Membership),
    ) -> Result<(), NetError> {
        let _writer = self.writer();
        let before = self.view();
        let Some(found) = before.services.get(service) else {
            return Ok(());
        };
        let mut after = Desired::clone(&before);
        let mut changed = Vec::new();
        for key in keys {
            let Some(endpoint) = before.endpoints.get(key) else {
                continue;
            };
            let new = with_part(endpoint, found, &change);
            if new != **endpoint {
                after.endpoints.insert(Arc::new(new.clone()));
                changed.push(new);
            }
        }
        if changed.is_empty() {
            return Ok(());
        }
        self.store.put_endpoints(&changed)?;
        let steps = plan::balance(&before, &after, [service].into_iter());
        if let Err(failure) = apply::run(&*self.kernel, &steps) {
            let was: Vec<Endpoint> = changed
                .iter()
                .filter_map(|endpoint| before.endpoints.get(&endpoint.key()))
                .map(|endpoint| Endpoint::clone(endpoint))
                .collect();
            self.store.put_endpoints(&was)?;
            return Err(failure.cause.into());
        }
        self.republish_used(&before, &after, service);
        self.note_last_resort(&before, &after, service);
        self.publish_view(after);
        for endpoint in &changed {
            if let Some(network) = before.networks.get(&endpoint.attachment.network_id) {
                self.announce_endpoint(network, endpoint);
            }
        }
        Ok(())
    }
}

fn member_keys(
    view: &Desired,
    service: &Service,
    container: &str,
) -> Result<Vec<EndpointKey>, ServiceError> {
    let is_meant = |endpoint: &Endpoint| {
        endpoint.attachment.container_id == container || endpoint.display_name() == container
    };
    let members = view.members_here(&service.id);
    let keys: Vec<EndpointKey> = members
        .filter(|member| is_meant(member))
        .map(|member| member.key())
        .collect();
    let mut others = view.members(&service.id);
    if keys.is_empty()
        && others.any(|other| other.container() == container || other.display_name() == container)
    {
        let container = container.to_owned();
        return Err(ServiceError::Elsewhere { container });
    }
    if keys.is_empty() {
        return Err(ServiceError::NoMember {
            service: service.spec.name.clone(),
            container: container.chars().take(64).collect(),
        });
    }
    Ok(keys)
}
