//! Rows from sidecars, for a database that was lost or is an older copy.
//!
//! What a sidecar tells of and no row does is a *stray*: `check` reports it and `check --repair` puts
//! it on record. After the database had to be replaced, all strays are taken up at once, and rows
//! whose directories are gone are dropped: then the directories are newer than the rows.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use api::id::{Digest, VolumeName};

use crate::disk::{Step, StepError};
use crate::model::layout::{Key, Layout};
use crate::model::record::{Change, ImageRow, Intent, LayerRow, RootfsRow, Rows, VolumeRow};
use crate::recover::exists;
use crate::{Storaged, sidecar};

/// Something on disk that no row tells of.
#[derive(Debug)]
pub(crate) enum Stray {
    /// Its sidecar gives the row.
    Row {
        what: String,
        change: Box<Change>,
    },
    Unknown(PathBuf),
}

impl Storaged {
    /// All strays, in an order in which their rows can be added.
    pub(crate) fn strays(&self, rows: &Rows) -> Result<Vec<Stray>, StepError> {
        let mut search = Search {
            layout: &self.layout,
            layers: rows.layers.keys().cloned().collect(),
            strays: Vec::new(),
        };
        search.layer_store(rows)?;
        search.images(rows)?;
        search.volumes(rows)?;
        Ok(search.strays)
    }

    /// Takes the directories for the truth. Returns what was put on record and what was dropped.
    pub(crate) fn adopt(&self) -> Result<Vec<String>, StepError> {
        let rows = self.store.rows().clone();
        let mut lines = Vec::new();
        let mut changes = self.outdated(&rows, &mut lines)?;
        for stray in self.strays(&rows)? {
            match stray {
                Stray::Row { what, change } => {
                    lines.push(format!("{what}: put on record again"));
                    changes.push(*change);
                }
                Stray::Unknown(path) => {
                    lines.push(format!("{} belongs to nothing on record", path.display()));
                }
            }
        }
        if !changes.is_empty() {
            self.apply(Step::Record(changes))?;
        }
        Ok(lines)
    }

    /// Rows and intents of an older copy that no longer hold.
    fn outdated(&self, rows: &Rows, lines: &mut Vec<String>) -> Result<Vec<Change>, StepError> {
        let mut changes = Vec::new();
        for (key, intent) in &rows.intents {
            let directory = self.layout.layer(key);
            // What was being made then is made now: settling would throw it away.
            let made = exists(&directory.sidecar())? || exists(&directory.rootfs_sidecar())?;
            if *intent == Intent::MakeLayer && made {
                changes.push(Change::DropIntent(key.clone()));
            }
        }
        let mut drop = |what: String, change| {
            lines.push(format!("{what} is gone: dropped from the record"));
            changes.push(change);
        };
        for row in rows.images.values() {
            if !exists(&self.layout.image_sidecar(&row.id))? {
                drop(
                    format!("image {}", row.id),
                    Change::DropImage(row.id.clone()),
                );
            }
        }
        for row in rows.layers.values() {
            if !exists(self.layout.layer(&row.key).path())? {
                let change = Change::DropLayer(row.chain_id.clone());
                drop(format!("layer {}", row.chain_id), change);
            }
        }
        for row in rows.rootfs.values() {
            if !exists(self.layout.layer(&row.key).path())? {
                let change = Change::DropRootfs(row.container.clone());
                drop(
                    format!("root filesystem of container {}", row.container),
                    change,
                );
            }
        }
        for row in rows.volumes.values() {
            if !exists(&self.layout.volume(&row.name))? {
                let change = Change::DropVolume(row.name.clone());
                drop(format!("volume {}", row.name), change);
            }
        }
        Ok(changes)
    }
}

struct Search<'a> {
    layout: &'a Layout,
    /// Layers that are on record, or will be.
    layers: BTreeSet<Digest>,
    strays: Vec<Stray>,
}

impl Search<'_> {
    fn add(&mut self, what: String, change: Change) {
        self.strays.push(Stray::Row {
            what,
            change: Box::new(change),
        });
    }

    fn layer_store(&mut self, rows: &Rows) -> Result<(), StepError> {
        let known: BTreeSet<&Key> = rows
            .layers
            .values()
            .map(|row| &row.key)
            .chain(rows.rootfs.values().map(|row| &row.key))
            .chain(rows.intents.keys())
            .collect();
        let mut layers: BTreeMap<(u32, String), LayerRow> = BTreeMap::new();
        let mut writable: Vec<RootfsRow> = Vec::new();
        for name in names(&self.layout.store())? {
            let Some(key) = Key::parse(&name) else {
                continue;
            };
            if known.contains(&key) {
                continue;
            }
            let directory = self.layout.layer(&key);
            if let Ok(row) = sidecar::read::<LayerRow>(&directory.sidecar())
                && row.key == key
            {
                layers.insert((row.depth, name), row);
            } else if let Ok(row) = sidecar::read::<RootfsRow>(&directory.rootfs_sidecar())
                && row.key == key
                && !rows.rootfs.contains_key(&row.container)
            {
                writable.push(row);
            } else {
                self.strays
                    .push(Stray::Unknown(directory.path().to_owned()));
            }
        }
        // Parents first: they lie less deep.
        for row in layers.into_values() {
            let path = self.layout.layer(&row.key).path().to_owned();
            let orphan = row
                .parent
                .as_ref()
                .is_some_and(|parent| !self.layers.contains(parent));
            if orphan || !self.layers.insert(row.chain_id.clone()) {
                self.strays.push(Stray::Unknown(path));
                continue;
            }
            self.add(format!("layer {}", row.chain_id), Change::PutLayer(row));
        }
        for row in writable {
            if row
                .chain_id
                .as_ref()
                .is_some_and(|chain| !self.layers.contains(chain))
            {
                let path = self.layout.layer(&row.key).path().to_owned();
                self.strays.push(Stray::Unknown(path));
                continue;
            }
            let what = format!("root filesystem of container {}", row.container);
            self.add(what, Change::PutRootfs(row));
        }
        Ok(())
    }

    fn images(&mut self, rows: &Rows) -> Result<(), StepError> {
        let mut taken: BTreeSet<String> = rows
            .images
            .values()
            .flat_map(|image| image.tags.iter().cloned())
            .collect();
        let known: BTreeSet<PathBuf> = rows
            .images
            .keys()
            .map(|id| self.layout.image_sidecar(id))
            .collect();
        for name in names(&self.layout.images())? {
            let path = self.layout.images().join(&name);
            if known.contains(&path) {
                continue;
            }
            let Ok(mut row) = sidecar::read::<ImageRow>(&path) else {
                self.strays.push(Stray::Unknown(path));
                continue;
            };
            if row
                .chain_id
                .as_ref()
                .is_some_and(|chain| !self.layers.contains(chain))
            {
                self.strays.push(Stray::Unknown(path));
                continue;
            }
            // A tag that has moved on since stays where it is.
            row.tags.retain(|tag| taken.insert(tag.clone()));
            self.add(format!("image {}", row.id), Change::PutImage(row));
        }
        Ok(())
    }

    fn volumes(&mut self, rows: &Rows) -> Result<(), StepError> {
        for name in names(&self.layout.volumes())? {
            let Ok(name) = VolumeName::parse(&name) else {
                continue;
            };
            if rows.volumes.contains_key(&name) {
                continue;
            }
            let row = sidecar::read::<VolumeRow>(&self.layout.volume_sidecar(&name));
            match row {
                Ok(row) if row.name == name && exists(&self.layout.volume_data(&name))? => {
                    // Whether image data came in is not known any more; it must not come twice.
                    let populated = exists(&self.layout.volume_image(&name))?
                        || !names(&self.layout.volume_data(&name))?.is_empty();
                    let row = VolumeRow { populated, ..row };
                    self.add(format!("volume {name}"), Change::PutVolume(row));
                }
                _ => self.strays.push(Stray::Unknown(self.layout.volume(&name))),
            }
        }
        Ok(())
    }
}

/// Names in a directory, in order; none if it is not there.
fn names(directory: &Path) -> Result<Vec<String>, StepError> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(StepError::io("list", directory)(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(StepError::io("list", directory))?;
        names.extend(entry.file_name().into_string());
    }
    names.sort();
    Ok(names)
}
