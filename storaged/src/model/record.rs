//! The rows of the database, the changes to them, and their image in memory.

use std::collections::{BTreeMap, BTreeSet};

use api::id::{Digest, SnapshotName, VolumeName};
use api::owner::IdMaps;
use serde::{Deserialize, Serialize};

use super::layout::Key;
use super::thin::{DeviceRow, PoolRow};
use super::volume_option::InvalidOption;
use super::volume_spec::{self, Spec};

/// Version of the rows below; [`crate::store`] writes it into each.
pub(crate) const SCHEMA: u32 = 1;

/// A committed layer. The row exists only when the directory `key` is complete and durable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LayerRow {
    pub(crate) chain_id: Digest,
    pub(crate) diff_id: Digest,
    pub(crate) parent: Option<Digest>,
    pub(crate) key: Key,
    /// Bytes of file content.
    pub(crate) size: u64,
    /// Bytes of the uncompressed archive; 0 in rows from before it was kept.
    #[serde(default)]
    pub(crate) archive_size: u64,
    /// Members of the archive.
    pub(crate) entries: u64,
    /// [`crate::tree_digest`] of the content directory; absent in rows from before it was taken.
    #[serde(default)]
    pub(crate) tree: Option<Digest>,
    /// A check found it so: the next import of the same content replaces it.
    #[serde(default)]
    pub(crate) damaged: bool,
    /// Layers in the chain, this one included.
    pub(crate) depth: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ImageRow {
    pub(crate) id: Digest,
    /// Normalized `repository:tag` references; each belongs to at most one image.
    pub(crate) tags: BTreeSet<String>,
    /// Normalized `repository@digest` references.
    #[serde(default)]
    pub(crate) digests: BTreeSet<String>,
    pub(crate) config: String,
    pub(crate) chain_id: Option<Digest>,
    /// RFC 3339.
    pub(crate) added: String,
}

impl ImageRow {
    pub(crate) fn is_named(&self, name: &str) -> bool {
        self.tags.contains(name) || self.digests.contains(name)
    }
}

/// A container's writable layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RootfsRow {
    pub(crate) container: String,
    pub(crate) key: Key,
    pub(crate) image: Digest,
    pub(crate) chain_id: Option<Digest>,
    pub(crate) ephemeral: bool,
    /// The boot in which it was mounted and not unmounted since.
    pub(crate) mounted_in: Option<String>,
    /// Who was given it last without a place in the host's mount table. What became of that mount
    /// is for the kernel to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) taker: Option<Taker>,
    /// Bytes that it may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) size: Option<u64>,
    /// The project whose quota limits it to that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) project: Option<u32>,
    /// Who the container's users are on the host, if they are others. On disk they are themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) id_maps: Option<IdMaps>,
    /// There may be files in it without their data, which are those of the image.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) metacopy: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VolumeRow {
    pub(crate) name: VolumeName,
    pub(crate) options: BTreeMap<String, String>,
    pub(crate) labels: BTreeMap<String, String>,
    /// RFC 3339.
    pub(crate) created_at: String,
    pub(crate) anonymous: bool,
    /// Image data was copied in once; it never is again.
    pub(crate) populated: bool,
    /// The project whose quota limits its directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) project: Option<u32>,
    /// The identifier of the key that its directory is encrypted with, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) key_id: Option<String>,
    /// The thin device that its content is on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) device: Option<Key>,
}

/// What a volume held at one time, for good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SnapshotRow {
    pub(crate) volume: VolumeName,
    pub(crate) name: SnapshotName,
    pub(crate) key: Key,
    /// RFC 3339.
    pub(crate) created_at: String,
    /// Bytes on the disk, those shared with the volume included.
    pub(crate) size: u64,
}

/// A volume that was pruned and can come back: its directory lies in the trash as `key`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TrashRow {
    pub(crate) key: Key,
    pub(crate) volume: VolumeRow,
    /// RFC 3339.
    pub(crate) trashed_at: String,
    /// Bytes on the disk.
    pub(crate) size: u64,
    /// When it was pruned, for as long as the host stays up.
    #[serde(default)]
    pub(crate) uptime: Option<Uptime>,
    /// Higher than that of all that were pruned before and are still there.
    #[serde(default)]
    pub(crate) serial: u64,
}

/// A moment of one boot, which nobody can set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Uptime {
    pub(crate) boot: String,
    pub(crate) seconds: u64,
}

/// A process of one boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Taker {
    pub(crate) boot: String,
    pub(crate) pid: u32,
    /// By which it is told from a later process with its pid.
    pub(crate) start_time: u64,
}

impl RootfsRow {
    /// As its sidecar has it: whether it is mounted is for the mount table to say.
    pub(crate) fn at_rest(&self) -> Self {
        Self {
            mounted_in: None,
            taker: None,
            ..self.clone()
        }
    }
}

impl VolumeRow {
    /// What the options say, which were checked when the volume was made.
    pub(crate) fn spec(&self) -> Result<Spec, InvalidOption> {
        volume_spec::parse(&self.options)
    }

    /// As its sidecar has it, which is written when the volume is made. Which device it is on changes
    /// with a rollback, and without the database nobody knows devices at all.
    pub(crate) fn as_made(&self) -> Self {
        Self {
            populated: false,
            device: None,
            ..self.clone()
        }
    }
}

/// One reference to a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HolderRow {
    pub(crate) volume: VolumeName,
    pub(crate) holder: Holder,
    /// The boot a mount belongs to: it ends with it. A container's reference does not.
    pub(crate) boot: Option<String>,
    /// The control group that a mount's holder runs in, if that is known. Such numbers are of a boot
    /// and never given twice in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) group: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Holder {
    /// A container that refers to the volume, running or not.
    Container(String),
    /// A mount id of the volume-plugin protocol.
    Mount(String),
}

impl Holder {
    pub(crate) fn id(&self) -> &str {
        match self {
            Self::Container(id) | Self::Mount(id) => id,
        }
    }
}

/// Work that was begun. Whoever finds one, after a failure or after a crash, settles it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Intent {
    /// A layer or writable layer is being made in `key`; without its row it is thrown away.
    MakeLayer,
    /// The rows are gone; the directory `key` follows.
    RemoveLayer,
    /// A volume is being made in the staging directory `key`; once that is renamed it exists.
    MakeVolume(VolumeRow),
    /// The rows are gone; the directory follows.
    RemoveVolume(VolumeName),
    /// The volume's row is in the trash as `key`; its directory follows.
    TrashVolume(VolumeName),
    /// A volume comes back from the trash; once its directory is in place it exists.
    RestoreVolume(VolumeName),
    /// The row in the trash is gone; the directory `key` there follows.
    EmptyTrash,
    /// A snapshot is being made in the staging directory `key`; once that is renamed it exists.
    MakeSnapshot(SnapshotRow),
    /// The row of the volume's snapshot `key` is gone; its directory follows.
    RemoveSnapshot(VolumeName),
    /// The copy of a snapshot in `key` is complete and durable: it takes the place of the volume's
    /// content.
    RollBack(VolumeName),
    /// The volume's filesystem has its new size: so the row says, and the sidecar.
    ResizeVolume(VolumeRow),
    /// The container may write so many bytes: so the row says, and the sidecar.
    ResizeRootfs { container: String, bytes: u64 },
    /// Data is being copied into the staging directory `key`; thrown away.
    CopyUp,
    /// The image was changed or removed; its sidecar follows.
    ImageSidecar(Digest),
    /// The copy in `key` is complete and durable: its entries move into the volume.
    MoveCopy(VolumeName),
}

impl Intent {
    /// Whether it is about the directory of one driver.
    pub(crate) fn is_about_layers(&self) -> bool {
        matches!(
            self,
            Self::MakeLayer | Self::RemoveLayer | Self::ImageSidecar(_) | Self::ResizeRootfs { .. }
        )
    }

    /// In words, for people.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::MakeLayer => "make a layer".to_owned(),
            Self::RemoveLayer => "remove a layer".to_owned(),
            Self::MakeVolume(row) => format!("make volume {}", row.name),
            Self::RemoveVolume(name) => format!("remove volume {name}"),
            Self::TrashVolume(name) => format!("move volume {name} to the trash"),
            Self::RestoreVolume(name) => format!("restore volume {name}"),
            Self::EmptyTrash => "delete a pruned volume".to_owned(),
            Self::MakeSnapshot(row) => format!("make snapshot {} of {}", row.name, row.volume),
            Self::RemoveSnapshot(name) => format!("remove a snapshot of volume {name}"),
            Self::RollBack(name) => format!("roll volume {name} back"),
            Self::ResizeVolume(row) => format!("resize volume {}", row.name),
            Self::ResizeRootfs { container, .. } => {
                format!("resize the root filesystem of container {container}")
            }
            Self::CopyUp => "copy image data into a volume".to_owned(),
            Self::ImageSidecar(id) => format!("write the sidecar of image {id}"),
            Self::MoveCopy(name) => format!("move image data into volume {name}"),
        }
    }
}

/// One change to the rows. A list of them is applied whole or not at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    PutLayer(LayerRow),
    DropLayer(Digest),
    PutImage(ImageRow),
    DropImage(Digest),
    PutRootfs(RootfsRow),
    DropRootfs(String),
    PutVolume(VolumeRow),
    DropVolume(VolumeName),
    PutHolder(HolderRow),
    DropHolder(VolumeName, Holder),
    PutSnapshot(SnapshotRow),
    DropSnapshot(VolumeName, SnapshotName),
    PutTrash(TrashRow),
    DropTrash(Key),
    PutDevice(DeviceRow),
    DropDevice(Key),
    PutPool(PoolRow),
    PutIntent(Key, Intent),
    DropIntent(Key),
}

/// All rows, as committed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Rows {
    pub(crate) layers: BTreeMap<Digest, LayerRow>,
    pub(crate) images: BTreeMap<Digest, ImageRow>,
    pub(crate) rootfs: BTreeMap<String, RootfsRow>,
    pub(crate) volumes: BTreeMap<VolumeName, VolumeRow>,
    pub(crate) holders: BTreeMap<(VolumeName, Holder), HolderRow>,
    pub(crate) snapshots: BTreeMap<(VolumeName, SnapshotName), SnapshotRow>,
    pub(crate) trash: BTreeMap<Key, TrashRow>,
    pub(crate) devices: BTreeMap<Key, DeviceRow>,
    pub(crate) pool: Option<PoolRow>,
    pub(crate) intents: BTreeMap<Key, Intent>,
}

impl Rows {
    pub(crate) fn apply(&mut self, change: Change) {
        match change {
            Change::PutLayer(row) => drop(self.layers.insert(row.chain_id.clone(), row)),
            Change::DropLayer(chain) => drop(self.layers.remove(&chain)),
            Change::PutImage(row) => drop(self.images.insert(row.id.clone(), row)),
            Change::DropImage(id) => drop(self.images.remove(&id)),
            Change::PutRootfs(row) => drop(self.rootfs.insert(row.container.clone(), row)),
            Change::DropRootfs(container) => drop(self.rootfs.remove(&container)),
            Change::PutVolume(row) => drop(self.volumes.insert(row.name.clone(), row)),
            Change::DropVolume(name) => drop(self.volumes.remove(&name)),
            Change::PutHolder(row) => {
                self.holders
                    .insert((row.volume.clone(), row.holder.clone()), row);
            }
            Change::DropHolder(volume, holder) => drop(self.holders.remove(&(volume, holder))),
            Change::PutSnapshot(row) => {
                self.snapshots
                    .insert((row.volume.clone(), row.name.clone()), row);
            }
            Change::DropSnapshot(volume, name) => drop(self.snapshots.remove(&(volume, name))),
            Change::PutTrash(row) => drop(self.trash.insert(row.key.clone(), row)),
            Change::DropTrash(key) => drop(self.trash.remove(&key)),
            Change::PutDevice(row) => drop(self.devices.insert(row.key.clone(), row)),
            Change::DropDevice(key) => drop(self.devices.remove(&key)),
            Change::PutPool(row) => self.pool = Some(row),
            Change::PutIntent(key, intent) => drop(self.intents.insert(key, intent)),
            Change::DropIntent(key) => drop(self.intents.remove(&key)),
        }
    }

    /// The layers of a chain, top first; shorter than the chain if a layer is missing.
    pub(crate) fn chain(&self, top: Option<&Digest>) -> impl Iterator<Item = &LayerRow> {
        let top = top.and_then(|id| self.layers.get(id));
        std::iter::successors(top, |layer| self.layers.get(layer.parent.as_ref()?))
    }

    /// The highest number of a project that anything has, or will have, or may have again.
    pub(crate) fn last_project(&self) -> Option<u32> {
        let begun = self.intents.values().filter_map(|intent| match intent {
            Intent::MakeVolume(row) => row.project,
            _ => None,
        });
        let volumes = self.volumes.values().filter_map(|row| row.project);
        let trash = self.trash.values().filter_map(|row| row.volume.project);
        let rootfs = self.rootfs.values().filter_map(|row| row.project);
        begun.chain(volumes).chain(trash).chain(rootfs).max()
    }

    /// Whether a change is the start of something new, or puts it on record.
    pub(crate) fn grows_by(&self, change: &Change) -> bool {
        match change {
            Change::PutLayer(row) => !self.layers.contains_key(&row.chain_id),
            Change::PutImage(row) => !self.images.contains_key(&row.id),
            Change::PutRootfs(row) => !self.rootfs.contains_key(&row.container),
            Change::PutVolume(row) => !self.volumes.contains_key(&row.name),
            Change::PutSnapshot(_) => true,
            Change::PutIntent(_, intent) => matches!(
                intent,
                Intent::MakeLayer
                    | Intent::MakeVolume(_)
                    | Intent::MakeSnapshot(_)
                    | Intent::CopyUp
            ),
            _ => false,
        }
    }

    /// Whether all layers of a chain are on record.
    pub(crate) fn is_whole(&self, top: Option<&Digest>) -> bool {
        self.chain(top)
            .last()
            .map_or(top.is_none(), |lowest| lowest.parent.is_none())
    }

    /// Who refers to a volume: each id once, in order.
    pub(crate) fn holder_ids(&self, volume: &VolumeName) -> Vec<String> {
        let ids: BTreeSet<&str> = self.holders_of(volume).map(Holder::id).collect();
        ids.into_iter().map(str::to_owned).collect()
    }

    pub(crate) fn holders_of<'a>(
        &'a self,
        volume: &VolumeName,
    ) -> impl Iterator<Item = &'a Holder> {
        // The smallest holder of the volume: the first variant with the smallest text.
        let first = (volume.clone(), Holder::Container(String::new()));
        let volume = volume.clone();
        self.holders
            .range(first..)
            .take_while(move |((of, _), _)| *of == volume)
            .map(|((_, holder), _)| holder)
    }

    /// Mount ids under which a volume is mounted now.
    pub(crate) fn mounts_of(&self, volume: &VolumeName) -> Vec<String> {
        let mounts = self.holders_of(volume).filter_map(|holder| match holder {
            Holder::Mount(id) => Some(id.clone()),
            Holder::Container(_) => None,
        });
        mounts.collect()
    }

    /// A volume's snapshots, oldest first.
    pub(crate) fn snapshots_of(&self, volume: &VolumeName) -> Vec<&SnapshotRow> {
        let mut rows: Vec<&SnapshotRow> = self
            .snapshots
            .values()
            .filter(|row| row.volume == *volume)
            .collect();
        rows.sort_by(|a, b| (&a.created_at, &a.name).cmp(&(&b.created_at, &b.name)));
        rows
    }

    /// Containers whose root filesystem was made from the image.
    pub(crate) fn users_of<'a>(&'a self, image: &'a Digest) -> impl Iterator<Item = &'a RootfsRow> {
        self.rootfs.values().filter(move |row| row.image == *image)
    }
}
