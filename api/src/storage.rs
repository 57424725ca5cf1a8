//! Volumes (Docker Engine API objects); layers, images and root filesystems (our own).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::doctor::{Difference, Treatment};
use crate::id::{Digest, SnapshotName, VolumeName};
use crate::owner::IdMaps;

/// A volume as `hawser volume inspect` prints it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Volume {
    /// RFC 3339, seconds.
    pub created_at: String,
    pub driver: String,
    pub labels: BTreeMap<String, String>,
    pub mountpoint: String,
    pub name: VolumeName,
    pub options: BTreeMap<String, String>,
    pub scope: String,
    /// Who refers to the volume: container ids, and mount ids of plugin clients.
    #[serde(default)]
    pub holders: Vec<String>,
    /// Made by `-v /path` without a name.
    #[serde(default)]
    pub anonymous: bool,
    /// It is encrypted, and its key has to come before it can be used.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub locked: bool,
    /// Names of its snapshots, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub snapshots: Vec<String>,
    /// What its plugin says of it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub status: BTreeMap<String, serde_json::Value>,
    /// Once a volume with a device of its own was mounted, or a container of a known control group
    /// had another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub io: Option<VolumeIo>,
}

/// Body of `POST /volumes/create`. An existing volume with the same driver is returned as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct VolumeCreate {
    /// Checked by the daemon; empty lets it choose 64 hexadecimal digits (an anonymous volume).
    pub name: String,
    /// `local` when empty.
    pub driver: String,
    pub driver_opts: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
    /// In hexadecimal, for a volume that is encrypted.
    #[serde(skip_serializing_if = "Secret::is_empty")]
    pub key: Secret,
}

/// A text that is not for logs.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub fn expose(&self) -> &str {
        &self.0
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("****")
    }
}

/// Body of `POST /volumes/{name}/unlock`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct VolumeUnlock {
    /// In hexadecimal; when empty, that of the file which the volume's option `encrypt` names.
    pub key: Secret,
}

/// Body of `POST /volumes/{name}/populate`: copy what the root filesystem holds at `path` into
/// the volume, once, if the volume is still as created.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumePopulate {
    /// Container whose root filesystem is the source.
    pub container: String,
    /// Absolute path inside that root filesystem; symbolic links are resolved inside it.
    pub path: String,
}

/// Body of `POST /volumes/prune`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VolumePrune {
    /// Anonymous volumes only.
    pub anonymous: bool,
    /// `KEY` or `KEY=VALUE`; a volume must have each.
    pub labels: Vec<String>,
    /// These at most: those of a plan that somebody has agreed to.
    pub names: Option<Vec<VolumeName>>,
    /// Delete at once; it cannot be undone.
    pub permanent: bool,
}

/// One volume that a prune would remove.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct PruneCandidate {
    pub name: VolumeName,
    /// Bytes on the disk.
    pub size: u64,
    /// RFC 3339, seconds.
    pub created_at: String,
    pub anonymous: bool,
}

/// A pruned volume that can come back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct TrashedVolume {
    pub name: VolumeName,
    /// Bytes on the disk.
    pub size: u64,
    /// RFC 3339, seconds.
    pub pruned_at: String,
    /// RFC 3339, seconds: when it is deleted.
    pub kept_until: String,
}

/// What a volume held at one time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Snapshot {
    pub volume: VolumeName,
    pub name: SnapshotName,
    /// RFC 3339, seconds.
    pub created_at: String,
    /// Bytes on the disk, those shared with the volume included.
    pub size: u64,
}

/// Body of `POST /volumes/{name}/snapshots`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct SnapshotCreate {
    /// The time of day when empty.
    pub name: String,
    /// Also while somebody has the volume mounted: files may then be of different moments.
    pub live: bool,
}

/// Body of `POST /volumes/{name}/clone`: a new volume that begins with what another one holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct VolumeClone {
    /// Name of the new volume.
    pub name: String,
    /// The snapshot to start from; what the volume holds now when absent.
    pub snapshot: Option<String>,
    /// As [`SnapshotCreate::live`].
    pub live: bool,
    pub labels: BTreeMap<String, String>,
}

/// Query of `POST /volumes/{name}/archive`, as JSON in one parameter.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct VolumeImport {
    /// Instead of those the volume had.
    pub options: BTreeMap<String, String>,
    /// Beside those the volume had.
    pub labels: BTreeMap<String, String>,
}

/// Body of `POST /volumes/{name}/resize`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct VolumeResize {
    /// What the option `size` is from now on, such as `20g`.
    pub size: String,
}

/// A committed read-only layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// SHA-256 of the parent's chain id, a space, and the diff id (OCI image spec, "Layer ChainID").
    pub chain_id: Digest,
    /// SHA-256 of the uncompressed tar stream.
    pub diff_id: Digest,
    pub parent: Option<Digest>,
    /// Bytes of file content.
    pub size: u64,
    /// Bytes of the uncompressed tar stream.
    #[serde(default)]
    pub archive_size: u64,
    /// Members of the tar stream.
    #[serde(default)]
    pub entries: u64,
}

/// An image: a configuration and the chain of layers it names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// SHA-256 of `config`.
    pub id: Digest,
    /// `repository:tag` references.
    pub tags: Vec<String>,
    /// `repository@digest` references: manifests that registries have it by.
    #[serde(default)]
    pub digests: Vec<String>,
    /// The OCI or Docker image configuration, byte for byte.
    pub config: String,
    /// Top of the layer chain; absent for an image without layers.
    pub chain_id: Option<Digest>,
    /// Bytes of all layers.
    pub size: u64,
    /// RFC 3339: when it came here.
    pub added: String,
}

/// Body of `POST /images`: register an image whose layers are all committed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageCreate {
    /// The image configuration, byte for byte; `rootfs.diff_ids` names the layers.
    pub config: String,
    /// References to move to this image: `repository:tag`, or `repository@digest`.
    #[serde(default)]
    pub tags: Vec<String>,
}

/// Body of `POST /images/prune`: which of the images that no container uses go.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImagePrune {
    /// Those with tags, too.
    pub all: bool,
    /// `KEY` or `KEY=VALUE`; an image must have each.
    pub labels: Vec<String>,
    /// `KEY` or `KEY=VALUE`; an image may have none.
    pub without_labels: Vec<String>,
    /// RFC 3339; only images made before.
    pub until: Option<String>,
}

/// Body of `POST /rootfs`: a writable layer over an image's chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootfsCreate {
    pub container: String,
    /// Image id.
    pub image: Digest,
    /// Throw-away: the overlay is mounted `volatile` and is not synced.
    #[serde(default)]
    pub ephemeral: bool,
    /// `size`: what the container may write.
    #[serde(default)]
    pub storage_opt: BTreeMap<String, String>,
    /// Who its users are on the host: `host`, `private`, `auto`, `USER[:GROUP]` with subordinate ids,
    /// `container:ID`, or empty for what the daemon is configured to.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub user_namespace: String,
}

/// Body of `POST /rootfs/{container}/resize`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootfsResize {
    /// `size`: what the container may write from now on.
    pub storage_opt: BTreeMap<String, String>,
}

/// A container's writable layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rootfs {
    pub container: String,
    pub image: Digest,
    pub chain_id: Option<Digest>,
    pub driver: String,
    /// Rows of `inspect`'s `GraphDriver.Data`, such as `UpperDir`.
    pub data: BTreeMap<String, String>,
    /// Who the container's users are on the host, if they are others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id_maps: Option<IdMaps>,
}

/// What a container did to one path of its image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct RootfsChange {
    /// Absolute, in the container.
    pub path: String,
    /// As in the Docker Engine API: 0 modified, 1 added, 2 deleted.
    pub kind: u8,
}

/// Reply of `POST /rootfs/{container}/mount`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootfsMount {
    pub path: String,
    /// Files there belong to whom they belong to on the host. If not, they have the ids of the
    /// container, whatever its maps.
    #[serde(default)]
    pub mapped: bool,
    /// It was sent to the socket that was named, as a mount that is attached nowhere: there is no path.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub handed: bool,
}

/// Body of `POST /storage/check`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StorageCheck {
    /// Read every byte of every layer.
    pub deep: bool,
    /// Repair what can be repaired.
    pub repair: bool,
}

/// Reply of `POST /storage/check`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StorageReport {
    pub differences: Vec<Difference>,
    pub deep: bool,
    /// What was looked at.
    pub layers: u64,
    pub images: u64,
    pub rootfs: u64,
    pub volumes: u64,
}

impl StorageReport {
    /// Whether nothing differs, or nothing any more.
    pub fn is_well(&self) -> bool {
        let mut differences = self.differences.iter();
        differences.all(|difference| difference.state == Treatment::Repaired)
    }
}

/// Reply of `GET /storage/usage`: sizes as they are on record. Those of root filesystems and volumes
/// are measured in the background, and absent until they first were.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StorageUsage {
    /// Bytes of all layers, each once.
    pub layers_size: u64,
    /// Bytes of those that containers stand on.
    #[serde(default)]
    pub layers_used: u64,
    pub images: Vec<ImageUsage>,
    pub rootfs: Vec<RootfsUsage>,
    pub volumes: Vec<VolumeUsage>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageUsage {
    pub id: Digest,
    /// References; empty for a dangling image.
    pub tags: Vec<String>,
    /// RFC 3339: when it was made.
    pub created: String,
    /// Bytes of its layers.
    pub size: u64,
    /// Bytes of those that another image has too.
    pub shared: u64,
    /// Containers made from it.
    pub containers: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootfsUsage {
    pub container: String,
    /// Bytes of the writable layer.
    pub size: Option<u64>,
    pub inodes: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeUsage {
    pub name: VolumeName,
    pub size: Option<u64>,
    pub inodes: Option<u64>,
    /// Who refers to it.
    pub holders: u64,
}

/// One volume in the reply of `GET /stats/volumes`: what it takes and may take, as far as that is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct VolumeStats {
    pub name: VolumeName,
    #[serde(default)]
    pub anonymous: bool,
    /// `dir`, `loop`, or the type of what is mounted.
    pub backend: String,
    pub bytes: Option<u64>,
    pub inodes: Option<u64>,
    pub max_bytes: Option<u64>,
    pub max_inodes: Option<u64>,
    /// As in [`Volume::io`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub io: Option<VolumeIo>,
}

/// What passed between a volume's filesystem and its device since the daemon started.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct VolumeIo {
    #[serde(default)]
    pub scope: IoScope,
    pub read: IoCounts,
    pub write: IoCounts,
    pub discard: IoCounts,
    /// The device was told to make durable what it was given.
    pub flush: IoCounts,
}

/// Whose operations are counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IoScope {
    /// The volume's, which has a device of its own.
    #[default]
    Device,
    /// Of the containers that hold the volume, on the filesystem that it shares with others: what they
    /// submit themselves.
    Cgroup,
}

impl IoScope {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::Cgroup => "cgroup",
        }
    }
}

/// Operations of one kind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct IoCounts {
    pub operations: u64,
    pub bytes: u64,
    /// Those that failed, which no other figure has.
    pub errors: u64,
    /// What all operations took together.
    pub nanoseconds: u64,
    /// How many took less than 2 µs, less than 4 µs and so on, each no less than the one before; up
    /// to the last that any fell into.
    pub latency: Vec<u64>,
}
