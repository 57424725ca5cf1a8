//! How long a pruned volume can come back.
//!
//! The wall clock may be set to any time at any moment, and what it says must not delete anything
//! early. Within one boot the kernel tells how long it has been up, and that is all that counts;
//! across boots there is nothing but the wall clock.

use super::record::{TrashRow, Uptime};

/// Now, by both clocks.
#[derive(Debug, Clone)]
pub(crate) struct Moment {
    /// Seconds since 1970.
    pub(crate) wall: i64,
    pub(crate) uptime: Uptime,
}

/// For how many seconds it still can, if it can for `hours`; not positive when its time is over. Nothing
/// when no clock can tell. `pruned` is what the wall clock said then.
pub(crate) fn left(row: &TrashRow, pruned: Option<i64>, now: &Moment, hours: u32) -> Option<i64> {
    let passed = match &row.uptime {
        Some(then) if then.boot == now.uptime.boot => {
            i64::try_from(now.uptime.seconds.saturating_sub(then.seconds)).ok()?
        }
        _ => now.wall.checked_sub(pruned?)?,
    };
    (i64::from(hours) * 3600).checked_sub(passed)
}

/// Orders by who was pruned first, whatever the clock said then.
pub(crate) fn order(row: &TrashRow) -> (u64, &str) {
    (row.serial, &row.trashed_at)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use api::id::VolumeName;

    use super::*;
    use crate::model::layout::Key;
    use crate::model::record::VolumeRow;

    const HOUR: u64 = 3600;
    const PRUNED: i64 = 1_767_312_000;

    fn row(uptime: Option<(&str, u64)>) -> TrashRow {
        TrashRow {
            key: Key::from_bytes([1; 16]),
            volume: VolumeRow {
                name: VolumeName::parse("data").unwrap(),
                options: BTreeMap::new(),
                labels: BTreeMap::new(),
                created_at: "2026-01-01T00:00:00Z".to_owned(),
                anonymous: false,
                populated: false,
                project: None,
                key_id: None,
                device: None,
            },
            trashed_at: "2026-01-02T00:00:00Z".to_owned(),
            size: 0,
            uptime: uptime.map(|(boot, seconds)| Uptime {
                boot: boot.to_owned(),
                seconds,
            }),
            serial: 0,
        }
    }

    fn at(wall: i64, boot: &str, seconds: u64) -> Moment {
        Moment {
            wall,
            uptime: Uptime {
                boot: boot.to_owned(),
                seconds,
            },
        }
    }

    fn hours_left(row: &TrashRow, now: &Moment) -> i64 {
        left(row, Some(PRUNED), now, 24).unwrap().div_euclid(3600)
    }

    #[test]
    fn a_clock_that_jumps_deletes_nothing_early_and_keeps_nothing_for_ever() {
        let row = row(Some(("one", HOUR)));
        for wall in [0, PRUNED, 2 * PRUNED] {
            assert_eq!(hours_left(&row, &at(wall, "one", HOUR)), 24, "{wall}");
            assert_eq!(hours_left(&row, &at(wall, "one", 24 * HOUR)), 1, "{wall}");
            assert_eq!(hours_left(&row, &at(wall, "one", 26 * HOUR)), -1, "{wall}");
        }
    }

    #[test]
    fn another_boot_has_the_wall_clock() {
        for row in [row(Some(("one", 90 * HOUR))), row(None)] {
            let hours = |wall| hours_left(&row, &at(wall, "two", 5));
            assert_eq!(hours(PRUNED + 12 * 3600), 12);
            assert_eq!(hours(PRUNED + 25 * 3600), -1);
            assert!(hours(0) > 24);
        }
    }

    #[test]
    fn a_time_that_nobody_can_read_is_none() {
        assert_eq!(left(&row(None), None, &at(PRUNED, "one", 5), 24), None);
    }
}
