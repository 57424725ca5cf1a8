//! The same for layers and root filesystems on a pool of thin devices, and for the pool's beginning.

use std::collections::BTreeMap;
use std::fs::create_dir_all;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use api::id::Digest;
use api::storage::StorageCheck;
use redb::Database;

use super::stories::{
    FILES, Story, handed, import, is_complete, layer, rootfs, with_image, with_rootfs,
};
use super::{
    Bed, Crash, Fragile, How, NEVER, Opened, break_everywhere, in_state, mount_tmpfs, names,
};
use crate::config::Driver as Name;
use crate::disk::{Host, Step};
use crate::driver::Driver;
use crate::driver::devicemapper::Devicemapper;
use crate::lock::lock;
use crate::model::layout::Layout;
use crate::model::thin_options;
use crate::store::Store;
use crate::thin::fake::Fake;
use crate::thin::{Pool, PoolError};
use crate::{StepError, StorageConfig, Storaged};

fn store(state: &Path) -> Arc<Store> {
    let database = Arc::new(Database::create(state.join("meta.redb")).unwrap());
    Arc::new(Store::open(database, Name::Devicemapper).unwrap())
}

fn fake(state: &Path) -> Fake {
    let directory = state.join("pool");
    create_dir_all(&directory).unwrap();
    Fake(directory)
}

fn start(
    state: &Path,
    store: &Arc<Store>,
    apply: &dyn Fn(Step) -> Result<(), StepError>,
) -> Result<Arc<Pool>, PoolError> {
    let options = ["dm.allow_loop=true".to_owned()];
    let options = thin_options::parse(&options).unwrap();
    let place = "directories".to_owned();
    Pool::start(
        Box::new(fake(state)),
        options,
        place,
        Arc::clone(store),
        apply,
    )
}

fn open(state: &Path, at: usize, how: How) -> Opened {
    let store = store(state);
    let layout = Layout::new(state.to_owned(), Name::Devicemapper);
    let host = Host::new(Arc::clone(&store));
    for (path, _) in layout.skeleton() {
        create_dir_all(path).unwrap();
    }
    let pool = start(state, &store, &|step| {
        crate::disk::Disk::apply(&host, &step)
    })
    .unwrap();
    let driver: Box<dyn Driver> = Box::new(Devicemapper::new(pool, &layout));
    let config = StorageConfig::default();
    let mut storaged = Storaged::with_driver(
        layout,
        config,
        Arc::clone(&store),
        Box::new(host),
        driver,
        false,
    )
    .unwrap();
    let log = Arc::default();
    storaged.disk = Box::new(Fragile {
        host: Host::new(store),
        left: AtomicUsize::new(at),
        how,
        log: Arc::clone(&log),
    });
    (storaged, log)
}

/// Every device has a row and a directory, and the other way round; nothing waits, and nothing of a
/// layer is mounted.
fn assert_tidy(storaged: &Storaged, state: &Path) {
    let request = StorageCheck {
        deep: true,
        repair: false,
    };
    let report = storaged.check(&request).unwrap();
    assert!(report.differences.is_empty(), "{:?}", report.differences);
    let rows = storaged.store.rows();
    assert!(rows.intents.is_empty(), "{:?}", rows.intents);
    let pool = rows.pool.as_ref().unwrap();
    assert!(rows.devices.values().all(|device| !device.is_coming));
    let mut ids: Vec<u32> = rows.devices.values().map(|device| device.id).collect();
    ids.sort_unstable();
    assert_eq!(fake(state).ids(), ids);
    let number = std::fs::read_to_string(state.join("pool/transaction")).unwrap();
    assert_eq!(number, pool.transaction.to_string());
    let keys = rows.layers.values().map(|row| &row.key);
    let keys = keys.chain(rows.rootfs.values().map(|row| &row.key));
    let mut expected: Vec<String> = keys.map(ToString::to_string).collect();
    let trashed = rows.trash.values().map(|row| &row.volume);
    let volumes = rows.volumes.values().chain(trashed);
    let volumes = volumes.filter_map(|row| row.device.as_ref());
    let snapshots = rows.snapshots.values().map(|row| &row.key);
    let of_volumes: Vec<_> = volumes.chain(snapshots).collect();
    for key in &of_volumes {
        assert!(rows.devices.contains_key(key), "a volume has no device");
    }
    // One more is the base.
    assert_eq!(expected.len() + of_volumes.len() + 1, ids.len());
    for key in &expected {
        let diff = state.join("devicemapper").join(key).join("diff");
        assert!(!sys::mount::is_mount_root(&diff).unwrap());
    }
    expected.extend(["empty", "images", "tmp", "trash"].map(str::to_owned));
    expected.sort();
    assert_eq!(names(&state.join("devicemapper")), expected);
    for directory in ["devicemapper/tmp", "devicemapper/trash"] {
        assert_eq!(names(&state.join(directory)), [""; 0], "{directory}");
    }
}

/// What a committed layer holds, whichever driver there is.
pub(super) fn content(
    storaged: &Storaged,
    chain: &Digest,
    look: impl FnOnce(&Path) -> bool,
) -> bool {
    let key = storaged.store.rows().layers[chain].key.clone();
    let directory = storaged.layout.layer(&key);
    let _shown = storaged.driver.show(&directory).unwrap();
    look(&directory.diff())
}

fn second(storaged: &Storaged) -> bool {
    let parent = storaged
        .layers()
        .iter()
        .find(|layer| layer.parent.is_none())
        .unwrap()
        .chain_id
        .clone();
    let archive = layer(&[("etc/.wh.c", ""), ("etc/d", "four")]);
    storaged
        .import_layer(Some(&parent), None, &mut archive.as_slice())
        .is_ok()
}

pub(super) const THIN: Bed = Bed {
    mount: mount_tmpfs,
    open,
    assert_tidy,
};

const STORIES: [Story; 8] = [
    Story {
        name: "import a layer",
        before: |_| (),
        run: |storaged| import(storaged, &FILES).is_some(),
        done: |storaged, _| {
            let layers = storaged.layers();
            let whole = |path: &Path| is_complete(path, &FILES);
            for layer in &layers {
                assert!(content(storaged, &layer.chain_id, whole), "it lost files");
            }
            !layers.is_empty()
        },
    },
    Story {
        name: "import a layer on another",
        before: |storaged| drop(import(storaged, &FILES).unwrap()),
        run: second,
        done: |storaged, _| {
            let layers = storaged.layers();
            let top = layers.iter().find(|layer| layer.parent.is_some());
            if let Some(top) = top {
                let differs = |path: &Path| {
                    let files = [FILES[0], FILES[1], ("etc/d", "four")];
                    is_complete(path, &files) && !path.join("etc/c").exists()
                };
                assert!(content(storaged, &top.chain_id, differs), "it lost files");
            }
            top.is_some()
        },
    },
    Story {
        name: "remove an image",
        before: with_image,
        run: |storaged| {
            storaged.image("web").is_err() || storaged.remove_image("web", false).is_ok()
        },
        done: |storaged, _| storaged.image("web").is_err(),
    },
    Story {
        name: "create a root filesystem",
        before: with_image,
        run: |storaged| rootfs(storaged, false),
        done: |storaged, _| storaged.rootfs("c1").is_ok(),
    },
    Story {
        name: "mount a root filesystem",
        before: with_rootfs,
        run: |storaged| {
            storaged
                .mount_rootfs("c1")
                .is_ok_and(|mount| is_complete(Path::new(&mount.path), &FILES))
        },
        done: |storaged, _| storaged.store.rows().rootfs["c1"].mounted_in.is_some(),
    },
    Story {
        name: "let a root filesystem grow",
        before: |storaged| {
            with_rootfs(storaged);
            storaged.mount_rootfs("c1").unwrap();
        },
        run: |storaged| storaged.resize_rootfs("c1", &larger()).is_ok(),
        done: |storaged, _| storaged.store.rows().rootfs["c1"].size == Some(20 << 30),
    },
    Story {
        name: "hand over a root filesystem",
        before: with_rootfs,
        run: handed,
        done: |storaged, _| {
            let (_, root) = storaged.open_rootfs("c1").unwrap();
            let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&root));
            assert!(is_complete(&PathBuf::from(path), &FILES));
            storaged.store.rows().rootfs["c1"].mounted_in.is_some()
        },
    },
    Story {
        name: "remove a mounted root filesystem",
        before: |storaged| {
            with_rootfs(storaged);
            storaged.mount_rootfs("c1").unwrap();
        },
        run: |storaged| storaged.remove_rootfs("c1").is_ok(),
        done: |storaged, _| storaged.rootfs("c1").is_err(),
    },
];

fn larger() -> BTreeMap<String, String> {
    [("size".to_owned(), "20g".to_owned())].into()
}

#[test]
fn a_crash_at_any_step_leaves_all_of_a_device_or_nothing() {
    break_everywhere(&THIN, &STORIES, How::Crash);
}

#[test]
fn a_failure_at_any_step_leaves_all_of_a_device_or_nothing() {
    break_everywhere(&THIN, &STORIES, How::Fail);
}

#[test]
fn a_layers_filesystem_is_flushed_and_unmounted_before_it_is_committed() {
    in_state(|state| {
        let (storaged, log) = open(state, NEVER, How::Crash);
        import(&storaged, &FILES).unwrap();
        let expected = [
            "Record", // the intent
            "CreateDir",
            "CreateDir",
            "Record", // the device is coming
            "TellPool",
            "TellPool", // the transaction's number
            "Record",   // the device is there
            "MountThin",
            "WriteSidecar",
            "SyncFilesystem",
            "Unmount",
            "SyncFilesystem",
            "Rename",
            "SyncDir",
            "SyncDir",
            "Record", // the layer, and the end of the intent
        ];
        assert_eq!(*lock(&log), expected);
    });
}

#[test]
fn a_pool_that_was_begun_is_begun_again() {
    for at in 0..6 {
        in_state(|state| {
            {
                let store = store(state);
                let host = Host::new(Arc::clone(&store));
                let left = std::cell::Cell::new(at);
                let apply = |step| {
                    if left.get() == 0 {
                        resume_unwind(Box::new(Crash));
                    }
                    left.set(left.get() - 1);
                    crate::disk::Disk::apply(&host, &step)
                };
                let started = catch_unwind(AssertUnwindSafe(|| start(state, &store, &apply)));
                assert!(started.is_err(), "it takes {at} steps only");
            }
            let (storaged, _) = open(state, NEVER, How::Crash);
            assert_tidy(&storaged, state);
        });
    }
}

#[test]
fn a_pool_of_another_time_is_not_written_to() {
    in_state(|state| {
        let (storaged, _) = open(state, NEVER, How::Crash);
        with_image(&storaged);
        drop(storaged);
        let ids = fake(state).ids();
        for number in [1, 7] {
            fake(state).set_transaction(number);
            let store = store(state);
            let host = Host::new(Arc::clone(&store));
            let apply = |step| crate::disk::Disk::apply(&host, &step);
            let error = start(state, &store, &apply).unwrap_err().to_string();
            assert!(error.contains("not of one time"), "{error}");
            assert_eq!(fake(state).ids(), ids);
        }
        // Nor is one that nothing is known of.
        std::fs::remove_file(state.join("meta.redb")).unwrap();
        let store = store(state);
        let host = Host::new(Arc::clone(&store));
        let apply = |step| crate::disk::Disk::apply(&host, &step);
        let error = start(state, &store, &apply).unwrap_err().to_string();
        assert!(error.contains("none on record"), "{error}");
    });
}
