//! Writing the entries of tables that programs fill.
//!
//! The connection tables give each CPU a share of their room, and an entry comes from the share of
//! the CPU that writes it (`BPF_F_NO_COMMON_LRU`; `__local_list_pop_free`, kernel/bpf/bpf_lru_list.c).
//! A copy made on one CPU would therefore push out half of itself.

use std::io;
use std::os::fd::BorrowedFd;
use std::thread;

use abi::map::{CT_ANY, CT_HALF, CT_TCP, FRAGMENTS, PEERS, RUNTIMES};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use sys::bpf::map::{self, Existing};

type Entry = (Vec<u8>, Vec<u8>);

/// Whether programs make the entries.
pub(super) fn is_table(name: &str) -> bool {
    matches!(
        name,
        CT_TCP | CT_HALF | CT_ANY | FRAGMENTS | PEERS | RUNTIMES
    )
}

/// Writes all entries, each CPU a share of them.
pub(super) fn write(to: BorrowedFd<'_>, entries: &[Entry], existing: Existing) -> io::Result<()> {
    let allowed = sched_getaffinity(None)?;
    let cpus: Vec<usize> = (0..CpuSet::MAX_CPU)
        .filter(|cpu| allowed.is_set(*cpu))
        .collect();
    let share = entries.len().div_ceil(cpus.len().max(1)).max(1);
    thread::scope(|scope| {
        let writers: Vec<_> = entries
            .chunks(share)
            .zip(&cpus)
            .map(|(share, cpu)| scope.spawn(move || write_on(*cpu, to, share, existing)))
            .collect();
        writers.into_iter().try_for_each(|writer| {
            let panicked = |_panic| io::Error::other("a thread that copies has panicked");
            writer.join().map_err(panicked)?
        })
    })
}

fn write_on(
    cpu: usize,
    to: BorrowedFd<'_>,
    entries: &[Entry],
    existing: Existing,
) -> io::Result<()> {
    let mut only = CpuSet::new();
    only.set(cpu);
    sched_setaffinity(None, &only)?;
    for (key, value) in entries {
        map::write(to, key, value, existing)?;
    }
    Ok(())
}
