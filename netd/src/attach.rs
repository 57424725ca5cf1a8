//! Attaching sandboxes to networks.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, MutexGuard};

use api::id::MacAddr;
use api::net::{AttachRequest, Attachment, Dns, LinkBy, PortBinding, Protocol};

use crate::apply;
use crate::error::NetError;
use crate::kernel::Kernel;
use crate::model::address;
use crate::model::desired::Desired;
use crate::model::endpoint::{self, Endpoint, EndpointError, EndpointKey, NewEndpoint, Sandbox};
use crate::model::gateway;
use crate::model::network::{Network, Stage};
use crate::model::plan;
use crate::model::port::{self, Bound, BoundSocket, HolderNames, PortHolder};
use crate::model::step::Step;
use crate::netd::{Netd, Writer};
use crate::networks::random_id;
use crate::overlay::Claimed;
use crate::resolver;
use crate::service;
use crate::store::Cursors;

impl Netd {
    /// Connects a sandbox to a network. When this returns, the interface carries traffic, the
    /// names resolve and the ports answer.
    ///
    /// Asking again with the same container, interface, network and namespace returns what exists.
    ///
    /// # Errors
    /// [`NetError`]; nothing is left of the endpoint then.
    pub fn attach(&self, request: AttachRequest) -> Result<Attachment, NetError> {
        let attached = self.try_attach(request);
        if attached.is_err() {
            // A network of the cluster may have been made for it.
            self.shrink_all(&mut self.writer());
        }
        attached
    }

    fn try_attach(&self, request: AttachRequest) -> Result<Attachment, NetError> {
        endpoint::check(&request)?;
        let (mut writer, network, found) = self.take_turn(&request)?;
        if request.exclusive {
            self.refuse_second(&request)?;
        }
        let sandbox = match found {
            // Somebody else's interface may be there or still come.
            Found::Free(sandbox) | Found::Occupied(sandbox) if request.link == LinkBy::Others => {
                match self.registered(&request, &network, &sandbox) {
                    Some(attachment) => return Ok(attachment),
                    None => sandbox,
                }
            }
            Found::Free(sandbox) => sandbox,
            Found::Occupied(sandbox) => match self.existing(&request, &network, &sandbox)? {
                Some(attachment) => return Ok(attachment),
                None => return Err(occupied(&request).into()),
            },
        };
        self.make_way(&mut writer, &request, &network, &sandbox)?;
        // Whoever was in the way may have been the last one here.
        let network = self.network_to_join(&request.network, !request.services.is_empty())?;
        self.join_network(&mut writer, &request, network, &sandbox)
    }

    /// Claims the endpoint's addresses and connects it; without it, nothing stays claimed.
    fn join_network(
        &self,
        writer: &mut Writer,
        request: &AttachRequest,
        network: Arc<Network>,
        sandbox: &Sandbox,
    ) -> Result<Attachment, NetError> {
        let endpoint = self.claimed_endpoint(writer, request, &network, sandbox)?;
        let key = endpoint.key();
        let connected = self.connect_new(writer, request, Arc::clone(&network), endpoint.clone());
        // One that is being removed gives them back when it is.
        if connected.is_err() && self.view().endpoints.get(&key).is_none() {
            self.withdraw(&network, &endpoint);
        }
        connected
    }

    /// An endpoint whose addresses are its own among all nodes'.
    fn claimed_endpoint(
        &self,
        writer: &mut Writer,
        request: &AttachRequest,
        network: &Network,
        sandbox: &Sandbox,
    ) -> Result<Endpoint, NetError> {
        let mut is_told = false;
        loop {
            // Of those that others were faster with it takes none again, and ends where none is left.
            let endpoint = match self.new_endpoint(writer, request, network, sandbox) {
                // What others have freed may not have been heard of yet.
                Err(NetError::Endpoint(EndpointError::Ipam(_)))
                    if !is_told && network.driver.overlay().is_some() =>
                {
                    self.ask_for_claims(network)?;
                    is_told = true;
                    continue;
                }
                chosen => chosen?,
            };
            if self.claim(network, &endpoint)? == Claimed::Yes {
                return Ok(endpoint);
            }
        }
    }

    fn connect_new(
        &self,
        writer: &mut Writer,
        request: &AttachRequest,
        network: Arc<Network>,
        mut endpoint: Endpoint,
    ) -> Result<Attachment, NetError> {
        let network = self.note_mac(network, &endpoint)?;
        let before = self.view();
        let losers = gateway::join(&before, &mut endpoint);
        let attachment = endpoint.attachment.clone();
        let announcement = plan::announce(&network, &endpoint);
        self.admit_runtime(request);
        self.connect(writer, &before, &network, (endpoint, losers))?;
        if let Some(step) = announcement {
            self.announcements.add(step);
        }
        tracing::info!(
            container = %attachment.container_id,
            ifname = %attachment.ifname,
            network = %attachment.network,
            "attached"
        );
        Ok(attachment)
    }

    /// Puts on record, before a network has the first such endpoint, that link addresses do not
    /// follow from addresses there.
    fn note_mac(
        &self,
        network: Arc<Network>,
        endpoint: &Endpoint,
    ) -> Result<Arc<Network>, NetError> {
        let attachment = &endpoint.attachment;
        let follows = attachment.mac == Some(address::derived_mac(&attachment.addresses));
        if network.other_macs || follows {
            return Ok(network);
        }
        let mut noted = Network::clone(&network);
        noted.other_macs = true;
        self.store.put_network(&noted)?;
        let noted = Arc::new(noted);
        let mut view = Desired::clone(&self.view());
        view.networks.insert(noted.id.clone(), Arc::clone(&noted));
        self.publish_view(view);
        Ok(noted)
    }

    /// Waits for an interface that is in the way and still leaving, while others have their turns.
    fn take_turn(
        &self,
        request: &AttachRequest,
    ) -> Result<(MutexGuard<'_, Writer>, Arc<Network>, Found), NetError> {
        let key = EndpointKey::new(&request.container_id, request.ifname.as_str());
        let ifname = &request.ifname;
        loop {
            let mut writer = self.writer();
            self.finish_removal(&mut writer, request)?;
            let network = self.network_to_join(&request.network, !request.services.is_empty())?;
            let rounds = self.departures.rounds();
            let found = self.sandbox(request)?;
            let Found::Occupied(sandbox) = &found else {
                return Ok((writer, network, found));
            };
            let is_on_record = self.view().endpoints.get(&key).is_some();
            if is_on_record || !self.departures.may_leave(rounds, sandbox, ifname) {
                return Ok((writer, network, found));
            }
            drop(writer);
            if !self.departures.wait_for(sandbox, ifname) {
                return Err(occupied(request).into());
            }
        }
    }

    /// Lets the runtime hold the ports it asks for. Where it cannot, the runtime tells its user.
    fn admit_runtime(&self, request: &AttachRequest) {
        let Some(process) = request.runtime.filter(|_| !request.ports.is_empty()) else {
            return;
        };
        if let Err(error) = self.kernel.apply(&Step::AdmitRuntime { process }) {
            tracing::warn!(%error, "the runtime cannot bind the ports it publishes");
        }
    }

    /// The namespace of the request, and whether its interface exists there.
    fn sandbox(&self, request: &AttachRequest) -> Result<Found, NetError> {
        let inside = self
            .kernel
            .inspect(Path::new(&request.netns), &request.ifname)?
            .ok_or_else(|| NetError::NoSandbox {
                path: request.netns.clone(),
                container: request.container_id.clone(),
            })?;
        if inside.is_host {
            return Err(EndpointError::HostNamespace {
                path: request.netns.clone(),
            }
            .into());
        }
        let sandbox = Sandbox {
            path: request.netns.clone(),
            device: inside.device,
            inode: inside.inode,
            cookie: inside.cookie,
        };
        Ok(match inside.link {
            None => Found::Free(sandbox),
            Some(_) => Found::Occupied(sandbox),
        })
    }

    fn refuse_second(&self, request: &AttachRequest) -> Result<(), EndpointError> {
        let key = EndpointKey::new(&request.container_id, request.ifname.as_str());
        match self.view().endpoints.get(&key) {
            Some(endpoint) if self.kernel.is_alive(&endpoint.sandbox) => Err(conflict(endpoint)),
            _ => Ok(()),
        }
    }

    /// The endpoint asked for, if it exists already.
    fn existing(
        &self,
        request: &AttachRequest,
        network: &Network,
        sandbox: &Sandbox,
    ) -> Result<Option<Attachment>, EndpointError> {
        let view = self.view();
        let key = EndpointKey::new(&request.container_id, request.ifname.as_str());
        match view.endpoints.get(&key) {
            None => Ok(None),
            Some(e) if e.is_on(&network.id) && e.sandbox.is_same(sandbox) => {
                Ok(Some(e.attachment.clone()))
            }
            Some(e) => Err(conflict(e)),
        }
    }

    /// The endpoint asked for, if it is on record: its interface is not looked for.
    fn registered(
        &self,
        request: &AttachRequest,
        network: &Network,
        sandbox: &Sandbox,
    ) -> Option<Attachment> {
        let key = EndpointKey::new(&request.container_id, request.ifname.as_str());
        let view = self.view();
        let endpoint = view.endpoints.get(&key)?;
        (endpoint.is_on(&network.id) && endpoint.sandbox.is_same(sandbox))
            .then(|| endpoint.attachment.clone())
    }

    /// Refuses what clashes with an endpoint that lives, and clears away one whose sandbox is
    /// gone: a container that starts again keeps its id.
    fn make_way(
        &self,
        writer: &mut Writer,
        request: &AttachRequest,
        network: &Network,
        sandbox: &Sandbox,
    ) -> Result<(), NetError> {
        let view = self.view();
        for endpoint in view.endpoints.of_container(&request.container_id) {
            let attachment = &endpoint.attachment;
            let same_interface = attachment.ifname == request.ifname;
            if !same_interface && !endpoint.is_on(&network.id) {
                continue;
            }
            let alive = self.kernel.is_alive(&endpoint.sandbox);
            let lost = endpoint.sandbox.is_same(sandbox)
                && same_interface
                && attachment.link == LinkBy::Hawser;
            if alive && !lost {
                return Err(if same_interface {
                    conflict(endpoint).into()
                } else {
                    EndpointError::Twice {
                        container: request.container_id.clone(),
                        ifname: attachment.ifname.clone(),
                        network: network.name.to_string(),
                    }
                    .into()
                });
            }
            self.disconnect(writer, endpoint)?;
        }
        Ok(())
    }

    /// What is in the way may belong to sandboxes that are gone: clears those away and tries again.
    fn new_endpoint(
        &self,
        writer: &mut Writer,
        request: &AttachRequest,
        network: &Network,
        sandbox: &Sandbox,
    ) -> Result<Endpoint, NetError> {
        let first = self.try_new_endpoint(writer, request, network, sandbox);
        match first {
            Err(NetError::Endpoint(error)) if error.is_taken() && self.collect_dead(writer) => {
                self.try_new_endpoint(writer, request, network, sandbox)
            }
            _ => first,
        }
    }

    fn try_new_endpoint(
        &self,
        writer: &Writer,
        request: &AttachRequest,
        network: &Network,
        sandbox: &Sandbox,
    ) -> Result<Endpoint, NetError> {
        let before = self.view();
        let memberships = service::memberships(&before, request, network)?;
        let ports = service::with_member_ports(&before, request, &memberships);
        let new = NewEndpoint {
            id: random_id(),
            order: before.endpoints.next_order(),
            ports: self.ports(network, &ports, &before, writer)?,
            dns: self.resolver_settings(&request.dns, network),
            parent_mac: self.parent_mac(network)?,
            holders: before.holders(),
            memberships,
            walks: &writer.walks,
            sandbox: sandbox.clone(),
        };
        Ok(Endpoint::create(request, network, new)?)
    }

    /// The link address that endpoints share with their parent, where they do.
    fn parent_mac(&self, network: &Network) -> Result<Option<MacAddr>, NetError> {
        match network.driver.parent() {
            Some(parent) if !network.driver.has_own_macs() => {
                let observed = self.kernel.observe()?;
                Ok(observed.links.get(&parent.link).and_then(|link| link.mac))
            }
            _ => Ok(None),
        }
    }

    fn ports(
        &self,
        network: &Network,
        requested: &[PortBinding],
        before: &Desired,
        writer: &Writer,
    ) -> Result<Vec<PortBinding>, NetError> {
        let (requested, direct) = network.split_ports(requested);
        let bound = self.bound_for(&requested, before)?;
        let names = Holders {
            desired: before,
            kernel: &*self.kernel,
        };
        let ports = port::resolve(&requested, &writer.ports, &bound, &names);
        let mut ports = ports.map_err(EndpointError::Port)?;
        ports.extend(direct.into_iter().map(|port| PortBinding {
            host_port: 0,
            host_port_last: None,
            ..port
        }));
        Ok(ports)
    }

    /// The sockets of the host that these ports may clash with.
    pub(crate) fn bound_for(
        &self,
        requested: &[PortBinding],
        before: &Desired,
    ) -> Result<Vec<BoundSocket>, NetError> {
        let mut bound = Vec::new();
        for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp] {
            if let Some(which) = Bound::needed(requested, protocol) {
                bound.extend(self.kernel.bound_sockets(protocol, which)?);
            }
        }
        // The resolvers are asked by containers alone, and their way there is no published port's.
        bound.retain(|socket| {
            let at = SocketAddr::new(socket.address, socket.port);
            !before.resolvers.values().any(|own| *own == at)
        });
        Ok(bound)
    }

    fn resolver_settings(&self, asked: &Dns, network: &Network) -> Dns {
        let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        let host = resolver::configured(&self.config.dns, resolver::parse(&text));
        if network.has_names() {
            resolver::with_names(asked, &host)
        } else {
            resolver::without_names(asked, &host)
        }
    }

    /// Record, kernel, names, record: the first failure undoes what came before it. The losers are
    /// endpoints of the same sandbox as they are without what the new one carries.
    fn connect(
        &self,
        writer: &mut Writer,
        before: &Desired,
        network: &Network,
        (mut endpoint, losers): (Endpoint, Vec<Endpoint>),
    ) -> Result<(), NetError> {
        let key = endpoint.key();
        let cursors: Cursors = network
            .subnets_of(&endpoint)
            .map(|(subnet, address)| ((network.id.clone(), subnet), address))
            .collect();
        self.store.put_endpoint(&endpoint, &cursors)?;
        let mut after = before.clone();
        after.endpoints.insert(Arc::new(endpoint.clone()));
        self.serve_inside(&mut after, &endpoint.sandbox);
        let joining = (&endpoint, losers.as_slice());
        let steps = plan::attach(before, &after, network, joining, &writer.ports);
        for ((id, subnet), address) in cursors {
            writer.walks.given(&id, subnet, address);
        }
        writer
            .ports
            .insert(&key.clone().into(), &endpoint.attachment.ports);
        match apply::run(&*self.kernel, &steps) {
            Ok(()) => {
                self.publish_names(&after, network, &endpoint);
                self.republish_changed(before, &after, &endpoint);
                endpoint.stage = Stage::Committed;
                self.demote(writer, &mut after, &losers);
                self.publish_endpoint(&mut after, endpoint.clone());
                self.service_changed();
                // The new one last: until then a start would undo it, and the losers have all back.
                let mut records = losers.iter().chain([&endpoint]);
                let committed =
                    records.try_for_each(|e| self.store.put_endpoint(e, &Cursors::new()));
                if !endpoint.memberships.is_empty() {
                    self.announce_endpoint(network, &endpoint);
                }
                committed.or_else(|error| {
                    self.disconnect(writer, &endpoint)?;
                    Err(error.into())
                })
            }
            Err(failure) if failure.undone => {
                self.release_inside(&mut after, &endpoint);
                writer.free(before, &endpoint);
                self.store.delete_endpoint(&key, &[])?;
                Err(failure.cause.into())
            }
            Err(failure) => {
                endpoint.stage = Stage::Removing;
                self.publish_endpoint(&mut after, endpoint);
                Err(failure.cause.into())
            }
        }
    }

    fn demote(&self, writer: &mut Writer, after: &mut Desired, losers: &[Endpoint]) {
        for loser in losers {
            writer.replace_ports(after, loser);
            if let Some(network) = after.networks.get(&loser.attachment.network_id) {
                self.publish_names(after, network, loser);
            }
            after.endpoints.insert(Arc::new(loser.clone()));
        }
    }

    fn publish_endpoint(&self, desired: &mut Desired, endpoint: Endpoint) {
        desired.endpoints.insert(Arc::new(endpoint));
        self.publish_view(desired.clone());
    }
}

enum Found {
    Free(Sandbox),
    Occupied(Sandbox),
}

fn occupied(request: &AttachRequest) -> EndpointError {
    EndpointError::LinkExists {
        container: request.container_id.clone(),
        path: request.netns.clone(),
        ifname: request.ifname.clone(),
    }
}

fn conflict(existing: &Endpoint) -> EndpointError {
    EndpointError::Conflict {
        container: existing.attachment.container_id.clone(),
        ifname: existing.attachment.ifname.clone(),
        network: existing.attachment.network.to_string(),
    }
}

/// Names who holds a port.
pub(crate) struct Holders<'a> {
    pub(crate) desired: &'a Desired,
    pub(crate) kernel: &'a dyn Kernel,
}

impl HolderNames for Holders<'_> {
    fn holder(&self, holder: &PortHolder) -> String {
        match holder {
            PortHolder::Endpoint(key) => match self.desired.endpoints.get(key) {
                Some(endpoint) => format!("container {}", endpoint.display_name()),
                None => format!("container {}", key.container),
            },
            PortHolder::Service(id) => match self.desired.services.get(id) {
                Some(service) => format!("service {}", service.spec.name),
                None => format!("service {id}"),
            },
        }
    }

    fn process(&self, socket: &BoundSocket) -> String {
        self.kernel.holder(socket)
    }
}
