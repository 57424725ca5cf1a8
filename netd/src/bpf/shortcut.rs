//! Which packets of published ports go past the host's stack.
//!
//! The mode stays when the daemon goes, and so does what it lets through: flows open and close their
//! shortcuts by themselves.

use abi::shortcut::{Mode, SHORTCUTS, Shortcuts};
use aya::Ebpf;
use aya::maps::{Array, MapData};

use super::error::BpfError;
use super::object;
use super::{Change, DataPlane};

impl DataPlane {
    /// How packets of published ports go, read from the kernel.
    ///
    /// # Errors
    /// [`BpfError::Map`].
    pub fn mode(&self) -> Result<Mode, BpfError> {
        self.lock().shortcuts.mode()
    }

    /// Lets packets of published ports go another way, those of connections in progress as well.
    ///
    /// # Errors
    /// [`BpfError::Map`].
    pub fn set_mode(&self, mode: Mode) -> Result<Change, BpfError> {
        self.lock().shortcuts.set_mode(mode)
    }

    /// Closes all shortcuts of hybrid mode, until the host's packet filter has seen the connections
    /// again.
    ///
    /// # Errors
    /// [`BpfError::Map`].
    pub fn renew_shortcuts(&self) -> Result<(), BpfError> {
        self.lock().shortcuts.renew()
    }
}

pub(super) struct Paths {
    map: Array<MapData, Shortcuts>,
}

impl Paths {
    pub(super) fn open(object: &mut Ebpf) -> Result<Self, BpfError> {
        Ok(Self {
            map: object::take(object, SHORTCUTS)?,
        })
    }

    pub(super) fn mode(&self) -> Result<Mode, BpfError> {
        Ok(Mode::from_raw(self.read()?.mode))
    }

    pub(super) fn set_mode(&mut self, mode: Mode) -> Result<Change, BpfError> {
        let before = self.read()?;
        if before.mode == mode as u32 {
            return Ok(Change::Unchanged);
        }
        self.write(Shortcuts {
            mode: mode as u32,
            ..before
        })?;
        Ok(Change::Changed)
    }

    /// Ends the epoch.
    pub(super) fn renew(&mut self) -> Result<(), BpfError> {
        let before = self.read()?;
        self.write(Shortcuts {
            epoch: before.epoch.wrapping_add(1),
            ..before
        })
    }

    fn read(&self) -> Result<Shortcuts, BpfError> {
        self.map.get(&0, 0).map_err(BpfError::map(SHORTCUTS))
    }

    fn write(&mut self, shortcuts: Shortcuts) -> Result<(), BpfError> {
        let written = self.map.set(0, shortcuts, 0);
        written.map_err(BpfError::map(SHORTCUTS))
    }
}
