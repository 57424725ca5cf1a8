//! The tc stubs on the host's uplinks, and on the tunnel by which other nodes send.
//!
//! From 6.6 on they are TCX links, pinned. Below, they are clsact filters of a fixed priority and
//! handle, which the kernel keeps by itself; the pinned stub then only marks them as ours, and once
//! more marks the qdisc that had to be made for them.

use std::collections::BTreeSet;
use std::io;

use api::id::IfName;
use aya::Ebpf;
use aya::programs::links::{FdLink, LinkOrder, PinnedLink};
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions, TcError};
use aya::programs::{MultiProgLink as _, ProgramError, SchedClassifier, TcAttachType};
use aya::util::KernelVersion;

use super::Change;
use super::clsact::{self, interface_name};
use super::error::BpfError;
use super::object;
use super::pin::Directory;
use super::replay::{self, Replay, Side};

/// What has stubs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Uplink,
    Tunnel,
}

const PLACES: [Place; 2] = [Place::Uplink, Place::Tunnel];

impl Place {
    fn sides(self) -> &'static [Side] {
        match self {
            Self::Uplink => &[Side::Ingress, Side::Egress],
            Self::Tunnel => &[Side::Tunnel],
        }
    }

    /// What its pins begin with.
    fn prefix(self) -> &'static str {
        match self {
            Self::Uplink => "uplink_",
            Self::Tunnel => "tunnel_",
        }
    }

    /// Marks that the interface took no filters before ours.
    fn qdisc_pin(self, ifindex: u32) -> String {
        format!("{}{ifindex}_qdisc", self.prefix())
    }

    /// The interfaces that have at least one pin.
    fn pinned(self, pins: &Directory) -> Result<BTreeSet<u32>, BpfError> {
        let number = |name: &String| {
            let (number, _side) = name.strip_prefix(self.prefix())?.split_once('_')?;
            number.parse().ok()
        };
        Ok(pins.names()?.iter().filter_map(number).collect())
    }
}

impl Side {
    fn stub(self) -> &'static str {
        match self {
            Self::Ingress => "ingress_entry",
            Self::Egress => "egress_entry",
            Self::Tunnel => "tunnel_entry",
        }
    }

    fn attach_type(self) -> TcAttachType {
        match self {
            Self::Ingress | Self::Tunnel => TcAttachType::Ingress,
            Self::Egress => TcAttachType::Egress,
        }
    }

    fn pin(self, ifindex: u32) -> String {
        match self {
            Self::Ingress => format!("uplink_{ifindex}_ingress"),
            Self::Egress => format!("uplink_{ifindex}_egress"),
            Self::Tunnel => format!("tunnel_{ifindex}_ingress"),
        }
    }

    fn place(self) -> Place {
        match self {
            Self::Ingress | Self::Egress => Place::Uplink,
            Self::Tunnel => Place::Tunnel,
        }
    }
}

/// How stubs are attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Tcx,
    Clsact,
}

impl Mode {
    /// What this kernel has.
    fn detect() -> Self {
        match KernelVersion::current() {
            Ok(version) if version >= KernelVersion::new(6, 6, 0) => Self::Tcx,
            _ => Self::Clsact,
        }
    }
}

pub(super) struct Uplinks {
    pins: Directory,
    mode: Mode,
}

impl Uplinks {
    /// Loads the stubs of `object`, which the other methods then expect again.
    pub(super) fn open(object: &mut Ebpf, pins: Directory) -> Result<Self, BpfError> {
        for &side in PLACES.iter().flat_map(|place| place.sides()) {
            let stub: &mut SchedClassifier = object::program(object, side.stub())?;
            object::loaded(stub.load()).map_err(BpfError::load(side.stub()))?;
        }
        let uplinks = Self {
            pins,
            mode: Mode::detect(),
        };
        uplinks.forget_vanished()?;
        Ok(uplinks)
    }

    pub(super) fn describe(&self) -> &'static str {
        match self.mode {
            Mode::Tcx => "TCX links",
            Mode::Clsact => "clsact filters, because TCX needs Linux 6.6",
        }
    }

    pub(super) fn attach(
        &mut self,
        object: &mut Ebpf,
        ifindex: u32,
        ifname: &IfName,
    ) -> Result<Change, BpfError> {
        self.attach_to(Place::Uplink, object, ifindex, ifname)
    }

    pub(super) fn attach_tunnel(
        &mut self,
        object: &mut Ebpf,
        ifindex: u32,
        ifname: &IfName,
    ) -> Result<Change, BpfError> {
        self.attach_to(Place::Tunnel, object, ifindex, ifname)
    }

    fn attach_to(
        &mut self,
        place: Place,
        object: &mut Ebpf,
        ifindex: u32,
        ifname: &IfName,
    ) -> Result<Change, BpfError> {
        if interface_name(ifindex)?.as_deref() != Some(ifname.as_str()) {
            return Err(BpfError::InterfaceChanged {
                ifname: ifname.clone(),
                ifindex,
            });
        }
        let mut change = Change::Unchanged;
        for &side in place.sides() {
            if self.attach_side(object, ifindex, ifname, side)? {
                change = Change::Created;
            }
        }
        Ok(change)
    }

    /// Returns whether something had to be done.
    fn attach_side(
        &mut self,
        object: &mut Ebpf,
        ifindex: u32,
        ifname: &IfName,
        side: Side,
    ) -> Result<bool, BpfError> {
        if self.is_attached(ifindex, ifname.as_str(), side)? {
            return Ok(false);
        }
        // Of an interface that had this index before, or of a program that somebody detached.
        let pin = side.pin(ifindex);
        self.pins.unpin(&pin)?;
        let stub: &mut SchedClassifier = object::program(object, side.stub())?;
        match self.mode {
            Mode::Tcx => {
                let link = attach_tcx(stub, ifname, side)
                    .map_err(BpfError::attach(side.stub(), ifname.as_str()))?;
                self.pins.pin_link(&pin, link)?;
            }
            Mode::Clsact => {
                let failed = || BpfError::attach(side.stub(), ifname.as_str());
                let is_first =
                    clsact::attach(stub, ifname.as_str(), side.attach_type()).map_err(failed())?;
                let mark = side.place().qdisc_pin(ifindex);
                if is_first {
                    // Of a qdisc of ours that somebody removed.
                    self.pins.unpin(&mark)?;
                    stub.pin(self.pins.path(&mark))
                        .map_err(BpfError::attach(side.stub(), ifname.as_str()))?;
                }
                stub.pin(self.pins.path(&pin))
                    .map_err(BpfError::attach(side.stub(), ifname.as_str()))?;
            }
        }
        Ok(true)
    }

    fn is_attached(&self, ifindex: u32, ifname: &str, side: Side) -> Result<bool, BpfError> {
        let pin = side.pin(ifindex);
        match self.mode {
            Mode::Tcx => match self.pins.link(&pin)? {
                Some(link) => is_tcx_attached(&FdLink::from(link), ifname, side),
                None => Ok(false),
            },
            Mode::Clsact => {
                let has_filter = clsact::has_filter(ifindex, side.attach_type())
                    .map_err(BpfError::attach(side.stub(), ifname))?;
                Ok(has_filter && self.pins.path(&pin).exists())
            }
        }
    }

    pub(super) fn detach(&mut self, ifindex: u32) -> Result<Change, BpfError> {
        remove(&self.pins, self.mode, Place::Uplink, ifindex)
    }

    pub(super) fn detach_tunnel(&mut self, ifindex: u32) -> Result<Change, BpfError> {
        remove(&self.pins, self.mode, Place::Tunnel, ifindex)
    }

    /// The interfaces that have both stubs, seen in the kernel: a pin may outlive its program.
    pub(super) fn all(&self) -> Result<BTreeSet<u32>, BpfError> {
        self.whole(Place::Uplink)
    }

    pub(super) fn tunnels(&self) -> Result<BTreeSet<u32>, BpfError> {
        self.whole(Place::Tunnel)
    }

    fn whole(&self, place: Place) -> Result<BTreeSet<u32>, BpfError> {
        self.forget_vanished()?;
        let mut result = BTreeSet::new();
        for ifindex in place.pinned(&self.pins)? {
            if self.is_whole(place, ifindex)? {
                result.insert(ifindex);
            }
        }
        Ok(result)
    }

    fn is_whole(&self, place: Place, ifindex: u32) -> Result<bool, BpfError> {
        let Some(ifname) = interface_name(ifindex)? else {
            return Ok(false);
        };
        for &side in place.sides() {
            if !self.is_attached(ifindex, &ifname, side)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Removes the pins of interfaces that are gone.
    fn forget_vanished(&self) -> Result<(), BpfError> {
        for place in PLACES {
            for ifindex in place.pinned(&self.pins)? {
                if interface_name(ifindex)?.is_none() {
                    remove(&self.pins, self.mode, place, ifindex)?;
                }
            }
        }
        Ok(())
    }
}

pub(super) fn replay(object: &mut Ebpf, side: Side, frame: &[u8]) -> Result<Replay, BpfError> {
    replay::run(object, side.stub(), frame)
}

/// Detaches every uplink and tunnel of an instance.
pub(super) fn remove_all(pins: &Directory) -> Result<(), BpfError> {
    for place in PLACES {
        for ifindex in place.pinned(pins)? {
            remove(pins, Mode::detect(), place, ifindex)?;
        }
    }
    Ok(())
}

fn remove(pins: &Directory, mode: Mode, place: Place, ifindex: u32) -> Result<Change, BpfError> {
    let mut change = Change::Unchanged;
    for &side in place.sides() {
        if mode == Mode::Clsact
            && let Some(ifname) = interface_name(ifindex)?
        {
            clsact::detach(&ifname, side.attach_type())
                .map_err(BpfError::attach(side.stub(), &ifname))?;
        }
        let pin = side.pin(ifindex);
        if mode == Mode::Tcx
            && let Some(link) = pins.link(&pin)?
        {
            detach_tcx(link).map_err(BpfError::attach(side.stub(), &pin))?;
        }
        if pins.unpin(&pin)? {
            change = Change::Changed;
        }
    }
    let mark = place.qdisc_pin(ifindex);
    if pins.path(&mark).exists() {
        clsact::remove_idle_qdisc(ifindex)
            .map_err(BpfError::attach("clsact", &format!("interface {ifindex}")))?;
        pins.unpin(&mark)?;
    }
    Ok(change)
}

/// Whether the link is attached to that very interface: a link outlives its interface, detached.
fn is_tcx_attached(link: &FdLink, ifname: &str, side: Side) -> Result<bool, BpfError> {
    let info = link.info().map_err(BpfError::attach(side.stub(), ifname))?;
    let (_revision, programs) = SchedClassifier::query_tcx(ifname, side.attach_type())
        .map_err(BpfError::attach(side.stub(), ifname))?;
    Ok(programs
        .iter()
        .any(|program| program.id() == info.program_id()))
}

/// Not left to the end of the link, which is only soon after that of its pin: until then the kernel
/// refuses to attach the program again (`bpf_mprog_exists`, kernel/bpf/mprog.c).
fn detach_tcx(link: PinnedLink) -> io::Result<()> {
    let link = SchedClassifierLink::try_from(FdLink::from(link)).map_err(io::Error::other)?;
    let descriptor = link.fd().map_err(io::Error::other)?;
    sys::bpf::detach_link(descriptor)
}

fn attach_tcx(
    stub: &mut SchedClassifier,
    ifname: &IfName,
    side: Side,
) -> Result<FdLink, ProgramError> {
    let options = TcAttachOptions::TcxOrder(LinkOrder::default());
    let id = stub.attach_with_options(ifname.as_str(), side.attach_type(), options)?;
    Ok(FdLink::try_from(stub.take_link(id)?)
        .map_err(io::Error::other)
        .map_err(TcError::IoError)?)
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};
    use std::process::Command;

    use sys::netns::NetNs;

    use super::*;

    /// Pins that go with the test.
    struct Pins(PathBuf);

    impl Drop for Pins {
        fn drop(&mut self) {
            if let Ok(Some(pins)) = Directory::find(&self.0) {
                pins.remove().expect("the pins can be removed");
            }
        }
    }

    fn open(path: &Path, mode: Mode) -> (Ebpf, Uplinks) {
        let pins = Directory::create(path).unwrap();
        let mut object = object::load(&pins, &object::Sizes::new()).unwrap();
        object::install_tc(&mut object).unwrap();
        let mut uplinks = Uplinks::open(&mut object, pins).unwrap();
        uplinks.mode = mode;
        (object, uplinks)
    }

    fn run(program: &str, arguments: &str) -> String {
        let output = Command::new(program).args(arguments.split(' ')).output();
        let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
        assert!(output.status.success(), "{program} {arguments}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn filters() -> usize {
        ["ingress", "egress"]
            .map(|side| run("tc", &format!("filter show dev u0 {side}")))
            .iter()
            .map(|text| text.matches("direct-action").count())
            .sum()
    }

    #[test]
    fn clsact_filters_stay_without_the_daemon_and_are_never_doubled() {
        let name = format!("test-{}-clsact", std::process::id());
        let pins = Pins(Path::new("/sys/fs/bpf/hawser").join(name).join("v1"));
        let ns = NetNs::create().expect("root is needed to create a network namespace");
        ns.run(|| {
            run("ip", "link add u0 type veth peer name u1");
            let ifindex = clsact::interface_index("u0").unwrap();
            let ifname = IfName::parse("u0").unwrap();

            let (mut object, mut uplinks) = open(&pins.0, Mode::Clsact);
            let mut attach = |uplinks: &mut Uplinks| uplinks.attach(&mut object, ifindex, &ifname);
            assert_eq!(attach(&mut uplinks).unwrap(), Change::Created);
            assert_eq!(attach(&mut uplinks).unwrap(), Change::Unchanged);
            assert_eq!(filters(), 2);
            drop(uplinks);
            assert_eq!(filters(), 2, "without a daemon");

            let (mut object, mut uplinks) = open(&pins.0, Mode::Clsact);
            let mut attach = |uplinks: &mut Uplinks| uplinks.attach(&mut object, ifindex, &ifname);
            assert_eq!(uplinks.all().unwrap(), BTreeSet::from([ifindex]));
            // As left by a daemon that died between the filter and its mark.
            uplinks.pins.unpin(&Side::Egress.pin(ifindex)).unwrap();
            assert_eq!(uplinks.all().unwrap(), BTreeSet::new());
            assert_eq!(attach(&mut uplinks).unwrap(), Change::Created);
            assert_eq!(filters(), 2);

            // As deleted by somebody: the mark alone says nothing.
            run("tc", "filter delete dev u0 ingress");
            assert_eq!(uplinks.all().unwrap(), BTreeSet::new());
            assert_eq!(attach(&mut uplinks).unwrap(), Change::Created);
            assert_eq!(uplinks.all().unwrap(), BTreeSet::from([ifindex]));
            assert_eq!(filters(), 2);

            assert_eq!(uplinks.detach(ifindex).unwrap(), Change::Changed);
            assert_eq!(uplinks.detach(ifindex).unwrap(), Change::Unchanged);
            assert_eq!(filters(), 0);
            assert!(!takes_filters(), "the qdisc was made for ours");
        })
        .unwrap();
    }

    fn takes_filters() -> bool {
        run("tc", "qdisc show dev u0").contains("clsact")
    }

    #[test]
    fn a_qdisc_of_others_and_one_that_others_use_stay() {
        let name = format!("test-{}-qdisc", std::process::id());
        let pins = Pins(Path::new("/sys/fs/bpf/hawser").join(name).join("v1"));
        let ns = NetNs::create().expect("root is needed to create a network namespace");
        ns.run(|| {
            run("ip", "link add u0 type veth peer name u1");
            let ifindex = clsact::interface_index("u0").unwrap();
            let ifname = IfName::parse("u0").unwrap();
            let (mut object, mut uplinks) = open(&pins.0, Mode::Clsact);

            run("tc", "qdisc add dev u0 clsact");
            uplinks.attach(&mut object, ifindex, &ifname).unwrap();
            uplinks.detach(ifindex).unwrap();
            assert!(takes_filters(), "it was there before");
            run("tc", "qdisc del dev u0 clsact");

            uplinks.attach(&mut object, ifindex, &ifname).unwrap();
            let others = "dev u0 egress prio 7 protocol ip u32 match u32 0 0 classid 1:1";
            run("tc", &format!("filter add {others}"));
            uplinks.detach(ifindex).unwrap();
            assert!(takes_filters(), "somebody else has a filter there");
            assert_eq!(filters(), 0);
        })
        .unwrap();
    }
}
