//! Disks that fail: what was acknowledged is there when they work again, and errors say what they are
//! about and what helps.
#![expect(
    clippy::unwrap_used,
    reason = "a fixture that cannot be made fails its test"
)]

mod support;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use api::storage::{StorageCheck, VolumeClone, VolumeImport, VolumePopulate};
use api::{ApiError, ErrorCode};
use rustix::fs::Advice;
use rustix::mount::MountFlags;
use storaged::Storaged;
use support::{
    State, archive, create, file, filesystem, image, is_well, mounted, read, refused, with_options,
};

/// What compresses badly, looks like nothing else, and differs by its seed.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u8
    };
    (0..length).map(|_| next()).collect()
}

fn volume(storaged: &Storaged, name: &str, options: &[(&str, &str)]) -> PathBuf {
    let volume = storaged.create_volume(with_options(name, options)).unwrap();
    volume.mountpoint.into()
}

fn write_synced(path: &Path, bytes: &[u8]) {
    let file = File::create(path).unwrap();
    file.write_all_at(bytes, 0).unwrap();
    file.sync_all().unwrap();
}

/// Gives the tmpfs of a state no more than it has, but for `spare` bytes; or as much as it wants.
fn limit(disk: &State, spare: Option<u64>) {
    let stat = rustix::fs::statvfs(disk.path()).unwrap();
    let used = (stat.f_blocks - stat.f_bfree) * stat.f_frsize;
    let size = spare.map_or(0, |spare| used + spare);
    let options = std::ffi::CString::new(format!("size={size}")).unwrap();
    rustix::mount::mount_remount(disk.path(), MountFlags::empty(), options.as_c_str()).unwrap();
}

/// The disk's blocks are those of a sparse file whose filesystem is full: writing them is an I/O
/// error, as on a disk that dies, or one for want of room, depending on which block comes first.
#[test]
fn a_disk_that_takes_no_writes_loses_nothing_acknowledged() {
    let disk = State::new();
    let mkfs = ["mkfs.ext4", "-q", "-E", "lazy_itable_init=1"];
    let target = filesystem(&disk, &mkfs, "ext4", "").expect("every kernel has ext4");
    let state = State::inside(target.clone());
    let storaged = state.open();
    image(&storaged, "kept", &[&[file("kept", noise(1, 100_000))]]);
    let data = volume(&storaged, "data", &[]);
    write_synced(&data.join("f"), b"acknowledged");

    limit(&disk, Some(1 << 20));
    let stream = archive(&[file("big", noise(2, 24 << 20))]);
    let failed = storaged.import_layer(None, None, &mut stream.as_slice());
    let error = ApiError::from(failed.unwrap_err());
    let told = [
        ("Input/output error", "dmesg says how"),
        ("No space left on device", "make room"),
    ];
    let has = |(what, way_out): (&str, &str)| {
        error.message.contains(what) && error.message.contains(way_out)
    };
    assert!(told.into_iter().any(has), "{}", error.message);
    let subject = state.path().join("overlay2");
    let subject = subject.to_str().unwrap();
    assert!(error.message.contains(subject), "{}", error.message);
    assert!(storaged.image("kept").is_ok(), "readings go on");
    assert_eq!(storaged.layers().len(), 1);

    // The disk is replaced by one that works, with what the old one had.
    drop(storaged);
    let below = state.path().strip_prefix(&target).unwrap().to_owned();
    drop_mount(&state);
    sys::mount::unmount(&target).unwrap();
    limit(&disk, None);
    let image_file = disk.path().join("disk");
    let checked = std::process::Command::new("e2fsck")
        .args(["-p", "-f"])
        .arg(&image_file)
        .output()
        .unwrap();
    assert!(
        checked.status.code().is_some_and(|code| code < 4),
        "{checked:?}"
    );
    let device = sys::loop_device::LoopDevice::attach(&image_file).unwrap();
    let node = device.path().to_str().unwrap();
    sys::mount::filesystem("ext4", node, &target, MountFlags::empty(), "").unwrap();
    let whole = target.join(below);
    sys::mount::bind(&whole, &whole, false, MountFlags::empty()).unwrap();
    let storaged = state.open();
    is_well(&storaged);
    assert!(state.leftovers().is_empty());
    let kept = storaged.image("kept").unwrap();
    let root = mounted(&storaged, "c1", &kept);
    assert_eq!(std::fs::read(root.join("kept")).unwrap(), noise(1, 100_000));
    assert_eq!(read(data.join("f")), "acknowledged");
    storaged
        .import_layer(None, None, &mut stream.as_slice())
        .unwrap();
    is_well(&storaged);
    storaged.unmount_rootfs("c1").unwrap();
    drop(storaged);
    drop_mount(&state);
    sys::mount::unmount(&target).unwrap();
}

fn drop_mount(state: &State) {
    sys::mount::unmount(state.path()).unwrap();
}

/// A filesystem of its own in a file: its writers get the error, and the daemon mounts it again.
#[test]
fn a_volume_whose_file_takes_no_writes_keeps_what_was_synced() {
    let state = State::new();
    let storaged = state.open();
    volume(&storaged, "data", &[("backend", "loop"), ("size", "32m")]);
    let body = br#"{"Name":"data","ID":"c1"}"#;
    let call = |verb: &str| storaged.plugin_call(&format!("/VolumeDriver.{verb}"), body);
    assert_eq!(call("Mount").0, 200);
    let data = PathBuf::from(storaged.volume("data").unwrap().mountpoint);
    write_synced(&data.join("kept"), &noise(1, 1 << 20));
    limit(&state, Some(64 << 10));
    let failed = File::create(data.join("lost")).and_then(|file| {
        file.write_all_at(&noise(2, 8 << 20), 0)
            .and_then(|()| file.sync_all())
    });
    assert!(failed.is_err(), "the writer is told");
    limit(&state, None);
    assert_eq!(call("Unmount").0, 200);
    let (status, reply) = call("Mount");
    assert_eq!(status, 200, "{}", reply.err);
    assert_eq!(std::fs::read(data.join("kept")).unwrap(), noise(1, 1 << 20));
    write_synced(&data.join("more"), b"x");
    assert_eq!(call("Unmount").0, 200);
    is_well(&storaged);
}

/// Flips a byte of each block of `content` on the disk, and forgets what is in memory of it.
fn rot(disk: &Path, path: &Path, content: &[u8]) {
    const BLOCK: usize = 4096;
    let file = File::open(path).unwrap();
    rustix::fs::syncfs(&file).unwrap();
    rustix::fs::fadvise(&file, 0, None, Advice::DontNeed).unwrap();
    let device = File::options().read(true).write(true).open(disk).unwrap();
    let length = device.metadata().unwrap().len();
    let (mut block, mut found) = ([0; BLOCK], 0);
    for at in (0..length).step_by(BLOCK) {
        device.read_exact_at(&mut block, at).unwrap();
        if content.chunks_exact(BLOCK).any(|chunk| chunk == block) {
            block[17] ^= 1;
            device.write_all_at(&block, at).unwrap();
            found += 1;
        }
    }
    assert_eq!(
        found,
        content.len() / BLOCK,
        "each block is on the disk once"
    );
}

/// A btrfs whose sums do not match says EIO, as a disk does whose sectors cannot be read.
#[test]
fn a_file_that_cannot_be_read_is_named_and_the_rest_stays_usable() {
    let disk = State::new();
    let mkfs = ["mkfs.btrfs", "-q", "-d", "single"];
    let target = filesystem(&disk, &mkfs, "btrfs", "").expect("every kernel has btrfs");
    let state = State::inside(target);
    let storaged = state.open();
    let (in_layer, in_volume) = (noise(1, 64 << 10), noise(2, 64 << 10));
    let bad = image(&storaged, "bad", &[&[file("d/rotten", &in_layer)]]);
    let layer = state.layer_directories().remove(0);
    image(&storaged, "good", &[&[file("good", noise(3, 9000))]]);
    let data = volume(&storaged, "data", &[]);
    write_synced(&data.join("rotten"), &in_volume);
    write_synced(&data.join("sound"), b"sound");
    let image_file = disk.path().join("disk");
    rot(&image_file, &layer.join("diff/d/rotten"), &in_layer);
    rot(&image_file, &data.join("rotten"), &in_volume);

    let named = |message: &str| {
        assert!(message.contains("rotten"), "{message}");
        assert!(message.contains("Input/output error"), "{message}");
        assert!(message.contains("dmesg"), "{message}");
    };
    let mut out = Vec::new();
    let error = storaged.export_volume("data", false, &mut out).unwrap_err();
    named(&error.to_string());
    assert!(error.to_string().contains("volume data"), "{error}");
    let imported = storaged.import_volume("copy", VolumeImport::default(), &mut out.as_slice());
    assert!(imported.is_err(), "half of it is no volume");
    let chain = bad.chain_id.as_ref().unwrap();
    let error = storaged.export_layer(chain, &mut Vec::new()).unwrap_err();
    named(&error.to_string());
    let deep = StorageCheck {
        deep: true,
        repair: false,
    };
    let report = storaged.check(&deep).unwrap();
    assert_eq!(report.differences.len(), 1, "{:?}", report.differences);
    named(&report.differences[0].what);
    // Nobody else suffers.
    let good = storaged.image("good").unwrap();
    let root = mounted(&storaged, "c1", &good);
    assert_eq!(std::fs::read(root.join("good")).unwrap(), noise(3, 9000));
    assert_eq!(read(data.join("sound")), "sound");
    storaged.unmount_rootfs("c1").unwrap();
}

#[test]
fn a_limit_that_is_reached_refuses_whole_and_names_the_way_out() {
    let disk = State::new();
    let target = filesystem(&disk, &["mkfs.btrfs", "-q"], "btrfs", "");
    let state = State::inside(target.expect("every kernel has btrfs"));
    let storaged = state.open();
    let data = volume(&storaged, "data", &[]);
    write_synced(&data.join("f"), &noise(1, 24 << 20));
    let mut exported = Vec::new();
    storaged
        .export_volume("data", false, &mut exported)
        .unwrap();
    let small = VolumeImport {
        options: [("size".to_owned(), "8m".to_owned())].into(),
        ..VolumeImport::default()
    };
    let imported = storaged.import_volume("copy", small, &mut exported.as_slice());
    refused(imported, ErrorCode::Exhausted, "hawser volume resize");
    assert!(storaged.volume("copy").is_err());

    let big = image(&storaged, "big", &[&[file("d/f", noise(2, 24 << 20))]]);
    create(&storaged, "c1", &big, false);
    let little = volume(&storaged, "little", &[("size", "8m")]);
    let request = VolumePopulate {
        container: "c1".to_owned(),
        path: "/d".to_owned(),
    };
    let copied = storaged.populate_volume("little", request);
    refused(copied, ErrorCode::Exhausted, "hawser volume resize");
    assert_eq!(support::ls(&little), "");
    let clone = VolumeClone {
        name: "clone".to_owned(),
        ..VolumeClone::default()
    };
    let clone = storaged.clone_volume("data", clone).unwrap();
    assert_eq!(
        std::fs::read(Path::new(&clone.mountpoint).join("f")).unwrap(),
        noise(1, 24 << 20)
    );
    is_well(&storaged);
    assert!(state.leftovers().is_empty());
}
