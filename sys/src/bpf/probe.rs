//! Small programs that measure larger ones: the kernel runs them over and over on one frame
//! (`BPF_PROG_TEST_RUN`) and tells what a run takes, and they jump into a program of somebody's
//! tail-call table.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use super::{call, number};

// include/uapi/linux/bpf.h
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_TEST_RUN: libc::c_int = 10;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
const BPF_PROG_TYPE_XDP: u32 = 6;
/// What aya loads XDP programs for, and 6.18 wants of those that call them.
const BPF_XDP: u32 = 37;
const BPF_PSEUDO_MAP_FD: u8 = 1;
const BPF_FUNC_TAIL_CALL: i32 = 12;
const BPF_FUNC_SKB_VLAN_PUSH: i32 = 18;
/// `TC_ACT_UNSPEC`, include/uapi/linux/pkt_cls.h: nothing to say.
const UNSPEC: i32 = -1;
/// Offsets in `struct __sk_buff`.
const DATA: i16 = 76;
const DATA_END: i16 = 80;

/// The member of `union bpf_attr` for `BPF_PROG_LOAD`, as far as it has to be given.
#[repr(C)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    _between: [u32; 7],
    attach_type: u32,
}

/// That for `BPF_PROG_TEST_RUN`.
#[repr(C)]
struct TestRun {
    program: u32,
    verdict: u32,
    size_in: u32,
    size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    nanoseconds: u32,
}

/// What became of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Of the last run.
    pub verdict: u32,
    /// Of the frame that it leaves.
    pub length: usize,
    /// Of one run, on average.
    pub nanoseconds: u32,
}

/// A program that is loaded for as long as this lives.
#[derive(Debug)]
pub struct Probe {
    program: OwnedFd,
}

impl Probe {
    /// Does nothing: what a run costs by itself.
    ///
    /// # Errors
    /// Of the kernel, when it may not be loaded.
    pub fn empty() -> io::Result<Self> {
        Self::load(&[set(0, UNSPEC), EXIT])
    }

    /// Jumps to the program of a slot.
    ///
    /// # Errors
    /// As for [`Probe::empty`].
    pub fn jump(table: BorrowedFd<'_>, slot: u32) -> io::Result<Self> {
        Self::load(&tail_call(table, slot)?)
    }

    /// Counts the number at `at` of the frame up, four bytes in network order, and jumps then: the
    /// frame comes from somebody else each time.
    ///
    /// # Errors
    /// As for [`Probe::empty`].
    pub fn counting(table: BorrowedFd<'_>, slot: u32, at: u8) -> io::Result<Self> {
        let to_big_endian = instruction(0xdc, 5, 0, 0, 32);
        let at = i16::from(at);
        let mut program = vec![
            instruction(0x61, 2, 1, DATA, 0),
            instruction(0x61, 3, 1, DATA_END, 0),
            // r4 = r2 + the end of the number; if r4 > r3 goto the jump
            instruction(0xbf, 4, 2, 0, 0),
            instruction(0x07, 4, 0, 0, i32::from(at) + 4),
            instruction(0x2d, 4, 3, 5, 0),
            instruction(0x61, 5, 2, at, 0),
            to_big_endian,
            instruction(0x07, 5, 0, 0, 1),
            to_big_endian,
            instruction(0x63, 2, 5, at, 0),
        ];
        program.extend(tail_call(table, slot)?);
        Self::load(&program)
    }

    /// Puts VLAN tags on the frame, of a kind (in network order) and a number each, and jumps then. The last one is
    /// kept beside the frame, as that of a frame that has just come in; those before it are in it.
    ///
    /// # Errors
    /// As for [`Probe::empty`].
    pub fn tagging(table: BorrowedFd<'_>, slot: u32, tags: &[(u16, u16)]) -> io::Result<Self> {
        // The context lives in a register that calls leave alone.
        let mut program = vec![instruction(0xbf, 6, 1, 0, 0)];
        for (kind, number) in tags {
            program.extend([
                instruction(0xbf, 1, 6, 0, 0),
                set(2, i32::from(*kind)),
                set(3, i32::from(*number)),
                instruction(0x85, 0, 0, 0, BPF_FUNC_SKB_VLAN_PUSH),
            ]);
        }
        program.push(instruction(0xbf, 1, 6, 0, 0));
        program.extend(tail_call(table, slot)?);
        Self::load(&program)
    }

    /// In XDP: puts bytes at places of the frame, below 128, and jumps then. A frame that ends before
    /// is left as it is.
    ///
    /// # Errors
    /// As for [`Probe::empty`].
    pub fn putting(table: BorrowedFd<'_>, slot: u32, bytes: &[(u8, u8)]) -> io::Result<Self> {
        let end = bytes.iter().map(|(at, _)| i32::from(*at) + 1).max();
        let skipped = i16::try_from(bytes.len()).map_err(io::Error::other)?;
        let mut program = vec![
            instruction(0x61, 2, 1, 0, 0),
            instruction(0x61, 3, 1, 4, 0),
            // r4 = r2 + the end of the bytes; if r4 > r3 goto the jump
            instruction(0xbf, 4, 2, 0, 0),
            instruction(0x07, 4, 0, 0, end.unwrap_or_default()),
            instruction(0x2d, 4, 3, skipped, 0),
        ];
        let put = |(at, byte): &(u8, u8)| instruction(0x72, 2, 0, i16::from(*at), i32::from(*byte));
        program.extend(bytes.iter().map(put));
        program.extend(tail_call(table, slot)?);
        Self::load_as(BPF_PROG_TYPE_XDP, BPF_XDP, &program)
    }

    fn load(instructions: &[u64]) -> io::Result<Self> {
        Self::load_as(BPF_PROG_TYPE_SCHED_CLS, 0, instructions)
    }

    fn load_as(kind: u32, attach_type: u32, instructions: &[u64]) -> io::Result<Self> {
        let license = c"Dual MIT/GPL";
        let load = Load {
            kind,
            count: u32::try_from(instructions.len()).map_err(io::Error::other)?,
            instructions: instructions.as_ptr() as u64,
            license: license.as_ptr() as u64,
            log_level: 0,
            log_size: 0,
            log: 0,
            _between: [0; 7],
            attach_type,
        };
        // SAFETY: the instructions are as many as told, the license ends with a zero, and both outlive
        // the call.
        let program = unsafe { call(BPF_PROG_LOAD, &load) }?;
        let program = libc::c_int::try_from(program).map_err(io::Error::other)?;
        // SAFETY: BPF_PROG_LOAD returns a new descriptor, which nobody else owns.
        let program = unsafe { OwnedFd::from_raw_fd(program) };
        Ok(Self { program })
    }

    /// Runs it that often on a frame, which each run finds as the one before has left it, and writes what
    /// the last one leaves to `out`.
    ///
    /// # Errors
    /// Of the kernel: `EINVAL` for a frame that is no frame, `ENOSPC` where `out` is too short for what
    /// becomes of it, `EINTR` on a signal.
    pub fn run(&self, frame: &[u8], out: &mut [u8], repeat: u32) -> io::Result<Run> {
        let mut run = TestRun {
            program: number(self.program.as_fd())?,
            verdict: 0,
            size_in: u32::try_from(frame.len()).map_err(io::Error::other)?,
            size_out: u32::try_from(out.len()).map_err(io::Error::other)?,
            data_in: frame.as_ptr() as u64,
            data_out: out.as_mut_ptr() as u64,
            repeat,
            nanoseconds: 0,
        };
        // SAFETY: the kernel reads the frame and writes at most as much to `out` as is told of their
        // lengths, both outlive the call, and what it answers it writes to the attributes, which are
        // writable.
        unsafe { call(BPF_PROG_TEST_RUN, &raw mut run) }?;
        Ok(Run {
            verdict: run.verdict,
            length: run.size_out as usize,
            nanoseconds: run.nanoseconds,
        })
    }
}

const EXIT: u64 = instruction(0x95, 0, 0, 0, 0);

/// The end of a program whose context is still in r1.
fn tail_call(table: BorrowedFd<'_>, slot: u32) -> io::Result<[u64; 6]> {
    let slot = i32::try_from(slot).map_err(io::Error::other)?;
    Ok([
        // A constant of 64 bits takes two instructions.
        instruction(0x18, 2, BPF_PSEUDO_MAP_FD, 0, table.as_raw_fd()),
        0,
        set(3, slot),
        instruction(0x85, 0, 0, 0, BPF_FUNC_TAIL_CALL),
        set(0, UNSPEC),
        EXIT,
    ])
}

const fn set(register: u8, value: i32) -> u64 {
    instruction(0xb7, register, 0, 0, value)
}

/// As Documentation/bpf/standardization/instruction-set.rst has it.
const fn instruction(operation: u8, to: u8, from: u8, offset: i16, number: i32) -> u64 {
    let ([a, b], [c, d, e, f]) = (offset.to_ne_bytes(), number.to_ne_bytes());
    u64::from_ne_bytes([operation, to | from << 4, a, b, c, d, e, f])
}
