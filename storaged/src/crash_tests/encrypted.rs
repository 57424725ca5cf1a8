//! Encrypted volumes: directories on an ext4, and thin devices.
//!
//! Locking and unlocking change nothing but which keys the kernel has, and have no steps.

use std::path::Path;

use api::storage::{Secret, VolumeCreate, VolumeImport};

use super::archives::{content, export, import, is_imported, put};
use super::filesystems::mount_made;
use super::stories::{Story, clone, has_snapshot, populate, prune, snapshot, with_rootfs};
use super::thin::THIN;
use super::{Bed, DIRECTORIES, How, break_everywhere};
use crate::Storaged;

const ENCRYPTING: Bed = Bed {
    mount: |state| mount_made(state, &["mkfs.ext4", "-q", "-O", "encrypt"], "ext4"),
    ..DIRECTORIES
};

/// Which volume a story is about.
trait Kind {
    const OPTIONS: &'static [(&'static str, &'static str)];
}

struct Directory;

impl Kind for Directory {
    const OPTIONS: &'static [(&'static str, &'static str)] = &[];
}

struct Thin;

impl Kind for Thin {
    const OPTIONS: &'static [(&'static str, &'static str)] = &[("backend", "thin"), ("size", "8m")];
}

const KEY: [u8; 64] = [7; 64];

fn create<K: Kind>(storaged: &Storaged) -> bool {
    let options = [("encrypt", "on")].iter().chain(K::OPTIONS);
    let request = VolumeCreate {
        name: "data".to_owned(),
        driver_opts: options
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect(),
        key: Secret::new(hex::encode(KEY)),
        ..VolumeCreate::default()
    };
    storaged.create_volume(request).is_ok()
}

fn with_data<K: Kind>(storaged: &Storaged) {
    assert!(create::<K>(storaged));
    put(storaged, "one");
}

fn with_snapshot<K: Kind>(storaged: &Storaged) {
    with_data::<K>(storaged);
    assert!(snapshot(storaged));
    put(storaged, "two");
}

fn import_encrypted<K: Kind>(storaged: &Storaged) -> bool {
    let file = storaged.layout.state().join("key");
    std::fs::write(&file, KEY).unwrap();
    let encrypt = [("encrypt", file.to_str().unwrap())];
    let options = encrypt.iter().chain(K::OPTIONS);
    let request = VolumeImport {
        options: options
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect(),
        ..VolumeImport::default()
    };
    import(storaged, request)
}

/// Nothing of it is in the clear: its key is asked for.
fn is_encrypted(storaged: &Storaged, name: &str) {
    let rows = storaged.store.rows();
    let row = rows.volumes.values().find(|row| row.name.as_str() == name);
    assert!(row.unwrap().key_id.is_some());
}

fn stories<K: Kind>() -> [Story; 7] {
    [
        Story {
            name: "create an encrypted volume",
            before: |_| (),
            run: create::<K>,
            done: |storaged, _| {
                let there = storaged.volume("data").is_ok();
                if there {
                    is_encrypted(storaged, "data");
                    put(storaged, "one");
                }
                there
            },
        },
        Story {
            name: "take a snapshot of an encrypted volume",
            before: with_data::<K>,
            run: snapshot,
            done: |storaged, _| {
                assert_eq!(content(storaged, "data").unwrap(), "one");
                has_snapshot(storaged)
            },
        },
        Story {
            name: "roll an encrypted volume back",
            before: with_snapshot::<K>,
            run: |storaged| storaged.roll_back("data", "then").is_ok(),
            done: |storaged, _| {
                assert!(has_snapshot(storaged));
                is_encrypted(storaged, "data");
                let now = content(storaged, "data").expect("no content at all");
                assert!(now == "one" || now == "two", "{now}");
                now == "one"
            },
        },
        Story {
            name: "clone an encrypted volume",
            before: with_snapshot::<K>,
            run: clone,
            done: |storaged, _| {
                assert_eq!(content(storaged, "data").unwrap(), "two");
                let copy = content(storaged, "copy");
                if copy.is_some() {
                    is_encrypted(storaged, "copy");
                }
                assert!(copy.is_none() || copy.as_deref() == Some("one"), "{copy:?}");
                copy.is_some()
            },
        },
        Story {
            name: "populate an encrypted volume",
            before: |storaged| {
                with_rootfs(storaged);
                assert!(create::<K>(storaged));
            },
            run: populate,
            done: |storaged, _| {
                let data = storaged.mount_volume("data", "look").unwrap();
                let there = is_populated(&data);
                storaged.unmount_volume("data", "look").unwrap();
                there
            },
        },
        Story {
            name: "import an encrypted volume",
            before: |storaged| {
                with_data::<K>(storaged);
                assert!(export(storaged));
            },
            run: import_encrypted::<K>,
            done: |storaged, state| {
                let there = is_imported(storaged, state);
                if there {
                    is_encrypted(storaged, "copy");
                }
                there
            },
        },
        Story {
            name: "prune an encrypted volume and restore it",
            before: with_data::<K>,
            run: |storaged| {
                (!storaged.trashed_volumes().is_empty() || prune(storaged))
                    && storaged.restore_volume("data").is_ok()
            },
            done: |storaged, _| {
                let there = storaged.volume("data").is_ok();
                assert_ne!(there, !storaged.trashed_volumes().is_empty());
                if there {
                    is_encrypted(storaged, "data");
                    assert_eq!(content(storaged, "data").unwrap(), "one");
                }
                there
            },
        },
    ]
}

fn is_populated(data: &Path) -> bool {
    let [a, b] = ["a", "d/b"].map(|path| std::fs::read_to_string(data.join(path)).ok());
    assert_eq!(a.is_some(), b.is_some(), "half a copy");
    a.is_some()
}

#[test]
fn a_crash_at_any_step_leaves_all_of_an_encrypted_directory_or_nothing() {
    break_everywhere(&ENCRYPTING, &stories::<Directory>(), How::Crash);
}

#[test]
fn a_failure_at_any_step_leaves_all_of_an_encrypted_directory_or_nothing() {
    break_everywhere(&ENCRYPTING, &stories::<Directory>(), How::Fail);
}

#[test]
fn a_crash_at_any_step_leaves_all_of_an_encrypted_device_or_nothing() {
    for how in [How::Crash, How::Fail] {
        break_everywhere(&THIN, &stories::<Thin>(), how);
    }
}
