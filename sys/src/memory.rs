//! The process's own memory.

/// Gives the kernel back what the allocator keeps for later, in pages that are wholly free: reading
/// the kernel's types or a list of all interfaces takes megabytes that are not needed again soon.
pub fn give_back() {
    // SAFETY: malloc_trim(3) takes no pointer and may be called by any thread.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_env = "gnu")]
    #[test]
    fn free_memory_below_what_is_in_use_goes_back() {
        const PIECES: usize = 10_000;
        let resident = || {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let anonymous = status
                .lines()
                .find_map(|line| line.strip_prefix("RssAnon:"));
            let kibibytes = anonymous.unwrap().trim().strip_suffix(" kB").unwrap();
            kibibytes.parse::<usize>().unwrap() * 1024
        };
        let pieces: Vec<Vec<u8>> = (0..PIECES).map(|_piece| vec![1; 4000]).collect();
        // The allocator itself only shrinks the heap from its end.
        let last = vec![1_u8; 4000];
        drop(pieces);
        let before = resident();
        give_back();
        let after = resident();
        assert!(before > after + PIECES * 2000, "{before} {after}");
        drop(last);
    }
}
