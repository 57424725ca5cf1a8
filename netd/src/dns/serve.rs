//! What the UDP and the TCP side share: from a message to its reply.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use arc_swap::ArcSwap;
use domain::base::iana::Rcode;

use super::admission::{Admission, Client, Permit};
use super::answer::{self, Style, Transport, Verdict};
use super::counters::Counters;
use super::dial::{Namespaces, Origin, Servers};
use super::forward::{Cached, Forwarder, Miss, Request};
use super::resolv::HostServers;
use super::zone::{Directory, Seat, View};
use super::{Config, Limits};

/// Everything that answering needs, shared by all sockets.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) directory: ArcSwap<Directory>,
    /// The sockets of this server, so that it never asks itself.
    pub(super) own: ArcSwap<Vec<SocketAddr>>,
    pub(super) counters: Arc<Counters>,
    pub(super) limits: Limits,
    pub(super) connections: Arc<Admission>,
    /// Of sandboxes whose own servers are asked from inside.
    pub(super) namespaces: Arc<Namespaces>,
    pub(super) forwarder: Forwarder,
    in_flight: Arc<Admission>,
    configured: Arc<[SocketAddr]>,
    host: HostServers,
    ttl: u32,
}

/// Who asks where, and how.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asker<'a> {
    pub(super) seat: &'a Seat,
    pub(super) source: IpAddr,
    pub(super) transport: Transport,
    /// A number that differs from query to query.
    pub(super) turn: usize,
}

impl Asker<'_> {
    /// Whom limits hold for.
    pub(super) fn client(&self) -> Client {
        match self.seat {
            Seat::Network(_) => Client::Address(self.source),
            Seat::Sandbox(sandbox) => Client::Sandbox(*sandbox),
        }
    }
}

/// The immediate part of serving a message.
pub(super) enum Step {
    /// The reply is in the buffer.
    Reply,
    Silence,
    /// The servers outside must be asked; the permit is held meanwhile.
    Ask(Permit, Miss),
}

impl Service {
    pub(super) fn new(config: Config) -> Self {
        let counters = Arc::new(Counters::default());
        let limits = config.limits;
        let namespaces = Arc::<Namespaces>::default();
        Self {
            directory: ArcSwap::default(),
            own: ArcSwap::default(),
            connections: Admission::new(limits.connections_per_client, limits.connections, None),
            in_flight: Admission::new(
                limits.in_flight_per_client,
                limits.in_flight,
                Some(limits.rate_per_client),
            ),
            forwarder: Forwarder::new(
                limits.clone(),
                Arc::clone(&counters),
                Arc::clone(&namespaces),
            ),
            namespaces,
            configured: config.upstreams.into(),
            host: HostServers::new(config.resolv_conf),
            ttl: config.ttl,
            counters,
            limits,
        }
    }

    /// Answers what can be answered without waiting; `out` is overwritten.
    pub(super) fn begin(&self, query: &[u8], asker: Asker<'_>, out: &mut Vec<u8>) -> Step {
        let style = Style {
            transport: asker.transport,
            ttl: self.ttl,
            turn: asker.turn,
        };
        let directory = self.directory.load();
        let view = View::new(&directory, asker.seat, asker.source);
        match answer::answer(query, &view, style, out) {
            Verdict::Reply => {
                self.counters.local.increment();
                Step::Reply
            }
            Verdict::Ignore => {
                self.counters.ignored.increment();
                Step::Silence
            }
            Verdict::Forward {
                servers,
                single_label,
            } => {
                let servers = self.servers(servers);
                let transport = asker.transport;
                let request = Request {
                    query: query.into(),
                    transport,
                    servers,
                    single_label,
                };
                self.forward(request, asker.client(), out)
            }
        }
    }

    fn forward(&self, request: Request, client: Client, out: &mut Vec<u8>) -> Step {
        let miss = match self.forwarder.look_up(request) {
            Cached::Reply(reply) => {
                *out = reply;
                return Step::Reply;
            }
            Cached::Miss(miss) => miss,
        };
        match self.in_flight.admit(client) {
            Some(permit) => Step::Ask(permit, miss),
            None => {
                // At once, so that the client can do something better than wait.
                self.counters.shed.increment();
                let request = miss.request();
                answer::failure(&request.query, Rcode::SERVFAIL, request.transport, out);
                Step::Reply
            }
        }
    }

    /// Asks the outside; gives the permit back when done or dropped.
    pub(super) async fn finish(&self, permit: Permit, miss: Miss) -> Vec<u8> {
        let reply = self.forwarder.resolve(miss).await;
        drop(permit);
        reply
    }

    /// The endpoint's servers, else the configured, else the host's; never ourselves.
    fn servers(&self, endpoint: Option<Servers>) -> Servers {
        let mut chosen = endpoint.unwrap_or_else(|| Servers {
            origin: Origin::Host,
            addresses: match self.configured.is_empty() {
                true => self.host.current(),
                false => Arc::clone(&self.configured),
            },
        });
        let own = self.own.load();
        if chosen.addresses.iter().any(|server| own.contains(server)) {
            let others = chosen
                .addresses
                .iter()
                .filter(|server| !own.contains(server));
            chosen.addresses = others.copied().collect();
        }
        chosen
    }
}
