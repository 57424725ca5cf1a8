//! What a container is on disk: the contract between the command line and the shim.
//!
//! ```text
//! STATE/containers/names/NAME        file holding the id; made with O_EXCL: the name's reservation
//! STATE/containers/ID/container.json Record: what was asked for. Written once by `create`
//!                    /state.json     State: written by the shim only, by rename
//!                    /networks.json  Attachments: one entry a joined network, by rename, under the lock
//!                    /health.json   Health: written by the shim only, by rename
//!                    /linked-by/ID   a container with a link to this one, whose /etc/hosts follows
//!                    /lock           flock(2) for changes of networks.json, removal and start
//!                    /ID-json.log    output, Docker's json-file format
//!                    /ID-local.log   output, in the format of `log::local`
//!                    /log-lost.json  how many entries the log has lost
//!                    /hostname /hosts /resolv.conf   bind-mounted into the container
//!                    /bundle/config.json             the OCI runtime specification of this start
//! RUN/containers/ID12/shim.sock      the shim's socket (`stream`), while it lives
//! RUN/libcontainer/ID/               libcontainer's state
//! ```
//!
//! A `running` state is believed only while the shim lives: `State::shim` is checked against
//! `/proc`, so that a power cut or a killed shim never leaves a container that runs for ever.

mod health;
mod resources;

use std::collections::BTreeMap;

use api::id::{ContainerName, Digest, Id};
use api::net::Attachment;
use api::owner::IdMaps;
use api::service::ServiceJoin;
use serde::{Deserialize, Serialize};

pub use health::{Health, HealthCheckResult, HealthStatus, Healthcheck, Schedule};
pub use resources::{
    DeviceMapping, DeviceRule, Resources, ThrottleDevice, WeightDevice, are_device_permissions,
};

/// What was asked for. Members of `config` and `host_config` are the Docker Engine API's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub schema: u32,
    pub id: Id,
    pub name: ContainerName,
    /// RFC 3339 with nanoseconds.
    pub created: String,
    /// Image reference as typed.
    pub image: String,
    pub image_id: Digest,
    pub config: Config,
    pub host_config: HostConfig,
    /// Storage driver that its root file system was made with; empty in records of old.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub driver: String,
    pub mounts: Vec<Mount>,
    /// Networks to join at every start, first one is `eth0`.
    pub networks: Vec<NetworkRequest>,
    /// Links of the default network.
    #[serde(default)]
    pub links: Vec<Link>,
    /// Who its users are on the host, if they are others: it has a user namespace then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id_maps: Option<IdMaps>,
    /// The program of its runtime, where the daemon's configuration has given that its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime_program: Option<std::path::PathBuf>,
}

impl Record {
    /// Whether a storage driver other than `driver` has its root file system.
    pub fn is_of_other_driver(&self, driver: &str) -> bool {
        !self.driver.is_empty() && self.driver != driver
    }
}

/// Another container of the default network, which has no names, under a name for this one only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Its id: a link outlives a rename.
    pub container: Id,
    pub alias: String,
}

/// The container's own settings: image configuration overridden by flags.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Config {
    pub hostname: String,
    pub domainname: String,
    pub user: String,
    pub attach_stdin: bool,
    pub attach_stdout: bool,
    pub attach_stderr: bool,
    /// Keyed `80/tcp`.
    pub exposed_ports: BTreeMap<String, Empty>,
    pub tty: bool,
    pub open_stdin: bool,
    pub stdin_once: bool,
    /// `KEY=VALUE`.
    pub env: Vec<String>,
    pub cmd: Option<Vec<String>>,
    pub image: String,
    pub volumes: Option<BTreeMap<String, Empty>>,
    pub working_dir: String,
    pub entrypoint: Option<Vec<String>>,
    pub labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_timeout: Option<u32>,
}

/// `{}`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Empty {}

/// What the host does for the container.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct HostConfig {
    /// `-v` texts as typed.
    pub binds: Option<Vec<String>>,
    pub network_mode: String,
    /// Keyed `80/tcp`.
    pub port_bindings: BTreeMap<String, Vec<HostPort>>,
    pub publish_all_ports: bool,
    pub auto_remove: bool,
    pub cap_add: Option<Vec<String>>,
    pub cap_drop: Option<Vec<String>>,
    pub dns: Vec<String>,
    pub dns_options: Vec<String>,
    pub dns_search: Vec<String>,
    pub extra_hosts: Option<Vec<String>>,
    pub privileged: bool,
    pub readonly_rootfs: bool,
    pub security_opt: Option<Vec<String>>,
    pub storage_opt: Option<BTreeMap<String, String>>,
    pub tmpfs: Option<BTreeMap<String, String>>,
    /// Bytes.
    pub shm_size: u64,
    pub init: Option<bool>,
    pub log_config: LogConfig,
    pub restart_policy: RestartPolicy,
    pub group_add: Option<Vec<String>>,
    pub oom_score_adj: i32,
    pub sysctls: Option<BTreeMap<String, String>>,
    pub ulimits: Option<Vec<Ulimit>>,
    #[serde(flatten)]
    pub resources: Resources,
    /// `private`, `host` or `container:ID`.
    pub ipc_mode: String,
    /// `host`, `container:ID`, or empty for one of its own.
    pub pid_mode: String,
    /// `host`, or empty for one of its own.
    #[serde(rename = "UTSMode")]
    pub uts_mode: String,
    /// `host`, `private`, `auto`, `USER[:GROUP]`, `container:ID`, or empty for what the daemon is
    /// configured to.
    pub userns_mode: String,
    /// `private`, `host`, or empty for what the host's control groups make usual.
    pub cgroupns_mode: String,
    /// An OCI runtime by name or path; empty is the shim's own.
    pub runtime: String,
}

/// A resource limit, by its `setrlimit` name in lower case without `RLIMIT_`; -1 is "unlimited".
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Ulimit {
    pub name: String,
    pub soft: i64,
    pub hard: i64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct HostPort {
    pub host_ip: String,
    pub host_port: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct LogConfig {
    #[serde(rename = "Type")]
    pub driver: String,
    pub config: BTreeMap<String, String>,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            driver: "json-file".to_owned(),
            config: BTreeMap::new(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RestartPolicy {
    pub name: String,
    pub maximum_retry_count: u32,
}

impl Default for RestartPolicy {
    fn default() -> Self {
        Self {
            name: "no".to_owned(),
            maximum_retry_count: 0,
        }
    }
}

/// One resolved mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Mount {
    #[serde(rename = "Type")]
    pub kind: MountKind,
    /// Volume name; empty for other kinds.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Host path: the bind source, or the volume's mountpoint. Empty for tmpfs.
    pub source: String,
    /// Absolute path in the container.
    pub destination: String,
    /// Volume driver; empty for other kinds.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub driver: String,
    pub mode: String,
    #[serde(rename = "RW")]
    pub rw: bool,
    pub propagation: String,
    /// The volume was made for this container without a name: `--rm` and `rm -v` remove it.
    #[serde(default)]
    pub anonymous: bool,
    /// What of the volume is shown, from its top on; empty for all of it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub subpath: String,
    #[serde(default, skip_serializing_if = "Recursion::is_usual")]
    pub recursion: Recursion,
}

/// What becomes of the mounts below a source: the words of `bind-recursive=`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Recursion {
    /// They are shown, and read-only with the source where the kernel can do that.
    #[default]
    Enabled,
    /// They are not shown.
    Disabled,
    /// They are as they are on the host, even if the source is read-only.
    Writable,
    /// They are read-only with the source, or the container does not start.
    ReadOnly,
}

impl Recursion {
    pub const WORDS: [(&'static str, Self); 4] = [
        ("enabled", Self::Enabled),
        ("disabled", Self::Disabled),
        ("writable", Self::Writable),
        ("readonly", Self::ReadOnly),
    ];

    fn is_usual(&self) -> bool {
        *self == Self::Enabled
    }
}

/// The mode word of a mount whose files belong to the ids that they have in the container: podman's.
pub const IDMAP: &str = "idmap";

impl Mount {
    /// Whether it was asked to be shown with mapped owners.
    pub fn is_mapped(&self) -> bool {
        self.kind != MountKind::Tmpfs && self.mode.split(',').any(|word| word == IDMAP)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MountKind {
    Bind,
    Volume,
    Tmpfs,
}

/// A network to join.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkRequest {
    /// Name or id as typed; `host`, `none` and `container:…` never appear here.
    pub network: String,
    pub aliases: Vec<String>,
    pub ipv4: Option<std::net::Ipv4Addr>,
    pub ipv6: Option<std::net::Ipv6Addr>,
    pub mac: Option<api::id::MacAddr>,
    /// `CONTAINER:ALIAS`: names that only this container resolves.
    pub links: Vec<String>,
    /// Options of the endpoint, such as [`IFNAME_OPTION`].
    pub driver_opts: BTreeMap<String, String>,
    /// The network with the highest carries the default route; of several the first by name.
    pub gw_priority: i64,
    /// Services of the network to be a member of.
    pub services: Vec<ServiceJoin>,
}

/// Names the interface inside the container; Docker's name of the option.
pub const IFNAME_OPTION: &str = "com.docker.network.endpoint.ifname";

impl NetworkRequest {
    /// The interface's name, if it was asked for.
    pub fn ifname(&self) -> Option<&str> {
        self.driver_opts.get(IFNAME_OPTION).map(String::as_str)
    }
}

/// Where a container is in its life.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    #[default]
    Created,
    Running,
    Exited,
    /// Being removed; the removal was cut short if this is still seen.
    Removing,
}

/// A process that a recycled pid cannot impersonate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    pub pid: u32,
    /// Field 22 of `/proc/PID/stat`, clock ticks since boot (proc(5)).
    pub start_time: u64,
}

/// What became of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    pub status: Status,
    pub shim: Option<ProcessId>,
    /// The container's first process.
    pub init: Option<ProcessId>,
    pub exit_code: i32,
    pub oom_killed: bool,
    /// With `running`: the container has ended and its shim waits before it starts it again; there
    /// is no `init` then.
    pub restarting: bool,
    /// With `running`: its processes are stopped where they are.
    pub paused: bool,
    /// It has ended because somebody asked for it.
    pub stopped: bool,
    /// Why a start failed; empty otherwise.
    pub error: String,
    /// RFC 3339 with nanoseconds; empty before the first start.
    pub started_at: String,
    pub finished_at: String,
    pub restart_count: u32,
}

/// Content of `networks.json`: the joined networks, by interface name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachments {
    /// What the daemon says of the endpoint. Keyed `eth0`.
    pub interfaces: BTreeMap<String, Attachment>,
    /// The list and the result of CNI ADD, which DEL must be given again (CNI specification,
    /// "DEL"). Keyed as `interfaces`.
    #[serde(default)]
    pub joined: BTreeMap<String, Joined>,
}

/// One successful CNI ADD.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joined {
    pub list: crate::cni::ConfList,
    pub runtime: crate::cni::RuntimeConfig,
    pub result: serde_json::Value,
}
