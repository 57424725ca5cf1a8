//! The WireGuard interface of the fake.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use api::id::IfName;
use ipnet::IpNet;

use super::State;
use crate::model::observed::{Observed, WireGuard};
use crate::model::step::Step;
use crate::model::wireguard::{self, Correspondents, PublicKey};

impl State {
    /// Whether something was otherwise; nothing where there is no such interface to change.
    pub(super) fn wireguard(&mut self, step: &Step) -> Option<bool> {
        match step {
            Step::CreateWireGuard(new) => self.create_wireguard(new),
            Step::Correspond { link, gone, new } => self.correspond(link, gone, new),
            Step::ChangeKey { link } => self.change_key(link),
            _ => None,
        }
    }

    /// Whether it is new, or was otherwise; nothing where the name is another link's.
    fn create_wireguard(&mut self, new: &wireguard::WireGuard) -> Option<bool> {
        let exists = self.observed.links.contains_key(&new.link);
        if !exists {
            let index = self.add_link(new.link.as_str(), false, &[]);
            let link = self.observed.links.get_mut(&new.link)?;
            link.wireguard = Some(WireGuard {
                key: Some(key(index)),
                ..WireGuard::default()
            });
        }
        let link = self.observed.links.get_mut(&new.link)?;
        let before = link.clone();
        link.mtu = new.mtu;
        link.up = true;
        link.addresses = vec![super::address(&wireguard::net(new.address).to_string())];
        link.wireguard.as_mut()?.port = new.port;
        Some(!exists || before != *link)
    }

    fn correspond(
        &mut self,
        link: &IfName,
        gone: &BTreeSet<PublicKey>,
        new: &Correspondents,
    ) -> Option<bool> {
        let Some(found) = self.observed.links.get_mut(link) else {
            return new.is_empty().then_some(false);
        };
        let peers = &mut found.wireguard.as_mut()?.peers;
        peers.retain(|key, _| !gone.contains(key));
        for (key, correspondent) in new {
            let only = IpNet::from(IpAddr::from(correspondent.address));
            // An address is one node's.
            peers.values_mut().for_each(|addresses| {
                addresses.remove(&only);
            });
            peers.insert(*key, [only].into());
        }
        Some(true)
    }

    fn change_key(&mut self, link: &IfName) -> Option<bool> {
        self.next_index += 1;
        let next = key(self.next_index);
        let found = self.observed.links.get_mut(link)?.wireguard.as_mut()?;
        found.key = Some(next);
        Some(true)
    }

    /// What a link takes along that sends by it alone.
    pub(super) fn delete_above(&mut self, index: u32) {
        let links = self.observed.links.iter();
        let above =
            links.filter(|(_name, link)| link.vxlan.is_some_and(|v| v.below == Some(index)));
        let names: Vec<IfName> = above.map(|(name, _link)| name.clone()).collect();
        for link in names {
            let delete = Step::DeleteLink { link };
            self.apply(&delete).expect("it is there");
        }
    }
}

impl Observed {
    /// Whom the interface knows.
    pub(super) fn correspondents(&self) -> BTreeMap<PublicKey, BTreeSet<IpNet>> {
        let link = self.links.get(&wireguard::link());
        let wireguard = link.and_then(|link| link.wireguard.as_ref());
        wireguard.map(|w| w.peers.clone()).unwrap_or_default()
    }
}

fn key(number: u32) -> PublicKey {
    let mut key = [0; 32];
    key[..4].copy_from_slice(&number.to_be_bytes());
    PublicKey(key)
}
