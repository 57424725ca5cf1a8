//! What the kernel's verifier has to do for each program, at every start of the daemon.

use std::collections::BTreeSet;
use std::fs;

use aya::programs::loaded_programs;

use crate::instance::Instance;

/// A million is the kernel's limit (`BPF_COMPLEXITY_LIMIT_INSNS`), and kernels differ in how they
/// count: 6.1 needs 331 000 for the answers to names, 6.18 a tenth of that.
const LIMIT: u32 = 400_000;

#[test]
fn programs_are_far_from_the_verifiers_limit() {
    let _plane = Instance::open("verifier", None);
    let own = fs::read_dir("/proc/self/fdinfo").unwrap();
    let own: BTreeSet<u32> = own
        .filter_map(|entry| {
            // One of the test's own may be closed meanwhile.
            let text = fs::read_to_string(entry.unwrap().path()).ok()?;
            let id = text.lines().find_map(|l| l.strip_prefix("prog_id:"))?;
            Some(id.trim().parse().unwrap())
        })
        .collect();
    let mut counts: Vec<(u32, String)> = Vec::new();
    for program in loaded_programs().map(Result::unwrap) {
        // Linux 5.16 began to tell.
        let Some(count) = program.verified_instruction_count() else {
            continue;
        };
        if own.contains(&program.id()) {
            counts.push((count, program.name_as_str().unwrap_or_default().to_owned()));
        }
    }
    counts.sort();
    println!("{counts:?}");
    assert!(
        counts.iter().all(|(count, _)| *count <= LIMIT),
        "{counts:?}"
    );
}
