//! One container as it is now.

use api::net::Attachment;

use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::container::{Health, Healthcheck, Record, State, Status};
use crate::store::{ContainerDir, StoreError};

#[derive(Debug, Clone)]
pub struct View {
    pub record: Record,
    pub state: State,
    /// By interface name; empty unless it runs.
    pub attachments: Vec<Attachment>,
    /// None without a health check.
    pub health: Option<Health>,
}

impl View {
    /// # Errors
    /// The container is gone or its files cannot be read.
    pub fn of(container: &ContainerDir) -> Result<Self, StoreError> {
        let state = container.state()?;
        let attachments = if state.status == Status::Running {
            container.attachments()?.interfaces.into_values().collect()
        } else {
            Vec::new()
        };
        let record = container.record()?;
        let check = record.config.healthcheck.as_ref();
        let is_checked = check.and_then(Healthcheck::schedule).is_some();
        // A result that a power cut has torn says nothing.
        let read = || container.health().ok().flatten().unwrap_or_default();
        let health = is_checked.then(read);
        Ok(Self {
            record,
            state,
            attachments,
            health,
        })
    }

    pub fn is_running(&self) -> bool {
        self.state.status == Status::Running
    }

    /// The command with its arguments: entrypoint, then command.
    pub fn command(&self) -> Vec<String> {
        let config = &self.record.config;
        let words = config.entrypoint.iter().chain(&config.cmd);
        words.flatten().cloned().collect()
    }

    /// Names of the networks: those joined, or when it does not run, those it will join.
    pub fn networks(&self) -> Vec<String> {
        if !self.attachments.is_empty() {
            return self
                .attachments
                .iter()
                .map(|attachment| attachment.network.to_string())
                .collect();
        }
        let record = &self.record;
        let mode = &record.host_config.network_mode;
        if matches!(mode.as_str(), "host" | "none") || mode.starts_with("container:") {
            return vec![mode.clone()];
        }
        record
            .networks
            .iter()
            .map(|request| request.network.clone())
            .collect()
    }
}

/// All containers, newest first, but those that another storage driver keeps: like its images they
/// are back when the daemon uses that driver again. One that runs is shown all the same.
///
/// # Errors
/// A container's files cannot be read.
pub fn all(context: &Context) -> Result<Vec<View>, CliError> {
    let store = context.store()?;
    let driver = &context.info()?.driver;
    let mut views = Vec::new();
    for id in store.list()? {
        match View::of(&store.container(&id)) {
            Ok(view) if !view.is_running() && view.record.is_of_other_driver(driver) => {}
            Ok(view) => views.push(view),
            // Removed since the directory was read.
            Err(StoreError::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    // RFC 3339 in UTC with a fixed number of digits sorts as text.
    views.sort_by(|a, b| b.record.created.cmp(&a.record.created));
    Ok(views)
}

#[cfg(test)]
pub(super) mod samples {
    use serde_json::json;

    use super::View;

    /// A running container with one endpoint, one published port and one exposed port.
    pub(in crate::cli::container) fn running() -> View {
        let record = json!({
            "schema": 1, "id": "ab".repeat(32), "name": "web",
            "created": "2026-11-21T09:59:00.000000000Z", "image": "site:1",
            "image_id": format!("sha256:{}", "cd".repeat(32)),
            "config": {
                "Cmd": ["-g", "daemon off;"], "Entrypoint": ["nginx"], "Hostname": "abababababab",
                "ExposedPorts": {"80/tcp": {}, "443/tcp": {}}, "Labels": {"tier": "front"},
            },
            "host_config": {"NetworkMode": "shop"},
            "mounts": [],
            "networks": [{"network": "shop", "aliases": ["www"], "ipv4": "10.1.0.9"}],
        });
        let attachment = json!({
            "network": "shop", "network_id": "12".repeat(32), "endpoint_id": "34".repeat(32),
            "container_id": "ab".repeat(32), "ifname": "eth0", "netns": "/proc/7/ns/net",
            "host_ifname": "veth1", "mac": "02:42:0a:01:00:09", "mtu": 1500,
            "addresses": [
                {"address": "10.1.0.9/24", "gateway": "10.1.0.1"},
                {"address": "fd00:1::9/64", "gateway": "fd00:1::1"},
            ],
            "routes": [], "name": "web", "aliases": ["www", "abababababab"],
            "ports": [
                {"protocol": "tcp", "container_port": 80, "host_port": 18080},
                {"protocol": "udp", "container_port": 53, "host_port": 5353, "count": 2,
                 "host_ip": "127.0.0.1"},
            ],
            "dns": {},
        });
        let state = json!({
            "status": "running", "shim": null, "init": {"pid": 7, "start_time": 1},
            "started_at": "2026-11-21T09:59:57.000000000Z",
        });
        View {
            record: serde_json::from_value(record).unwrap(),
            state: serde_json::from_value(state).unwrap(),
            attachments: vec![serde_json::from_value(attachment).unwrap()],
            health: None,
        }
    }
}
