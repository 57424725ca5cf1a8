//! Replacing the programs and maps of another version, or of other sizes, under running traffic.
//!
//! The maps of an instance are pinned in a directory that bears the version of their layout. A
//! daemon that finds an older directory, or maps of another size in its own, makes a new one beside
//! it. No packet meets half of it:
//!
//! 1. Maps of the same layout are shared. Of the others, entries are copied.
//! 2. Nothing that is attached is touched: the slots through which the attached stubs call lead to
//!    the new stubs, one write each. The new programs know most flows already; packets of one that
//!    they do not know go on to the old programs, which are kept in a table of their own.
//! 3. What the old programs began meanwhile is copied. New flows begin in the new tables from now
//!    on, so that a last copy after a grace period has all the rest.
//! 4. The old programs are forgotten, and with them the old maps.
//!
//! The older directory is there until the end. A daemon that dies in between leaves both; the next
//! one does all of it again, and flows that are in the new tables stay as they are there.
//!
//! The old tail-call tables stay, because the stubs that call through them stay attached: an upgrade
//! leads those of all earlier ones over. They hold nothing but the new stubs.

mod flows;
mod plan;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use abi::map::{
    DATA, FrontSlot, JUMP_FRONT, JUMP_STEPS, JUMP_TC, PREVIOUS, PreviousSlot, SOCKET_HOOKS,
    StepSlot, TcSlot,
};
use aya::Ebpf;
use aya::programs::{CgroupSockAddr, ProgramError, SchedClassifier, Xdp};
use sys::bpf::map::Existing;

use super::error::BpfError;
use super::object::{self, Sizes};
use super::pin::{self, Directory};
use plan::{Conversion, Fate, TABLE_PREFIX};

/// How the layout of each version became that of the next: none did yet. Whoever raises
/// [`abi::SCHEMA`] enters the maps whose layout or meaning changed.
const CONVERSIONS: [(u32, &str, Conversion); 0] = [];

/// Beside its own, the name under which a directory's maps wait to be replaced.
const BEFORE: &str = "_before";
/// Pins of the tail-call tables of earlier versions.
const OLDER: &str = "older";

/// What another version, or the same with other sizes, has left.
pub(super) struct Older {
    pins: Directory,
    path: PathBuf,
    target: PathBuf,
    /// Whether nothing was there under the new name.
    is_fresh: bool,
    fates: BTreeMap<String, Fate>,
}

impl Older {
    /// Looks for something to replace below `target`'s parent.
    pub(super) fn find(target: &Path, sizes: &Sizes) -> Result<Option<Self>, BpfError> {
        let wanted = object::shapes(sizes)?;
        let Some((mut path, schema)) = older(target, &wanted)? else {
            return Ok(None);
        };
        let Some(mut pins) = Directory::find(&path)? else {
            return Ok(None);
        };
        let conversions = CONVERSIONS
            .iter()
            .filter(|(since, ..)| *since > schema)
            .map(|(_, name, conversion)| (*name, *conversion))
            .collect();
        let fates = plan::plan(&shapes(&pins)?, &wanted, &conversions).map_err(|misfit| {
            BpfError::Misfit {
                path: path.clone(),
                map: misfit.map,
            }
        })?;
        if path == target {
            path = before(target);
            fs::rename(target, &path).map_err(pin::failed("rename", target))?;
            pins = Directory::create(&path)?;
        }
        tracing::info!(from = %path.display(), to = %target.display(), ?fates, "upgrading the data plane");
        let older = Self {
            pins,
            path,
            target: target.to_owned(),
            is_fresh: !target.exists(),
            fates,
        };
        Ok(Some(older))
    }

    /// Makes the new directory, with the maps that both use.
    pub(super) fn share(&self) -> Result<(), BpfError> {
        let target = Directory::create(&self.target)?;
        for (name, fate) in &self.fates {
            let path = target.path(name);
            if matches!(fate, Fate::Share) && !path.exists() {
                fs::hard_link(self.pins.path(name), &path)
                    .map_err(pin::failed("share the map pinned at", &path))?;
            }
        }
        Ok(())
    }

    /// Takes back what was done before [`Self::lead_over`]. What an interrupted upgrade left stays.
    pub(super) fn abandon(self) -> Result<(), BpfError> {
        if !self.is_fresh {
            return Ok(());
        }
        if let Some(target) = Directory::find(&self.target)? {
            target.remove()?;
        }
        if self.path == before(&self.target) {
            fs::rename(&self.path, &self.target).map_err(pin::failed("rename", &self.path))?;
        }
        Ok(())
    }

    /// Copies what only daemons write, and most of what the programs write. The old programs become
    /// those that know the rest.
    pub(super) fn copy(&self) -> Result<(), BpfError> {
        for (name, fate) in &self.fates {
            let existing = if flows::is_table(name) {
                Existing::Keep
            } else {
                Existing::Replace
            };
            self.copy_map(name, *fate, existing)?;
        }
        let previous = self.open_new(PREVIOUS)?;
        let table = self.open_old(JUMP_TC)?;
        for (slot, from) in [
            (PreviousSlot::Ingress, TcSlot::Ingress),
            (PreviousSlot::Egress, TcSlot::Egress),
        ] {
            let failed = |source| failed(PREVIOUS)(source);
            // One that is there is of an upgrade that was interrupted: that slot of the old table
            // leads to the new programs already.
            let is_kept = sys::bpf::map::program(previous.as_fd(), slot as u32).map_err(failed)?;
            if is_kept.is_some() {
                continue;
            }
            let program = sys::bpf::map::program(table.as_fd(), from as u32).map_err(failed)?;
            if let Some(program) = program {
                sys::bpf::map::set_program(previous.as_fd(), slot as u32, program.as_fd())
                    .map_err(failed)?;
            }
        }
        Ok(())
    }

    /// From here on the new programs see every packet and every call.
    pub(super) fn lead_over(&self, object: &mut Ebpf) -> Result<(), BpfError> {
        for (pins, name) in self.tables()? {
            let kind = name
                .find(TABLE_PREFIX)
                .map_or(name.as_str(), |start| &name[start..]);
            for (slot, stub) in stubs(kind) {
                let program = load_stub(object, &stub)?;
                let table = open(&pins, &name)?;
                sys::bpf::map::set_program(table.as_fd(), slot, program.as_fd())
                    .map_err(failed_owned(&name))?;
            }
        }
        self.move_links()
    }

    /// Copies the rest and forgets the old programs and maps.
    pub(super) fn finish(self) -> Result<(), BpfError> {
        let previous = self.open_new(PREVIOUS)?;
        let forget = |slot: PreviousSlot| {
            sys::bpf::map::clear_program(previous.as_fd(), slot as u32).map_err(failed(PREVIOUS))
        };
        self.copy_flows()?;
        forget(PreviousSlot::Ingress)?;
        sys::bpf::wait_for_programs().map_err(failed(PREVIOUS))?;
        self.copy_flows()?;
        forget(PreviousSlot::Egress)?;
        self.keep_tables()?;
        self.pins.remove()?;
        tracing::info!("the data plane is upgraded");
        Ok(())
    }

    fn copy_flows(&self) -> Result<(), BpfError> {
        for (name, fate) in &self.fates {
            if flows::is_table(name) {
                self.copy_map(name, *fate, Existing::Keep)?;
            }
        }
        Ok(())
    }

    fn copy_map(&self, name: &str, fate: Fate, existing: Existing) -> Result<(), BpfError> {
        let convert: Conversion = match fate {
            Fate::Copy => |key, value| Some((key.to_vec(), value.to_vec())),
            Fate::Convert(convert) => convert,
            Fate::Share | Fate::Anew | Fate::LeadOver => return Ok(()),
        };
        let (from, to) = (self.open_old(name)?, self.open_new(name)?);
        let failed = failed_owned(name);
        let is_array = sys::bpf::map::shape(to.as_fd())
            .map_err(&failed)?
            .is_array();
        let mut entries = Vec::new();
        sys::bpf::map::visit(from.as_fd(), |key, value| {
            // An array may become shorter by what was never used.
            if !is_array || value.iter().any(|byte| *byte != 0) {
                entries.extend(convert(key, value));
            }
        })
        .and_then(|()| flows::write(to.as_fd(), &entries, existing))
        .map_err(failed)
    }

    /// The links go on under the new directory.
    fn move_links(&self) -> Result<(), BpfError> {
        for name in self.pins.names()? {
            let kinds = ["hook_", "uplink_", "tunnel_", "front_"];
            if kinds.iter().any(|kind| name.starts_with(kind)) {
                self.move_pin(&name, &name)?;
            }
        }
        Ok(())
    }

    /// The tail-call tables through which attached stubs call: those that are to be replaced, and
    /// those of earlier upgrades.
    fn tables(&self) -> Result<Vec<(Directory, String)>, BpfError> {
        let mut tables = Vec::new();
        for name in self.pins.names()? {
            let is_own = matches!(self.fates.get(&name), Some(Fate::LeadOver));
            if is_own || name.starts_with(OLDER) {
                tables.push((self.pins.clone(), name));
            }
        }
        if let Some(target) = Directory::find(&self.target)? {
            let names = target.names()?.into_iter();
            let older = names.filter(|name| name.starts_with(OLDER));
            tables.extend(older.map(|name| (target.clone(), name)));
        }
        Ok(tables)
    }

    /// A table without a pin would be emptied by the kernel (`bpf_fd_array_map_clear`), and the
    /// stubs that call through it would lead nowhere.
    fn keep_tables(&self) -> Result<(), BpfError> {
        let target = Directory::create(&self.target)?;
        let mut taken = target.names()?;
        taken.extend(self.pins.names()?);
        let number = (1..)
            .find(|number| {
                let prefix = format!("{OLDER}{number}_");
                !taken.iter().any(|name| name.starts_with(&prefix))
            })
            .unwrap_or(1);
        for name in self.pins.names()? {
            if name.starts_with(OLDER) {
                self.move_pin(&name, &name)?;
            } else if matches!(self.fates.get(&name), Some(Fate::LeadOver)) {
                self.empty(&name)?;
                self.move_pin(&name, &format!("{OLDER}{number}_{name}"))?;
            }
        }
        Ok(())
    }

    /// Lets go of what the old programs called each other by.
    fn empty(&self, table: &str) -> Result<(), BpfError> {
        let map = self.open_old(table)?;
        let failed = failed_owned(table);
        let slots = sys::bpf::map::shape(map.as_fd())
            .map_err(&failed)?
            .max_entries;
        let kept: Vec<u32> = stubs(table).into_iter().map(|(slot, _)| slot).collect();
        for slot in (0..slots).filter(|slot| !kept.contains(slot)) {
            sys::bpf::map::clear_program(map.as_fd(), slot).map_err(&failed)?;
        }
        Ok(())
    }

    fn move_pin(&self, from: &str, to: &str) -> Result<(), BpfError> {
        let path = self.pins.path(from);
        fs::rename(&path, self.target.join(to)).map_err(pin::failed("move the pin", &path))
    }

    fn open_old(&self, name: &str) -> Result<OwnedFd, BpfError> {
        open(&self.pins, name)
    }

    fn open_new(&self, name: &str) -> Result<OwnedFd, BpfError> {
        open(&Directory::create(&self.target)?, name)
    }
}

/// Removes what an upgrade that was interrupted left beside `target`, and older directories.
pub(super) fn beside(target: &Path) -> Result<Vec<PathBuf>, BpfError> {
    let mut found: Vec<PathBuf> = siblings(target)?
        .into_iter()
        .map(|(_schema, path)| path)
        .collect();
    found.push(before(target));
    Ok(found)
}

/// The directory to replace, and the version of its layout. It may be `target` itself.
fn older(
    target: &Path,
    wanted: &BTreeMap<String, sys::bpf::map::Shape>,
) -> Result<Option<(PathBuf, u32)>, BpfError> {
    let siblings = siblings(target)?;
    if let Some((schema, path)) = siblings.last()
        && *schema > abi::SCHEMA
    {
        return Err(BpfError::Newer { path: path.clone() });
    }
    let before = before(target);
    if before.exists() {
        return Ok(Some((before, abi::SCHEMA)));
    }
    if let Some((schema, path)) = siblings.last() {
        return Ok(Some((path.clone(), *schema)));
    }
    let Some(own) = Directory::find(target)? else {
        return Ok(None);
    };
    let differs = plan::differs(&shapes(&own)?, wanted);
    Ok(differs.then(|| (target.to_owned(), abi::SCHEMA)))
}

fn before(target: &Path) -> PathBuf {
    let mut name = target.as_os_str().to_owned();
    name.push(BEFORE);
    PathBuf::from(name)
}

/// The directories of other versions, ascending.
fn siblings(target: &Path) -> Result<Vec<(u32, PathBuf)>, BpfError> {
    let Some(parent) = target.parent() else {
        return Ok(Vec::new());
    };
    let entries = match fs::read_dir(parent) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(pin::failed("list", parent)(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(pin::failed("list", parent))?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let version = name.and_then(|name| name.strip_prefix('v')?.parse().ok());
        found.extend(version.filter(|_| path != target).map(|v| (v, path)));
    }
    found.sort();
    Ok(found)
}

/// Those of the maps that are pinned under names of ours.
fn shapes(pins: &Directory) -> Result<BTreeMap<String, sys::bpf::map::Shape>, BpfError> {
    let mut shapes = BTreeMap::new();
    for name in pins.names()? {
        if DATA.contains(&name.as_str()) || name.starts_with(TABLE_PREFIX) {
            let map = open(pins, &name)?;
            let shape = sys::bpf::map::shape(map.as_fd()).map_err(failed_owned(&name))?;
            shapes.insert(name, shape);
        }
    }
    Ok(shapes)
}

/// The slots of a tail-call table that attached stubs call through, and the stubs. These numbers
/// are for ever.
fn stubs(table: &str) -> Vec<(u32, String)> {
    if table == JUMP_TC {
        return vec![
            (TcSlot::Ingress as u32, "ingress_entry".to_owned()),
            (TcSlot::Egress as u32, "egress_entry".to_owned()),
            (TcSlot::Endpoint as u32, "endpoint_entry".to_owned()),
        ];
    }
    if table == JUMP_STEPS {
        return vec![
            (StepSlot::Reply as u32, "endpoint_exit".to_owned()),
            (StepSlot::Arrive as u32, "tunnel_entry".to_owned()),
        ];
    }
    if table == JUMP_FRONT {
        return vec![(FrontSlot::Front as u32, "front_entry".to_owned())];
    }
    let hook = table.strip_prefix(TABLE_PREFIX);
    let hook = hook.filter(|hook| SOCKET_HOOKS.contains(hook));
    hook.map(|hook| (0, format!("{hook}_entry")))
        .into_iter()
        .collect()
}

fn load_stub(object: &mut Ebpf, name: &str) -> Result<OwnedFd, BpfError> {
    let is_hook = SOCKET_HOOKS
        .iter()
        .any(|hook| name == format!("{hook}_entry"));
    let duplicated = |fd: Result<&aya::programs::ProgramFd, ProgramError>| {
        fd.map_err(BpfError::load(name))?
            .as_fd()
            .try_clone_to_owned()
            .map_err(|error| BpfError::load(name)(ProgramError::IOError(error)))
    };
    if is_hook {
        let stub: &mut CgroupSockAddr = object::program(object, name)?;
        object::loaded(stub.load()).map_err(BpfError::load(name))?;
        duplicated(stub.fd())
    } else if name == "front_entry" {
        let stub: &mut Xdp = object::program(object, name)?;
        object::loaded(stub.load()).map_err(BpfError::load(name))?;
        duplicated(stub.fd())
    } else {
        let stub: &mut SchedClassifier = object::program(object, name)?;
        object::loaded(stub.load()).map_err(BpfError::load(name))?;
        duplicated(stub.fd())
    }
}

fn open(pins: &Directory, name: &str) -> Result<OwnedFd, BpfError> {
    let path = pins.path(name);
    sys::bpf::open(&path).map_err(pin::failed("open the map pinned at", &path))
}

fn failed(map: &'static str) -> impl Fn(io::Error) -> BpfError {
    failed_owned(map)
}

fn failed_owned(map: &str) -> impl Fn(io::Error) -> BpfError {
    let map = map.to_owned();
    move |source| BpfError::Upgrade {
        map: map.clone(),
        source,
    }
}
