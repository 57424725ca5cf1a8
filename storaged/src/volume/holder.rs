//! Who refers to a volume: containers, from creation to removal, and mounts of plugin clients.
//!
//! A reference is a row that is durable before anybody is told of the volume, and is keyed by who
//! holds it, so that a repeated request is the same reference and a lost reply does no harm.

use std::path::PathBuf;

use api::id::VolumeName;

use super::VolumeError;
use super::content::spec_of;
use crate::Storaged;
use crate::disk::{Step, StepError};
use crate::model::record::{Change, Holder, HolderRow, VolumeRow};
use crate::model::volume_spec::Content;

const MAX_HOLDER: usize = 255;

impl Storaged {
    /// A container refers to the volume, mounted or not.
    ///
    /// # Errors
    /// [`VolumeError`].
    pub fn add_volume_user(&self, name: &str, container: &str) -> Result<(), VolumeError> {
        check("container", container)?;
        let name = self.known(name)?;
        let _guard = self.volume_locks.lock(name.as_str());
        // It may have been removed while this call waited.
        self.known(name.as_str())?;
        self.hold(&name, Holder::Container(container.to_owned()), None)?;
        Ok(())
    }

    /// Tells which control group the container runs in that has the volume mounted by its id; fine if
    /// it has not.
    ///
    /// # Errors
    /// [`VolumeError`].
    pub fn place_volume_user(
        &self,
        name: &str,
        container: &str,
        group: u64,
    ) -> Result<(), VolumeError> {
        check("container", container)?;
        let name = self.known(name)?;
        let _guard = self.volume_locks.lock(name.as_str());
        let row = self.existing_volume(&name)?;
        let key = (name, Holder::Mount(container.to_owned()));
        let Some(held) = self.store.rows().holders.get(&key).cloned() else {
            return Ok(());
        };
        if held.group != Some(group) {
            let group = Some(group);
            let held = HolderRow { group, ..held };
            self.apply(Step::Record(vec![Change::PutHolder(held)]))?;
        }
        self.count_group(&row, container, group);
        Ok(())
    }

    /// A volume with a device of its own needs no groups.
    fn count_group(&self, row: &VolumeRow, holder: &str, group: u64) {
        let content = spec_of(row).map(|spec| spec.content);
        if !matches!(content, Ok(Content::Image(_) | Content::Thin(_))) {
            let target = self.layout.volume_data(&row.name);
            self.block_io
                .begin_group(&row.name, (holder, group), &target);
        }
    }

    /// Goes on counting for what holds volumes since before this daemon.
    pub(crate) fn adopt_groups(&self) {
        let rows = self.store.rows().clone();
        for held in rows.holders.values() {
            if let (Some(group), Some(row)) = (held.group, rows.volumes.get(&held.volume)) {
                self.count_group(row, held.holder.id(), group);
            }
        }
    }

    /// The container is gone; fine if it did not refer to the volume.
    ///
    /// # Errors
    /// [`VolumeError::Step`].
    pub fn remove_volume_user(&self, name: &str, container: &str) -> Result<(), VolumeError> {
        let Ok(name) = self.known(name) else {
            return Ok(());
        };
        let _guard = self.volume_locks.lock(name.as_str());
        Ok(self.release(&name, Holder::Container(container.to_owned()))?)
    }

    /// Makes the volume's content available for the mount `id`. Returns where.
    pub(crate) fn mount_volume(&self, name: &str, id: &str) -> Result<PathBuf, VolumeError> {
        check("mount ID", id)?;
        let name = self.known(name)?;
        let _guard = self.volume_locks.lock(name.as_str());
        let row = self.existing_volume(&name)?;
        let holder = Holder::Mount(id.to_owned());
        let new = self.hold(&name, holder.clone(), Some(self.boot.clone()))?;
        if let Err(error) = self.mount_content(&row) {
            if new {
                self.release(&name, holder)?;
            }
            return Err(error);
        }
        Ok(self.layout.volume_data(&name))
    }

    /// Ends the mount `id`; fine if there is none.
    pub(crate) fn unmount_volume(&self, name: &str, id: &str) -> Result<(), VolumeError> {
        let Ok(name) = self.known(name) else {
            return Ok(());
        };
        let _guard = self.volume_locks.lock(name.as_str());
        let holder = Holder::Mount(id.to_owned());
        let (held, others) = {
            let rows = self.store.rows();
            let mounts = |other: &&Holder| matches!(other, Holder::Mount(_)) && **other != holder;
            let held = rows.holders.contains_key(&(name.clone(), holder.clone()));
            (held, rows.holders_of(&name).filter(mounts).count())
        };
        if !held {
            return Ok(());
        }
        if others == 0
            && let Some(row) = self.volume_row(&name)
        {
            self.unmount_content(&row)?;
        }
        self.block_io.end_group(&name, id);
        Ok(self.release(&name, holder)?)
    }

    /// Records a holder. Says whether it is new.
    fn hold(
        &self,
        name: &VolumeName,
        holder: Holder,
        boot: Option<String>,
    ) -> Result<bool, StepError> {
        if self
            .store
            .rows()
            .holders
            .contains_key(&(name.clone(), holder.clone()))
        {
            return Ok(false);
        }
        let row = HolderRow {
            volume: name.clone(),
            holder,
            boot,
            group: None,
        };
        self.apply(Step::Record(vec![Change::PutHolder(row)]))?;
        Ok(true)
    }

    fn release(&self, name: &VolumeName, holder: Holder) -> Result<(), StepError> {
        if !self
            .store
            .rows()
            .holders
            .contains_key(&(name.clone(), holder.clone()))
        {
            return Ok(());
        }
        self.apply(Step::Record(vec![Change::DropHolder(name.clone(), holder)]))
    }
}

/// Ids are chosen by clients and printed to people.
fn check(what: &'static str, id: &str) -> Result<(), VolumeError> {
    if (1..=MAX_HOLDER).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic()) {
        return Ok(());
    }
    let id = id.chars().take(64).collect();
    Err(VolumeError::Holder { what, id })
}
