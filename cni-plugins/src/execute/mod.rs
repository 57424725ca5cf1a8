//! Carries a command out: the requests to the daemon and to delegated plugins, in order.

mod add;
mod remove;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use api::client::{Client, ClientError, escape};
use api::net::{Attachment, Network, NetworkCreate, NetworkCreated};
use api::{ErrorCode, path};
use serde_json::Value;

use crate::check;
use crate::command::{Command, Interface, Lookup, Sandbox};
use crate::config::{Config, Target, decode};
use crate::delegate::Delegate;
use crate::error::PluginError;
use crate::owner;
use crate::previous::Previous;
use crate::request::{self, Given};
use crate::version::Version;

pub(crate) use remove::{Stale, delete, remove_stale};

/// How long the daemon may be silent. Runtimes give up by themselves; this one is for those that
/// do not, so that a stuck daemon does not collect plugin processes for ever.
const TIMEOUT: Duration = Duration::from_secs(60);

/// One call of the plugin.
pub(crate) struct Call<'a> {
    /// The configuration, already known to be of `version`.
    pub(crate) text: &'a [u8],
    pub(crate) version: Version,
    pub(crate) lookup: Lookup<'a>,
}

/// # Errors
/// [`PluginError`], which the caller turns into the error reply.
pub(crate) fn execute(command: &Command, call: &Call<'_>) -> Result<Option<Value>, PluginError> {
    let target: Target = decode(call.text)?;
    target.check()?;
    let daemon = connect(target.socket.as_deref())?;
    match command {
        Command::Add(sandbox) => {
            check_foreign(sandbox, call.lookup)?;
            add::add(&daemon, call, sandbox).map(Some)
        }
        Command::Del(gone) => remove::del(&daemon, call, &target, gone).map(none),
        Command::Check(sandbox) => {
            check_foreign(sandbox, call.lookup)?;
            check(&daemon, call, sandbox).map(none)
        }
        Command::Gc => remove::collect(&daemon, call, &target, &owner::of(&target, 1)).map(none),
        Command::Status => status(&daemon, call).map(none),
        // Answered before a configuration is looked at.
        Command::Version => Ok(None),
    }
}

pub(crate) fn none((): ()) -> Option<Value> {
    None
}

/// # Errors
/// `HAWSER_HOST` that names no socket.
pub(crate) fn connect(socket: Option<&str>) -> Result<Client, PluginError> {
    let client = match socket {
        Some(socket) => Client::new(socket),
        None => Client::from_host(None)?,
    };
    Ok(client.with_timeout(TIMEOUT))
}

/// Refuses to work on the namespace the plugin itself runs in: a runtime that passes it by mistake
/// would have an interface of the host replaced. `CNI_NETNS_OVERRIDE` allows it, as in the
/// reference library.
pub(crate) fn check_foreign(sandbox: &Sandbox, lookup: Lookup<'_>) -> Result<(), PluginError> {
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

pub(crate) fn endpoint(interface: &Interface) -> String {
    let container = escape(&interface.container_id);
    let ifname = escape(interface.ifname.as_str());
    format!("{}/{container}/{ifname}", path::ENDPOINTS)
}

/// Asks for an endpoint, and for the network before it if that is missing and described.
///
/// # Errors
/// The daemon's refusal.
pub(crate) fn attach(
    daemon: &Client,
    asked: &api::net::AttachRequest,
    create: Option<NetworkCreate>,
) -> Result<Attachment, ClientError> {
    match (daemon.post(path::ENDPOINTS, asked), create) {
        (Err(error), Some(create)) if ClientError::is_not_found(&error) => {
            make_network(daemon, &create)?;
            daemon.post(path::ENDPOINTS, asked)
        }
        (attached, _) => attached,
    }
}

/// Makes the network, or finds that another `ADD` was faster.
fn make_network(daemon: &Client, create: &NetworkCreate) -> Result<(), ClientError> {
    match daemon.post::<NetworkCreated>(path::NETWORKS_CREATE, create) {
        Ok(_created) => Ok(()),
        // A conflict may also be about the subnet; then the network still does not exist.
        Err(error) if is_conflict(&error) && network(daemon, &create.name).is_ok() => Ok(()),
        Err(error) => Err(error),
    }
}

pub(crate) fn is_conflict(error: &ClientError) -> bool {
    error
        .api()
        .is_some_and(|refusal| refusal.code == ErrorCode::Conflict)
}

pub(crate) fn network(daemon: &Client, name: &str) -> Result<Network, ClientError> {
    daemon.get(&format!("{}/{}", path::NETWORKS, escape(name)))
}

/// What the daemon has of the interface, compared by it with what the kernel has.
///
/// # Errors
/// [`PluginError::NotAttached`], or what differs.
pub(crate) fn checked(
    daemon: &Client,
    interface: &Interface,
    network: &str,
    mac: &str,
) -> Result<Attachment, PluginError> {
    let mut path = endpoint(interface);
    if !mac.is_empty() {
        // A later plugin of the chain may have changed it.
        path = format!("{path}?mac={}", escape(mac));
    }
    match daemon.get::<Attachment>(&path) {
        Ok(attachment) => Ok(attachment),
        Err(error) if error.is_not_found() => Err(PluginError::NotAttached {
            container: interface.container_id.clone(),
            ifname: interface.ifname.to_string(),
            network: network.to_owned(),
        }),
        Err(error) if is_conflict(&error) => Err(PluginError::NotAsMade(error)),
        Err(error) => Err(error.into()),
    }
}

fn check(daemon: &Client, call: &Call<'_>, sandbox: &Sandbox) -> Result<(), PluginError> {
    let config: Config = decode(call.text)?;
    let previous = config
        .prev_result
        .as_ref()
        .ok_or_else(|| PluginError::field("prevResult", "CHECK needs it"))?;
    let own = Previous::parse(previous)?.own(sandbox);
    if let Some(delegate) = Delegate::of(&config.target, call.text, call.lookup)? {
        delegate.pass_on("CHECK")?;
    }
    let mac = own.as_ref().map(|own| own.mac.as_str()).unwrap_or_default();
    let network = config.target.network();
    let attachment = checked(daemon, &sandbox.interface, network, mac)?;
    check::compare(own, sandbox, &attachment)
}

/// Ready when the daemon answers, the network is well and has addresses left, or will be made, and
/// a delegated plugin is ready as well.
fn status(daemon: &Client, call: &Call<'_>) -> Result<(), PluginError> {
    let config: Config = decode(call.text)?;
    config.check_keys()?;
    let creates = request::create(&config, &Given::Nothing)?.is_some();
    network_status(daemon, config.target.network(), creates)?;
    match Delegate::of(&config.target, call.text, call.lookup)? {
        Some(delegate) => delegate.pass_on("STATUS"),
        None => Ok(()),
    }
}

/// # Errors
/// [`PluginError::NotReady`], or [`PluginError::CutOff`] when the network has lost a part.
pub(crate) fn network_status(
    daemon: &Client,
    network: &str,
    creates: bool,
) -> Result<(), PluginError> {
    let path = format!("{}/{}/{}", path::NETWORKS, escape(network), path::STATUS);
    match daemon.get::<Value>(&path) {
        Ok(_ready) => Ok(()),
        Err(error) if creates && error.is_not_found() => Ok(()),
        Err(error) if has_lost_a_part(&error) => Err(PluginError::CutOff(error)),
        Err(error) => Err(PluginError::NotReady(error)),
    }
}

fn has_lost_a_part(error: &ClientError) -> bool {
    error
        .api()
        .is_some_and(|refusal| refusal.code == ErrorCode::Unavailable)
}
