//! Claiming addresses, and telling the others of endpoints.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use api::id::Id;
use cluster::{ControlError, Outcome, Transaction, key};
use ipnet::IpNet;

use super::{Membership, about, subject};
use crate::error::NetError;
use crate::model::address;
use crate::model::desired::Desired;
use crate::model::endpoint::Endpoint;
use crate::model::network::{Network, NetworkError};
use crate::model::peer::{Claim, Part, Peer};
use crate::model::service::{Place, ServiceError};
use crate::model::wireguard::PublicKey;
use crate::netd::{Netd, Writer};

/// How often others may be faster before it is said.
pub(super) const TRIES: usize = 32;

/// etcd takes 128 changes at once, unless it is told otherwise (`--max-txn-ops`).
const MAX_PUTS: usize = 100;

/// Whether addresses could be claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Claimed {
    Yes,
    /// What is taken is known now: others may be chosen.
    Taken,
}

impl Netd {
    /// Claims the endpoint's addresses and tells the other nodes of it, at once or not at all. A
    /// network of this host alone needs none of it.
    pub(crate) fn claim(
        &self,
        network: &Network,
        endpoint: &Endpoint,
    ) -> Result<Claimed, NetError> {
        if network.driver.overlay().is_none() {
            return Ok(Claimed::Yes);
        }
        let membership = self.membership_for(&subject(network))?;
        let holder = format!("container {}", endpoint.display_name());
        let addresses: Vec<IpAddr> = endpoint.addresses().collect();
        let claims = membership.claims(&network.id, &addresses, holder);
        // Nobody is led to it before it is there.
        let key = self.key_on(network);
        let all = match membership.entry(endpoint, key, Vec::new()) {
            Some((key, value)) => claims.put_leased(key, value),
            None => claims,
        };
        self.commit_claims(&membership, network, all)
    }

    /// Addresses for a service, which are nobody else's.
    pub(crate) fn claimed_for_service(
        &self,
        network: &Network,
        writer: &Writer,
        service: &str,
    ) -> Result<Vec<IpNet>, NetError> {
        loop {
            let view = self.view();
            let chosen = address::for_service(network, &writer.walks, view.holders());
            let chosen = chosen.map_err(ServiceError::from)?;
            if network.driver.overlay().is_none() {
                return Ok(chosen);
            }
            let membership = self.membership_for(&subject(network))?;
            let addresses: Vec<IpAddr> = chosen.iter().map(IpNet::addr).collect();
            let holder = format!("service {service}");
            let claims = membership.claims(&network.id, &addresses, holder);
            if self.commit_claims(&membership, network, claims)? == Claimed::Yes {
                return Ok(chosen);
            }
        }
    }

    /// Takes back what was claimed for `places` and is not of the `old` ones.
    pub(crate) fn unclaim(&self, places: &[Place], old: &[Place]) {
        let view = self.view();
        for place in places {
            let kept = old.iter().any(|old| old.network == place.network);
            if let Some(network) = view.networks.get(&place.network).filter(|_| !kept) {
                let addresses: Vec<IpAddr> = place.addresses.iter().map(IpNet::addr).collect();
                self.withdraw_service(network, &addresses);
            }
        }
    }

    /// While the network is there and nobody removes it.
    fn commit_claims(
        &self,
        membership: &Membership,
        network: &Network,
        claims: Transaction,
    ) -> Result<Claimed, NetError> {
        let control = &membership.member.control;
        let id = network.id.as_str();
        for _ in 0..TRIES {
            let modified = self.view().cluster.get(&network.id).map(|s| s.modified);
            if let Some(modified) = modified {
                let all = claims
                    .clone()
                    .when(key::network(id), modified)
                    .when(key::removal(id), 0);
                if control.commit(&all).map_err(about(&subject(network)))? != Outcome::Refused {
                    return Ok(Claimed::Yes);
                }
            }
            self.look_up(membership, network)?;
            let taken = self.learn_claims(membership, network)?;
            let is_asked = |address: &IpAddr| {
                let name = key::claim(id, *address);
                claims.compares.iter().any(|compare| compare.key == name)
            };
            if taken.iter().any(is_asked) {
                return Ok(Claimed::Taken);
            }
        }
        Err(NetError::Contended(subject(network)))
    }

    /// Knows which addresses of a network are claimed by now.
    pub(crate) fn ask_for_claims(&self, network: &Network) -> Result<(), NetError> {
        let membership = self.membership_for(&subject(network))?;
        self.learn_claims(&membership, network).map(drop)
    }

    /// Knows which addresses of a network are claimed, and that others are not; returns them.
    pub(super) fn learn_claims(
        &self,
        membership: &Membership,
        network: &Network,
    ) -> Result<Vec<IpAddr>, NetError> {
        let control = &membership.member.control;
        let read = control.snapshot(&key::claims(network.id.as_str()));
        let read = read.map_err(about(&subject(network)))?;
        let mut after = Desired::clone(&self.view());
        let peers = after.peers.entry(network.id.clone()).or_default();
        peers.free_all();
        let mut taken = Vec::new();
        for (claim, entry) in &read.entries {
            if let Some((address, claim)) = parse(claim, &entry.value) {
                taken.push(address);
                peers.take(address, claim.holder);
            }
        }
        self.publish_view(after);
        Ok(taken)
    }

    /// Knows the network as it is now.
    fn look_up(&self, membership: &Membership, network: &Network) -> Result<(), NetError> {
        let name = key::network(network.id.as_str());
        let control = &membership.member.control;
        let read = control.snapshot(&name).map_err(about(&subject(network)))?;
        let shared = read.entries.get(&name).and_then(super::network::shared);
        let shared = shared.ok_or_else(|| NetworkError::NotFound(network.name.to_string()))?;
        let mut view = Desired::clone(&self.view());
        let mut cluster = (*view.cluster).clone();
        cluster.insert(network.id.clone(), shared);
        view.cluster = Arc::new(cluster);
        self.publish_view(view);
        Ok(())
    }

    /// Takes back what was claimed for the endpoint, which is gone from here; later, if the control
    /// plane does not answer.
    pub(crate) fn withdraw(&self, network: &Network, endpoint: &Endpoint) {
        if network.driver.overlay().is_none() {
            return;
        }
        let Some(membership) = self.membership.load_full() else {
            return;
        };
        let heard = membership.hears();
        if let Err(error) = heard.and_then(|()| membership.withdraw(endpoint)) {
            tracing::warn!(endpoint = %endpoint.key(), %error, "its address is freed later");
            membership.gone().push(Arc::new(endpoint.clone()));
        }
    }

    /// Takes back what was claimed for a service. What cannot be is freed by the next start.
    pub(crate) fn withdraw_service(&self, network: &Network, addresses: &[IpAddr]) {
        if network.driver.overlay().is_none() {
            return;
        }
        if let Some(membership) = self.membership.load_full()
            && let Err(error) = membership
                .hears()
                .and_then(|()| membership.free(&network.id, addresses, None))
        {
            tracing::warn!(network = %network.name, %error, "a service's address is freed later");
        }
    }

    /// Tells the others of an endpoint that has changed.
    pub(crate) fn announce_endpoint(&self, network: &Network, endpoint: &Endpoint) {
        self.announce_together([(network, endpoint)].into_iter());
    }

    /// The same of several, at once as far as a transaction has room.
    pub(super) fn announce_together<'a>(
        &self,
        endpoints: impl Iterator<Item = (&'a Network, &'a Endpoint)>,
    ) {
        let Some(membership) = self.membership.load_full() else {
            return;
        };
        let shared = endpoints.filter(|(network, _)| network.driver.overlay().is_some());
        let entries = shared.filter_map(|(network, endpoint)| {
            membership.entry(endpoint, self.key_on(network), self.parts_of(endpoint))
        });
        let entries: Vec<(String, String)> = entries
            .filter(|(key, value)| membership.told().get(key) != Some(value))
            .collect();
        let control = &membership.member.control;
        for some in entries.chunks(MAX_PUTS) {
            let put = some.iter().cloned();
            let put = put.fold(Transaction::default(), |all, (k, v)| all.put_leased(k, v));
            match membership.hears().and_then(|()| control.commit(&put)) {
                Ok(_) => membership.told().extend(some.iter().cloned()),
                Err(error) => {
                    let mut told = membership.told();
                    some.iter().for_each(|(key, _)| drop(told.remove(key)));
                    drop(told);
                    membership.untold.store(true, Ordering::Relaxed);
                    tracing::warn!(endpoints = some.len(), %error, "other nodes are told of them later");
                }
            }
        }
    }

    /// Tells the control plane what it could not be told before.
    pub(super) fn announce_again(&self, membership: &Membership) {
        if !membership.untold.swap(false, Ordering::Relaxed) {
            return;
        }
        let _writer = self.writer();
        for (network, endpoint) in self.shared_endpoints() {
            self.announce_endpoint(&network, &endpoint);
        }
    }
}

impl Membership {
    fn claims(&self, network: &Id, addresses: &[IpAddr], holder: String) -> Transaction {
        let claim = encode(&Claim {
            node: self.member.node.clone(),
            holder,
        });
        let claims = addresses.iter().map(|a| key::claim(network.as_str(), *a));
        claims.fold(Transaction::default(), |all, key| {
            all.when(key.clone(), 0).put(key, claim.clone())
        })
    }

    /// What the others are told of the endpoint.
    fn entry(
        &self,
        endpoint: &Endpoint,
        key: Option<PublicKey>,
        parts: Vec<Part>,
    ) -> Option<(String, String)> {
        let peer = Peer::of(endpoint, &self.member.node, self.tunnel())?;
        let peer = Peer { key, parts, ..peer };
        Some((self.key(endpoint), encode(&peer)))
    }

    fn key(&self, endpoint: &Endpoint) -> String {
        let attachment = &endpoint.attachment;
        let network = attachment.network_id.as_str();
        let id = attachment.endpoint_id.as_str();
        key::endpoint(&self.member.node, network, id)
    }

    pub(super) fn withdraw(&self, endpoint: &Endpoint) -> Result<(), ControlError> {
        self.told().remove(&self.key(endpoint));
        let addresses: Vec<IpAddr> = endpoint.addresses().collect();
        let network = &endpoint.attachment.network_id;
        self.free(network, &addresses, Some(self.key(endpoint)))
    }

    /// Frees those of the addresses that are this node's.
    fn free(
        &self,
        network: &Id,
        addresses: &[IpAddr],
        entry: Option<String>,
    ) -> Result<(), ControlError> {
        for _ in 0..TRIES {
            let mut all = Transaction::default();
            if let Some(entry) = &entry {
                all = all.delete(entry.clone());
            }
            for address in addresses {
                let name = key::claim(network.as_str(), *address);
                let read = self.member.control.snapshot(&name)?;
                let Some(entry) = read.entries.get(&name) else {
                    continue;
                };
                let claim = parse(&name, &entry.value);
                if claim.is_some_and(|(_, claim)| claim.node == self.member.node) {
                    all = all.when(name.clone(), entry.modified).delete(name);
                }
            }
            if all.ops.is_empty() || self.member.control.commit(&all)? != Outcome::Refused {
                return Ok(());
            }
        }
        Err(ControlError::Unreachable(
            "others change what is to be freed all the time".to_owned(),
        ))
    }

    /// Puts what is here on record, and frees what is not here any more.
    pub(super) fn settle(&self, netd: &Netd) -> Result<(), ControlError> {
        let _writer = netd.writer();
        let control = &self.member.control;
        let read = control.snapshot(key::CLAIMS)?;
        for (network, endpoint) in netd.shared_endpoints() {
            let holder = format!("container {}", endpoint.display_name());
            let mut all = Transaction::default();
            for address in endpoint.addresses() {
                let name = key::claim(network.id.as_str(), address);
                let claim = read.entries.get(&name).and_then(|e| parse(&name, &e.value));
                match claim {
                    None => {
                        let claims = self.claims(&network.id, &[address], holder.clone());
                        all.compares.extend(claims.compares);
                        all.ops.extend(claims.ops);
                    }
                    Some((_, claim)) if claim.node == self.member.node => {}
                    Some((_, claim)) => tracing::error!(
                        %address,
                        network = %network.name,
                        endpoint = %endpoint.key(),
                        "{} of node {} has the address as well: detach one of them",
                        claim.holder,
                        claim.node
                    ),
                }
            }
            let key = netd.key_on(&network);
            let entry = self.entry(&endpoint, key, netd.parts_of(&endpoint));
            self.told().extend(entry.clone());
            all = entry
                .into_iter()
                .fold(all, |all, (k, v)| all.put_leased(k, v));
            if control.commit(&all)? == Outcome::Refused {
                return Err(ControlError::Unreachable(format!(
                    "an address of {} is being claimed by others",
                    endpoint.display_name()
                )));
            }
        }
        let view = netd.view();
        for (name, entry) in &read.entries {
            let Some((address, claim)) = parse(name, &entry.value) else {
                continue;
            };
            let network = name
                .split('/')
                .nth(1)
                .and_then(|id| Id::try_from(id.to_owned()).ok());
            let is_held = network.is_some_and(|network| {
                view.endpoints.holder(&network, address).is_some()
                    || view.services.holder(&network, address).is_some()
            });
            if claim.node == self.member.node && !is_held {
                let free = Transaction::default().when(name.clone(), entry.modified);
                control.commit(&free.delete(name.clone()))?;
            }
        }
        Ok(())
    }
}

/// The address of a claim, and what is on record of it.
pub(super) fn parse(name: &str, value: &str) -> Option<(IpAddr, Claim)> {
    let address = name.rsplit('/').next()?.parse().ok()?;
    Some((address, serde_json::from_str(value).ok()?))
}

/// Records serialise: their maps have text keys, and nothing in them fails to.
pub(super) fn encode<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("a record serialises")
}
