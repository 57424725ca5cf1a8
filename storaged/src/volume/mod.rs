//! Volumes: directories that outlive containers, and the durable set of those who refer to them.

pub(crate) mod archive;
mod content;
pub(crate) mod copy;
pub(crate) mod directory;
mod encryption;
mod holder;
pub(crate) mod image_file;
pub(crate) mod io;
pub(crate) mod mount;
mod populate;
mod snapshot;
mod stats;
mod thin;
mod trash;

use std::collections::BTreeMap;
use std::path::Path;

use api::daemon::Pruned;
use api::id::{Id, InvalidId, SnapshotName, VolumeName};
use api::storage::{PruneCandidate, Volume, VolumeCreate, VolumePrune};

use crate::disk::{Step, StepError};
use crate::import::EntryError;
use crate::model::layout::{Key, VOLUME_SIDECAR};
use crate::model::record::{Change, Intent, Rows, VolumeRow};
use crate::model::volume_option::redacted;
use crate::model::volume_spec;
use crate::reason::way_out;
use crate::rootfs::RootfsError;
use crate::{Storaged, recover};

/// Names under which clients know the one driver: Docker's, and that of the plugin socket.
const DRIVERS: [&str; 3] = ["", "local", "hawser"];

#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    #[error(transparent)]
    Name(#[from] InvalidId),
    #[error("no such volume: {0}")]
    NotFound(String),
    #[error(
        "unknown volume driver {0:?}: this daemon has \"local\"; other drivers are plugins with a socket of their own"
    )]
    Driver(String),
    #[error("volume {volume}: {problem}")]
    Option { volume: VolumeName, problem: String },
    #[error("unable to remove volume: remove {volume}: volume is in use - [{}]", holders.join(", "))]
    InUse {
        volume: VolumeName,
        holders: Vec<String>,
    },
    #[error("invalid {what} {id:?}: 1 to 255 visible ASCII characters")]
    Holder { what: &'static str, id: String },
    #[error("volume {volume}: cannot resolve {host:?}: {source}")]
    Resolve {
        volume: VolumeName,
        host: String,
        source: std::io::Error,
    },
    #[error(
        "volume {volume}: cannot copy {path:?} of container {container}: {source}{}",
        way_out(source)
    )]
    Copy {
        volume: VolumeName,
        container: String,
        path: String,
        source: std::io::Error,
    },
    #[error("volume {0} exists")]
    Exists(VolumeName),
    #[error("volume {volume} has no snapshot {name}")]
    NoSnapshot { volume: VolumeName, name: String },
    #[error("volume {volume} has a snapshot {name}")]
    SnapshotExists {
        volume: VolumeName,
        name: SnapshotName,
    },
    #[error(
        "unable to remove volume: volume {volume} has snapshots - [{}]: remove them first with \
         \"hawser volume snapshot rm\"",
        names.join(", ")
    )]
    HasSnapshots {
        volume: VolumeName,
        names: Vec<String>,
    },
    #[error("volume {volume} is mounted by [{}]: {way_out}", holders.join(", "))]
    Mounted {
        volume: VolumeName,
        holders: Vec<String>,
        way_out: &'static str,
    },
    #[error("volume {0} shows what its driver options name: take snapshots there")]
    Device(VolumeName),
    #[error("volume {0} was made without a size, and cannot be given one: make one with -o size=")]
    NoSize(VolumeName),
    #[error(
        "volume {volume} has {bytes} bytes already, and a filesystem is not made smaller: make a \
         smaller volume and copy what is in this one"
    )]
    Shrinks { volume: VolumeName, bytes: u64 },
    #[error("volume {volume}: cannot copy it: {source}{}", way_out(source))]
    Duplicate {
        volume: VolumeName,
        source: std::io::Error,
    },
    #[error("volume {volume}: cannot export it: {source}{}", way_out(source))]
    Export {
        volume: VolumeName,
        source: std::io::Error,
    },
    #[error("volume {volume}: cannot import it: {source}")]
    Import {
        volume: VolumeName,
        source: EntryError,
    },
    #[error("volume {0} is locked: give its key with \"hawser volume unlock {0}\"")]
    Locked(VolumeName),
    #[error("volume {0} stays locked: this is not its key")]
    WrongKey(VolumeName),
    #[error("volume {0} is not encrypted")]
    NotEncrypted(VolumeName),
    #[error("volume {volume} has the key of others that are mounted - [{}]: stop them first", others.join(", "))]
    SharedKey {
        volume: VolumeName,
        others: Vec<String>,
    },
    #[error("no pruned volume {0}: \"hawser volume restore\" lists what can come back")]
    NotInTrash(String),
    #[error("invalid path {0:?}: a path inside a container is absolute")]
    Path(String),
    #[error(transparent)]
    Rootfs(#[from] RootfsError),
    #[error(transparent)]
    Step(#[from] StepError),
}

impl Storaged {
    /// Makes a volume; one that exists is returned as it is. An empty name makes an anonymous
    /// volume.
    ///
    /// # Errors
    /// [`VolumeError`]; nothing is made.
    pub fn create_volume(&self, request: VolumeCreate) -> Result<Volume, VolumeError> {
        let VolumeCreate {
            name,
            driver,
            driver_opts,
            labels,
            key,
        } = request;
        if !DRIVERS.contains(&driver.as_str()) {
            return Err(VolumeError::Driver(driver));
        }
        let name = if name.is_empty() {
            random_name()?
        } else {
            VolumeName::parse(&name)?
        };
        let spec = volume_spec::parse(&driver_opts).map_err(|problem| VolumeError::Option {
            volume: name.clone(),
            problem: problem.to_string(),
        })?;
        let _guard = self.volume_locks.lock(name.as_str());
        if self.volume_row(&name).is_none() {
            // Docker itself chooses 64 digits when it makes an anonymous volume by plugin.
            let anonymous = Id::parse(name.as_str()).is_ok();
            let key_id = self.take_key(&name, &spec, key.expose())?;
            let row = VolumeRow {
                name: name.clone(),
                options: driver_opts,
                labels,
                created_at: crate::now(),
                anonymous,
                populated: false,
                project: self.new_project(&spec)?,
                key_id,
                device: self.new_device(&name, &spec)?,
            };
            self.make_volume(row.clone(), |staged| self.make_content(staged, &row))?;
        }
        self.volume(name.as_str())
    }

    /// All volumes, by name.
    pub fn volumes(&self) -> Vec<Volume> {
        let rows = self.store.rows();
        rows.volumes
            .values()
            .map(|row| self.describe_volume(&rows, row))
            .collect()
    }

    /// # Errors
    /// [`VolumeError::NotFound`], also for what cannot be a name.
    pub fn volume(&self, name: &str) -> Result<Volume, VolumeError> {
        let rows = self.store.rows();
        let row = VolumeName::parse(name)
            .ok()
            .and_then(|name| rows.volumes.get(&name));
        row.map(|row| self.describe_volume(&rows, row))
            .ok_or_else(|| not_found(name))
    }

    /// Deletes a volume nobody refers to, with its data.
    ///
    /// # Errors
    /// [`VolumeError::InUse`] names the holders.
    pub fn remove_volume(&self, name: &str) -> Result<(), VolumeError> {
        let name = self.known(name)?;
        let _guard = self.volume_locks.lock(name.as_str());
        self.remove_locked(&name)
    }

    /// What [`Self::prune_volumes`] would remove now, by name.
    pub fn plan_prune(&self, request: &VolumePrune) -> Vec<PruneCandidate> {
        let rows: Vec<VolumeRow> = {
            let rows = self.store.rows();
            let unused = |row: &&VolumeRow| {
                rows.holders_of(&row.name).next().is_none()
                    && rows.snapshots_of(&row.name).is_empty()
            };
            let selected = rows.volumes.values().filter(|row| selects(request, row));
            selected.filter(unused).cloned().collect()
        };
        let candidate = |row: VolumeRow| PruneCandidate {
            size: self.own_bytes(&row),
            created_at: row.created_at,
            anonymous: row.anonymous,
            name: row.name,
        };
        rows.into_iter().map(candidate).collect()
    }

    /// Removes all volumes nobody refers to, or those of them that the request selects; they can
    /// come back for a while, unless the request or the configuration says otherwise. One that is
    /// taken meanwhile, has snapshots or cannot be removed stays.
    pub fn prune_volumes(&self, request: &VolumePrune) -> Pruned {
        let hours = self.config.prune_undo_hours;
        let forever = request.permanent || hours == 0;
        let mut pruned = Pruned::default();
        for candidate in self.plan_prune(request) {
            let (name, size) = (candidate.name, candidate.size);
            let _guard = self.volume_locks.lock(name.as_str());
            let removed = if forever {
                self.remove_locked(&name)
            } else {
                self.trash_locked(&name, size)
            };
            match removed {
                Ok(()) => {
                    pruned.deleted.push(name.to_string());
                    pruned.space_reclaimed += size;
                }
                Err(
                    VolumeError::InUse { .. }
                    | VolumeError::HasSnapshots { .. }
                    | VolumeError::NotFound(_),
                ) => {}
                Err(error) => tracing::warn!(volume = %name, %error, "cannot prune a volume"),
            }
        }
        pruned.restorable_hours = (!forever && !pruned.deleted.is_empty()).then_some(hours);
        pruned
    }

    /// Stages the directory, has its content made, and moves it into place. One that is there without a
    /// row, as after the loss of the database, becomes the volume with all it holds.
    fn make_volume(
        &self,
        row: VolumeRow,
        fill: impl FnOnce(&Path) -> Result<(), VolumeError>,
    ) -> Result<(), VolumeError> {
        self.finish_removal(&row.name)?;
        let key = self.begin(Intent::MakeVolume(row.clone()))?;
        let result = self.stage_volume(&key, row, fill);
        if result.is_err() {
            self.abandon(&key);
        }
        result
    }

    fn stage_volume(
        &self,
        key: &Key,
        row: VolumeRow,
        fill: impl FnOnce(&Path) -> Result<(), VolumeError>,
    ) -> Result<(), VolumeError> {
        let (staged, directory) = (
            self.layout.staged_volume(key),
            self.layout.volume(&row.name),
        );
        if !recover::exists(&directory)? {
            self.apply(Step::CreateDir {
                path: staged.clone(),
                mode: 0o711,
            })?;
            fill(&staged)?;
            // Last: a journal that has it on disk has the others too, and flushing the directory costs
            // nothing then.
            self.apply(Step::write_sidecar(
                staged.join(VOLUME_SIDECAR),
                &row.as_made(),
            )?)?;
            self.apply(Step::SyncDir {
                path: staged.clone(),
            })?;
            self.apply(Step::Rename {
                from: staged,
                to: directory,
            })?;
            self.apply(Step::SyncDir {
                path: self.layout.volumes(),
            })?;
        }
        Ok(self.apply(Step::Record(vec![
            Change::PutVolume(row),
            Change::DropIntent(key.clone()),
        ]))?)
    }

    /// Completes an earlier removal of the name that could not delete everything.
    fn finish_removal(&self, name: &VolumeName) -> Result<(), StepError> {
        let removals = [
            Intent::RemoveVolume(name.clone()),
            Intent::TrashVolume(name.clone()),
        ];
        let keys: Vec<Key> = {
            let rows = self.store.rows();
            rows.intents
                .iter()
                .filter(|(_, intent)| removals.contains(intent))
                .map(|(key, _)| key.clone())
                .collect()
        };
        keys.iter().try_for_each(|key| self.settle(key))
    }

    fn remove_locked(&self, name: &VolumeName) -> Result<(), VolumeError> {
        let row = self.check_removable(name)?;
        let device = self.removal_of_thin(&row)?;
        let mut keys = vec![crate::new_key()?];
        let mut changes = vec![
            Change::PutIntent(keys[0].clone(), Intent::RemoveVolume(name.clone())),
            Change::DropVolume(name.clone()),
        ];
        if let Some((key, removal)) = device {
            keys.push(key);
            changes.push(removal);
        }
        self.apply(Step::Record(changes))?;
        self.block_io.forget(name);
        self.settle_all(&keys);
        Ok(())
    }

    /// Nobody refers to the volume, and nothing is mounted on it when this returns.
    fn check_removable(&self, name: &VolumeName) -> Result<VolumeRow, VolumeError> {
        let row = {
            let rows = self.store.rows();
            let Some(row) = rows.volumes.get(name) else {
                return Err(not_found(name.as_str()));
            };
            let holders = rows.holder_ids(name);
            if !holders.is_empty() {
                return Err(VolumeError::InUse {
                    volume: name.clone(),
                    holders,
                });
            }
            let names = snapshot::names(&rows, name);
            if !names.is_empty() {
                return Err(VolumeError::HasSnapshots {
                    volume: name.clone(),
                    names,
                });
            }
            row.clone()
        };
        // Left over if a crash came between the mount and its undoing.
        self.apply(Step::Unmount {
            target: self.layout.volume_data(name),
        })?;
        self.block_io.end(name);
        Ok(row)
    }

    /// The name of a volume that exists, or did when it was looked up.
    fn known(&self, name: &str) -> Result<VolumeName, VolumeError> {
        let parsed = VolumeName::parse(name).map_err(|_no_name| not_found(name))?;
        match self.volume_row(&parsed) {
            Some(_) => Ok(parsed),
            None => Err(not_found(name)),
        }
    }

    fn volume_row(&self, name: &VolumeName) -> Option<VolumeRow> {
        self.store.rows().volumes.get(name).cloned()
    }

    /// That of a volume that exists now: it may have gone since its name was looked up.
    fn existing_volume(&self, name: &VolumeName) -> Result<VolumeRow, VolumeError> {
        self.volume_row(name)
            .ok_or_else(|| not_found(name.as_str()))
    }

    fn describe_volume(&self, rows: &Rows, row: &VolumeRow) -> Volume {
        Volume {
            created_at: row.created_at.clone(),
            driver: "local".to_owned(),
            labels: row.labels.clone(),
            mountpoint: self
                .layout
                .volume_data(&row.name)
                .to_string_lossy()
                .into_owned(),
            name: row.name.clone(),
            options: redacted(&row.options),
            scope: "local".to_owned(),
            holders: rows.holder_ids(&row.name),
            anonymous: row.anonymous,
            snapshots: snapshot::names(rows, &row.name),
            status: BTreeMap::new(),
            io: self.block_io.read(&row.name),
            locked: row.key_id.is_some() && self.is_locked(row),
        }
    }
}

fn not_found(name: &str) -> VolumeError {
    VolumeError::NotFound(name.chars().take(64).collect())
}

fn random_name() -> Result<VolumeName, VolumeError> {
    let mut bytes = [0; 32];
    crate::random(&mut bytes)?;
    Ok(VolumeName::parse(Id::from_bytes(bytes).as_str())?)
}

/// Whether a prune request means the volume.
fn selects(request: &VolumePrune, row: &VolumeRow) -> bool {
    let named = |names: &Vec<VolumeName>| names.contains(&row.name);
    (row.anonymous || !request.anonymous)
        && request.names.as_ref().is_none_or(named)
        && request
            .labels
            .iter()
            .all(|filter| has_label(&row.labels, filter))
}

/// `KEY` or `KEY=VALUE`.
fn has_label(labels: &BTreeMap<String, String>, filter: &str) -> bool {
    match filter.split_once('=') {
        Some((key, value)) => labels.get(key).is_some_and(|found| found == value),
        None => labels.contains_key(filter),
    }
}
