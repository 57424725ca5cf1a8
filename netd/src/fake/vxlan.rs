//! VXLAN interfaces of the fake.

use api::id::IfName;

use super::State;
use crate::model::forwarding::Forwarding;
use crate::model::mesh;
use crate::model::observed::Vxlan;
use crate::model::step;
use crate::model::wireguard;

impl State {
    /// Whether it is new, or was otherwise; nothing when it has no bridge to be on.
    pub(super) fn create_vxlan(&mut self, new: &step::Vxlan) -> Option<bool> {
        let bridge = self.observed.links.get(&new.bridge)?.index;
        let exists = self.observed.links.contains_key(&new.link);
        if !exists {
            self.add_link(new.link.as_str(), false, &[]);
            let entries = Forwarding::default();
            self.observed.forwarding.insert(new.link.clone(), entries);
        }
        let below = match new.tunnel.is_local_to_link() {
            true => Some(self.observed.links.get(&wireguard::link())?.index),
            false => None,
        };
        let link = self.observed.links.get_mut(&new.link)?;
        let before = link.clone();
        link.master = Some(bridge);
        link.mtu = new.mtu;
        link.up = true;
        link.vxlan = Some(Vxlan {
            vni: new.vni,
            tunnel: Some(new.tunnel),
            below,
            quiet: true,
        });
        Some(!exists || before != *link)
    }

    /// Whether it is new, or was otherwise.
    pub(super) fn create_mesh(&mut self, new: &step::Mesh) -> bool {
        let exists = self.observed.links.contains_key(&new.link);
        if !exists {
            self.add_link(new.link.as_str(), false, &[]);
            let entries = Forwarding::default();
            self.observed.forwarding.insert(new.link.clone(), entries);
        }
        let Some(link) = self.observed.links.get_mut(&new.link) else {
            return false;
        };
        let before = link.clone();
        link.mac = Some(new.mac);
        link.mtu = new.mtu;
        link.up = true;
        link.addresses = vec![super::address(&mesh::address().to_string())];
        link.vxlan = Some(Vxlan {
            vni: mesh::VNI,
            tunnel: Some(new.tunnel),
            below: None,
            quiet: false,
        });
        !exists || before != *link
    }

    /// Nothing when there is no such interface to lead anywhere.
    pub(super) fn forward(
        &mut self,
        link: &IfName,
        gone: &Forwarding,
        new: &Forwarding,
    ) -> Option<bool> {
        let Some(entries) = self.observed.forwarding.get_mut(link) else {
            return new.is_empty().then_some(false);
        };
        entries.nodes.retain(|mac, _| !gone.nodes.contains_key(mac));
        entries.behind.retain(|mac| !gone.behind.contains(mac));
        let neighbours = &mut entries.neighbours;
        neighbours.retain(|address, _| !gone.neighbours.contains_key(address));
        neighbours.extend(new.neighbours.clone());
        entries.nodes.extend(new.nodes.clone());
        entries.behind.extend(new.behind.clone());
        Some(true)
    }
}
