//! The part an endpoint has in a service, and which members new connections go to.

use std::net::IpAddr;

use api::id::Id;
use api::service::MemberState;
use serde::{Deserialize, Serialize};

use super::check::MAX_WEIGHT;
use crate::model::endpoint::Endpoint;
use crate::model::peer::{Part, Peer};

/// Part of an endpoint's record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Membership {
    pub(crate) service: Id,
    pub(crate) weight: u32,
    pub(crate) draining: bool,
    pub(crate) verdict: Verdict,
}

/// What the probes say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    Starting,
    Up,
    Down,
}

impl Membership {
    pub(crate) fn state(&self) -> MemberState {
        match (self.draining, self.verdict) {
            (true, _) => MemberState::Draining,
            (false, Verdict::Starting) => MemberState::Starting,
            (false, Verdict::Up) => MemberState::Serving,
            (false, Verdict::Down) => MemberState::Down,
        }
    }

    fn may_serve(&self) -> bool {
        !self.draining && self.weight > 0
    }
}

/// An endpoint as a member of the service in question.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Member<'a> {
    pub(crate) at: At<'a>,
    pub(crate) part: &'a Membership,
}

/// Where a member is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum At<'a> {
    Here(&'a Endpoint),
    /// On another node.
    Elsewhere {
        network: &'a Id,
        peer: &'a Peer,
        part: &'a Part,
    },
}

impl<'a> Member<'a> {
    pub(crate) fn here(endpoint: &'a Endpoint, part: &'a Membership) -> Self {
        let at = At::Here(endpoint);
        Self { at, part }
    }

    pub(crate) fn elsewhere(network: &'a Id, peer: &'a Peer, part: &'a Part) -> Self {
        Self {
            at: At::Elsewhere {
                network,
                peer,
                part,
            },
            part: &part.membership,
        }
    }

    /// Its endpoint, if it is here.
    pub(crate) fn endpoint(&self) -> Option<&'a Endpoint> {
        match self.at {
            At::Here(endpoint) => Some(endpoint),
            At::Elsewhere { .. } => None,
        }
    }

    /// The endpoint's id.
    pub(crate) fn id(&self) -> &'a Id {
        match self.at {
            At::Here(endpoint) => &endpoint.attachment.endpoint_id,
            At::Elsewhere { peer, .. } => &peer.endpoint,
        }
    }

    pub(crate) fn container(&self) -> &'a str {
        match self.at {
            At::Here(endpoint) => &endpoint.attachment.container_id,
            At::Elsewhere { peer, .. } => &peer.container,
        }
    }

    /// How people know the container.
    pub(crate) fn display_name(&self) -> &'a str {
        match self.at {
            At::Here(endpoint) => endpoint.display_name(),
            At::Elsewhere { peer, .. } => peer.display_name(),
        }
    }

    pub(crate) fn network(&self) -> &'a Id {
        match self.at {
            At::Here(endpoint) => &endpoint.attachment.network_id,
            At::Elsewhere { network, .. } => network,
        }
    }

    pub(crate) fn is_on(&self, network: &Id) -> bool {
        self.network() == network
    }

    /// The address of a family.
    pub(crate) fn address(&self, v6: bool) -> Option<IpAddr> {
        match self.at {
            At::Here(endpoint) => endpoint.address(v6),
            At::Elsewhere { peer, .. } => peer.address(v6),
        }
    }
}

/// Members that new connections are spread over, and those that keep what they have.
///
/// While none that may serve is well, all of these are used: probes may be wrong, and a refusal is
/// no better than a try.
#[derive(Debug, Clone)]
pub(crate) struct Pool<'a> {
    members: Vec<Member<'a>>,
    is_last_resort: bool,
}

impl<'a> Pool<'a> {
    pub(crate) fn of(members: impl IntoIterator<Item = Member<'a>>) -> Self {
        let members: Vec<Member<'a>> = members.into_iter().collect();
        let may_serve = || members.iter().filter(|member| member.part.may_serve());
        let is_well = |member: &Member<'_>| member.part.verdict == Verdict::Up;
        let is_last_resort = may_serve().next().is_some() && !may_serve().any(is_well);
        Self {
            members,
            is_last_resort,
        }
    }

    pub(crate) fn members(&self) -> &[Member<'a>] {
        &self.members
    }

    /// Whether one is used that is not well.
    pub(crate) fn is_last_resort(&self) -> bool {
        let mut members = self.members.iter();
        // Those that only start are no reason to worry anybody.
        self.is_last_resort && members.any(|member| member.part.verdict == Verdict::Down)
    }

    /// Whether new connections go there.
    pub(crate) fn uses(&self, member: &Member<'_>) -> bool {
        let part = member.part;
        part.may_serve() && (self.is_last_resort || part.verdict == Verdict::Up)
    }

    pub(crate) fn in_use(&self) -> impl Iterator<Item = &Member<'a>> {
        self.members.iter().filter(|member| self.uses(member))
    }

    /// What the data plane is to know of a member: its weight, or nothing when its flows are to
    /// move at once. One that is not used keeps the connections it has. A protocol without
    /// connections has no end to wait for: what a member that is down does not answer, another does.
    pub(super) fn weight(&self, member: &Member<'_>, connections: bool) -> Option<u32> {
        if self.uses(member) {
            return Some(member.part.weight.min(MAX_WEIGHT));
        }
        let is_down = member.part.verdict == Verdict::Down && !member.part.draining;
        (connections || !is_down).then_some(0)
    }
}
