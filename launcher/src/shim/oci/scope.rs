//! Control groups that systemd makes, as scopes, and how they end.
//!
//! libcontainer ends one by way of the bus, where every answer that is late costs it ten seconds and
//! another try (`RECV_TIMEOUT_SECS` in libcgroups' `dbus.rs`). But systemd ends a scope that nobody is
//! in any more by itself, so that nobody has to be asked.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use libcontainer::container::Container;

use super::command::init_of;
use super::{OciError, failed};
use crate::cgroup::Group;

/// Beside the state: where the container's processes are.
const FILE: &str = "scope";
/// For processes that have been killed to be gone.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(10);

/// Notes where systemd has put a container that has been made.
pub(super) fn note(container: &Container, state: &Path) -> Result<(), OciError> {
    let pid = init_of(container)?;
    let path = state.join(FILE);
    Group::of_process(pid)
        .and_then(|group| fs::write(&path, group.path().as_os_str().as_encoded_bytes()))
        .map_err(failed("write", &path))
}

/// Ends what is in the scope of a container that is to be deleted, and has libcontainer leave the
/// rest to systemd.
pub(super) fn end(container: &mut Container, state: &Path) -> Result<(), OciError> {
    let file = state.join(FILE);
    let path = match fs::read_to_string(&file) {
        Ok(path) => PathBuf::from(path),
        // There is no scope.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("read", &file)(error)),
    };
    let group = Group::unified(&path);
    empty(&group).map_err(failed("remove the control group", &path))?;
    container.state.use_systemd = false;
    Ok(())
}

fn empty(group: &Group) -> io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while group.dir("pids").exists() {
        // systemd may have been faster.
        let removed = group.kill().and_then(|()| group.remove());
        match removed {
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_busy) => thread::sleep(PAUSE),
            Ok(()) => {}
        }
    }
    Ok(())
}
