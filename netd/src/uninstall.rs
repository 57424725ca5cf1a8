//! Removing everything from the kernel.

use std::io;
use std::sync::Arc;

use api::id::IfName;
use api::net::LinkBy;

use crate::apply::{delete_child, delete_link, delete_parent, release_ports};
use crate::bpf::{self, DataPlane};
use crate::departure::Departure;
use crate::error::OpenError;
use crate::kernel::KernelError;
use crate::model::child::ChildKind;
use crate::model::mesh;
use crate::model::network::Network;
use crate::model::step::Change;
use crate::model::wireguard;
use crate::netd::{Netd, Options};
use crate::netlink::Rtnl;
use crate::nft;
use crate::store::Store;

impl Netd {
    /// Removes the interfaces, pins and the nftables table of a daemon that is not running, and
    /// gives the ports back that it kept from the host's own connections.
    /// Networks and services stay on record: a daemon that starts again makes them anew. Returns the
    /// interfaces that were removed.
    ///
    /// # Errors
    /// [`OpenError`] of the first object that stays; calling again goes on from there.
    pub fn uninstall(options: &Options) -> Result<Vec<String>, OpenError> {
        let database = Arc::clone(&options.database);
        let store = Store::open(database, &options.state_dir, &options.run_dir)?;
        let mut rtnl = Rtnl::open().map_err(|source| failed("open a netlink socket", source))?;
        let mut removed = Vec::new();
        let mut remove = |link: &IfName| -> Result<(), OpenError> {
            let done = delete_link(&mut rtnl, link)
                .map_err(|source| failed(&format!("delete interface {link}"), source))?;
            if done == Change::Done {
                removed.push(link.to_string());
            }
            Ok(())
        };
        let networks = store.networks()?;
        let (endpoints, services) = (store.endpoints()?, store.services()?);
        // First, because the records that say which ports they are go below.
        let ports = endpoints.iter().flat_map(|endpoint| endpoint.host_ports());
        let ports = ports.chain(services.iter().flat_map(|service| service.host_ports()));
        release_ports(&ports.collect())?;
        for endpoint in endpoints {
            for departure in Departure::of(&endpoint) {
                remove(&departure.link)?;
            }
            let network = networks.iter().find(|network| endpoint.is_on(&network.id));
            if let Some(kind) = network.and_then(|network| ChildKind::of(&network.driver))
                && endpoint.attachment.link == LinkBy::Hawser
            {
                let ifname = &endpoint.attachment.ifname;
                let id = &endpoint.attachment.endpoint_id;
                delete_child(&endpoint.sandbox, ifname, id, kind.link_kind())
                    .map_err(|source| failed(&format!("delete interface {ifname}"), source))?;
            }
            store.delete_endpoint(&endpoint.key(), &[])?;
        }
        for departure in store.departures()? {
            remove(&departure.link)?;
            store.delete_departures(&[departure.link])?;
        }
        if services.iter().any(|service| service.is_published()) {
            remove(&mesh::link())?;
        }
        let is_encrypted = |network: &Network| {
            let overlay = network.driver.overlay();
            overlay.is_some_and(|overlay| overlay.inner.is_some())
        };
        if networks.iter().any(is_encrypted) {
            remove(&wireguard::link())?;
        }
        let mut parents = Vec::new();
        for network in networks {
            for segment in network
                .driver
                .overlay()
                .into_iter()
                .flat_map(|o| o.segments())
            {
                remove(&segment.link)?;
            }
            for bridge in network.bridges() {
                remove(bridge)?;
            }
            if let Some(parent) = network.driver.parent() {
                parents.push(parent.link.clone());
            }
        }
        for link in parents {
            let done = delete_parent(&mut rtnl, &link)
                .map_err(|source| failed(&format!("delete interface {link}"), source))?;
            if done == Change::Done {
                removed.push(link.to_string());
            }
        }
        nft::remove().map_err(|source| KernelError::Filter {
            action: "remove table inet hawser".to_owned(),
            source,
        })?;
        DataPlane::uninstall(&bpf::Options {
            pin_dir: options.pin_dir.clone(),
            cgroup: options.cgroup.clone(),
            sizes: options.config.table_sizes(),
        })?;
        Ok(removed)
    }
}

fn failed(action: &str, source: io::Error) -> OpenError {
    OpenError::Kernel(KernelError::Netlink {
        action: action.to_owned(),
        source,
    })
}
