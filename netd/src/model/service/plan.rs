//! From what should be of services to the steps that make it so.

use std::collections::BTreeMap;

use api::id::Id;

use crate::bpf::Balanced;
use crate::model::desired::Desired;
use crate::model::port::{PortHolder, PortTable};
use crate::model::reserved::PortSet;
use crate::model::step::Step;

/// The services change from `before` to `after`, or their members do.
pub(crate) fn balance<'a>(
    before: &Desired,
    after: &Desired,
    services: impl Iterator<Item = &'a Id>,
) -> Vec<Step> {
    services
        .flat_map(|id| rebalance(&before.balanced_of(id), &after.balanced_of(id)))
        .collect()
}

/// What goes comes first: a port may go from one entry to another.
pub(crate) fn rebalance(from: &BTreeMap<u64, Balanced>, to: &BTreeMap<u64, Balanced>) -> Vec<Step> {
    let gone = from.iter().filter(|(number, _)| !to.contains_key(number));
    let gone = gone.map(|(number, was)| Step::Balance {
        number: *number,
        from: Some(was.clone()),
        to: None,
    });
    let changed = to
        .iter()
        .filter(|(number, balanced)| from.get(number) != Some(*balanced));
    let changed = changed.map(|(number, balanced)| Step::Balance {
        number: *number,
        from: from.get(number).cloned(),
        to: Some(balanced.clone()),
    });
    gone.chain(changed).collect()
}

/// Makes `service`, which `after` has, as it is there; `ports` are those of everybody. Ports that
/// only it publishes are kept from others, those that it published before are given back.
pub(crate) fn service(
    before: &Desired,
    after: &Desired,
    service: &Id,
    ports: &PortTable,
) -> Vec<Step> {
    let holder = PortHolder::Service(service.clone());
    let of = |desired: &Desired| -> PortSet {
        let service = desired.services.get(service);
        let held = service.into_iter().flat_map(|service| service.host_ports());
        held.filter(|port| !ports.is_held_by_another(&holder, *port))
            .collect()
    };
    let (had, has) = (of(before), of(after));
    let new: PortSet = has.iter().filter(|port| !had.contains(*port)).collect();
    let gone: PortSet = had.iter().filter(|port| !has.contains(*port)).collect();
    let steps = (!new.is_empty()).then_some(Step::ReservePorts(new));
    let changes = balance(before, after, [service].into_iter());
    let release = (!gone.is_empty()).then_some(Step::ReleasePorts(gone));
    steps.into_iter().chain(changes).chain(release).collect()
}
