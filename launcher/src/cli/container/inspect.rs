//! A container as the Docker Engine API describes it.

mod network;

use std::collections::BTreeMap;

use api::id::Id;
use api::owner::IdMaps;
use api::path::ROOTFS;
use api::storage::Rootfs;
use serde::Serialize;

use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::container::{Config, Health, HostConfig, Mount, Status};
use crate::log::Format;
use crate::store::ContainerDir;

use super::list::{sizes, status_word};
use super::view::View;
use network::NetworkSettings;

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
    /// Entries that the log driver has not taken, or a full disk.
    #[serde(rename = "LogEntriesLost")]
    log_entries_lost: u64,
    name: String,
    restart_count: u32,
    driver: String,
    platform: &'static str,
    host_config: FullHostConfig,
    graph_driver: GraphDriver,
    mounts: Vec<Mount>,
    config: Config,
    network_settings: NetworkSettings,
    #[serde(skip_serializing_if = "Option::is_none")]
    id_maps: Option<IdMaps>,
    #[serde(flatten)]
    sizes: Option<Sizes>,
}

/// What a container takes, in bytes.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Sizes {
    /// What it has written.
    pub(crate) size_rw: u64,
    /// That and its image.
    #[serde(rename = "SizeRootFs")]
    pub(crate) size_root_fs: u64,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    health: Option<Health>,
}

/// What was asked for, with the links, which are kept apart because they follow renames.
#[derive(Debug, Clone, Serialize)]
struct FullHostConfig {
    #[serde(flatten)]
    asked: HostConfig,
    /// `/SERVER:/CLIENT/ALIAS`.
    #[serde(rename = "Links")]
    links: Option<Vec<String>>,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
struct GraphDriver {
    data: BTreeMap<String, String>,
    name: String,
}

/// # Errors
/// The container is gone, or its files cannot be read.
pub fn inspect(
    context: &Context,
    container: &ContainerDir,
    size: bool,
) -> Result<Container, CliError> {
    let view = View::of(container)?;
    // A container whose removal was cut short may have none any more.
    let rootfs = context
        .client()
        .get::<Rootfs>(&format!("{ROOTFS}/{}", view.record.id))
        .ok();
    let ids = network::ids(context, &view);
    let described = describe(&view, rootfs, container, &ids);
    Ok(Container {
        sizes: size.then(|| sizes(context, &view)),
        ..described
    })
}

fn describe(
    view: &View,
    rootfs: Option<Rootfs>,
    container: &ContainerDir,
    network_ids: &BTreeMap<String, Id>,
) -> Container {
    let record = &view.record;
    let (driver, data) = rootfs.map_or_else(Default::default, |r| (r.driver, r.data));
    let mut command = view.command().into_iter();
    let in_dir = |name: &str| container.path().join(name).display().to_string();
    let log_path = match record.host_config.log_config.driver.as_str() {
        "json-file" | "" => container.log_path(Format::Json).display().to_string(),
        _ => String::new(),
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
        log_entries_lost: container.lost_entries().unwrap_or_default(),
        name: format!("/{}", record.name),
        restart_count: view.state.restart_count,
        driver: driver.clone(),
        platform: "linux",
        host_config: FullHostConfig {
            asked: record.host_config.clone(),
            links: links(view, container),
        },
        graph_driver: GraphDriver { data, name: driver },
        mounts: record.mounts.clone(),
        config: record.config.clone(),
        network_settings: NetworkSettings::of(view, network_ids),
        id_maps: record.id_maps.clone(),
        sizes: None,
    }
}

/// The links by today's names; one whose container is gone leads nowhere and is left out.
fn links(view: &View, container: &ContainerDir) -> Option<Vec<String>> {
    let store = container.store();
    let links = view.record.links.iter().filter_map(|link| {
        let server = store.container(&link.container).record().ok()?.name;
        Some(format!("/{server}:/{}/{}", view.record.name, link.alias))
    });
    let links: Vec<String> = links.collect();
    (!links.is_empty()).then_some(links)
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
        status: status_word(state),
        running: view.is_running(),
        paused: view.is_running() && state.paused,
        restarting: view.is_running() && state.restarting,
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
        health: view.health.clone(),
    }
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
        let value: Value =
            serde_json::to_value(describe(view, None, &container, &BTreeMap::new())).unwrap();
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
                "{{with .NetworkSettings.Networks.shop}}{{.IPAddress}} {{.Gateway}} \
                 {{.DNSNames}} {{json .Links}} {{json .DriverOpts}}{{end}}",
                "10.1.0.9 10.1.0.1 [web www abababababab] null null",
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
                // These are the default network's alone.
                "{{.NetworkSettings.IPAddress}}|{{.NetworkSettings.MacAddress}}|",
                "||",
            ),
            (
                "{{json .HostConfig.Links}} {{json .NetworkSettings.SecondaryIPAddresses}}",
                "null null",
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
