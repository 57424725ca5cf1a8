//! The `[storage]` section of the daemon's configuration.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct StorageConfig {
    /// The layer driver; overlay2 when absent.
    pub driver: Option<Driver>,
    /// Its options, as `KEY=VALUE`.
    pub opts: Vec<String>,
    pub limits: Limits,
    pub device_nodes: DeviceNodes,
    /// For how many hours a pruned volume can come back; none: it is deleted at once.
    pub prune_undo_hours: u32,
    /// Copy a file up without its data when only its owner, mode or times change.
    pub metacopy: bool,
    /// Whose subordinate ids containers have by default: `default`, or `USER[:GROUP]`.
    #[serde(skip)]
    pub userns_remap: Option<String>,
    /// Where subuid(5), subgid(5), passwd(5) and group(5) are.
    #[serde(skip)]
    pub id_files: PathBuf,
}

impl Default for StorageConfig {
    fn default() -> Self {
        Self {
            driver: None,
            opts: Vec::new(),
            limits: Limits::default(),
            device_nodes: DeviceNodes::default(),
            prune_undo_hours: 24,
            metacopy: false,
            userns_remap: None,
            id_files: PathBuf::from("/etc"),
        }
    }
}

/// Layer drivers of this version.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    #[default]
    Overlay2,
    /// Whole copies: works on every filesystem, shares space only where files can be cloned.
    Vfs,
    /// A filesystem a layer, each a thin device of one pool.
    Devicemapper,
}

impl Driver {
    pub const ALL: [Self; 3] = [Self::Overlay2, Self::Vfs, Self::Devicemapper];

    /// Its name, which is that of its directory.
    pub fn name(self) -> &'static str {
        match self {
            Self::Overlay2 => "overlay2",
            Self::Vfs => "vfs",
            Self::Devicemapper => "devicemapper",
        }
    }
}

/// What one layer may cost. An import beyond a limit fails and leaves nothing.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Limits {
    /// Members of the archive.
    pub max_entries: u64,
    /// Bytes of the uncompressed stream, and bytes of the files it unpacks to.
    pub max_bytes: u64,
    /// Uncompressed bytes for one compressed byte, looked at beyond the first 256 MiB.
    pub max_ratio: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_entries: 4_000_000,
            max_bytes: 256 << 30,
            // Deflate reaches 1030:1 on zeros alone; real layers stay below 30:1.
            max_ratio: 500,
        }
    }
}

/// What an import does with character and block devices of an archive.
///
/// Containers get their devices from the runtime, on a fresh `/dev`; a node in a layer is at best
/// hidden by it, at worst a way to a disk of the host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceNodes {
    /// Leave them out; the log says how many.
    #[default]
    Skip,
    Create,
    Refuse,
}
