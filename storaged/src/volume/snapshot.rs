//! Snapshots and clones of volumes.
//!
//! A snapshot is a copy whose blocks are shared where the filesystem can (`FICLONE`). That of a
//! directory is made while nobody has the volume mounted, unless whoever asks takes files of different
//! moments into the bargain. Two kinds are of one moment in any case: that of a btrfs subvolume, and
//! that of a filesystem in a file, which is frozen meanwhile. A snapshot lies below its volume and goes
//! where the volume goes.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use api::id::{Id, SnapshotName, VolumeName};
use api::storage::{Snapshot, SnapshotCreate, Volume, VolumeClone};

use super::content::spec_of;
use super::thin::with_header;
use super::{VolumeError, copy, directory, not_found};
use crate::disk::{Step, StepError};
use crate::model::layout::{Key, VOLUME_DATA, VOLUME_IMAGE};
use crate::model::record::{Change, Intent, Rows, SnapshotRow, VolumeRow};
use crate::model::volume_spec::{Content, Filesystem, Limit};
use crate::{Storaged, recover, tree};

pub(super) const STOP_OR_LIVE: &str =
    "stop it first, or take the files as they are now with --live";
const STOP: &str = "stop it first";

impl Storaged {
    /// Keeps what a volume holds now under a name of its own.
    ///
    /// # Errors
    /// [`VolumeError::Mounted`] unless the request is for a live one; nothing is made.
    pub fn create_snapshot(
        &self,
        volume: &str,
        request: &SnapshotCreate,
    ) -> Result<Snapshot, VolumeError> {
        let volume = self.known(volume)?;
        let created_at = crate::now();
        let name = match request.name.as_str() {
            "" => SnapshotName::parse(&created_at.replace([':', 'Z'], ""))?,
            name => SnapshotName::parse(name)?,
        };
        let _guard = self.volume_locks.lock(volume.as_str());
        let source = self.existing_volume(&volume)?;
        self.check_source(&source, request.live)?;
        let taken = (volume.clone(), name.clone());
        if self.store.rows().snapshots.contains_key(&taken) {
            return Err(VolumeError::SnapshotExists { volume, name });
        }
        let key = crate::new_key()?;
        let row = SnapshotRow {
            volume,
            name,
            key: key.clone(),
            created_at,
            size: 0,
        };
        self.announce(&key, Intent::MakeSnapshot(row.clone()))?;
        let result = self.stage_snapshot(&key, &source, row.clone());
        if let Err(error) = result {
            self.abandon(&key);
            return Err(error);
        }
        self.settle(&key)?;
        self.snapshot(row.volume.as_str(), row.name.as_str())
            .map(describe)
    }

    /// Snapshots of one volume, or of all, by volume and age.
    ///
    /// # Errors
    /// [`VolumeError::NotFound`].
    pub fn snapshots(&self, volume: Option<&str>) -> Result<Vec<Snapshot>, VolumeError> {
        let volume = volume.map(|name| self.known(name)).transpose()?;
        let rows = self.store.rows();
        let volumes = match &volume {
            Some(name) => vec![name],
            None => rows.volumes.keys().collect(),
        };
        let all = volumes.into_iter().flat_map(|name| rows.snapshots_of(name));
        Ok(all.cloned().map(describe).collect())
    }

    /// Deletes a snapshot.
    ///
    /// # Errors
    /// [`VolumeError::NoSnapshot`].
    pub fn remove_snapshot(&self, volume: &str, name: &str) -> Result<(), VolumeError> {
        let volume = self.known(volume)?;
        let _guard = self.volume_locks.lock(volume.as_str());
        let row = self.snapshot(volume.as_str(), name)?;
        let source = self.existing_volume(&volume)?;
        let removal = match self.removal_of_thin(&source)? {
            Some(_) => Intent::RemoveLayer,
            None => Intent::RemoveSnapshot(volume.clone()),
        };
        self.apply(Step::Record(vec![
            Change::PutIntent(row.key.clone(), removal),
            Change::DropSnapshot(volume, row.name),
        ]))?;
        self.settle_all(&[row.key]);
        Ok(())
    }

    /// Makes a volume what it was when the snapshot was taken. What it holds now is lost; the
    /// snapshot stays.
    ///
    /// # Errors
    /// [`VolumeError::Mounted`]; the volume is as before.
    pub fn roll_back(&self, volume: &str, name: &str) -> Result<(), VolumeError> {
        let volume = self.known(volume)?;
        let _guard = self.volume_locks.lock(volume.as_str());
        let snapshot = self.snapshot(volume.as_str(), name)?;
        self.check_unmounted(&volume, STOP)?;
        let row = self.existing_volume(&volume)?;
        self.check_unlocked(&row)?;
        if row.device.is_some() {
            return self.replace_thin(row, &snapshot.key, |_key| Ok(()));
        }
        let image = image_filesystem(&row)?;
        let key = self.begin(Intent::CopyUp)?;
        // Left over if a crash came between the mount and its undoing.
        if image.is_some() {
            self.apply(Step::Unmount {
                target: self.layout.volume_data(&volume),
            })?;
        }
        let from = self.layout.snapshot(&volume, &snapshot.key);
        // Both copies count until one goes.
        let unlimited = |copy: PathBuf| {
            self.encrypt_content(&row, copy.clone())?;
            match row.project {
                Some(project) => self.apply(Step::LimitDir {
                    path: copy,
                    project: Some(project),
                    limit: Limit::default(),
                }),
                None => Ok(()),
            }
        };
        let staged = self.stage_copy(&key, &volume, &from, image, unlimited);
        if let Err(error) = staged {
            self.abandon(&key);
            self.limit_again(&row)?;
            return Err(error);
        }
        if let Err(error) = self.announce(&key, Intent::RollBack(volume)) {
            self.abandon(&key);
            return Err(error.into());
        }
        // From here on there is only one end, at the second try or at the next start.
        let settled = self.settle(&key);
        if settled.is_err() {
            self.abandon(&key);
        }
        Ok(settled?)
    }

    /// Makes a new volume that begins with what another one holds, or held.
    ///
    /// # Errors
    /// [`VolumeError::Exists`] when the name is taken; nothing is made.
    pub fn clone_volume(&self, source: &str, request: VolumeClone) -> Result<Volume, VolumeError> {
        let source = self.known(source)?;
        let target = VolumeName::parse(&request.name)?;
        if source == target {
            return Err(VolumeError::Exists(target));
        }
        // In one order, so that two clones in opposite directions do not wait for each other.
        let (first, second) = (
            source.as_str().min(target.as_str()),
            source.as_str().max(target.as_str()),
        );
        let _first = self.volume_locks.lock(first);
        let _second = self.volume_locks.lock(second);
        let origin = self.existing_volume(&source)?;
        let (from, origin_device) = match &request.snapshot {
            Some(name) => {
                let row = self.snapshot(source.as_str(), name)?;
                self.check_unlocked(&origin)?;
                (self.layout.snapshot(&source, &row.key), Some(row.key))
            }
            None => {
                self.check_source(&origin, request.live)?;
                (self.measured_path(&origin), origin.device.clone())
            }
        };
        let spec = spec_of(&origin)?;
        let taken = self.volume_row(&target).is_some();
        self.finish_removal(&target)?;
        if taken || recover::exists(&self.layout.volume(&target))? {
            return Err(VolumeError::Exists(target));
        }
        let row = VolumeRow {
            anonymous: Id::parse(target.as_str()).is_ok(),
            name: target.clone(),
            options: origin.options,
            labels: request.labels,
            created_at: crate::now(),
            populated: origin.populated,
            project: self.new_project(&spec)?,
            key_id: origin.key_id,
            device: self.new_device(&target, &spec)?,
        };
        self.make_volume(row.clone(), |staged| match spec.content {
            Content::Directory(limit) => self.copy_directory(staged, &source, &from, |copy| {
                self.encrypt_content(&row, copy.clone())?;
                self.limit_content(&row, limit, copy)
            }),
            Content::Image(image) => {
                self.make_mount_point(staged.join(VOLUME_DATA))?;
                self.copy_image(staged, &from, image.filesystem)
            }
            Content::Thin(spec) => {
                self.make_mount_point(staged.join(VOLUME_DATA))?;
                match (&row.device, &origin_device) {
                    (Some(key), Some(from)) => self
                        .copy_thin(&target, key, from, with_header(&row, spec.bytes))
                        .map(drop),
                    _ => Ok(()),
                }
            }
            Content::Device(_) => Err(VolumeError::Device(source.clone())),
        })?;
        self.volume(target.as_str())
    }

    fn snapshot(&self, volume: &str, name: &str) -> Result<SnapshotRow, VolumeError> {
        let volume = VolumeName::parse(volume).map_err(|_no_name| not_found(volume))?;
        let missing = || VolumeError::NoSnapshot {
            volume: volume.clone(),
            name: name.chars().take(64).collect(),
        };
        let parsed = SnapshotName::parse(name).map_err(|_no_name| missing())?;
        let row = self
            .store
            .rows()
            .snapshots
            .get(&(volume.clone(), parsed))
            .cloned();
        row.ok_or_else(missing)
    }

    /// There is something of the volume's own to copy, and it is of one moment unless that does not
    /// matter.
    fn check_source(&self, row: &VolumeRow, live: bool) -> Result<(), VolumeError> {
        self.check_unlocked(row)?;
        match spec_of(row)?.content {
            Content::Device(_) => Err(VolumeError::Device(row.name.clone())),
            Content::Directory(_) if !live && !self.is_subvolume(&row.name)? => {
                self.check_unmounted(&row.name, STOP_OR_LIVE)
            }
            Content::Directory(_) | Content::Image(_) | Content::Thin(_) => Ok(()),
        }
    }

    pub(super) fn is_subvolume(&self, volume: &VolumeName) -> Result<bool, StepError> {
        let data = self.layout.volume_data(volume);
        directory::is_subvolume(&data).map_err(StepError::io("look at", &data))
    }

    pub(super) fn check_unmounted(
        &self,
        volume: &VolumeName,
        way_out: &'static str,
    ) -> Result<(), VolumeError> {
        let holders = self.store.rows().mounts_of(volume);
        if holders.is_empty() {
            return Ok(());
        }
        Err(VolumeError::Mounted {
            volume: volume.clone(),
            holders,
            way_out,
        })
    }

    /// Announces work in the directory `key`, or the next stage of it, durably.
    fn announce(&self, key: &Key, intent: Intent) -> Result<(), StepError> {
        self.apply(Step::Record(vec![Change::PutIntent(key.clone(), intent)]))
    }

    fn stage_snapshot(
        &self,
        key: &Key,
        source: &VolumeRow,
        mut row: SnapshotRow,
    ) -> Result<(), VolumeError> {
        let volume = &source.name;
        if source.device.is_some() {
            row.size = self.snapshot_thin(source, key)?;
            return Ok(self.announce(key, Intent::MakeSnapshot(row))?);
        }
        let image = image_filesystem(source)?;
        // A snapshot counts for nobody.
        let prepare = |copy| self.encrypt_content(source, copy);
        self.stage_copy(key, volume, &self.measured_path(source), image, prepare)?;
        let copy = self.layout.staged_volume(key).join(content_name(image));
        row.size = tree::size(&copy).bytes;
        self.announce(key, Intent::MakeSnapshot(row))?;
        let snapshots = self.layout.snapshots(volume);
        if !recover::exists(&snapshots)? {
            self.apply(Step::CreateDir {
                path: snapshots.clone(),
                mode: 0o700,
            })?;
            self.apply(Step::SyncDir {
                path: self.layout.volume(volume),
            })?;
        }
        self.apply(Step::Rename {
            from: copy,
            to: self.layout.snapshot(volume, key),
        })?;
        Ok(self.apply(Step::SyncDir { path: snapshots })?)
    }

    /// A durable copy of `from` in the staging directory `key`.
    fn stage_copy(
        &self,
        key: &Key,
        volume: &VolumeName,
        from: &Path,
        image: Option<Filesystem>,
        prepare: impl FnOnce(PathBuf) -> Result<(), StepError>,
    ) -> Result<(), VolumeError> {
        let staged = self.layout.staged_volume(key);
        self.apply(Step::CreateDir {
            path: staged.clone(),
            mode: 0o700,
        })?;
        match image {
            Some(filesystem) => self.copy_image(&staged, from, filesystem),
            None => self.copy_directory(&staged, volume, from, prepare),
        }
    }

    fn copy_image(
        &self,
        staged: &Path,
        from: &Path,
        filesystem: Filesystem,
    ) -> Result<(), VolumeError> {
        Ok(self.apply(Step::CopyImage {
            from: from.to_owned(),
            to: staged.join(VOLUME_IMAGE),
            filesystem,
        })?)
    }

    /// Copies a directory into a staging directory. `prepare` sees the copy before it has anything, or
    /// everything at once.
    fn copy_directory(
        &self,
        staged: &Path,
        volume: &VolumeName,
        from: &Path,
        prepare: impl FnOnce(PathBuf) -> Result<(), StepError>,
    ) -> Result<(), VolumeError> {
        let to = staged.join(VOLUME_DATA);
        if directory::is_subvolume(from).map_err(StepError::io("look at", from))? {
            self.apply(Step::SnapshotSubvolume {
                from: from.to_owned(),
                to: to.clone(),
            })?;
            return Ok(prepare(to)?);
        }
        self.apply(Step::MakeVolumeDir { path: to.clone() })?;
        prepare(to.clone())?;
        self.duplicate(volume, from, &to)
    }

    fn duplicate(&self, volume: &VolumeName, from: &Path, to: &Path) -> Result<(), VolumeError> {
        let copied = || -> std::io::Result<()> {
            let (from, to) = (tree::open_root(from)?, tree::open_root(to)?);
            copy::tree(from.as_fd(), to.as_fd())
        };
        copied().map_err(|source| VolumeError::Duplicate {
            volume: volume.clone(),
            source,
        })?;
        Ok(self.apply(Step::SyncFilesystem {
            path: to.to_owned(),
        })?)
    }

    /// The change that makes a snapshot exist, if it is complete and in its place.
    pub(crate) fn settle_snapshot(
        &self,
        key: &Key,
        row: SnapshotRow,
    ) -> Result<Option<Change>, StepError> {
        self.apply(Step::RemoveTree {
            path: self.layout.staged_volume(key),
        })?;
        let is_there = recover::exists(&self.layout.snapshot(&row.volume, key))?
            || self
                .driver
                .pool()
                .is_some_and(|pool| pool.device(key).is_some());
        Ok(is_there.then_some(Change::PutSnapshot(row)))
    }

    /// Exchanges a volume's content for the copy in `key`; each step is seen in the directories.
    pub(crate) fn settle_roll_back(&self, key: &Key, volume: &VolumeName) -> Result<(), StepError> {
        let staged = self.layout.staged_volume(key);
        let directory = self.layout.volume(volume);
        let replaced = self.layout.trashed_volume(key);
        for name in [VOLUME_IMAGE, VOLUME_DATA] {
            let (copy, content) = (staged.join(name), directory.join(name));
            if !recover::exists(&copy)? {
                continue;
            }
            if recover::exists(&content)? {
                self.apply(Step::Rename {
                    from: content.clone(),
                    to: replaced.clone(),
                })?;
            }
            self.apply(Step::Rename {
                from: copy,
                to: content,
            })?;
            self.apply(Step::SyncDir {
                path: directory.clone(),
            })?;
        }
        self.apply(Step::RemoveTree { path: replaced })?;
        if let Some(row) = self.volume_row(volume) {
            self.limit_again(&row)?;
        }
        self.apply(Step::RemoveTree { path: staged })
    }
}

/// The filesystem of a volume that has one of its own.
fn image_filesystem(row: &VolumeRow) -> Result<Option<Filesystem>, VolumeError> {
    Ok(match spec_of(row)?.content {
        Content::Image(image) => Some(image.filesystem),
        Content::Directory(_) | Content::Thin(_) | Content::Device(_) => None,
    })
}

/// The name that copied content has in a volume's directory.
fn content_name(image: Option<Filesystem>) -> &'static str {
    match image {
        Some(_) => VOLUME_IMAGE,
        None => VOLUME_DATA,
    }
}

/// Names of a volume's snapshots, oldest first.
pub(super) fn names(rows: &Rows, volume: &VolumeName) -> Vec<String> {
    let snapshots = rows.snapshots_of(volume);
    snapshots.iter().map(|row| row.name.to_string()).collect()
}

fn describe(row: SnapshotRow) -> Snapshot {
    Snapshot {
        volume: row.volume,
        name: row.name,
        created_at: row.created_at,
        size: row.size,
    }
}
