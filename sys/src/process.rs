//! What `/proc` says of processes.

use std::collections::BTreeSet;
use std::fs;

/// A process as an error message names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    pub pid: u32,
    /// `comm`: the first 15 bytes of the program's name.
    pub name: String,
}

/// A process that has one of the `sockets` (inode numbers) open.
///
/// Looks at every descriptor of every process, so it is for error messages only. Processes that
/// end meanwhile, and those of which nothing may be read, are passed over.
pub fn holder_of_socket(sockets: &BTreeSet<u64>) -> Option<Process> {
    let wanted: BTreeSet<String> = sockets.iter().map(|i| format!("socket:[{i}]")).collect();
    fs::read_dir("/proc")
        .ok()?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
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
    use std::os::fd::AsFd;

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
}
