//! What the directory of a volume shows: itself, a filesystem in a file, or what its options name.

use std::net::{IpAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use api::id::VolumeName;
use api::storage::Volume;

use super::{VolumeError, directory};
use crate::Storaged;
use crate::disk::{Step, StepError};
use crate::model::layout::{VOLUME_DATA, VOLUME_IMAGE};
use crate::model::record::{Change, Intent, VolumeRow};
use crate::model::volume_option::MountOptions;
use crate::model::volume_spec::{Content, Limit, Spec};

impl Storaged {
    /// Makes the content of a new volume in its staging directory.
    pub(super) fn make_content(&self, staged: &Path, row: &VolumeRow) -> Result<(), VolumeError> {
        let Spec { content, owner, .. } = spec_of(row)?;
        let data = staged.join(VOLUME_DATA);
        match content {
            Content::Image(image) => {
                self.make_mount_point(data)?;
                self.apply(Step::MakeImage {
                    path: staged.join(VOLUME_IMAGE),
                    spec: image,
                    owner,
                })?;
            }
            Content::Directory(limit) => {
                self.apply(Step::MakeVolumeDir { path: data.clone() })?;
                self.encrypt_content(row, data.clone())?;
                self.limit_content(row, limit, data.clone())?;
                if !owner.is_none() {
                    self.apply(Step::SetOwner { path: data, owner })?;
                }
            }
            Content::Thin(spec) => {
                self.make_mount_point(data)?;
                self.make_thin(row, spec, owner)?;
            }
            Content::Device(_) => self.make_mount_point(data)?,
        }
        Ok(())
    }

    pub(super) fn make_mount_point(&self, path: PathBuf) -> Result<(), StepError> {
        self.apply(Step::CreateDir { path, mode: 0o755 })
    }

    /// Limits a directory that holds what the volume does, or will.
    pub(super) fn limit_content(
        &self,
        row: &VolumeRow,
        limit: Limit,
        path: PathBuf,
    ) -> Result<(), StepError> {
        if limit.is_none() {
            return Ok(());
        }
        self.apply(Step::LimitDir {
            path,
            project: row.project,
            limit,
        })
    }

    /// A number for the project of a new volume that needs one.
    pub(super) fn new_project(&self, spec: &Spec) -> Result<Option<u32>, StepError> {
        match spec.content {
            Content::Directory(limit) if !limit.is_none() => {
                self.new_project_below(&self.layout.volumes())
            }
            _ => Ok(None),
        }
    }

    /// A number for the project of something new in a directory, if limits there are those of projects.
    pub(crate) fn new_project_below(&self, path: &Path) -> Result<Option<u32>, StepError> {
        /// Below are those of administrators.
        const FIRST: u32 = 1_000_000_000;
        if !directory::has_projects(path).map_err(StepError::io("look at", path))? {
            return Ok(None);
        }
        let last = self.store.rows().last_project().unwrap_or(FIRST);
        // Two that are made at a time get two numbers: no row tells of the first one yet.
        self.projects.fetch_max(last, Ordering::SeqCst);
        Ok(Some(self.projects.fetch_add(1, Ordering::SeqCst) + 1))
    }

    /// Limits are what the rows say, whatever was being done when the daemon died.
    pub(crate) fn enforce_limits(&self) {
        let rows: Vec<VolumeRow> = self.store.rows().volumes.values().cloned().collect();
        for row in rows {
            if let Err(error) = self.limit_again(&row) {
                tracing::error!(volume = %row.name, %error, "a volume is not limited");
            }
        }
    }

    /// Gives a volume's directory the limit its options say.
    pub(super) fn limit_again(&self, row: &VolumeRow) -> Result<(), StepError> {
        self.limit_like(row, self.layout.volume_data(&row.name))
    }

    /// The same for a directory that is to take its place.
    pub(super) fn limit_like(&self, row: &VolumeRow, path: PathBuf) -> Result<(), StepError> {
        match spec_of(row).map(|spec| spec.content) {
            Ok(Content::Directory(limit)) => self.limit_content(row, limit, path),
            // What nobody can read limits nothing.
            _ => Ok(()),
        }
    }

    /// Mounts what the volume's directory shows, if it shows something else and does not yet.
    pub(super) fn mount_content(&self, row: &VolumeRow) -> Result<(), VolumeError> {
        self.check_unlocked(row)?;
        let target = self.layout.volume_data(&row.name);
        let step = match spec_of(row)?.content {
            Content::Directory(_) => return Ok(()),
            _ if is_mounted(&target)? => return Ok(()),
            Content::Image(image) => {
                self.apply(Step::MountImage {
                    path: self.layout.volume_image(&row.name),
                    filesystem: image.filesystem,
                    target: target.clone(),
                })?;
                self.block_io.begin(&row.name, &target);
                return Ok(());
            }
            Content::Thin(spec) => return self.mount_thin(row, spec),
            Content::Device(options) => Step::MountVolume {
                address: resolve(&row.name, &options)?,
                options,
                target,
            },
        };
        Ok(self.apply(step)?)
    }

    /// The opposite; nobody has the volume mounted any more.
    pub(super) fn unmount_content(&self, row: &VolumeRow) -> Result<(), StepError> {
        let target = self.layout.volume_data(&row.name);
        // Options that nobody can read any more may have been mounted, too.
        let is_directory =
            spec_of(row).is_ok_and(|spec| matches!(spec.content, Content::Directory(_)));
        if is_directory {
            return Ok(());
        }
        self.apply(Step::Unmount { target })?;
        self.block_io.end(&row.name);
        Ok(())
    }

    /// Lets a volume hold more. Again for the same size is fine.
    ///
    /// # Errors
    /// [`VolumeError::Shrinks`], [`VolumeError::NoSize`]; the volume is as before.
    pub fn resize_volume(&self, name: &str, size: &str) -> Result<Volume, VolumeError> {
        let name = self.known(name)?;
        let _guard = self.volume_locks.lock(name.as_str());
        let mut row = self.existing_volume(&name)?;
        let old = spec_of(&row)?.content;
        row.options.insert("size".to_owned(), size.to_owned());
        match (old, spec_of(&row)?.content) {
            (Content::Image(old), Content::Image(new))
            | (Content::Thin(old), Content::Thin(new))
                if new.bytes < old.bytes =>
            {
                return Err(VolumeError::Shrinks {
                    volume: name,
                    bytes: old.bytes,
                });
            }
            // A filesystem that is larger than its row says does no harm; one that is smaller would.
            (Content::Image(_), Content::Image(spec)) => self.apply(Step::GrowImage {
                path: self.layout.volume_image(&name),
                spec,
            })?,
            (Content::Thin(_), Content::Thin(spec)) => self.grow_thin(&row, spec)?,
            (Content::Directory(Limit { bytes: Some(_), .. }), Content::Directory(limit)) => {
                self.limit_content(&row, limit, self.layout.volume_data(&name))?;
            }
            _ => return Err(VolumeError::NoSize(name)),
        }
        let key = self.begin(Intent::ResizeVolume(row))?;
        if let Err(error) = self.settle(&key) {
            self.abandon(&key);
            return Err(error.into());
        }
        self.volume(name.as_str())
    }

    /// The change that makes a new size known, once the sidecar has it.
    pub(crate) fn settle_resize(&self, row: VolumeRow) -> Result<Option<Change>, StepError> {
        if !self.store.rows().volumes.contains_key(&row.name) {
            return Ok(None);
        }
        let sidecar = self.layout.volume_sidecar(&row.name);
        self.apply(Step::replace_sidecar(sidecar, &row.as_made())?)?;
        self.apply(Step::SyncDir {
            path: self.layout.volume(&row.name),
        })?;
        Ok(Some(Change::PutVolume(row)))
    }

    /// Takes up the volumes with devices of their own that are mounted: lets go on what a daemon that
    /// died during a snapshot had frozen, and counts what they do.
    pub(crate) fn adopt_mounted_volumes(&self) {
        let rows: Vec<VolumeRow> = self.store.rows().volumes.values().cloned().collect();
        for row in rows {
            let target = self.layout.volume_data(&row.name);
            let is_image = spec_of(&row).is_ok_and(|spec| spec.is_image());
            if !is_image || !sys::mount::is_mount_root(&target).unwrap_or(false) {
                continue;
            }
            self.block_io.begin(&row.name, &target);
            match sys::freeze::thaw(&target) {
                Ok(true) => {
                    tracing::warn!(volume = %row.name, "writers waited for a snapshot that was never finished; they go on")
                }
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(volume = %row.name, %error, "cannot see to it that writers go on")
                }
            }
        }
    }
}

pub(super) fn spec_of(row: &VolumeRow) -> Result<Spec, VolumeError> {
    row.spec().map_err(|problem| VolumeError::Option {
        volume: row.name.clone(),
        problem: problem.to_string(),
    })
}

pub(super) fn is_mounted(target: &Path) -> Result<bool, StepError> {
    sys::mount::is_mount_root(target).map_err(StepError::io("look at", target))
}

/// The address of an `addr=` option that is a host's name.
fn resolve(volume: &VolumeName, options: &MountOptions) -> Result<Option<IpAddr>, VolumeError> {
    let Some(host) = options.host_to_resolve() else {
        return Ok(None);
    };
    let failed = |source| VolumeError::Resolve {
        volume: volume.clone(),
        host: host.to_owned(),
        source,
    };
    let mut found = (host, 0).to_socket_addrs().map_err(failed)?;
    match found.next() {
        Some(address) => Ok(Some(address.ip())),
        None => Err(failed(std::io::Error::new(
            std::io::ErrorKind::NotFound,
            "it has no address",
        ))),
    }
}
