//! Programs that decide which devices the processes of a cgroup may use (cgroup v2; version 1 has
//! files for that).

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};

use rustix::process::{Resource, getrlimit, setrlimit};

use super::map::lift_limit;
use super::program::{self, Instruction, Load};
use super::{call, number};

// include/uapi/linux/bpf.h
const BPF_PROG_ATTACH: libc::c_int = 8;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
/// Beside programs of others and of cgroups above: all of them must allow.
const BPF_F_ALLOW_MULTI: u32 = 2;

/// The member of `union bpf_attr` for `BPF_PROG_ATTACH`, as far as it has to be given.
#[repr(C)]
struct Attach {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
}

/// Attaches a program to a cgroup's directory. It stays for as long as the cgroup.
///
/// # Errors
/// Of the kernel: `EINVAL` or `EACCES` when its verifier refuses the program.
pub fn attach(cgroup: BorrowedFd<'_>, program: &[Instruction]) -> io::Result<()> {
    let load = || {
        program::load(&Load {
            kind: BPF_PROG_TYPE_CGROUP_DEVICE,
            attach: BPF_CGROUP_DEVICE,
            name: "hawser_devices",
            instructions: program,
        })
    };
    let program = match load() {
        // Before 5.11 all programs and maps of a user count against what may be locked in memory.
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
            let before = getrlimit(Resource::Memlock);
            lift_limit()?;
            let loaded = load();
            // What this process starts next has the limit that it came with.
            setrlimit(Resource::Memlock, before)?;
            loaded
        }
        loaded => loaded,
    }?;
    let attach = Attach {
        target_fd: number(cgroup)?,
        attach_bpf_fd: number(program.as_fd())?,
        attach_type: BPF_CGROUP_DEVICE,
        attach_flags: BPF_F_ALLOW_MULTI,
    };
    // SAFETY: the attributes hold no address.
    unsafe { call(BPF_PROG_ATTACH, &attach) }.map(drop)
}
