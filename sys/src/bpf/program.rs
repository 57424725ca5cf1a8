//! Programs written instruction by instruction: too small for a compiler, or made to measure.

use std::io;
use std::mem::size_of;
use std::os::fd::{FromRawFd as _, OwnedFd};

use super::call;

// include/uapi/linux/bpf.h
const BPF_PROG_LOAD: libc::c_int = 5;

/// The member of `union bpf_attr` for `BPF_PROG_LOAD`, as far as it has to be given.
#[repr(C)]
struct Attributes {
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

/// An instruction from its parts: `to` and `from` are registers.
pub const fn instruction(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction {
        code,
        registers: to | from << 4,
        offset,
        immediate,
    }
}

/// A program to be loaded.
pub(super) struct Load<'a> {
    /// A `BPF_PROG_TYPE_*`.
    pub(super) kind: u32,
    /// The attach type that the kind asks for, if it does.
    pub(super) attach: u32,
    /// For people who list programs; at most 15 bytes of it.
    pub(super) name: &'a str,
    pub(super) instructions: &'a [Instruction],
}

/// Has the kernel check a program and take it.
pub(super) fn load(program: &Load<'_>) -> io::Result<OwnedFd> {
    const { assert!(size_of::<Instruction>() == 8) };
    let mut prog_name = [0; 16];
    let name = program.name.as_bytes();
    let length = name.len().min(15);
    prog_name[..length].copy_from_slice(&name[..length]);
    let attributes = Attributes {
        prog_type: program.kind,
        insn_cnt: u32::try_from(program.instructions.len()).map_err(io::Error::other)?,
        insns: program.instructions.as_ptr() as u64,
        license: c"Dual MIT/GPL".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
        kern_version: 0,
        prog_flags: 0,
        prog_name,
        prog_ifindex: 0,
        expected_attach_type: program.attach,
    };
    // SAFETY: the instructions are as many as is said, the licence ends with a zero, and both
    // outlive the call; there is no log to be written.
    let program = unsafe { call(BPF_PROG_LOAD, &attributes) }?;
    let program = libc::c_int::try_from(program).map_err(io::Error::other)?;
    // SAFETY: BPF_PROG_LOAD returns a new descriptor, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(program) })
}
