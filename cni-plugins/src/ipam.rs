//! The address management plugin: the daemon's addresses for interfaces that others make.
//!
//! It is delegated to by plugins such as the reference `bridge`, installed as `hawser-ipam`. A
//! lease is an endpoint without an interface: the daemon takes it back by `DEL`, by `GC`, and by
//! itself when the namespace dies.

use std::net::IpAddr;

use api::client::Client;
use api::net::{AttachRequest, Dns, EndpointAddress, Ipam, LinkBy, NetworkCreate, Route};
use ipnet::IpNet;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::check;
use crate::command::{Command, Sandbox};
use crate::config::{
    RuntimeConfig, StaticDns, StructuredArgs, Survivors, Target, decode, one_or_many, unsupported,
};
use crate::error::PluginError;
use crate::execute::{self, Call, Stale, none};
use crate::lease::{CniRoute, Lease};
use crate::{owner, reply, request};

/// The `ipam` of the upper plugin's configuration; the rest of that is not ours to judge.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    ipam: Section,
    #[serde(default)]
    args: StructuredArgs,
    #[serde(default)]
    runtime_config: RuntimeConfig,
    prev_result: Option<Value>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Section {
    #[serde(rename = "type")]
    _plugin: String,
    #[serde(flatten)]
    _place: PlaceSection,
    /// These make a pool on first use.
    #[serde(default, deserialize_with = "one_or_many")]
    subnet: Vec<IpNet>,
    #[serde(default, deserialize_with = "one_or_many")]
    ip_range: Vec<IpNet>,
    #[serde(default, deserialize_with = "one_or_many")]
    gateway: Vec<IpAddr>,
    /// Handed on to whoever makes the interface.
    #[serde(default)]
    routes: Vec<CniRoute>,
    #[serde(default)]
    dns: StaticDns,
    #[serde(flatten)]
    unknown: Map<String, Value>,
}

/// Only what finds the lease, so that `DEL` succeeds with a configuration that `ADD` refuses.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Place {
    name: String,
    ipam: PlaceSection,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct PlaceSection {
    /// The daemon's network; the configuration's name when absent.
    network: Option<String>,
    socket: Option<String>,
    owner: Option<String>,
}

/// The runtime runs the plugin that runs this one.
const LEVELS: u32 = 2;

/// # Errors
/// [`PluginError`], which the caller turns into the error reply.
pub(crate) fn execute(command: &Command, call: &Call<'_>) -> Result<Option<Value>, PluginError> {
    let place: Place = decode(call.text)?;
    let target = Target {
        name: place.name,
        network: place.ipam.network,
        socket: place.ipam.socket,
        owner: place.ipam.owner,
        ipam: None,
    };
    target.check()?;
    let daemon = execute::connect(target.socket.as_deref())?;
    match command {
        Command::Add(sandbox) => add(&daemon, call, &target, sandbox).map(Some),
        Command::Del(gone) => execute::delete(&daemon, gone).map(none),
        Command::Check(sandbox) => check(&daemon, call, &target, sandbox).map(none),
        Command::Gc => {
            let survivors: Survivors = decode(call.text)?;
            let stale = Stale {
                network: target.network(),
                owner: &owner::of(&target, LEVELS),
                survivors: &survivors,
                leases: true,
            };
            execute::remove_stale(&daemon, &stale).map(none)
        }
        Command::Status => {
            let config: Config = decode(call.text)?;
            let creates = config.create(&target)?.is_some();
            execute::network_status(&daemon, target.network(), creates).map(none)
        }
        Command::Version => Ok(None),
    }
}

fn add(
    daemon: &Client,
    call: &Call<'_>,
    target: &Target,
    sandbox: &Sandbox,
) -> Result<Value, PluginError> {
    let config: Config = decode(call.text)?;
    config.check_keys()?;
    let (ipv4, ipv6) = request::asked_addresses(&config.runtime_config, &config.args, sandbox)?;
    let asked = AttachRequest {
        network: target.network().to_owned(),
        container_id: sandbox.interface.container_id.clone(),
        ifname: sandbox.interface.ifname.clone(),
        netns: sandbox.netns.clone(),
        name: sandbox.args.pod_name.clone(),
        aliases: Vec::new(),
        links: Vec::new(),
        ipv4,
        ipv6,
        mac: None,
        ports: Vec::new(),
        dns: Dns::default(),
        link: LinkBy::Others,
        addresses: Vec::new(),
        routes: None,
        bandwidth: None,
        owner: Some(owner::of(target, LEVELS)),
        exclusive: true,
        gw_priority: None,
        runtime: None,
        services: Vec::new(),
    };
    let mut attachment = execute::attach(daemon, &asked, config.create(target)?)?;
    // The upper plugin sets them.
    attachment.routes = config.ipam.routes.iter().map(Route::from).collect();
    attachment.dns = Dns {
        nameservers: config.ipam.dns.nameservers.clone(),
        search: config.ipam.dns.search.clone(),
        options: config.ipam.dns.options.clone(),
    };
    Ok(reply::lease(&attachment, &config.ipam.dns, call.version))
}

fn check(
    daemon: &Client,
    call: &Call<'_>,
    target: &Target,
    sandbox: &Sandbox,
) -> Result<(), PluginError> {
    let config: Config = decode(call.text)?;
    let previous = config
        .prev_result
        .ok_or_else(|| PluginError::field("prevResult", "CHECK needs it"))?;
    let remembered =
        Lease::of_result(previous).map_err(|error| PluginError::field("prevResult", error))?;
    let attachment = execute::checked(daemon, &sandbox.interface, target.network(), "")?;
    let remembered: Vec<EndpointAddress> = remembered.addresses;
    check::compare_lease(&remembered, &attachment)
}

impl Config {
    fn check_keys(&self) -> Result<(), PluginError> {
        match self.ipam.unknown.iter().next() {
            Some((key, value)) => {
                let way_out = "remove it, or correct its name";
                Err(unsupported(&format!("ipam.{key}"), value, way_out))
            }
            None => Ok(()),
        }
    }

    /// The pool to make on first use, if one is described.
    fn create(&self, target: &Target) -> Result<Option<NetworkCreate>, PluginError> {
        let ipam = &self.ipam;
        if ipam.subnet.is_empty() {
            return match (ipam.ip_range.is_empty(), ipam.gateway.is_empty()) {
                (true, true) => Ok(None),
                _ => Err(PluginError::field("ipam.subnet", "missing")),
            };
        }
        let subnets = request::subnets(&ipam.subnet, &ipam.ip_range, &ipam.gateway)?;
        Ok(Some(NetworkCreate {
            name: target.network().to_owned(),
            driver: "pool".to_owned(),
            enable_ipv4: None,
            enable_ipv6: request::has_ipv6(&subnets).then_some(true),
            ipam: Ipam {
                driver: "default".to_owned(),
                options: None,
                config: subnets,
            },
            internal: false,
            attachable: false,
            options: [].into(),
            labels: [].into(),
        }))
    }
}
