//! What passes between the filesystems of volumes and their devices: operations, bytes, errors, and
//! how long they took.
//!
//! Two small programs sit at the block layer's tracepoints while the daemon lives, from the first
//! mount of a volume with a device of its own on. They count for devices that are in a table, which a
//! volume's is for as long as it is mounted; nothing is left behind by a daemon that dies. What was
//! counted for a volume is kept over its mounts, and begins anew with the daemon.
//!
//! A volume without a device of its own has what the control groups of its holders do on the
//! filesystem that it is on ([`group`]).

mod device;
mod group;
mod program;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::sync::Mutex;

use api::id::VolumeName;
use api::storage::{IoCounts, IoScope, VolumeIo};
use rustix::io::Errno;
use sys::bpf::map::{self, BPF_MAP_TYPE_HASH, BPF_MAP_TYPE_LRU_HASH, Existing, Shape};
use sys::bpf::tracepoint::Tracepoint;

use crate::lock::lock;
use device::Device;
use group::Groups;
use program::{BUCKETS, COUNTS_SIZE, KIND_SIZE, Kind, START_KEY_SIZE};

/// Two MiB of counts, allocated at once: before 6.1 the kernel warns of programs at tracepoints whose
/// tables allocate as they fill.
const MAX_DEVICES: u32 = 2048;
/// Operations under way at a time; a loop device has at most 128. The oldest goes when there are
/// more, or when its end was never seen.
const MAX_STARTED: u32 = 8192;

#[derive(Debug, Default)]
pub(crate) struct BlockIo {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    collector: Option<Collector>,
    /// This kernel does not let us; that was said.
    refused: bool,
    volumes: BTreeMap<VolumeName, Watched>,
    groups_refused: bool,
    groups: Groups,
}

#[derive(Debug, Default)]
struct Watched {
    /// While it is mounted.
    device: Option<Device>,
    before: VolumeIo,
}

impl BlockIo {
    /// Counts for a volume whose filesystem is mounted on `target`, and has a device of its own.
    /// Again is fine. A volume nobody can count for works as well.
    pub(crate) fn begin(&self, volume: &VolumeName, target: &Path) {
        let mut state = lock(&self.state);
        if state.refused {
            return;
        }
        if let Err(error) = state.begin(volume, target) {
            if error.raw_os_error() == Some(Errno::TOOBIG.raw_os_error()) {
                tracing::warn!(%volume, MAX_DEVICES, "the I/O of no more volumes is counted");
                return;
            }
            state.refused = true;
            state.collector = None;
            state.volumes.clear();
            tracing::warn!(%error, "the I/O of volumes is not counted on this host");
        }
    }

    /// The volume is not mounted any more: its device may become anybody's.
    pub(crate) fn end(&self, volume: &VolumeName) {
        let mut state = lock(&self.state);
        let counted = state.read(volume);
        let State {
            collector, volumes, ..
        } = &mut *state;
        let Some(watched) = volumes.get_mut(volume) else {
            return;
        };
        watched.before = counted.unwrap_or_default();
        if let (Some(device), Some(collector)) = (watched.device.take(), collector) {
            collector.remove(device);
        }
    }

    /// Counts what a control group does on the filesystem of `target`, as long as `holder` holds the
    /// volume there. Again is fine, and so is what nobody can count for.
    pub(crate) fn begin_group(
        &self,
        volume: &VolumeName,
        (holder, group): (&str, u64),
        target: &Path,
    ) {
        let mut state = lock(&self.state);
        if state.groups_refused {
            return;
        }
        if let Err(error) = state.groups.begin(volume, (holder, group), target) {
            if error.raw_os_error() == Some(Errno::TOOBIG.raw_os_error()) {
                tracing::warn!(%volume, holder, "the I/O of no more containers is counted");
                return;
            }
            state.groups_refused = true;
            state.groups = Groups::default();
            tracing::warn!(%error, "the I/O of containers in directory volumes is not counted on this host");
        }
    }

    /// The holder does not hold the volume any more.
    pub(crate) fn end_group(&self, volume: &VolumeName, holder: &str) {
        lock(&self.state).groups.end(volume, holder);
    }

    /// The volume is gone, and another one may have its name.
    pub(crate) fn forget(&self, volume: &VolumeName) {
        self.end(volume);
        let mut state = lock(&self.state);
        state.volumes.remove(volume);
        state.groups.forget(volume);
    }

    /// What was counted for a volume, if anything could be.
    pub(crate) fn read(&self, volume: &VolumeName) -> Option<VolumeIo> {
        let state = lock(&self.state);
        state.read(volume).or_else(|| state.groups.read(volume))
    }
}

impl State {
    fn begin(&mut self, volume: &VolumeName, target: &Path) -> io::Result<()> {
        let device = device::of(target)?;
        if self.volumes.get(volume).and_then(|known| known.device) == Some(device) {
            return Ok(());
        }
        let collector = match &mut self.collector {
            Some(collector) => collector,
            none => none.insert(Collector::open()?),
        };
        // Whoever had the device before has lost it without a word: by `umount`.
        for other in self.volumes.values_mut() {
            if other.device == Some(device) {
                other.before = sum(&other.before, &collector.read(device)?);
                other.device = None;
            }
        }
        let watched = self.volumes.entry(volume.clone()).or_default();
        if let Some(lost) = watched.device.take() {
            watched.before = sum(&watched.before, &collector.read(lost)?);
            collector.remove(lost);
        }
        collector.insert(device)?;
        watched.device = Some(device);
        Ok(())
    }

    fn read(&self, volume: &VolumeName) -> Option<VolumeIo> {
        let watched = self.volumes.get(volume)?;
        let now = match (watched.device, &self.collector) {
            (Some(device), Some(collector)) => collector.read(device).ok()?,
            _ => VolumeIo::default(),
        };
        Some(sum(&watched.before, &now))
    }
}

/// The programs, attached while this lives, and their tables.
#[derive(Debug)]
struct Collector {
    devices: OwnedFd,
    _programs: [OwnedFd; 2],
}

impl Collector {
    fn open() -> io::Result<Self> {
        let devices = map::create(Shape {
            kind: BPF_MAP_TYPE_HASH,
            key_size: size_of::<Device>() as u32,
            value_size: COUNTS_SIZE,
            max_entries: MAX_DEVICES,
            flags: 0,
        })?;
        let started = map::create(Shape {
            kind: BPF_MAP_TYPE_LRU_HASH,
            key_size: START_KEY_SIZE,
            value_size: size_of::<u64>() as u32,
            max_entries: MAX_STARTED,
            flags: 0,
        })?;
        let (issue, complete) = (
            Tracepoint::find("block", "block_rq_issue")?,
            Tracepoint::find("block", "block_rq_complete")?,
        );
        let at_start = program::at_start(&issue, devices.as_fd(), started.as_fd())?;
        let at_end = program::at_end(&complete, devices.as_fd(), started.as_fd())?;
        Ok(Self {
            _programs: [
                issue.attach("hawser_io_start", &at_start)?,
                complete.attach("hawser_io_end", &at_end)?,
            ],
            devices,
        })
    }

    /// From nothing on.
    fn insert(&self, device: Device) -> io::Result<()> {
        let nothing = [0; COUNTS_SIZE as usize];
        let key = device.to_ne_bytes();
        map::write(self.devices.as_fd(), &key, &nothing, Existing::Replace).map(drop)
    }

    fn remove(&self, device: Device) {
        if let Err(error) = map::remove(self.devices.as_fd(), &device.to_ne_bytes()) {
            tracing::warn!(device, %error, "cannot end counting the I/O of a device");
        }
    }

    fn read(&self, device: Device) -> io::Result<VolumeIo> {
        let value = map::value(self.devices.as_fd(), &device.to_ne_bytes())?;
        Ok(value.map_or_else(VolumeIo::default, |value| decode(&value)))
    }
}

/// The value of a device in the table, as the programs count.
fn decode(value: &[u8]) -> VolumeIo {
    let kind = |kind: Kind| -> IoCounts {
        let start = kind as usize * KIND_SIZE as usize;
        let part = value.get(start..start + KIND_SIZE as usize);
        let words = part.unwrap_or_default().chunks_exact(8);
        let mut numbers = words.map(|word| {
            let word: [u8; 8] = word.try_into().unwrap_or_default();
            u64::from_ne_bytes(word)
        });
        let mut next = || numbers.next().unwrap_or_default();
        let (operations, bytes, nanoseconds, errors) = (next(), next(), next(), next());
        let mut latency: Vec<u64> = numbers.take(BUCKETS).collect();
        let used = latency.iter().rposition(|count| *count > 0);
        latency.truncate(used.map_or(0, |last| last + 1));
        IoCounts {
            operations,
            bytes,
            errors,
            nanoseconds,
            latency,
        }
    };
    VolumeIo {
        scope: IoScope::Device,
        read: kind(Kind::Read),
        write: kind(Kind::Write),
        discard: kind(Kind::Discard),
        flush: kind(Kind::Flush),
    }
}

/// Of two sets of operations of the same scope.
pub(crate) fn sum(a: &VolumeIo, b: &VolumeIo) -> VolumeIo {
    let add = |a: &IoCounts, b: &IoCounts| {
        let length = a.latency.len().max(b.latency.len());
        let at = |counts: &IoCounts, bucket| counts.latency.get(bucket).copied().unwrap_or(0);
        IoCounts {
            operations: a.operations + b.operations,
            bytes: a.bytes + b.bytes,
            errors: a.errors + b.errors,
            nanoseconds: a.nanoseconds + b.nanoseconds,
            latency: (0..length)
                .map(|bucket| at(a, bucket) + at(b, bucket))
                .collect(),
        }
    };
    VolumeIo {
        scope: a.scope,
        read: add(&a.read, &b.read),
        write: add(&a.write, &b.write),
        discard: add(&a.discard, &b.discard),
        flush: add(&a.flush, &b.flush),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_as_they_are_written_and_added_up() {
        let mut value = vec![0_u8; COUNTS_SIZE as usize];
        let mut put = |kind: Kind, word: usize, number: u64| {
            let at = kind as usize * KIND_SIZE as usize + word * 8;
            value[at..at + 8].copy_from_slice(&number.to_ne_bytes());
        };
        put(Kind::Read, 0, 1);
        put(Kind::Write, 1, 4096);
        put(Kind::Write, 3, 2);
        put(Kind::Flush, 2, 9);
        put(Kind::Flush, 4 + 5, 3);
        let counts = decode(&value);
        assert_eq!(counts.read.operations, 1);
        assert_eq!((counts.write.bytes, counts.write.errors), (4096, 2));
        assert_eq!(counts.flush.nanoseconds, 9);
        assert_eq!(counts.flush.latency, [0, 0, 0, 0, 0, 3]);
        let twice = sum(&counts, &sum(&VolumeIo::default(), &counts));
        assert_eq!(twice.write.bytes, 8192);
        assert_eq!(twice.flush.latency, [0, 0, 0, 0, 0, 6]);
        assert_eq!(twice.discard, IoCounts::default());
    }
}
