//! Services of the cluster: on record in the control plane, and on every node as far as it has to do
//! with them. A node answers for their published ports, and for their own addresses on the networks that
//! it has.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use api::id::{Id, NodeId};
use api::service::{PublishMode, RegistryLogin, ServiceNetwork, ServicePort, ServiceSpec};
use api::storage::Secret;
use api::task::UpdateStatus;
use cluster::{Change, ControlError, Outcome, Transaction, key};
use ipnet::IpNet;

use super::claim::{TRIES, encode};
use super::follow::anywhere;
use super::{Membership, about};
use crate::apply;
use crate::error::NetError;
use crate::model::address;
use crate::model::desired::Desired;
use crate::model::endpoint::Endpoint;
use crate::model::network::{INGRESS, Stage};
use crate::model::peer::{Claim, Part};
use crate::model::port::PortHolder;
use crate::model::service::{self, Place, Service, ServiceError, Shared, of_entry, plan};
use crate::netd::{Netd, Writer};
use crate::networks::{now, random};
use crate::service::{check_update, networks, placed};

/// What a service is to be next, from what everybody knows and what it is.
type Draft<'a> = &'a dyn Fn(&Desired, Option<&Service>) -> Result<Service, ServiceError>;
/// A specification, with how far whoever starts the members is.
pub(crate) type Next<'a> =
    &'a dyn Fn(&Service) -> Result<(ServiceSpec, Option<UpdateStatus>), ServiceError>;

impl Netd {
    /// Whether a new service is to be the whole cluster's: on networks of it, or on none in particular.
    pub(crate) fn is_for_all(&self, spec: &ServiceSpec) -> Result<bool, NetError> {
        let membership = self.membership.load();
        if membership.as_ref().is_none_or(|m| m.tunnel().is_none()) {
            return Ok(false);
        }
        let view = self.view();
        let (mut own, mut shared) = (None, spec.networks.is_empty());
        for target in &spec.networks {
            let network = view.any_network(&target.target)?;
            match network.driver.overlay() {
                Some(_) => shared = true,
                None => own = Some(network.name.to_string()),
            }
        }
        match own {
            Some(network) if shared => Err(ServiceError::MixedNetworks {
                service: spec.name.clone(),
                network,
            }
            .into()),
            own => Ok(own.is_none()),
        }
    }

    /// Creates a service of the cluster. Its name, addresses and published ports are its own among
    /// all nodes'.
    pub(crate) fn create_shared_service(&self, spec: &ServiceSpec) -> Result<Id, NetError> {
        let (id, created) = (Id::of_cluster(random()), now());
        self.put_shared((&id, &spec.name), &|view, _none| {
            if view.services.by_name(&spec.name).is_some() {
                return Err(ServiceError::Exists(spec.name.clone()));
            }
            Ok(Service {
                stage: Stage::Committed,
                id: id.clone(),
                number: 0,
                version: 1,
                created: created.clone(),
                updated: created.clone(),
                spec: spec.clone(),
                previous: None,
                update_status: None,
                ports: Vec::new(),
                places: Vec::new(),
                logins: BTreeMap::new(),
                shared: None,
            })
        })?;
        tracing::info!(name = %spec.name, id = id.short(), "service of the cluster created");
        Ok(id)
    }

    /// Makes a service of the cluster another one. `version` is that of the one it is made from.
    pub(crate) fn replace_shared_service(
        &self,
        service: &Service,
        version: Option<u64>,
        next: Next<'_>,
    ) -> Result<(), NetError> {
        self.put_shared((&service.id, &service.spec.name), &|_view, old| {
            let old = old.ok_or_else(|| ServiceError::NotFound(service.spec.name.clone()))?;
            let (spec, update_status) = next(old)?;
            service::check(&spec)?;
            check_update(old, version, &spec)?;
            Ok(Service {
                version: old.version + 1,
                updated: now(),
                previous: Some(old.spec.clone()),
                spec,
                update_status,
                ..old.clone()
            })
        })?;
        tracing::info!(name = %service.spec.name, "service of the cluster updated");
        Ok(())
    }

    /// Notes how far an update of a service of the cluster is.
    pub(crate) fn note_shared_update(
        &self,
        service: &Service,
        version: Option<u64>,
        status: &UpdateStatus,
    ) -> Result<(), NetError> {
        self.put_shared((&service.id, &service.spec.name), &|_view, old| {
            let old = old.ok_or_else(|| ServiceError::NotFound(service.spec.name.clone()))?;
            check_update(old, version, &old.spec)?;
            Ok(Service {
                update_status: Some(status.clone()),
                ..old.clone()
            })
        })
    }

    /// Puts what `draft` makes of a service on record, with the addresses and ports that it needs.
    fn put_shared(&self, (id, name): (&Id, &str), draft: Draft<'_>) -> Result<(), NetError> {
        let subject = format!("service {name}");
        let membership = self.managing(&subject)?;
        self.ensure_ingress()?;
        let control = &membership.member.control;
        let failed = about(&subject);
        for _ in 0..TRIES {
            let guard = control.snapshot(key::GUARD_SERVICES).map_err(&failed)?;
            let guard = guard.entries.get(key::GUARD_SERVICES);
            let guard = guard.map_or(0, |entry| entry.modified);
            self.read_networks(&membership).map_err(&failed)?;
            self.read_services(&membership).map_err(&failed)?;
            let known = membership.service(id).map_err(&failed)?;
            let (old, modified) = known.unzip();
            let mut writer = self.writer();
            let view = self.view();
            let mut record = draft(&view, old.as_ref())?;
            if record.spec.networks.is_empty() {
                // As if it had been asked for: whoever starts members reads it there.
                record.spec.networks.push(ServiceNetwork {
                    target: INGRESS.to_owned(),
                    aliases: Vec::new(),
                });
            }
            let before = old.as_ref().map_or(&[][..], |old| &old.places);
            record.places = self.shared_places(&writer, &record.spec, before)?;
            record.ports = self.shared_ports(&mut writer, &record, old.as_ref())?;
            drop(writer);
            // Nodes read the record, and logins only with an order to run the service.
            let login = record.spec.login.take();
            let mut all = Transaction::default()
                .when(key::GUARD_SERVICES, guard)
                .when(key::service(id.as_str()), modified.unwrap_or(0))
                .put(key::GUARD_SERVICES, id.as_str())
                .put(key::service(id.as_str()), encode(&record));
            for place in &record.places {
                let network = place.network.as_str();
                let modified = view.cluster.get(&place.network).map(|s| s.modified);
                all = all
                    .when(key::network(network), modified.unwrap_or(0))
                    .when(key::removal(network), 0);
            }
            let (new, gone) = (
                claims(&record.places, before),
                claims(before, &record.places),
            );
            let claim = encode(&Claim {
                node: holder(id),
                holder: subject.clone(),
            });
            for (network, address) in new {
                let name = key::claim(network.as_str(), address);
                all = all.when(name.clone(), 0).put(name, claim.clone());
            }
            for (network, address) in gone {
                all = all.delete(key::claim(network.as_str(), address));
            }
            if let Some(RegistryLogin { host, auth }) = login {
                let name = key::login(id.as_str(), &host);
                all = match auth.is_empty() {
                    true => all.delete(name),
                    false => all.put(name, auth.expose()),
                };
            }
            if control.commit(&all).map_err(&failed)? != Outcome::Refused {
                self.read_services(&membership).map_err(&failed)?;
                return Ok(());
            }
            for place in &record.places {
                if let Some(shared) = self.view().cluster.get(&place.network) {
                    self.learn_claims(&membership, &shared.network)?;
                }
            }
        }
        Err(NetError::Contended(subject))
    }

    /// Where the service is: places that it has stay as they are.
    fn shared_places(
        &self,
        writer: &Writer,
        spec: &ServiceSpec,
        old: &[Place],
    ) -> Result<Vec<Place>, NetError> {
        let view = self.view();
        let mut all = networks(&view, spec)?.into_iter();
        if let Some(own) = all.find(|network| network.driver.overlay().is_none()) {
            return Err(ServiceError::MixedNetworks {
                service: spec.name.clone(),
                network: own.name.to_string(),
            }
            .into());
        }
        placed(&view, spec, old, |network| {
            let chosen = address::for_service(network, &writer.walks, view.holders());
            Ok(chosen.map_err(ServiceError::from)?)
        })
    }

    /// Published ports that no other service of the cluster has, and nobody on this node.
    fn shared_ports(
        &self,
        writer: &mut Writer,
        record: &Service,
        old: Option<&Service>,
    ) -> Result<Vec<ServicePort>, NetError> {
        let view = self.view();
        let chosen = self.service_ports(writer, &view, &record.spec, old);
        // Its ports are held here by what is here of it, until that is another one.
        if let Some(here) = view.services.get(&record.id).filter(|_| chosen.is_ok()) {
            let holder = PortHolder::Service(here.id.clone());
            writer.ports.insert(&holder, &here.bindings());
        }
        chosen
    }

    /// Removes a service of the cluster.
    pub(crate) fn remove_shared_service(&self, service: &Service) -> Result<(), NetError> {
        let subject = format!("service {}", service.spec.name);
        let membership = self.managing(&subject)?;
        let control = &membership.member.control;
        let failed = about(&subject);
        for _ in 0..TRIES {
            let known = membership.service(&service.id).map_err(&failed)?;
            let Some((record, modified)) = known else {
                self.read_services(&membership).map_err(&failed)?;
                return Ok(());
            };
            let name = key::service(service.id.as_str());
            let mut all = Transaction::default()
                .when(name.clone(), modified)
                .put(key::GUARD_SERVICES, service.id.as_str())
                .delete(name);
            for (network, address) in claims(&record.places, &[]) {
                all = all.delete(key::claim(network.as_str(), address));
            }
            let logins = control.snapshot(&key::logins(service.id.as_str()));
            for name in logins.map_err(&failed)?.entries.into_keys() {
                all = all.delete(name);
            }
            if control.commit(&all).map_err(&failed)? != Outcome::Refused {
                self.read_services(&membership).map_err(&failed)?;
                return Ok(());
            }
        }
        Err(NetError::Contended(subject))
    }

    /// What the control plane has of a service's logins; it asks who may know.
    pub(crate) fn shared_logins(
        &self,
        service: &Service,
    ) -> Result<BTreeMap<String, Secret>, NetError> {
        let subject = format!("service {}", service.spec.name);
        let membership = self.membership_for(&subject)?;
        let prefix = key::logins(service.id.as_str());
        let read = membership.member.control.snapshot(&prefix);
        let logins = read.map_err(about(&subject))?.entries.into_iter();
        let by_host = logins.filter_map(|(name, entry)| {
            let host = name.strip_prefix(&prefix)?.to_owned();
            Some((host, Secret::new(entry.value)))
        });
        Ok(by_host.collect())
    }

    /// Has its part in all services of the cluster as they are now; the revision that says so.
    pub(super) fn read_services(&self, membership: &Membership) -> Result<u64, ControlError> {
        let read = membership.member.control.snapshot(key::SERVICES)?;
        let mut there = BTreeSet::new();
        for entry in read.entries.values() {
            if let Some(record) = record(&entry.value) {
                there.insert(record.id.clone());
                self.adopt_service(membership, record, (entry.modified, read.revision));
            }
        }
        let view = self.view();
        let shared = view.services.values().filter(|s| s.shared.is_some());
        for service in shared.filter(|service| !there.contains(&service.id)) {
            self.leave_service(&service.id);
        }
        Ok(read.revision)
    }

    pub(super) fn follow_services(&self, membership: &Membership, changes: &[Change]) {
        for change in changes {
            match change.value.as_deref() {
                Some(value) => {
                    if let Some(record) = record(value) {
                        self.adopt_service(membership, record, (change.revision, u64::MAX));
                    }
                }
                None => {
                    let id = change.key.strip_prefix(key::SERVICES).map(str::to_owned);
                    if let Some(Ok(id)) = id.map(Id::try_from) {
                        self.leave_service(&id);
                    }
                }
            }
        }
    }

    /// Has its part in a service as it is on record since the revision `modified`, of `latest`. What the
    /// kernel refuses is repaired by the next reconcile.
    fn adopt_service(
        &self,
        membership: &Membership,
        record: Service,
        (modified, latest): (u64, u64),
    ) {
        let Some(tunnel) = membership.tunnel() else {
            return;
        };
        let shared = Shared {
            modified,
            node: membership.member.node.clone(),
            tunnel,
        };
        let mut writer = self.writer();
        let before = self.view();
        let old = before.services.get(&record.id).cloned();
        let has = old.as_ref().and_then(|old| old.shared.as_ref());
        // What was read before it was heard of may be older. A store that was restored begins to count
        // anew: what is ahead of it is of the one before.
        let newer = modified + 1..=latest;
        if has.is_some_and(|has| newer.contains(&has.modified) || *has == shared) {
            return;
        }
        let new = Service {
            stage: Stage::Committed,
            number: match &old {
                Some(old) => old.number,
                None => before.services.next_number(),
            },
            ports: free_ports(&writer, &record),
            shared: Some(shared),
            ..record
        };
        if let Err(error) = self.store.put_service(&new) {
            tracing::warn!(service = %new.spec.name, %error, "it is not followed yet");
            return;
        }
        if new.is_published()
            && let Err(error) = self.know_peers(membership, &new.places)
        {
            tracing::warn!(%error, "its members are known later");
        }
        let before = self.view();
        let mut after = Desired::clone(&before);
        after.services.insert(Arc::new(new.clone()));
        self.hold(&mut writer, &before, &new);
        let old = old.as_deref();
        let members = old.map(|old| crate::service::with_health_of(&before, old, &new));
        for member in members.into_iter().flatten() {
            if let Err(error) = self.store.put_endpoints(std::slice::from_ref(&member)) {
                tracing::warn!(%error, "a member is not known to be well");
            }
            after.endpoints.insert(Arc::new(member));
        }
        self.settle_mesh(&before, &mut after);
        self.publish_view(after.clone());
        let steps = plan::service(&before, &after, &new.id, &writer.ports);
        apply::run_all(&*self.kernel, &steps);
        if let Some(old) = old {
            self.unpublish_service(old);
            self.republish_namesakes(&after, old);
        }
        self.publish_service(&after, &new);
        self.republish_namesakes(&after, &new);
        self.republish_members(&after, &new);
        self.announce_members([&new.id].into_iter());
        self.service_changed();
        drop(writer);
        if old.is_none() {
            tracing::debug!(name = %new.spec.name, "service of the cluster is here");
        }
    }

    /// Knows who is on these networks, where that is not known.
    fn know_peers(&self, membership: &Membership, places: &[Place]) -> Result<(), ControlError> {
        let before = self.view();
        let unknown = places.iter().map(|place| &place.network);
        let unknown = unknown.filter(|network| !before.peers.contains_key(*network));
        let unknown: BTreeSet<Id> = unknown.cloned().collect();
        if unknown.is_empty() {
            return Ok(());
        }
        let mut after = Desired::clone(&before);
        after.peers.extend(self.read_peers(membership, &unknown)?);
        self.change_peers(&before, after, &anywhere(unknown));
        Ok(())
    }

    /// Has no part in it any more.
    fn leave_service(&self, id: &Id) {
        let mut writer = self.writer();
        let before = self.view();
        let found = before.services.get(id).filter(|s| s.shared.is_some());
        let Some(service) = found.cloned() else {
            return;
        };
        let networks: BTreeSet<&Id> = service.places.iter().map(|p| &p.network).collect();
        if let Err(error) = self.drop_service(&mut writer, &service) {
            tracing::warn!(service = %service.spec.name, %error, "not removed yet");
        }
        let mut after = Desired::clone(&self.view());
        self.settle_mesh(&before, &mut after);
        self.publish_view(after);
        for network in networks {
            if !self.view().networks.contains_key(network) {
                self.forget_peers(network);
            }
        }
        tracing::info!(name = %service.spec.name, "service of the cluster removed");
    }

    /// A network has come to this node, or left it: so have the addresses of services there.
    pub(super) fn change_places(&self, before: &Desired, after: &Desired, network: &Id) {
        let shared = after.services.on(network).filter(|s| s.shared.is_some());
        let services: BTreeMap<&Id, &Arc<Service>> = shared.map(|s| (&s.id, s)).collect();
        let steps = plan::balance(before, after, services.keys().copied());
        apply::run_all(&*self.kernel, &steps);
        for service in services.values() {
            self.unpublish_service(service);
            self.publish_service(after, service);
            self.republish_namesakes(after, service);
        }
    }

    /// Tells the others what the members here are part of, and as what they can be reached.
    pub(crate) fn announce_members<'a>(&self, services: impl Iterator<Item = &'a Id>) {
        let view = self.view();
        for id in services {
            if view.services.get(id).is_none_or(|s| s.shared.is_none()) {
                continue;
            }
            for endpoint in view.members_here(id) {
                let network = view.networks.get(&endpoint.attachment.network_id);
                if let Some(network) = network.filter(|_| endpoint.stage == Stage::Committed) {
                    self.announce_endpoint(network, endpoint);
                }
            }
        }
    }

    /// As [`Self::announce_members`], of every service.
    pub(crate) fn announce_all_members(&self) {
        let view = self.view();
        self.announce_members(view.services.values().map(|service| &service.id));
    }

    /// What others are told of the endpoint's parts in services.
    pub(super) fn parts_of(&self, endpoint: &Endpoint) -> Vec<Part> {
        let view = self.view();
        let parts = endpoint.memberships.iter().filter_map(|membership| {
            let service = view.services.get(&membership.service)?;
            service.shared.as_ref()?;
            Some(Part {
                membership: membership.clone(),
                numbers: self.numbers_of(service, endpoint),
            })
        });
        parts.collect()
    }

    fn numbers_of(&self, service: &Service, endpoint: &Endpoint) -> BTreeMap<u32, u32> {
        let mut numbers = BTreeMap::new();
        for (entry, v6) in service.reachable_entries() {
            match self.kernel.reachable(entry) {
                Ok(found) => {
                    let own = found.into_iter().find(|(at, _)| {
                        let mut addresses = endpoint.addresses();
                        at.is_ipv6() == v6 && addresses.any(|address| address == at.ip())
                    });
                    numbers.extend(own.map(|(_, number)| (of_entry(entry), number)));
                }
                Err(error) => tracing::warn!(%error, "other nodes do not reach it"),
            }
        }
        numbers
    }
}

impl Membership {
    /// A service as it is on record, and since when.
    fn service(&self, id: &Id) -> Result<Option<(Service, u64)>, ControlError> {
        let name = key::service(id.as_str());
        let read = self.member.control.snapshot(&name)?;
        let found = read.entries.get(&name);
        Ok(found.and_then(|entry| Some((record(&entry.value)?, entry.modified))))
    }
}

fn record(value: &str) -> Option<Service> {
    let service = serde_json::from_str(value);
    let service = service.map_err(|error| tracing::error!(%error, "a service cannot be read"));
    service.ok()
}

/// Who has the addresses of a service: no node, so that none takes them along.
fn holder(service: &Id) -> NodeId {
    NodeId::parse(service.as_str()).expect("services of the cluster are called as nodes are")
}

/// The addresses that `places` have beyond those of `others`.
fn claims<'a>(
    places: &'a [Place],
    others: &'a [Place],
) -> impl Iterator<Item = (&'a Id, IpAddr)> + use<'a> {
    let all = |places: &'a [Place]| {
        places.iter().flat_map(|place| {
            let addresses = place.addresses.iter().map(IpNet::addr);
            addresses.map(move |address| (&place.network, address))
        })
    };
    all(places).filter(move |claim| all(others).all(|other| other != *claim))
}

/// The ports that nobody else has on this node.
fn free_ports(writer: &Writer, record: &Service) -> Vec<ServicePort> {
    let holder = PortHolder::Service(record.id.clone());
    let is_free = |port: &&ServicePort| {
        if port.publish_mode == PublishMode::Host {
            return true;
        }
        let mut numbers = (0..port.count).map(|more| port.published_port.saturating_add(more));
        let free = !numbers.any(|number| writer.ports.is_held_by_another(&holder, number));
        if !free {
            tracing::error!(
                service = %record.spec.name,
                "port {port} is somebody else's on this node, which does not answer for the service"
            );
        }
        free
    };
    record.ports.iter().filter(is_free).copied().collect()
}
