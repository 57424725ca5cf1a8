//! Programs that decide which devices the processes of a cgroup may use (cgroup v2; version 1 has
//! files for that).

use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use super::{call, number};

// include/uapi/linux/bpf.h
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_ATTACH: libc::c_int = 8;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
/// Beside programs of others and of cgroups above: all of them must allow.
const BPF_F_ALLOW_MULTI: u32 = 2;

/// The member of `union bpf_attr` for `BPF_PROG_LOAD`, as far as it has to be given.
#[repr(C)]
struct Load {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
}

/// That for `BPF_PROG_ATTACH`.
#[repr(C)]
struct Attach {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
}

/// One instruction: `struct bpf_insn`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    pub code: u8,
    /// The destination in the lower four bits, the source in the upper.
    pub registers: u8,
    pub offset: i16,
    pub immediate: i32,
}

/// Attaches a program to a cgroup's directory. It stays for as long as the cgroup.
///
/// # Errors
/// Of the kernel: `EINVAL` or `EACCES` when its verifier refuses the program.
pub fn attach(cgroup: BorrowedFd<'_>, program: &[Instruction]) -> io::Result<()> {
    let program = load(program)?;
    let attach = Attach {
        target_fd: number(cgroup)?,
        attach_bpf_fd: number(program.as_fd())?,
        attach_type: BPF_CGROUP_DEVICE,
        attach_flags: BPF_F_ALLOW_MULTI,
    };
    // SAFETY: the attributes hold no address.
    unsafe { call(BPF_PROG_ATTACH, &attach) }.map(drop)
}

fn load(program: &[Instruction]) -> io::Result<OwnedFd> {
    const { assert!(size_of::<Instruction>() == 8) };
    let mut prog_name = [0; 16];
    prog_name[..14].copy_from_slice(b"hawser_devices");
    let load = Load {
        prog_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: u32::try_from(program.len()).map_err(io::Error::other)?,
        insns: program.as_ptr() as u64,
        license: c"MIT".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
        kern_version: 0,
        prog_flags: 0,
        prog_name,
        prog_ifindex: 0,
        expected_attach_type: BPF_CGROUP_DEVICE,
    };
    // SAFETY: the instructions are as many as is said, the licence ends with a zero, and both
    // outlive the call; there is no log to be written.
    let program = unsafe { call(BPF_PROG_LOAD, &load) }?;
    let program = libc::c_int::try_from(program).map_err(io::Error::other)?;
    // SAFETY: BPF_PROG_LOAD returns a new descriptor, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(program) })
}
