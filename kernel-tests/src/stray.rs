//! Processes that have left whoever started them.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};

/// Ends such a process when it is dropped, and when this process ends, whatever ends it.
#[derive(Debug)]
pub struct Stray {
    watcher: Child,
    pid: String,
}

impl Stray {
    /// The process that has written its id to `pid_file`; `name` is the kernel's for it.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn new(pid_file: &Path, name: &str) -> Result<Self> {
        let pid = fs::read_to_string(pid_file).with_context(|| format!("process id of {name}"))?;
        let pid = pid.trim().to_owned();
        let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        ensure!(comm.trim() == name, "{name} has ended");
        let mut watcher = Command::new("sh");
        // Somebody else may have the number by then.
        let script = "cat; [ \"$(cat /proc/$0/comm 2>/dev/null)\" = \"$1\" ] && kill \"$0\"";
        watcher.args(["-c", script, &pid, name]);
        // A signal to all that were started from one command line must not end it first.
        let watcher = watcher.process_group(0).stdin(Stdio::piped());
        Ok(Self {
            watcher: watcher.spawn().context("watcher of a process")?,
            pid,
        })
    }

    /// Its process id.
    pub fn pid(&self) -> &str {
        &self.pid
    }
}

impl Drop for Stray {
    fn drop(&mut self) {
        // The end of its input is the watcher's sign.
        drop(self.watcher.stdin.take());
        drop(self.watcher.wait());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{program, wait};

    const SOON: Duration = Duration::from_secs(20);

    fn is_there(pid: &str) -> bool {
        // One that its new parent has not waited for yet is a zombie.
        fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
    }

    #[test]
    fn a_stray_process_ends_with_its_owner() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("pid");
        let shown = file.display();
        let script = format!("setsid sleep 600 >/dev/null 2>&1 & echo $! >{shown}");
        program::output(Command::new("sh").args(["-c", &script])).unwrap();
        let stray = wait::until(SOON, "it is called sleep", || {
            Stray::new(&file, "sleep").ok()
        });
        let stray = stray.unwrap();
        let pid = stray.pid().to_owned();
        assert!(is_there(&pid));
        Stray::new(&file, "another").unwrap_err();
        drop(stray);
        let gone = || (!is_there(&pid)).then_some(());
        wait::until(SOON, "it ends", gone).unwrap();
    }
}
