//! What the data plane counted, in the words of those who published it; when a table is a worry.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use api::traffic::{BackendTraffic, Counts, Kind, ServiceTraffic, Table};

use crate::bpf;

/// From this share of its capacity on a table is about to refuse or forget.
pub(crate) const NEARLY_FULL_PERCENT: u64 = 90;
/// Below this share the matter is over: between the two it is left as it was.
const OVER_PERCENT: u64 = 80;

/// One entry for each service, and for each port of a container whatever addresses it is published
/// on. `containers` knows addresses, `services` the numbers of services.
pub(crate) fn report(
    counted: Vec<bpf::ServiceTraffic>,
    containers: &BTreeMap<IpAddr, String>,
    services: &BTreeMap<u64, String>,
) -> Vec<ServiceTraffic> {
    let mut report = BTreeMap::new();
    for one in counted {
        let entry = in_words(one, containers, services);
        let first = entry.published.first().map_or("", String::as_str);
        let port = first.rsplit_once(':').map_or("", |(_address, port)| port);
        let key = (entry.kind, entry.name.clone(), port.to_owned());
        match report.entry(key) {
            std::collections::btree_map::Entry::Vacant(vacant) => {
                vacant.insert(entry);
            }
            std::collections::btree_map::Entry::Occupied(mut same) => join(same.get_mut(), entry),
        }
    }
    report.into_values().collect()
}

fn in_words(
    one: bpf::ServiceTraffic,
    containers: &BTreeMap<IpAddr, String>,
    services: &BTreeMap<u64, String>,
) -> ServiceTraffic {
    let container = |address: IpAddr| containers.get(&address).cloned().unwrap_or_default();
    let mut totals = counts(one.past);
    let mut active = 0;
    let backends: Vec<BackendTraffic> = one
        .backends
        .iter()
        .map(|backend| BackendTraffic {
            address: backend.address,
            container: container(backend.address.ip()),
            weight: backend.weight,
            counts: counts(backend.counts),
            active: backend.active,
        })
        .collect();
    for backend in &backends {
        totals.add(&backend.counts);
        active += backend.active;
    }
    let (kind, name) = called(&one, containers, services);
    let dropped = one.drops.into_iter();
    ServiceTraffic {
        name,
        kind,
        published: one.frontends.iter().map(ToString::to_string).collect(),
        backends,
        counts: totals,
        active,
        dropped: dropped
            .map(|(reason, n)| (reason.to_owned(), n))
            .filter(|(_reason, count)| *count > 0)
            .collect(),
    }
}

/// The service's name, or that of the container that publishes the port.
pub(crate) fn called(
    one: &bpf::ServiceTraffic,
    containers: &BTreeMap<IpAddr, String>,
    services: &BTreeMap<u64, String>,
) -> (Kind, String) {
    match one.number {
        Some(number) => {
            let name = services.get(&number).cloned();
            (Kind::Service, name.unwrap_or_else(|| number.to_string()))
        }
        None => {
            let owner = one.backends.first();
            let name = owner.and_then(|backend| containers.get(&backend.address.ip()));
            (Kind::Container, name.cloned().unwrap_or_default())
        }
    }
}

/// The same port on another address.
fn join(into: &mut ServiceTraffic, other: ServiceTraffic) {
    into.published.extend(other.published);
    into.counts.add(&other.counts);
    into.active += other.active;
    for (reason, count) in other.dropped {
        *into.dropped.entry(reason).or_default() += count;
    }
    for backend in other.backends {
        let same = |have: &&mut BackendTraffic| have.address == backend.address;
        match into.backends.iter_mut().find(same) {
            Some(have) => {
                have.counts.add(&backend.counts);
                have.active += backend.active;
            }
            None => into.backends.push(backend),
        }
    }
}

fn counts(counts: bpf::Counts) -> Counts {
    let bpf::Counts {
        packets_in,
        bytes_in,
        packets_out,
        bytes_out,
        new_flows,
        connects,
        datagrams,
    } = counts;
    Counts {
        packets_in,
        bytes_in,
        packets_out,
        bytes_out,
        flows: new_flows,
        connects,
        datagrams,
    }
}

/// What a table cannot do without, in percent of its capacity.
fn percent(table: &Table) -> u64 {
    let need = table.in_use.unwrap_or(0);
    u64::from(need) * 100 / u64::from(table.capacity.max(1))
}

pub(crate) fn is_nearly_full(table: &Table) -> bool {
    percent(table) >= NEARLY_FULL_PERCENT
}

/// Which tables are nearly full: each is told of once, until it has room again.
#[derive(Debug, Default)]
pub(crate) struct Episodes {
    full: BTreeSet<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    Begins,
    Ends,
}

impl Episodes {
    /// What begins and ends with this look at the tables.
    pub(crate) fn look<'a>(&mut self, tables: &'a [Table]) -> Vec<(&'a Table, Turn)> {
        let mut turns = Vec::new();
        for table in tables {
            if is_nearly_full(table) {
                if self.full.insert(table.name.clone()) {
                    turns.push((table, Turn::Begins));
                }
            } else if percent(table) < OVER_PERCENT && self.full.remove(&table.name) {
                turns.push((table, Turn::Ends));
            }
        }
        turns
    }
}

#[cfg(test)]
mod tests;
