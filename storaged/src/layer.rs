//! Committed layers: import, listing, collection.
//!
//! The order of a commit is the promise of this module (and `crash_tests` holds it to it):
//! intent row → staging directory → content, hashed on the way → `syncfs` → rename and `fsync` of
//! both directories → layer row, in one transaction with the end of the intent. A power cut at any
//! point leaves either no layer or all of it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use api::id::Digest;
use api::storage::Layer;

use crate::assemble::assemble;
use crate::disk::{Step, StepError};
use crate::import::{self, EntryError, Stacking, Target, Unpacked};
use crate::lock::lock;
use crate::model::chain::chain_id;
use crate::model::gc;
use crate::model::layout::Key;
use crate::model::record::{Change, Intent, LayerRow, RootfsRow, Rows};
use crate::recover::exists;
use crate::{Storaged, tree_digest};

/// How long an imported layer waits for the image that names it.
const LEASE: Duration = Duration::from_secs(3600);

#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    #[error("no such parent layer: {0}; import the layers of an image bottom first")]
    NoParent(Digest),
    #[error("too many layers: a chain has at most {max}", max = sys::mount::MAX_LOWER_LAYERS)]
    TooDeep,
    #[error(transparent)]
    Content(#[from] EntryError),
    #[error("the layer's content is {found}, not {expected}: it was damaged or is another one")]
    Mismatch { expected: Digest, found: Digest },
    #[error("no such layer: {0}")]
    NotFound(Digest),
    #[error(
        "layer {layer} is damaged: {reason}; hawser storage check --deep says what else is, and loading its image again replaces it"
    )]
    Damaged { layer: Digest, reason: String },
    #[error(
        "layer {layer} is damaged, and container {container} runs on it: stop the container, then load the image again"
    )]
    InUse { layer: Digest, container: String },
    #[error(transparent)]
    Step(#[from] StepError),
}

/// Layers that an image is about to name, by the top of their chain.
#[derive(Debug, Default)]
pub(crate) struct Leases(BTreeMap<Digest, Instant>);

impl Leases {
    fn take(&mut self, chain: &Digest) {
        self.0.insert(chain.clone(), Instant::now());
    }

    pub(crate) fn end(&mut self, chains: &[Digest]) {
        for chain in chains {
            self.0.remove(chain);
        }
    }

    pub(crate) fn extend(&mut self, chains: impl Iterator<Item = Digest>) {
        for chain in chains {
            self.take(&chain);
        }
    }

    fn live(&mut self) -> BTreeSet<Digest> {
        self.0.retain(|_, taken| taken.elapsed() < LEASE);
        self.0.keys().cloned().collect()
    }
}

impl Storaged {
    /// Commits the tar stream (plain, gzip or zstd) as a layer on top of `parent`.
    ///
    /// A layer that exists is returned as it is; the stream is still read to its end and compared.
    ///
    /// # Errors
    /// [`LayerError`]. Nothing is left of a layer that fails.
    pub fn import_layer(
        &self,
        parent: Option<&Digest>,
        expected: Option<&Digest>,
        stream: &mut (dyn Read + Send),
    ) -> Result<Layer, LayerError> {
        if let Some(parent) = parent
            && !self.has_layer(parent)
        {
            return Err(LayerError::NoParent(parent.clone()));
        }
        self.import(parent, expected, stream)
    }

    /// The same on top of a layer that may still be on its way: it is unpacked meanwhile, and
    /// committed after it.
    ///
    /// # Errors
    /// [`LayerError::NoParent`] also when the import of the parent fails.
    pub fn import_layer_meanwhile(
        &self,
        parent: Option<&Digest>,
        expected: &Digest,
        stream: &mut (dyn Read + Send),
    ) -> Result<Layer, LayerError> {
        // From here on whoever imports the next one knows of this one.
        let _arrival = self.arrivals.announce(chain_id(parent, expected));
        if let Some(parent) = parent
            && !self.arrivals.expect(parent, || self.has_layer(parent))
        {
            return Err(LayerError::NoParent(parent.clone()));
        }
        self.import(parent, Some(expected), stream)
    }

    fn import(
        &self,
        parent: Option<&Digest>,
        expected: Option<&Digest>,
        stream: &mut (dyn Read + Send),
    ) -> Result<Layer, LayerError> {
        let known = expected.map(|diff_id| chain_id(parent, diff_id));
        if let (Some(expected), Some(known)) =
            (expected, known.and_then(|chain| self.lease(&chain)))
            && self.is_sound(&known)?
        {
            check(expected, import::digest(stream, &self.config.limits)?)?;
            return Ok(layer(&known));
        }
        let key = self.begin(Intent::MakeLayer)?;
        let result = self.make_layer(&key, parent, expected, stream);
        self.counters.imported(&result);
        if result.is_err() {
            self.abandon(&key);
        }
        result.map(|row| layer(&row))
    }

    fn has_layer(&self, chain: &Digest) -> bool {
        self.store.rows().layers.contains_key(chain)
    }

    /// All committed layers.
    pub fn layers(&self) -> Vec<Layer> {
        self.store.rows().layers.values().map(layer).collect()
    }

    /// The layers below, once none of them is on its way any more.
    fn below(&self, parent: Option<&Digest>) -> Result<Vec<PathBuf>, LayerError> {
        if let Some(parent) = parent {
            self.arrivals.settle(parent, || self.has_layer(parent));
        }
        let rows = self.store.rows();
        if let Some(parent) = parent
            && !rows.layers.contains_key(parent)
        {
            return Err(LayerError::NoParent(parent.clone()));
        }
        let lowers = self.lower_paths(&rows, parent);
        if lowers.len() >= sys::mount::MAX_LOWER_LAYERS {
            return Err(LayerError::TooDeep);
        }
        Ok(lowers)
    }

    /// The content directories of a chain, top first.
    pub(crate) fn lower_paths(&self, rows: &Rows, top: Option<&Digest>) -> Vec<PathBuf> {
        rows.chain(top)
            .map(|layer| self.layout.layer(&layer.key).diff())
            .collect()
    }

    fn make_layer(
        &self,
        key: &Key,
        parent: Option<&Digest>,
        expected: Option<&Digest>,
        stream: &mut (dyn Read + Send),
    ) -> Result<LayerRow, LayerError> {
        let staged = self.layout.staged_layer(key);
        self.apply(Step::CreateDir {
            path: staged.path().to_owned(),
            mode: 0o700,
        })?;
        self.apply(Step::CreateDir {
            path: staged.diff(),
            mode: 0o755,
        })?;
        let stacking = if self.driver.keeps_differences() {
            Stacking::Differences(Box::new(|| {
                self.below(parent).map_err(std::io::Error::other)
            }))
        } else {
            let lowers = self.below(parent)?;
            self.driver
                .begin_layer(&staged, &lowers, &|step| self.apply(step))?;
            Stacking::Whole
        };
        let target = Target {
            diff: staged.diff(),
            record: staged.record(),
            replaced: staged.replaced(),
            stacking,
            limits: &self.config.limits,
            device_nodes: self.config.device_nodes,
            may_lack_end: expected.is_some(),
        };
        let unpacked = import::unpack(stream, target);
        // Whatever else is wrong: without what is below there is no layer.
        let depth = self.below(parent)?.len() + 1;
        let Unpacked {
            diff_id,
            size,
            archive_size,
            entries,
        } = unpacked?;
        if let Some(expected) = expected {
            check(expected, diff_id.clone())?;
        }
        let tree = tree_digest::of(&staged.diff())
            .map_err(StepError::io("read the tree of", &staged.diff()))?;
        let row = LayerRow {
            chain_id: chain_id(parent, &diff_id),
            diff_id,
            parent: parent.cloned(),
            key: key.clone(),
            size,
            archive_size,
            entries,
            damaged: false,
            tree: Some(tree),
            depth: u32::try_from(depth).map_err(|_too_many| LayerError::TooDeep)?,
        };
        self.apply(Step::write_sidecar(staged.sidecar(), &row)?)?;
        self.driver
            .finish_layer(&staged, &|step| self.apply(step))?;
        self.apply(Step::SyncFilesystem {
            path: staged.path().to_owned(),
        })?;
        self.publish(row)
    }

    /// The committed layer `chain`.
    ///
    /// # Errors
    /// [`LayerError::NotFound`].
    pub fn layer(&self, chain: &Digest) -> Result<Layer, LayerError> {
        Ok(layer(&self.layer_row(chain)?))
    }

    /// Writes the archive that a layer was made of, byte for byte, uncompressed.
    ///
    /// # Errors
    /// [`LayerError::Damaged`] when the layer does not give it any more, which the last byte tells:
    /// `out` has seen wrong bytes then and must not take them for the layer.
    pub fn export_layer(&self, chain: &Digest, out: &mut dyn Write) -> Result<(), LayerError> {
        let row = self.layer_row(chain)?;
        let damaged = |reason| LayerError::Damaged {
            layer: chain.clone(),
            reason,
        };
        let directory = self.layout.layer(&row.key);
        let _shown = self
            .driver
            .show(&directory)
            .map_err(|error| damaged(error.to_string()))?;
        let found =
            assemble(&directory, out, &mut Err).map_err(|error| damaged(error.to_string()))?;
        if found == row.diff_id {
            Ok(())
        } else {
            Err(damaged(format!("its archive is {found} now")))
        }
    }

    fn layer_row(&self, chain: &Digest) -> Result<LayerRow, LayerError> {
        let row = self.store.rows().layers.get(chain).cloned();
        row.ok_or_else(|| LayerError::NotFound(chain.clone()))
    }

    /// Moves a durable layer into place and commits its row; or returns the one that was faster.
    fn publish(&self, row: LayerRow) -> Result<LayerRow, LayerError> {
        let mut leases = lock(&self.graph);
        leases.take(&row.chain_id);
        let present = self.store.rows().layers.get(&row.chain_id).cloned();
        match &present {
            Some(winner) if self.is_sound(winner)? => {
                self.abandon(&row.key);
                return Ok(winner.clone());
            }
            Some(damaged) => self.refuse_if_mounted(damaged)?,
            None => {}
        }
        // The parent may have been collected while the stream was read.
        if let Some(parent) = &row.parent
            && !self.store.rows().layers.contains_key(parent)
        {
            return Err(LayerError::NoParent(parent.clone()));
        }
        self.move_into_place(&row.key)?;
        let mut changes = vec![
            Change::PutLayer(row.clone()),
            Change::DropIntent(row.key.clone()),
        ];
        let replaced = present.map(|damaged| damaged.key);
        let removal = |key| Change::PutIntent(key, Intent::RemoveLayer);
        changes.extend(replaced.clone().map(removal));
        self.apply(Step::Record(changes))?;
        self.settle_all(replaced.as_slice());
        Ok(row)
    }

    /// Whether a layer is what it was, as far as a glance tells.
    fn is_sound(&self, row: &LayerRow) -> Result<bool, StepError> {
        Ok(!row.damaged && exists(&self.layout.layer(&row.key).record())?)
    }

    /// A damaged layer cannot be taken from under a container that runs on it.
    fn refuse_if_mounted(&self, damaged: &LayerRow) -> Result<(), LayerError> {
        let rows = self.store.rows();
        let stands_on = |row: &&RootfsRow| {
            row.mounted_in.is_some()
                && rows
                    .chain(row.chain_id.as_ref())
                    .any(|layer| layer.chain_id == damaged.chain_id)
        };
        match rows.rootfs.values().find(stands_on) {
            None => Ok(()),
            Some(row) => Err(LayerError::InUse {
                layer: damaged.chain_id.clone(),
                container: row.container.clone(),
            }),
        }
    }

    /// Renames the staged directory `key` and makes that durable.
    pub(crate) fn move_into_place(&self, key: &Key) -> Result<(), StepError> {
        self.rename_into_place(key)?;
        self.apply(Step::SyncDir {
            path: self.layout.store(),
        })?;
        self.apply(Step::SyncDir {
            path: self.layout.layer_tmp(),
        })
    }

    pub(crate) fn rename_into_place(&self, key: &Key) -> Result<(), StepError> {
        let from = self.layout.staged_layer(key).path().to_owned();
        let to = self.layout.layer(key).path().to_owned();
        self.apply(Step::Rename { from, to })
    }

    /// The committed layer `chain`, kept from collection for the image to come.
    fn lease(&self, chain: &Digest) -> Option<LayerRow> {
        let mut leases = lock(&self.graph);
        let row = self.store.rows().layers.get(chain).cloned()?;
        leases.take(chain);
        Some(row)
    }

    /// Drops the rows of layers nothing refers to, and returns them. The caller holds the graph,
    /// and settles the intents that delete the directories once it does not any more.
    ///
    /// A failure is for the next collection: nobody asked for this one.
    pub(crate) fn collect(&self, leases: &mut Leases) -> Vec<LayerRow> {
        let garbage = gc::unreferenced(&self.store.rows(), &leases.live());
        if garbage.is_empty() {
            return garbage;
        }
        let remove = |layer: &LayerRow| {
            [
                Change::PutIntent(layer.key.clone(), Intent::RemoveLayer),
                Change::DropLayer(layer.chain_id.clone()),
            ]
        };
        match self.apply(Step::Record(garbage.iter().flat_map(remove).collect())) {
            Ok(()) => garbage,
            Err(error) => {
                tracing::warn!(%error, "cannot collect unused layers");
                Vec::new()
            }
        }
    }
}

fn check(expected: &Digest, found: Digest) -> Result<(), LayerError> {
    if *expected == found {
        Ok(())
    } else {
        Err(LayerError::Mismatch {
            expected: expected.clone(),
            found,
        })
    }
}

fn layer(row: &LayerRow) -> Layer {
    Layer {
        chain_id: row.chain_id.clone(),
        diff_id: row.diff_id.clone(),
        parent: row.parent.clone(),
        size: row.size,
        archive_size: row.archive_size,
        entries: row.entries,
    }
}
