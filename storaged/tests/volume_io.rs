//! What passes to the devices of volumes is counted, for each volume its own.
#![expect(
    clippy::unwrap_used,
    reason = "a fixture that cannot be made fails its test"
)]

mod support;

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use api::storage::{IoCounts, VolumeIo};
use api::volume_plugin as plugin;
use serde_json::json;
use storaged::Storaged;
use support::{State, with_options};

const MEGABYTE: u64 = 1 << 20;

fn loop_volume(storaged: &Storaged, name: &str, filesystem: &str, size: &str) -> PathBuf {
    let options = [("backend", "loop"), ("fs", filesystem), ("size", size)];
    storaged
        .create_volume(with_options(name, &options))
        .unwrap();
    mount(storaged, name)
}

fn call(storaged: &Storaged, verb: &str, name: &str) -> String {
    let body = json!({"Name": name, "ID": "m1"}).to_string();
    let (status, reply) = storaged.plugin_call(verb, body.as_bytes());
    assert_eq!(status, 200, "{}", reply.err);
    reply.mountpoint
}

fn mount(storaged: &Storaged, name: &str) -> PathBuf {
    PathBuf::from(call(storaged, plugin::MOUNT, name))
}

fn unmount(storaged: &Storaged, name: &str) {
    call(storaged, plugin::UNMOUNT, name);
}

fn io(storaged: &Storaged, name: &str) -> VolumeIo {
    let stats = storaged.volume_stats(&[name.to_owned()]).unwrap().remove(0);
    let io = stats.io.expect("the kernel counts for us");
    assert_eq!(storaged.volume(name).unwrap().io.as_ref(), Some(&io));
    io
}

/// Writes so much, and sees to it that the device has it.
fn write(path: &Path, megabytes: u64) {
    let mut file = File::create(path).unwrap();
    for _ in 0..megabytes {
        file.write_all(&[7; MEGABYTE as usize]).unwrap();
    }
    file.sync_all().unwrap();
}

fn is_consistent(counts: &IoCounts) {
    assert_eq!(counts.latency.iter().sum::<u64>(), counts.operations);
    // A bucket's operations took at least its lower end.
    let least = counts.latency.iter().enumerate().skip(1);
    let least: u64 = least
        .map(|(bucket, count)| count * 1000 * (1 << bucket))
        .sum();
    assert!(counts.nanoseconds >= least, "{counts:?}");
}

fn counts_its_own(filesystem: &str, size: &str) {
    let state = State::new();
    let storaged = state.open();
    let data = loop_volume(&storaged, "data", filesystem, size);
    loop_volume(&storaged, "idle", filesystem, size);
    let idle = io(&storaged, "idle");
    let before = io(&storaged, "data");
    write(&data.join("f"), 4);
    let after = io(&storaged, "data");
    let written = after.write.bytes - before.write.bytes;
    assert!((4 * MEGABYTE..6 * MEGABYTE).contains(&written), "{after:?}");
    assert!(after.write.operations > before.write.operations);
    assert!(
        after.flush.operations > before.flush.operations,
        "{after:?}"
    );
    assert_eq!(after.write.errors, 0);
    for counts in [&after.read, &after.write, &after.flush] {
        is_consistent(counts);
    }
    assert_eq!(io(&storaged, "idle").write.bytes, idle.write.bytes);
    // The figures stay when the volume goes from one device to another, or to none.
    unmount(&storaged, "data");
    assert!(io(&storaged, "data").write.bytes >= after.write.bytes);
    let read = io(&storaged, "data").read.bytes;
    let data = mount(&storaged, "data");
    let file = std::fs::read(data.join("f")).unwrap();
    assert_eq!(file.len() as u64, 4 * MEGABYTE);
    assert!(io(&storaged, "data").read.bytes >= read + 4 * MEGABYTE);
    let mut metrics = String::new();
    storaged.metrics(&mut metrics);
    for series in [
        "hawser_volume_io_bytes_total{volume=\"data\",operation=\"write\"} ",
        "hawser_volume_io_seconds_bucket{volume=\"data\",operation=\"flush\",le=\"+Inf\"} ",
    ] {
        assert!(metrics.contains(series), "{metrics}");
    }
    unmount(&storaged, "data");
    unmount(&storaged, "idle");
    storaged.remove_volume("data").unwrap();
    // Another one of that name begins with nothing.
    storaged.create_volume(with_options("data", &[])).unwrap();
    assert_eq!(storaged.volume("data").unwrap().io, None);
}

#[test]
fn an_ext4_volume_has_its_own_figures() {
    counts_its_own("ext4", "32m");
}

#[test]
fn an_xfs_volume_has_its_own_figures() {
    counts_its_own("xfs", "320m");
}

#[test]
fn a_daemon_that_starts_counts_for_what_is_mounted() {
    let state = State::new();
    let data = loop_volume(&state.open(), "data", "ext4", "32m");
    let storaged = state.open();
    assert_eq!(io(&storaged, "data"), VolumeIo::default());
    write(&data.join("f"), 1);
    assert!(io(&storaged, "data").write.bytes >= MEGABYTE);
    // Two daemons of one host do not count for each other.
    let other = State::new();
    let stranger = other.open();
    loop_volume(&stranger, "data", "ext4", "32m");
    let (before, ours) = (io(&stranger, "data"), io(&storaged, "data"));
    write(&data.join("f"), 2);
    assert_eq!(io(&stranger, "data").write.bytes, before.write.bytes);
    assert!(io(&storaged, "data").write.bytes >= ours.write.bytes + 2 * MEGABYTE);
    unmount(&stranger, "data");
    unmount(&storaged, "data");
}

#[test]
fn operations_that_fail_are_errors_and_nothing_else() {
    let disk = State::new();
    let storaged = disk.open();
    let data = loop_volume(&storaged, "data", "ext4", "64m");
    write(&data.join("before"), 1);
    let before = io(&storaged, "data");
    // The file of the volume finds no more blocks.
    let stat = rustix::fs::statvfs(disk.path()).unwrap();
    let used = (stat.f_blocks - stat.f_bfree) * stat.f_frsize;
    let limit = |bytes: u64| {
        let options = std::ffi::CString::new(format!("size={bytes}")).unwrap();
        let none = rustix::mount::MountFlags::empty();
        rustix::mount::mount_remount(disk.path(), none, options.as_c_str()).unwrap();
    };
    limit(used);
    let mut file = File::create(data.join("lost")).unwrap();
    file.write_all(&vec![1; 8 * MEGABYTE as usize]).unwrap();
    assert!(file.sync_all().is_err(), "the disk had room");
    let after = io(&storaged, "data");
    assert!(after.write.errors > before.write.errors, "{after:?}");
    is_consistent(&after.write);
    limit(0);
    drop(file);
    unmount(&storaged, "data");
}
