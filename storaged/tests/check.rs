//! Every class of damage is found, named, and repaired where it can be.

#![expect(
    clippy::unwrap_used,
    reason = "a fixture that cannot be made fails its test"
)]

mod support;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use api::doctor::Treatment;
use api::storage::{StorageCheck, StorageReport, VolumeCreate};
use redb::Database;
use rustix::mount::MountFlags;
use storaged::{Options, StorageConfig, Storaged};
use support::{Entry, State, archive, create, dir, file, image, ls, mounted, read};

fn entries() -> [Entry; 3] {
    [
        dir("etc"),
        file("etc/conf", "as it was"),
        file("etc/other", "x"),
    ]
}

fn report(storaged: &Storaged, deep: bool, repair: bool) -> StorageReport {
    storaged.check(&StorageCheck { deep, repair }).unwrap()
}

/// What differs, in words; empty when all is well.
fn differences(storaged: &Storaged, deep: bool) -> Vec<String> {
    let report = report(storaged, deep, false);
    report.differences.into_iter().map(|one| one.what).collect()
}

#[track_caller]
fn finds(storaged: &Storaged, deep: bool, what: &str) {
    let found = differences(storaged, deep);
    assert!(
        found.len() == 1 && found[0].contains(what),
        "{what}: {found:?}"
    );
}

/// A state with one of everything, and the directory of its layer.
fn furnished(state: &State) -> (Storaged, PathBuf) {
    let storaged = state.open();
    let image = image(&storaged, "web", &[&entries()]);
    let layer = state.layer_directories().remove(0);
    create(&storaged, "c1", &image, false);
    let volume = VolumeCreate {
        name: "data".to_owned(),
        ..VolumeCreate::default()
    };
    storaged.create_volume(volume).unwrap();
    assert_eq!(
        differences(&storaged, true),
        [""; 0],
        "all is well at first"
    );
    (storaged, layer)
}

fn rootfs_directory(state: &State, layer: &Path) -> PathBuf {
    let mut directories = state.layer_directories();
    directories.retain(|directory| directory != layer);
    directories.remove(0)
}

#[test]
fn damaged_layers_are_named_marked_and_replaced_by_the_next_import() {
    type Damage = fn(&Path);
    let rows: [(Damage, bool, &str); 8] = [
        (
            |layer| std::fs::remove_dir_all(layer).unwrap(),
            false,
            "its directory is missing",
        ),
        (
            |layer| std::fs::remove_file(layer.join("archive")).unwrap(),
            false,
            "the record of its archive is missing",
        ),
        (
            |layer| std::fs::write(layer.join("archive"), "x").unwrap(),
            true,
            "cannot read its record",
        ),
        (
            |layer| std::fs::write(layer.join("diff/etc/conf"), "AS IT WAS").unwrap(),
            true,
            "file \"etc/conf\" has other content now",
        ),
        (
            |layer| std::fs::write(layer.join("diff/etc/conf"), "").unwrap(),
            true,
            "file \"etc/conf\" has other content now",
        ),
        (
            |layer| std::fs::remove_file(layer.join("diff/etc/other")).unwrap(),
            true,
            "file \"etc/other\" is missing",
        ),
        (
            |layer| std::fs::write(layer.join("diff/etc/intruder"), "").unwrap(),
            true,
            "owners, modes, times, names or attributes in it have changed",
        ),
        (
            |layer| std::os::unix::fs::chown(layer.join("diff/etc/conf"), Some(7), None).unwrap(),
            true,
            "owners, modes, times, names or attributes in it have changed",
        ),
    ];
    for (damage, deep, what) in rows {
        let state = State::new();
        let (storaged, layer) = furnished(&state);
        damage(&layer);
        if deep {
            assert_eq!(
                differences(&storaged, false),
                [""; 0],
                "{what}: only reading tells"
            );
        }
        finds(&storaged, deep, what);
        finds(&storaged, deep, "(of web:latest)");
        let repaired = report(&storaged, deep, true);
        assert!(!repaired.is_well(), "nothing can be made of nothing");
        finds(&storaged, false, "layer sha256:");
        drop(storaged);

        let storaged = state.open();
        image(&storaged, "web", &[&entries()]);
        assert_eq!(
            differences(&storaged, true),
            [""; 0],
            "{what}: the import has replaced it"
        );
        let merged = PathBuf::from(storaged.mount_rootfs("c1").unwrap().path);
        assert_eq!(read(merged.join("etc/conf")), "as it was");
        assert_eq!(ls(merged.join("etc")), "conf other");
        assert!(state.leftovers().is_empty());
    }
}

#[test]
fn a_damaged_layer_is_not_taken_from_under_a_running_container() {
    let state = State::new();
    let (storaged, layer) = furnished(&state);
    storaged.mount_rootfs("c1").unwrap();
    std::fs::write(layer.join("diff/etc/conf"), "other").unwrap();
    report(&storaged, true, true);
    let error = storaged
        .import_layer(None, None, &mut archive(&entries()).as_slice())
        .unwrap_err()
        .to_string();
    assert!(error.contains("container c1 runs on it"), "{error}");
    storaged.unmount_rootfs("c1").unwrap();
    image(&storaged, "web", &[&entries()]);
    assert_eq!(differences(&storaged, true), [""; 0]);
}

#[test]
fn sidecars_are_written_again() {
    let state = State::new();
    let (storaged, layer) = furnished(&state);
    let rootfs = rootfs_directory(&state, &layer);
    let image = std::fs::read_dir(state.path().join("overlay2/images"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    for path in [
        layer.join("layer.json"),
        rootfs.join("rootfs.json"),
        state.path().join("volumes/data/volume.json"),
        image,
    ] {
        let whole = read(&path);
        std::fs::remove_file(&path).unwrap();
        finds(&storaged, false, "is missing");
        assert!(report(&storaged, false, true).is_well());
        assert_eq!(read(&path), whole);
        std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        finds(&storaged, false, "cannot be read");
        assert!(report(&storaged, false, true).is_well());
        assert_eq!(read(&path), whole);
    }
    assert_eq!(differences(&storaged, true), [""; 0]);
}

#[test]
fn missing_directories_of_containers_and_volumes_are_named() {
    let state = State::new();
    let (storaged, layer) = furnished(&state);
    std::fs::remove_dir_all(rootfs_directory(&state, &layer)).unwrap();
    finds(
        &storaged,
        false,
        "root filesystem of container c1: its directory is missing",
    );
    storaged.remove_rootfs("c1").unwrap();
    std::fs::remove_dir_all(state.path().join("volumes/data")).unwrap();
    finds(&storaged, false, "volume data: its directory is missing");
    storaged.remove_volume("data").unwrap();
    assert_eq!(differences(&storaged, true), [""; 0]);
}

#[test]
fn what_belongs_to_nothing_is_reported_and_never_deleted() {
    let state = State::new();
    let (storaged, _) = furnished(&state);
    let stranger = state
        .path()
        .join("overlay2/00000000000000000000000000000000");
    std::fs::create_dir(&stranger).unwrap();
    std::fs::create_dir_all(state.path().join("volumes/stranger/_data")).unwrap();
    let found = differences(&storaged, false);
    assert_eq!(found.len(), 2, "{found:?}");
    let repaired = report(&storaged, false, true);
    assert!(
        repaired
            .differences
            .iter()
            .all(|one| one.state == Treatment::Found)
    );
    assert!(stranger.exists());
}

fn open_anew(state: &State, adopt: bool) -> Storaged {
    std::fs::remove_file(state.path().join("meta.redb")).unwrap();
    let database = Database::create(state.path().join("meta.redb")).unwrap();
    Storaged::open(Options {
        state_dir: state.path().to_owned(),
        database: Arc::new(database),
        config: StorageConfig::default(),
        adopt,
    })
    .unwrap()
}

/// An empty database in the place of the lost one: by a start that knows, or by a repair.
#[test]
fn a_lost_database_is_made_anew_from_the_sidecars() {
    for adopt in [true, false] {
        let state = State::new();
        let (storaged, _) = furnished(&state);
        let upper: &[Entry] = &[file("upper", "u")];
        image(&storaged, "two", &[&entries(), upper]);
        let merged = PathBuf::from(storaged.mount_rootfs("c1").unwrap().path);
        std::fs::write(merged.join("written"), "by the container").unwrap();
        let volume = storaged.volume("data").unwrap();
        std::fs::write(Path::new(&volume.mountpoint).join("f"), "precious").unwrap();
        let before = (
            storaged.images(),
            storaged.layers(),
            storaged.rootfs("c1").unwrap(),
        );
        drop(storaged);

        let storaged = open_anew(&state, adopt);
        if !adopt {
            assert!(storaged.images().is_empty());
            assert!(report(&storaged, false, true).is_well());
        }
        let after = (
            storaged.images(),
            storaged.layers(),
            storaged.rootfs("c1").unwrap(),
        );
        assert_eq!(before, after);
        assert_eq!(storaged.volume("data").unwrap(), volume);
        assert_eq!(differences(&storaged, true), [""; 0]);
        assert_eq!(
            read(merged.join("written")),
            "by the container",
            "still mounted"
        );
        storaged.remove_rootfs("c1").unwrap();
        for image in ["two", "web"] {
            storaged.remove_image(image, false).unwrap();
        }
        assert!(state.layer_directories().is_empty() && state.leftovers().is_empty());
        assert_eq!(differences(&storaged, true), [""; 0]);
    }
}

/// The database is the copy of an earlier start: what was made since is taken up, what was removed
/// since is dropped, and nothing that is there is settled away.
#[test]
fn an_older_database_is_brought_up_to_the_directories() {
    let state = State::new();
    let (storaged, _) = furnished(&state);
    let gone: &[Entry] = &[file("gone", "x")];
    image(&storaged, "gone", &[gone]);
    drop(storaged);
    let (now, copy) = (state.path().join("meta.redb"), state.path().join("copy"));
    std::fs::copy(&now, &copy).unwrap();
    let storaged = state.open();
    storaged.remove_image("gone", false).unwrap();
    let young: &[Entry] = &[file("young", "y")];
    let young = image(&storaged, "young", &[young]);
    create(&storaged, "c2", &young, false);
    let before = (
        storaged.images(),
        storaged.layers(),
        storaged.rootfs("c2").unwrap(),
    );
    drop(storaged);
    std::fs::rename(&copy, &now).unwrap();

    let storaged = Storaged::open(Options {
        state_dir: state.path().to_owned(),
        database: Arc::new(Database::create(&now).unwrap()),
        config: StorageConfig::default(),
        adopt: true,
    })
    .unwrap();
    let after = (
        storaged.images(),
        storaged.layers(),
        storaged.rootfs("c2").unwrap(),
    );
    assert_eq!(before, after);
    assert_eq!(differences(&storaged, true), [""; 0]);
}

#[test]
fn a_store_that_becomes_read_only_fails_calls_and_loses_nothing() {
    let state = State::new();
    let (storaged, _) = furnished(&state);
    let store = state.path().join("overlay2");
    sys::mount::bind(&store, &store, false, MountFlags::RDONLY).unwrap();
    let error = storaged
        .import_layer(None, None, &mut archive(&[file("f", "x")]).as_slice())
        .unwrap_err()
        .to_string();
    assert!(error.contains("Read-only file system"), "{error}");
    assert!(storaged.image("web").is_ok(), "readings go on");
    sys::mount::unmount(&store).unwrap();
    drop(storaged);
    let storaged = state.open();
    assert_eq!(differences(&storaged, true), [""; 0]);
    mounted(&storaged, "c2", &storaged.image("web").unwrap());
}
