//! Encrypted volumes: their key comes with requests, and nobody keeps it but the kernel.

mod support;

use std::path::{Path, PathBuf};

use api::ErrorCode;
use api::storage::{Secret, SnapshotCreate, Volume, VolumeClone, VolumeCreate, VolumePopulate};
use storaged::{Storaged, VolumeError};
use support::{State, dir, file, filesystem, image, is_well, ls, read, refused};

/// A state directory on an ext4 that encrypts. The first part is the disk.
fn encrypting() -> (State, State) {
    let disk = State::new();
    let mkfs = ["mkfs.ext4", "-q", "-O", "encrypt"];
    let mounted = filesystem(&disk, &mkfs, "ext4", "");
    let mounted = mounted.expect("CONFIG_FS_ENCRYPTION, as every kernel of the matrix has it");
    let state = State::inside(mounted);
    (disk, state)
}

fn key(byte: u8) -> Secret {
    Secret::new(hex::encode([byte; 64]))
}

fn create(storaged: &Storaged, encrypt: &str, key: Secret) -> Result<Volume, VolumeError> {
    storaged.create_volume(VolumeCreate {
        name: "data".to_owned(),
        driver_opts: [("encrypt".to_owned(), encrypt.to_owned())].into(),
        key,
        ..VolumeCreate::default()
    })
}

fn call(storaged: &Storaged, verb: &str) -> (u16, String) {
    let body = br#"{"Name":"data","ID":"m1"}"#;
    let (status, reply) = storaged.plugin_call(&format!("/VolumeDriver.{verb}"), body);
    (status, reply.err)
}

#[test]
fn a_volume_is_locked_until_its_key_comes() {
    let (_disk, state) = encrypting();
    let storaged = state.open();
    let data = PathBuf::from(create(&storaged, "on", key(1)).unwrap().mountpoint);
    assert_eq!(call(&storaged, "Mount").0, 200);
    std::fs::write(data.join("secret"), "plain text").unwrap();
    refused(storaged.lock_volume("data"), ErrorCode::InUse, "m1");
    assert_eq!(call(&storaged, "Unmount").0, 200);
    storaged.lock_volume("data").unwrap();
    storaged.lock_volume("data").expect("again is fine");
    assert!(storaged.volume("data").unwrap().locked);
    assert_eq!(ls(&data).split(' ').count(), 1);
    assert!(!ls(&data).contains("secret"), "{}", ls(&data));
    // Nothing works but what needs no content.
    let (status, error) = call(&storaged, "Mount");
    assert_eq!(status, 500);
    assert!(error.contains("hawser volume unlock data"), "{error}");
    assert_eq!(storaged.volume("data").unwrap().holders, [""; 0]);
    let locked = "is locked";
    let snapshot = SnapshotCreate::default();
    let unavailable = ErrorCode::Unavailable;
    refused(
        storaged.create_snapshot("data", &snapshot),
        unavailable,
        locked,
    );
    refused(
        storaged.export_volume("data", false, &mut Vec::new()),
        unavailable,
        locked,
    );
    refused(
        storaged.unlock_volume("data", key(2).expose()),
        ErrorCode::InvalidInput,
        "not its key",
    );
    refused(
        storaged.unlock_volume("data", ""),
        ErrorCode::InvalidInput,
        "--key-file",
    );
    assert!(storaged.volume("data").unwrap().locked);
    drop(storaged);
    let storaged = state.open();
    let unlocked = storaged.unlock_volume("data", key(1).expose()).unwrap();
    assert!(!unlocked.locked);
    assert_eq!(read(data.join("secret")), "plain text");
    is_well(&storaged);
    // Nowhere in what outlives the daemon.
    drop(storaged);
    for name in ["meta.redb", "volumes/data/volume.json"] {
        let bytes = std::fs::read(state.path().join(name)).unwrap();
        let has = |part: &[u8]| bytes.windows(part.len()).any(|window| window == part);
        assert!(!has(&[1; 32]) && !has(&[b'0', b'1'].repeat(16)), "{name}");
    }
    let storaged = state.open();
    storaged.lock_volume("data").unwrap();
    storaged.remove_volume("data").expect("what is lost may go");
}

#[test]
fn copies_of_an_encrypted_volume_are_encrypted() {
    let (_disk, state) = encrypting();
    let storaged = state.open();
    let data = PathBuf::from(create(&storaged, "on", key(1)).unwrap().mountpoint);
    let base = image(&storaged, "base", &[&[dir("srv"), file("srv/f", "one")]]);
    support::create(&storaged, "c1", &base, false);
    let request = VolumePopulate {
        container: "c1".to_owned(),
        path: "/srv".to_owned(),
    };
    storaged.populate_volume("data", request).unwrap();
    assert_eq!(read(data.join("f")), "one");
    let named = SnapshotCreate {
        name: "then".to_owned(),
        live: false,
    };
    storaged.create_snapshot("data", &named).unwrap();
    std::fs::write(data.join("f"), "two").unwrap();
    storaged.roll_back("data", "then").unwrap();
    assert_eq!(read(data.join("f")), "one");
    let clone = VolumeClone {
        name: "copy".to_owned(),
        ..VolumeClone::default()
    };
    let copy = storaged.clone_volume("data", clone).unwrap();
    let copy = Path::new(&copy.mountpoint);
    assert_eq!(read(copy.join("f")), "one");
    let snapshots = state.path().join("volumes/data/_snapshots");
    let snapshot = snapshots.join(ls(&snapshots));
    storaged.lock_volume("data").unwrap();
    for directory in [&data, copy, &snapshot] {
        assert_ne!(ls(directory), "f", "{}", directory.display());
    }
    assert!(
        storaged.volume("copy").unwrap().locked,
        "it has the same key"
    );
    storaged.unlock_volume("copy", key(1).expose()).unwrap();
    assert!(!storaged.volume("data").unwrap().locked);
    is_well(&storaged);
    assert!(state.leftovers().is_empty());
}

#[test]
fn a_key_may_be_in_a_file() {
    let (_disk, state) = encrypting();
    let storaged = state.open();
    let path = state.path().join("key");
    let path = path.to_str().unwrap();
    let missing = create(&storaged, path, Secret::default());
    assert!(missing.unwrap_err().to_string().contains(path));
    std::fs::write(path, [3; 20]).unwrap();
    let short = create(&storaged, path, Secret::default());
    refused(short, ErrorCode::InvalidInput, "32 to 64 bytes");
    std::fs::write(path, [3; 32]).unwrap();
    create(&storaged, path, Secret::default()).unwrap();
    storaged.lock_volume("data").unwrap();
    storaged.unlock_volume("data", "").unwrap();
    refused(
        create(&storaged, "on", Secret::default()).and_then(|_existing| {
            storaged.create_volume(VolumeCreate {
                name: "other".to_owned(),
                key: key(1),
                ..VolumeCreate::default()
            })
        }),
        ErrorCode::InvalidInput,
        "encrypt=on",
    );
}

#[test]
fn a_filesystem_that_cannot_encrypt_says_what_could() {
    let state = State::new();
    let storaged = state.open();
    let refusal = create(&storaged, "on", key(1));
    refused(refusal, ErrorCode::InvalidInput, "tune2fs -O encrypt");
    assert!(storaged.volumes().is_empty());
    assert!(state.leftovers().is_empty());
}
