//! Whom files belong to: containers with user namespaces, and files copied up without their data.
#![expect(
    clippy::unwrap_used,
    reason = "a fixture that cannot be made fails its test"
)]

mod support;

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use api::ErrorCode;
use api::owner::IdMaps;
use api::storage::{Image, RootfsCreate, VolumePopulate};
use storaged::{DriverName, StorageConfig, Storaged};
use support::{State, dir, file, image, is_well, mounted, read, refused, with_options};

const FIRST: u32 = 300_000;

/// `hawsremap` has three blocks of ids, `ann` one that is no root's.
fn config(state: &State) -> StorageConfig {
    let etc = state.path().join("etc");
    fs::create_dir_all(&etc).unwrap();
    let granted = "hawsremap:300000:196608\nann:5000:10\n";
    for name in ["subuid", "subgid"] {
        fs::write(etc.join(name), granted).unwrap();
    }
    StorageConfig {
        id_files: etc,
        ..StorageConfig::default()
    }
}

fn request(container: &str, image: &Image, mode: &str) -> RootfsCreate {
    RootfsCreate {
        container: container.to_owned(),
        image: image.id.clone(),
        ephemeral: false,
        storage_opt: std::collections::BTreeMap::new(),
        user_namespace: mode.to_owned(),
    }
}

/// Whether owners can be mapped here. Where they cannot, that is what a container with others is told.
fn can_map(storaged: &Storaged, image: &Image, since: (u32, u32)) -> bool {
    let can = sys::kernel::is_linux(since.0, since.1);
    if !can {
        let made = storaged.create_rootfs(request("refused", image, "ann"));
        refused(made, ErrorCode::InvalidInput, "--userns host");
        is_well(storaged);
    }
    can
}

fn create(storaged: &Storaged, container: &str, image: &Image, mode: &str) -> Option<IdMaps> {
    let made = storaged.create_rootfs(request(container, image, mode));
    made.unwrap().id_maps
}

fn mount(storaged: &Storaged, container: &str) -> PathBuf {
    PathBuf::from(storaged.mount_rootfs(container).unwrap().path)
}

fn owner(path: impl AsRef<Path>) -> (u32, u32) {
    let stat = fs::symlink_metadata(path).unwrap();
    (stat.uid(), stat.gid())
}

/// What the container's root does there.
fn as_root<T>(maps: &IdMaps, action: impl FnOnce() -> T) -> T {
    let root = (maps.host_uid(0).unwrap(), maps.host_gid(0).unwrap());
    sys::owner::acting_as(root, action).unwrap()
}

#[test]
fn ids_on_disk_are_the_containers_whatever_they_are_on_the_host() {
    let state = State::on_ext4();
    let storaged = state.open_with(config(&state));
    let image = image(
        &storaged,
        "i",
        &[&[dir("d"), file("d/f", "low"), file("g", "x")]],
    );
    if !can_map(&storaged, &image, (5, 19)) {
        return;
    }
    let (one, two) = (
        create(&storaged, "one", &image, "auto").unwrap(),
        create(&storaged, "two", &image, "auto").unwrap(),
    );
    assert_eq!(one.host_uid(0), Some(FIRST + 65_536));
    assert_eq!(two.host_uid(0), Some(FIRST + 2 * 65_536));
    for (name, maps) in [("one", &one), ("two", &two)] {
        let merged = mount(&storaged, name);
        assert_eq!(Some(owner(merged.join("d/f")).0), maps.host_uid(0));
        as_root(maps, || {
            fs::write(merged.join("new"), name).unwrap();
            chown(merged.join("new"), maps.host_uid(7), maps.host_gid(8)).unwrap();
            fs::write(merged.join("d/f"), "high").unwrap();
            fs::remove_file(merged.join("g")).unwrap();
        });
        let upper = &storaged.rootfs(name).unwrap().data["UpperDir"];
        assert_eq!(owner(Path::new(upper).join("new")), (7, 8));
        assert_eq!(owner(Path::new(upper).join("d/f")), (0, 0));
        let changes: Vec<String> = storaged
            .rootfs_changes(name)
            .unwrap()
            .iter()
            .map(|change| format!("{}{}", change.kind, change.path))
            .collect();
        assert_eq!(changes, ["0/d", "0/d/f", "2/g", "1/new"]);
    }
    // Lists name the container's users, too, whoever looks.
    let list = |user: u32| {
        let mut list = 2_u32.to_le_bytes().to_vec();
        for (tag, id) in [
            (1_u16, u32::MAX),
            (2, user),
            (4, u32::MAX),
            (16, u32::MAX),
            (32, u32::MAX),
        ] {
            list.extend([tag.to_le_bytes(), [6, 0]].concat());
            list.extend(id.to_le_bytes());
        }
        list
    };
    let merged = PathBuf::from(storaged.rootfs("one").unwrap().data["MergedDir"].clone());
    as_root(&one, || {
        let name = "system.posix_acl_access";
        let shown = list(one.host_uid(9).unwrap());
        rustix::fs::setxattr(
            merged.join("new"),
            name,
            &shown,
            rustix::fs::XattrFlags::empty(),
        )
        .unwrap();
    });
    // The copy has the ids of the container, running or not, for whoever uses it.
    let layer = storaged.commit_rootfs("one").unwrap();
    storaged.unmount_rootfs("one").unwrap();
    assert_eq!(storaged.commit_rootfs("one").unwrap(), layer);
    let mut archive = Vec::new();
    storaged.export_rootfs("two", &mut archive).unwrap();
    let mut archive = tar::Archive::new(archive.as_slice());
    let owners = archive.entries().unwrap().map(|entry| {
        let entry = entry.unwrap();
        let path = entry.path().unwrap().display().to_string();
        (path, entry.header().uid().unwrap())
    });
    assert!(owners.collect::<Vec<_>>().contains(&("new".to_owned(), 7)));
    // A block is somebody else's again.
    storaged.remove_rootfs("one").unwrap();
    assert_eq!(create(&storaged, "three", &image, "auto").unwrap(), one);
    is_well(&storaged);
}

#[test]
fn who_the_users_are_is_as_asked() {
    let state = State::on_ext4();
    let mut settings = config(&state);
    settings.userns_remap = Some("default".to_owned());
    let storaged = state.open_with(settings);
    storaged.check_remap().unwrap();
    assert_eq!(storaged.remap().unwrap().0, "hawsremap");
    let image = image(&storaged, "i", &[&[file("f", "x")]]);
    if !can_map(&storaged, &image, (5, 19)) {
        return;
    }
    let root = |maps: Option<IdMaps>| maps.and_then(|maps| maps.host_uid(0));
    assert_eq!(root(create(&storaged, "plain", &image, "")), Some(FIRST));
    assert_eq!(root(create(&storaged, "host", &image, "host")), None);
    assert_eq!(root(create(&storaged, "ann", &image, "ann")), Some(5000));
    assert_eq!(
        root(create(&storaged, "own", &image, "auto")),
        Some(FIRST + 65_536)
    );
    assert_eq!(
        root(create(&storaged, "joined", &image, "container:own")),
        Some(FIRST + 65_536)
    );
    assert_eq!(
        root(create(&storaged, "beside", &image, "container:host")),
        None
    );
    create(&storaged, "last", &image, "auto");
    for (mode, code, words) in [
        ("auto", ErrorCode::Exhausted, "every block of ids"),
        ("eve", ErrorCode::NotFound, "eve:100000:65536"),
        ("a b", ErrorCode::InvalidInput, "USER:GROUP"),
        ("container:x", ErrorCode::NotFound, "container x"),
    ] {
        refused(
            storaged.create_rootfs(request("bad", &image, mode)),
            code,
            words,
        );
    }
    assert!(
        state.leftovers().is_empty(),
        "nothing is left of what was refused"
    );
}

#[test]
fn a_driver_of_whole_trees_keeps_the_ids_as_well() {
    let state = State::on_ext4();
    let mut settings = config(&state);
    settings.driver = Some(DriverName::Vfs);
    let storaged = state.open_with(settings);
    let image = image(&storaged, "i", &[&[file("f", "x")]]);
    if !can_map(&storaged, &image, (5, 12)) {
        return;
    }
    create(&storaged, "c1", &image, "private").unwrap();
    let shown = storaged.mount_rootfs("c1").unwrap();
    assert!(!shown.mapped, "whoever uses it maps the mount");
    assert_eq!(owner(Path::new(&shown.path).join("f")), (0, 0));
}

#[test]
fn volumes_start_with_the_ids_of_the_image() {
    let state = State::on_ext4();
    let storaged = state.open_with(config(&state));
    let image = image(&storaged, "i", &[&[dir("srv"), file("srv/f", "x")]]);
    if !can_map(&storaged, &image, (5, 19)) {
        return;
    }
    create(&storaged, "c1", &image, "private").unwrap();
    let volume = storaged.create_volume(with_options("vol", &[])).unwrap();
    let populate = VolumePopulate {
        container: "c1".to_owned(),
        path: "/srv".to_owned(),
    };
    storaged.populate_volume("vol", populate).unwrap();
    assert_eq!(owner(Path::new(&volume.mountpoint).join("f")), (0, 0));
    let as_kept = storaged.mount_rootfs_as_kept("c1").unwrap();
    assert_eq!(owner(Path::new(&as_kept.path).join("srv/f")), (0, 0));
}

#[test]
fn a_file_is_copied_up_without_its_data_where_that_is_enough() {
    let state = State::on_disk();
    let settings = |metacopy| StorageConfig {
        metacopy,
        ..StorageConfig::default()
    };
    let content = "0123456789abcdef".repeat(1 << 16);
    let storaged = state.open_with(settings(true));
    let image = image(
        &storaged,
        "i",
        &[&[dir("d"), file("d/big", &content), file("written", &content)]],
    );
    let merged = mounted(&storaged, "c1", &image);
    let upper = PathBuf::from(&storaged.rootfs("c1").unwrap().data["UpperDir"]);
    fs::set_permissions(merged.join("d/big"), Permissions::from_mode(0o600)).unwrap();
    chown(merged.join("d/big"), Some(7), Some(8)).unwrap();
    let kept = fs::symlink_metadata(upper.join("d/big")).unwrap();
    // No more than a block for its attributes.
    assert!(kept.blocks() <= 8, "{} blocks", kept.blocks());
    assert_eq!(kept.len(), content.len() as u64);
    // A file that is written to, and one in a directory that was renamed.
    fs::rename(merged.join("d"), merged.join("moved")).unwrap();
    fs::set_permissions(merged.join("written"), Permissions::from_mode(0o600)).unwrap();
    fs::write(merged.join("written"), "short").unwrap();
    let check = |storaged: &Storaged| {
        let changes = storaged.rootfs_changes("c1").unwrap();
        let paths: Vec<&str> = changes.iter().map(|change| change.path.as_str()).collect();
        assert_eq!(paths, ["/d", "/moved", "/moved/big", "/written"]);
        let layer = storaged.commit_rootfs("c1").unwrap();
        assert_eq!(layer.size, content.len() as u64 + 5, "with its data");
    };
    check(&storaged);
    storaged.unmount_rootfs("c1").unwrap();
    check(&storaged);
    drop(storaged);
    // Somebody changes the configuration: what was copied so stays readable.
    let storaged = state.open_with(settings(false));
    check(&storaged);
    let merged = PathBuf::from(storaged.mount_rootfs("c1").unwrap().path);
    assert_eq!(read(merged.join("moved/big")), content);
    assert_eq!(owner(merged.join("moved/big")), (7, 8));
    let other = mounted(&storaged, "other", &image);
    fs::set_permissions(other.join("d/big"), Permissions::from_mode(0o600)).unwrap();
    let upper = PathBuf::from(&storaged.rootfs("other").unwrap().data["UpperDir"]);
    assert!(fs::symlink_metadata(upper.join("d/big")).unwrap().blocks() > 8);
    is_well(&storaged);
}

#[test]
fn a_running_container_tells_its_changes_over_500_layers() {
    let state = State::on_ext4();
    let storaged = state.open_with(config(&state));
    let layer: &[support::Entry] = &[file("f", "x")];
    let image = image(&storaged, "deep", &vec![layer; 500]);
    if !can_map(&storaged, &image, (5, 19)) {
        return;
    }
    let maps = create(&storaged, "one", &image, "auto").unwrap();
    let merged = mount(&storaged, "one");
    as_root(&maps, || fs::write(merged.join("new"), "").unwrap());
    let changes = storaged.rootfs_changes("one").unwrap();
    let paths: Vec<&str> = changes.iter().map(|change| change.path.as_str()).collect();
    assert_eq!(paths, ["/new"]);
    let mut archive = Vec::new();
    storaged.export_rootfs("one", &mut archive).unwrap();
    storaged.unmount_rootfs("one").unwrap();
}
