//! A service as the wire has it.

use api::service::{self as wire, ServiceMember};

use super::pool;
use crate::model::desired::Desired;
use crate::model::service::{At, Member, Place, Pool, Service};
use crate::netd::Netd;

impl Netd {
    /// The wire's object.
    pub(super) fn shown(&self, view: &Desired, service: &Service) -> wire::Service {
        let members: Vec<Member<'_>> = view.members(&service.id).collect();
        let pools: Vec<(&Place, Pool<'_>)> = service
            .places
            .iter()
            .map(|place| (place, pool(&members, place)))
            .collect();
        let show = |member: &Member<'_>| {
            let pool = pools.iter().find(|(place, _)| member.is_on(&place.network));
            let network = view.any_network(member.network().as_str());
            Some(ServiceMember {
                container_id: member.container().to_owned(),
                name: member.display_name().to_owned(),
                network: network.ok()?.name.clone(),
                interface: match member.at {
                    At::Here(endpoint) => Some(endpoint.attachment.ifname.clone()),
                    At::Elsewhere { .. } => None,
                },
                node: match member.at {
                    At::Here(_) => None,
                    At::Elsewhere { peer, .. } => Some(peer.node.clone()),
                },
                addresses: match member.at {
                    At::Here(endpoint) => endpoint.addresses().collect(),
                    At::Elsewhere { peer, .. } => peer.addresses.clone(),
                },
                weight: member.part.weight,
                state: member.part.state(),
                in_use: pool.is_some_and(|(_, pool)| pool.uses(member)),
                error: match member.at {
                    At::Here(endpoint) => self.health_notes.error(&service.id, endpoint),
                    At::Elsewhere { .. } => String::new(),
                },
            })
        };
        wire::Service {
            id: service.id.clone(),
            version: service.version(),
            created_at: service.created.clone(),
            updated_at: service.updated.clone(),
            endpoint: service.endpoint(),
            members: members.iter().filter_map(show).collect(),
            last_resort: pools.iter().any(|(_, pool)| pool.is_last_resort()),
            spec: service.spec.clone(),
            previous_spec: service.previous.clone(),
            update_status: service.update_status.clone(),
            revision: service.shared.as_ref().map(|shared| shared.modified),
        }
    }
}
