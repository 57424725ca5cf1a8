//! What each volume takes and may take.
//!
//! Filesystems that count for themselves are asked: a project's quota, or the mounted filesystem of a
//! file. Other directories are measured in the background ([`crate::usage`]). What a device shows is
//! its server's to count, and asking it could hang: only a tmpfs is asked.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use api::storage::VolumeStats;

use super::content::spec_of;
use super::not_found;
use crate::model::record::{Rows, VolumeRow};
use crate::model::volume_spec::{Content, ImageSpec, Limit};
use crate::tree::Size;
use crate::{Storaged, VolumeError, tree};

impl Storaged {
    /// Of the volumes named, or of all, by name.
    ///
    /// # Errors
    /// [`VolumeError::NotFound`].
    pub fn volume_stats(&self, names: &[String]) -> Result<Vec<VolumeStats>, VolumeError> {
        let rows = self.store.rows().clone();
        for name in names {
            if !rows.volumes.keys().any(|known| known.as_str() == name) {
                return Err(not_found(name));
            }
        }
        let sizes = self.measured(&rows);
        let wanted = |row: &&VolumeRow| {
            names.is_empty() || names.iter().any(|name| name == row.name.as_str())
        };
        let wanted = rows.volumes.values().filter(wanted);
        Ok(wanted.map(|row| self.stats_of(row, &sizes)).collect())
    }

    fn stats_of(&self, row: &VolumeRow, sizes: &BTreeMap<PathBuf, Size>) -> VolumeStats {
        let data = self.layout.volume_data(&row.name);
        let measured = sizes.get(&self.measured_path(row)).copied();
        let mut stats = VolumeStats {
            name: row.name.clone(),
            anonymous: row.anonymous,
            bytes: measured.map(|size| size.bytes),
            inodes: measured.map(|size| size.inodes),
            backend: String::new(),
            max_bytes: None,
            max_inodes: None,
            io: self.block_io.read(&row.name),
        };
        match spec_of(row).map(|spec| spec.content) {
            Ok(Content::Directory(limit)) => directory(&mut stats, row, limit, &data),
            Ok(Content::Image(image)) => own_filesystem(&mut stats, "loop", image, &data),
            Ok(Content::Thin(spec)) => own_filesystem(&mut stats, "thin", spec, &data),
            Ok(Content::Device(device)) => {
                (stats.bytes, stats.inodes) = (None, None);
                stats.backend = device.kind.clone();
                if device.kind == "tmpfs" {
                    mounted(&mut stats, &data);
                }
            }
            Err(_unreadable) => {}
        }
        stats
    }

    /// The directory or file whose size is the volume's.
    pub(crate) fn measured_path(&self, row: &VolumeRow) -> PathBuf {
        // A filesystem in a file takes what the file has blocks for.
        if spec_of(row).is_ok_and(|spec| spec.is_image()) {
            self.layout.volume_image(&row.name)
        } else {
            self.layout.volume_data(&row.name)
        }
    }

    /// What is free once the volume is gone; what a device shows stays.
    pub(super) fn own_bytes(&self, row: &VolumeRow) -> u64 {
        match spec_of(row).map(|spec| spec.content) {
            Ok(Content::Device(_)) => 0,
            Ok(Content::Thin(_)) => self.used_thin(row).unwrap_or_default(),
            _ => tree::size(&self.measured_path(row)).bytes,
        }
    }

    /// Paths of all volumes that are measured: what is mounted from elsewhere is not.
    pub(crate) fn measured_volumes(&self, rows: &Rows) -> Vec<PathBuf> {
        let is_own = |row: &&VolumeRow| {
            let elsewhere = |content| matches!(content, Content::Device(_) | Content::Thin(_));
            !spec_of(row).is_ok_and(|spec| elsewhere(spec.content))
        };
        let own = rows.volumes.values().filter(is_own);
        own.map(|row| self.measured_path(row)).collect()
    }
}

fn directory(stats: &mut VolumeStats, row: &VolumeRow, limit: Limit, data: &Path) {
    stats.backend = "dir".to_owned();
    (stats.max_bytes, stats.max_inodes) = (limit.bytes, limit.inodes);
    let usage = row.project.and_then(|project| {
        let directory = tree::open_root(data).ok()?;
        sys::quota::usage(directory.as_fd(), project).ok()
    });
    if let Some(usage) = usage {
        stats.bytes = Some(usage.bytes);
        stats.inodes = Some(usage.inodes);
    }
}

fn own_filesystem(stats: &mut VolumeStats, backend: &str, image: ImageSpec, data: &Path) {
    stats.backend = backend.to_owned();
    stats.max_bytes = Some(image.bytes);
    // The one inode that the file is says nothing.
    stats.inodes = None;
    mounted(stats, data);
}

/// What a mounted filesystem says of itself; what is not mounted says nothing.
fn mounted(stats: &mut VolumeStats, data: &Path) {
    if !sys::mount::is_mount_root(data).unwrap_or(false) {
        return;
    }
    let Ok(found) = rustix::fs::statvfs(data) else {
        return;
    };
    let some = |count: u64| (count > 0).then_some(count);
    stats.bytes = Some((found.f_blocks - found.f_bfree) * found.f_frsize);
    stats.max_bytes = some(found.f_blocks * found.f_frsize);
    stats.inodes = some(found.f_files).map(|files| files - found.f_ffree);
    // An xfs makes inodes as it needs them, and says how many it could.
    stats.max_inodes = some(found.f_files);
}
