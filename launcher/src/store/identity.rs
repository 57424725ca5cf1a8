//! Which process a record speaks of: its id and when it began.

use std::io;

use crate::container::ProcessId;

/// This process, as another can recognise it later.
///
/// # Errors
/// Fails when `/proc` is not mounted.
pub fn process_id(pid: u32) -> io::Result<ProcessId> {
    let start_time = sys::process::start_time(pid)?;
    Ok(ProcessId { pid, start_time })
}

/// Whether this very process still exists and is no zombie.
pub fn is_alive(process: ProcessId) -> bool {
    sys::process::is_alive(process.pid, process.start_time)
}
