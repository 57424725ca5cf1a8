//! Whether the rows and the directories tell the same story, and whether layers are what they were.
//!
//! A shallow check looks at what is there; a deep one reads every byte of every layer. Repairs only
//! add: rows from sidecars, sidecars from rows. A damaged layer cannot be made good from nothing: a
//! repair marks it, and the next import of the same content replaces it.

use std::path::Path;

use api::doctor::{Difference, Treatment};
use api::storage::{StorageCheck, StorageReport};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::adopt::Stray;
use crate::assemble::{AssembleError, assemble};
use crate::disk::{Step, StepError};
use crate::lock::lock;
use crate::model::layout::Key;
use crate::model::record::{Change, ImageRow, LayerRow, RootfsRow, Rows, VolumeRow};
use crate::recover::exists;
use crate::{Storaged, sidecar, tree_digest};

/// Files of one layer that are named; the rest is counted.
const NAMED: usize = 10;

impl Storaged {
    /// Compares what is on record with what is on disk.
    ///
    /// # Errors
    /// [`StepError`] when something cannot be looked at at all.
    pub fn check(&self, request: &StorageCheck) -> Result<StorageReport, StepError> {
        let rows = self.store.rows().clone();
        let mut report = Report {
            storaged: self,
            repair: request.repair,
            differences: Vec::new(),
        };
        report.intents(&rows)?;
        for row in rows.layers.values() {
            report.layer(row, request.deep)?;
        }
        for row in rows.images.values() {
            report.image(&rows, row)?;
        }
        for row in rows.rootfs.values() {
            report.rootfs(&rows, row)?;
        }
        for row in rows.volumes.values() {
            report.volume(row)?;
        }
        for stray in self.strays(&rows)? {
            report.stray(stray)?;
        }
        Ok(StorageReport {
            differences: report.differences,
            deep: request.deep,
            layers: rows.layers.len() as u64,
            images: rows.images.len() as u64,
            rootfs: rows.rootfs.len() as u64,
            volumes: rows.volumes.len() as u64,
        })
    }
}

struct Report<'a> {
    storaged: &'a Storaged,
    repair: bool,
    differences: Vec<Difference>,
}

impl Report<'_> {
    /// Notes a difference, and repairs it by `step` if that is asked for.
    fn add(&mut self, what: String, remedy: &str, step: Option<Step>) {
        let (state, error) = match step {
            Some(step) if self.repair => match self.storaged.apply(step) {
                Ok(()) => (Treatment::Repaired, String::new()),
                Err(error) => (Treatment::Failed, error.to_string()),
            },
            _ => (Treatment::Found, String::new()),
        };
        self.differences.push(Difference {
            what,
            remedy: remedy.to_owned(),
            state,
            error,
        });
    }

    fn intents(&mut self, rows: &Rows) -> Result<(), StepError> {
        for (key, intent) in &rows.intents {
            // Of a request that is under way, most likely: then it is gone in a moment.
            if !self.storaged.is_stuck(key) {
                continue;
            }
            if self.repair {
                self.storaged.settle_all(std::slice::from_ref(key));
            }
            let left = self.storaged.store.rows().intents.contains_key(key);
            self.differences.push(Difference {
                what: format!("work {key} was begun and not ended: {}", intent.name()),
                remedy: "settle it".to_owned(),
                state: match (self.repair, left) {
                    (false, _) => Treatment::Found,
                    (true, false) => Treatment::Repaired,
                    (true, true) => Treatment::Failed,
                },
                error: String::new(),
            });
        }
        Ok(())
    }

    fn layer(&mut self, row: &LayerRow, deep: bool) -> Result<(), StepError> {
        let damage = match self.damage_of(row, deep) {
            // Removed since the check began.
            _ if !self
                .storaged
                .store
                .rows()
                .layers
                .contains_key(&row.chain_id) =>
            {
                return Ok(());
            }
            Ok(damage) => damage,
            Err(error) => vec![format!("cannot be read: {error}")],
        };
        if damage.is_empty() {
            let path = self.storaged.layout.layer(&row.key).sidecar();
            return self.sidecar(&path, row, &format!("layer {}", row.chain_id));
        }
        let mark = Change::PutLayer(LayerRow {
            damaged: true,
            ..row.clone()
        });
        for what in damage {
            let what = format!("layer {}{}: {what}", row.chain_id, self.users(row));
            // Marked is not mended: it stays a difference.
            self.add(what, "load the image again, which replaces the layer", None);
        }
        if self.repair && !row.damaged {
            self.storaged.apply(Step::Record(vec![mark]))?;
        }
        Ok(())
    }

    /// The images that a layer belongs to, for the message.
    fn users(&self, row: &LayerRow) -> String {
        let rows = self.storaged.store.rows();
        let has = |image: &&ImageRow| {
            rows.chain(image.chain_id.as_ref())
                .any(|layer| layer.chain_id == row.chain_id)
        };
        let names: Vec<String> = rows
            .images
            .values()
            .filter(has)
            .map(|image| {
                image
                    .tags
                    .first()
                    .cloned()
                    .unwrap_or_else(|| image.id.to_string())
            })
            .collect();
        if names.is_empty() {
            String::new()
        } else {
            format!(" (of {})", names.join(", "))
        }
    }

    fn damage_of(&self, row: &LayerRow, deep: bool) -> Result<Vec<String>, StepError> {
        let directory = self.storaged.layout.layer(&row.key);
        if row.damaged {
            return Ok(vec!["an earlier check found it damaged".to_owned()]);
        }
        if !exists(&directory.diff())? {
            return Ok(vec!["its directory is missing".to_owned()]);
        }
        if let Some(missing) = self.storaged.driver.lacks(&directory) {
            return Ok(vec![missing.to_owned()]);
        }
        if !exists(&directory.record())? {
            return Ok(vec!["the record of its archive is missing".to_owned()]);
        }
        if !deep {
            return Ok(Vec::new());
        }
        let _shown = self
            .storaged
            .driver
            .show(&directory)
            .map_err(StepError::io("show", &directory.diff()))?;
        let mut damage = Vec::new();
        let mut count = 0;
        let mut note = |error: AssembleError| {
            count += 1;
            if count <= NAMED {
                damage.push(error.to_string());
            }
            Ok(())
        };
        let found = assemble(&directory, &mut std::io::sink(), &mut note);
        if count > NAMED {
            damage.push(format!("and {} more files", count - NAMED));
        }
        match found {
            Ok(digest) if digest != row.diff_id && damage.is_empty() => {
                damage.push(format!("its archive is {digest}, not {}", row.diff_id));
            }
            Ok(_) => {}
            Err(error) => damage.push(error.to_string()),
        }
        let diff = directory.diff();
        match tree_digest::of(&diff).map_err(StepError::io("read the tree of", &diff)) {
            Ok(tree) => {
                let has_changed = row.tree.as_ref().is_some_and(|taken| *taken != tree);
                if has_changed && damage.is_empty() {
                    let what = "owners, modes, times, names or attributes in it have changed";
                    damage.push(what.to_owned());
                }
            }
            Err(error) => damage.push(error.to_string()),
        }
        Ok(damage)
    }

    fn image(&mut self, rows: &Rows, row: &ImageRow) -> Result<(), StepError> {
        let name = row
            .tags
            .first()
            .cloned()
            .unwrap_or_else(|| row.id.to_string());
        let subject = format!("image {name}");
        if row.chain_id.is_some() && !rows.is_whole(row.chain_id.as_ref()) {
            let what = format!("{subject}: a layer of it is not on record");
            self.add(what, "load the image again", None);
        }
        let path = self.storaged.layout.image_sidecar(&row.id);
        self.sidecar(&path, row, &subject)
    }

    fn rootfs(&mut self, rows: &Rows, row: &RootfsRow) -> Result<(), StepError> {
        let subject = format!("root filesystem of container {}", row.container);
        let directory = self.storaged.layout.layer(&row.key);
        if !exists(&directory.diff())? {
            if self.storaged.rootfs(&row.container).is_ok() {
                let what = format!("{subject}: its directory is missing");
                self.add(what, "remove the container", None);
            }
            return Ok(());
        }
        if row.chain_id.is_some() && !rows.is_whole(row.chain_id.as_ref()) {
            let what = format!("{subject}: a layer of its image is not on record");
            self.add(what, "load the image again", None);
        }
        if row.ephemeral {
            return Ok(());
        }
        self.sidecar(&directory.rootfs_sidecar(), &row.at_rest(), &subject)
    }

    fn volume(&mut self, row: &VolumeRow) -> Result<(), StepError> {
        let subject = format!("volume {}", row.name);
        if !exists(&self.storaged.layout.volume_data(&row.name))? {
            if self.storaged.volume(row.name.as_str()).is_ok() {
                let what = format!("{subject}: its directory is missing");
                self.add(what, "restore it from a copy, or remove the volume", None);
            }
            return Ok(());
        }
        let image = self.storaged.layout.volume_image(&row.name);
        let is_image = row.spec().is_ok_and(|spec| spec.is_image());
        if is_image && !exists(&image)? && self.storaged.volume(row.name.as_str()).is_ok() {
            let what = format!("{subject}: its filesystem {} is missing", image.display());
            self.add(what, "restore it from a copy, or remove the volume", None);
        }
        if self.storaged.lacks_device(row) {
            let what = format!("{subject}: its thin device is not on record");
            self.add(what, "remove the volume", None);
        }
        let path = self.storaged.layout.volume_sidecar(&row.name);
        self.sidecar(&path, &row.as_made(), &subject)
    }

    fn sidecar<T>(&mut self, path: &Path, row: &T, subject: &str) -> Result<(), StepError>
    where
        T: Serialize + DeserializeOwned + PartialEq,
    {
        let what = match sidecar::read::<T>(path) {
            Ok(found) if found == *row => return Ok(()),
            Ok(_) => "says something else",
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => "is missing",
            Err(_) => "cannot be read",
        };
        let what = format!("{subject}: its sidecar {} {what}", path.display());
        let step = Step::replace_sidecar(path.to_owned(), row)?;
        self.add(what, "write it again", Some(step));
        Ok(())
    }

    fn stray(&mut self, stray: Stray) -> Result<(), StepError> {
        let (what, change) = match stray {
            Stray::Row { what, change } => (what, change),
            Stray::Unknown(path) => {
                let what = format!("{} belongs to nothing on record", path.display());
                self.add(what, "delete it if you know that nobody needs it", None);
                return Ok(());
            }
        };
        self.add(
            what,
            "put it on record again",
            Some(Step::Record(vec![*change])),
        );
        Ok(())
    }
}

impl Storaged {
    /// Whether work was begun and is not under way.
    fn is_stuck(&self, key: &Key) -> bool {
        lock(&self.stuck).contains(key)
    }
}
