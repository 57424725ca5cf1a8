//! The embedded object: its maps, created or adopted from pins, and its programs.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, PoisonError};
use std::thread;

use abi::map::{
    DATA, FRONT_PROGRAMS, JUMP_FRONT, JUMP_STEPS, JUMP_TC, PREVIOUS, SOCKET_HOOKS, STEP_PROGRAMS,
    TC_PROGRAMS,
};
use aya::maps::{Map, MapError, ProgramArray};
use aya::programs::{CgroupSockAddr, Program, ProgramError, ProgramFd, SchedClassifier, Xdp};
use aya::{Ebpf, EbpfLoader};
use aya_obj::generated::{BPF_F_RDONLY_PROG, bpf_map_type};
use sys::bpf::map::Shape;

use super::error::BpfError;
use super::pin::Directory;

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/programs.o"));

/// How many programs are verified at a time: each may take the kernel some megabytes.
const VERIFIERS: usize = 4;

/// How many entries some maps have instead of the number they were built with, by name.
pub(super) type Sizes = BTreeMap<&'static str, u32>;

/// What the maps of the object are like.
pub(super) fn shapes(sizes: &Sizes) -> Result<BTreeMap<String, Shape>, BpfError> {
    if OBJECT.is_empty() {
        return Err(BpfError::NoObject);
    }
    let object = aya_obj::Object::parse(OBJECT).map_err(|source| BpfError::Object {
        source: Box::new(aya::EbpfError::ParseError(source)),
    })?;
    let shape = |(name, map): (String, aya_obj::Map)| {
        let size = sizes.get(name.as_str()).copied();
        let shape = Shape {
            kind: map.map_type(),
            key_size: map.key_size(),
            value_size: map.value_size(),
            max_entries: size.unwrap_or(map.max_entries()),
            flags: map.map_flags() | added_flags(map.map_type()),
        };
        (name, shape)
    };
    Ok(object.maps.into_iter().map(shape).collect())
}

/// What the kernel adds to the flags that a map is made with (`dev_map_init_map`, kernel/bpf/devmap.c).
fn added_flags(kind: u32) -> u32 {
    if kind == bpf_map_type::BPF_MAP_TYPE_DEVMAP_HASH as u32 {
        BPF_F_RDONLY_PROG
    } else {
        0
    }
}

/// Creates the maps that are not pinned yet and opens the others. Loads no program.
pub(super) fn load(pins: &Directory, sizes: &Sizes) -> Result<Ebpf, BpfError> {
    if OBJECT.is_empty() {
        return Err(BpfError::NoObject);
    }
    let tables: Vec<String> = SOCKET_HOOKS
        .iter()
        .map(|hook| format!("jump_{hook}"))
        .collect();
    let mut loader = EbpfLoader::new();
    // The programs use no kernel structures, so the kernel's 5 MB of type information stay unread.
    loader.btf(None);
    for name in DATA
        .iter()
        .chain([&JUMP_TC, &JUMP_STEPS, &JUMP_FRONT, &PREVIOUS])
    {
        loader.map_pin_path(name, pins.path(name));
    }
    for (name, size) in sizes {
        loader.map_max_entries(name, *size);
    }
    for name in &tables {
        loader.map_pin_path(name, pins.path(name));
    }
    loader.load(OBJECT).map_err(|source| BpfError::Object {
        source: Box::new(source),
    })
}

/// Takes a map out of the object as the type the caller expects.
pub(super) fn take<T>(object: &mut Ebpf, name: &str) -> Result<T, BpfError>
where
    T: TryFrom<Map, Error = MapError>,
{
    let map = object.take_map(name).ok_or_else(|| BpfError::Missing {
        name: name.to_owned(),
    })?;
    T::try_from(map).map_err(|source| BpfError::Map {
        name: name.to_owned(),
        source: Box::new(source),
    })
}

/// Has the kernel verify the programs that are to be current, several at a time: most of what opening a
/// data plane takes. What it refuses is refused again where it is installed, and told there.
pub(super) fn verify(object: &mut Ebpf) {
    let front = FRONT_PROGRAMS.map(|(_, name)| name);
    let steps = STEP_PROGRAMS.map(|(_, name)| name);
    let tc = TC_PROGRAMS.map(|(_, name)| name);
    let is_installed = |name: &str| {
        let all = [&front[..], &steps, &tc, &SOCKET_HOOKS];
        all.iter().any(|names| names.contains(&name))
    };
    let programs = object.programs_mut().filter(|(name, _)| is_installed(name));
    let programs = Mutex::new(programs);
    let next = || {
        let mut programs = programs.lock().unwrap_or_else(PoisonError::into_inner);
        programs.next().map(|(_, program)| program)
    };
    let processors = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..processors.min(VERIFIERS) {
            scope.spawn(|| {
                while let Some(program) = next() {
                    drop(match program {
                        Program::SchedClassifier(program) => program.load(),
                        Program::Xdp(program) => program.load(),
                        Program::CgroupSockAddr(program) => program.load(),
                        _ => continue,
                    });
                }
            });
        }
    });
}

/// Loads the tc programs and makes them the current ones.
pub(super) fn install_tc(object: &mut Ebpf) -> Result<(), BpfError> {
    let steps = STEP_PROGRAMS.map(|(slot, name)| (JUMP_STEPS, slot as u32, name));
    let tc = TC_PROGRAMS.map(|(slot, name)| (JUMP_TC, slot as u32, name));
    for (table, slot, name) in steps.into_iter().chain(tc) {
        let program: &mut SchedClassifier = program(object, name)?;
        loaded(program.load()).map_err(BpfError::load(name))?;
        let fd = program.fd().map_err(BpfError::load(name))?;
        let fd = fd.try_clone().map_err(program_io(name))?;
        set_slot(object, table, slot, &fd)?;
    }
    Ok(())
}

/// The same for those of XDP.
pub(super) fn install_front(object: &mut Ebpf) -> Result<(), BpfError> {
    for (slot, name) in FRONT_PROGRAMS {
        let program: &mut Xdp = program(object, name)?;
        loaded(program.load()).map_err(BpfError::load(name))?;
        let fd = program.fd().map_err(BpfError::load(name))?;
        let fd = fd.try_clone().map_err(program_io(name))?;
        set_slot(object, JUMP_FRONT, slot as u32, &fd)?;
    }
    Ok(())
}

/// Loads the program of a socket hook, or the one for older kernels, and makes it the current one.
pub(super) fn install_socket_hook(object: &mut Ebpf, hook: &str) -> Result<(), BpfError> {
    let older = format!("{hook}_older");
    let newest = load_socket_program(object, hook);
    let fd = if newest.is_err() && object.program(&older).is_some() {
        load_socket_program(object, &older)?
    } else {
        newest?
    };
    set_slot(object, &format!("jump_{hook}"), 0, &fd)
}

fn load_socket_program(object: &mut Ebpf, name: &str) -> Result<ProgramFd, BpfError> {
    let program: &mut CgroupSockAddr = program(object, name)?;
    loaded(program.load()).map_err(BpfError::load(name))?;
    let fd = program.fd().map_err(BpfError::load(name))?;
    fd.try_clone().map_err(program_io(name))
}

/// The table stays in the object: stubs that are loaded later refer to its descriptor.
fn set_slot(
    object: &mut Ebpf,
    table: &str,
    slot: u32,
    program: &ProgramFd,
) -> Result<(), BpfError> {
    let map = object.map_mut(table).ok_or_else(|| BpfError::Missing {
        name: table.to_owned(),
    })?;
    ProgramArray::try_from(map)
        .and_then(|mut table| table.set(slot, program, 0))
        .map_err(|source| BpfError::Map {
            name: table.to_owned(),
            source: Box::new(source),
        })
}

/// A program is loaded once, by whoever needs it first.
pub(super) fn loaded(result: Result<(), ProgramError>) -> Result<(), ProgramError> {
    match result {
        Err(ProgramError::AlreadyLoaded) => Ok(()),
        result => result,
    }
}

fn program_io(name: &str) -> impl Fn(io::Error) -> BpfError {
    move |source| BpfError::load(name)(ProgramError::IOError(source))
}

pub(super) fn program<'a, P>(object: &'a mut Ebpf, name: &str) -> Result<&'a mut P, BpfError>
where
    &'a mut P: TryFrom<&'a mut Program, Error = ProgramError>,
{
    object
        .program_mut(name)
        .ok_or_else(|| BpfError::Missing {
            name: name.to_owned(),
        })?
        .try_into()
        .map_err(BpfError::load(name))
}
