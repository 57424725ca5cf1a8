//! What the daemon says of itself.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::owner::IdMaps;
use crate::swarm::Membership;

/// `hawser version`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Version {
    pub version: String,
    pub api_version: String,
    pub os: String,
    pub arch: String,
    pub kernel_version: String,
}

/// The architecture of this host in the words of image configurations (Go's `GOARCH`).
pub fn host_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

/// `hawser info`, and how clients find the directories of a relocated daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Info {
    pub name: String,
    pub server_version: String,
    pub kernel_version: String,
    pub operating_system: String,
    /// `--state-dir`.
    pub state_dir: String,
    /// `--run-dir`.
    pub run_dir: String,
    /// `--plugin-dir`: directory of the volume-plugin sockets.
    pub plugin_dir: String,
    /// Where the launcher finds CNI plugins.
    pub cni_bin_dir: String,
    /// Storage driver in use, such as `overlay2`.
    pub driver: String,
    /// Rows of `info` about the storage driver, in order.
    pub driver_status: Vec<(String, String)>,
    pub networks: u64,
    pub endpoints: u64,
    pub volumes: u64,
    pub images: u64,
    /// Which data path was chosen and why, one line each.
    pub data_path: Vec<String>,
    pub cgroup_version: String,
    pub warnings: Vec<String>,
    #[serde(default)]
    pub registries: Registries,
    #[serde(default)]
    pub logging: Logging,
    /// OCI runtimes by the names that `--runtime` takes, besides programs in `PATH`.
    #[serde(default)]
    pub runtimes: BTreeMap<String, Runtime>,
    /// Which cluster the host is in, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub swarm: Option<Membership>,
    /// Who the users of containers are on the host that say nothing else, if they are others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub userns_remap: Option<Remap>,
}

/// An OCI runtime.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Runtime {
    /// The absolute path of its program.
    pub path: PathBuf,
}

/// The user whose subordinate ids containers have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Remap {
    pub user: String,
    pub maps: IdMaps,
}

/// How this host reaches registries.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Registries {
    /// Registries without a certificate that can be checked: `HOST[:PORT]`, or a subnet.
    pub insecure: Vec<String>,
    /// URLs that are asked before Docker Hub.
    pub mirrors: Vec<String>,
}

/// Where the output of containers goes that say nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Logging {
    pub driver: String,
    pub options: BTreeMap<String, String>,
}

impl Default for Logging {
    fn default() -> Self {
        Self {
            driver: "json-file".to_owned(),
            options: BTreeMap::new(),
        }
    }
}

/// What a prune removed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Pruned {
    pub deleted: Vec<String>,
    /// Bytes.
    pub space_reclaimed: u64,
    /// For how many hours it can be undone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restorable_hours: Option<u32>,
}
