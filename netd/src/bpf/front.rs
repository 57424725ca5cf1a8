//! The XDP stub on the host's uplinks, where that is wanted, and the links whose containers take frames
//! from it.
//!
//! Only in the driver: what the kernel offers elsewhere (generic XDP) copies each packet for the
//! program, and costs more than it saves. An uplink whose driver has no XDP is served by tc alone,
//! like all of them where the front is not wanted. Nothing depends on it: tc sees what passes it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::AsFd as _;

use abi::endpoint::FRAME_LINKS;
use api::id::IfName;
use aya::Ebpf;
use aya::maps::MapData;
use aya::maps::xdp::DevMapHash;
use aya::programs::links::FdLink;
use aya::programs::{ProgramError, Xdp, XdpMode};
use rustix::io::Errno;

use super::clsact::{self, interface_name};
use super::error::{BpfError, optional};
use super::object;
use super::pin::{self, Directory};
use super::replay::{self, Replay};
use super::{Change, DataPlane, Parts};

const STUB: &str = "front_entry";
/// What its pins begin with; the interface's number follows.
const PREFIX: &str = "front_";

/// Of uplinks, in XDP and in tc.
impl DataPlane {
    /// Serves published ports on an interface of the caller's network namespace.
    ///
    /// # Errors
    /// [`BpfError`]; one side may be attached, which the next call completes.
    pub fn attach_uplink(&self, ifindex: u32, ifname: &IfName) -> Result<Change, BpfError> {
        let Parts {
            object,
            uplinks,
            fronts,
            ..
        } = &mut *self.lock();
        let change = uplinks.attach(object, ifindex, ifname)?;
        Ok(change.or(fronts.attach(object, ifindex, ifname)?))
    }

    /// Undoes [`Self::attach_uplink`], also when the interface is gone.
    ///
    /// # Errors
    /// [`BpfError`]; calling again goes on from where it stopped.
    pub fn detach_uplink(&self, ifindex: u32) -> Result<Change, BpfError> {
        let Parts {
            uplinks, fronts, ..
        } = &mut *self.lock();
        let change = fronts.detach(ifindex)?;
        Ok(change.or(uplinks.detach(ifindex)?))
    }

    /// The interfaces served on both sides, and by XDP as far as that is wanted and their drivers have
    /// it. Pins of interfaces that are gone are removed.
    ///
    /// # Errors
    /// [`BpfError`].
    pub fn uplinks(&self) -> Result<BTreeSet<u32>, BpfError> {
        let Parts {
            uplinks, fronts, ..
        } = &*self.lock();
        let mut settled = BTreeSet::new();
        for ifindex in uplinks.all()? {
            if fronts.is_settled(ifindex)? {
                settled.insert(ifindex);
            }
        }
        Ok(settled)
    }

    /// Says whether uplinks are to be served by XDP as well; each is when it is attached.
    pub fn want_front(&self, wanted: bool) {
        self.lock().fronts.want(wanted);
    }

    /// Lets XDP send frames to the far end of an endpoint's link, which must be able to take them.
    ///
    /// # Errors
    /// [`BpfError`].
    pub fn take_frames(&self, link: &IfName) -> Result<Change, BpfError> {
        self.lock().fronts.take_frames(link)
    }

    /// The links to whose far ends XDP sends frames, by the index of the host's end.
    ///
    /// # Errors
    /// [`BpfError::Map`].
    pub fn frame_links(&self) -> Result<BTreeSet<u32>, BpfError> {
        self.lock().fronts.frame_links()
    }

    /// How uplinks are served ahead of tc, where that is wanted.
    ///
    /// # Errors
    /// [`BpfError`].
    pub fn describe_front(&self) -> Result<Option<String>, BpfError> {
        self.lock().fronts.describe()
    }

    /// Like [`Self::replay`], for a frame that the XDP program of an uplink sees.
    ///
    /// # Errors
    /// [`BpfError::Replay`], as there.
    pub fn replay_front(&self, frame: &[u8]) -> Result<Replay, BpfError> {
        replay::run_front(&mut self.lock().object, STUB, frame)
    }
}

pub(super) struct Fronts {
    pins: Directory,
    wanted: bool,
    /// Interfaces whose driver would not have it, and why.
    refused: BTreeMap<u32, String>,
    takers: DevMapHash<MapData>,
}

impl Fronts {
    /// Loads the stub of `object`, which the other methods then expect again.
    pub(super) fn open(object: &mut Ebpf, pins: Directory) -> Result<Self, BpfError> {
        let stub: &mut Xdp = object::program(object, STUB)?;
        object::loaded(stub.load()).map_err(BpfError::load(STUB))?;
        let fronts = Self {
            pins,
            wanted: false,
            refused: BTreeMap::new(),
            takers: object::take(object, FRAME_LINKS)?,
        };
        for ifindex in pinned(&fronts.pins)? {
            if interface_name(ifindex)?.is_none() {
                fronts.pins.unpin(&name(ifindex))?;
            }
        }
        Ok(fronts)
    }

    /// Says whether uplinks are to have it; each follows when it is attached.
    pub(super) fn want(&mut self, wanted: bool) {
        self.wanted = wanted;
    }

    /// Attaches it to an uplink, or detaches it, as is wanted. A driver that has no XDP is no fault.
    pub(super) fn attach(
        &mut self,
        object: &mut Ebpf,
        ifindex: u32,
        ifname: &IfName,
    ) -> Result<Change, BpfError> {
        if !self.wanted {
            return self.detach(ifindex);
        }
        if self.is_attached(ifindex)? {
            return Ok(Change::Unchanged);
        }
        // Of an interface that had this index before, or of a program that somebody detached.
        self.pins.unpin(&name(ifindex))?;
        let stub: &mut Xdp = object::program(object, STUB)?;
        match attach_native(stub, ifindex) {
            Ok(link) => {
                self.pins.pin_link(&name(ifindex), link)?;
                self.refused.remove(&ifindex);
                tracing::info!(%ifname, "XDP serves published ports ahead of tc");
                Ok(Change::Created)
            }
            Err(error) => {
                let why = reason(&error);
                if self.refused.insert(ifindex, why.clone()).as_ref() != Some(&why) {
                    tracing::warn!(%ifname, "tc alone serves published ports: {why}");
                }
                Ok(Change::Unchanged)
            }
        }
    }

    pub(super) fn detach(&mut self, ifindex: u32) -> Result<Change, BpfError> {
        self.refused.remove(&ifindex);
        remove(&self.pins, ifindex)
    }

    /// Whether an uplink is as it should be, as far as its driver allows.
    pub(super) fn is_settled(&self, ifindex: u32) -> Result<bool, BpfError> {
        if !self.wanted {
            return Ok(!self.pins.path(&name(ifindex)).exists());
        }
        Ok(self.refused.contains_key(&ifindex) || self.is_attached(ifindex)?)
    }

    /// One line, once anything is wanted.
    pub(super) fn describe(&self) -> Result<Option<String>, BpfError> {
        if !self.wanted {
            return Ok(None);
        }
        let mut places = Vec::new();
        for ifindex in pinned(&self.pins)? {
            if let Some(ifname) = interface_name(ifindex)?
                && self.is_attached(ifindex)?
            {
                places.push(format!("{ifname} by XDP in its driver"));
            }
        }
        for (ifindex, why) in &self.refused {
            if let Some(ifname) = interface_name(*ifindex)? {
                places.push(format!("{ifname} by tc alone, because {why}"));
            }
        }
        if places.is_empty() {
            places.push("no uplink".to_owned());
        }
        Ok(Some(format!("front: {}", places.join("; "))))
    }

    /// Lets frames enter the far end of a link at once; that end must be able to take them.
    pub(super) fn take_frames(&mut self, link: &IfName) -> Result<Change, BpfError> {
        let index = clsact::interface_index(link.as_str())
            .map_err(BpfError::attach(STUB, link.as_str()))?;
        if optional(self.takers.get(index, 0))
            .map_err(BpfError::map(FRAME_LINKS))?
            .is_some()
        {
            return Ok(Change::Unchanged);
        }
        self.takers
            .insert(index, index, None, 0)
            .map_err(BpfError::attach(FRAME_LINKS, link.as_str()))?;
        Ok(Change::Created)
    }

    /// The links whose far ends take frames, by the index of the host's end.
    pub(super) fn frame_links(&self) -> Result<BTreeSet<u32>, BpfError> {
        let links = self.takers.keys().collect::<Result<_, _>>();
        links.map_err(BpfError::map(FRAME_LINKS))
    }

    fn is_attached(&self, ifindex: u32) -> Result<bool, BpfError> {
        let path = self.pins.path(&name(ifindex));
        match sys::bpf::is_link_attached(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            attached => attached.map_err(pin::failed("look at the link pinned at", &path)),
        }
    }
}

/// Removes what the front of an instance has left.
pub(super) fn remove_all(pins: &Directory) -> Result<(), BpfError> {
    for ifindex in pinned(pins)? {
        remove(pins, ifindex)?;
    }
    Ok(())
}

fn remove(pins: &Directory, ifindex: u32) -> Result<Change, BpfError> {
    let name = name(ifindex);
    let path = pins.path(&name);
    let link = match sys::bpf::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Change::Unchanged),
        link => link.map_err(pin::failed("open the link pinned at", &path))?,
    };
    // Not left to the end of the link, as with those of tc.
    sys::bpf::detach_link(link.as_fd()).map_err(BpfError::attach(STUB, &name))?;
    pins.unpin(&name)?;
    Ok(Change::Changed)
}

fn name(ifindex: u32) -> String {
    format!("{PREFIX}{ifindex}")
}

fn pinned(pins: &Directory) -> Result<BTreeSet<u32>, BpfError> {
    let number = |name: &String| name.strip_prefix(PREFIX)?.parse().ok();
    Ok(pins.names()?.iter().filter_map(number).collect())
}

fn attach_native(stub: &mut Xdp, ifindex: u32) -> Result<FdLink, ProgramError> {
    let id = stub.attach_to_if_index(ifindex, XdpMode::Driver)?;
    let link = FdLink::try_from(stub.take_link(id)?);
    Ok(link.map_err(io::Error::other)?)
}

/// What an administrator can do something about.
fn reason(error: &ProgramError) -> String {
    let errno = match error {
        ProgramError::SyscallError(error) => error.io_error.raw_os_error(),
        _ => None,
    };
    match errno.map(Errno::from_raw_os_error) {
        Some(Errno::OPNOTSUPP) => "its driver has no XDP".to_owned(),
        Some(Errno::BUSY | Errno::EXIST) => "it has an XDP program of somebody else".to_owned(),
        Some(Errno::RANGE | Errno::INVAL) => {
            "its driver has no XDP for this MTU, or with these offloads".to_owned()
        }
        _ => error.to_string(),
    }
}
