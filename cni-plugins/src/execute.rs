//! Carries a command out: the requests to the daemon, in order.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use api::client::{Client, ClientError, escape};
use api::net::{Attachment, Network, NetworkCreate, NetworkCreated};
use api::{ErrorCode, path};
use serde_json::Value;

use crate::check;
use crate::command::{Command, Interface, Lookup, Sandbox};
use crate::config::{Config, Survivors, Target, decode};
use crate::error::PluginError;
use crate::host_link;
use crate::reply::{self, Parts};
use crate::request;
use crate::version::Version;

/// How long the daemon may be silent. Runtimes give up by themselves; this one is for those that
/// do not, so that a stuck daemon does not collect plugin processes for ever.
const TIMEOUT: Duration = Duration::from_secs(60);

/// `text` is the configuration, already known to be of `version`.
///
/// # Errors
/// [`PluginError`], which the caller turns into the error reply.
pub(crate) fn execute(
    command: &Command,
    text: &[u8],
    version: Version,
    lookup: Lookup<'_>,
) -> Result<Option<Value>, PluginError> {
    let target: Target = decode(text)?;
    target.check()?;
    let daemon = connect(&target)?;
    match command {
        Command::Add(sandbox) => {
            check_foreign(sandbox, lookup)?;
            add(&daemon, decode(text)?, sandbox, version).map(Some)
        }
        Command::Del(interface) => delete(&daemon, interface).map(none),
        Command::Check(sandbox) => {
            check_foreign(sandbox, lookup)?;
            check(&daemon, decode(text)?, sandbox).map(none)
        }
        Command::Gc => {
            let survivors: Survivors = decode(text)?;
            collect(&daemon, &target, &survivors).map(none)
        }
        Command::Status => status(&daemon, &decode(text)?).map(none),
        // Answered before a configuration is looked at.
        Command::Version => Ok(None),
    }
}

fn none((): ()) -> Option<Value> {
    None
}

fn connect(target: &Target) -> Result<Client, PluginError> {
    let client = match &target.socket {
        Some(socket) => Client::new(socket),
        None => Client::from_host(None)?,
    };
    Ok(client.with_timeout(TIMEOUT))
}

/// Refuses to work on the namespace the plugin itself runs in: a runtime that passes it by mistake
/// would have an interface of the host replaced. `CNI_NETNS_OVERRIDE` allows it, as in the
/// reference library.
fn check_foreign(sandbox: &Sandbox, lookup: Lookup<'_>) -> Result<(), PluginError> {
    if matches!(lookup("CNI_NETNS_OVERRIDE").as_deref(), Some("1" | "true")) {
        return Ok(());
    }
    let identity = |path: &str| fs::metadata(path).map(|file| (file.dev(), file.ino()));
    let netns = identity(&sandbox.netns)
        .map_err(|error| PluginError::variable("CNI_NETNS", &sandbox.netns, error))?;
    match identity("/proc/thread-self/ns/net") {
        Ok(own) if own == netns => {
            let reason = "is the plugin's own network namespace, not a container's";
            Err(PluginError::variable("CNI_NETNS", &sandbox.netns, reason))
        }
        // Without /proc there is nothing to compare with; the daemon checks the path itself.
        _ => Ok(()),
    }
}

fn endpoint(interface: &Interface) -> String {
    let container = escape(&interface.container_id);
    let ifname = escape(interface.ifname.as_str());
    format!("{}/{container}/{ifname}", path::ENDPOINTS)
}

fn add(
    daemon: &Client,
    config: Config,
    sandbox: &Sandbox,
    version: Version,
) -> Result<Value, PluginError> {
    let asked = request::attach(&config, sandbox)?;
    let create = request::create(&config)?;
    refuse_second(daemon, sandbox)?;
    let attachment = match (daemon.post(path::ENDPOINTS, &asked), create) {
        (Err(error), Some(create)) if ClientError::is_not_found(&error) => {
            make_network(daemon, &create)?;
            daemon.post(path::ENDPOINTS, &asked)?
        }
        (attached, _) => attached?,
    };
    let attachment: Attachment = attachment;
    let host_links = attachment
        .host_ifname
        .as_ref()
        .map(|name| host_link::read(name.as_str()))
        .unwrap_or_default();
    let parts = Parts {
        attachment: &attachment,
        host_links: &host_links,
        dns: &config.dns,
        previous: config.prev_result,
    };
    Ok(reply::result(parts, version))
}

/// The daemon answers a repeated request with what there is; the specification wants an error.
fn refuse_second(daemon: &Client, sandbox: &Sandbox) -> Result<(), PluginError> {
    let Interface {
        container_id,
        ifname,
    } = &sandbox.interface;
    let query = format!("{}?container={}", path::ENDPOINTS, escape(container_id));
    let present: Vec<Attachment> = daemon.get(&query)?;
    match present.into_iter().find(|entry| entry.ifname == *ifname) {
        Some(existing) => Err(PluginError::AlreadyAttached {
            container: existing.container_id,
            ifname: existing.ifname.to_string(),
            network: existing.network.to_string(),
        }),
        None => Ok(()),
    }
}

/// Makes the network, or finds that another `ADD` was faster.
fn make_network(daemon: &Client, create: &NetworkCreate) -> Result<(), PluginError> {
    match daemon.post::<NetworkCreated>(path::NETWORKS_CREATE, create) {
        Ok(_created) => Ok(()),
        Err(error) => {
            // A conflict may also be about the subnet; then the network still does not exist.
            if is_conflict(&error) && network(daemon, &create.name).is_ok() {
                return Ok(());
            }
            Err(error.into())
        }
    }
}

fn is_conflict(error: &ClientError) -> bool {
    error
        .api()
        .is_some_and(|refusal| refusal.code == ErrorCode::Conflict)
}

fn network(daemon: &Client, name: &str) -> Result<Network, ClientError> {
    daemon.get(&format!("{}/{}", path::NETWORKS, escape(name)))
}

fn delete(daemon: &Client, interface: &Interface) -> Result<(), PluginError> {
    match daemon.delete(&endpoint(interface)) {
        Err(error) if !error.is_not_found() => Err(error.into()),
        _ => Ok(()),
    }
}

fn check(daemon: &Client, config: Config, sandbox: &Sandbox) -> Result<(), PluginError> {
    let interface = &sandbox.interface;
    match daemon.get::<Attachment>(&endpoint(interface)) {
        Ok(attachment) => check::compare(config.prev_result, sandbox, &attachment),
        Err(error) if error.is_not_found() => Err(PluginError::NotAttached {
            container: interface.container_id.clone(),
            ifname: interface.ifname.to_string(),
            network: config.target.network().to_owned(),
        }),
        Err(error) if is_conflict(&error) => Err(PluginError::NotAsMade(error)),
        Err(error) => Err(error.into()),
    }
}

/// Removes the network's attachments that the runtime does not know any more, as many as can be.
fn collect(daemon: &Client, target: &Target, survivors: &Survivors) -> Result<(), PluginError> {
    let network = match network(daemon, target.network()) {
        Ok(network) => network,
        Err(error) if error.is_not_found() => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let present: Vec<Attachment> = daemon.get(path::ENDPOINTS)?;
    let stale = present
        .into_iter()
        .filter(|entry| entry.network_id == network.id && !is_valid(entry, survivors))
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

fn is_valid(entry: &Attachment, survivors: &Survivors) -> bool {
    survivors.valid_attachments.iter().any(|valid| {
        valid.container_id == entry.container_id && valid.ifname == entry.ifname.as_str()
    })
}

/// Ready when the daemon answers and the network is there or will be made.
fn status(daemon: &Client, config: &Config) -> Result<(), PluginError> {
    config.check_keys()?;
    let creates = request::create(config)?.is_some();
    match network(daemon, config.target.network()) {
        Err(error) if !(creates && error.is_not_found()) => Err(PluginError::NotReady(error)),
        _ => Ok(()),
    }
}
