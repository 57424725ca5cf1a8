//! Looks after a pool while it is used: tells when it fills up, and gives it more of its volume group
//! when that has some. The kernel says when to look; a slow clock does too.

use std::io;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Weak};
use std::time::Duration;

use sys::device_mapper::{DeviceMapper, Target};

use super::setup::{DATA, GROUP, Lvm, METADATA, SetupError, lvm_node};
use crate::model::thin::{self, Extension, Mode, PoolTable, SECTOR, Status};

const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// Of data or metadata, from which on the log says so.
const WORTH_A_WARNING: u64 = 70;

#[derive(Debug)]
pub(super) struct Monitor {
    pub(super) mapper: DeviceMapper,
    pub(super) name: String,
    /// Nothing can be given to a pool without.
    pub(super) extension: Option<Extension>,
    pub(super) warned: bool,
}

impl Monitor {
    /// Looks until the pool is used no more.
    pub(super) fn start(mut self, user: &Arc<()>) -> io::Result<()> {
        let user = Arc::downgrade(user);
        let thread = std::thread::Builder::new().name("thin-pool".to_owned());
        thread.spawn(move || self.run(&user)).map(drop)
    }

    fn run(&mut self, user: &Weak<()>) {
        while user.strong_count() > 0 {
            if let Err(error) = self.look() {
                tracing::warn!(pool = self.name, %error, "cannot look after the pool");
            }
            if let Err(error) = self.mapper.wait(LOOK_AGAIN) {
                tracing::warn!(pool = self.name, %error, "the kernel tells nothing of the pool");
                std::thread::sleep(LOOK_AGAIN);
            }
        }
    }

    fn look(&mut self) -> Result<(), SetupError> {
        let Some(status) = self.status()? else {
            return Ok(());
        };
        self.warn(&status);
        let Some(extension) = self.extension.clone() else {
            return Ok(());
        };
        let lvm = Lvm::default();
        let present = self.present()?;
        let mut changed = false;
        for (volume, room, bytes) in [
            (METADATA, status.metadata, thin::METADATA_BLOCK),
            (DATA, status.data, present.1.block),
        ] {
            let free = lvm.free()?;
            let Some(more) = extension.more(room.times(bytes), free, lvm.extent()?) else {
                continue;
            };
            tracing::info!(
                pool = self.name,
                volume,
                bytes = more,
                "the pool gets more room"
            );
            let size = format!("+{more}b");
            lvm.run("lvextend", &["-L", &size, &format!("{GROUP}/{volume}")])?;
            changed = true;
        }
        let may_wait = extension.may_wait(lvm.free()?);
        let wanted = self.wanted(&present.1, &extension, may_wait)?;
        if changed || present.0.length < wanted.length || present.2 != may_wait {
            super::setup::reload(&self.mapper, &self.name, wanted)
                .map_err(super::setup::failed("extend", Path::new(&self.name)))?;
        }
        Ok(())
    }

    /// The table that the pool works by, and whether its writers wait when it is full.
    fn present(&self) -> Result<(Target, PoolTable, bool), SetupError> {
        let failed = super::setup::failed("ask", Path::new(&self.name));
        let target = self.mapper.table(&self.name).map_err(&failed)?;
        let target = target.into_iter().next();
        let target = target.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
        let table = thin::parse_table(&target.parameters);
        let table = table.ok_or_else(|| failed(io::ErrorKind::InvalidData.into()))?;
        let waits = !target.parameters.contains("error_if_no_space");
        Ok((target, table, waits))
    }

    fn wanted(
        &self,
        table: &PoolTable,
        extension: &Extension,
        may_wait: bool,
    ) -> Result<Target, SetupError> {
        let node = lvm_node(&self.mapper, DATA)?;
        let bytes = super::setup::block_device(&node)?.bytes;
        let low_water = extension.low_water(bytes / table.block.max(1));
        Ok(Target {
            start: 0,
            length: bytes / SECTOR,
            kind: "thin-pool".to_owned(),
            parameters: thin::pool_parameters(table, low_water, may_wait),
        })
    }

    fn status(&self) -> Result<Option<Status>, SetupError> {
        let failed = super::setup::failed("ask", Path::new(&self.name));
        let Some(_) = self.mapper.info(&self.name).map_err(&failed)? else {
            return Ok(None);
        };
        let targets = self.mapper.status(&self.name).map_err(&failed)?;
        let line = targets.first();
        Ok(line.and_then(|target| thin::parse_status(&target.parameters)))
    }

    fn warn(&mut self, status: &Status) {
        let is_filling = [status.data, status.metadata]
            .iter()
            .any(|room| room.is_below(100 - WORTH_A_WARNING));
        let is_bad = status.mode != Mode::Writable || status.needs_check;
        let warn = is_filling || is_bad;
        if warn && !self.warned {
            let percent = |room: thin::Room| room.used.saturating_mul(100) / room.total.max(1);
            tracing::warn!(
                pool = self.name,
                data = percent(status.data),
                metadata = percent(status.metadata),
                mode = status.mode.name(),
                "the pool fills up: remove containers and images, or give it more room"
            );
        }
        self.warned = warn;
    }
}

impl Lvm {
    /// Bytes of the volume group that are in no volume.
    fn free(&self) -> Result<u64, SetupError> {
        self.number("vg_free")
    }

    fn extent(&self) -> Result<u64, SetupError> {
        self.number("vg_extent_size")
    }

    fn number(&self, column: &str) -> Result<u64, SetupError> {
        let mut command: Command = Self::command("vgs");
        command.args(["--noheadings", "--nosuffix", "--units", "b", "--options"]);
        command.args([column, GROUP]);
        let text = super::setup::output("vgs", "lvm2", &mut command)?;
        let number = text.trim().parse();
        number.map_err(|_none| {
            super::setup::failed("read what vgs says of", Path::new(GROUP))(
                io::ErrorKind::InvalidData.into(),
            )
        })
    }
}
