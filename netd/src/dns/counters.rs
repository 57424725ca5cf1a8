//! What the server counts, and how Prometheus reads it.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

/// A count that only grows.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub(super) fn increment(&self) {
        self.add(1);
    }

    pub(super) fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) udp_queries: Counter,
    pub(super) tcp_queries: Counter,
    /// Answered from the networks' own names.
    pub(super) local: Counter,
    pub(super) forwarded: Counter,
    pub(super) cache_hits: Counter,
    pub(super) stale: Counter,
    /// Forwarded queries that ended without a usable reply.
    pub(super) upstream_failures: Counter,
    /// Datagrams from an upstream that answered no question of ours.
    pub(super) mismatched: Counter,
    /// Refused because the client had too much in flight.
    pub(super) shed: Counter,
    /// Not a query: dropped without a reply.
    pub(super) ignored: Counter,
    /// Replies that the socket did not take.
    pub(super) send_failures: Counter,
    pub(super) tcp_refused: Counter,
}

impl Counters {
    pub(super) fn write(&self, out: &mut String) {
        let rows = [
            (
                "queries_udp",
                "queries received over UDP",
                &self.udp_queries,
            ),
            (
                "queries_tcp",
                "queries received over TCP",
                &self.tcp_queries,
            ),
            (
                "answered_locally",
                "queries answered from container names",
                &self.local,
            ),
            (
                "forwarded",
                "queries sent to an upstream server",
                &self.forwarded,
            ),
            (
                "cache_hits",
                "queries answered from the cache",
                &self.cache_hits,
            ),
            (
                "stale_answers",
                "expired answers given while upstreams fail",
                &self.stale,
            ),
            (
                "upstream_failures",
                "forwarded queries that failed",
                &self.upstream_failures,
            ),
            (
                "upstream_mismatches",
                "upstream datagrams that fit no query",
                &self.mismatched,
            ),
            ("shed", "queries refused for too many in flight", &self.shed),
            ("ignored", "datagrams that were no query", &self.ignored),
            (
                "send_failures",
                "replies the socket did not take",
                &self.send_failures,
            ),
            (
                "tcp_refused",
                "connections over a client's limit",
                &self.tcp_refused,
            ),
        ];
        for (name, help, counter) in rows {
            write_metric(
                out,
                &format!("{name}_total"),
                "counter",
                help,
                counter.value(),
            );
        }
    }
}

pub(super) fn write_metric(out: &mut String, name: &str, kind: &str, help: &str, value: u64) {
    writeln!(
        out,
        "# HELP hawser_dns_{name} DNS {help}.\n# TYPE hawser_dns_{name} {kind}\nhawser_dns_{name} {value}"
    )
    .expect("writing to a string succeeds");
}
