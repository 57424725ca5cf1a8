//! Names of containers: where sandboxes ask for them, and changing them.

use std::collections::HashSet;
use std::sync::Arc;

use api::net::{Attachment, EndpointRename};
use sys::netns::NsId;

use crate::error::NetError;
use crate::kernel::KernelError;
use crate::model::desired::Desired;
use crate::model::endpoint::{self, Endpoint, Sandbox};
use crate::netd::{HIGH_PORT, Netd};

/// What the C library asks: it knows no other.
const DNS_PORT: u16 = 53;

impl Netd {
    /// Gives a container another name on all its networks, at once: nobody sees both names, or
    /// neither. Its aliases stay. A container without endpoints is fine. Returns its endpoints.
    ///
    /// # Errors
    /// [`NetError`]: no host name, or the records cannot be written; the old name stays then.
    pub fn rename(&self, request: &EndpointRename) -> Result<Vec<Attachment>, NetError> {
        endpoint::check_name(&request.name)?;
        let _writer = self.writer();
        let view = self.view();
        let renamed: Vec<Endpoint> = view
            .endpoints
            .of_container(&request.container_id)
            .filter(|endpoint| endpoint.attachment.name.as_ref() != Some(&request.name))
            .map(|endpoint| {
                let mut endpoint = Endpoint::clone(endpoint);
                endpoint.attachment.name = Some(request.name.clone());
                endpoint
            })
            .collect();
        self.store.put_endpoints(&renamed)?;
        let mut after = Desired::clone(&view);
        for endpoint in renamed {
            if let Some(network) = view.networks.get(&endpoint.attachment.network_id) {
                self.publish_names(&after, network, &endpoint);
                self.announce_endpoint(network, &endpoint);
            }
            after.endpoints.insert(Arc::new(endpoint));
        }
        self.publish_view(after);
        tracing::info!(container = %request.container_id, name = %request.name, "renamed");
        Ok(self.endpoints(Some(&request.container_id)))
    }

    /// Serves the resolver inside a sandbox, for what the hooks cannot lead to a gateway: sockets
    /// that are bound to loopback, networks without a gateway, and everything where there are no
    /// hooks. Names do not resolve there when it cannot be; everything else works.
    pub(crate) fn serve_inside(&self, desired: &mut Desired, sandbox: &Sandbox) {
        if desired.inside.contains_key(&sandbox.id()) {
            return;
        }
        // With hooks another port will do, and a server of the container's own may have this one.
        let port = if self.hooks { HIGH_PORT } else { DNS_PORT };
        let served = self
            .kernel
            .resolver_sockets(sandbox, port)
            .map_err(NetError::from)
            .and_then(|sockets| {
                let local = sockets.local();
                if !self.hooks && local.port() != DNS_PORT {
                    return Err(port_taken(sandbox).into());
                }
                self.dns
                    .listen_inside(sandbox.id(), sandbox.path.as_ref(), sockets)?;
                Ok(local)
            });
        match served {
            Ok(local) => {
                desired.inside.insert_mut(sandbox.id(), local);
            }
            Err(error) => tracing::warn!(
                netns = %sandbox.path,
                %error,
                "some names do not resolve in this sandbox"
            ),
        }
    }

    /// Lets go of the sandbox of an endpoint that `desired` lacks, if no other is left there.
    pub(crate) fn release_inside(&self, desired: &mut Desired, gone: &Endpoint) {
        let mut left = desired.endpoints.in_sandbox(&gone.sandbox);
        if left.any(|endpoint| endpoint.key() != gone.key()) {
            return;
        }
        desired.inside.remove_mut(&gone.sandbox.id());
        self.dns.unlisten_inside(gone.sandbox.id());
    }

    /// Whether a sandbox is gone whose namespace only our own sockets keep alive.
    pub(crate) fn holds_dead_sandbox(&self) -> bool {
        let held: HashSet<NsId> = self.dns.sandboxes().into_iter().collect();
        self.view().endpoints.values().any(|endpoint| {
            held.contains(&endpoint.sandbox.id()) && !self.kernel.is_alive(&endpoint.sandbox)
        })
    }
}

fn port_taken(sandbox: &Sandbox) -> KernelError {
    KernelError::Namespace {
        path: sandbox.path.clone(),
        source: std::io::Error::new(
            std::io::ErrorKind::AddrInUse,
            "a process inside has port 53, which the resolver needs without socket hooks",
        ),
    }
}
