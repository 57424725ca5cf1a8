//! POSIX access control lists go where the content goes, and nowhere else.
#![expect(
    clippy::unwrap_used,
    reason = "a fixture that cannot be made fails its test"
)]

mod support;

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use api::ErrorCode;
use api::id::Digest;
use api::storage::{ImageCreate, VolumeClone, VolumeImport};
use rustix::fs::{CWD, FileType, Mode, XattrFlags};
use storaged::Storaged;
use support::{
    Entry, State, archive, config, dir, file, image, import, is_well, mounted, refused,
    with_options,
};

const ACCESS: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";

/// The list `user::OWNER,user:1234:USER,group::r--,mask::rw-,other::---`, as the kernel takes it
/// (`linux/posix_acl_xattr.h`).
fn acl(owner: u16, user: u16) -> Vec<u8> {
    const NOBODY: u32 = u32::MAX;
    let entries = [
        (0x01, owner, NOBODY),
        (0x02, user, 1234),
        (0x04, 4, NOBODY),
        (0x10, 6, NOBODY),
        (0x20, 0, NOBODY),
    ];
    let mut list = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        list.extend(u16::to_le_bytes(tag));
        list.extend(permissions.to_le_bytes());
        list.extend(id.to_le_bytes());
    }
    list
}

fn set(path: &Path, name: &str, list: &[u8]) {
    rustix::fs::setxattr(path, name, list, XattrFlags::empty()).unwrap();
}

/// The mode, the list of its own, and the one for what is made inside.
fn rights(path: impl AsRef<Path>) -> (u32, Option<Vec<u8>>, Option<Vec<u8>>) {
    let path = path.as_ref();
    let list = |name| {
        let mut value = vec![0; 4096];
        let length = rustix::fs::lgetxattr(path, name, &mut value).ok()?;
        value.truncate(length);
        Some(value)
    };
    let mode = std::fs::symlink_metadata(path).unwrap().mode() & 0o7777;
    (mode, list(ACCESS), list(DEFAULT))
}

const PATHS: [&str; 6] = ["", "d", "d/inherits", "d/own", "d/none", "d/fifo"];

fn fill(data: &Path) {
    let d = data.join("d");
    std::fs::create_dir(&d).unwrap();
    set(&d, ACCESS, &acl(7, 5));
    set(&d, DEFAULT, &acl(6, 4));
    for name in ["inherits", "own", "none"] {
        std::fs::write(d.join(name), name).unwrap();
    }
    set(&d.join("own"), ACCESS, &acl(6, 6));
    rustix::fs::removexattr(d.join("none"), ACCESS).unwrap();
    std::fs::set_permissions(d.join("none"), std::fs::Permissions::from_mode(0o640)).unwrap();
    let fifo = d.join("fifo");
    rustix::fs::mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    set(&fifo, ACCESS, &acl(6, 6));
    set(data, DEFAULT, &acl(7, 1));
}

#[track_caller]
fn assert_same(data: &Path, copy: &Path) {
    for path in PATHS {
        assert_eq!(
            rights(copy.join(path)),
            rights(data.join(path)),
            "{path:?} of {}",
            copy.display()
        );
    }
}

fn create(storaged: &Storaged, name: &str) -> std::path::PathBuf {
    storaged
        .create_volume(with_options(name, &[]))
        .unwrap()
        .mountpoint
        .into()
}

#[test]
fn an_export_and_a_clone_of_a_volume_keep_them() {
    let state = State::new();
    let storaged = state.open();
    let data = create(&storaged, "data");
    fill(&data);
    assert!(rights(data.join("d/inherits")).1.is_some());
    assert_eq!(rights(data.join("d/none")), (0o640, None, None));
    let mut exported = Vec::new();
    storaged
        .export_volume("data", false, &mut exported)
        .unwrap();
    let request = VolumeImport::default();
    let copy = storaged
        .import_volume("copy", request, &mut exported.as_slice())
        .unwrap();
    assert_same(&data, Path::new(&copy.mountpoint));
    let request = VolumeClone {
        name: "clone".to_owned(),
        ..VolumeClone::default()
    };
    let clone = storaged.clone_volume("data", request).unwrap();
    assert_same(&data, Path::new(&clone.mountpoint));
}

#[test]
fn a_filesystem_of_its_own_keeps_them() {
    let state = State::new();
    let storaged = state.open();
    let data = create(&storaged, "data");
    fill(&data);
    let mut exported = Vec::new();
    storaged
        .export_volume("data", false, &mut exported)
        .unwrap();
    let request = VolumeImport {
        options: [("backend", "loop"), ("size", "16m")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
        ..VolumeImport::default()
    };
    storaged
        .import_volume("copy", request, &mut exported.as_slice())
        .unwrap();
    let body = br#"{"Name":"copy","ID":"c1"}"#;
    assert_eq!(storaged.plugin_call("/VolumeDriver.Mount", body).0, 200);
    let copy = storaged.volume("copy").unwrap();
    assert_same(&data, Path::new(&copy.mountpoint));
    assert_eq!(storaged.plugin_call("/VolumeDriver.Unmount", body).0, 200);
}

#[test]
fn they_do_not_come_from_where_the_state_is() {
    let state = State::new();
    set(state.path(), DEFAULT, &acl(7, 7));
    let storaged = state.open();
    let image = image(
        &storaged,
        "one",
        &[&[dir("d/"), file("d/f", "x").mode(0o640)]],
    );
    let root = mounted(&storaged, "c1", &image);
    assert_eq!(rights(root.join("d")), (0o755, None, None));
    assert_eq!(rights(root.join("d/f")), (0o640, None, None));
}

fn with_acl(entry: Entry, name: &str, list: &[u8]) -> Entry {
    entry.pax(&format!("SCHILY.xattr.{name}"), list)
}

#[test]
fn layers_have_them_and_commits_keep_them() {
    let state = State::new();
    let storaged = state.open();
    let entries = [
        with_acl(dir("d/"), DEFAULT, &acl(6, 4)),
        with_acl(file("d/own", "x").mode(0o660), ACCESS, &acl(6, 6)),
        file("d/none", "x").mode(0o640),
    ];
    let base = import(&storaged, None, &entries).diff_id;
    let image_of = |tag: &str, diff_ids: &[Digest]| {
        let request = ImageCreate {
            config: config(tag, diff_ids),
            tags: vec![tag.to_owned()],
        };
        storaged.create_image(request).unwrap()
    };
    let root = mounted(
        &storaged,
        "c1",
        &image_of("one", std::slice::from_ref(&base)),
    );
    assert_eq!(rights(root.join("d")).2, Some(acl(6, 4)));
    assert_eq!(rights(root.join("d/own")), (0o660, Some(acl(6, 6)), None));
    assert_eq!(rights(root.join("d/none")), (0o640, None, None));
    assert!(storaged.rootfs_changes("c1").unwrap().is_empty());
    // The permission bits stay what they are.
    set(&root.join("d/own"), ACCESS, &acl(6, 4));
    let changes = storaged.rootfs_changes("c1").unwrap();
    let paths: Vec<&str> = changes.iter().map(|change| change.path.as_str()).collect();
    assert_eq!(paths, ["/d", "/d/own"]);
    let layer = storaged.commit_rootfs("c1").unwrap();
    let root = mounted(&storaged, "c2", &image_of("two", &[base, layer.diff_id]));
    assert_eq!(rights(root.join("d/own")), (0o660, Some(acl(6, 4)), None));
    assert_eq!(rights(root.join("d/none")), (0o640, None, None));
    is_well(&storaged);
}

#[test]
fn a_list_that_is_none_is_refused() {
    let state = State::new();
    let storaged = state.open();
    let other_version = [&3_u32.to_le_bytes()[..], &acl(6, 6)[4..]].concat();
    let twice = [&acl(6, 6)[..], &acl(6, 6)[4..]].concat();
    for entry in [
        with_acl(file("f", "x"), ACCESS, b"rubbish"),
        with_acl(file("f", "x"), ACCESS, &other_version),
        with_acl(file("f", "x"), ACCESS, &twice),
        with_acl(file("f", "x"), DEFAULT, &acl(6, 6)),
        with_acl(dir("f"), DEFAULT, &acl(6, 6)[..20]),
    ] {
        let stream = archive(&[entry]);
        let imported = storaged.import_layer(None, None, &mut stream.as_slice());
        let words = "\"f\": its access control list is not valid";
        refused(imported, ErrorCode::InvalidInput, words);
    }
    assert!(state.leftovers().is_empty());
}

#[test]
fn lists_in_words_are_taken_or_refused_but_never_left_out() {
    const WORDS: &str = "user::rw-,user:ann:rw-:1234,group::r--,mask::rw-,other::---";
    let state = State::new();
    let storaged = state.open();
    let f = |name: &str| file(name, "x").mode(0o660);
    let entries = [
        dir("d/").pax("SCHILY.acl.default", WORDS),
        f("words").pax(
            "SCHILY.acl.access",
            WORDS.replace("ann:rw-:1234", "1234:rw-"),
        ),
        // Beside the exact form the words are for others.
        with_acl(f("both"), ACCESS, &acl(6, 4)).pax("SCHILY.acl.access", WORDS),
        file("plain", "x").pax("SCHILY.acl.access", "\n"),
    ];
    let root = mounted(&storaged, "c1", &image(&storaged, "one", &[&entries]));
    assert_eq!(rights(root.join("d")).2, Some(acl(6, 6)));
    assert_eq!(rights(root.join("words")).1, Some(acl(6, 6)));
    assert_eq!(rights(root.join("both")).1, Some(acl(6, 4)));
    assert_eq!(rights(root.join("plain")).1, None);
    for (key, value, words) in [
        (
            "access",
            "user::rw-,user:ann:rw-",
            "names \"ann\" without a number",
        ),
        (
            "access",
            "user::rw-,users:5:rw-",
            "its access control list is not valid",
        ),
        (
            "access",
            "user::rw-,user:5:rw-",
            "its access control list is not valid",
        ),
        (
            "ace",
            "owner@:rw:allow",
            "its access control list is not valid",
        ),
    ] {
        let stream = archive(&[f("f").pax(&format!("SCHILY.acl.{key}"), value)]);
        let imported = storaged.import_layer(None, None, &mut stream.as_slice());
        refused(imported, ErrorCode::InvalidInput, words);
    }
    assert!(state.leftovers().is_empty());
}
