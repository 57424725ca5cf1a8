//! Processes that a child subreaper was given (`PR_SET_CHILD_SUBREAPER`, prctl(2)).

use std::io;
use std::mem::MaybeUninit;

use crate::check;

/// Reaps what has ended among the children of the calling thread but `spared`, whose exit status
/// somebody waits for. Stops where `spared` has ended, too.
///
/// The kernel gives orphans to a subreaper's first thread (`find_new_reaper`, kernel/exit.c), so that
/// is the thread to call this; what other threads have started is left to them.
///
/// # Errors
/// As waitid(2), but for `ECHILD`: nobody to reap is success.
pub fn reap_all_but(spared: Option<u32>) -> io::Result<()> {
    let own = libc::__WNOTHREAD | libc::WEXITED | libc::WNOHANG;
    loop {
        let Some(pid) = ended(libc::P_ALL, 0, own | libc::WNOWAIT)? else {
            return Ok(());
        };
        if Some(pid) == spared {
            return Ok(());
        }
        ended(libc::P_PID, pid, own)?;
    }
}

/// The pid of a child that has ended.
fn ended(kind: libc::idtype_t, id: u32, options: libc::c_int) -> io::Result<Option<u32>> {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    // SAFETY: `info` is writable; waitid(2) writes no more than a siginfo_t.
    while let Err(error) = check(unsafe { libc::waitid(kind, id, info.as_mut_ptr(), options) }) {
        match error.raw_os_error() {
            Some(libc::EINTR) => {}
            Some(libc::ECHILD) => return Ok(None),
            _ => return Err(error),
        }
    }
    // SAFETY: all zeroes are a siginfo_t, and waitid(2) has filled it, or left it or its `si_pid` at
    // zero when nobody has ended; the member is one of those that SIGCHLD has.
    let pid = unsafe { info.assume_init().si_pid() };
    Ok(u32::try_from(pid).ok().filter(|pid| *pid != 0))
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};
    use std::thread;

    use super::*;

    fn end_of(child: &Child) -> Option<u32> {
        let stays = libc::WEXITED | libc::WNOWAIT;
        ended(libc::P_PID, child.id(), stays).unwrap()
    }

    /// In a thread of its own, whose children are nobody else's.
    #[test]
    fn all_are_reaped_but_the_one_that_is_waited_for() {
        let main = || {
            let start = || Command::new("true").spawn().unwrap();
            let (first, mut spared, last) = (start(), start(), start());
            for child in [&first, &spared, &last] {
                assert_eq!(end_of(child), Some(child.id()));
            }
            reap_all_but(Some(spared.id())).unwrap();
            assert_eq!(end_of(&first), None, "reaped");
            assert!(spared.wait().unwrap().success());
            reap_all_but(None).unwrap();
            assert_eq!(end_of(&last), None, "reaped");
            reap_all_but(None).unwrap();
        };
        thread::spawn(main).join().unwrap();
    }

    #[test]
    fn children_of_other_threads_are_left_to_them() {
        let mut child = Command::new("true").spawn().unwrap();
        assert_eq!(end_of(&child), Some(child.id()));
        thread::spawn(|| reap_all_but(None).unwrap())
            .join()
            .unwrap();
        assert!(child.wait().unwrap().success());
    }
}
