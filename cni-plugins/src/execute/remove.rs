//! `DEL` of one attachment, and `GC` of those that the runtime does not know any more.

use std::path::Path;

use api::client::{Client, ClientError};
use api::net::{Attachment, LinkBy};
use api::path;

use super::{Call, endpoint, network};
use crate::command::{Gone, Interface};
use crate::config::{Survivors, Target, decode};
use crate::delegate::Delegate;
use crate::error::PluginError;

/// Both the delegate and the daemon are told, whatever the other one says.
pub(super) fn del(
    daemon: &Client,
    call: &Call<'_>,
    target: &Target,
    gone: &Gone,
) -> Result<(), PluginError> {
    let delegated = pass_on(call, target, "DEL");
    match (delete(daemon, gone), delegated) {
        (Ok(()), delegated) => delegated,
        (Err(error), delegated) => Err(error.and(delegated)),
    }
}

/// # Errors
/// What the daemon could not remove. One that does not answer is no error when the namespace is
/// gone: it collects what belongs to dead namespaces when it is back.
pub(crate) fn delete(daemon: &Client, gone: &Gone) -> Result<(), PluginError> {
    match daemon.delete(&endpoint(&gone.interface)) {
        Ok(()) => Ok(()),
        Err(error) if error.is_not_found() => Ok(()),
        Err(ClientError::Connect { .. } | ClientError::Exchange { .. }) if is_gone(gone) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn is_gone(gone: &Gone) -> bool {
    let path = gone.netns.as_deref().map(Path::new);
    path.is_none_or(|path| matches!(path.try_exists(), Ok(false)))
}

fn pass_on(call: &Call<'_>, target: &Target, command: &'static str) -> Result<(), PluginError> {
    match Delegate::of(target, call.text, call.lookup)? {
        Some(delegate) => delegate.pass_on(command),
        None => Ok(()),
    }
}

pub(super) fn collect(
    daemon: &Client,
    call: &Call<'_>,
    target: &Target,
    owner: &str,
) -> Result<(), PluginError> {
    let survivors: Survivors = decode(call.text)?;
    let stale = Stale {
        network: target.network(),
        owner,
        survivors: &survivors,
        leases: false,
    };
    let collected = remove_stale(daemon, &stale);
    match (collected, pass_on(call, target, "GC")) {
        (Ok(()), delegated) => delegated,
        (Err(error), delegated) => Err(error.and(delegated)),
    }
}

/// Which attachments may go.
pub(crate) struct Stale<'a> {
    pub(crate) network: &'a str,
    pub(crate) owner: &'a str,
    pub(crate) survivors: &'a Survivors,
    /// Of a pool, where there is nothing else.
    pub(crate) leases: bool,
}

impl Stale<'_> {
    fn includes(&self, entry: &Attachment) -> bool {
        entry.owner.as_deref() == Some(self.owner)
            && (!self.leases || entry.link == LinkBy::Others)
            && !self.survivors.include(entry)
    }
}

/// Removes as many as can be.
///
/// # Errors
/// How many stay, with the first reason.
pub(crate) fn remove_stale(daemon: &Client, stale: &Stale<'_>) -> Result<(), PluginError> {
    let network = match network(daemon, stale.network) {
        Ok(network) => network,
        Err(error) if error.is_not_found() => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let present: Vec<Attachment> = daemon.get(path::ENDPOINTS)?;
    let stale = present
        .into_iter()
        .filter(|entry| entry.network_id == network.id && stale.includes(entry))
        .map(|entry| Interface {
            container_id: entry.container_id,
            ifname: entry.ifname,
        })
        .collect::<Vec<_>>();
    let failures = stale
        .iter()
        .filter_map(|interface| daemon.delete(&endpoint(interface)).err())
        .filter(|error| !error.is_not_found())
        .collect::<Vec<_>>();
    let failed = failures.len();
    match failures.into_iter().next() {
        Some(first) => Err(PluginError::Collect {
            tried: stale.len(),
            failed,
            first,
        }),
        None => Ok(()),
    }
}
