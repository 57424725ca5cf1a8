//! Filters of system calls (seccomp(2)).

use std::io;

use crate::check;

/// Of an instruction (`struct sock_filter`).
const INSTRUCTION: usize = 8;

/// Filters the calls of this thread from now on, and of what it starts. Needs `CAP_SYS_ADMIN`, or
/// that no privileges can be gained any more.
///
/// # Errors
/// `EINVAL` for what is no program; others as in seccomp(2).
pub fn load(program: &[u8], flags: u32) -> io::Result<()> {
    let (instructions, rest) = program.as_chunks::<INSTRUCTION>();
    if !rest.is_empty() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut filter: Vec<libc::sock_filter> = instructions
        .iter()
        .map(|[c0, c1, jt, jf, k @ ..]| libc::sock_filter {
            code: u16::from_ne_bytes([*c0, *c1]),
            jt: *jt,
            jf: *jf,
            k: u32::from_ne_bytes(*k),
        })
        .collect();
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).map_err(io::Error::other)?,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: the kernel reads `program` and as many instructions as it says, which are there, and
    // keeps a copy. It refuses what is no filter.
    let outcome = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const program,
        )
    };
    check(outcome).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Return values of a filter (`linux/seccomp.h`).
    const ALLOW: u32 = 0x7fff_0000;

    fn answer(value: u32) -> [u8; INSTRUCTION] {
        let mut instruction = [0; INSTRUCTION];
        instruction[0] = 0x06;
        instruction[4..].copy_from_slice(&value.to_ne_bytes());
        instruction
    }

    #[test]
    fn only_a_program_is_loaded() {
        let loaded = std::thread::spawn(|| {
            rustix::thread::set_no_new_privs(true).unwrap();
            let refused = [&[][..], &[0; 7], &[0; 8]].map(|program| load(program, 0).is_err());
            (refused, load(&answer(ALLOW), 0).is_ok())
        });
        assert_eq!(loaded.join().unwrap(), ([true; 3], true));
    }
}
