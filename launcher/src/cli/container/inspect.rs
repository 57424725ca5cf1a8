//! A container as the Docker Engine API describes it.

use std::collections::BTreeMap;

use api::net::Attachment;
use api::path::ROOTFS;
use api::storage::Rootfs;
use serde::Serialize;

use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::container::{Config, HostConfig, HostPort, Mount, NetworkRequest, Status};
use crate::store::ContainerDir;

use super::list::status_word;
use super::ports;
use super::view::View;

/// Go's zero time: a container that never ran.
const NEVER: &str = "0001-01-01T00:00:00Z";

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Container {
    id: String,
    created: String,
    path: String,
    args: Vec<String>,
    state: ContainerState,
    image: String,
    resolv_conf_path: String,
    hostname_path: String,
    hosts_path: String,
    log_path: String,
    name: String,
    restart_count: u32,
    driver: String,
    platform: &'static str,
    host_config: HostConfig,
    graph_driver: GraphDriver,
    mounts: Vec<Mount>,
    config: Config,
    network_settings: NetworkSettings,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
struct ContainerState {
    status: &'static str,
    running: bool,
    paused: bool,
    restarting: bool,
    #[serde(rename = "OOMKilled")]
    oom_killed: bool,
    dead: bool,
    pid: u32,
    exit_code: i32,
    error: String,
    started_at: String,
    finished_at: String,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
struct GraphDriver {
    data: BTreeMap<String, String>,
    name: String,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
struct NetworkSettings {
    #[serde(rename = "SandboxKey")]
    sandbox_key: String,
    ports: BTreeMap<String, Option<Vec<HostPort>>>,
    // The first network's, as Docker shows the default bridge's.
    #[serde(flatten)]
    first: Addresses,
    networks: BTreeMap<String, Endpoint>,
}

#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Addresses {
    mac_address: String,
    #[serde(rename = "EndpointID")]
    endpoint_id: String,
    gateway: String,
    #[serde(rename = "IPAddress")]
    ip_address: String,
    #[serde(rename = "IPPrefixLen")]
    ip_prefix_len: u8,
    #[serde(rename = "IPv6Gateway")]
    ipv6_gateway: String,
    #[serde(rename = "GlobalIPv6Address")]
    global_ipv6_address: String,
    #[serde(rename = "GlobalIPv6PrefixLen")]
    global_ipv6_prefix_len: u8,
}

#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Endpoint {
    #[serde(rename = "IPAMConfig")]
    ipam_config: Option<AskedAddresses>,
    links: Option<Vec<String>>,
    aliases: Vec<String>,
    #[serde(rename = "NetworkID")]
    network_id: String,
    #[serde(flatten)]
    addresses: Addresses,
    #[serde(rename = "DNSNames")]
    dns_names: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
struct AskedAddresses {
    #[serde(rename = "IPv4Address", skip_serializing_if = "String::is_empty")]
    ipv4: String,
    #[serde(rename = "IPv6Address", skip_serializing_if = "String::is_empty")]
    ipv6: String,
}

/// # Errors
/// The container is gone, or its files cannot be read.
pub fn inspect(context: &Context, container: &ContainerDir) -> Result<Container, CliError> {
    let view = View::of(container)?;
    // A container whose removal was cut short may have none any more.
    let rootfs = context
        .client()
        .get::<Rootfs>(&format!("{ROOTFS}/{}", view.record.id))
        .ok();
    Ok(describe(&view, rootfs, container))
}

fn describe(view: &View, rootfs: Option<Rootfs>, container: &ContainerDir) -> Container {
    let record = &view.record;
    let (driver, data) = rootfs.map_or_else(Default::default, |r| (r.driver, r.data));
    let mut command = view.command().into_iter();
    let in_dir = |name: &str| container.path().join(name).display().to_string();
    let log_path = match record.host_config.log_config.driver.as_str() {
        "none" => String::new(),
        _ => container.log_path().display().to_string(),
    };
    Container {
        id: record.id.to_string(),
        created: record.created.clone(),
        path: command.next().unwrap_or_default(),
        args: command.collect(),
        state: state(view),
        image: record.image_id.to_string(),
        resolv_conf_path: in_dir("resolv.conf"),
        hostname_path: in_dir("hostname"),
        hosts_path: in_dir("hosts"),
        log_path,
        name: format!("/{}", record.name),
        restart_count: view.state.restart_count,
        driver: driver.clone(),
        platform: "linux",
        host_config: record.host_config.clone(),
        graph_driver: GraphDriver { data, name: driver },
        mounts: record.mounts.clone(),
        config: record.config.clone(),
        network_settings: network_settings(view),
    }
}

fn state(view: &View) -> ContainerState {
    let state = &view.state;
    let time = |text: &str| {
        if text.is_empty() {
            NEVER.to_owned()
        } else {
            text.to_owned()
        }
    };
    ContainerState {
        status: status_word(state.status),
        running: view.is_running(),
        paused: false,
        restarting: false,
        oom_killed: state.oom_killed,
        dead: state.status == Status::Removing,
        pid: state
            .init
            .filter(|_| view.is_running())
            .map_or(0, |init| init.pid),
        exit_code: state.exit_code,
        error: state.error.clone(),
        started_at: time(&state.started_at),
        finished_at: time(&state.finished_at),
    }
}

fn network_settings(view: &View) -> NetworkSettings {
    let first = view.attachments.first().map(addresses).unwrap_or_default();
    let sandbox_key = view
        .attachments
        .first()
        .map_or_else(String::new, |attachment| attachment.netns.clone());
    NetworkSettings {
        sandbox_key,
        ports: port_map(view),
        first,
        networks: networks(view),
    }
}

fn port_map(view: &View) -> BTreeMap<String, Option<Vec<HostPort>>> {
    let mut map = BTreeMap::new();
    if !view.is_running() {
        return map;
    }
    for key in view.record.config.exposed_ports.keys() {
        map.insert(key.clone(), None);
    }
    for port in ports::published(view) {
        for offset in 0..port.count.max(1) {
            let key = format!(
                "{}/{}",
                port.container_port.saturating_add(offset),
                port.protocol
            );
            let host = HostPort {
                host_ip: port.host_ip.to_string(),
                host_port: port.host_port.saturating_add(offset).to_string(),
            };
            map.entry(key)
                .or_default()
                .get_or_insert_default()
                .push(host);
        }
    }
    map
}

fn networks(view: &View) -> BTreeMap<String, Endpoint> {
    if view.attachments.is_empty() {
        let asked = view.record.networks.iter().map(|request| {
            let endpoint = Endpoint {
                ipam_config: asked(Some(request)),
                aliases: request.aliases.clone(),
                ..Endpoint::default()
            };
            (request.network.clone(), endpoint)
        });
        let mode = &view.record.host_config.network_mode;
        let own =
            matches!(mode.as_str(), "host" | "none").then(|| (mode.clone(), Endpoint::default()));
        return asked.chain(own).collect();
    }
    let endpoints = view.attachments.iter().map(|attachment| {
        let network = attachment.network.to_string();
        let request = view.record.networks.iter().find(|request| {
            request.network == network
                || attachment.network_id.as_str().starts_with(&request.network)
        });
        (network, endpoint(attachment, request))
    });
    endpoints.collect()
}

fn endpoint(attachment: &Attachment, request: Option<&NetworkRequest>) -> Endpoint {
    let mut dns_names: Vec<String> = attachment.name.iter().cloned().collect();
    dns_names.extend(attachment.aliases.iter().cloned());
    Endpoint {
        ipam_config: asked(request),
        links: None,
        aliases: request.map_or_else(Vec::new, |request| request.aliases.clone()),
        network_id: attachment.network_id.to_string(),
        addresses: addresses(attachment),
        dns_names,
    }
}

fn asked(request: Option<&NetworkRequest>) -> Option<AskedAddresses> {
    let request = request?;
    let asked = AskedAddresses {
        ipv4: request.ipv4.map(|ip| ip.to_string()).unwrap_or_default(),
        ipv6: request.ipv6.map(|ip| ip.to_string()).unwrap_or_default(),
    };
    (asked != AskedAddresses::default()).then_some(asked)
}

fn addresses(attachment: &Attachment) -> Addresses {
    let mut addresses = Addresses {
        mac_address: attachment
            .mac
            .map(|mac| mac.to_string())
            .unwrap_or_default(),
        endpoint_id: attachment.endpoint_id.to_string(),
        ..Addresses::default()
    };
    for address in &attachment.addresses {
        let ip = address.address.addr();
        let gateway = address.gateway.map(|ip| ip.to_string()).unwrap_or_default();
        if ip.is_ipv4() {
            addresses.ip_address = ip.to_string();
            addresses.ip_prefix_len = address.address.prefix_len();
            addresses.gateway = gateway;
        } else {
            addresses.global_ipv6_address = ip.to_string();
            addresses.global_ipv6_prefix_len = address.address.prefix_len();
            addresses.ipv6_gateway = gateway;
        }
    }
    addresses
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use crate::cli::container::view::samples;
    use crate::container::State;
    use crate::format::template::Template;
    use crate::store::Store;

    use super::*;

    fn rendered(view: &View, template: &str) -> String {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let container = store.container(&view.record.id);
        let value: Value = serde_json::to_value(describe(view, None, &container)).unwrap();
        Template::parse(template).unwrap().render(&value).unwrap()
    }

    #[test]
    fn a_running_container_reads_as_dockers() {
        let view = samples::running();
        for (template, expected) in [
            (
                "{{.Name}} {{.Path}} {{.Args}}",
                "/web nginx [-g daemon off;]",
            ),
            (
                "{{.State.Status}} {{.State.Running}} {{.State.Pid}}",
                "running true 7",
            ),
            (
                "{{.NetworkSettings.IPAddress}} {{.NetworkSettings.Gateway}}",
                "10.1.0.9 10.1.0.1",
            ),
            (
                "{{range $k, $v := .NetworkSettings.Networks}}{{$k}} {{$v.IPAMConfig.IPv4Address}} \
                 {{$v.IPAddress}} {{$v.GlobalIPv6Address}}/{{$v.GlobalIPv6PrefixLen}}{{end}}",
                "shop 10.1.0.9 10.1.0.9 fd00:1::9/64",
            ),
            (
                "{{(index (index .NetworkSettings.Ports \"80/tcp\") 0).HostPort}}",
                "18080",
            ),
            (
                "{{json (index .NetworkSettings.Ports \"54/udp\")}} \
                 {{json (index .NetworkSettings.Ports \"443/tcp\")}}",
                r#"[{"HostIp":"127.0.0.1","HostPort":"5354"}] null"#,
            ),
            (
                "{{.HostConfig.NetworkMode}} {{.Config.Labels.tier}}",
                "shop front",
            ),
            ("{{.State.FinishedAt}}", NEVER),
        ] {
            assert_eq!(rendered(&view, template), expected, "{template}");
        }
    }

    #[test]
    fn a_stopped_container_has_no_addresses_but_its_networks() {
        let mut view = samples::running();
        view.attachments.clear();
        view.state = State {
            status: Status::Exited,
            exit_code: 3,
            ..view.state
        };
        assert_eq!(
            rendered(
                &view,
                "{{.State.Status}} {{.State.ExitCode}} {{.State.Pid}} \
                 {{json .NetworkSettings.Ports}} {{.NetworkSettings.IPAddress}}|\
                 {{range $k, $v := .NetworkSettings.Networks}}{{$k}} {{$v.Aliases}}{{end}}"
            ),
            "exited 3 0 {} |shop [www]"
        );
    }

    #[test]
    fn a_log_that_is_not_kept_has_no_path() {
        let mut view = samples::running();
        view.record.host_config.log_config.driver = "none".to_owned();
        assert_eq!(rendered(&view, "{{.LogPath}}|"), "|");
    }
}
