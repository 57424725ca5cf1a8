//! `hawser network connect` and `disconnect`.
//!
//! A container that runs is joined or left by CNI at once; either way its record tells its next
//! start what to join.

use std::path::{Path, PathBuf};

use api::net::{Attachment, Network};
use api::path::ENDPOINTS;
use clap::Args;

use crate::cli::context::Context;
use crate::cli::error::{CliError, ContainerError};
use crate::cli::run::network::{DEFAULT, NetworkError, driver_opts, ipv4, ipv6, links};
use crate::cni::{ConfList, RuntimeConfig, Sandbox};
use crate::container::{Attachments, Joined, NetworkRequest, Record, Status};
use crate::joining;
use crate::shim::etc;
use crate::store::{ContainerDir, durability_of};

/// `hawser network connect`.
#[derive(Debug, Clone, Args)]
pub struct ConnectFlags {
    /// Further name on the network
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub alias: Vec<String>,
    /// IPv4 address
    #[arg(long, value_name = "ADDRESS")]
    pub ip: Option<String>,
    /// IPv6 address
    #[arg(long, value_name = "ADDRESS")]
    pub ip6: Option<String>,
    /// Name that only this container resolves: CONTAINER[:ALIAS]
    #[arg(long, value_name = "LINK")]
    pub link: Vec<String>,
    /// Option of the endpoint: NAME=VALUE, such as com.docker.network.endpoint.ifname=lan0
    #[arg(long, value_name = "OPTION")]
    pub driver_opt: Vec<String>,
    /// The network with the highest carries the default route; of several the first by name
    #[arg(
        long,
        value_name = "NUMBER",
        default_value_t = 0,
        allow_negative_numbers = true
    )]
    pub gw_priority: i64,
    /// Link-local address; refused, for the kernel gives the interface its own
    #[arg(long, value_name = "ADDRESS", hide = true)]
    pub link_local_ip: Vec<String>,
    /// Network to connect to
    pub network: String,
    /// Container to connect
    pub container: String,
}

/// `hawser network disconnect`.
#[derive(Debug, Clone, Args)]
pub struct DisconnectFlags {
    /// Forget the network even if the plugin cannot leave it
    #[arg(short, long)]
    pub force: bool,
    /// Network to leave
    pub network: String,
    /// Container to disconnect
    pub container: String,
}

/// # Errors
/// The container or network is not there, is connected already, or cannot be connected.
pub fn connect(context: &Context, flags: &ConnectFlags) -> Result<i32, CliError> {
    context.require_root()?;
    let network = super::find(context, &flags.network)?;
    let container = context.container(&flags.container)?;
    let request = request(&network, flags)?;
    let _lock = container.lock()?;
    let mut record = container.record()?;
    refuse_shared(&record, &flags.container)?;
    if record.networks.iter().any(|joined| is(joined, &network)) {
        return Err(ContainerError::Connected {
            container: flags.container.clone(),
            network: network.name.to_string(),
        }
        .into());
    }
    let state = container.state()?;
    let joined = match state.init {
        Some(init) if state.status == Status::Running => Some(join(
            context,
            &container,
            &record,
            (&request, &network),
            init.pid,
        )?),
        _ => None,
    };
    record.networks.push(request);
    let written = container.write_record(&record, durability_of(&record));
    if let (Err(_), Some(ifname)) = (&written, joined) {
        leave(context, &container, &ifname)?;
    }
    written?;
    Ok(0)
}

/// # Errors
/// The container or network is not there or not connected, or the plugin refuses.
pub fn disconnect(context: &Context, flags: &DisconnectFlags) -> Result<i32, CliError> {
    context.require_root()?;
    let network = super::find(context, &flags.network)?;
    let container = context.container(&flags.container)?;
    let _lock = container.lock()?;
    let mut record = container.record()?;
    let attachments = container.attachments()?;
    let ifname = attachments
        .interfaces
        .iter()
        .find(|(_, attachment)| attachment.network_id == network.id)
        .map(|(ifname, _)| ifname.clone());
    let asked = record.networks.len();
    record.networks.retain(|joined| !is(joined, &network));
    if ifname.is_none() && record.networks.len() == asked {
        return Err(ContainerError::NotConnected {
            container: flags.container.clone(),
            network: network.name.to_string(),
        }
        .into());
    }
    if let Some(ifname) = ifname {
        match leave(context, &container, &ifname) {
            Err(error) if !flags.force => return Err(error),
            _ => {}
        }
    }
    container.write_record(&record, durability_of(&record))?;
    Ok(0)
}

fn request(network: &Network, flags: &ConnectFlags) -> Result<NetworkRequest, NetworkError> {
    if !flags.link_local_ip.is_empty() {
        return Err(NetworkError::LinkLocal);
    }
    if network.name.as_str() == DEFAULT {
        if !flags.alias.is_empty() {
            return Err(NetworkError::DefaultAlias);
        }
        if flags.ip.is_some() || flags.ip6.is_some() {
            return Err(NetworkError::DefaultAddress);
        }
        if !flags.link.is_empty() {
            return Err(NetworkError::DefaultLink);
        }
    }
    let ip = flags.ip.as_deref();
    let ip6 = flags.ip6.as_deref();
    Ok(NetworkRequest {
        network: network.name.to_string(),
        aliases: flags.alias.clone(),
        ipv4: ip.map(|text| ipv4("--ip", text)).transpose()?,
        ipv6: ip6.map(|text| ipv6("--ip6", text)).transpose()?,
        mac: None,
        links: links(&flags.link)?,
        driver_opts: driver_opts(&flags.driver_opt)?,
        gw_priority: flags.gw_priority,
        services: Vec::new(),
    })
}

/// Whether the request, which holds what was typed, is for this network.
fn is(request: &NetworkRequest, network: &Network) -> bool {
    let typed = request.network.as_str();
    typed == network.name.as_str() || (typed.len() >= 12 && network.id.as_str().starts_with(typed))
}

fn refuse_shared(record: &Record, key: &str) -> Result<(), CliError> {
    let mode = &record.host_config.network_mode;
    if matches!(mode.as_str(), "host" | "none") || mode.starts_with("container:") {
        return Err(ContainerError::SharedNetwork(key.to_owned(), mode.clone()).into());
    }
    Ok(())
}

/// Joins the running container and returns its new interface.
fn join(
    context: &Context,
    container: &ContainerDir,
    record: &Record,
    (request, network): (&NetworkRequest, &Network),
    pid: u32,
) -> Result<String, CliError> {
    let mut attachments = container.attachments()?;
    let ifname = match request.ifname() {
        Some(name) => name.to_owned(),
        None => free_interface(&attachments, network),
    };
    let netns = PathBuf::from(format!("/proc/{pid}/ns/net"));
    let list = ConfList::hawser(&request.network, context.client().socket());
    // Ports are published on one network: this one if none of the others could.
    let mut others = attachments.interfaces.values();
    let publish = joining::can_publish(network) && others.all(|other| other.ports.is_empty());
    let runtime = RuntimeConfig::of(&container.store(), record, request, publish)?;
    let result = context
        .cni()?
        .add(&list, sandbox(record, &netns, &ifname), &runtime)?;
    let joined = Joined {
        list,
        runtime,
        result,
    };
    attachments.joined.insert(ifname.clone(), joined);
    container.write_attachments(&attachments)?;
    look_again(context, container, &mut attachments)?;
    Ok(ifname)
}

/// What one network carries may have become another one's: default route and ports.
fn look_again(
    context: &Context,
    container: &ContainerDir,
    attachments: &mut Attachments,
) -> Result<(), CliError> {
    let route = format!("{ENDPOINTS}?container={}", container.id());
    let endpoints: Vec<Attachment> = context.client().get(&route)?;
    let interfaces = endpoints
        .into_iter()
        .map(|attachment| (attachment.ifname.to_string(), attachment));
    attachments.interfaces = interfaces.collect();
    container.write_attachments(attachments)?;
    Ok(etc::refresh(container, context.client())?)
}

/// Takes the running container off the network behind `ifname`.
fn leave(context: &Context, container: &ContainerDir, ifname: &str) -> Result<(), CliError> {
    let record = container.record()?;
    let mut attachments = container.attachments()?;
    let state = container.state()?;
    if let Some(joined) = attachments.joined.get(ifname) {
        let pid = state.init.map_or(0, |init| init.pid);
        let netns = PathBuf::from(format!("/proc/{pid}/ns/net"));
        context.cni()?.del(
            &joined.list,
            sandbox(&record, &netns, ifname),
            &joined.runtime,
            Some(&joined.result),
        )?;
    }
    attachments.joined.remove(ifname);
    look_again(context, container, &mut attachments)
}

fn sandbox<'s>(record: &'s Record, netns: &'s Path, ifname: &'s str) -> Sandbox<'s> {
    Sandbox {
        container_id: record.id.as_str(),
        container_name: record.name.as_str(),
        netns,
        ifname,
    }
}

fn free_interface(attachments: &Attachments, network: &Network) -> String {
    let joined = attachments.joined.keys();
    let taken = joined.chain(attachments.interfaces.keys());
    joining::free_interface(network, &taken.cloned().collect())
}
