//! Comparing one endpoint with what the kernel has.

use std::path::Path;

use api::id::{IfName, MacAddr};
use api::net::{Attachment, LinkBy};

use crate::error::NetError;
use crate::kernel::KernelError;
use crate::model::endpoint::{Endpoint, EndpointError, EndpointKey};
use crate::model::observed::Inside;
use crate::model::plan;
use crate::netd::Netd;

impl Netd {
    /// Compares an endpoint with what the kernel has.
    ///
    /// # Errors
    /// [`NetError::Check`] says what differs; [`EndpointError::NotFound`] when it is not on record.
    pub fn check(&self, container: &str, ifname: &IfName) -> Result<Attachment, NetError> {
        self.check_with_mac(container, ifname, None)
    }

    /// The same for an interface that somebody gave another link address to.
    ///
    /// # Errors
    /// As [`Netd::check`].
    pub fn check_with_mac(
        &self,
        container: &str,
        ifname: &IfName,
        mac: Option<MacAddr>,
    ) -> Result<Attachment, NetError> {
        let key = EndpointKey::new(container, ifname.as_str());
        let view = self.view();
        let endpoint = view
            .endpoints
            .get(&key)
            .ok_or_else(|| EndpointError::NotFound {
                container: container.to_owned(),
                ifname: ifname.clone(),
            })?;
        let inside = self
            .kernel
            .inspect(Path::new(&endpoint.sandbox.path), ifname)?;
        let missing = self.unpublished(endpoint)?;
        let unlimited = self.unlimited(endpoint)?;
        let network = view.networks.get(&endpoint.attachment.network_id);
        let own_mac = network.is_none_or(|network| network.driver.has_own_macs());
        let mac = mac.or(endpoint.attachment.mac).filter(|_| own_mac);
        match difference(endpoint, inside.as_ref(), mac)
            .or(missing)
            .or(unlimited)
        {
            None => Ok(endpoint.attachment.clone()),
            Some(what) => Err(NetError::Check {
                container: container.to_owned(),
                ifname: ifname.clone(),
                what,
            }),
        }
    }

    /// The first of the endpoint's ports that is not published, in words. Asks for these alone: others
    /// may have published thousands.
    fn unpublished(&self, endpoint: &Endpoint) -> Result<Option<String>, NetError> {
        let Some(data_plane) = &self.data_plane else {
            return Ok(None);
        };
        for (frontend, backend) in endpoint.frontends() {
            let published =
                data_plane
                    .backend(&frontend)
                    .map_err(|source| KernelError::DataPlane {
                        action: format!("read published port {frontend}"),
                        source,
                    })?;
            if published != Some(backend) {
                return Ok(Some(format!("port {frontend} is not published")));
            }
        }
        Ok(None)
    }

    /// Whether a rate limit is missing, in words.
    fn unlimited(&self, endpoint: &Endpoint) -> Result<Option<String>, NetError> {
        if endpoint.attachment.bandwidth.is_none() {
            return Ok(None);
        }
        let missing = plan::repair_limits(endpoint, &self.kernel.observe()?);
        Ok((!missing.is_empty()).then(|| "a rate limit is missing".to_owned()))
    }
}

/// In what the kernel's state differs from the endpoint, in words.
pub(crate) fn difference(
    endpoint: &Endpoint,
    inside: Option<&Inside>,
    mac: Option<MacAddr>,
) -> Option<String> {
    let Some(inside) = inside else {
        return Some(format!("namespace {} is gone", endpoint.sandbox.path));
    };
    let sandbox = &endpoint.sandbox;
    if (inside.device, inside.inode) != (sandbox.device, sandbox.inode) {
        return Some(format!("{} is another namespace now", sandbox.path));
    }
    if endpoint.attachment.link == LinkBy::Others {
        return None;
    }
    let Some(link) = &inside.link else {
        return Some("the interface is gone".to_owned());
    };
    let attachment = &endpoint.attachment;
    if !link.up {
        return Some("it is down".to_owned());
    }
    // One that is shared with the parent follows it.
    if mac.is_some() && link.mac != mac {
        let show = |mac: Option<MacAddr>| mac.map_or("none".to_owned(), |mac| mac.to_string());
        return Some(format!(
            "its MAC address is {}, not {}",
            show(link.mac),
            show(mac)
        ));
    }
    endpoint
        .addresses()
        .find(|address| !link.addresses.contains(address))
        .map(|address| format!("address {address} is missing"))
        .or_else(|| {
            // By whatever table: others move them there on purpose.
            let routes = attachment.routes.iter();
            routes
                .map(|route| (route.dst, route.gateway))
                .find(|route| !link.routes.contains(route))
                .map(|(destination, _)| format!("the route to {destination} is missing"))
        })
}
