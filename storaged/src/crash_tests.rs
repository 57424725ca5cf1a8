//! Crashes and failures between any two steps of every operation.
//!
//! A crash is a panic that unwinds out of the step, with no hook and no cleanup: nothing in this
//! crate cleans up in a destructor. The state directory is then opened again as after `kill -9`.
//! What a power cut adds, lost writes, is the order of steps, which is asserted for itself.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use api::id::Digest;
use api::storage::{ImageCreate, RootfsCreate, VolumeCreate, VolumePopulate};
use redb::Database;
use rustix::mount::MountFlags;

use crate::disk::{Disk, Host, Step, StepError};
use crate::lock::lock;
use crate::model::layout::Layout;
use crate::store::Store;
use crate::{StorageConfig, Storaged};

/// Runs steps until its time has come.
#[derive(Debug)]
struct Fragile {
    host: Host,
    left: AtomicUsize,
    how: How,
    log: Arc<Mutex<Vec<String>>>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum How {
    Crash,
    Fail,
}

struct Crash;

impl Disk for Fragile {
    fn apply(&self, step: &Step) -> Result<(), StepError> {
        let left = self.left.fetch_sub(1, Ordering::SeqCst);
        match (left, self.how) {
            (0, How::Crash) => resume_unwind(Box::new(Crash)),
            (0, How::Fail) => {
                // Only this step: what undoes the operation works.
                let source = std::io::Error::from(std::io::ErrorKind::StorageFull);
                Err(StepError::Io {
                    what: "test",
                    path: "here".into(),
                    source,
                })
            }
            _ => {
                let name = format!("{step:?}");
                lock(&self.log).push(name.split([' ', '(']).next().unwrap_or_default().to_owned());
                self.host.apply(step)
            }
        }
    }
}

const NEVER: usize = usize::MAX;

/// Opens `state` with a disk that breaks at step `at`, counted from the end of the opening.
fn open(state: &Path, at: usize, how: How) -> (Storaged, Arc<Mutex<Vec<String>>>) {
    let database = Arc::new(Database::create(state.join("meta.redb")).unwrap());
    let store = Arc::new(Store::open(database).unwrap());
    let layout = Layout::new(state.to_owned());
    let host = Box::new(Host::new(Arc::clone(&store)));
    let mut storaged =
        Storaged::assemble(layout, StorageConfig::default(), Arc::clone(&store), host).unwrap();
    let log = Arc::default();
    let host = Host::new(store);
    storaged.disk = Box::new(Fragile {
        host,
        left: AtomicUsize::new(at),
        how,
        log: Arc::clone(&log),
    });
    (storaged, log)
}

fn layer(files: &[(&str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(content.len() as u64);
        builder
            .append_data(&mut header, path, content.as_bytes())
            .unwrap();
    }
    builder.into_inner().unwrap()
}

fn import(storaged: &Storaged, files: &[(&str, &str)]) -> Option<Digest> {
    storaged
        .import_layer(None, None, &mut layer(files).as_slice())
        .ok()
        .map(|layer| layer.diff_id)
}

fn image(diff_id: &Digest) -> ImageCreate {
    let rootfs = serde_json::json!({"type": "layers", "diff_ids": [diff_id]});
    ImageCreate {
        config: serde_json::json!({"rootfs": rootfs}).to_string(),
        tags: vec!["web".to_owned()],
    }
}

fn rootfs(storaged: &Storaged, ephemeral: bool) -> bool {
    let image = storaged.image("web").unwrap().id;
    storaged
        .create_rootfs(RootfsCreate {
            container: "c1".to_owned(),
            image,
            ephemeral,
        })
        .is_ok()
}

fn volume(storaged: &Storaged) -> bool {
    storaged
        .create_volume(VolumeCreate {
            name: "data".to_owned(),
            ..VolumeCreate::default()
        })
        .is_ok()
}

fn populate(storaged: &Storaged) -> bool {
    let request = VolumePopulate {
        container: "c1".to_owned(),
        path: "/srv".to_owned(),
    };
    storaged.populate_volume("data", request).is_ok()
}

const FILES: [(&str, &str); 3] = [("srv/a", "one"), ("srv/d/b", "two"), ("etc/c", "three")];

/// One operation, what must be there before it, and what is there once it has succeeded.
struct Story {
    name: &'static str,
    before: fn(&Storaged),
    run: fn(&Storaged) -> bool,
    done: fn(&Storaged, &Path) -> bool,
}

fn with_image(storaged: &Storaged) {
    let diff_id = import(storaged, &FILES).unwrap();
    storaged.create_image(image(&diff_id)).unwrap();
}

fn with_rootfs(storaged: &Storaged) {
    with_image(storaged);
    assert!(rootfs(storaged, false));
}

fn with_volume(storaged: &Storaged) {
    with_rootfs(storaged);
    assert!(volume(storaged));
}

fn is_complete(directory: &Path, files: &[(&str, &str)]) -> bool {
    files.iter().all(|(path, content)| {
        std::fs::read_to_string(directory.join(path)).is_ok_and(|found| found == *content)
    })
}

fn diffs(storaged: &Storaged) -> Vec<std::path::PathBuf> {
    let rows = storaged.store.rows();
    rows.layers
        .values()
        .map(|row| storaged.layout.layer(&row.key).diff())
        .collect()
}

const STORIES: [Story; 9] = [
    Story {
        name: "import a layer",
        before: |_| (),
        run: |storaged| import(storaged, &FILES).is_some(),
        done: |storaged, _| {
            let diffs = diffs(storaged);
            assert!(
                diffs.iter().all(|diff| is_complete(diff, &FILES)),
                "a committed layer lost files"
            );
            !diffs.is_empty()
        },
    },
    Story {
        name: "create an image",
        before: |storaged| drop(import(storaged, &FILES).unwrap()),
        run: |storaged| {
            let diff_id = storaged.layers()[0].diff_id.clone();
            storaged.create_image(image(&diff_id)).is_ok()
        },
        done: |storaged, _| storaged.image("web").is_ok(),
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
        run: |storaged| rootfs(storaged, true),
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
        name: "remove a mounted root filesystem",
        before: |storaged| {
            with_rootfs(storaged);
            storaged.mount_rootfs("c1").unwrap();
        },
        run: |storaged| storaged.remove_rootfs("c1").is_ok(),
        done: |storaged, _| storaged.rootfs("c1").is_err(),
    },
    Story {
        name: "create a volume",
        before: |_| (),
        run: volume,
        done: |storaged, state| {
            storaged.volume("data").is_ok() && state.join("volumes/data/_data").is_dir()
        },
    },
    Story {
        name: "remove a volume",
        before: |storaged| assert!(volume(storaged)),
        run: |storaged| storaged.volume("data").is_err() || storaged.remove_volume("data").is_ok(),
        done: |storaged, state| {
            storaged.volume("data").is_err() && !state.join("volumes/data").exists()
        },
    },
    Story {
        name: "populate a volume",
        before: with_volume,
        run: populate,
        done: |_, state| {
            let data = state.join("volumes/data/_data");
            let complete = is_complete(&data, &[("a", "one"), ("d/b", "two")]);
            assert!(
                complete || std::fs::read_dir(&data).unwrap().next().is_none(),
                "half a copy"
            );
            complete
        },
    },
];

/// Nothing is unaccounted for: every directory has a row, every row a directory, nothing waits.
fn assert_tidy(storaged: &Storaged, state: &Path) {
    let rows = storaged.store.rows();
    assert!(rows.intents.is_empty(), "{:?}", rows.intents);
    for directory in [
        "overlay2/tmp",
        "overlay2/trash",
        "volumes/.staging",
        "volumes/.trash",
    ] {
        assert_eq!(names(&state.join(directory)), [""; 0], "{directory}");
    }
    let keys = rows
        .layers
        .values()
        .map(|row| &row.key)
        .chain(rows.rootfs.values().map(|row| &row.key));
    let mut expected: Vec<String> = keys.map(ToString::to_string).collect();
    expected.extend(["empty", "tmp", "trash"].map(str::to_owned));
    expected.sort();
    assert_eq!(names(&state.join("overlay2")), expected);
    let mut volumes: Vec<String> = rows.volumes.keys().map(ToString::to_string).collect();
    volumes.extend([".staging", ".trash"].map(str::to_owned));
    volumes.sort();
    assert_eq!(names(&state.join("volumes")), volumes);
    for row in rows.rootfs.values() {
        let mounted = sys::mount::is_mount_root(&storaged.layout.layer(&row.key).merged()).unwrap();
        assert_eq!(
            mounted,
            row.mounted_in.is_some(),
            "the row and the mount table disagree"
        );
    }
}

fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// A tmpfs of its own, in a mount namespace of its own.
fn in_state(action: impl FnOnce(&Path)) {
    sys::mount::enter_private_namespace().expect("a private mount namespace: run as root");
    let directory = tempfile::tempdir().unwrap();
    sys::mount::filesystem("tmpfs", "tmpfs", directory.path(), MountFlags::empty(), "").unwrap();
    let result = catch_unwind(AssertUnwindSafe(|| action(directory.path())));
    sys::mount::unmount(directory.path()).unwrap();
    if let Err(panic) = result {
        resume_unwind(panic);
    }
}

/// Breaks `story` at step `at`, or not at all. Returns the steps it took.
fn break_at(story: &Story, state: &Path, at: usize, how: How) -> usize {
    let (storaged, _) = open(state, NEVER, how);
    (story.before)(&storaged);
    drop(storaged);

    let (storaged, log) = open(state, at, how);
    let succeeded = match catch_unwind(AssertUnwindSafe(|| (story.run)(&storaged))) {
        Ok(succeeded) => succeeded,
        Err(panic) if panic.is::<Crash>() => false,
        Err(panic) => resume_unwind(panic),
    };
    let steps = lock(&log).len();
    drop(storaged);

    let (storaged, _) = open(state, NEVER, how);
    assert_tidy(&storaged, state);
    let done = (story.done)(&storaged, state);
    assert!(
        done || !succeeded,
        "acknowledged, and not there after a restart"
    );
    assert!((story.run)(&storaged), "it does not work after a restart");
    assert!((story.done)(&storaged, state));
    assert_tidy(&storaged, state);
    steps
}

#[track_caller]
fn break_everywhere(how: How) {
    for story in &STORIES {
        let mut steps = 0;
        in_state(|state| steps = break_at(story, state, NEVER, how));
        assert!(steps > 0, "{} takes no step", story.name);
        for at in 0..steps {
            println!("{}: {how:?} at step {at} of {steps}", story.name);
            in_state(|state| {
                break_at(story, state, at, how);
            });
        }
    }
}

#[test]
fn a_crash_at_any_step_leaves_all_or_nothing() {
    break_everywhere(How::Crash);
}

#[test]
fn a_failure_at_any_step_leaves_all_or_nothing() {
    break_everywhere(How::Fail);
}

#[test]
fn a_layer_is_flushed_before_it_is_renamed_and_renamed_before_it_is_committed() {
    in_state(|state| {
        let (storaged, log) = open(state, NEVER, How::Crash);
        import(&storaged, &FILES).unwrap();
        let steps = lock(&log).clone();
        let expected = [
            "Record", // the intent
            "CreateDir",
            "CreateDir",
            "WriteSidecar",
            "SyncFilesystem",
            "Rename",
            "SyncDir",
            "SyncDir",
            "Record", // the layer, and the end of the intent
        ];
        assert_eq!(steps, expected);
    });
}

/// The rows of an earlier boot, and a mount table without mounts.
fn reboot(mut storaged: Storaged, state: &Path, run: impl FnOnce(&Storaged)) -> Storaged {
    storaged.boot = "an earlier boot".to_owned();
    run(&storaged);
    let mounted: Vec<_> = {
        let rows = storaged.store.rows();
        rows.rootfs
            .values()
            .map(|row| storaged.layout.layer(&row.key).merged())
            .collect()
    };
    for target in mounted {
        sys::mount::unmount(&target).unwrap();
    }
    drop(storaged);
    open(state, NEVER, How::Crash).0
}

#[test]
fn an_ephemeral_layer_does_not_outlive_its_boot_and_others_do() {
    for (ephemeral, left) in [(true, false), (false, true)] {
        in_state(|state| {
            let (storaged, _) = open(state, NEVER, How::Crash);
            with_image(&storaged);
            let storaged = reboot(storaged, state, |storaged| {
                assert!(rootfs(storaged, ephemeral));
                let merged = storaged.mount_rootfs("c1").unwrap().path;
                std::fs::write(Path::new(&merged).join("torn"), "x").unwrap();
            });
            assert_tidy(&storaged, state);
            let merged = storaged
                .mount_rootfs("c1")
                .expect("the volatile mark is gone")
                .path;
            assert!(is_complete(Path::new(&merged), &FILES));
            assert_eq!(Path::new(&merged).join("torn").exists(), left);
        });
    }
}

#[test]
fn mounts_end_with_their_boot_and_references_of_containers_do_not() {
    in_state(|state| {
        let (storaged, _) = open(state, NEVER, How::Crash);
        let storaged = reboot(storaged, state, |storaged| {
            assert!(volume(storaged));
            storaged.add_volume_user("data", "container1").unwrap();
            storaged.mount_volume("data", "mount1").unwrap();
            assert_eq!(
                storaged.volume("data").unwrap().holders,
                ["container1", "mount1"]
            );
        });
        assert_eq!(storaged.volume("data").unwrap().holders, ["container1"]);
    });
}

#[test]
fn readings_do_not_wait_for_a_mount_that_hangs() {
    in_state(|state| {
        let (storaged, _) = open(state, NEVER, How::Crash);
        assert!(volume(&storaged));
        // A mount in progress holds the volume's lock and nothing else.
        let _mounting = storaged.volume_locks.lock("data");
        let body = br#"{"Name":"data"}"#;
        for verb in ["Get", "List", "Path", "Capabilities"] {
            let (status, _) = storaged.plugin_call(&format!("/VolumeDriver.{verb}"), body);
            assert_eq!(status, 200, "{verb}");
        }
        let other = VolumeCreate {
            name: "other".to_owned(),
            ..VolumeCreate::default()
        };
        storaged
            .create_volume(other)
            .expect("another volume is not held up");
        with_image(&storaged);
    });
}

#[test]
fn directories_that_no_row_names_are_kept() {
    in_state(|state| {
        let (storaged, _) = open(state, NEVER, How::Crash);
        with_volume(&storaged);
        std::fs::write(state.join("volumes/data/_data/f"), "precious").unwrap();
        let layers = names(&state.join("overlay2"));
        drop(storaged);
        // The database is lost.
        std::fs::remove_file(state.join("meta.redb")).unwrap();
        let (storaged, _) = open(state, NEVER, How::Crash);
        assert_eq!(names(&state.join("overlay2")), layers);
        assert!(volume(&storaged), "the name is taken up again");
        let data = storaged.volume("data").unwrap().mountpoint;
        assert_eq!(
            std::fs::read_to_string(Path::new(&data).join("f")).unwrap(),
            "precious"
        );
    });
}
