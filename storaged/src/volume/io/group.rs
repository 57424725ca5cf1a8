//! Operations of the control groups that hold volumes without a device of their own.
//!
//! Who submits an operation is known when the block layer makes a request of it; that it is complete
//! is told to nobody in particular, so it is remembered whose it was. What the kernel writes back
//! later it submits itself, and counts for nobody here.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use api::id::VolumeName;
use api::storage::{IoScope, VolumeIo};
use sys::bpf::map::{self, BPF_MAP_TYPE_HASH, BPF_MAP_TYPE_LRU_HASH, Existing, Shape};
use sys::bpf::tracepoint::Tracepoint;

use super::device::{self, Below, Device};
use super::program::{self, COUNTS_SIZE, GROUP_KEY_SIZE, OWNER_SIZE, START_KEY_SIZE};
use super::{MAX_STARTED, decode, sum};

/// Two MiB of counts, as of devices, for the same reason.
const MAX_PAIRS: u32 = 2048;
const MAX_DISKS: u32 = 256;

/// A control group, by the number that programs see, and what it submits operations to.
type Pair = (u64, Device);

#[derive(Debug, Default)]
pub(super) struct Groups {
    collector: Option<Collector>,
    volumes: BTreeMap<VolumeName, Held>,
}

#[derive(Debug, Default)]
struct Held {
    /// By holder.
    pairs: BTreeMap<String, Vec<Pair>>,
    before: VolumeIo,
}

impl Groups {
    /// Counts what a group does on the filesystem of `target`, while `holder` holds the volume. Again
    /// is fine.
    pub(super) fn begin(
        &mut self,
        volume: &VolumeName,
        (holder, group): (&str, u64),
        target: &Path,
    ) -> io::Result<()> {
        let below = device::below(target)?;
        let pairs: Vec<Pair> = below.iter().map(|one| (group, one.submitted)).collect();
        let known = self.volumes.get(volume);
        let known = known.and_then(|held| held.pairs.get(holder));
        if pairs.is_empty() || known == Some(&pairs) {
            return Ok(());
        }
        self.end(volume, holder);
        let collector = match &mut self.collector {
            Some(collector) => collector,
            none => none.insert(Collector::open()?),
        };
        for one in below {
            collector.insert(group, one)?;
        }
        let held = self.volumes.entry(volume.clone()).or_default();
        held.pairs.insert(holder.to_owned(), pairs);
        Ok(())
    }

    pub(super) fn end(&mut self, volume: &VolumeName, holder: &str) {
        let (Some(collector), Some(held)) = (&self.collector, self.volumes.get_mut(volume)) else {
            return;
        };
        let pairs = held.pairs.remove(holder).unwrap_or_default();
        held.before = pairs.iter().fold(held.before.clone(), |all, pair| {
            sum(&all, &collector.read(*pair).unwrap_or_default())
        });
        let left: BTreeSet<Pair> = self.all_pairs().copied().collect();
        for pair in pairs.into_iter().filter(|pair| !left.contains(pair)) {
            let is_used = left.iter().any(|(_, device)| *device == pair.1);
            collector.remove(pair, is_used);
        }
    }

    /// Nobody knows what was counted any more.
    pub(super) fn forget(&mut self, volume: &VolumeName) {
        let held = self.volumes.get(volume);
        let holders: Option<Vec<String>> = held.map(|held| held.pairs.keys().cloned().collect());
        for holder in holders.unwrap_or_default() {
            self.end(volume, &holder);
        }
        self.volumes.remove(volume);
    }

    pub(super) fn read(&self, volume: &VolumeName) -> Option<VolumeIo> {
        let (held, collector) = (self.volumes.get(volume)?, self.collector.as_ref()?);
        // Several containers of one group count once.
        let pairs: BTreeSet<&Pair> = held.pairs.values().flatten().collect();
        let mut all = held.before.clone();
        for pair in pairs {
            all = sum(&all, &collector.read(*pair).ok()?);
        }
        Some(VolumeIo {
            scope: IoScope::Cgroup,
            ..all
        })
    }

    fn all_pairs(&self) -> impl Iterator<Item = &Pair> {
        let held = self.volumes.values();
        held.flat_map(|held| held.pairs.values().flatten())
    }
}

/// The programs, attached while this lives, and their tables.
#[derive(Debug)]
struct Collector {
    /// The disk of each device that something is submitted to.
    disks: OwnedFd,
    counts: OwnedFd,
    _programs: [OwnedFd; 2],
}

impl Collector {
    fn open() -> io::Result<Self> {
        let table = |kind, key_size, value_size, max_entries| {
            map::create(Shape {
                kind,
                key_size,
                value_size,
                max_entries,
                flags: 0,
            })
        };
        const DEVICE_SIZE: u32 = size_of::<Device>() as u32;
        let disks = table(BPF_MAP_TYPE_HASH, DEVICE_SIZE, DEVICE_SIZE, MAX_DISKS)?;
        let counts = table(BPF_MAP_TYPE_HASH, GROUP_KEY_SIZE, COUNTS_SIZE, MAX_PAIRS)?;
        let owners = table(
            BPF_MAP_TYPE_LRU_HASH,
            START_KEY_SIZE,
            OWNER_SIZE,
            MAX_STARTED,
        )?;
        let (request, complete) = (
            Tracepoint::find("block", "block_getrq")?,
            Tracepoint::find("block", "block_rq_complete")?,
        );
        let tables = program::Tables {
            disks: disks.as_fd(),
            counts: counts.as_fd(),
            owners: owners.as_fd(),
        };
        let at_request = program::at_request(&request, tables)?;
        let at_end = program::at_end_of_request(&complete, tables)?;
        Ok(Self {
            _programs: [
                request.attach("hawser_io_ask", &at_request)?,
                complete.attach("hawser_io_done", &at_end)?,
            ],
            disks,
            counts,
        })
    }

    /// What another volume counts as well goes on.
    fn insert(&self, group: u64, below: Below) -> io::Result<()> {
        let (submitted, disk) = (below.submitted.to_ne_bytes(), below.disk.to_ne_bytes());
        map::write(self.disks.as_fd(), &submitted, &disk, Existing::Replace)?;
        let key = key((group, below.submitted));
        let nothing = [0; COUNTS_SIZE as usize];
        map::write(self.counts.as_fd(), &key, &nothing, Existing::Keep).map(drop)
    }

    fn remove(&self, pair: Pair, device_is_used: bool) {
        let mut removed = map::remove(self.counts.as_fd(), &key(pair));
        if !device_is_used {
            removed = removed.and(map::remove(self.disks.as_fd(), &pair.1.to_ne_bytes()));
        }
        if let Err(error) = removed {
            tracing::warn!(group = pair.0, %error, "cannot end counting the I/O of a control group");
        }
    }

    fn read(&self, pair: Pair) -> io::Result<VolumeIo> {
        let value = map::value(self.counts.as_fd(), &key(pair))?;
        Ok(value.map_or_else(VolumeIo::default, |value| decode(&value)))
    }
}

/// As the programs lay it on their stack.
fn key((group, device): Pair) -> [u8; GROUP_KEY_SIZE as usize] {
    let mut key = [0; GROUP_KEY_SIZE as usize];
    key[..8].copy_from_slice(&group.to_ne_bytes());
    key[8..12].copy_from_slice(&device.to_ne_bytes());
    key
}
