//! Crashes and failures between any two steps of every operation.
//!
//! A crash is a panic that unwinds out of the step, with no hook and no cleanup: nothing in this
//! crate cleans up in a destructor. The state directory is then opened again as after `kill -9`.
//! What a power cut adds, lost writes, is the order of steps, which is asserted for itself.

mod archives;
mod containers;
mod encrypted;
mod filesystems;
mod mounted;
mod repair;
mod stories;
mod thin;
mod thin_volumes;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};

use api::storage::{StorageCheck, VolumePrune};
use redb::Database;
use rustix::mount::MountFlags;

use crate::config::Driver;
use crate::disk::{Disk, Host, Step, StepError};
use crate::lock::lock;
use crate::model::layout::{Key, Layout};
use crate::model::record::{Taker, Uptime};
use crate::model::trash::Moment;
use crate::store::Store;
use crate::{StorageConfig, Storaged};
use stories::{
    FILES, LAYERS, LOOPS, Story, VOLUMES, handed, import, is_complete, rootfs, volume, with_image,
    with_volume,
};

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

/// With the steps that it takes.
type Opened = (Storaged, Arc<Mutex<Vec<String>>>);

/// A kind of store that operations are broken on.
#[derive(Clone, Copy)]
struct Bed {
    /// Mounts the filesystem that is below the state directory on it.
    mount: fn(&Path),
    /// Opens a state directory with a disk that breaks at a step, counted from the end of the
    /// opening.
    open: fn(&Path, usize, How) -> Opened,
    assert_tidy: fn(&Storaged, &Path),
}

const DIRECTORIES: Bed = Bed {
    mount: mount_tmpfs,
    open,
    assert_tidy,
};

fn open(state: &Path, at: usize, how: How) -> Opened {
    open_with(Driver::Overlay2, state, at, how)
}

fn open_with(driver: Driver, state: &Path, at: usize, how: How) -> Opened {
    let database = Arc::new(Database::create(state.join("meta.redb")).unwrap());
    let store = Arc::new(Store::open(database, driver).unwrap());
    let layout = Layout::new(state.to_owned(), driver);
    let host = Box::new(Host::new(Arc::clone(&store)));
    let config = StorageConfig {
        driver: Some(driver),
        ..StorageConfig::default()
    };
    let mut storaged = Storaged::assemble(layout, config, Arc::clone(&store), host, false).unwrap();
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

/// Nothing is unaccounted for: every directory has a row, every row a directory, nothing waits.
fn assert_tidy(storaged: &Storaged, state: &Path) {
    let request = StorageCheck {
        deep: true,
        repair: false,
    };
    let report = storaged.check(&request).unwrap();
    assert!(report.differences.is_empty(), "{:?}", report.differences);
    let rows = storaged.store.rows();
    assert!(rows.intents.is_empty(), "{:?}", rows.intents);
    let driver = state.join(storaged.driver());
    for directory in [
        driver.join("tmp"),
        driver.join("trash"),
        state.join("volumes/.staging"),
    ] {
        assert_eq!(names(&directory), [""; 0], "{}", directory.display());
    }
    let trash: Vec<&str> = rows.trash.keys().map(Key::as_str).collect();
    assert_eq!(names(&state.join("volumes/.trash")), trash);
    for volume in rows.volumes.keys() {
        let snapshots = storaged.layout.snapshots(volume);
        if snapshots.exists() {
            let of_volume = rows.snapshots_of(volume);
            let mut keys: Vec<&str> = of_volume.iter().map(|row| row.key.as_str()).collect();
            keys.sort_unstable();
            assert_eq!(names(&snapshots), keys);
        }
    }
    let keys = rows
        .layers
        .values()
        .map(|row| &row.key)
        .chain(rows.rootfs.values().map(|row| &row.key));
    let mut expected: Vec<String> = keys.map(ToString::to_string).collect();
    expected.extend(["empty", "images", "tmp", "trash"].map(str::to_owned));
    expected.sort();
    assert_eq!(names(&driver), expected);
    let mut volumes: Vec<String> = rows.volumes.keys().map(ToString::to_string).collect();
    volumes.extend([".staging", ".trash"].map(str::to_owned));
    volumes.sort();
    assert_eq!(names(&state.join("volumes")), volumes);
    for row in rows.rootfs.values() {
        // Of vfs, nothing is mounted.
        if storaged.driver() == Driver::Vfs.name() {
            continue;
        }
        let mounted = sys::mount::is_mount_root(&storaged.layout.layer(&row.key).merged()).unwrap();
        let used = mounted || storaged.user(row, None).unwrap().is_some();
        assert_eq!(
            used,
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

fn mount_tmpfs(state: &Path) {
    sys::mount::filesystem("tmpfs", "tmpfs", state, MountFlags::empty(), "").unwrap();
}

/// A tmpfs of its own, in a mount namespace of its own.
fn in_state(action: impl FnOnce(&Path)) {
    in_state_on(mount_tmpfs, action);
}

fn in_state_on(mount: fn(&Path), action: impl FnOnce(&Path)) {
    sys::mount::enter_private_namespace().expect("a private mount namespace: run as root");
    let directory = tempfile::tempdir().unwrap();
    mount(directory.path());
    let result = catch_unwind(AssertUnwindSafe(|| action(directory.path())));
    while sys::mount::unmount(directory.path()).unwrap() {}
    if let Err(panic) = result {
        resume_unwind(panic);
    }
}

/// Breaks `story` at step `at`, or not at all. Returns the steps it took.
fn break_at(bed: &Bed, story: &Story, state: &Path, at: usize, how: How) -> usize {
    let (storaged, _) = (bed.open)(state, NEVER, how);
    (story.before)(&storaged);
    drop(storaged);

    let (storaged, log) = (bed.open)(state, at, how);
    let succeeded = match catch_unwind(AssertUnwindSafe(|| (story.run)(&storaged))) {
        Ok(succeeded) => succeeded,
        Err(panic) if panic.is::<Crash>() => false,
        Err(panic) => resume_unwind(panic),
    };
    let steps = lock(&log).len();
    drop(storaged);

    let (storaged, _) = (bed.open)(state, NEVER, how);
    (bed.assert_tidy)(&storaged, state);
    let done = (story.done)(&storaged, state);
    assert!(
        done || !succeeded,
        "acknowledged, and not there after a restart"
    );
    assert!((story.run)(&storaged), "it does not work after a restart");
    assert!((story.done)(&storaged, state));
    (bed.assert_tidy)(&storaged, state);
    steps
}

#[track_caller]
fn break_everywhere(bed: &Bed, stories: &[Story], how: How) {
    for story in stories {
        let mut steps = 0;
        in_state_on(bed.mount, |state| {
            steps = break_at(bed, story, state, NEVER, how);
        });
        assert!(steps > 0, "{} takes no step", story.name);
        for at in 0..steps {
            println!("{}: {how:?} at step {at} of {steps}", story.name);
            in_state_on(bed.mount, |state| {
                break_at(bed, story, state, at, how);
            });
        }
    }
}

#[test]
fn a_crash_at_any_step_leaves_all_or_nothing() {
    for stories in [&LAYERS[..], &VOLUMES, &LOOPS] {
        break_everywhere(&DIRECTORIES, stories, How::Crash);
    }
}

#[test]
fn a_failure_at_any_step_leaves_all_or_nothing() {
    for stories in [&LAYERS[..], &VOLUMES, &LOOPS] {
        break_everywhere(&DIRECTORIES, stories, How::Fail);
    }
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

/// Nobody sees what it was given; a later process may have its number.
#[test]
fn what_a_dead_process_was_given_is_free() {
    in_state(|state| {
        let (storaged, _) = open(state, NEVER, How::Crash);
        with_image(&storaged);
        assert!(rootfs(&storaged, true));
        assert!(handed(&storaged));
        let give = |storaged: &Storaged, boot: &str, start_time: u64| {
            let row = storaged.existing_rootfs("c1").unwrap();
            let taker = Taker {
                boot: boot.to_owned(),
                pid: std::process::id(),
                start_time,
            };
            let mounted_in = Some(boot.to_owned());
            storaged.set_use(row, mounted_in, Some(taker)).unwrap();
        };
        let boot = storaged.boot.clone();
        let alive = sys::process::start_time(std::process::id()).unwrap();
        give(&storaged, &boot, alive);
        drop(storaged);
        let (mut storaged, _) = open(state, NEVER, How::Crash);
        storaged.mount_rootfs("c1").unwrap_err();
        for (boot, start_time) in [(boot.as_str(), alive + 1), ("an earlier boot", alive)] {
            give(&storaged, boot, start_time);
            drop(storaged);
            storaged = open(state, NEVER, How::Crash).0;
            assert!(storaged.store.rows().rootfs["c1"].mounted_in.is_none());
            assert_tidy(&storaged, state);
            storaged.mount_rootfs("c1").unwrap();
            storaged.unmount_rootfs("c1").unwrap();
        }
    });
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
fn a_clock_that_jumps_empties_no_trash() {
    in_state(|state| {
        let (storaged, _) = open(state, NEVER, How::Crash);
        assert!(volume(&storaged));
        let prune = VolumePrune::default();
        assert_eq!(storaged.prune_volumes(&prune).deleted, ["data"]);
        let now = storaged.moment();
        let later = |hours: u64| Moment {
            wall: now.wall + 365 * 24 * 3600,
            uptime: Uptime {
                boot: now.uptime.boot.clone(),
                seconds: now.uptime.seconds + hours * 3600,
            },
        };
        assert_eq!(storaged.expire_trash_at(&later(23)).deleted, [""; 0]);
        let kept_until = &storaged.trashed_volumes()[0].kept_until;
        let until: jiff::Timestamp = kept_until.parse().unwrap();
        let off = until.as_second() - (now.wall + 24 * 3600);
        assert!(off.abs() < 60, "{kept_until}");
        storaged.restore_volume("data").unwrap();
        storaged.prune_volumes(&prune);
        assert_eq!(storaged.expire_trash_at(&later(25)).deleted, ["data"]);
        assert_tidy(&storaged, state);
    });
}

/// A kernel that mounts nothing on one volume until it is told to.
#[derive(Debug)]
struct Hanging {
    host: Host,
    begun: SyncSender<()>,
    end: Mutex<Receiver<()>>,
}

impl Disk for Hanging {
    fn apply(&self, step: &Step) -> Result<(), StepError> {
        if let Step::MountVolume { target, .. } = step
            && target.ends_with("hangs/_data")
        {
            self.begun.send(()).unwrap();
            lock(&self.end).recv().unwrap();
        }
        self.host.apply(step)
    }
}

#[test]
fn nothing_but_its_own_volume_waits_for_a_mount_that_hangs() {
    in_state(|state| {
        let (mut storaged, _) = open(state, NEVER, How::Crash);
        let (begun, begins) = sync_channel(1);
        let (ends, end) = sync_channel(1);
        storaged.disk = Box::new(Hanging {
            host: Host::new(Arc::clone(&storaged.store)),
            begun,
            end: Mutex::new(end),
        });
        let call = |verb: &str, name: &str| {
            let opts = r#"{"type":"tmpfs","device":"tmpfs"}"#;
            let body = format!(r#"{{"Name":{name:?},"ID":"m1","Opts":{opts}}}"#);
            let (status, reply) =
                storaged.plugin_call(&format!("/VolumeDriver.{verb}"), body.as_bytes());
            assert_eq!(status, 200, "{verb} {name}: {}", reply.err);
        };
        call("Create", "hangs");
        std::thread::scope(|scope| {
            let mounting = scope.spawn(|| call("Mount", "hangs"));
            begins.recv().unwrap();
            for verb in ["Get", "List", "Path", "Capabilities"] {
                call(verb, "hangs");
            }
            for verb in ["Create", "Mount", "Get", "Path", "Unmount", "Remove"] {
                call(verb, "other");
            }
            assert_eq!(storaged.volume_stats(&[]).unwrap().len(), 1);
            with_image(&storaged);
            assert!(!mounting.is_finished());
            ends.send(()).unwrap();
        });
        call("Unmount", "hangs");
        call("Remove", "hangs");
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
