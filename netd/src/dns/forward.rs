//! Queries for the world outside: cache, then the upstream servers, raw.
//!
//! A query is relayed as it came but for its id, and so is the reply: record types and EDNS options
//! this daemon has never heard of pass. The servers are asked in order; each time
//! [`Limits::hedge_after`] passes without a reply, or one fails, the next is asked too, and the first
//! good reply wins. Every server gets a second chance, because datagrams get lost.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use domain::base::iana::Rcode;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::answer::{self, Transport};
use super::cache::{Cache, Key, Lookup};
use super::counters::Counters;
use super::dial::{Namespaces, Origin, Servers};
use super::upstream::Upstream;
use super::{Limits, wire};

/// Times each server is asked for one query.
const ROUNDS: usize = 2;
/// How long a server that nobody asks is remembered, with its sockets.
const FORGET_AFTER: Duration = Duration::from_secs(60);

/// A query that left the pure part with [`answer::Verdict::Forward`].
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) query: Arc<[u8]>,
    pub(super) transport: Transport,
    pub(super) servers: Servers,
    pub(super) single_label: bool,
}

/// What the cache has to say.
#[derive(Debug)]
pub(super) enum Cached {
    Reply(Vec<u8>),
    /// Not known, or only the expired reply is.
    Miss(Miss),
}

#[derive(Debug)]
pub(super) struct Miss {
    request: Request,
    key: Key,
    stale: Option<Vec<u8>>,
}

impl Miss {
    pub(super) fn request(&self) -> &Request {
        &self.request
    }
}

/// How one server took one query.
enum Outcome {
    Answer(Vec<u8>),
    /// The server could not or would not; another may.
    Refusal(Vec<u8>),
    Failure,
}

#[derive(Debug)]
pub(super) struct Forwarder {
    limits: Limits,
    cache: Mutex<Cache>,
    upstreams: Mutex<Upstreams>,
    namespaces: Arc<Namespaces>,
    counters: Arc<Counters>,
}

/// The servers asked lately.
#[derive(Debug)]
struct Upstreams {
    servers: HashMap<(Origin, SocketAddr), Arc<Upstream>>,
    pruned: Instant,
}

impl Forwarder {
    pub(super) fn new(
        limits: Limits,
        counters: Arc<Counters>,
        namespaces: Arc<Namespaces>,
    ) -> Self {
        let cache = Mutex::new(Cache::new(limits.cache_bytes));
        let upstreams = Upstreams {
            servers: HashMap::new(),
            pruned: Instant::now(),
        };
        Self {
            limits,
            cache,
            upstreams: Mutex::new(upstreams),
            namespaces,
            counters,
        }
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn upstreams(&self) -> MutexGuard<'_, Upstreams> {
        self.upstreams
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// How many servers are remembered.
    pub(super) fn servers(&self) -> usize {
        self.upstreams().servers.len()
    }

    /// Closes what is open there and drops what was learned from there.
    pub(super) fn forget(&self, origin: Origin) {
        let servers = &mut self.upstreams().servers;
        servers.retain(|(from, _), _| *from != origin);
        self.cache().forget(origin);
    }

    /// Looks into the cache. Does not wait.
    pub(super) fn look_up(&self, request: Request) -> Cached {
        let normalized = match wire::question_end(&request.query) {
            Some(end) => wire::normalized(&request.query, end),
            None => request.query.to_vec(),
        };
        let key = Key {
            servers: request.servers.clone(),
            transport: request.transport,
            query: normalized.into(),
        };
        let found = self.cache().get(&key, &request.query, Instant::now());
        let stale = match found {
            Lookup::Fresh(reply) => {
                self.counters.cache_hits.increment();
                return Cached::Reply(reply);
            }
            Lookup::Stale(reply) => Some(reply),
            Lookup::Absent => None,
        };
        Cached::Miss(Miss {
            request,
            key,
            stale,
        })
    }

    /// Asks the servers. Always ends in a reply, at the latest at [`Limits::deadline`].
    ///
    /// With no server at all, a single label is denied: such names are names of containers, and
    /// there is none. For any other name that would be a lie, and the reply is SERVFAIL.
    pub(super) async fn resolve(&self, miss: Miss) -> Vec<u8> {
        let Miss {
            request,
            key,
            stale,
        } = miss;
        if request.servers.addresses.is_empty() && stale.is_none() {
            let rcode = if request.single_label {
                Rcode::NXDOMAIN
            } else {
                Rcode::SERVFAIL
            };
            return failure(&request, rcode);
        }
        self.counters.forwarded.increment();
        // With something to fall back on there is no need to make the client wait (RFC 8767 §5).
        let patience = if stale.is_some() {
            self.limits.stale_after
        } else {
            self.limits.deadline
        };
        let outcome = timeout(patience, self.race(&request)).await;
        match outcome.unwrap_or(Outcome::Failure) {
            Outcome::Answer(mut reply) => {
                wire::set_id(&mut reply, wire::id(&request.query));
                self.cache().insert(key, &reply, Instant::now());
                reply
            }
            unusable => {
                self.counters.upstream_failures.increment();
                self.fall_back(&request, stale, unusable)
            }
        }
    }

    fn fall_back(&self, request: &Request, stale: Option<Vec<u8>>, outcome: Outcome) -> Vec<u8> {
        match (stale, outcome) {
            (Some(reply), _) => {
                self.counters.stale.increment();
                reply
            }
            (None, Outcome::Refusal(mut reply)) if reply.len() > wire::HEADER_LEN => {
                wire::set_id(&mut reply, wire::id(&request.query));
                reply
            }
            _ => failure(request, Rcode::SERVFAIL),
        }
    }

    async fn race(&self, request: &Request) -> Outcome {
        let order = self.order(&request.servers);
        let mut next = order.iter().cycle().take(ROUNDS * order.len());
        let mut attempts = JoinSet::new();
        let mut verdict = Outcome::Failure;
        loop {
            let waiting = match next.next() {
                Some(upstream) => {
                    let attempt = attempt(
                        Arc::clone(upstream),
                        request.query.clone(),
                        request.transport,
                        Arc::clone(&self.counters),
                    );
                    attempts.spawn(attempt);
                    Some(upstream)
                }
                None => None,
            };
            tokio::select! {
                ended = attempts.join_next() => match ended {
                    Some(Ok(Outcome::Answer(reply))) => return Outcome::Answer(reply),
                    Some(Ok(Outcome::Refusal(reply))) => verdict = Outcome::Refusal(reply),
                    Some(Ok(Outcome::Failure) | Err(_)) => {}
                    None => return verdict,
                },
                () = sleep(self.limits.hedge_after), if waiting.is_some() => {
                    waiting.inspect(|upstream| upstream.mark_slow());
                }
            }
        }
    }

    /// The servers in their order, those that were slow lately after the others.
    fn order(&self, servers: &Servers) -> Vec<Arc<Upstream>> {
        let Some(place) = self.namespaces.place(servers.origin) else {
            return Vec::new();
        };
        let mut upstreams = self.upstreams();
        let mut order: Vec<_> = servers
            .addresses
            .iter()
            .map(|&address| {
                let new = || Arc::new(Upstream::new(place.clone(), address));
                let key = (servers.origin, address);
                Arc::clone(upstreams.servers.entry(key).or_insert_with(new))
            })
            .collect();
        if upstreams.pruned.elapsed() > FORGET_AFTER {
            upstreams.pruned = Instant::now();
            // Those in use are held by somebody else, too.
            let wanted = |upstream: &Arc<Upstream>| {
                Arc::strong_count(upstream) > 1 || upstream.idle_for() < FORGET_AFTER
            };
            upstreams.servers.retain(|_, upstream| wanted(upstream));
        }
        order.sort_by_key(|upstream| upstream.is_slow());
        order
    }
}

async fn attempt(
    upstream: Arc<Upstream>,
    query: Arc<[u8]>,
    transport: Transport,
    counters: Arc<Counters>,
) -> Outcome {
    let Ok(random) = getrandom::u32() else {
        return Outcome::Failure;
    };
    let mut query = query.to_vec();
    let [a, b, ..] = random.to_ne_bytes();
    wire::set_id(&mut query, [a, b]);
    let mut reply = upstream.ask_udp(&query, &counters.mismatched).await;
    // Truncation is for the client to see, unless it came over TCP to get all of it.
    if transport == Transport::Tcp && reply.as_ref().is_ok_and(|reply| wire::is_truncated(reply)) {
        reply = upstream.ask_tcp(&query).await;
    }
    match reply {
        Ok(reply) => {
            upstream.mark_quick();
            classify(reply)
        }
        Err(_unreachable) => {
            upstream.mark_slow();
            Outcome::Failure
        }
    }
}

fn classify(reply: Vec<u8>) -> Outcome {
    let bare = reply.len() == wire::HEADER_LEN;
    match wire::rcode(&reply) {
        Rcode::SERVFAIL | Rcode::REFUSED => Outcome::Refusal(reply),
        _ if bare => Outcome::Refusal(reply),
        _ => Outcome::Answer(reply),
    }
}

fn failure(request: &Request, rcode: Rcode) -> Vec<u8> {
    let mut reply = Vec::new();
    answer::failure(&request.query, rcode, request.transport, &mut reply);
    reply
}
