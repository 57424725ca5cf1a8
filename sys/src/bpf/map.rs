//! Maps as the kernel has them: their shape, and their entries as bytes.
//!
//! The loader's library asks for entries one by one and knows maps by the types of its own program
//! only. Here are whole tables at once, of whatever version of the program made them.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use super::{BPF_OBJ_GET_INFO_BY_FD, ObjectInfo, call, number};

// include/uapi/linux/bpf.h
const BPF_MAP_CREATE: libc::c_int = 0;
const BPF_MAP_LOOKUP_ELEM: libc::c_int = 1;
const BPF_MAP_UPDATE_ELEM: libc::c_int = 2;
const BPF_MAP_DELETE_ELEM: libc::c_int = 3;
const BPF_MAP_GET_NEXT_KEY: libc::c_int = 4;
const BPF_PROG_GET_FD_BY_ID: libc::c_int = 13;
const BPF_MAP_LOOKUP_BATCH: libc::c_int = 24;
const BPF_MAP_UPDATE_BATCH: libc::c_int = 26;
const BPF_MAP_DELETE_BATCH: libc::c_int = 27;
pub const BPF_MAP_TYPE_HASH: u32 = 1;
pub const BPF_MAP_TYPE_ARRAY: u32 = 2;
const BPF_MAP_TYPE_PROG_ARRAY: u32 = 3;
pub const BPF_MAP_TYPE_LRU_HASH: u32 = 9;
const BPF_MAP_TYPE_LPM_TRIE: u32 = 11;

/// Entries asked for at once; a bucket of a hash table has far fewer.
const BATCH: usize = 4096;

/// What a map is like: all that the kernel compares when a program comes with one of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// A `BPF_MAP_TYPE_*`.
    pub kind: u32,
    pub key_size: u32,
    /// Of one CPU's value, where each has its own.
    pub value_size: u32,
    pub max_entries: u32,
    pub flags: u32,
}

impl Shape {
    fn is_plain_hash(&self) -> bool {
        matches!(self.kind, BPF_MAP_TYPE_HASH | BPF_MAP_TYPE_LRU_HASH)
    }

    /// Whether every entry is there from the start, filled with zeros.
    pub fn is_array(&self) -> bool {
        self.kind == BPF_MAP_TYPE_ARRAY
    }

    /// Whether an entry's value is `value_size` bytes, and nothing but bytes.
    pub fn holds_bytes(&self) -> bool {
        self.is_plain_hash() || matches!(self.kind, BPF_MAP_TYPE_ARRAY | BPF_MAP_TYPE_LPM_TRIE)
    }
}

/// The beginning of `struct bpf_map_info`.
#[repr(C)]
#[derive(Default)]
struct MapInfo {
    kind: u32,
    id: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
}

/// The member of `union bpf_attr` for `BPF_MAP_CREATE`, as far as it has to be given.
#[repr(C)]
struct Create {
    kind: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
}

/// The member of `union bpf_attr` for single elements.
#[repr(C)]
struct Element {
    map_fd: u32,
    _pad: u32,
    key: u64,
    /// Or the next key.
    value: u64,
    flags: u64,
}

/// That for batches.
#[repr(C)]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// Makes an empty map, which lives as long as the descriptor and the programs that use it.
///
/// # Errors
/// Of the kernel: `EINVAL` for a shape that the kind cannot have, `EPERM`.
pub fn create(shape: Shape) -> io::Result<OwnedFd> {
    let create = Create {
        kind: shape.kind,
        key_size: shape.key_size,
        value_size: shape.value_size,
        max_entries: shape.max_entries,
        map_flags: shape.flags,
    };
    // SAFETY: the attributes hold no address.
    let made = || unsafe { call(BPF_MAP_CREATE, &create) };
    let map = match made() {
        // Before 5.11 maps and programs count against what may be locked in memory.
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
            lift_limit()?;
            made()
        }
        made => made,
    }?;
    let map = libc::c_int::try_from(map).map_err(io::Error::other)?;
    // SAFETY: BPF_MAP_CREATE returns a new descriptor, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(map) })
}

/// Lets this process lock any amount of memory; others are limited as before.
pub(super) fn lift_limit() -> io::Result<()> {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let none = Rlimit {
        current: None,
        maximum: None,
    };
    Ok(setrlimit(Resource::Memlock, none)?)
}

/// # Errors
/// Of the kernel: the descriptor is no map.
pub fn shape(map: BorrowedFd<'_>) -> io::Result<Shape> {
    let mut info = MapInfo::default();
    let ask = ObjectInfo {
        bpf_fd: number(map)?,
        info_len: u32::try_from(size_of::<MapInfo>()).map_err(io::Error::other)?,
        info: (&raw mut info) as u64,
    };
    // SAFETY: the kernel writes at most `info_len` bytes to `info`, which is as long and outlives
    // the call.
    unsafe { call(BPF_OBJ_GET_INFO_BY_FD, &ask) }?;
    Ok(Shape {
        kind: info.kind,
        key_size: info.key_size,
        value_size: info.value_size,
        max_entries: info.max_entries,
        flags: info.map_flags,
    })
}

/// Shows every entry of a map that [`Shape::holds_bytes`] to `visit`: its key and its value. Entries
/// that come or go meanwhile may be missed; the others are seen once each (Linux 5.6).
///
/// # Errors
/// Of the kernel; `Unsupported` for other kinds of map.
pub fn visit(map: BorrowedFd<'_>, mut visit: impl FnMut(&[u8], &[u8])) -> io::Result<()> {
    let shape = shape(map)?;
    if !shape.holds_bytes() {
        return Err(io::ErrorKind::Unsupported.into());
    }
    if !shape.is_plain_hash() {
        let mut key = None;
        while let Some(next) = next_key(map, &shape, key.as_deref())? {
            if let Some(value) = read(map, &shape, &next)? {
                visit(&next, &value);
            }
            key = Some(next);
        }
        return Ok(());
    }
    let (key_size, value_size) = (shape.key_size as usize, shape.value_size as usize);
    let mut room = BATCH;
    // The kernel's own mark of how far it got: the number of a bucket.
    let mut position: Option<u32> = None;
    loop {
        let (mut keys, mut values) = (vec![0_u8; room * key_size], vec![0_u8; room * value_size]);
        let mut next = 0_u32;
        let mut batch = Batch {
            in_batch: position
                .as_ref()
                .map_or(0, |position| std::ptr::from_ref(position) as u64),
            out_batch: (&raw mut next) as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: u32::try_from(room).map_err(io::Error::other)?,
            map_fd: number(map)?,
            elem_flags: 0,
            flags: 0,
        };
        // SAFETY: the kernel writes `count` back into the attributes, which nothing else refers to.
        // `keys` and `values` have room for `count` entries of the sizes that it itself gave for
        // this map, and the two marks are of the four bytes that hash tables use
        // (`__htab_map_lookup_batch`, kernel/bpf/hashtab.c). All outlive the call.
        let result = unsafe { call(BPF_MAP_LOOKUP_BATCH, &raw mut batch) };
        let end = match result {
            Ok(_) => false,
            Err(error) if error.kind() == io::ErrorKind::NotFound => true,
            // A bucket with more entries than there is room for.
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {
                room *= 2;
                continue;
            }
            Err(error) => return Err(error),
        };
        let found = (batch.count as usize).min(room);
        for (key, value) in keys
            .chunks_exact(key_size)
            .zip(values.chunks_exact(value_size))
            .take(found)
        {
            visit(key, value);
        }
        if end {
            return Ok(());
        }
        position = Some(next);
    }
}

/// How many entries a map of any hashed kind, or a trie, has.
///
/// # Errors
/// Of the kernel.
pub fn count(map: BorrowedFd<'_>) -> io::Result<u32> {
    let shape = shape(map)?;
    let mut count = 0;
    if shape.is_plain_hash() {
        visit(map, |_key, _value| count += 1)?;
        return Ok(count);
    }
    let mut key = None;
    // A key that goes while it is asked for its successor begins the walk anew.
    while count < shape.max_entries {
        key = next_key(map, &shape, key.as_deref())?;
        if key.is_none() {
            break;
        }
        count += 1;
    }
    Ok(count)
}

/// The key after `key`, or the first one.
fn next_key(map: BorrowedFd<'_>, shape: &Shape, key: Option<&[u8]>) -> io::Result<Option<Vec<u8>>> {
    let mut next = vec![0_u8; shape.key_size as usize];
    let key = key.filter(|key| key.len() == next.len());
    let element = Element {
        map_fd: number(map)?,
        _pad: 0,
        key: key.map_or(0, |key| key.as_ptr() as u64),
        value: next.as_mut_ptr() as u64,
        flags: 0,
    };
    // SAFETY: both keys are as long as the kernel said this map's are, and outlive the call.
    match unsafe { call(BPF_MAP_GET_NEXT_KEY, &element) } {
        Ok(_) => Ok(Some(next)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The value of an entry of a map that [`Shape::holds_bytes`], if it has that entry.
///
/// # Errors
/// Of the kernel; `InvalidInput` for another map, or when the key is not as long as its.
pub fn value(map: BorrowedFd<'_>, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let shape = shape(map)?;
    if key.len() != shape.key_size as usize || !shape.holds_bytes() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    read(map, &shape, key)
}

/// The value of a key as long as the map's, in a map that [`Shape::holds_bytes`] or is a table of
/// programs.
fn read(map: BorrowedFd<'_>, shape: &Shape, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let mut value = vec![0_u8; shape.value_size as usize];
    let element = Element {
        map_fd: number(map)?,
        _pad: 0,
        key: key.as_ptr() as u64,
        value: value.as_mut_ptr() as u64,
        flags: 0,
    };
    // SAFETY: the callers see to the key's length and to the kind of map, whose values are as long
    // as the kernel said; both outlive the call.
    match unsafe { call(BPF_MAP_LOOKUP_ELEM, &element) } {
        Ok(_) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// What to do with an entry whose key is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    Replace = 0,
    /// `BPF_NOEXIST`.
    Keep = 1,
}

/// Writes an entry of a map that [`Shape::holds_bytes`]; returns whether it was written.
///
/// # Errors
/// Of the kernel; `InvalidInput` for another map, or when key or value are not as long as its.
pub fn write(
    map: BorrowedFd<'_>,
    key: &[u8],
    value: &[u8],
    existing: Existing,
) -> io::Result<bool> {
    let shape = shape(map)?;
    let fits = (key.len(), value.len()) == (shape.key_size as usize, shape.value_size as usize);
    if !fits || !shape.holds_bytes() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let element = Element {
        map_fd: number(map)?,
        _pad: 0,
        key: key.as_ptr() as u64,
        value: value.as_ptr() as u64,
        flags: existing as u64,
    };
    // SAFETY: key and value are as long as the kernel said this map's are, and outlive the call.
    match unsafe { call(BPF_MAP_UPDATE_ELEM, &element) } {
        Ok(_) => Ok(true),
        Err(error)
            if existing == Existing::Keep && error.kind() == io::ErrorKind::AlreadyExists =>
        {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Removes an entry of a map that [`Shape::holds_bytes`]; returns whether it was there.
///
/// # Errors
/// Of the kernel; `InvalidInput` for another map, or when the key is not as long as its.
pub fn remove(map: BorrowedFd<'_>, key: &[u8]) -> io::Result<bool> {
    let shape = shape(map)?;
    if key.len() != shape.key_size as usize || !shape.holds_bytes() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let element = Element {
        map_fd: number(map)?,
        _pad: 0,
        key: key.as_ptr() as u64,
        value: 0,
        flags: 0,
    };
    // SAFETY: the key is as long as the kernel said this map's are, and outlives the call.
    match unsafe { call(BPF_MAP_DELETE_ELEM, &element) } {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Writes entries of a hash table or an array, in place of those that are there: keys and values one
/// after the other. After an error some are written.
///
/// # Errors
/// Of the kernel; `InvalidInput` for another map, or when there are not as many values as keys.
pub fn write_all(map: BorrowedFd<'_>, keys: &[u8], values: &[u8]) -> io::Result<()> {
    let shape = shape(map)?;
    let count = entries(&shape, keys)?;
    if values.len() != count * shape.value_size as usize {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    if count == 0 {
        return Ok(());
    }
    let mut batch = batch(map, keys, values, count)?;
    // SAFETY: keys and values are as many, and as long, as the kernel said this map's are, and outlive
    // the call; it writes back `count`, which nothing else refers to.
    unsafe { call(BPF_MAP_UPDATE_BATCH, &raw mut batch) }.map(drop)
}

/// Removes entries of a hash table, by their keys one after the other; those that are not there do not
/// matter.
///
/// # Errors
/// Of the kernel; `InvalidInput` for another map, or when a key is not as long as its.
pub fn remove_all(map: BorrowedFd<'_>, keys: &[u8]) -> io::Result<()> {
    let shape = shape(map)?;
    let mut left = entries(&shape, keys)?;
    while left > 0 {
        let rest = &keys[keys.len() - left * shape.key_size as usize..];
        let mut batch = batch(map, rest, &[], left)?;
        // SAFETY: as in `write_all`; no values are read.
        match unsafe { call(BPF_MAP_DELETE_BATCH, &raw mut batch) } {
            Ok(_) => return Ok(()),
            // It stops at the first that is not there (`generic_map_delete_batch`).
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                left = left.saturating_sub(batch.count as usize + 1);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// How many keys these are.
fn entries(shape: &Shape, keys: &[u8]) -> io::Result<usize> {
    let size = shape.key_size as usize;
    if !(shape.is_plain_hash() || shape.is_array()) || !keys.len().is_multiple_of(size) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok(keys.len() / size)
}

fn batch(map: BorrowedFd<'_>, keys: &[u8], values: &[u8], count: usize) -> io::Result<Batch> {
    Ok(Batch {
        in_batch: 0,
        out_batch: 0,
        keys: keys.as_ptr() as u64,
        values: values.as_ptr() as u64,
        count: u32::try_from(count).map_err(io::Error::other)?,
        map_fd: number(map)?,
        elem_flags: 0,
        flags: 0,
    })
}

/// The program in a slot of a tail-call table.
///
/// # Errors
/// Of the kernel; `Unsupported` for another kind of map.
pub fn program(table: BorrowedFd<'_>, slot: u32) -> io::Result<Option<OwnedFd>> {
    let shape = program_table(table)?;
    // A table of programs tells their numbers (`prog_fd_array_sys_lookup_elem`).
    let Some(id) = read(table, &shape, &slot.to_ne_bytes())? else {
        return Ok(None);
    };
    let id = u32::from_ne_bytes(
        id.try_into()
            .map_err(|_longer| io::ErrorKind::InvalidData)?,
    );
    // SAFETY: the attributes are the program's number, and hold no address.
    let program = unsafe { call(BPF_PROG_GET_FD_BY_ID, &raw const id) }?;
    let program = libc::c_int::try_from(program).map_err(io::Error::other)?;
    // SAFETY: the call returns a new descriptor, which nobody else owns.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(program) }))
}

/// Makes `program` the one in a slot of a tail-call table, in the place of another.
///
/// # Errors
/// Of the kernel, which refuses a program of another type; `Unsupported` for another kind of map.
pub fn set_program(table: BorrowedFd<'_>, slot: u32, program: BorrowedFd<'_>) -> io::Result<()> {
    program_table(table)?;
    let descriptor = program.as_raw_fd();
    let element = Element {
        map_fd: number(table)?,
        _pad: 0,
        key: (&raw const slot) as u64,
        value: (&raw const descriptor) as u64,
        flags: 0,
    };
    // SAFETY: key and value are of four bytes, as those of every table of programs, and outlive the
    // call.
    unsafe { call(BPF_MAP_UPDATE_ELEM, &element) }.map(drop)
}

/// Empties a slot of a tail-call table.
///
/// # Errors
/// Of the kernel; `Unsupported` for another kind of map.
pub fn clear_program(table: BorrowedFd<'_>, slot: u32) -> io::Result<()> {
    program_table(table)?;
    let element = Element {
        map_fd: number(table)?,
        _pad: 0,
        key: (&raw const slot) as u64,
        value: 0,
        flags: 0,
    };
    // SAFETY: as in `set_program`.
    match unsafe { call(BPF_MAP_DELETE_ELEM, &element) } {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn program_table(table: BorrowedFd<'_>) -> io::Result<Shape> {
    let shape = shape(table)?;
    if shape.kind != BPF_MAP_TYPE_PROG_ARRAY {
        return Err(io::ErrorKind::Unsupported.into());
    }
    Ok(shape)
}
