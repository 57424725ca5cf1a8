//! Root filesystems that are mounted in no place of the host: handed over by descriptor, and known
//! again after a restart.
//!
//! The one who is given such a mount puts it where it likes, a namespace that nobody else sees. So the
//! host's mount table says nothing about it. A row says who was given it; while that process lives,
//! the writable layer is in use, until it says that it is done. Afterwards the kernel is asked whether
//! any process still sees the mount: two overlays must never have one upper directory, about which the
//! kernel promises nothing (`Documentation/filesystems/overlayfs.rst`, "Sharing and copying layers").

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use api::storage::RootfsMount;
use rustix::cmsg_space;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType, connect, sendmsg, socket_with,
};
use sys::elsewhere::Elsewhere;

use crate::disk::StepError;
use crate::model::record::{RootfsRow, Taker};
use crate::owners::owners;
use crate::rootfs::RootfsError;
use crate::{Storaged, tree};

/// How long the last mount of a container may take to go when its processes have ended.
pub(crate) const END_OF_USE: Duration = Duration::from_secs(2);
pub(crate) const PAUSE: Duration = Duration::from_millis(5);

impl Storaged {
    /// Mounts a root filesystem nowhere and sends it to whoever listens at `socket`, who has it from
    /// then on. It is mounted at a path instead if it is so already, if the driver needs no mount, or if
    /// who listens is in no namespace of process ids that can be seen from here.
    ///
    /// # Errors
    /// [`RootfsError::Held`] while somebody else has it.
    pub fn hand_rootfs(&self, container: &str, socket: &Path) -> Result<RootfsMount, RootfsError> {
        let refused = |source| RootfsError::Hand {
            container: container.to_owned(),
            socket: socket.to_owned(),
            source,
        };
        let (receiver, taker) = self.dial(socket).map_err(refused)?;
        if let Some(taker) = taker {
            let _guard = self.rootfs_locks.lock(container);
            let row = self.existing_rootfs(container)?;
            if !self.is_mounted(&row)? {
                self.await_end_of_use(&row, Some(&taker))?;
                self.clear_volatile_mark(&row)?;
                let directory = self.layout.layer(&row.key);
                let (lowers, wanted) = self.what_to_mount(&row, owners);
                if let Some(mount) = self.driver.detached(&directory, lowers, wanted) {
                    let target = directory.merged();
                    let mount =
                        mount.map_err(StepError::io("mount the root filesystem of", &target))?;
                    let mapped = self.shows_mapped(&row);
                    // Nobody can have written to it yet, and from here it is known.
                    let boot = Some(self.boot.clone());
                    self.set_use(row.clone(), boot, Some(taker))?;
                    if let Err(error) = send(&receiver, &mount) {
                        self.set_use(row, None, None)?;
                        return Err(refused(error));
                    }
                    return Ok(RootfsMount {
                        path: String::new(),
                        mapped,
                        handed: true,
                    });
                }
            }
        }
        self.mount_rootfs(container)
    }

    fn dial(&self, socket: &Path) -> io::Result<(OwnedFd, Option<Taker>)> {
        let address = SocketAddrUnix::new(socket)?;
        // Not waiting for one who takes no connections.
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let receiver = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        connect(&receiver, &address)?;
        let taker = match sys::process::peer(&receiver)? {
            None => None,
            Some(pid) => Some(Taker {
                boot: self.boot.clone(),
                pid,
                start_time: sys::process::start_time(pid)?,
            }),
        };
        Ok((receiver, taker))
    }

    /// A process that has the root filesystem, which is mounted at no path: not `asker`, who has not got
    /// it yet or no more, unless it has put it somewhere.
    pub(crate) fn user(
        &self,
        row: &RootfsRow,
        asker: Option<&Taker>,
    ) -> Result<Option<u32>, StepError> {
        let Some(taker) = self.last_taker(row) else {
            return Ok(None);
        };
        if row.mounted_in.is_some()
            && Some(taker) != asker
            && sys::process::is_alive(taker.pid, taker.start_time)
        {
            return Ok(Some(taker.pid));
        }
        Ok(self.find_elsewhere(row)?.map(|found| found.pid))
    }

    fn last_taker<'a>(&self, row: &'a RootfsRow) -> Option<&'a Taker> {
        row.taker.as_ref().filter(|taker| taker.boot == self.boot)
    }

    fn find_elsewhere(&self, row: &RootfsRow) -> Result<Option<Elsewhere>, StepError> {
        let directory = self.layout.layer(&row.key);
        let found = self.driver.find_elsewhere(&directory);
        found.map_err(StepError::io("look for mounts of", &directory.diff()))
    }

    /// What processes that have ended had mounted goes soon; what others have does not.
    pub(crate) fn await_end_of_use(
        &self,
        row: &RootfsRow,
        asker: Option<&Taker>,
    ) -> Result<(), RootfsError> {
        let deadline = Instant::now() + END_OF_USE;
        while let Some(pid) = self.user(row, asker)? {
            let is_theirs = self.last_taker(row).is_some_and(|taker| taker.pid == pid);
            if is_theirs || Instant::now() > deadline {
                let container = row.container.clone();
                return Err(RootfsError::Held { container, pid });
            }
            sleep(PAUSE);
        }
        Ok(())
    }

    /// The root filesystem as it is mounted for somebody, who may have mounted other things on it that
    /// are not to be seen here. None while it is mounted nowhere.
    pub(crate) fn open_mounted(&self, row: &RootfsRow) -> Result<Option<OwnedFd>, StepError> {
        let directory = self.layout.layer(&row.key);
        if self.is_mounted(row)? {
            let root = self.driver.root(&directory);
            let opened = tree::open_root(&root).map_err(StepError::io("open", &root))?;
            return Ok(Some(opened));
        }
        if row.mounted_in.is_none() || self.last_taker(row).is_none() {
            return Ok(None);
        }
        let found = self.find_elsewhere(row)?;
        let opened = found.map(|found| found.open()).transpose();
        opened.map_err(StepError::io("open the mount of", &directory.diff()))
    }
}

/// To a socket that nobody has accepted yet, perhaps.
fn send(receiver: &OwnedFd, mount: &OwnedFd) -> io::Result<()> {
    let files = [mount.as_fd()];
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&files)) {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    let name = [io::IoSlice::new(b"rootfs")];
    sendmsg(receiver, &name, &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}
