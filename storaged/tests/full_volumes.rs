//! Inodes that run out at whatever step of an operation on a volume: it fails in words, nothing of it
//! stays, and with inodes again it works.
#![expect(
    clippy::unwrap_used,
    reason = "a fixture that cannot be made fails its test"
)]

mod support;

use std::path::PathBuf;

use api::storage::{SnapshotCreate, VolumeClone, VolumeImport, VolumePopulate};
use api::{ApiError, ErrorCode};
use rustix::mount::MountFlags;
use storaged::{Storaged, VolumeError};
use support::{Entry, State, create, dir, file, image, is_well, refused, with_options};

const FILES: usize = 12;

fn many(directory: &str, count: usize) -> Vec<Entry> {
    let mut entries = vec![dir(directory)];
    entries.extend((0..count).map(|n| file(format!("{directory}/{n}"), "x")));
    entries
}

fn volume(storaged: &Storaged, name: &str, options: &[(&str, &str)]) -> PathBuf {
    let volume = storaged.create_volume(with_options(name, options)).unwrap();
    volume.mountpoint.into()
}

/// Gives the tmpfs of a state so many more inodes, or as many as it wants.
fn spare(state: &State, inodes: Option<u64>) {
    let stat = rustix::fs::statvfs(state.path()).unwrap();
    let most = inodes.map_or(0, |inodes| stat.f_files - stat.f_ffree + inodes);
    let options = std::ffi::CString::new(format!("nr_inodes={most}")).unwrap();
    rustix::mount::mount_remount(state.path(), MountFlags::empty(), options.as_c_str()).unwrap();
}

fn archive_of(storaged: &Storaged, name: &str) -> Vec<u8> {
    let mut archive = Vec::new();
    storaged.export_volume(name, false, &mut archive).unwrap();
    archive
}

type Operation = fn(&Storaged, &[u8]) -> Result<(), VolumeError>;

/// Each is tried with ever more inodes, until there are enough.
fn survives(what: &str, operation: Operation) {
    let mut failures = 0;
    for inodes in 0..60 {
        let state = State::new();
        let storaged = state.open();
        let data = volume(&storaged, "data", &[]);
        for n in 0..FILES {
            std::fs::write(data.join(n.to_string()), "x").unwrap();
        }
        let archive = archive_of(&storaged, "data");
        let base = image(&storaged, "base", &[&many("srv", FILES)]);
        create(&storaged, "c1", &base, false);
        volume(&storaged, "empty", &[]);
        spare(&state, Some(inodes));
        let result = operation(&storaged, &archive);
        spare(&state, None);
        let is_done = result.is_ok();
        if let Err(error) = result {
            failures += 1;
            let error = ApiError::from(error);
            let said = format!("{what}, {inodes} inodes: {}", error.message);
            assert_eq!(error.code, ErrorCode::Exhausted, "{said}");
            assert!(error.message.contains("No space left on device"), "{said}");
            assert!(error.message.contains("df -i"), "{said}");
            assert!(!error.message.contains('\n'), "{said}");
            assert!(state.leftovers().is_empty(), "{said}");
            is_well(&storaged);
            operation(&storaged, &archive).unwrap();
        }
        is_well(&storaged);
        drop(storaged);
        is_well(&state.open());
        if is_done {
            assert!(failures > 1, "{what} takes {failures} inodes");
            return;
        }
    }
    panic!("{what} never had inodes enough");
}

#[test]
fn a_volume_is_made_whole_or_not_at_all() {
    survives("create", |storaged, _| {
        storaged.create_volume(with_options("new", &[])).map(drop)
    });
}

#[test]
fn image_data_comes_whole_or_not_at_all() {
    survives("populate", |storaged, _| {
        let request = VolumePopulate {
            container: "c1".to_owned(),
            path: "/srv".to_owned(),
        };
        let done = storaged.populate_volume("empty", request);
        let there = std::fs::read_dir(storaged.volume("empty").unwrap().mountpoint);
        let expected = if done.is_ok() { FILES } else { 0 };
        assert_eq!(there.unwrap().count(), expected);
        done
    });
}

#[test]
fn snapshots_and_clones_are_whole_or_not_there() {
    survives("snapshot", |storaged, _| {
        let request = SnapshotCreate {
            name: "s".to_owned(),
            live: false,
        };
        storaged.create_snapshot("data", &request).map(drop)
    });
    survives("clone", |storaged, _| {
        let request = VolumeClone {
            name: "clone".to_owned(),
            ..VolumeClone::default()
        };
        storaged.clone_volume("data", request).map(drop)
    });
}

#[test]
fn an_import_is_whole_or_not_there() {
    survives("import", |storaged, archive| {
        let done = storaged.import_volume("copy", VolumeImport::default(), &mut &*archive);
        assert_eq!(done.is_ok(), storaged.volume("copy").is_ok());
        done.map(drop)
    });
}

/// The inodes of an ext4 are as many as it was made with, whatever the disk has.
#[test]
fn a_volume_with_few_inodes_says_that_it_is_the_volume() {
    const WORDS: &str = "the volume's own filesystem is full";
    let state = State::new();
    let storaged = state.open();
    let small = [("backend", "loop"), ("size", "16m"), ("inodes", "30")];
    let base = image(&storaged, "base", &[&many("srv", 300)]);
    create(&storaged, "c1", &base, false);
    volume(&storaged, "small", &small);
    let request = VolumePopulate {
        container: "c1".to_owned(),
        path: "/srv".to_owned(),
    };
    let populated = storaged.populate_volume("small", request.clone());
    refused(populated, ErrorCode::Exhausted, WORDS);
    assert!(state.leftovers().is_empty());
    let data = volume(&storaged, "data", &[]);
    for n in 0..300 {
        std::fs::write(data.join(n.to_string()), "x").unwrap();
    }
    let archive = archive_of(&storaged, "data");
    let with = |options: &[(&str, &str)]| VolumeImport {
        options: with_options("copy", options).driver_opts,
        ..VolumeImport::default()
    };
    let imported = storaged.import_volume("copy", with(&small), &mut archive.as_slice());
    refused(imported, ErrorCode::Exhausted, WORDS);
    assert!(storaged.volume("copy").is_err() && state.leftovers().is_empty());
    // What the message says helps.
    let large = [("backend", "loop"), ("size", "16m"), ("inodes", "1000")];
    storaged
        .import_volume("copy", with(&large), &mut archive.as_slice())
        .unwrap();
    storaged.remove_volume("small").unwrap();
    volume(&storaged, "small", &large);
    storaged.populate_volume("small", request).unwrap();
    is_well(&storaged);
}
