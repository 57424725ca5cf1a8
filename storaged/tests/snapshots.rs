//! Snapshots, clones, and pruned volumes that come back.

mod support;

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use api::ErrorCode;
use api::storage::{SnapshotCreate, VolumeClone, VolumeCreate, VolumePrune};
use storaged::{StorageConfig, Storaged};
use support::{State, ls, read, refused, with_options};

fn create(storaged: &Storaged, name: &str, options: &[(&str, &str)]) -> String {
    let created = storaged.create_volume(with_options(name, options));
    created.expect("a volume").mountpoint
}

fn called(name: &str) -> SnapshotCreate {
    SnapshotCreate {
        name: name.to_owned(),
        live: false,
    }
}

fn clone_of(snapshot: Option<&str>, name: &str) -> VolumeClone {
    VolumeClone {
        name: name.to_owned(),
        snapshot: snapshot.map(str::to_owned),
        ..VolumeClone::default()
    }
}

fn mount(storaged: &Storaged, verb: &str) {
    let path = format!("/VolumeDriver.{verb}");
    let (status, reply) = storaged.plugin_call(&path, br#"{"Name":"data","ID":"c1"}"#);
    assert_eq!(status, 200, "{}", reply.err);
}

#[test]
fn a_volume_returns_to_a_snapshot_with_all_it_was() {
    let state = State::new();
    let storaged = state.open();
    let data = create(&storaged, "data", &[]);
    let data = Path::new(&data);
    std::fs::create_dir(data.join("d")).unwrap();
    std::fs::write(data.join("d/f"), "one").unwrap();
    std::fs::hard_link(data.join("d/f"), data.join("link")).unwrap();
    std::os::unix::fs::chown(data, Some(1000), Some(1001)).unwrap();
    let snapshot = storaged.create_snapshot("data", &called("then")).unwrap();
    assert!(snapshot.size > 0, "{snapshot:?}");

    std::fs::write(data.join("d/f"), "two").unwrap();
    std::fs::write(data.join("new"), "x").unwrap();
    std::os::unix::fs::chown(data, Some(0), Some(0)).unwrap();
    drop(storaged);
    let storaged = state.open();
    assert_eq!(storaged.volume("data").unwrap().snapshots, ["then"]);
    storaged.roll_back("data", "then").unwrap();
    assert_eq!(ls(data), "d link");
    assert_eq!(read(data.join("d/f")), "one");
    assert_eq!(
        std::fs::metadata(data.join("link")).unwrap().ino(),
        std::fs::metadata(data.join("d/f")).unwrap().ino()
    );
    let owner = std::fs::metadata(data).unwrap();
    assert_eq!((owner.uid(), owner.gid()), (1000, 1001));

    // The snapshot is still there, and does not change with the volume.
    std::fs::write(data.join("d/f"), "three").unwrap();
    storaged.roll_back("data", "then").unwrap();
    assert_eq!(read(data.join("d/f")), "one");
    assert_eq!(ls(state.path().join("volumes/.staging")), "");
    assert_eq!(ls(state.path().join("volumes/.trash")), "");
}

#[test]
fn a_mounted_volume_keeps_still_for_a_snapshot_only_when_asked() {
    let state = State::new();
    let storaged = state.open();
    let data = create(&storaged, "data", &[]);
    std::fs::write(Path::new(&data).join("f"), "one").unwrap();
    mount(&storaged, "Mount");
    refused(
        storaged.create_snapshot("data", &called("a")),
        ErrorCode::InUse,
        "--live",
    );
    let live = SnapshotCreate {
        live: true,
        ..called("a")
    };
    storaged.create_snapshot("data", &live).unwrap();
    refused(storaged.roll_back("data", "a"), ErrorCode::InUse, "[c1]");
    refused(
        storaged.clone_volume("data", clone_of(None, "copy")),
        ErrorCode::InUse,
        "[c1]",
    );
    storaged
        .clone_volume("data", clone_of(Some("a"), "copy"))
        .unwrap();
    mount(&storaged, "Unmount");
    storaged.roll_back("data", "a").unwrap();
}

#[test]
fn a_clone_is_a_volume_of_its_own() {
    let state = State::new();
    let storaged = state.open();
    let data = create(&storaged, "data", &[]);
    std::fs::write(Path::new(&data).join("f"), "one").unwrap();
    let copy = storaged
        .clone_volume("data", clone_of(None, "copy"))
        .unwrap();
    let copied = Path::new(&copy.mountpoint).join("f");
    std::fs::write(&copied, "two").unwrap();
    assert_eq!(read(Path::new(&data).join("f")), "one");
    storaged.remove_volume("data").unwrap();
    assert_eq!(read(copied), "two");
    for taken in ["copy", "other"] {
        create(&storaged, "other", &[]);
        refused(
            storaged.clone_volume("copy", clone_of(None, taken)),
            ErrorCode::Conflict,
            taken,
        );
    }
}

#[test]
fn what_cannot_be_done_says_why_and_changes_nothing() {
    let state = State::new();
    let storaged = state.open();
    create(&storaged, "data", &[]);
    create(&storaged, "fast", &[("type", "tmpfs"), ("device", "tmpfs")]);
    storaged.create_snapshot("data", &called("a")).unwrap();
    refused(
        storaged.create_snapshot("data", &called("a")),
        ErrorCode::Conflict,
        "has a snapshot a",
    );
    refused(
        storaged.create_snapshot("data", &called("../x")),
        ErrorCode::InvalidInput,
        "snapshot",
    );
    refused(
        storaged.create_snapshot("fast", &called("a")),
        ErrorCode::InvalidInput,
        "driver options",
    );
    for volume in ["gone", "../data"] {
        refused(
            storaged.create_snapshot(volume, &called("a")),
            ErrorCode::NotFound,
            volume,
        );
    }
    refused(
        storaged.roll_back("data", "b"),
        ErrorCode::NotFound,
        "no snapshot b",
    );
    refused(
        storaged.remove_snapshot("data", ".."),
        ErrorCode::NotFound,
        "no snapshot",
    );
    refused(
        storaged.remove_volume("data"),
        ErrorCode::InUse,
        "snapshots - [a]",
    );
    let pruned = storaged.prune_volumes(&VolumePrune::default());
    assert_eq!(pruned.deleted, ["fast"], "snapshots keep their volume");
    storaged.remove_snapshot("data", "a").unwrap();
    storaged.remove_volume("data").unwrap();
    assert_eq!(storaged.snapshots(None).unwrap(), []);
}

#[test]
fn a_pruned_volume_comes_back_with_its_labels_and_data() {
    let state = State::new();
    let storaged = state.open();
    let request = VolumeCreate {
        name: "data".to_owned(),
        labels: [("app".to_owned(), "web".to_owned())].into(),
        ..VolumeCreate::default()
    };
    let before = storaged.create_volume(request).unwrap();
    let file = Path::new(&before.mountpoint).join("f");
    std::fs::write(&file, "x").unwrap();
    let plan = storaged.plan_prune(&VolumePrune::default());
    assert_eq!(plan[0].name.as_str(), "data");
    create(&storaged, "later", &[]);
    let agreed = VolumePrune {
        names: Some(plan.into_iter().map(|volume| volume.name).collect()),
        ..VolumePrune::default()
    };
    let pruned = storaged.prune_volumes(&agreed);
    assert_eq!(pruned.deleted, ["data"], "nobody was shown the other one");
    assert_eq!(pruned.restorable_hours, Some(24));
    assert!(!file.exists());

    drop(storaged);
    let storaged = state.open();
    let trash = storaged.trashed_volumes();
    assert_eq!(trash.len(), 1);
    assert!(trash[0].kept_until > trash[0].pruned_at, "{trash:?}");
    // The name is free meanwhile, and must be when it comes back.
    create(&storaged, "data", &[]);
    refused(
        storaged.restore_volume("data"),
        ErrorCode::Conflict,
        "exists",
    );
    storaged.remove_volume("data").unwrap();
    assert_eq!(storaged.restore_volume("data").unwrap(), before);
    assert_eq!(read(&file), "x");
    refused(
        storaged.restore_volume("other"),
        ErrorCode::NotFound,
        "restore",
    );

    let now = VolumePrune {
        permanent: true,
        ..VolumePrune::default()
    };
    assert_eq!(storaged.prune_volumes(&now).restorable_hours, None);
    assert_eq!(storaged.trashed_volumes(), []);
    assert_eq!(ls(state.path().join("volumes")), ".staging .trash");
    assert_eq!(ls(state.path().join("volumes/.trash")), "");
}

#[test]
fn what_was_pruned_goes_when_its_time_is_over_and_not_before() {
    let state = State::new();
    let storaged = state.open();
    create(&storaged, "data", &[]);
    storaged.prune_volumes(&VolumePrune::default());
    assert_eq!(storaged.expire_trash().deleted, [""; 0]);
    drop(storaged);
    // With no hours to keep it, its time was over when it was pruned.
    let none = StorageConfig {
        prune_undo_hours: 0,
        ..StorageConfig::default()
    };
    let storaged = state.open_with(none);
    assert_eq!(storaged.trashed_volumes(), []);
    assert_eq!(ls(state.path().join("volumes/.trash")), "");
    create(&storaged, "data", &[]);
    assert_eq!(
        storaged
            .prune_volumes(&VolumePrune::default())
            .restorable_hours,
        None
    );
    assert_eq!(storaged.trashed_volumes(), []);
}
