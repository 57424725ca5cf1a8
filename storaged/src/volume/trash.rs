//! The trash: what a prune removed can come back for a while.
//!
//! A trashed volume is a row beside a directory of `volumes/.trash`. Nothing refers to it, its name
//! is free, and it costs the disk what it did before.

use api::daemon::Pruned;
use api::id::VolumeName;
use api::storage::{TrashedVolume, Volume};
use jiff::Timestamp;

use super::{VolumeError, not_found};
use crate::Storaged;
use crate::disk::{Step, StepError};
use crate::model::layout::Key;
use crate::model::record::{Change, Intent, TrashRow, Uptime};
use crate::model::trash::{self, Moment};

impl Storaged {
    /// The pruned volumes that can come back, last pruned first.
    pub fn trashed_volumes(&self) -> Vec<TrashedVolume> {
        let mut rows: Vec<TrashRow> = self.store.rows().trash.values().cloned().collect();
        rows.sort_by(|a, b| trash::order(b).cmp(&trash::order(a)));
        let now = self.moment();
        let until = |row: &TrashRow| {
            Timestamp::from_second(now.wall.checked_add(self.left(row, &now)?)?).ok()
        };
        rows.into_iter()
            .map(|row| TrashedVolume {
                kept_until: until(&row).map_or_else(String::new, |until| until.to_string()),
                name: row.volume.name,
                size: row.size,
                pruned_at: row.trashed_at,
            })
            .collect()
    }

    /// Brings back the volume of that name that was pruned last.
    ///
    /// # Errors
    /// [`VolumeError::Exists`] when the name is taken again, [`VolumeError::NotInTrash`].
    pub fn restore_volume(&self, name: &str) -> Result<Volume, VolumeError> {
        let parsed = VolumeName::parse(name).map_err(|_no_name| not_found(name))?;
        let _guard = self.volume_locks.lock(parsed.as_str());
        if self.volume_row(&parsed).is_some() {
            return Err(VolumeError::Exists(parsed));
        }
        self.finish_removal(&parsed)?;
        let key = self
            .last_trashed(&parsed)
            .ok_or_else(|| VolumeError::NotInTrash(parsed.to_string()))?;
        self.apply(Step::Record(vec![Change::PutIntent(
            key.clone(),
            Intent::RestoreVolume(parsed.clone()),
        )]))?;
        let moved = self.apply(Step::Rename {
            from: self.layout.trashed_volume(&key),
            to: self.layout.volume(&parsed),
        });
        if let Err(error) = moved {
            self.abandon(&key);
            return Err(error.into());
        }
        self.settle(&key)?;
        self.volume(parsed.as_str())
    }

    /// Deletes what is in the trash. What cannot be deleted stays on record.
    pub fn empty_trash(&self) -> Pruned {
        self.delete_trashed(|_any| true)
    }

    /// Deletes what has been in the trash for longer than the configuration says, whatever happened to
    /// the clock meanwhile.
    pub fn expire_trash(&self) -> Pruned {
        self.expire_trash_at(&self.moment())
    }

    pub(crate) fn expire_trash_at(&self, now: &Moment) -> Pruned {
        // What no clock can tell stays until somebody empties the trash.
        self.delete_trashed(|row| self.left(row, now).is_some_and(|left| left <= 0))
    }

    fn left(&self, row: &TrashRow, now: &Moment) -> Option<i64> {
        let pruned = row.trashed_at.parse().map(Timestamp::as_second).ok();
        trash::left(row, pruned, now, self.config.prune_undo_hours)
    }

    pub(crate) fn moment(&self) -> Moment {
        Moment {
            wall: Timestamp::now().as_second(),
            uptime: Uptime {
                boot: self.boot.clone(),
                // Sleep counts (`do_sysinfo`, kernel/sys.c).
                seconds: rustix::system::sysinfo().uptime.unsigned_abs(),
            },
        }
    }

    fn delete_trashed(&self, is_due: impl Fn(&TrashRow) -> bool) -> Pruned {
        let due: Vec<TrashRow> = {
            let rows = self.store.rows();
            let due = rows.trash.values().filter(|row| is_due(row));
            due.cloned().collect()
        };
        let mut pruned = Pruned::default();
        for row in due {
            let name = row.volume.name.clone();
            match self.delete_one(&row) {
                Ok(true) => {
                    pruned.deleted.push(name.to_string());
                    pruned.space_reclaimed += row.size;
                }
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(volume = %name, %error, "cannot delete a pruned volume");
                }
            }
        }
        pruned
    }

    /// Whether it was still there.
    fn delete_one(&self, row: &TrashRow) -> Result<bool, VolumeError> {
        let _guard = self.volume_locks.lock(row.volume.name.as_str());
        {
            let rows = self.store.rows();
            // An intent under the same key: its directory is still to come, or leaves again.
            if !rows.trash.contains_key(&row.key) || rows.intents.contains_key(&row.key) {
                return Ok(false);
            }
        }
        let mut keys = vec![row.key.clone()];
        let mut changes = vec![
            Change::PutIntent(row.key.clone(), Intent::EmptyTrash),
            Change::DropTrash(row.key.clone()),
        ];
        if let Some((key, removal)) = self.removal_of_thin(&row.volume)? {
            keys.push(key);
            changes.push(removal);
        }
        self.apply(Step::Record(changes))?;
        self.settle_all(&keys);
        Ok(true)
    }

    /// Takes a volume that nobody refers to away, so that it can come back. `size` is for people.
    pub(super) fn trash_locked(&self, name: &VolumeName, size: u64) -> Result<(), VolumeError> {
        let volume = self.check_removable(name)?;
        let key = crate::new_key()?;
        let last = self.store.rows().trash.values().map(|row| row.serial).max();
        let row = TrashRow {
            key: key.clone(),
            volume,
            trashed_at: crate::now(),
            size,
            uptime: Some(self.moment().uptime),
            serial: last.unwrap_or_default() + 1,
        };
        self.apply(Step::Record(vec![
            Change::PutIntent(key.clone(), Intent::TrashVolume(name.clone())),
            Change::DropVolume(name.clone()),
            Change::PutTrash(row),
        ]))?;
        self.block_io.forget(name);
        self.settle_all(&[key]);
        Ok(())
    }

    fn last_trashed(&self, name: &VolumeName) -> Option<Key> {
        let rows = self.store.rows();
        let of_name = rows.trash.values().filter(|row| row.volume.name == *name);
        let last = of_name.max_by(|a, b| trash::order(a).cmp(&trash::order(b)));
        last.map(|row| row.key.clone())
    }

    /// Puts the directory of a volume whose row is in the trash there, too.
    pub(crate) fn settle_trashed(&self, key: &Key, name: &VolumeName) -> Result<(), StepError> {
        let (directory, trashed) = (self.layout.volume(name), self.layout.trashed_volume(key));
        let taken = self.store.rows().volumes.contains_key(name);
        if !taken && crate::recover::exists(&directory)? && !crate::recover::exists(&trashed)? {
            self.apply(Step::Rename {
                from: directory,
                to: trashed,
            })?;
        }
        self.sync_trash()
    }

    /// The change that makes a restored volume exist, if its directory has come back.
    pub(crate) fn settle_restored(
        &self,
        key: &Key,
        name: &VolumeName,
    ) -> Result<Vec<Change>, StepError> {
        let is_back = crate::recover::exists(&self.layout.volume(name))?
            && !crate::recover::exists(&self.layout.trashed_volume(key))?;
        let row = self.store.rows().trash.get(key).cloned();
        let Some(row) = row.filter(|_| is_back) else {
            return Ok(Vec::new());
        };
        self.sync_trash()?;
        Ok(vec![
            Change::PutVolume(row.volume),
            Change::DropTrash(key.clone()),
        ])
    }

    fn sync_trash(&self) -> Result<(), StepError> {
        for path in [self.layout.volume_trash(), self.layout.volumes()] {
            self.apply(Step::SyncDir { path })?;
        }
        Ok(())
    }
}
