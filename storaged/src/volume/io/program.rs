//! The programs that count: instructions, made for the records that the kernel describes.
//!
//! The value of a device in the table has one part a [`Kind`], of numbers of 64 bits: operations,
//! bytes, nanoseconds and errors, and [`BUCKETS`] counts of operations by how long they took. The
//! bucket of an operation is the power of two of its microseconds.
//!
//! Two programs count by device, and two by control group and device; all of them alike.
//!
//! Runs on 5.10: three helpers of hash tables, those that tell the time and the control group, and
//! additions in memory.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use sys::bpf::program::{Instruction, instruction};
use sys::bpf::tracepoint::Tracepoint;

/// What an operation does, in the order of the parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Read,
    Write,
    Discard,
    Flush,
}

/// As `blk_fill_rwbs` (kernel/trace/blktrace.c) writes it; others are not counted.
const KINDS: [(Kind, u8); 4] = [
    (Kind::Read, b'R'),
    (Kind::Write, b'W'),
    (Kind::Discard, b'D'),
    (Kind::Flush, b'F'),
];

/// The last one is for all that took longer: two minutes.
pub(super) const BUCKETS: usize = 28;
pub(super) const KIND_SIZE: u32 = 8 * (HEAD + BUCKETS as u32);
pub(super) const COUNTS_SIZE: u32 = KIND_SIZE * KINDS.len() as u32;
/// Numbers before the buckets, and where they are.
const HEAD: u32 = 4;
const OPERATIONS: i16 = 0;
const BYTES: i16 = 8;
const NANOSECONDS: i16 = 16;
const ERRORS: i16 = 24;

/// Of an operation under way: its device, where its kind's part is, and its sector.
pub(super) const START_KEY_SIZE: u32 = 16;
/// Of a control group's operations on a device.
pub(super) const GROUP_KEY_SIZE: u32 = 16;
/// Whose an operation under way is: when it was asked for, and the key of a group's operations.
pub(super) const OWNER_SIZE: u32 = 8 + GROUP_KEY_SIZE;
/// Places on the stack.
const KEY: i16 = -16;
const KEY_KIND: i16 = -12;
const KEY_SECTOR: i16 = -8;
const TIME: i16 = -24;
const OWNER: i16 = KEY - OWNER_SIZE as i16;
const GROUP: i16 = OWNER + 8;
const GROUP_DEVICE: i16 = GROUP + 8;

// Registers; calls leave those from 6 on alone.
const RESULT: u8 = 0;
const A: u8 = 1;
const B: u8 = 2;
const C: u8 = 3;
const D: u8 = 4;
const CONTEXT: u8 = 6;
const COUNTS: u8 = 7;
const PART: u8 = 8;
const STACK: u8 = 10;

// Codes of `include/uapi/linux/bpf_common.h` and `bpf.h`.
const LOAD_BYTE: u8 = 0x71;
const LOAD_WORD: u8 = 0x61;
const LOAD: u8 = 0x79;
const LOAD_CONSTANT: u8 = 0x18;
const STORE_WORD: u8 = 0x63;
const STORE: u8 = 0x7b;
/// `BPF_XADD` of 64 bits.
const ADD_IN_MEMORY: u8 = 0xdb;
const MOVE: u8 = 0xb7;
const MOVE_REGISTER: u8 = 0xbf;
const ADD: u8 = 0x07;
const ADD_REGISTER: u8 = 0x0f;
const SUBTRACT_REGISTER: u8 = 0x1f;
const DIVIDE: u8 = 0x37;
const SHIFT_LEFT: u8 = 0x67;
const SHIFT_RIGHT: u8 = 0x77;
const JUMP: u8 = 0x05;
const JUMP_EQUAL: u8 = 0x15;
const JUMP_UNEQUAL: u8 = 0x55;
const JUMP_ABOVE: u8 = 0x25;
const JUMP_AT_MOST: u8 = 0xb5;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;
const PSEUDO_MAP_FD: u8 = 1;

const MAP_LOOKUP: i32 = 1;
const MAP_UPDATE: i32 = 2;
const MAP_DELETE: i32 = 3;
const CLOCK: i32 = 5;
const CURRENT_GROUP: i32 = 80;

/// A jump to the end, whose distance is not known yet.
const TO_END: i16 = i16::MAX;

/// Where the fields are that both tracepoints have.
struct Fields {
    device: i16,
    sector: i16,
    kind: i16,
}

impl Fields {
    fn of(tracepoint: &Tracepoint) -> io::Result<Self> {
        Ok(Self {
            device: tracepoint.offset("dev", 4)?,
            sector: tracepoint.offset("sector", 8)?,
            kind: tracepoint.offset("rwbs", 2)?,
        })
    }
}

/// Remembers when an operation on a device in the table begins.
pub(super) fn at_start(
    tracepoint: &Tracepoint,
    devices: BorrowedFd<'_>,
    started: BorrowedFd<'_>,
) -> io::Result<Vec<Instruction>> {
    let mut code = identify(&Fields::of(tracepoint)?, devices);
    code.extend([call(CLOCK), put(STORE, STACK, RESULT, TIME)]);
    code.extend(map(A, started));
    code.extend(on_stack(B, KEY));
    code.extend(on_stack(C, TIME));
    code.extend([set(MOVE, D, 0), call(MAP_UPDATE)]);
    Ok(finish(code))
}

/// Counts an operation, or a part of one, that ends.
pub(super) fn at_end(
    tracepoint: &Tracepoint,
    devices: BorrowedFd<'_>,
    started: BorrowedFd<'_>,
) -> io::Result<Vec<Instruction>> {
    let error = tracepoint.offset("error", 4)?;
    let sectors = tracepoint.offset("nr_sector", 4)?;
    let mut code = identify(&Fields::of(tracepoint)?, devices);
    code.extend(outcome(error, sectors));
    // The first part of an operation ends it; of those that follow, nobody knows the beginning.
    code.extend(map(A, started));
    code.extend(on_stack(B, KEY));
    code.extend([
        call(MAP_LOOKUP),
        jump(JUMP_EQUAL, RESULT, 0, TO_END),
        put(LOAD, B, RESULT, 0),
        put(STORE, STACK, B, TIME),
    ]);
    code.extend(map(A, started));
    code.extend(on_stack(B, KEY));
    code.push(call(MAP_DELETE));
    code.extend(duration(TIME));
    Ok(finish(code))
}

/// What the programs of control groups share.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tables<'a> {
    pub(super) disks: BorrowedFd<'a>,
    pub(super) counts: BorrowedFd<'a>,
    pub(super) owners: BorrowedFd<'a>,
}

/// Remembers whose an operation is, if its control group is one that is counted.
pub(super) fn at_request(
    tracepoint: &Tracepoint,
    tables: Tables<'_>,
) -> io::Result<Vec<Instruction>> {
    let sectors = tracepoint.offset("nr_sector", 4)?;
    let mut code = identify(&Fields::of(tracepoint)?, tables.disks);
    code.extend([
        // A flush is done once for all who wait for one.
        put(LOAD_WORD, B, CONTEXT, sectors),
        jump(JUMP_EQUAL, B, 0, TO_END),
        put(LOAD_WORD, B, STACK, KEY),
        put(STORE_WORD, STACK, B, GROUP_DEVICE),
        set(MOVE, B, 0),
        put(STORE_WORD, STACK, B, GROUP_DEVICE + 4),
        put(LOAD_WORD, B, COUNTS, 0),
        put(STORE_WORD, STACK, B, KEY),
        call(CURRENT_GROUP),
        put(STORE, STACK, RESULT, GROUP),
    ]);
    code.extend(map(A, tables.counts));
    code.extend(on_stack(B, GROUP));
    code.extend([call(MAP_LOOKUP), jump(JUMP_UNEQUAL, RESULT, 0, 6)]);
    // Somebody else's: one whose end was never seen, as it became a part of another, is not this one.
    code.extend(map(A, tables.owners));
    code.extend(on_stack(B, KEY));
    code.extend([call(MAP_DELETE), jump(JUMP, 0, 0, TO_END)]);
    code.extend([call(CLOCK), put(STORE, STACK, RESULT, OWNER)]);
    code.extend(map(A, tables.owners));
    code.extend(on_stack(B, KEY));
    code.extend(on_stack(C, OWNER));
    code.extend([set(MOVE, D, 0), call(MAP_UPDATE)]);
    Ok(finish(code))
}

/// Counts an operation that ends for the group whose it is.
pub(super) fn at_end_of_request(
    tracepoint: &Tracepoint,
    tables: Tables<'_>,
) -> io::Result<Vec<Instruction>> {
    let error = tracepoint.offset("error", 4)?;
    let sectors = tracepoint.offset("nr_sector", 4)?;
    let mut code = identify(&Fields::of(tracepoint)?, tables.disks);
    code.extend(map(A, tables.owners));
    code.extend(on_stack(B, KEY));
    code.extend([call(MAP_LOOKUP), jump(JUMP_EQUAL, RESULT, 0, TO_END)]);
    for offset in (0..OWNER_SIZE as i16).step_by(8) {
        code.extend([
            put(LOAD, B, RESULT, offset),
            put(STORE, STACK, B, OWNER + offset),
        ]);
    }
    code.extend(map(A, tables.owners));
    code.extend(on_stack(B, KEY));
    code.push(call(MAP_DELETE));
    code.extend(map(A, tables.counts));
    code.extend(on_stack(B, GROUP));
    code.extend([
        call(MAP_LOOKUP),
        jump(JUMP_EQUAL, RESULT, 0, TO_END),
        register(MOVE_REGISTER, COUNTS, RESULT),
    ]);
    code.extend(outcome(error, sectors));
    code.extend(duration(OWNER));
    Ok(finish(code))
}

/// Goes on in the kind's part of [`COUNTS`]. Counts an error, and ends the program; or the bytes.
fn outcome(error: i16, sectors: i16) -> Vec<Instruction> {
    vec![
        register(ADD_REGISTER, COUNTS, PART),
        put(LOAD_WORD, B, CONTEXT, error),
        jump(JUMP_EQUAL, B, 0, 3),
        set(MOVE, C, 1),
        put(ADD_IN_MEMORY, COUNTS, C, ERRORS),
        jump(JUMP, 0, 0, TO_END),
        put(LOAD_WORD, B, CONTEXT, sectors),
        set(SHIFT_LEFT, B, 9),
        put(ADD_IN_MEMORY, COUNTS, B, BYTES),
    ]
}

/// Counts an operation that began at the time in that place on the stack.
fn duration(begin: i16) -> Vec<Instruction> {
    let mut code = vec![
        call(CLOCK),
        put(LOAD, A, STACK, begin),
        register(SUBTRACT_REGISTER, RESULT, A),
        put(ADD_IN_MEMORY, COUNTS, RESULT, NANOSECONDS),
        set(MOVE, C, 1),
        put(ADD_IN_MEMORY, COUNTS, C, OPERATIONS),
    ];
    code.extend(bucket());
    code
}

/// Ends the program unless the device is in the table and the operation of a known kind; then
/// [`COUNTS`] is the device's value, [`PART`] where the kind's part is, and the operation's key on the
/// stack.
fn identify(fields: &Fields, devices: BorrowedFd<'_>) -> Vec<Instruction> {
    let mut code = vec![
        register(MOVE_REGISTER, CONTEXT, A),
        put(LOAD_WORD, B, CONTEXT, fields.device),
        put(STORE_WORD, STACK, B, KEY),
    ];
    code.extend(map(A, devices));
    code.extend(on_stack(B, KEY));
    code.extend([
        call(MAP_LOOKUP),
        jump(JUMP_EQUAL, RESULT, 0, TO_END),
        register(MOVE_REGISTER, COUNTS, RESULT),
        // A flush has no sector, for which one tracepoint has 0 and the other one -1.
        put(LOAD, B, CONTEXT, fields.sector),
        jump(JUMP_UNEQUAL, B, -1, 1),
        set(MOVE, B, 0),
        put(STORE, STACK, B, KEY_SECTOR),
        // A write that is to come after a flush is "FW".
        put(LOAD_BYTE, B, CONTEXT, fields.kind),
        jump(JUMP_UNEQUAL, B, i32::from(b'F'), 3),
        put(LOAD_BYTE, C, CONTEXT, fields.kind + 1),
        jump(JUMP_UNEQUAL, C, i32::from(b'W'), 1),
        register(MOVE_REGISTER, B, C),
    ]);
    for (number, (kind, letter)) in KINDS.into_iter().enumerate() {
        let others = (KINDS.len() - 1 - number) as i16;
        code.extend([
            set(MOVE, PART, (kind as u32 * KIND_SIZE) as i32),
            jump(JUMP_EQUAL, B, i32::from(letter), 2 * others + 1),
        ]);
    }
    code.extend([
        jump(JUMP, 0, 0, TO_END),
        put(STORE_WORD, STACK, PART, KEY_KIND),
    ]);
    code
}

/// Counts the nanoseconds in [`RESULT`] in the bucket of their power of two.
fn bucket() -> Vec<Instruction> {
    /// Each halves what is left to be looked at: limit and width in bits.
    const STEPS: [(i32, i32); 5] = [(0xffff, 16), (0xff, 8), (0xf, 4), (3, 2), (1, 1)];
    const LAST: i32 = BUCKETS as i32 - 1;
    const MOST: i32 = (1 << BUCKETS) - 1;
    let mut code = vec![
        set(DIVIDE, RESULT, 1000),
        jump(JUMP_AT_MOST, RESULT, MOST, 1),
        set(MOVE, RESULT, MOST),
        set(MOVE, B, 0),
    ];
    for (limit, bits) in STEPS {
        code.extend([
            jump(JUMP_AT_MOST, RESULT, limit, 2),
            set(SHIFT_RIGHT, RESULT, bits),
            set(ADD, B, bits),
        ]);
    }
    code.extend([
        // Never; but no verifier adds that up.
        jump(JUMP_ABOVE, B, LAST, TO_END),
        set(SHIFT_LEFT, B, 3),
        register(ADD_REGISTER, COUNTS, B),
        set(MOVE, C, 1),
        put(ADD_IN_MEMORY, COUNTS, C, 8 * HEAD as i16),
    ]);
    code
}

/// Adds the end, and leads the jumps there.
fn finish(mut code: Vec<Instruction>) -> Vec<Instruction> {
    let end = code.len();
    for (at, instruction) in code.iter_mut().enumerate() {
        if instruction.offset == TO_END {
            instruction.offset = (end - at - 1) as i16;
        }
    }
    code.extend([set(MOVE, RESULT, 0), set(EXIT, 0, 0)]);
    code
}

/// A map's address, a constant of 64 bits: two instructions.
fn map(to: u8, map: BorrowedFd<'_>) -> [Instruction; 2] {
    let address = instruction(LOAD_CONSTANT, to, PSEUDO_MAP_FD, 0, map.as_raw_fd());
    [address, set(0, 0, 0)]
}

fn on_stack(to: u8, place: i16) -> [Instruction; 2] {
    [
        register(MOVE_REGISTER, to, STACK),
        set(ADD, to, i32::from(place)),
    ]
}

fn call(helper: i32) -> Instruction {
    set(CALL, 0, helper)
}

fn set(code: u8, to: u8, immediate: i32) -> Instruction {
    instruction(code, to, 0, 0, immediate)
}

fn register(code: u8, to: u8, from: u8) -> Instruction {
    instruction(code, to, from, 0, 0)
}

/// A load or a store: `offset` is that of the memory.
fn put(code: u8, to: u8, from: u8, offset: i16) -> Instruction {
    instruction(code, to, from, offset, 0)
}

fn jump(code: u8, register: u8, immediate: i32, distance: i16) -> Instruction {
    instruction(code, register, 0, distance, immediate)
}
