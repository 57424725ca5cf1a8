//! The storage subsystem: layers, images, root filesystems and volumes.
//!
//! ```text
//! STATE/meta.redb                  rows of this crate and of netd, one file (store.rs)
//! STATE/<driver>/<key>/diff        one layer, or a container's writable layer …
//! STATE/overlay2/<key>/{work,merged}                       … which also has these
//! STATE/overlay2/{tmp,trash,empty}
//! STATE/volumes/<name>/_data       one volume
//! STATE/volumes/{.staging,.trash}
//! ```
//!
//! Invariants:
//! * Nothing is acknowledged before it is durable, and a row in `meta.redb` is the one commit
//!   point of every operation. A layer's files are on disk before its row is ([`layer`]).
//! * Everything that must not be seen half done is announced by an intent row first, and
//!   [`recover`] settles the intents of a crash in the same way as those of a failed call.
//! * What no row and no intent names is never deleted: a lost database costs no data.
//! * Volumes are referred to by a durable set of holders, not by a counter.
//! * Opening never unmounts: containers outlive the daemon.
//! * Input is hostile: paths inside layers and volumes are resolved with `openat2` from a
//!   directory descriptor, never as strings ([`tree`]).
//!
//! All calls are synchronous and may block on disks; readings come from memory and never wait for
//! a mutation.

mod acl;
mod adopt;
mod arrival;
mod assemble;
mod changes;
mod check;
mod config;
mod disk;
mod driver;
mod error;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod handing;
mod image;
mod image_prune;
mod import;
mod layer;
mod lock;
mod metrics;
mod model;
mod owners;
mod plugin;
mod reason;
mod recipe;
mod recover;
mod rootfs;
mod rootfs_size;
mod shown;
mod sidecar;
mod store;
mod tar_writer;
mod thin;
mod tree;
mod tree_digest;
mod usage;
mod volume;
mod writable;
mod xattr;

#[cfg(test)]
mod crash_tests;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex};

use redb::Database;

pub use config::{DeviceNodes, Driver as DriverName, Limits, StorageConfig};
pub use disk::StepError;
pub use image::ImageError;
pub use import::EntryError;
pub use layer::LayerError;
pub use owners::OwnerError;
pub use recover::OpenError;
pub use rootfs::RootfsError;
pub use store::StoreError;
pub use thin::SetupError;
pub use volume::VolumeError;

use arrival::Arrivals;
use disk::{Disk, Host};
use driver::Driver;
use layer::Leases;
use lock::KeyedLocks;
use metrics::Counters;
use model::layout::{Key, Layout};
use store::Store;
use usage::Sizes;
use volume::io::BlockIo;

/// What [`Storaged::open`] needs.
#[derive(Debug)]
pub struct Options {
    /// Durable state; made if it is missing.
    pub state_dir: PathBuf,
    /// `meta.redb`, shared with netd; the tables here are called `storage.…`.
    pub database: Arc<Database>,
    pub config: StorageConfig,
    /// The database is older than the directories, or empty: rows are made from their sidecars.
    pub adopt: bool,
}

/// The open storage subsystem. Share it behind an [`Arc`].
#[derive(Debug)]
pub struct Storaged {
    config: StorageConfig,
    layout: Layout,
    store: Arc<Store>,
    disk: Box<dyn Disk>,
    driver: Box<dyn Driver>,
    boot: String,
    /// Held while references between images, layers and root filesystems change; never while a
    /// stream is read or files are copied.
    graph: Mutex<Leases>,
    volume_locks: KeyedLocks,
    rootfs_locks: KeyedLocks,
    /// The project number given out last.
    projects: AtomicU32,
    arrivals: Arrivals,
    /// Work that could not be settled when it was tried last.
    stuck: Mutex<BTreeSet<Key>>,
    sizes: Arc<Sizes>,
    block_io: BlockIo,
    counters: Counters,
}

impl Storaged {
    /// Opens the state directory: probes the driver by a real mount, settles what a crash left
    /// behind and drops what belongs to an earlier boot. Live mounts stay.
    ///
    /// # Errors
    /// [`OpenError`] says what to change on the host.
    pub fn open(options: Options) -> Result<Self, OpenError> {
        let Options {
            state_dir,
            database,
            config,
            adopt,
        } = options;
        let name = config.driver.unwrap_or_default();
        let store = Arc::new(Store::open(database, name)?);
        let disk = Box::new(Host::new(Arc::clone(&store)));
        Self::assemble(Layout::new(state_dir, name), config, store, disk, adopt)
    }

    /// Name of the layer driver: the directory below the state directory.
    pub fn driver(&self) -> &'static str {
        self.driver.name()
    }

    /// Rows of `info` about the driver, in order.
    pub fn driver_status(&self) -> Vec<(String, String)> {
        self.driver.status()
    }

    /// Appends this subsystem's metrics in the Prometheus text format.
    pub fn metrics(&self, out: &mut String) {
        metrics::write(out, &self.store.rows(), &self.counters);
        metrics::containers(out, &self.usage().rootfs);
        // All of them: no name can be missing.
        metrics::volumes(out, &self.volume_stats(&[]).unwrap_or_default());
    }
}

/// Now, as the rows keep it: RFC 3339 with seconds.
fn now() -> String {
    let second = jiff::Timestamp::now().as_second();
    jiff::Timestamp::from_second(second).map_or_else(|_never| String::new(), |now| now.to_string())
}

fn new_key() -> Result<Key, StepError> {
    let mut bytes = [0; 16];
    random(&mut bytes)?;
    Ok(Key::from_bytes(bytes))
}

fn random(bytes: &mut [u8]) -> Result<(), StepError> {
    getrandom::fill(bytes).map_err(StepError::Random)
}
