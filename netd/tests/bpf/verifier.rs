//! What the kernel's verifier has to do for each program, at every start of the daemon.

use std::fs;

use crate::instance::Instance;

/// A million is the kernel's limit (`BPF_COMPLEXITY_LIMIT_INSNS`), and kernels differ in how they
/// count; a tenth of that takes a fifth of a second.
const LIMIT: u64 = 200_000;

#[test]
fn programs_are_far_from_the_verifiers_limit() {
    let _plane = Instance::open("verifier", None);
    let mut counts = Vec::new();
    for entry in fs::read_dir("/proc/self/fdinfo").unwrap() {
        // One of the test's own may be closed meanwhile.
        let Ok(text) = fs::read_to_string(entry.unwrap().path()) else {
            continue;
        };
        let count = text.lines().find_map(|l| l.strip_prefix("verified_insns:"));
        counts.extend(count.map(|count| count.trim().parse::<u64>().unwrap()));
    }
    // Linux 5.16 began to tell.
    println!("{} programs: {counts:?}", counts.len());
    assert!(counts.iter().all(|count| *count <= LIMIT), "{counts:?}");
}
