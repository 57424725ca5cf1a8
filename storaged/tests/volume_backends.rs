//! Volumes with limits, owners, and filesystems of their own.
#![expect(
    clippy::unwrap_used,
    reason = "a fixture that cannot be made fails its test"
)]

mod support;

use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use api::storage::{SnapshotCreate, Volume, VolumeClone, VolumePopulate, VolumeStats};
use api::volume_plugin as plugin;
use api::{ApiError, ErrorCode};
use serde_json::json;
use storaged::{Storaged, VolumeError};
use support::{State, create, dir, file, filesystem, image, is_well, ls, read, with_options};

const MEGABYTE: u64 = 1 << 20;

fn make(storaged: &Storaged, name: &str, options: &[(&str, &str)]) -> Volume {
    storaged.create_volume(with_options(name, options)).unwrap()
}

fn loop_volume(storaged: &Storaged) {
    make(storaged, "data", &[("backend", "loop"), ("size", "16m")]);
}

/// Mounts as a plugin client does. Says where.
fn mount(storaged: &Storaged, name: &str) -> PathBuf {
    let body = json!({"Name": name, "ID": "m1"}).to_string();
    let (status, reply) = storaged.plugin_call(plugin::MOUNT, body.as_bytes());
    assert_eq!(status, 200, "{}", reply.err);
    PathBuf::from(reply.mountpoint)
}

fn mount_error(storaged: &Storaged, name: &str) -> String {
    let body = json!({"Name": name, "ID": "m1"}).to_string();
    let (status, reply) = storaged.plugin_call(plugin::MOUNT, body.as_bytes());
    assert_ne!(status, 200, "it is mounted");
    reply.err
}

fn unmount(storaged: &Storaged, name: &str) {
    let body = json!({"Name": name, "ID": "m1"}).to_string();
    assert_eq!(
        storaged.plugin_call(plugin::UNMOUNT, body.as_bytes()).0,
        200
    );
}

fn refusal<T: std::fmt::Debug>(result: Result<T, VolumeError>) -> ApiError {
    ApiError::from(result.expect_err("it was accepted"))
}

/// Nothing in `line` of the mount table but what is expected there.
fn mount_line(target: &Path) -> String {
    let table = std::fs::read_to_string("/proc/thread-self/mounts").unwrap();
    let target = target.to_str().unwrap();
    let line = table.lines().find(|line| line.contains(target));
    line.expect("it is not mounted").to_owned()
}

/// The rest of a file is written until the filesystem has no room.
fn fill(path: &Path) -> u64 {
    let mut file = std::fs::File::create(path).unwrap();
    let mut written = 0;
    loop {
        match file
            .write(&[1; 1 << 16])
            .and_then(|n| file.sync_data().map(|()| n))
        {
            Ok(more) => written += more as u64,
            Err(_full) => return written,
        }
    }
}

#[test]
fn a_directory_has_the_owner_that_was_asked_for() {
    let state = State::new();
    let storaged = state.open();
    let owner = [("uid", "1000"), ("gid", "1001"), ("mode", "2770")];
    let volume = make(&storaged, "data", &owner);
    let stat = std::fs::metadata(&volume.mountpoint).unwrap();
    assert_eq!(
        (stat.uid(), stat.gid(), stat.mode() & 0o7777),
        (1000, 1001, 0o2770)
    );
    assert_eq!(volume.options["mode"], "2770");
    // Image data comes with an owner of its own, which was not asked for.
    let base = image(
        &storaged,
        "base",
        &[&[dir("srv").mode(0o711), file("srv/a", "one")]],
    );
    create(&storaged, "c1", &base, false);
    let request = VolumePopulate {
        container: "c1".to_owned(),
        path: "/srv".to_owned(),
    };
    storaged.populate_volume("data", request).unwrap();
    let stat = std::fs::metadata(&volume.mountpoint).unwrap();
    assert_eq!((stat.uid(), stat.mode() & 0o7777), (1000, 0o2770));
    assert_eq!(read(Path::new(&volume.mountpoint).join("a")), "one");
}

#[test]
fn a_loop_volume_is_a_filesystem_of_its_size_that_outlives_the_daemon() {
    let state = State::new();
    let storaged = state.open();
    let options = [
        ("backend", "loop"),
        ("size", "16m"),
        ("uid", "7"),
        ("mode", "0700"),
    ];
    let volume = make(&storaged, "data", &options);
    assert_eq!(
        ls(&volume.mountpoint),
        "",
        "not mounted before somebody asks"
    );
    let target = mount(&storaged, "data");
    assert_eq!(target, Path::new(&volume.mountpoint));
    assert_eq!(ls(&target), "", "it begins empty");
    let line = mount_line(&target);
    for word in [
        "/dev/loop",
        " ext4 ",
        "nosuid",
        "nodev",
        "errors=remount-ro",
    ] {
        assert!(line.contains(word), "{word}: {line}");
    }
    let stat = std::fs::metadata(&target).unwrap();
    assert_eq!((stat.uid(), stat.mode() & 0o7777), (7, 0o700));
    let written = fill(&target.join("f"));
    assert!(
        (8 * MEGABYTE..16 * MEGABYTE).contains(&written),
        "{written}"
    );
    std::fs::write(target.join("f"), "kept").unwrap();
    drop(storaged);
    let storaged = state.open();
    assert_eq!(read(target.join("f")), "kept", "opening never unmounts");
    assert_eq!(mount(&storaged, "data"), target, "again for the same mount");
    unmount(&storaged, "data");
    assert_eq!(ls(&target), "");
    mount(&storaged, "data");
    assert_eq!(read(target.join("f")), "kept");
    unmount(&storaged, "data");
    is_well(&storaged);
    storaged.remove_volume("data").unwrap();
    assert!(!target.exists());
}

#[test]
fn an_image_takes_what_is_in_it_and_has_the_inodes_it_was_made_with() {
    let state = State::new();
    let storaged = state.open();
    let options = [("backend", "loop"), ("size", "1g"), ("inodes", "64")];
    make(&storaged, "data", &options);
    let image = state.path().join("volumes/data/_image");
    let stat = std::fs::metadata(&image).unwrap();
    assert_eq!(stat.len(), 1 << 30);
    assert!(stat.blocks() * 512 < 64 * MEGABYTE, "{}", stat.blocks());
    let target = mount(&storaged, "data");
    let files = (0..1000).take_while(|n| std::fs::write(target.join(n.to_string()), "").is_ok());
    // Made in groups, and some are the filesystem's own.
    let files = files.count();
    assert!((32..=256).contains(&files), "{files}");
    unmount(&storaged, "data");
}

#[test]
fn a_loop_volume_grows_and_never_shrinks() {
    let state = State::new();
    let storaged = state.open();
    loop_volume(&storaged);
    let target = mount(&storaged, "data");
    std::fs::write(target.join("f"), "kept").unwrap();
    unmount(&storaged, "data");
    let grown = storaged.resize_volume("data", "64m").unwrap();
    assert_eq!(grown.options["size"], "64m");
    mount(&storaged, "data");
    assert_eq!(read(target.join("f")), "kept");
    assert!(fill(&target.join("g")) > 32 * MEGABYTE);
    let smaller = refusal(storaged.resize_volume("data", "32m"));
    assert_eq!(smaller.code, ErrorCode::InvalidInput);
    assert!(
        smaller.message.contains("not made smaller"),
        "{}",
        smaller.message
    );
    // A mounted ext4 grows for those who may override its reserves, and for others says what to do.
    match storaged.resize_volume("data", "80m") {
        Ok(_) => assert!(fill(&target.join("h")) > 8 * MEGABYTE),
        Err(error) => assert!(error.to_string().contains("CAP_SYS_RESOURCE"), "{error}"),
    }
    unmount(&storaged, "data");
    drop(storaged);
    is_well(&state.open());
    make(&state.open(), "plain", &[]);
    let plain = refusal(state.open().resize_volume("plain", "1g"));
    assert_eq!(plain.code, ErrorCode::InvalidInput);
}

#[test]
fn xfs_grows_while_it_is_mounted() {
    let state = State::new();
    let storaged = state.open();
    let options = [("backend", "loop"), ("size", "300m"), ("fs", "xfs")];
    make(&storaged, "data", &options);
    let target = mount(&storaged, "data");
    assert!(mount_line(&target).contains(" xfs "));
    let blocks = || rustix::fs::statvfs(&target).unwrap().f_blocks;
    let before = blocks();
    storaged.resize_volume("data", "400m").unwrap();
    assert!(blocks() > before + before / 4, "{before} {}", blocks());
    // A copy has the same identity, and both are mounted.
    let copy = VolumeClone {
        name: "copy".to_owned(),
        ..VolumeClone::default()
    };
    storaged.clone_volume("data", copy).unwrap();
    mount(&storaged, "copy");
    unmount(&storaged, "copy");
    unmount(&storaged, "data");
}

#[test]
fn a_snapshot_of_a_mounted_loop_volume_is_of_one_moment() {
    let state = State::new();
    let storaged = state.open();
    loop_volume(&storaged);
    let target = mount(&storaged, "data");
    std::fs::write(target.join("f"), "one").unwrap();
    let request = SnapshotCreate {
        name: "then".to_owned(),
        live: false,
    };
    let snapshot = storaged.create_snapshot("data", &request).unwrap();
    assert!(snapshot.size < 16 * MEGABYTE);
    std::fs::write(target.join("f"), "two").expect("writers go on");
    let error = refusal(storaged.roll_back("data", "then"));
    assert_eq!(error.code, ErrorCode::InUse);
    let clone = VolumeClone {
        name: "copy".to_owned(),
        snapshot: Some("then".to_owned()),
        ..VolumeClone::default()
    };
    let copy = storaged.clone_volume("data", clone).unwrap();
    assert_eq!(copy.options["size"], "16m");
    assert_eq!(read(mount(&storaged, "copy").join("f")), "one");
    unmount(&storaged, "copy");
    unmount(&storaged, "data");
    storaged.roll_back("data", "then").unwrap();
    assert_eq!(read(mount(&storaged, "data").join("f")), "one");
    unmount(&storaged, "data");
    storaged.remove_snapshot("data", "then").unwrap();
    is_well(&storaged);
    assert!(state.leftovers().is_empty());
}

#[test]
fn image_data_comes_into_a_loop_volume_once() {
    let state = State::new();
    let storaged = state.open();
    let base = image(
        &storaged,
        "base",
        &[&[dir("srv").mode(0o711), file("srv/a", "one")]],
    );
    create(&storaged, "c1", &base, false);
    loop_volume(&storaged);
    let request = || VolumePopulate {
        container: "c1".to_owned(),
        path: "/srv".to_owned(),
    };
    storaged.populate_volume("data", request()).unwrap();
    let target = mount(&storaged, "data");
    assert_eq!(read(target.join("a")), "one");
    assert_eq!(std::fs::metadata(&target).unwrap().mode() & 0o7777, 0o711);
    std::fs::remove_file(target.join("a")).unwrap();
    unmount(&storaged, "data");
    storaged.populate_volume("data", request()).unwrap();
    assert_eq!(ls(mount(&storaged, "data")), "", "it does not come back");
    unmount(&storaged, "data");
    is_well(&storaged);
}

#[test]
fn a_filesystem_that_was_not_unmounted_is_repaired_before_it_is_mounted() {
    let state = State::new();
    let storaged = state.open();
    loop_volume(&storaged);
    let target = mount(&storaged, "data");
    std::fs::write(target.join("f"), "kept").unwrap();
    // What a power cut leaves: the file as it is while the filesystem is in use.
    rustix::fs::syncfs(std::fs::File::open(&target).unwrap()).unwrap();
    let image = state.path().join("volumes/data/_image");
    std::fs::copy(&image, state.path().join("cut")).unwrap();
    unmount(&storaged, "data");
    std::fs::rename(state.path().join("cut"), &image).unwrap();
    assert_eq!(read(mount(&storaged, "data").join("f")), "kept");
    unmount(&storaged, "data");
    // An error on record, as after a bad block, is repaired, too.
    let debugfs = std::process::Command::new("debugfs")
        .args(["-w", "-R", "set_super_value state 2"])
        .arg(&image)
        .output()
        .unwrap();
    assert!(debugfs.status.success(), "{debugfs:?}");
    assert_eq!(read(mount(&storaged, "data").join("f")), "kept");
    unmount(&storaged, "data");
    // One that cannot be repaired is refused with what to do, and mounted nowhere.
    std::fs::write(&image, vec![0; 16 << 20]).unwrap();
    let error = mount_error(&storaged, "data");
    assert!(error.contains("e2fsck"), "{error}");
    assert_eq!(storaged.volume("data").unwrap().holders, [""; 0]);
}

#[test]
fn a_limit_without_quotas_names_the_way_out_and_leaves_nothing() {
    // tmpfs has no project quotas on any kernel.
    let state = State::new();
    let storaged = state.open();
    for option in [("size", "1m"), ("inodes", "10")] {
        let error = refusal(storaged.create_volume(with_options("data", &[option])));
        assert!(error.message.contains("backend=loop"), "{}", error.message);
        assert_eq!(error.code, ErrorCode::InvalidInput);
        assert!(storaged.volumes().is_empty());
        assert!(!state.path().join("volumes/data").exists());
    }
    assert!(state.leftovers().is_empty());
    is_well(&storaged);
}

#[test]
fn btrfs_limits_and_copies_subvolumes() {
    let disk = State::new();
    let mounted = filesystem(&disk, &["mkfs.btrfs", "-q"], "btrfs", "");
    let state = State::inside(mounted.expect("btrfs is built into the kernels of the matrix"));
    let storaged = state.open();
    let volume = make(&storaged, "data", &[("size", "20m")]);
    let data = PathBuf::from(&volume.mountpoint);
    assert_eq!(std::fs::metadata(&data).unwrap().ino(), 256, "a subvolume");
    let written = fill(&data.join("f"));
    assert!(written <= 20 * MEGABYTE, "{written}");
    std::fs::remove_file(data.join("f")).unwrap();
    std::fs::write(data.join("f"), "one").unwrap();
    // Also while it is mounted: a subvolume's copy is of one moment.
    mount(&storaged, "data");
    let request = SnapshotCreate {
        name: "then".to_owned(),
        live: false,
    };
    storaged.create_snapshot("data", &request).unwrap();
    unmount(&storaged, "data");
    std::fs::write(data.join("f"), "two").unwrap();
    let clone = VolumeClone {
        name: "copy".to_owned(),
        snapshot: Some("then".to_owned()),
        ..VolumeClone::default()
    };
    let copy = storaged.clone_volume("data", clone).unwrap();
    assert_eq!(read(Path::new(&copy.mountpoint).join("f")), "one");
    assert!(fill(&Path::new(&copy.mountpoint).join("g")) <= 20 * MEGABYTE);
    storaged.roll_back("data", "then").unwrap();
    assert_eq!(read(data.join("f")), "one");
    assert!(fill(&data.join("g")) <= 20 * MEGABYTE, "the limit stays");
    std::fs::remove_file(data.join("g")).unwrap();
    storaged.resize_volume("data", "60m").unwrap();
    assert!(fill(&data.join("g")) > 30 * MEGABYTE);
    let inodes = refusal(storaged.create_volume(with_options("few", &[("inodes", "9")])));
    assert!(
        inodes.message.contains("backend=loop"),
        "{}",
        inodes.message
    );
    storaged.remove_snapshot("data", "then").unwrap();
    storaged.remove_volume("data").unwrap();
    storaged.remove_volume("copy").unwrap();
    is_well(&storaged);
    assert!(state.leftovers().is_empty());
}

#[test]
fn btrfs_volumes_begin_with_image_data() {
    let disk = State::new();
    let mounted = filesystem(&disk, &["mkfs.btrfs", "-q"], "btrfs", "");
    let state = State::inside(mounted.expect("btrfs is built into the kernels of the matrix"));
    let storaged = state.open();
    take_image_data(&storaged, &[&[], &[("size", "20m")], &[("uid", "7")]]);
    // Nothing replaces what somebody uses.
    make(&storaged, "used", &[]);
    let used = mount(&storaged, "used");
    storaged.populate_volume("used", image_data()).unwrap();
    assert_eq!(ls(&used), "");
    unmount(&storaged, "used");
    storaged.populate_volume("used", image_data()).unwrap();
    assert_eq!(ls(&used), "f");
    is_well(&storaged);
    assert!(state.leftovers().is_empty());
}

fn image_data() -> VolumePopulate {
    VolumePopulate {
        container: "c1".to_owned(),
        path: "/srv".to_owned(),
    }
}

/// Volumes of each kind of options get what the image has, once, and are limited as before.
fn take_image_data(storaged: &Storaged, kinds: &[&[(&str, &str)]]) {
    let srv = dir("srv").owner(3, 4).mode(0o2755);
    let image = image(storaged, "web", &[&[srv, file("srv/f", "image")]]);
    create(storaged, "c1", &image, false);
    for (number, options) in kinds.iter().enumerate() {
        let name = format!("data{number}");
        let data = PathBuf::from(make(storaged, &name, options).mountpoint);
        storaged.populate_volume(&name, image_data()).unwrap();
        assert_eq!(read(data.join("f")), "image", "{options:?}");
        let stat = std::fs::metadata(&data).unwrap();
        let owner = options.iter().find(|(key, _)| *key == "uid");
        let uid = owner.map_or(3, |(_, uid)| uid.parse().unwrap());
        assert_eq!((stat.uid(), stat.gid()), (uid, 4), "{options:?}");
        std::fs::write(data.join("f"), "mine").unwrap();
        storaged.populate_volume(&name, image_data()).unwrap();
        assert_eq!(read(data.join("f")), "mine", "{options:?}");
    }
}

/// Works where the kernel counts by project, and is refused where it does not.
fn project_quota(mkfs: &[&str], kind: &str, options: &str) {
    let disk = State::new();
    // `quotactl_fd(2)` came with 5.14.
    let (state, counts) = match filesystem(&disk, mkfs, kind, options) {
        Some(mounted) => (State::inside(mounted), sys::kernel::is_linux(5, 14)),
        None => (State::on_disk(), false),
    };
    let storaged = state.open();
    let limits = [("size", "8m"), ("inodes", "20")];
    if !counts {
        let error = refusal(storaged.create_volume(with_options("data", &limits)));
        assert!(error.message.contains("backend=loop"), "{}", error.message);
        is_well(&storaged);
        return;
    }
    let volume = make(&storaged, "data", &limits);
    let other = make(&storaged, "other", &limits);
    for volume in [volume, other] {
        let data = PathBuf::from(&volume.mountpoint);
        // Root writes on where it may override limits; containers may not.
        let may_override = std::fs::read_to_string("/proc/thread-self/status")
            .unwrap()
            .lines()
            .find_map(|line| line.strip_prefix("CapEff:\t"))
            .is_some_and(|caps| u64::from_str_radix(caps, 16).unwrap() & (1 << 24) != 0);
        if !may_override {
            assert!(fill(&data.join("f")) <= 8 * MEGABYTE);
        }
    }
    storaged.resize_volume("data", "16m").unwrap();
    take_image_data(&storaged, &[&limits]);
    is_well(&storaged);
}

#[test]
fn xfs_limits_by_project_where_the_kernel_can() {
    project_quota(&["mkfs.xfs", "-q"], "xfs", "prjquota");
}

#[test]
fn ext4_limits_by_project_where_the_kernel_can() {
    let mkfs = [
        "mkfs.ext4",
        "-q",
        "-O",
        "quota,project",
        "-E",
        "quotatype=prjquota",
    ];
    project_quota(&mkfs, "ext4", "prjquota");
}

/// Asks until it was measured.
fn stats(storaged: &Storaged, name: &str) -> VolumeStats {
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        let mut stats = storaged.volume_stats(&[name.to_owned()]).unwrap();
        let stats = stats.pop().unwrap();
        if stats.bytes.is_some() {
            return stats;
        }
        assert!(Instant::now() < end, "it is never measured");
        std::thread::yield_now();
    }
}

#[test]
fn stats_tell_what_volumes_take_and_may_take() {
    let state = State::new();
    let storaged = state.open();
    let plain = make(&storaged, "plain", &[]);
    std::fs::write(Path::new(&plain.mountpoint).join("f"), vec![1; 100_000]).unwrap();
    let found = stats(&storaged, "plain");
    assert_eq!((found.backend.as_str(), found.max_bytes), ("dir", None));
    assert!(
        found.bytes.unwrap() >= 100_000 && found.inodes == Some(2),
        "{found:?}"
    );
    loop_volume(&storaged);
    let found = stats(&storaged, "data");
    assert_eq!((found.max_bytes, found.inodes), (Some(16 * MEGABYTE), None));
    let target = mount(&storaged, "data");
    let empty = stats(&storaged, "data");
    std::fs::write(target.join("f"), vec![1; 3_000_000]).unwrap();
    rustix::fs::syncfs(std::fs::File::open(&target).unwrap()).unwrap();
    let full = stats(&storaged, "data");
    assert!(
        full.bytes.unwrap() >= empty.bytes.unwrap() + 2_900_000,
        "{full:?}"
    );
    assert_eq!(full.inodes.unwrap(), empty.inodes.unwrap() + 1);
    assert!(full.max_inodes.is_some() && full.max_bytes.unwrap() < 16 * MEGABYTE);
    let mut metrics = String::new();
    storaged.metrics(&mut metrics);
    assert!(
        metrics.contains("hawser_volume_limit_bytes{volume=\"data\"} "),
        "{metrics}"
    );
    let missing = refusal(storaged.volume_stats(&["nope".to_owned()]));
    assert_eq!(missing.code, ErrorCode::NotFound);
    assert_eq!(storaged.volume_stats(&[]).unwrap().len(), 2);
    unmount(&storaged, "data");
}
