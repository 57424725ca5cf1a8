//! A pool of thin devices: its rows, what it says of itself, and how its transactions and ours agree.
//!
//! A pool has a number of its own that it keeps with its devices, and changes by comparing. Every new
//! device raises it by one: a row says so before, and another after. Whatever a crash leaves, the number
//! tells on which side of it the device is ([`settle`]); a number that is neither means that pool and
//! database are not of one time, and then nothing is written.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::layout::Key;

/// Ids of devices have 24 bits (`Documentation/admin-guide/device-mapper/thin-provisioning.rst`).
const LAST_ID: u32 = (1 << 24) - 1;
pub(crate) const SECTOR: u64 = 512;
/// `THIN_METADATA_BLOCK_SIZE` of the kernel's `drivers/md/dm-thin-metadata.h`.
pub(crate) const METADATA_BLOCK: u64 = 4096;

/// A device of the pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DeviceRow {
    /// The directory that it is the content of.
    pub(crate) key: Key,
    pub(crate) id: u32,
    /// The device it was a snapshot of.
    pub(crate) origin: Option<u32>,
    pub(crate) bytes: u64,
    /// It may be in the pool or not: it is about to be made.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) is_coming: bool,
}

/// The pool itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PoolRow {
    /// Where it is, in words that must stay the same.
    pub(crate) place: String,
    pub(crate) transaction: u64,
    pub(crate) last_id: u32,
    /// The empty filesystem that everything begins with, once it is made.
    #[serde(default)]
    pub(crate) base: Option<Base>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Base {
    pub(crate) filesystem: Filesystem,
    /// Of the filesystem: by it the pool is known again.
    pub(crate) uuid: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Filesystem {
    Ext4,
    Xfs,
}

impl Filesystem {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
        }
    }

    pub(crate) fn maker(self) -> &'static str {
        match self {
            Self::Ext4 => "mkfs.ext4",
            Self::Xfs => "mkfs.xfs",
        }
    }

    /// Bytes of a volume: with less, ext4 has no journal, and `mkfs.xfs` refuses.
    pub(crate) fn least(self) -> u64 {
        match self {
            Self::Ext4 => 8 << 20,
            Self::Xfs => 300 << 20,
        }
    }

    pub(crate) fn package(self) -> &'static str {
        match self {
            Self::Ext4 => "e2fsprogs",
            Self::Xfs => "xfsprogs",
        }
    }
}

/// The directory that the base device would be the content of, if it had one.
pub(crate) fn base_key() -> Key {
    Key::from_bytes([0; 16])
}

/// What a pool is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Message {
    Create { id: u32 },
    Snapshot { id: u32, origin: u32 },
    Delete { id: u32 },
    SetTransaction { from: u64, to: u64 },
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create { id } => write!(f, "create_thin {id}"),
            Self::Snapshot { id, origin } => write!(f, "create_snap {id} {origin}"),
            Self::Delete { id } => write!(f, "delete {id}"),
            Self::SetTransaction { from, to } => write!(f, "set_transaction_id {from} {to}"),
        }
    }
}

/// What a pool says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Status {
    pub(crate) transaction: u64,
    pub(crate) metadata: Room,
    pub(crate) data: Room,
    pub(crate) mode: Mode,
    pub(crate) needs_check: bool,
}

/// Used and all, in blocks or bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Room {
    pub(crate) used: u64,
    pub(crate) total: u64,
}

impl Room {
    fn parse(text: &str) -> Option<Self> {
        let (used, total) = text.split_once('/')?;
        Some(Self {
            used: used.parse().ok()?,
            total: total.parse().ok()?,
        })
    }

    pub(crate) fn times(self, bytes: u64) -> Self {
        Self {
            used: self.used.saturating_mul(bytes),
            total: self.total.saturating_mul(bytes),
        }
    }

    pub(crate) fn free(self) -> u64 {
        self.total.saturating_sub(self.used)
    }

    /// Whether less than `percent` of it are free.
    pub(crate) fn is_below(self, percent: u64) -> bool {
        u128::from(self.free()) * 100 < u128::from(self.total) * u128::from(percent)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Writable,
    ReadOnly,
    OutOfData,
    Failed,
}

impl Mode {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Writable => "rw",
            Self::ReadOnly => "ro",
            Self::OutOfData => "out_of_data_space",
            Self::Failed => "failed",
        }
    }
}

/// Reads the status line of a `thin-pool` (`pool_status` in the kernel's `drivers/md/dm-thin.c`).
pub(crate) fn parse_status(line: &str) -> Option<Status> {
    let words: Vec<&str> = line.split_whitespace().collect();
    if matches!(words.first(), Some(&("Fail" | "Error"))) {
        let none = Room { used: 0, total: 0 };
        return Some(Status {
            transaction: 0,
            metadata: none,
            data: none,
            mode: Mode::Failed,
            needs_check: false,
        });
    }
    Some(Status {
        transaction: words.first()?.parse().ok()?,
        metadata: Room::parse(words.get(1)?)?,
        data: Room::parse(words.get(2)?)?,
        mode: match *words.get(4)? {
            "rw" => Mode::Writable,
            "ro" => Mode::ReadOnly,
            "out_of_data_space" => Mode::OutOfData,
            _ => return None,
        },
        needs_check: words.contains(&"needs_check"),
    })
}

/// Bytes that are mapped of a thin device, of its status line (`thin_status` in the same file).
pub(crate) fn parse_used(line: &str) -> Option<u64> {
    let sectors: u64 = line.split_whitespace().next()?.parse().ok()?;
    sectors.checked_mul(SECTOR)
}

/// What is known of the block size and the devices of a pool, by its table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PoolTable {
    pub(crate) metadata: String,
    pub(crate) data: String,
    /// Bytes.
    pub(crate) block: u64,
}

pub(crate) fn parse_table(parameters: &str) -> Option<PoolTable> {
    let mut words = parameters.split_whitespace();
    let (metadata, data) = (words.next()?.to_owned(), words.next()?.to_owned());
    let sectors: u64 = words.next()?.parse().ok()?;
    Some(PoolTable {
        metadata,
        data,
        block: sectors * SECTOR,
    })
}

/// The table line of a pool. Its writers get an error once it is full, so that nobody else is held up,
/// and what was acknowledged before stays; or they wait, where it gets more room in a moment.
pub(crate) fn pool_parameters(table: &PoolTable, low_water: u64, waits: bool) -> String {
    let PoolTable {
        metadata,
        data,
        block,
    } = table;
    let features = if waits {
        "1 skip_block_zeroing"
    } else {
        "2 skip_block_zeroing error_if_no_space"
    };
    format!(
        "{metadata} {data} {} {low_water} {features}",
        block / SECTOR
    )
}

/// When a pool gets more room, and how much.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Extension {
    /// Percent in use.
    pub(crate) threshold: u64,
    /// Percent of what there is; 0 for never.
    pub(crate) percent: u64,
}

impl Extension {
    /// Bytes to add to `room`, of which `free` are there in pieces of `extent`.
    pub(crate) fn more(&self, room: Room, free: u64, extent: u64) -> Option<u64> {
        if self.threshold >= 100 || !room.is_below(100 - self.threshold) {
            return None;
        }
        let extent = extent.max(1);
        let step = (room.total / 100).saturating_mul(self.percent);
        let step = step.div_ceil(extent).saturating_mul(extent);
        let step = step.min(free / extent * extent);
        (step > 0).then_some(step)
    }

    /// Free blocks at which the pool says so: there is something to do then.
    pub(crate) fn low_water(&self, blocks: u64) -> u64 {
        (blocks * 100_u64.saturating_sub(self.threshold) / 100).saturating_sub(1)
    }

    /// Whether writers may wait for more room.
    pub(crate) fn may_wait(&self, free: u64) -> bool {
        self.threshold < 100 && free > 0
    }
}

/// What there is to do about a device that was about to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Settled {
    /// It was: its row says so from now on.
    Made(DeviceRow, PoolRow),
    /// It was not, or half: it goes, and its row.
    Undone(DeviceRow),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the pool is at transaction {pool} and the database at {database}: they are not of one time, and nothing is written. \
     Put back the copy of the database that belongs to this pool; or, if what is in the pool may go, remove the directory \
     devicemapper of the state directory and empty the pool"
)]
pub struct Mismatch {
    pool: u64,
    database: u64,
}

/// The device that is about to be made next, and the pool's row for when it is.
pub(crate) fn next(
    pool: &PoolRow,
    key: Key,
    origin: Option<u32>,
    bytes: u64,
    is_taken: impl Fn(u32) -> bool,
) -> Option<DeviceRow> {
    // In order, so that an id is not used again soon.
    let after = (pool.last_id + 1..=LAST_ID).chain(1..=pool.last_id);
    let id = after.into_iter().find(|id| !is_taken(*id))?;
    Some(DeviceRow {
        key,
        id,
        origin,
        bytes,
        is_coming: true,
    })
}

/// The rows once a device is made.
pub(crate) fn made(pool: &PoolRow, device: &DeviceRow) -> (DeviceRow, PoolRow) {
    let device = DeviceRow {
        is_coming: false,
        ..device.clone()
    };
    let pool = PoolRow {
        transaction: pool.transaction + 1,
        last_id: device.id,
        ..pool.clone()
    };
    (device, pool)
}

/// Compares the pool's number with ours. `coming` is the device whose row says that it is about to be
/// made; there is one at most.
pub(crate) fn settle(
    pool: &PoolRow,
    coming: Option<&DeviceRow>,
    transaction: u64,
) -> Result<Option<Settled>, Mismatch> {
    match coming {
        None if transaction == pool.transaction => Ok(None),
        Some(device) if transaction == pool.transaction => {
            Ok(Some(Settled::Undone(device.clone())))
        }
        Some(device) if transaction == pool.transaction + 1 => {
            let (device, pool) = made(pool, device);
            Ok(Some(Settled::Made(device, pool)))
        }
        _ => Err(Mismatch {
            pool: transaction,
            database: pool.transaction,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(transaction: u64, last_id: u32) -> PoolRow {
        PoolRow {
            place: "here".to_owned(),
            transaction,
            last_id,
            base: None,
        }
    }

    #[test]
    fn the_number_of_the_pool_tells_whether_a_device_was_made() {
        let row = pool(7, 3);
        let coming = next(&row, base_key(), Some(2), 1 << 20, |_| false).unwrap();
        assert_eq!((coming.id, coming.is_coming), (4, true));
        assert_eq!(settle(&row, None, 7), Ok(None));
        assert_eq!(
            settle(&row, Some(&coming), 7),
            Ok(Some(Settled::Undone(coming.clone())))
        );
        let Ok(Some(Settled::Made(device, after))) = settle(&row, Some(&coming), 8) else {
            panic!("it was made");
        };
        assert_eq!((after.transaction, after.last_id), (8, 4));
        assert!(!device.is_coming);
        for (coming, transaction) in [(None, 6), (None, 8), (Some(&coming), 6), (Some(&coming), 9)]
        {
            let error = settle(&row, coming, transaction).unwrap_err().to_string();
            assert!(error.contains("database at 7"), "{error}");
        }
    }

    #[test]
    fn ids_go_round_and_pass_over_those_in_use() {
        let id = |last, taken: &[u32]| {
            let is_taken = |id| taken.contains(&id);
            next(&pool(0, last), base_key(), None, 0, is_taken).map(|device| device.id)
        };
        assert_eq!(id(0, &[]), Some(1));
        assert_eq!(id(3, &[4, 5]), Some(6));
        assert_eq!(id(LAST_ID, &[1]), Some(2));
        assert_eq!(id(LAST_ID - 1, &[]), Some(LAST_ID));
    }

    #[test]
    fn lines_of_pools_are_read() {
        let status =
            parse_status("3 141/4096 190464/196608 - rw discard_passdown queue_if_no_space - 1024")
                .unwrap();
        assert_eq!(status.transaction, 3);
        assert_eq!((status.data.used, status.data.total), (190_464, 196_608));
        assert_eq!(status.mode, Mode::Writable);
        assert!(status.data.is_below(10) && !status.metadata.is_below(10));
        let full = "3 1/2 2/2 - out_of_data_space discard_passdown error_if_no_space needs_check 1";
        let full = parse_status(full).unwrap();
        assert_eq!((full.mode, full.needs_check), (Mode::OutOfData, true));
        assert_eq!(parse_status("Fail").unwrap().mode, Mode::Failed);
        for line in [
            "",
            "3",
            "3 1/2 2/2 - odd",
            "x 1/2 2/2 - rw",
            "3 12 2/2 - rw",
        ] {
            assert_eq!(parse_status(line), None, "{line}");
        }
        assert_eq!(parse_used("24 1023"), Some(24 * SECTOR));
        assert_eq!(parse_used("Fail"), None);
        let table = parse_table("253:1 253:2 1024 4096 1 skip_block_zeroing").unwrap();
        assert_eq!(table.block, 512 << 10);
        for waits in [false, true] {
            let line = pool_parameters(&table, 9, waits);
            assert_eq!(parse_table(&line).unwrap(), table);
            assert_eq!(line.contains("error_if_no_space"), !waits);
        }
    }

    #[test]
    fn a_pool_gets_more_when_it_fills_up_and_as_long_as_there_is_some() {
        let extension = Extension {
            threshold: 80,
            percent: 20,
        };
        let room = |used| Room { used, total: 1000 };
        assert_eq!(extension.more(room(800), 5000, 4), None);
        assert_eq!(extension.more(room(801), 5000, 4), Some(200));
        assert_eq!(extension.more(room(801), 5000, 64), Some(256));
        assert_eq!(extension.more(room(1000), 70, 64), Some(64));
        assert_eq!(extension.more(room(1000), 63, 64), None);
        assert_eq!(extension.low_water(1000), 199);
        assert!(extension.may_wait(1) && !extension.may_wait(0));
        let never = Extension {
            threshold: 100,
            percent: 20,
        };
        assert_eq!(never.more(room(1000), 5000, 4), None);
        assert!(!never.may_wait(1));
    }
}
