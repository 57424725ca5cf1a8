//! Export and import of volumes: whole or not at all.
#![expect(
    clippy::unwrap_used,
    reason = "a fixture that cannot be made fails its test"
)]

mod support;

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use api::storage::{VolumeCreate, VolumeImport};
use api::{ApiError, ErrorCode};
use storaged::{Storaged, VolumeError};
use support::{Entry, State, dir, file, hard_link, ls, read, symlink};

fn create(storaged: &Storaged, name: &str, options: &[(&str, &str)]) -> PathBuf {
    let request = VolumeCreate {
        labels: BTreeMap::from([("tier".to_owned(), "db".to_owned())]),
        ..support::with_options(name, options)
    };
    storaged.create_volume(request).unwrap().mountpoint.into()
}

fn export(storaged: &Storaged, name: &str) -> Vec<u8> {
    let mut archive = Vec::new();
    storaged.export_volume(name, false, &mut archive).unwrap();
    archive
}

fn import(storaged: &Storaged, name: &str, archive: &[u8]) -> Result<PathBuf, VolumeError> {
    let mut archive = archive;
    let volume = storaged.import_volume(name, VolumeImport::default(), &mut archive)?;
    Ok(volume.mountpoint.into())
}

#[track_caller]
fn refused(storaged: &Storaged, archive: &[u8], words: &str) {
    let result = import(storaged, "copy", archive);
    support::refused(result, ErrorCode::InvalidInput, words);
    assert!(storaged.volume("copy").is_err());
}

fn plain(archive: &[u8]) -> Vec<u8> {
    zstd::decode_all(archive).unwrap()
}

fn with_data(storaged: &Storaged, options: &[(&str, &str)]) -> PathBuf {
    let data = create(storaged, "data", options);
    fill(&data);
    data
}

fn fill(data: &Path) {
    std::fs::create_dir(data.join("d")).unwrap();
    std::fs::write(data.join("d/f"), "one").unwrap();
    std::fs::set_permissions(data.join("d/f"), std::fs::Permissions::from_mode(0o4711)).unwrap();
    std::fs::hard_link(data.join("d/f"), data.join("again")).unwrap();
    // What a layer's archive would take for deletions, and for a way out.
    std::fs::write(data.join(".wh.d"), "name").unwrap();
    std::fs::write(data.join(".wh..wh..opq"), "name").unwrap();
    std::os::unix::fs::symlink("../../elsewhere", data.join("up")).unwrap();
    let zeros = std::fs::File::create(data.join("zeros")).unwrap();
    zeros.set_len(64 << 20).unwrap();
    std::os::unix::fs::chown(data.join("d"), Some(7), Some(8)).unwrap();
}

fn assert_same(copy: &Path) {
    assert_eq!(ls(copy), ".wh..wh..opq .wh.d again d up zeros");
    assert_eq!(read(copy.join("again")), "one");
    let (file, again) = (copy.join("d/f"), copy.join("again"));
    let inode = |path: &Path| std::fs::metadata(path).unwrap().ino();
    assert_eq!(inode(&file), inode(&again));
    assert_eq!(std::fs::metadata(&file).unwrap().mode() & 0o7777, 0o4711);
    let directory = std::fs::metadata(copy.join("d")).unwrap();
    assert_eq!((directory.uid(), directory.gid()), (7, 8));
    let up = std::fs::read_link(copy.join("up")).unwrap();
    assert_eq!(up, Path::new("../../elsewhere"));
    let zeros = std::fs::metadata(copy.join("zeros")).unwrap();
    assert_eq!(
        (zeros.len(), zeros.blocks()),
        (64 << 20, 0),
        "a hole stays one"
    );
}

#[test]
fn a_volume_comes_back_with_all_it_was() {
    let state = State::new();
    let storaged = state.open();
    let owner = [("uid", "5"), ("mode", "0750")];
    with_data(&storaged, &owner);
    let archive = export(&storaged, "data");
    assert!(archive.len() < 64 << 10, "{}", archive.len());
    let elsewhere = State::new();
    let there = elsewhere.open();
    let copy = import(&there, "copy", &archive).unwrap();
    assert_same(&copy);
    let stat = std::fs::metadata(&copy).unwrap();
    assert_eq!((stat.uid(), stat.mode() & 0o7777), (5, 0o750));
    let volume = there.volume("copy").unwrap();
    assert_eq!(volume.labels["tier"], "db");
    assert_eq!(volume.options["mode"], "0750");
    let taken = import(&there, "copy", &archive).unwrap_err();
    assert_eq!(ApiError::from(taken).code, ErrorCode::Conflict);
}

#[test]
fn any_tar_unpacks_an_export() {
    let state = State::new();
    let storaged = state.open();
    with_data(&storaged, &[]);
    let archive = plain(&export(&storaged, "data"));
    let target = state.path().join("unpacked");
    tar::Archive::new(archive.as_slice())
        .unpack(&target)
        .unwrap();
    assert_eq!(read(target.join("data/d/f")), "one");
    assert!(read(target.join("hawser-volume.json")).contains("\"data\""));
}

#[test]
fn a_volume_changes_its_place_on_the_way() {
    let state = State::new();
    let storaged = state.open();
    with_data(&storaged, &[]);
    let archive = export(&storaged, "data");
    let request = VolumeImport {
        options: [("backend", "loop"), ("size", "32m")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
        labels: BTreeMap::from([("new".to_owned(), String::new())]),
    };
    let volume = storaged
        .import_volume("copy", request, &mut archive.as_slice())
        .unwrap();
    assert_eq!(volume.options["backend"], "loop");
    assert_eq!(
        (volume.labels.len(), ls(&volume.mountpoint)),
        (2, String::new())
    );
    // The export of what is not mounted mounts it meanwhile.
    let again = export(&storaged, "copy");
    assert_eq!(ls(&volume.mountpoint), "", "and no longer");
    let request = VolumeImport {
        options: [("backend".to_owned(), "dir".to_owned())].into(),
        ..VolumeImport::default()
    };
    let back = storaged
        .import_volume("back", request, &mut again.as_slice())
        .unwrap();
    assert_same(Path::new(&back.mountpoint));
    storaged.remove_volume("copy").unwrap();
}

#[test]
fn a_mounted_volume_is_exported_only_as_it_is_now() {
    let state = State::new();
    let storaged = state.open();
    with_data(&storaged, &[]);
    let body = br#"{"Name":"data","ID":"c1"}"#;
    assert_eq!(storaged.plugin_call("/VolumeDriver.Mount", body).0, 200);
    let error = storaged.export_volume("data", false, &mut Vec::new());
    let error = ApiError::from(error.unwrap_err());
    assert_eq!(error.code, ErrorCode::InUse);
    assert!(error.message.contains("--live"), "{}", error.message);
    let mut archive = Vec::new();
    storaged.export_volume("data", true, &mut archive).unwrap();
    assert_same(&import(&storaged, "copy", &archive).unwrap());
}

#[test]
fn a_damaged_archive_leaves_nothing() {
    let state = State::new();
    let storaged = state.open();
    let data = create(&storaged, "data", &[]);
    std::fs::write(data.join("f"), [b'x'; 3000]).unwrap();
    std::os::unix::fs::symlink("f", data.join("l")).unwrap();
    let whole = plain(&export(&storaged, "data"));
    assert!(
        import(&storaged, "plain", &whole).is_ok(),
        "uncompressed is fine"
    );
    // Cut anywhere.
    for length in (0..whole.len()).step_by(512) {
        refused(&storaged, &whole[..length], "archive");
    }
    let end = whole.len();
    for cut in [512, 1024, 1536, 2048, 2560] {
        refused(&storaged, &whole[..end - cut], "");
    }
    // A byte changed anywhere, but in what the checksum does not need to cover.
    for at in (0..whole.len() - 2048).step_by(149) {
        let mut changed = whole.clone();
        changed[at] ^= 0x20;
        refused(&storaged, &changed, "");
    }
    let compressed = export(&storaged, "data");
    refused(&storaged, &compressed[..compressed.len() - 9], "");
    refused(&storaged, b"", "ends before");
    refused(
        &storaged,
        &support::archive(&[file("f", "x")]),
        "does not begin",
    );
    assert!(state.leftovers().is_empty());
    assert_eq!(
        ls(state.path().join("volumes")),
        ".staging .trash data plain"
    );
}

/// An export of hostile members, with a checksum that fits.
fn hostile(members: &[Entry], options: &str) -> Vec<u8> {
    let manifest = format!(
        r#"{{"format":1,"name":"data","created_at":"2026-01-01T00:00:00Z","options":{{{options}}}}}"#
    );
    let mut entries = vec![file("hawser-volume.json", manifest)];
    entries.extend_from_slice(members);
    let covered = support::unfinished(&entries);
    let mut hasher = sha2::Sha256::default();
    sha2::Digest::update(&mut hasher, &covered);
    let sum = hex::encode(sha2::Digest::finalize(hasher));
    let checksum = format!(r#"{{"digest":"sha256:{sum}"}}"#);
    entries.push(file("hawser-checksum.json", checksum));
    support::archive(&entries)
}

#[test]
fn a_hostile_archive_reaches_nothing_but_its_volume() {
    let state = State::new();
    let storaged = state.open();
    std::fs::write(state.path().join("precious"), "kept").unwrap();
    let fine = hostile(&[dir("data/"), file("data/f", "x")], "");
    let data = import(&storaged, "fine", &fine).unwrap();
    assert_eq!(ls(&data), "f");
    let cases: &[(&[Entry], &str)] = &[
        (&[file("volume.json", "{}")], "does not belong"),
        (&[file("_image", "")], "does not belong"),
        (&[file("database/f", "")], "does not belong"),
        (&[file("/data/f", "")], "does not belong"),
        (&[file("data/../f", "")], "\"..\""),
        (&[file("data//../../f", "")], "absolute"),
        (&[file("data", "a file")], "no name"),
        (
            &[
                symlink("data/l", "../../.."),
                file("data/l/precious", "lost"),
            ],
            "through a symbolic link",
        ),
        (
            &[symlink("data/l", "/"), file("data/l/tmp/x", "lost")],
            "through a symbolic link",
        ),
        (&[hard_link("data/l", "/etc/passwd")], "does not belong"),
        (&[hard_link("data/l", "data/../../precious")], "\"..\""),
        (
            &[
                symlink("data/s", "../../precious"),
                hard_link("data/h", "data/nothing"),
            ],
            "no such file",
        ),
    ];
    for (members, words) in cases {
        refused(&storaged, &hostile(members, ""), words);
    }
    refused(
        &storaged,
        &hostile(&[dir("data/")], r#""bogus":"1""#),
        "bogus",
    );
    let mount = r#""type":"none","device":"/etc","o":"bind""#;
    refused(
        &storaged,
        &hostile(&[dir("data/")], mount),
        "place of its own",
    );
    let key = state.path().join("precious").display().to_string();
    let key = format!(r#""encrypt":"{key}""#);
    refused(
        &storaged,
        &hostile(&[dir("data/")], &key),
        "say -o encrypt=FILE",
    );
    assert_eq!(read(state.path().join("precious")), "kept");
    assert!(state.leftovers().is_empty());
    assert_eq!(ls(state.path().join("volumes")), ".staging .trash fine");
}

#[test]
fn what_does_not_fit_is_refused_whole() {
    let state = State::new();
    let storaged = state.open();
    let data = create(&storaged, "data", &[]);
    let noise: Vec<u8> = (0..12u32 << 20)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    std::fs::write(data.join("f"), noise).unwrap();
    let archive = export(&storaged, "data");
    let request = VolumeImport {
        options: [("backend", "loop"), ("size", "8m")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
        ..VolumeImport::default()
    };
    let full = storaged.import_volume("copy", request, &mut archive.as_slice());
    assert_eq!(ApiError::from(full.unwrap_err()).code, ErrorCode::Exhausted);
    assert!(storaged.volume("copy").is_err());
    assert!(state.leftovers().is_empty());
}
