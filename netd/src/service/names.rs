//! What services and their members are called.
//!
//! On each network of a service: in mode vip its name stands for its address there, in mode dnsrr
//! for those of the members in use, as `tasks.NAME` does in either mode. A name of a service is its
//! own: a container of the same name is not found by it there.

use std::collections::BTreeSet;
use std::sync::Arc;

use api::id::Id;
use sys::netns::NsId;

use super::pool;
use crate::dns::NamedEndpoint;
use crate::model::desired::Desired;
use crate::model::endpoint::Endpoint;
use crate::model::network::{Network, Stage};
use crate::model::service::{At, Member, Place, Service};
use crate::netd::Netd;

/// No namespace is on this device: nobody asks from the address of a service.
const NOWHERE: u64 = 0;

impl Netd {
    /// An endpoint of the default network has no names, but asks.
    pub(crate) fn publish_names(&self, desired: &Desired, network: &Network, endpoint: &Endpoint) {
        let attachment = &endpoint.attachment;
        let names = if network.has_names() {
            names(desired, network, endpoint)
        } else {
            Vec::new()
        };
        self.dns.upsert(NamedEndpoint {
            endpoint: attachment.endpoint_id.clone(),
            network: network.id.clone(),
            network_name: network.name.clone(),
            container_id: attachment.container_id.clone(),
            sandbox: endpoint.sandbox.id(),
            order: endpoint.order,
            names,
            addresses: endpoint.addresses().collect(),
            ports: attachment.ports.clone(),
            links: endpoint.links.clone(),
            upstreams: endpoint.upstreams.clone(),
            internal: network.internal,
        });
    }

    /// Names that exist for as long as the service does, with members or without.
    pub(crate) fn publish_service(&self, desired: &Desired, service: &Service) {
        if service.stage == Stage::Removing {
            return;
        }
        for place in &service.places {
            let network = desired.networks.get(&place.network);
            if let Some(network) = network.filter(|network| network.has_names()) {
                self.dns.upsert(entry(service, place, network, Kind::Own));
                self.dns.upsert(entry(service, place, network, Kind::Tasks));
            }
        }
    }

    pub(crate) fn unpublish_service(&self, service: &Service) {
        for place in &service.places {
            for kind in [Kind::Own, Kind::Tasks] {
                self.dns.remove(&entry_id(service, place, kind));
            }
        }
    }

    /// Containers that are called like the service have, or have not, that name from now on.
    pub(crate) fn republish_namesakes(&self, desired: &Desired, service: &Service) {
        for place in &service.places {
            let Some(network) = desired.networks.get(&place.network) else {
                continue;
            };
            for endpoint in desired.endpoints_of(&place.network) {
                let attachment = &endpoint.attachment;
                let mut names = attachment.name.iter().chain(&attachment.aliases);
                if names.any(|name| service.is_called(name)) {
                    self.publish_names(desired, network, endpoint);
                }
            }
        }
    }

    /// The members of a service that has changed itself.
    pub(crate) fn republish_members(&self, desired: &Desired, service: &Service) {
        for member in desired.members(&service.id) {
            self.republish(desired, &member);
        }
    }

    /// Members that are in use now and were not, or the reverse, because of `changed`.
    pub(crate) fn republish_changed(&self, before: &Desired, after: &Desired, changed: &Endpoint) {
        for part in &changed.memberships {
            self.note_last_resort(before, after, &part.service);
            self.republish_used(before, after, &part.service);
        }
    }

    pub(crate) fn republish_used(&self, before: &Desired, after: &Desired, service: &Id) {
        let (was, is) = (in_use(before, service), in_use(after, service));
        for member in after.members(service) {
            if was.contains(member.id()) != is.contains(member.id()) {
                self.republish(after, &member);
            }
        }
    }

    fn republish(&self, desired: &Desired, member: &Member<'_>) {
        let Some(network) = desired.networks.get(member.network()) else {
            return;
        };
        match member.at {
            At::Here(endpoint) => self.publish_names(desired, network, endpoint),
            At::Elsewhere { peer, .. } => self.publish_peers(desired, network, [peer]),
        }
    }
}

impl Service {
    fn is_called(&self, name: &str) -> bool {
        self.spec.name.eq_ignore_ascii_case(name) || self.tasks_name().eq_ignore_ascii_case(name)
    }
}

/// Its own names, the first to be found by a reverse lookup, then those of its services.
fn names(desired: &Desired, network: &Network, endpoint: &Endpoint) -> Vec<String> {
    let attachment = &endpoint.attachment;
    let short_id: String = attachment.container_id.chars().take(12).collect();
    let is_free = |name: &&String| !desired.services.on(&network.id).any(|s| s.is_called(name));
    let own = attachment.name.iter().chain(&attachment.aliases);
    let own = own.filter(is_free).cloned().chain([short_id]);
    let parts = endpoint.memberships.iter();
    let services = parts.flat_map(|part| {
        let member = Member::here(endpoint, part);
        names_by_service(desired, network, &member)
    });
    own.chain(services).collect()
}

/// What a member is called for its part in a service, if it is used.
pub(crate) fn names_by_service(
    desired: &Desired,
    network: &Network,
    member: &Member<'_>,
) -> Vec<String> {
    let service = desired.services.get(&member.part.service);
    let place = service.and_then(|service| Some((service, service.place(&network.id)?)));
    let Some((service, place)) = place else {
        return Vec::new();
    };
    let members: Vec<Member<'_>> = desired.members(&service.id).collect();
    match pool(&members, place).uses(member) {
        true => service.member_names(),
        false => Vec::new(),
    }
}

/// The endpoints that new connections of a service go to.
fn in_use(desired: &Desired, service: &Id) -> BTreeSet<Id> {
    let Some(service) = desired.services.get(service) else {
        return BTreeSet::new();
    };
    let members: Vec<Member<'_>> = desired.members(&service.id).collect();
    let places = service.places.iter();
    places
        .flat_map(|place| {
            let pool = pool(&members, place);
            let used: Vec<Id> = pool.in_use().map(|m| m.id().clone()).collect();
            used
        })
        .collect()
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Own,
    Tasks,
}

fn entry(service: &Service, place: &Place, network: &Arc<Network>, kind: Kind) -> NamedEndpoint {
    let (name, addresses) = match kind {
        Kind::Own => {
            let addresses = place.addresses.iter().map(|address| address.addr());
            (service.spec.name.clone(), addresses.collect())
        }
        Kind::Tasks => (service.tasks_name(), Vec::new()),
    };
    NamedEndpoint {
        endpoint: entry_id(service, place, kind),
        network: network.id.clone(),
        network_name: network.name.clone(),
        container_id: service.id.to_string(),
        sandbox: NsId {
            device: NOWHERE,
            inode: u64::from(service.number) << 32 | u64::from(place.slot) << 1 | kind as u64,
        },
        order: 0,
        names: vec![name],
        addresses,
        ports: service.bindings(),
        links: Vec::new(),
        upstreams: Vec::new(),
        internal: network.internal,
    }
}

/// Half of each id, both random; those of the cluster may have other than hexadecimal digits.
fn entry_id(service: &Service, place: &Place, kind: Kind) -> Id {
    let digit = match kind {
        Kind::Own => 'a',
        Kind::Tasks => 'b',
    };
    let text = format!(
        "{}{}0{digit}",
        hex::encode(&service.id.as_str()[..16]),
        hex::encode(&place.network.as_str()[..15])
    );
    Id::parse(&text).expect("64 hexadecimal digits")
}
