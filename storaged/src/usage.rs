//! How much space everything takes, answered from what is on record.
//!
//! Sizes of layers are committed with them. Writable layers and volumes change under way: they are
//! measured by a thread in the background, one at a time and without any lock, and an answer waits
//! for it only for a moment. With a few containers it is done by then, with thousands the answer has
//! what was measured last.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use api::id::Digest;
use api::storage::{ImageUsage, RootfsUsage, StorageUsage, VolumeUsage};

use crate::image_prune::created;
use crate::lock::lock;
use crate::model::record::{ImageRow, Rows};
use crate::tree::Size;
use crate::{Storaged, tree};

/// How long an answer waits for fresh sizes.
const PATIENCE: Duration = Duration::from_millis(20);
/// A size is measured again when it is older, and the longer the longer that took.
const MIN_AGE: Duration = Duration::from_millis(500);
const AGE_PER_COST: u32 = 20;

#[derive(Debug, Clone, Copy)]
struct Measured {
    size: Size,
    at: Instant,
    cost: Duration,
}

impl Measured {
    fn is_stale(&self) -> bool {
        self.at.elapsed() > MIN_AGE.max(self.cost * AGE_PER_COST)
    }
}

/// Sizes by directory.
#[derive(Debug, Default)]
pub(crate) struct Sizes {
    state: Mutex<State>,
    done: Condvar,
}

#[derive(Debug, Default)]
struct State {
    known: BTreeMap<PathBuf, Measured>,
    /// A thread is measuring.
    busy: bool,
}

impl Sizes {
    /// The sizes of `paths`, which are all there are, as far as they are known in a moment.
    fn of(self: &Arc<Self>, paths: &BTreeSet<PathBuf>) -> BTreeMap<PathBuf, Size> {
        let mut state = lock(&self.state);
        state.known.retain(|path, _| paths.contains(path));
        let stale: Vec<PathBuf> = paths
            .iter()
            .filter(|path| state.known.get(*path).is_none_or(Measured::is_stale))
            .cloned()
            .collect();
        if !stale.is_empty() && !state.busy {
            state.busy = true;
            let sizes = Arc::clone(self);
            let measure = move || sizes.measure(stale);
            let thread = std::thread::Builder::new().name("sizes".to_owned());
            if let Err(error) = thread.spawn(measure) {
                tracing::warn!(%error, "cannot measure sizes");
                state.busy = false;
            }
        }
        let (state, _timed_out) = self
            .done
            .wait_timeout_while(state, PATIENCE, |state| state.busy)
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let known = state.known.iter();
        known
            .map(|(path, measured)| (path.clone(), measured.size))
            .collect()
    }

    fn measure(&self, paths: Vec<PathBuf>) {
        for path in paths {
            let start = Instant::now();
            let size = tree::size(&path);
            let measured = Measured {
                size,
                at: Instant::now(),
                cost: start.elapsed(),
            };
            lock(&self.state).known.insert(path, measured);
        }
        lock(&self.state).busy = false;
        self.done.notify_all();
    }
}

impl Storaged {
    /// What images, root filesystems and volumes take.
    pub fn usage(&self) -> StorageUsage {
        let rows = self.store.rows().clone();
        let sizes = self.measured(&rows);
        let size = |path| sizes.get(&path).copied();
        let rootfs = |key| self.layout.layer(key).diff();
        StorageUsage {
            layers_size: rows.layers.values().map(|layer| layer.size).sum(),
            layers_used: layers_used(&rows),
            images: images(&rows),
            rootfs: rows
                .rootfs
                .values()
                .map(|row| {
                    let size = size(rootfs(&row.key));
                    RootfsUsage {
                        container: row.container.clone(),
                        size: size.map(|size| size.bytes),
                        inodes: size.map(|size| size.inodes),
                    }
                })
                .collect(),
            volumes: rows
                .volumes
                .values()
                .map(|row| {
                    let size = size(self.measured_path(row));
                    VolumeUsage {
                        name: row.name.clone(),
                        size: size.map(|size| size.bytes),
                        inodes: size.map(|size| size.inodes),
                        holders: rows.holder_ids(&row.name).len() as u64,
                    }
                })
                .collect(),
        }
    }

    /// Sizes by directory, of all root filesystems and volumes.
    pub(crate) fn measured(&self, rows: &Rows) -> BTreeMap<PathBuf, Size> {
        let rootfs = rows.rootfs.values();
        let rootfs = rootfs.map(|row| self.layout.layer(&row.key).diff());
        let paths = rootfs.chain(self.measured_volumes(rows)).collect();
        self.sizes.of(&paths)
    }
}

/// Bytes of the layers that stay however many images without a container go.
fn layers_used(rows: &Rows) -> u64 {
    let rootfs = rows.rootfs.values();
    let chains: BTreeSet<&Digest> = rootfs.filter_map(|row| row.chain_id.as_ref()).collect();
    let layers = chains.into_iter().flat_map(|chain| rows.chain(Some(chain)));
    let sizes: BTreeMap<&Digest, u64> = layers.map(|layer| (&layer.chain_id, layer.size)).collect();
    sizes.values().sum()
}

fn images(rows: &Rows) -> Vec<ImageUsage> {
    let mut owners: BTreeMap<&Digest, u32> = BTreeMap::new();
    for image in rows.images.values() {
        for layer in rows.chain(image.chain_id.as_ref()) {
            *owners.entry(&layer.chain_id).or_default() += 1;
        }
    }
    let mut containers: BTreeMap<&Digest, u64> = BTreeMap::new();
    for row in rows.rootfs.values() {
        *containers.entry(&row.image).or_default() += 1;
    }
    let usage = |image: &ImageRow| {
        let (mut size, mut shared) = (0, 0);
        for layer in rows.chain(image.chain_id.as_ref()) {
            size += layer.size;
            if owners.get(&layer.chain_id).is_some_and(|count| *count > 1) {
                shared += layer.size;
            }
        }
        ImageUsage {
            id: image.id.clone(),
            tags: image.tags.iter().cloned().collect(),
            created: created(image).unwrap_or_else(|| image.added.clone()),
            size,
            shared,
            containers: containers.get(&image.id).copied().unwrap_or_default(),
        }
    };
    rows.images.values().map(usage).collect()
}
