//! Real-time CPU time, which a control group of version 1 must be granted by those above it.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::{Cgroups, MOUNT};

const RUNTIME: &str = "cpu.rt_runtime_us";
const PERIOD: &str = "cpu.rt_period_us";
/// What the kernel begins with (`DEFAULT_RT_PERIOD`, kernel/sched/rt.c: a second).
const DEFAULT_PERIOD: u64 = 1_000_000;

/// Whether this host's control groups limit it: version 1, and `CONFIG_RT_GROUP_SCHED`.
pub fn is_supported() -> bool {
    matches!(Cgroups::observe(), Ok(Cgroups::Split(_)))
        && Path::new(MOUNT).join("cpu").join(RUNTIME).exists()
}

/// Microseconds in how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Share {
    runtime: u64,
    period: u64,
}

impl Share {
    fn read(dir: &Path) -> io::Result<Self> {
        let number = |file| {
            let text = fs::read_to_string(dir.join(file))?;
            // A runtime of -1 is not limited, which no group but the root has.
            Ok::<_, io::Error>(text.trim().parse().unwrap_or(0))
        };
        Ok(Self {
            runtime: number(RUNTIME)?,
            period: number(PERIOD)?,
        })
    }

    /// The runtime that is as much in another period, rounded up.
    fn in_period(self, period: u64) -> u64 {
        let product = u128::from(self.runtime) * u128::from(period);
        let runtime = product.div_ceil(u128::from(self.period.max(1)));
        u64::try_from(runtime).unwrap_or(u64::MAX)
    }
}

/// Grants the groups above `group`, up to the hierarchy's root, what all below them need when
/// `group` gets `runtime` microseconds in `period`: the kernel refuses a group more than is left of
/// its parent's (`tg_rt_schedulable`, kernel/sched/rt.c), and a new group has none.
///
/// Nobody else is granted anything until what is returned is dropped: the group itself must have got
/// its share by then.
///
/// # Errors
/// The file that cannot be read or written.
pub(super) fn make_room(
    root: &Path,
    group: &Path,
    runtime: u64,
    period: Option<u64>,
) -> Result<File, (PathBuf, io::Error)> {
    let lock = || {
        let file = File::open(root)?;
        flock(&file, FlockOperation::LockExclusive)?;
        Ok(file)
    };
    let lock = lock().map_err(|error| (root.to_owned(), error))?;
    let period = period.unwrap_or(DEFAULT_PERIOD);
    let mut raised = Vec::new();
    let mut below = (group.to_owned(), Share { runtime, period });
    for dir in group.ancestors().skip(1).take_while(|dir| *dir != root) {
        let failed = |error| (dir.to_owned(), error);
        let own = Share::read(dir).map_err(failed)?;
        let mut needed = below.1.in_period(own.period);
        for entry in fs::read_dir(dir).map_err(failed)? {
            let child = entry.map_err(failed)?.path();
            if child.is_dir() && child != below.0 {
                // A container that ends meanwhile needs nothing any more.
                let share = Share::read(&child).ok();
                needed += share.map_or(0, |share| share.in_period(own.period));
            }
        }
        let wanted = Share {
            runtime: needed.max(own.runtime),
            period: own.period,
        };
        if wanted != own {
            raised.push((dir.join(RUNTIME), wanted.runtime));
        }
        below = (dir.to_owned(), wanted);
    }
    for (file, runtime) in raised.into_iter().rev() {
        fs::write(&file, runtime.to_string()).map_err(|error| (file, error))?;
    }
    Ok(lock)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(dir: &Path, runtime: u64, period: u64) {
        fs::create_dir_all(dir).unwrap();
        fs::write(dir.join(RUNTIME), format!("{runtime}\n")).unwrap();
        fs::write(dir.join(PERIOD), format!("{period}\n")).unwrap();
    }

    fn runtime(dir: &Path) -> String {
        fs::read_to_string(dir.join(RUNTIME))
            .unwrap()
            .trim()
            .to_owned()
    }

    #[test]
    fn all_above_get_what_all_below_need() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let (top, middle) = (root.join("a"), root.join("a/b"));
        group(root, 950_000, 1_000_000);
        group(&top, 0, 1_000_000);
        group(&middle, 1_000, 500_000);
        group(&middle.join("old"), 500, 250_000);
        group(&middle.join("new"), 0, 1_000_000);
        drop(make_room(root, &middle.join("new"), 10_000, Some(100_000)).unwrap());
        // A tenth of the period, and what the other one has.
        assert_eq!(runtime(&middle), "51000");
        assert_eq!(runtime(&top), "102000");
        assert_eq!(runtime(root), "950000", "nobody gives the root anything");
        // Once is enough, and less takes nothing away.
        drop(make_room(root, &middle.join("new"), 9_000, Some(100_000)).unwrap());
        assert_eq!(runtime(&middle), "51000");
        let (path, _) = make_room(root, &root.join("c/d"), 1, None).unwrap_err();
        assert_eq!(path, root.join("c"));
    }

    #[test]
    fn a_share_is_rounded_up() {
        let third = Share {
            runtime: 1,
            period: 3,
        };
        assert_eq!(third.in_period(100), 34);
        assert_eq!(third.in_period(3), 1);
    }
}
