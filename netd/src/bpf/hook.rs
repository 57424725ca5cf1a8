//! The socket hooks on the root cgroup.
//!
//! The stubs see every process of the host; the programs behind them act on the namespaces of this
//! instance alone. Other instances attach their own beside them: links always are "multi".

use std::fs::File;
use std::io;
use std::path::Path;

use abi::map::SOCKET_HOOKS;
use aya::Ebpf;
use aya::programs::links::{CgroupAttachMode, FdLink, LinkError};
use aya::programs::{CgroupSockAddr, ProgramError};

use super::error::BpfError;
use super::object;
use super::pin::Directory;

/// Makes the programs of the object the current ones and attaches the stubs that are not. Returns
/// a line that says what was done.
pub(super) fn install(
    object: &mut Ebpf,
    pins: &Directory,
    cgroup: &Path,
) -> Result<String, BpfError> {
    let target = cgroup.display().to_string();
    let directory = File::open(cgroup).map_err(BpfError::attach("socket hooks", &target))?;
    let mut adopted = 0;
    for hook in SOCKET_HOOKS {
        object::install_socket_hook(object, hook)?;
        let pin = format!("hook_{hook}");
        if pins.link(&pin)?.is_some() {
            adopted += 1;
            continue;
        }
        let link = attach(object, hook, &directory, &target)?;
        pins.pin_link(&pin, link)?;
    }
    Ok(format!(
        "socket hooks: {} on {target}, {adopted} of them adopted",
        SOCKET_HOOKS.len()
    ))
}

fn attach(object: &mut Ebpf, hook: &str, cgroup: &File, target: &str) -> Result<FdLink, BpfError> {
    let name = format!("{hook}_entry");
    let stub: &mut CgroupSockAddr = object::program(object, &name)?;
    stub.load().map_err(BpfError::load(&name))?;
    // `Single` means no flags: the kernel refuses any on a link, which is "multi" in itself.
    let id = stub
        .attach(cgroup, CgroupAttachMode::Single)
        .map_err(BpfError::attach::<ProgramError>(&name, target))?;
    let link = stub
        .take_link(id)
        .map_err(BpfError::attach::<ProgramError>(&name, target))?;
    // Since 5.7 attaching makes a link, and 5.10 is the floor.
    FdLink::try_from(link)
        .map_err(|error: LinkError| BpfError::attach(&name, target)(io::Error::other(error)))
}
