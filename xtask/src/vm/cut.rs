//! Power cuts: a guest that commits layers is ended at some moment, and the next one on its disks looks
//! for what was acknowledged, again and again. `kernel-tests/guests/cuts/power-cut.sh` is what it runs.

use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

use super::console::Verdict;
use super::guest::{Guest, Machine, Scratch, Seat};
use super::matrix::Kernel;
use super::plan::{Plan, Stories, is_asked_for};
use super::{AT_ONCE, Bench, SCRATCH_BYTES, TOGETHER_LIMIT, TOGETHER_SECONDS, disk, side_by_side};
use crate::test::Tally;
use crate::workspace;

const SCRIPT: &str = "kernel-tests/guests/cuts/power-cut.sh";
const PROGRAM: &str = "binary_id(storaged::power_cut)";
/// A driver, and the filesystem that is below it or, of devicemapper, on its devices.
const STORES: [&str; 4] = [
    "overlay2-ext4",
    "overlay2-xfs",
    "devicemapper-ext4",
    "devicemapper-xfs",
];
/// How long a guest works at most before it is cut.
const LONGEST: u128 = 4_000;

impl Bench {
    /// Cuts the power `count` times on each kind of store that [is asked for](is_asked_for), under each
    /// kernel.
    pub(super) fn cut(&self, count: u32, names: &[String]) -> Result<Tally> {
        let script = workspace::root().join(SCRIPT);
        let text =
            std::fs::read_to_string(&script).with_context(|| script.display().to_string())?;
        self.programs.add_stories(&Stories::select(PROGRAM, &[])?)?;
        self.programs.add_script("script", &text)?;
        let mut plan = Plan::default();
        plan.script("exec/script", "power-cut", TOGETHER_SECONDS);
        let disk = self.programs.disk(&plan)?;
        let stores = || STORES.iter().filter(|store| is_asked_for(names, store));
        let machines = self.machines(disk, "");
        let lives = machines.flat_map(|machine| stores().map(move |store| (machine, store)));
        let cut = |((kernel, machine), store): ((_, _), &&str)| {
            self.cut_store(kernel, machine, store, count)
        };
        let tallies = side_by_side(lives.collect(), AT_ONCE, cut)?;
        Ok(tallies.into_iter().sum())
    }

    fn cut_store(
        &self,
        kernel: &Kernel,
        machine: Machine<'_>,
        store: &str,
        count: u32,
    ) -> Result<Tally> {
        let directory = tempfile::tempdir_in(&self.home).context("directory of the disks")?;
        let disk = |name| disk::empty(directory.path(), name, SCRATCH_BYTES);
        let disks = [disk("store.img")?, disk("pool.img")?];
        for life in 0..=count {
            let is_last = life == count;
            let last = if is_last { "yes" } else { "no" };
            let environment = format!("CUT={store} LAST={last}");
            let machine = Machine {
                scratch: Scratch {
                    disks: &disks,
                    keeps: true,
                },
                environment: &environment,
                ..machine
            };
            let troubles = self.live(kernel, machine, store, is_last)?;
            if !troubles.is_empty() {
                for what in &troubles {
                    println!(
                        "not ok - Linux {}: {store} after {life} power cuts: {what}",
                        kernel.name
                    );
                }
                return Ok(Tally::FAILED);
            }
        }
        println!("{:>6}  passed {count} power cuts, {store}", kernel.name);
        Ok(Tally::PASSED)
    }

    /// One guest from its start to its cut, or to its end. Returns what is wrong.
    fn live(
        &self,
        kernel: &Kernel,
        machine: Machine<'_>,
        store: &str,
        is_last: bool,
    ) -> Result<Vec<String>> {
        let logs = self.logs(kernel).join("cuts").join(store);
        let seat = Seat {
            number: 1,
            of: 1,
            wires: &logs,
        };
        let mut guest = Guest::start(machine, seat, &logs, TOGETHER_LIMIT)?;
        let plug = guest.plug();
        let mut cutter = None;
        let account = guest.follow(|verdict| {
            if *verdict == Verdict::Info("working".to_owned()) {
                cutter = Some(thread::spawn(move || {
                    thread::sleep(some_time());
                    plug.pull();
                }));
            }
        })?;
        let was_cut = cutter.is_some();
        if let Some(cutter) = cutter {
            // It has nothing to fail with.
            drop(cutter.join());
        }
        let mut troubles = account.troubles(&guest.console()?, &kernel.features);
        troubles.extend(account.failed.iter().cloned());
        if was_cut {
            // That it ended is what was wanted.
            troubles.retain(|trouble| !trouble.starts_with("the guest ended"));
        } else if !is_last {
            troubles.push("it has not begun to work".to_owned());
        }
        if !troubles.is_empty() {
            guest.show_end()?;
        }
        Ok(troubles)
    }
}

/// Not the same from one call to the next.
fn some_time() -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let nanos = now.map_or(0, |time| time.as_nanos());
    let millis = (nanos / 1_000) % LONGEST;
    Duration::from_millis(u64::try_from(millis).unwrap_or_default())
}
