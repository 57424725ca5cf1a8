//! Volumes on thin devices, in the pool that the layers are in.
//!
//! The row of a volume names its device. A snapshot is one more device, of one moment whoever writes
//! meanwhile; a rollback makes a snapshot of the snapshot and has the row name that. So whatever is
//! made is a device that an intent announces as that of a layer to come, and what is replaced is one
//! of a layer that goes.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use api::id::VolumeName;

use super::VolumeError;
use super::content::{is_mounted, spec_of};
use crate::disk::{Step, StepError};
use crate::model::layout::Key;
use crate::model::record::{Change, Intent, VolumeRow};
use crate::model::thin::DeviceRow;
use crate::model::volume_spec::{Content, Filesystem, ImageSpec, Owner, Spec};
use crate::thin::{self, Pool};
use crate::{Storaged, tree};

impl Storaged {
    fn pool_of(&self, volume: &VolumeName) -> Result<&Arc<Pool>, VolumeError> {
        self.driver.pool().ok_or_else(|| VolumeError::Option {
            volume: volume.clone(),
            problem: format!(
                "backend=thin is for the storage driver devicemapper, and this is {}: set driver = \
                 \"devicemapper\" in [storage]",
                self.driver.name()
            ),
        })
    }

    /// The device of a new volume that has one.
    pub(super) fn new_device(
        &self,
        volume: &VolumeName,
        spec: &Spec,
    ) -> Result<Option<Key>, VolumeError> {
        match spec.content {
            Content::Thin(_) => {
                self.pool_of(volume)?;
                Ok(Some(crate::new_key()?))
            }
            _ => Ok(None),
        }
    }

    /// Its device, and the pool that has it.
    fn device_of(&self, row: &VolumeRow) -> Result<(&Arc<Pool>, DeviceRow), VolumeError> {
        let pool = self.pool_of(&row.name)?;
        let device = row.device.as_ref().and_then(|key| pool.device(key));
        let device = device.ok_or_else(|| VolumeError::Option {
            volume: row.name.clone(),
            problem: "its device is not on record: remove the volume".to_owned(),
        })?;
        Ok((pool, device))
    }

    /// Makes the device of a new volume, with an empty filesystem.
    pub(super) fn make_thin(
        &self,
        row: &VolumeRow,
        spec: ImageSpec,
        owner: Owner,
    ) -> Result<(), VolumeError> {
        let pool = self.pool_of(&row.name)?;
        let Some(key) = &row.device else {
            return Ok(());
        };
        let bytes = with_header(row, spec.bytes);
        let device = pool.create(&|step| self.apply(step), key, None, bytes)?;
        Ok(self.apply(Step::FormatThin {
            pool: Arc::clone(pool),
            content: content_of(row, device, spec.filesystem),
            inodes: spec.inodes,
            owner,
        })?)
    }

    /// Makes the device `key` for the volume, with what `origin` holds.
    pub(super) fn copy_thin(
        &self,
        volume: &VolumeName,
        key: &Key,
        origin: &Key,
        bytes: u64,
    ) -> Result<DeviceRow, VolumeError> {
        let pool = self.pool_of(volume)?;
        let least = pool.device(origin).map_or(0, |origin| origin.bytes);
        let bytes = bytes.max(least);
        Ok(pool.create(&|step| self.apply(step), key, Some(origin), bytes)?)
    }

    /// Keeps what the volume holds now as the device `key`. Returns its bytes.
    pub(super) fn snapshot_thin(&self, row: &VolumeRow, key: &Key) -> Result<u64, VolumeError> {
        let (pool, origin) = self.device_of(row)?;
        let device = self.copy_thin(&row.name, key, &origin.key, origin.bytes)?;
        let node = pool.node(&device);
        Ok(pool
            .used(&device)
            .map_err(StepError::io("measure", &node))?)
    }

    /// Bytes that the volume takes of the pool.
    pub(super) fn used_thin(&self, row: &VolumeRow) -> Option<u64> {
        let (pool, device) = self.device_of(row).ok()?;
        pool.used(&device).ok()
    }

    pub(super) fn mount_thin(&self, row: &VolumeRow, spec: ImageSpec) -> Result<(), VolumeError> {
        self.with_thin(row, spec, Some(self.layout.volume_data(&row.name)))
    }

    /// Lets the volume grow, mounted or not.
    pub(super) fn grow_thin(&self, row: &VolumeRow, spec: ImageSpec) -> Result<(), VolumeError> {
        let (_, device) = self.device_of(row)?;
        let bytes = with_header(row, spec.bytes);
        if bytes > device.bytes {
            let grown = DeviceRow { bytes, ..device };
            self.apply(Step::Record(vec![Change::PutDevice(grown)]))?;
        }
        self.with_thin(row, spec, None)
    }

    fn with_thin(
        &self,
        row: &VolumeRow,
        spec: ImageSpec,
        target: Option<PathBuf>,
    ) -> Result<(), VolumeError> {
        let (pool, device) = self.device_of(row)?;
        Ok(self.apply(Step::MountThinVolume {
            pool: Arc::clone(pool),
            content: content_of(row, device, spec.filesystem),
            target,
        })?)
    }

    /// The top directory of the filesystem on a device of the volume.
    pub(super) fn open_thin(
        &self,
        row: &VolumeRow,
        key: &Key,
        filesystem: Filesystem,
    ) -> Result<OwnedFd, VolumeError> {
        let device = Some(key.clone());
        let (pool, device) = self.device_of(&VolumeRow {
            device,
            ..row.clone()
        })?;
        let node = pool.node(&device);
        let mount = pool.mount_volume(&content_of(row, device, filesystem));
        let root = mount.and_then(|mount| Ok(tree::open_dir_at(mount.as_fd(), c".")?));
        Ok(root.map_err(StepError::io("mount", &node))?)
    }

    /// Puts a copy of `origin` in the place of the volume's device, once `fill` has been at it. Nobody has
    /// the volume mounted.
    pub(super) fn replace_thin(
        &self,
        row: VolumeRow,
        origin: &Key,
        fill: impl FnOnce(&Key) -> Result<(), VolumeError>,
    ) -> Result<(), VolumeError> {
        let (_, old) = self.device_of(&row)?;
        let target = self.layout.volume_data(&row.name);
        if is_mounted(&target)? {
            // Left over if a crash came between the mount and its undoing.
            self.apply(Step::Unmount { target })?;
        }
        let key = self.begin(Intent::MakeLayer)?;
        let filled = self
            .copy_thin(&row.name, &key, origin, old.bytes)
            .and_then(|_device| fill(&key));
        if let Err(error) = filled {
            self.abandon(&key);
            return Err(error);
        }
        let replaced = self.apply(Step::Record(vec![
            Change::PutVolume(VolumeRow {
                device: Some(key.clone()),
                ..row
            }),
            Change::DropIntent(key.clone()),
            Change::PutIntent(old.key.clone(), Intent::RemoveLayer),
        ]));
        if let Err(error) = replaced {
            self.abandon(&key);
            return Err(error.into());
        }
        self.settle_all(&[old.key]);
        Ok(())
    }

    /// The change that has the device of a volume go which is removed, if it has one.
    pub(super) fn removal_of_thin(
        &self,
        row: &VolumeRow,
    ) -> Result<Option<(Key, Change)>, VolumeError> {
        let Some(key) = row.device.clone() else {
            return Ok(None);
        };
        self.pool_of(&row.name)?;
        let change = Change::PutIntent(key.clone(), Intent::RemoveLayer);
        Ok(Some((key, change)))
    }

    /// Whether a volume's content is on a device that is not on record.
    pub(crate) fn lacks_device(&self, row: &VolumeRow) -> bool {
        let is_thin = spec_of(row).is_ok_and(|spec| matches!(spec.content, Content::Thin(_)));
        is_thin && self.driver.pool().is_some() && self.device_of(row).is_err()
    }
}

fn content_of(row: &VolumeRow, device: DeviceRow, filesystem: Filesystem) -> thin::Content {
    thin::Content {
        device,
        filesystem,
        key_id: row.key_id.clone(),
    }
}

/// The size of a device whose filesystem has `bytes`.
pub(super) fn with_header(row: &VolumeRow, bytes: u64) -> u64 {
    match row.key_id {
        Some(_) => bytes.saturating_add(thin::HEADER),
        None => bytes,
    }
}
