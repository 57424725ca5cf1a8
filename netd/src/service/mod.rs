//! Creating, changing and removing services.
//!
//! A service is a durable record; its members are endpoints, which come and go with containers
//! (`member`). The data plane's entries are derived from both, so that a reconcile completes what a
//! crash has cut short.

mod connection;
mod health;
mod member;
mod names;
mod probe;
mod shown;

use std::collections::BTreeMap;
use std::sync::Arc;

use api::net::PortBinding;
use api::service::{self as wire, PublishMode, RegistryLogin, ServicePort, ServiceSpec};
use api::storage::Secret;
use api::task::{UpdateState, UpdateStatus};
use ipnet::IpNet;

use crate::apply;
use crate::attach::Holders;
use crate::error::NetError;
use crate::model::desired::Desired;
use crate::model::endpoint::Endpoint;
use crate::model::network::{self, Network, Stage};
use crate::model::port::{self, PortHolder};
use crate::model::service::plan;
use crate::model::service::{self, Member, Place, Pool, Service, ServiceError, free_slot};
use crate::netd::{Netd, Writer};
use crate::networks::{now, random_id};
use crate::overlay::Next;
use crate::store::Cursors;

pub(crate) use health::HealthNotes;
pub use health::Judged;
pub(crate) use member::{memberships, with_health_of, with_member_ports};
pub(crate) use names::names_by_service;

/// The logins with another one, or without.
fn with_login(
    mut logins: BTreeMap<String, Secret>,
    login: Option<RegistryLogin>,
) -> BTreeMap<String, Secret> {
    if let Some(RegistryLogin { host, auth }) = login {
        logins.insert(host, auth);
        logins.retain(|_, auth| !auth.is_empty());
    }
    logins
}

impl Netd {
    /// All services, ordered by name.
    pub fn services(&self) -> Vec<wire::Service> {
        let view = self.view();
        let mut services: Vec<wire::Service> = view
            .services
            .values()
            .map(|service| self.shown(&view, service))
            .collect();
        services.sort_by(|a, b| a.spec.name.cmp(&b.spec.name));
        services
    }

    /// The service that a name, an id or an unambiguous prefix of an id means.
    ///
    /// # Errors
    /// [`NetError::Service`] when there is none, or several.
    pub fn service(&self, key: &str) -> Result<wire::Service, NetError> {
        let view = self.view();
        let service = view.services.find(key)?;
        Ok(self.shown(&view, service))
    }

    /// The logins for registries that a service keeps, by host: for whoever pulls its image.
    ///
    /// # Errors
    /// [`NetError`]: unknown; of one of the cluster, no manager answers, or this node is not to run it.
    pub fn service_logins(&self, key: &str) -> Result<BTreeMap<String, Secret>, NetError> {
        match self.shared_service(key)? {
            Some(shared) => self.shared_logins(&shared),
            None => Ok(self.view().services.find(key)?.logins.clone()),
        }
    }

    /// Creates a service without members. When this returns, its addresses are its own, its names
    /// resolve and its ports are taken.
    ///
    /// # Errors
    /// [`NetError`]; nothing is left of the service then.
    pub fn create_service(&self, mut spec: ServiceSpec) -> Result<wire::Service, NetError> {
        service::check(&spec)?;
        if self.is_for_all(&spec)? {
            let id = self.create_shared_service(&spec)?;
            return self.service(id.as_str());
        }
        let mut writer = self.writer();
        let before = self.view();
        if before.services.by_name(&spec.name).is_some() {
            return Err(ServiceError::Exists(spec.name).into());
        }
        let created = now();
        let login = spec.login.take();
        let ports = self.service_ports(&mut writer, &before, &spec, None)?;
        let places = self.places(&writer, &spec, &[])?;
        // Addresses that are the cluster's are known as taken by now.
        let before = self.view();
        let mut service = Service {
            stage: Stage::Pending,
            id: random_id(),
            number: before.services.next_number(),
            version: 1,
            updated: created.clone(),
            created,
            places,
            ports,
            spec,
            previous: None,
            update_status: None,
            logins: with_login(BTreeMap::new(), login),
            shared: None,
        };
        self.store.put_service(&service)?;
        let mut after = Desired::clone(&before);
        after.services.insert(Arc::new(service.clone()));
        self.hold(&mut writer, &before, &service);
        let steps = plan::service(&before, &after, &service.id, &writer.ports);
        let done = apply::run(&*self.kernel, &steps)
            .map_err(|failure| NetError::from(failure.cause))
            .and_then(|()| {
                service.stage = Stage::Committed;
                Ok(self.store.put_service(&service)?)
            });
        after.services.insert(Arc::new(service.clone()));
        self.publish_view(after.clone());
        if let Err(error) = done {
            self.drop_service(&mut writer, &service)?;
            return Err(error);
        }
        self.publish_service(&after, &service);
        self.republish_namesakes(&after, &service);
        tracing::info!(name = %service.spec.name, id = service.id.short(), "service created");
        Ok(self.shown(&after, &service))
    }

    /// Makes a service as `spec` says. Connections to members that stay go on, but for those to a
    /// published port that goes. `version` is the one that `spec` was made from.
    ///
    /// # Errors
    /// [`NetError`]; the service is as it was then.
    pub fn update_service(
        &self,
        key: &str,
        version: Option<u64>,
        spec: ServiceSpec,
    ) -> Result<wire::Service, NetError> {
        self.replace_service(key, version, &|_old| Ok((spec.clone(), None)))
    }

    /// Makes a service what it was before its last update. `why` is for people.
    ///
    /// # Errors
    /// As [`Netd::update_service`]; it was never updated.
    pub fn roll_back_service(
        &self,
        key: &str,
        version: Option<u64>,
        why: &str,
    ) -> Result<wire::Service, NetError> {
        let started = UpdateStatus {
            state: UpdateState::RollbackStarted,
            started_at: now(),
            completed_at: None,
            message: why.to_owned(),
        };
        self.replace_service(key, version, &|old| {
            let previous = old.previous.clone();
            let previous = previous.ok_or(ServiceError::NoPrevious(old.spec.name.clone()))?;
            Ok((previous, Some(started.clone())))
        })
    }

    /// Notes how far an update is. `version` is that of the service it is about.
    ///
    /// # Errors
    /// [`NetError`]: unknown, or updated again meanwhile.
    pub fn note_update(
        &self,
        key: &str,
        version: Option<u64>,
        status: UpdateStatus,
    ) -> Result<wire::Service, NetError> {
        if let Some(shared) = self.shared_service(key)? {
            self.note_shared_update(&shared, version, &status)?;
            return self.service(shared.id.as_str());
        }
        let _writer = self.writer();
        let mut after = Desired::clone(&self.view());
        let old = Arc::clone(after.services.find(key)?);
        check_version(&old, version)?;
        let new = Service {
            update_status: Some(status),
            ..Service::clone(&old)
        };
        self.store.put_service(&new)?;
        after.services.insert(Arc::new(new.clone()));
        let shown = self.shown(&after, &new);
        self.publish_view(after);
        Ok(shown)
    }

    fn replace_service(
        &self,
        key: &str,
        version: Option<u64>,
        next: Next<'_>,
    ) -> Result<wire::Service, NetError> {
        if let Some(shared) = self.shared_service(key)? {
            self.replace_shared_service(&shared, version, next)?;
            return self.service(shared.id.as_str());
        }
        let mut writer = self.writer();
        let before = self.view();
        let old = Arc::clone(before.services.find(key)?);
        let (mut spec, update_status) = next(&old)?;
        let login = spec.login.take();
        service::check(&spec)?;
        check_update(&old, version, &spec)?;
        let places = self.places(&writer, &spec, &old.places)?;
        let before = self.view();
        let ports = check_left(&before, &old, &places)
            .map_err(NetError::from)
            .and_then(|()| self.service_ports(&mut writer, &before, &spec, Some(&old)));
        let ports = ports.inspect_err(|_refusal| self.unclaim(&places, &old.places))?;
        let new = Service {
            version: old.version + 1,
            updated: now(),
            ports,
            places,
            spec,
            previous: Some(old.spec.clone()),
            update_status,
            logins: with_login(old.logins.clone(), login),
            ..Service::clone(&old)
        };
        let mut after = Desired::clone(&before);
        after.services.insert(Arc::new(new.clone()));
        let members = with_health_of(&before, &old, &new);
        for member in &members {
            after.endpoints.insert(Arc::new(member.clone()));
        }
        self.hold(&mut writer, &before, &new);
        let steps = plan::service(&before, &after, &new.id, &writer.ports);
        let done = self
            .store
            .put_service(&new)
            .map_err(NetError::from)
            .and_then(|()| Ok(apply::run(&*self.kernel, &steps).map_err(|f| f.cause)?))
            .and_then(|()| Ok(self.store.put_endpoints(&members)?));
        if let Err(error) = done {
            // What could not be undone in the kernel, a reconcile finds.
            self.hold(&mut writer, &after, &old);
            self.store.put_service(&old)?;
            return Err(error);
        }
        self.unpublish_service(&old);
        self.publish_service(&after, &new);
        self.republish_namesakes(&after, &old);
        self.republish_namesakes(&after, &new);
        self.republish_members(&after, &new);
        self.publish_view(after.clone());
        self.service_changed();
        tracing::info!(name = %new.spec.name, version = new.version, "service updated");
        Ok(self.shown(&after, &new))
    }

    /// Removes a service. With `force` also one that has members: these go on without it, and the
    /// connections that came through it end.
    ///
    /// # Errors
    /// [`NetError`]: unknown, or it has members. When the kernel refuses, the removal is on record
    /// and every reconcile goes on with it.
    pub fn remove_service(&self, key: &str, force: bool) -> Result<(), NetError> {
        let mut writer = self.writer();
        let view = self.view();
        let service = view.services.find(key)?;
        if service.shared.is_some() {
            drop(writer);
            if !force && service.spec.task_template.is_none() {
                refuse_members(&view, service)?;
            }
            return self.remove_shared_service(service);
        }
        // Those that the service was started with go with it.
        if !force && service.spec.task_template.is_none() {
            refuse_members(&view, service)?;
        }
        self.drop_service(&mut writer, service)?;
        tracing::info!(name = %service.spec.name, id = service.id.short(), "service removed");
        Ok(())
    }

    /// The service that is meant, if it is the whole cluster's.
    fn shared_service(&self, key: &str) -> Result<Option<Arc<Service>>, ServiceError> {
        let view = self.view();
        let service = view.services.find(key)?;
        Ok(Some(Arc::clone(service)).filter(|service| service.shared.is_some()))
    }

    /// Record, names, kernel, members, record.
    pub(crate) fn drop_service(
        &self,
        writer: &mut Writer,
        service: &Service,
    ) -> Result<(), NetError> {
        let removing = Service {
            stage: Stage::Removing,
            ..service.clone()
        };
        self.store.put_service(&removing)?;
        self.unpublish_service(service);
        let before = self.view();
        let mut after = Desired::clone(&before);
        let members = member::without(&before, service);
        self.store.put_endpoints(&members)?;
        for member in &members {
            after.endpoints.insert(Arc::new(member.clone()));
        }
        after.services.remove(&service.id);
        let (_changed, failures) = {
            let steps = plan::service(&before, &after, &service.id, &writer.ports);
            apply::run_all(&*self.kernel, &steps)
        };
        if let Some(error) = failures.into_iter().next() {
            after.services.insert(Arc::new(removing));
            self.publish_view(after);
            return Err(error.into());
        }
        self.store.delete_service(&service.id)?;
        let holder = PortHolder::Service(service.id.clone());
        writer.ports.remove(&holder, &service.bindings());
        for (network, subnet, address) in leases(&after, &service.places) {
            writer.walks.freed(&network.id, subnet, address);
            if service.shared.is_none() {
                self.withdraw_service(network, &[address]);
            }
        }
        for member in &members {
            if let Some(network) = after.networks.get(&member.attachment.network_id) {
                self.publish_names(&after, network, member);
            }
        }
        self.republish_namesakes(&after, service);
        self.publish_view(after);
        self.service_changed();
        for place in &service.places {
            self.shrink(writer, &place.network)?;
        }
        Ok(())
    }

    /// Where the service is: places that it has stay as they are.
    fn places(
        &self,
        writer: &Writer,
        spec: &ServiceSpec,
        old: &[Place],
    ) -> Result<Vec<Place>, NetError> {
        self.extend_for(spec)?;
        let choose = |network: &Network| self.claimed_for_service(network, writer, &spec.name);
        placed(&self.view(), spec, old, choose)
    }

    /// The published ports: those asked for as before stay, the others are checked and chosen. What
    /// `old` holds counts as free, and is not held any more when this succeeds.
    pub(crate) fn service_ports(
        &self,
        writer: &mut Writer,
        before: &Desired,
        spec: &ServiceSpec,
        old: Option<&Service>,
    ) -> Result<Vec<ServicePort>, NetError> {
        let asked = service::keep_chosen(&spec.endpoint_spec.ports, old);
        // As the choice has them: given ones before those left open.
        let (given, open): (Vec<_>, Vec<_>) =
            service::ingress(&asked).partition(|port| port.published_port != 0);
        let of_host: Vec<ServicePort> = given.into_iter().chain(open).copied().collect();
        let requested: Vec<PortBinding> = of_host.iter().map(service::binding).collect();
        let bound = self.bound_for(&requested, before)?;
        let names = Holders {
            desired: before,
            kernel: &*self.kernel,
        };
        let held = old.map(|old| (PortHolder::Service(old.id.clone()), old.bindings()));
        if let Some((holder, bindings)) = &held {
            writer.ports.remove(holder, bindings);
        }
        let resolved = port::resolve(&requested, &writer.ports, &bound, &names);
        if let (Err(_), Some((holder, bindings))) = (&resolved, &held) {
            writer.ports.insert(holder, bindings);
        }
        let resolved = resolved.map_err(ServiceError::Port)?;
        let chosen = of_host
            .iter()
            .zip(resolved)
            .map(|(port, binding)| ServicePort {
                published_port: binding.host_port,
                ..*port
            });
        let of_members = asked
            .iter()
            .filter(|port| port.publish_mode == PublishMode::Host);
        Ok(chosen.chain(of_members.copied()).collect())
    }

    /// Takes ports and addresses for a service; those that it had in `before` and has no more are
    /// free.
    pub(crate) fn hold(&self, writer: &mut Writer, before: &Desired, service: &Service) {
        let holder = PortHolder::Service(service.id.clone());
        let old = before.services.get(&service.id);
        if let Some(old) = old {
            writer.ports.remove(&holder, &old.bindings());
        }
        writer.ports.insert(&holder, &service.bindings());
        let had: Vec<_> = leases(before, old.map_or(&[], |old| &old.places)).collect();
        let has: Vec<_> = leases(before, &service.places).collect();
        let mut cursors = Cursors::new();
        for (network, subnet, address) in &has {
            if !had.iter().any(|(_, _, other)| other == address) {
                writer.walks.given(&network.id, *subnet, *address);
                cursors.insert((network.id.clone(), *subnet), *address);
            }
        }
        for (network, subnet, address) in &had {
            if !has.iter().any(|(_, _, other)| other == address) {
                writer.walks.freed(&network.id, *subnet, *address);
                if service.shared.is_none() {
                    self.withdraw_service(network, &[*address]);
                }
            }
        }
        if let Err(error) = self.store.put_cursors(&cursors) {
            tracing::warn!(%error, "the address may be looked at again after a restart");
        }
    }
}

/// Where a service is: places that it has stay as they are, others get what `choose` says.
pub(crate) fn placed(
    view: &Desired,
    spec: &ServiceSpec,
    old: &[Place],
    choose: impl Fn(&Network) -> Result<Vec<IpNet>, NetError>,
) -> Result<Vec<Place>, NetError> {
    let mut places: Vec<Place> = Vec::new();
    for network in networks(view, spec)? {
        let kept = old.iter().find(|place| place.network == network.id);
        let addresses = match kept {
            _ if spec.endpoint_spec.mode != wire::EndpointMode::Vip => Vec::new(),
            Some(place) if !place.addresses.is_empty() => place.addresses.clone(),
            _ => choose(network)?,
        };
        places.push(Place {
            network: network.id.clone(),
            slot: match kept {
                Some(place) => place.slot,
                None => free_slot(&[old, &places].concat()),
            },
            addresses,
        });
    }
    Ok(places)
}

/// The networks of a service, in the order in which they were asked for.
pub(crate) fn networks<'a>(
    before: &'a Desired,
    spec: &ServiceSpec,
) -> Result<Vec<&'a Network>, NetError> {
    let mut targets: Vec<&str> = spec.networks.iter().map(|n| n.target.as_str()).collect();
    if targets.is_empty() {
        targets.push(network::DEFAULT);
    }
    let mut found: Vec<&Network> = Vec::new();
    for target in targets {
        let network: &Network = before.any_network(target)?;
        if network.bridge().is_none() {
            return Err(ServiceError::Driver {
                network: network.name.to_string(),
                driver: network.driver.name(),
            }
            .into());
        }
        if found.iter().any(|other| other.id == network.id) {
            return Err(ServiceError::NetworkTwice {
                service: spec.name.clone(),
                network: network.name.to_string(),
            }
            .into());
        }
        found.push(network);
    }
    Ok(found)
}

pub(crate) fn check_update(
    old: &Service,
    version: Option<u64>,
    spec: &ServiceSpec,
) -> Result<(), ServiceError> {
    if spec.name != old.spec.name {
        return Err(ServiceError::Renamed(old.spec.name.clone()));
    }
    check_version(old, version)
}

fn check_version(old: &Service, version: Option<u64>) -> Result<(), ServiceError> {
    match version {
        Some(version) if version != old.version => Err(ServiceError::Changed {
            service: old.spec.name.clone(),
        }),
        _ => Ok(()),
    }
}

/// Nobody is left on a network that the service leaves.
fn check_left(before: &Desired, old: &Service, places: &[Place]) -> Result<(), ServiceError> {
    let stays = |member: &Member<'_>| places.iter().any(|p| member.is_on(&p.network));
    let lost = before.members(&old.id).find(|member| !stays(member));
    lost.map_or(Ok(()), |member| {
        let network = before.any_network(member.network().as_str());
        Err(ServiceError::NetworkInUse {
            service: old.spec.name.clone(),
            network: network.map_or_else(|_| String::new(), |network| network.name.to_string()),
            container: member.display_name().to_owned(),
        })
    })
}

fn refuse_members(view: &Desired, service: &Service) -> Result<(), ServiceError> {
    const NAMED: usize = 10;
    let mut names: Vec<&str> = view
        .members(&service.id)
        .map(|member| member.display_name())
        .collect();
    names.dedup();
    let (named, more) = names.split_at(names.len().min(NAMED));
    let members = match (named, more) {
        ([], _) => return Ok(()),
        (named, []) => named.join(", "),
        (named, more) => format!("{} and {} more", named.join(", "), more.len()),
    };
    Err(ServiceError::HasMembers {
        service: service.spec.name.clone(),
        members,
    })
}

fn pool<'a>(members: &[Member<'a>], place: &Place) -> Pool<'a> {
    let here = members.iter().filter(|m| m.is_on(&place.network));
    Pool::of(here.copied())
}

/// Each virtual address with its network and subnet.
fn leases<'a>(
    desired: &'a Desired,
    places: &'a [Place],
) -> impl Iterator<Item = (&'a Network, IpNet, std::net::IpAddr)> {
    places.iter().flat_map(|place| {
        let network = desired.networks.get(&place.network);
        network.into_iter().flat_map(|network| {
            let addresses = place.addresses.iter().map(|address| address.addr());
            addresses.filter_map(|address| {
                let mut subnets = network.subnets.iter();
                let subnet = subnets.find(|subnet| subnet.subnet.contains(&address))?;
                Some((&**network, subnet.subnet, address))
            })
        })
    })
}

/// The endpoint with another part in the service.
fn with_part(
    endpoint: &Endpoint,
    service: &Service,
    change: impl FnOnce(&mut service::Membership),
) -> Endpoint {
    let mut changed = endpoint.clone();
    let mut parts = changed.memberships.iter_mut();
    if let Some(part) = parts.find(|part| part.service == service.id) {
        change(part);
    }
    changed
}
