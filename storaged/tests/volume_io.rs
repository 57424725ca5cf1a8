//! What passes to the devices of volumes is counted, for each volume its own; where they have none, what
//! the control groups of their containers submit.
#![expect(
    clippy::unwrap_used,
    reason = "a fixture that cannot be made fails its test"
)]

mod support;

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use api::storage::{IoCounts, IoScope, VolumeIo};
use api::volume_plugin as plugin;
use serde_json::json;
use storaged::Storaged;
use support::{State, with_options};

const MEGABYTE: u64 = 1 << 20;
const HOLDER: &str = "m1";

fn loop_volume(storaged: &Storaged, name: &str, filesystem: &str, size: &str) -> PathBuf {
    let options = [("backend", "loop"), ("fs", filesystem), ("size", size)];
    storaged
        .create_volume(with_options(name, &options))
        .unwrap();
    mount(storaged, name)
}

fn call(storaged: &Storaged, verb: &str, name: &str) -> String {
    let body = json!({"Name": name, "ID": HOLDER}).to_string();
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
        "hawser_volume_io_bytes_total{volume=\"data\",operation=\"write\",scope=\"device\"} ",
        "hawser_volume_io_seconds_bucket{volume=\"data\",operation=\"flush\",scope=\"device\",le=\"+Inf\"} ",
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

/// A control group of version 2, wherever that is mounted or not.
struct Group {
    _hierarchy: std::os::fd::OwnedFd,
    path: PathBuf,
}

impl Group {
    fn new(name: &str) -> Self {
        use std::os::fd::AsRawFd as _;
        let hierarchy = sys::mount::detached_virtual("cgroup2").unwrap();
        let (process, thread) = (std::process::id(), rustix::thread::gettid());
        let root = format!("/proc/{process}/fd/{}", hierarchy.as_raw_fd());
        let path = Path::new(&root).join(format!("hawser-{name}-{}", thread.as_raw_nonzero()));
        std::fs::create_dir(&path).unwrap();
        Self {
            _hierarchy: hierarchy,
            path,
        }
    }

    fn number(&self) -> u64 {
        std::fs::metadata(&self.path).unwrap().ino()
    }

    /// Runs dd(1) there, of four megabytes.
    fn copy(&self, words: &[String]) {
        let mut command = Command::new("sh");
        command
            .args([
                "-c",
                "echo $$ > $0/cgroup.procs && exec dd bs=1M count=4 status=none $@",
            ])
            .arg(&self.path)
            .args(words);
        assert!(command.status().unwrap().success(), "{words:?}");
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir(&self.path) {
            eprintln!("cannot remove {}: {error}", self.path.display());
        }
    }
}

fn directory_volume(storaged: &Storaged, name: &str) -> PathBuf {
    storaged.create_volume(with_options(name, &[])).unwrap();
    mount(storaged, name)
}

fn counts_of_a_group(state: &State) {
    let storaged = state.open();
    let (group, other) = (Group::new("group"), Group::new("other"));
    let data = directory_volume(&storaged, "data");
    assert_eq!(storaged.volume("data").unwrap().io, None);
    let place = |storaged: &Storaged, name: &str| {
        let number = group.number();
        storaged.place_volume_user(name, HOLDER, number).unwrap();
    };
    place(&storaged, "data");
    let nothing = VolumeIo {
        scope: IoScope::Cgroup,
        ..VolumeIo::default()
    };
    assert_eq!(io(&storaged, "data"), nothing);
    let file = data.join("f").display().to_string();
    let (to, from) = (format!("of={file}"), format!("if={file}"));
    let zeros = "if=/dev/zero".to_owned();
    let direct_write = [zeros.clone(), to.clone(), "oflag=direct".to_owned()];
    let direct_read = [from, "of=/dev/null".to_owned(), "iflag=direct".to_owned()];

    // Of others on the same filesystem: nothing.
    other.copy(&direct_write);
    other.copy(&direct_read);
    assert_eq!(io(&storaged, "data"), nothing);
    group.copy(&direct_write);
    let written = io(&storaged, "data");
    assert!(
        (4 * MEGABYTE..6 * MEGABYTE).contains(&written.write.bytes),
        "{written:?}"
    );
    group.copy(&direct_read);
    let read = io(&storaged, "data");
    assert_eq!(read.write, written.write);
    assert!(
        (4 * MEGABYTE..6 * MEGABYTE).contains(&read.read.bytes),
        "{read:?}"
    );
    group.copy(&[zeros.clone(), to.clone(), "conv=fsync".to_owned()]);
    let synced = io(&storaged, "data");
    assert!(
        synced.write.bytes >= read.write.bytes + 4 * MEGABYTE,
        "{synced:?}"
    );
    for counts in [&synced.read, &synced.write] {
        is_consistent(counts);
    }
    // What the kernel writes later it submits itself.
    let new = format!("{to}-new");
    group.copy(&[zeros, new]);
    rustix::fs::syncfs(File::open(&data).unwrap()).unwrap();
    let later = io(&storaged, "data").write.bytes;
    assert!(later < synced.write.bytes + MEGABYTE, "{later}");

    // Another volume of the container on the same filesystem has the same figures from then on.
    directory_volume(&storaged, "more");
    place(&storaged, "more");
    assert_eq!(io(&storaged, "more"), io(&storaged, "data"));
    let mut metrics = String::new();
    storaged.metrics(&mut metrics);
    for series in [
        "hawser_volume_io_bytes_total{volume=\"data\",operation=\"write\",scope=\"cgroup\"} ",
        "hawser_volume_io_seconds_bucket{volume=\"more\",operation=\"read\",scope=\"cgroup\",le=\"+Inf\"} ",
    ] {
        assert!(metrics.contains(series), "{metrics}");
    }
    unmount(&storaged, "more");

    // The next daemon goes on.
    drop(storaged);
    let storaged = state.open();
    assert_eq!(io(&storaged, "data"), nothing);
    group.copy(&direct_write);
    let after = io(&storaged, "data");
    assert!(after.write.bytes >= 4 * MEGABYTE, "{after:?}");
    unmount(&storaged, "data");
    group.copy(&direct_write);
    assert_eq!(io(&storaged, "data"), after);
}

#[test]
fn a_directory_volume_has_what_its_containers_submit() {
    counts_of_a_group(&State::on_ext4());
}

#[test]
fn a_directory_volume_may_be_on_a_partition() {
    let disk = State::new();
    let partition = Partition::of(&disk.path().join("disk"));
    let target = disk.path().join("mounted");
    std::fs::create_dir(&target).unwrap();
    let none = rustix::mount::MountFlags::empty();
    sys::mount::filesystem("ext4", &partition.node, &target, none, "").unwrap();
    counts_of_a_group(&State::inside(target));
}

/// An ext4 on the only partition of a file's loop device.
struct Partition {
    disk: String,
    node: String,
}

impl Partition {
    fn of(image: &Path) -> Self {
        let file = File::create(image).unwrap();
        file.set_len(160 << 20).unwrap();
        let image = image.display().to_string();
        let disk = run("losetup", &["--find", "--show", "--partscan", &image]);
        let disk = disk.trim().to_owned();
        // Without a table of partitions, of which some kernels can read none.
        run("addpart", &[&disk, "1", "2048", "262144"]);
        // Nobody may be there to make a device node of it.
        let name = Path::new(&disk).file_name().unwrap().to_str().unwrap();
        let number = std::fs::read_to_string(format!("/sys/class/block/{name}p1/dev")).unwrap();
        let (major, minor) = number.trim().split_once(':').unwrap();
        let node = format!("{image}-partition");
        run("mknod", &[&node, "b", major, minor]);
        let made = Self { disk, node };
        run("mkfs.ext4", &["-q", &made.node]);
        made
    }
}

impl Drop for Partition {
    fn drop(&mut self) {
        // It goes when nobody has it mounted any more.
        run("losetup", &["--detach", &self.disk]);
    }
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}
