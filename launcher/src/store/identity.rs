//! Which process a record speaks of: its id and when it began.

use std::fs;
use std::io;

use crate::container::ProcessId;

/// This process, as another can recognise it later.
///
/// # Errors
/// Fails when `/proc` is not mounted.
pub fn process_id(pid: u32) -> io::Result<ProcessId> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let start_time = start_time_of(&stat)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "cannot read its start time"))?;
    Ok(ProcessId { pid, start_time })
}

/// Whether this very process still exists and is no zombie.
pub fn is_alive(process: ProcessId) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{}/stat", process.pid)) else {
        return false;
    };
    start_time_of(&stat) == Some(process.start_time) && run_state_of(&stat) != Some('Z')
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_told_from_a_later_one_with_its_pid() {
        let me = process_id(std::process::id()).unwrap();
        assert!(is_alive(me));
        assert!(!is_alive(ProcessId {
            start_time: me.start_time + 1,
            ..me
        }));
        let stat = "7 (a) b) Z 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 4242 0";
        assert_eq!(
            (run_state_of(stat), start_time_of(stat)),
            (Some('Z'), Some(4242))
        );
    }
}
