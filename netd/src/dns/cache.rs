//! Replies of upstream servers, kept for as long as their records allow.
//!
//! A reply belongs to the whole query (flags, name, type, EDNS) and to the servers it was asked of,
//! so that nobody gets an answer to another question. An entry past its time is kept for
//! [`STALE_FOR`] and given out only while the servers fail (RFC 8767).
//!
//! Two generations bound the memory: new entries go to the young one; when that has taken half the
//! budget it becomes the old one, and the old one is dropped. A hit moves an entry to the young.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use domain::base::Message;
use domain::base::iana::{Rcode, Rtype};

use super::answer::Transport;
use super::dial::{Origin, Servers};
use super::wire;

const MAX_TTL: u32 = 3600;
/// RFC 2308 §5 allows hours; containers come and go faster.
const MAX_NEGATIVE_TTL: u32 = 300;
const STALE_FOR: Duration = Duration::from_secs(3600);
/// RFC 8767 §4.
const STALE_TTL: u32 = 30;
/// Rough cost of an entry beside its bytes.
const OVERHEAD: usize = 200;

/// What makes two queries the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) servers: Servers,
    pub(super) transport: Transport,
    /// See [`wire::normalized`].
    pub(super) query: Arc<[u8]>,
}

#[derive(Debug, Clone)]
struct Entry {
    reply: Arc<[u8]>,
    ttl_fields: Arc<[usize]>,
    ttl: Duration,
    stored: Instant,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Lookup {
    Fresh(Vec<u8>),
    Stale(Vec<u8>),
    Absent,
}

#[derive(Debug)]
pub(super) struct Cache {
    young: HashMap<Key, Entry>,
    old: HashMap<Key, Entry>,
    young_bytes: usize,
    budget: usize,
}

impl Cache {
    /// `budget` is in bytes; 0 keeps nothing.
    pub(super) fn new(budget: usize) -> Self {
        Self {
            young: HashMap::new(),
            old: HashMap::new(),
            young_bytes: 0,
            budget,
        }
    }

    /// The reply for `query`, with its id, its spelling of the name, and the time that is left.
    pub(super) fn get(&mut self, key: &Key, query: &[u8], now: Instant) -> Lookup {
        if let Some((key, entry)) = self.old.remove_entry(key) {
            self.put(key, entry);
        }
        let Some(entry) = self.young.get(key) else {
            return Lookup::Absent;
        };
        let age = now.saturating_duration_since(entry.stored);
        if age < entry.ttl {
            Lookup::Fresh(entry.render(query, |ttl| ttl.saturating_sub(age.as_secs() as u32)))
        } else if age < entry.ttl + STALE_FOR {
            Lookup::Stale(entry.render(query, |_expired| STALE_TTL))
        } else {
            Lookup::Absent
        }
    }

    /// Keeps a reply that may be kept.
    pub(super) fn insert(&mut self, key: Key, reply: &[u8], now: Instant) {
        if let Some((ttl, ttl_fields)) = lifetime(reply) {
            let entry = Entry {
                reply: reply.into(),
                ttl_fields: ttl_fields.into(),
                ttl,
                stored: now,
            };
            self.put(key, entry);
        }
    }

    /// Drops what was asked from there.
    pub(super) fn forget(&mut self, origin: Origin) {
        // `young_bytes` stays too high until the generation ends, which is the safe side.
        for generation in [&mut self.young, &mut self.old] {
            generation.retain(|key, _entry| key.servers.origin != origin);
        }
    }

    fn put(&mut self, key: Key, entry: Entry) {
        let cost = OVERHEAD + key.query.len() + entry.reply.len() + 8 * entry.ttl_fields.len();
        if cost > self.budget / 2 {
            return;
        }
        if self.young_bytes + cost > self.budget / 2 {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
        self.young_bytes += cost;
        self.young.insert(key, entry);
    }
}

impl Entry {
    fn render(&self, query: &[u8], ttl: impl Fn(u32) -> u32) -> Vec<u8> {
        let mut reply = self.reply.to_vec();
        wire::set_id(&mut reply, wire::id(query));
        if let Some(end) = wire::question_end(query) {
            // Equal keys have questions of equal length.
            reply[wire::HEADER_LEN..end].copy_from_slice(&query[wire::HEADER_LEN..end]);
        }
        for &at in self.ttl_fields.iter() {
            if let Some(field) = reply[at..].first_chunk_mut() {
                *field = ttl(u32::from_be_bytes(*field)).to_be_bytes();
            }
        }
        reply
    }
}

/// How long a reply may be kept, and where its TTLs are; `None` when it must not be kept.
fn lifetime(reply: &[u8]) -> Option<(Duration, Vec<usize>)> {
    let negative = match wire::rcode(reply) {
        Rcode::NOERROR => false,
        Rcode::NXDOMAIN => true,
        _ => return None,
    };
    if wire::is_truncated(reply) {
        return None;
    }
    let message = Message::from_slice(reply).ok()?;
    let answers = message.header_counts().ancount();
    let mut section = message.answer().ok()?;
    let (mut fields, mut shortest, mut denial) = (Vec::new(), u32::MAX, None);
    for part in 0.. {
        while let Some(record) = section.next() {
            let record = record.ok()?;
            let (end, ttl) = (section.pos(), record.ttl().as_secs());
            if record.rtype() == Rtype::OPT {
                continue;
            }
            // TTL and RDLENGTH precede the data (RFC 1035 §3.2.1).
            fields.push(end - usize::from(record.rdlen()) - 6);
            match part {
                0 => shortest = shortest.min(ttl),
                1 if record.rtype() == Rtype::SOA => {
                    // MINIMUM ends the data (RFC 2308 §4).
                    let minimum = reply[..end].last_chunk().copied().map(u32::from_be_bytes)?;
                    denial = Some(ttl.min(minimum).min(MAX_NEGATIVE_TTL));
                }
                _ => {}
            }
        }
        match section.next_section().ok()? {
            Some(next) => section = next,
            None => break,
        }
    }
    let ttl = if negative || answers == 0 {
        shortest.min(denial?)
    } else {
        shortest.min(MAX_TTL)
    };
    (ttl > 0).then(|| (Duration::from_secs(ttl.into()), fields))
}

#[cfg(test)]
mod tests;
