//! What `/proc` says of processes.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;

use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::check;

/// A process as an error message names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    pub pid: u32,
    /// `comm`: the first 15 bytes of the program's name.
    pub name: String,
}

/// When a process began, in the kernel's count since the boot: with its pid that tells it from any
/// later one.
///
/// # Errors
/// Fails when there is no such process, or `/proc` is not mounted.
pub fn start_time(pid: u32) -> io::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    start_time_of(&stat)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "cannot read its start time"))
}

/// Whether the process that began then still exists and is no zombie.
pub fn is_alive(pid: u32, start_time: u64) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return false;
    };
    start_time_of(&stat) == Some(start_time) && run_state_of(&stat) != Some('Z')
}

/// Has programs that are run from here on inherit none of the descriptors that this process was given,
/// but for the standard streams: whoever waits for the end of a pipe, or of a lock (flock(1)), does not
/// wait for programs that stay.
///
/// # Errors
/// When `/proc` is not mounted.
pub fn hand_on_no_descriptors() -> io::Result<()> {
    for entry in fs::read_dir("/proc/self/fd")? {
        let number = entry?.file_name().to_string_lossy().parse();
        if let Ok(number @ 3..) = number {
            // SAFETY: fcntl(2) F_SETFD changes a flag of the number alone. One that is not open, as that
            // of the directory may be by now, is an error that changes nothing.
            unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
        }
    }
    Ok(())
}

/// Fields after the command name, which may itself hold blanks and parentheses (proc(5)).
fn stat_fields(stat: &str) -> Option<&str> {
    stat.rsplit_once(") ").map(|(_command, fields)| fields)
}

fn run_state_of(stat: &str) -> Option<char> {
    stat_fields(stat)?.chars().next()
}

fn start_time_of(stat: &str) -> Option<u64> {
    // `stat_fields` starts at field 3.
    stat_fields(stat)?.split(' ').nth(22 - 3)?.parse().ok()
}

/// The process at the other end of a Unix socket: who connected, or who listens. None if it is in no
/// namespace of process ids that is seen from here.
///
/// # Errors
/// The kernel's.
pub fn peer(socket: impl AsFd) -> io::Result<Option<u32>> {
    // Not by rustix, whose type for a pid cannot be the 0 of a stranger.
    let mut peer = libc::ucred {
        pid: 0,
        uid: 0,
        gid: 0,
    };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: `peer` is writable and `length` is its size; getsockopt(2) writes no more than that.
    check(unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut peer).cast(),
            &raw mut length,
        )
    })?;
    Ok(u32::try_from(peer.pid).ok().filter(|pid| *pid != 0))
}

/// The process of a program `name` that was started with `argument`, and is in the same network and
/// mount namespaces as this one, so that both mean the same by it. The descriptor is of no later
/// process with its id.
pub fn started_with(name: &str, argument: &str) -> Option<(u32, OwnedFd)> {
    let here = "self".to_owned();
    let own = ["net", "mnt"].map(|kind| namespace(&here, kind));
    let is = |pid: &str| {
        let read = |file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let words = read("cmdline");
        read("comm").trim_ascii_end() == name.as_bytes()
            && words
                .split(|byte| *byte == 0)
                .any(|word| word == argument.as_bytes())
            && ["net", "mnt"].map(|kind| namespace(pid, kind)) == own
    };
    all().ok()?.find_map(|pid| {
        let text = pid.to_string();
        if !is(&text) {
            return None;
        }
        let raw = Pid::from_raw(i32::try_from(pid).ok()?)?;
        let process = pidfd_open(raw, PidfdFlags::empty()).ok()?;
        // Another one may have got the id before it was opened. A zombie has no words.
        is(&text).then_some((pid, process))
    })
}

fn namespace(pid: &str, kind: &str) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok()
}

/// The ids of all processes that are seen from here.
///
/// # Errors
/// Fails when `/proc` is not mounted.
pub(crate) fn all() -> io::Result<impl Iterator<Item = u32>> {
    let entries = fs::read_dir("/proc")?;
    Ok(entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()))
}

/// A process that has one of the `sockets` (inode numbers) open.
///
/// Looks at every descriptor of every process, so it is for error messages only. Processes that
/// end meanwhile, and those of which nothing may be read, are passed over.
pub fn holder_of_socket(sockets: &BTreeSet<u64>) -> Option<Process> {
    let wanted: BTreeSet<String> = sockets.iter().map(|i| format!("socket:[{i}]")).collect();
    all()
        .ok()?
        .find(|pid| holds(*pid, &wanted))
        .map(|pid| Process {
            pid,
            name: fs::read_to_string(format!("/proc/{pid}/comm"))
                .map(|name| name.trim_end().to_owned())
                .unwrap_or_default(),
        })
}

fn holds(pid: u32, wanted: &BTreeSet<String>) -> bool {
    fs::read_dir(format!("/proc/{pid}/fd")).is_ok_and(|files| {
        files
            .filter_map(|file| fs::read_link(file.ok()?.path()).ok())
            .any(|target| target.to_str().is_some_and(|name| wanted.contains(name)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::os::unix::net::UnixListener;
    use std::os::unix::net::UnixStream;

    #[test]
    fn names_the_process_that_holds_a_socket() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let inode = rustix::fs::fstat(socket.as_fd()).unwrap().st_ino;
        let holder = holder_of_socket(&BTreeSet::from([inode])).unwrap();
        assert_eq!(holder.pid, std::process::id());
        assert!(!holder.name.is_empty());
        drop(socket);
        assert_eq!(holder_of_socket(&BTreeSet::from([inode])), None);
    }

    #[test]
    fn a_process_is_told_from_a_later_one_with_its_pid() {
        let me = std::process::id();
        let began = start_time(me).unwrap();
        assert!(is_alive(me, began));
        assert!(!is_alive(me, began + 1));
        let stat = "7 (a) b) Z 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 4242 0";
        assert_eq!(
            (run_state_of(stat), start_time_of(stat)),
            (Some('Z'), Some(4242))
        );
    }

    #[test]
    fn a_process_is_known_by_what_it_was_started_with() {
        use std::process::Command;
        let mut child = Command::new("sleep").arg("600.25").spawn().unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        let found = loop {
            // It has its name from exec on.
            match started_with("sleep", "600.25") {
                None if std::time::Instant::now() < deadline => std::thread::yield_now(),
                found => break found,
            }
        };
        assert_eq!(found.map(|(pid, _)| pid), Some(child.id()));
        assert!(started_with("sleep", "600").is_none());
        assert!(started_with("cat", "600.25").is_none());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(started_with("sleep", "600.25").is_none());
    }

    #[test]
    fn who_listens_is_known_to_who_connects() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let _listener = UnixListener::bind(&path).unwrap();
        let connected = UnixStream::connect(&path).unwrap();
        assert_eq!(peer(&connected).unwrap(), Some(std::process::id()));
    }
}
