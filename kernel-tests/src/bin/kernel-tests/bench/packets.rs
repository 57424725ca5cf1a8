//! What a packet costs in the programs of an uplink: nanoseconds by `BPF_PROG_TEST_RUN`, on the
//! programs and maps of a daemon that runs, with ports published by its own interface.
//!
//! The measured port leads to the address and port that it is published at: everything is done as
//! for any other packet, and a second run finds the packet as the first one did. For packets that
//! begin a flow, a program before ours counts the client's address up.
//!
//! What a run of a program that does nothing takes is a row of its own: processors, and how their
//! kernels guard them against speculation, differ by more than programs do.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use api::net::Attachment;
use api::path;
use api::traffic::{Counts, Traffic};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions, loaded_programs};
use kernel_tests::Shop;
use serde_json::json;
use sys::bpf::probe::Probe;
use sys::netns::NetNs;

use super::ports::publish_others;
use super::row::{Goal, Row, Subject, row};
use super::turns::{self, Sample};
use super::{NINE, Scene};

mod away;
mod front;

/// Runs of a packet that finds the same each time.
const REPEAT: u32 = 100_000;
/// Packets that begin a flow, of one sample: they fill the table.
const BEGINNINGS: u32 = 100_000;
/// Why there is nobody beside.
const NO_PEER: &str = "Katran is in no Debian package; design 8 has its figures of another machine";

const TCP: u8 = 6;
const SCTP: u8 = 132;
const SYN: u8 = 2;
const ACK: u8 = 16;
const SYN_ACK: u8 = 18;
/// The daemon's table of programs, and the slot of that for packets from outside.
const JUMP_TC: &str = "jump_tc";
const INGRESS_SLOT: u32 = 0;
/// `TC_ACT_SHOT`, include/uapi/linux/pkt_cls.h.
const SHOT: u32 = 2;
/// Of a frame: the tunnel to another node writes its own.
const LINK_ADDRESSES: usize = 12;

const OUR_V4: Ipv4Addr = Ipv4Addr::new(10, 95, 0, 2);
const OUR_V6: Ipv6Addr = Ipv6Addr::new(0xfd95, 0, 0, 0, 0, 0, 0, 2);
const PORT: u16 = 80;
const NOBODYS_PORT: u16 = 81;
/// Its backend is on another node.
const AWAY_PORT: u16 = 82;
/// Of clients: TEST-NET-2 and a part of the documentation's prefix.
const CLIENT_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
const CLIENT_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 7, 0, 0, 0, 0, 7);
const CLIENT_PORT: u16 = 40_000;

pub(crate) fn rows(scene: &Scene) -> Result<Vec<Row>> {
    let bench = Uplink::open()?;
    let mut rows = Vec::new();
    let mut before = 0;
    for &ports in &scene.sizes.published {
        eprintln!("  {ports} ports");
        let count = ports.saturating_sub(1);
        publish_others(&bench.shop, before, count)?;
        before = before.max(count);
        let paths: Vec<Path> = [IpAddr::from(OUR_V4), IpAddr::from(OUR_V6)]
            .into_iter()
            .flat_map(paths)
            .collect();
        let samples = paths.iter().map(|path| {
            let sample: Sample<'_, f64> = Box::new(|| bench.cost(path));
            Ok(sample)
        });
        let led = bench.led()?;
        let figures = turns::take(scene.sizes.runs(NINE), samples);
        ensure!(
            bench.led()? >= led + u64::from(REPEAT),
            "packets to the published port were nobody's"
        );
        for (path, ours) in paths.iter().zip(&figures) {
            let family = if path.own.is_ipv4() { "v4" } else { "v6" };
            let name = format!("packet, {family} {}, {ports} published", path.name);
            let subject = Subject::new(name, "ns", path.goal);
            rows.push(row(subject, ours, "Katran", &Err(NO_PEER.to_owned()))?);
        }
    }
    Ok(rows)
}

/// A way through the programs.
#[derive(Clone, Copy)]
struct Path {
    name: &'static str,
    goal: Goal,
    own: IpAddr,
    kind: Kind,
    protocol: u8,
    payload: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Empty,
    Miss,
    Hit,
    New,
    Reverse,
    ReverseMiss,
    Away,
    FrontMiss,
    FrontHit,
}

/// The design's bounds are for 64 bytes of TCP, on a machine whose empty program takes 10 ns.
fn paths(own: IpAddr) -> impl Iterator<Item = Path> {
    let tcp = [
        ("miss", Kind::Miss, 30.0),
        ("hit", Kind::Hit, 80.0),
        ("reverse", Kind::Reverse, 70.0),
        ("reverse miss", Kind::ReverseMiss, 35.0),
        ("new flow, another client each run", Kind::New, 450.0),
    ];
    let empty = Path {
        name: "nothing: an empty program",
        goal: Goal::Shown,
        own,
        kind: Kind::Empty,
        protocol: TCP,
        payload: 0,
    };
    let sctp = [
        ("SCTP hit, 1400 bytes", Kind::Hit),
        ("SCTP reverse, 1400 bytes", Kind::Reverse),
    ];
    let tcp = tcp.map(|(name, kind, most)| Path {
        name,
        goal: Goal::Within(most),
        own,
        kind,
        protocol: TCP,
        payload: 0,
    });
    let away = Path {
        name: "hit, into the tunnel to another node",
        kind: Kind::Away,
        ..empty
    };
    let sctp = sctp.map(|(name, kind)| Path {
        name,
        goal: Goal::Shown,
        own,
        kind,
        protocol: SCTP,
        payload: 1400,
    });
    let front = [
        ("front miss, in XDP", Kind::FrontMiss),
        ("front hit, in XDP, to the container's link", Kind::FrontHit),
    ];
    let front = front.map(|(name, kind)| Path {
        name,
        kind,
        ..empty
    });
    [empty]
        .into_iter()
        .chain(tcp)
        .chain(sctp)
        .chain([away])
        .chain(front)
}

/// A daemon's programs on the link to the outside.
struct Uplink {
    ingress: SchedClassifier,
    egress: SchedClassifier,
    front: front::Front,
    host: NetNs,
    /// The daemon's table of programs.
    table: OwnedFd,
    /// By what they begin flows of, with the frame of the client that comes next.
    beginners: RefCell<BTreeMap<IpAddr, (Probe, Vec<u8>)>>,
    shop: Shop,
}

impl Uplink {
    fn open() -> Result<Self> {
        let shop = Shop::configured("\n[network]\nfront = \"xdp\"\n");
        shop.type_("network create --ipv6 --subnet 10.95.0.0/24 --subnet fd95::/64 packets");
        shop.host.output("ip", &["netns", "add", "own"])?;
        let bindings = [("tcp", IpAddr::from(OUR_V4)), ("tcp", OUR_V6.into())]
            .into_iter()
            .chain([("sctp", OUR_V4.into()), ("sctp", OUR_V6.into())]);
        let bindings = bindings.map(|(protocol, address)| (protocol, address, PORT));
        let away =
            [OUR_V4.into(), OUR_V6.into()].map(|address: IpAddr| ("tcp", address, AWAY_PORT));
        let binding = |(protocol, address, port): (&str, IpAddr, u16)| {
            json!({ "protocol": protocol, "container_port": port, "host_port": port,
                "host_ip": address })
        };
        let request = json!({
            "network": "packets", "container_id": "own", "ifname": "eth0",
            "netns": shop.host.path("/run/netns/own".as_ref()),
            "ipv4": OUR_V4, "ipv6": OUR_V6,
            "ports": bindings.chain(away).map(binding).collect::<Vec<_>>(),
        });
        let attached: Attachment = shop
            .daemon
            .client()
            .post(path::ENDPOINTS, &request)
            .context("attach the measured endpoint")?;
        drop(attached);
        away::move_backends(&shop, AWAY_PORT)?;
        let uplink = Self {
            ingress: attached_program(&shop, "ingress")?,
            egress: attached_program(&shop, "egress")?,
            front: front::Front::open(&shop)?,
            host: NetNs::open(&shop.host.network_namespace()).context("host")?,
            table: sys::bpf::open(&pinned(&shop, JUMP_TC)?).context("table of programs")?,
            beginners: RefCell::default(),
            shop,
        };
        uplink.begin_flows()?;
        Ok(uplink)
    }

    /// The connections that later packets belong to.
    fn begin_flows(&self) -> Result<()> {
        for own in [IpAddr::from(OUR_V4), OUR_V6.into()] {
            let client = client(own);
            let tcp = |flags| Frame {
                own,
                client,
                protocol: TCP,
                flags,
                payload: 0,
            };
            for (is_reply, flags) in [(false, SYN), (true, SYN_ACK), (false, ACK), (true, ACK)] {
                let frame = tcp(flags).build(PORT, CLIENT_PORT, is_reply);
                self.run(&frame, is_reply, 1)?;
            }
            let sctp = Frame {
                protocol: SCTP,
                payload: 1400,
                ..tcp(0)
            };
            for is_reply in [false, true] {
                self.run(&sctp.build(PORT, CLIENT_PORT, is_reply), is_reply, 1)?;
            }
        }
        Ok(())
    }

    /// Nanoseconds of a run.
    fn cost(&self, path: &Path) -> Result<f64> {
        let frame = Frame {
            own: path.own,
            client: client(path.own),
            protocol: path.protocol,
            flags: ACK,
            payload: path.payload,
        };
        let (port, is_reply) = match path.kind {
            Kind::New => return self.cost_of_new(path.own),
            Kind::Empty => {
                let frame = frame.build(PORT, CLIENT_PORT, false);
                let run = Probe::empty()?.run(&frame, &mut frame.clone(), REPEAT);
                return Ok(run.context("run an empty program")?.nanoseconds.into());
            }
            Kind::Miss => (NOBODYS_PORT, false),
            Kind::Hit => (PORT, false),
            Kind::Reverse => (PORT, true),
            Kind::ReverseMiss => (NOBODYS_PORT, true),
            Kind::Away => (AWAY_PORT, false),
            Kind::FrontMiss | Kind::FrontHit => {
                let enters = path.kind == Kind::FrontHit;
                let port = if enters { PORT } else { NOBODYS_PORT };
                let frame = frame.build(port, CLIENT_PORT, false);
                return self.front.cost(path.own, &frame, enters);
            }
        };
        let frame = frame.build(port, CLIENT_PORT, is_reply);
        self.run(&frame, is_reply, REPEAT)
    }

    fn cost_of_new(&self, own: IpAddr) -> Result<f64> {
        let mut beginners = self.beginners.borrow_mut();
        let (probe, frame) = match beginners.entry(own) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(self.beginner(own)?),
        };
        let before = self.counts(own)?.flows;
        let run = self
            .host
            .run(|| probe.run(&frame.clone(), frame, BEGINNINGS));
        let run = run.context("enter the host")?.context("begin flows")?;
        ensure!(run.verdict != SHOT, "the packet was dropped");
        let begun = self.counts(own)?.flows - before;
        ensure!(begun == u64::from(BEGINNINGS), "only {begun} flows began");
        Ok(run.nanoseconds.into())
    }

    fn beginner(&self, own: IpAddr) -> Result<(Probe, Vec<u8>)> {
        // The last word of the source's address.
        let at = if own.is_ipv4() { 14 + 12 } else { 14 + 8 + 12 };
        let probe = Probe::counting(self.table.as_fd(), INGRESS_SLOT, at);
        let frame = Frame {
            own,
            client: first_of_many(own),
            protocol: TCP,
            flags: SYN,
            payload: 0,
        };
        let frame = frame.build(PORT, CLIENT_PORT, false);
        Ok((probe.context("load a program that counts")?, frame))
    }

    fn run(&self, frame: &[u8], is_reply: bool, repeat: u32) -> Result<f64> {
        let program = if is_reply {
            &self.egress
        } else {
            &self.ingress
        };
        let run = || -> Result<f64> {
            let mut out = vec![0; frame.len()];
            let result = program.test_run(TestRunOptions {
                data_in: Some(frame),
                data_out: Some(&mut out),
                repeat,
                ..TestRunOptions::default()
            });
            let result = result.context("run a program on a frame")?;
            ensure!(result.return_value != SHOT, "the packet was dropped");
            ensure!(
                out[LINK_ADDRESSES..] == frame[LINK_ADDRESSES..],
                "the packet was changed: it is led elsewhere"
            );
            Ok(result.duration.as_nanos() as f64)
        };
        // The kernel takes a frame for one of the loopback of whoever runs it.
        self.host.run(run).context("enter the host")?
    }

    /// Packets that were led to the endpoint: those that nobody knows are not changed either.
    fn led(&self) -> Result<u64> {
        Ok(self.counts(OUR_V4.into())?.packets_in)
    }

    /// What is counted of the ports that are published at `own`.
    fn counts(&self, own: IpAddr) -> Result<Counts> {
        let traffic: Traffic = self.shop.daemon.client().get(path::TRAFFIC)?;
        let at = SocketAddr::new(own, PORT).to_string();
        let mut sum = Counts::default();
        for service in &traffic.services {
            if service
                .published
                .iter()
                .any(|published| published.starts_with(&at))
            {
                sum.packets_in += service.counts.packets_in;
                sum.flows += service.counts.flows;
            }
        }
        Ok(sum)
    }
}

/// Where something of the daemon's is pinned.
fn pinned(shop: &Shop, name: &str) -> Result<PathBuf> {
    let pins = shop
        .host
        .output("find", &["/sys/fs/bpf/hawser", "-name", name])?;
    let pin = pins.lines().next();
    let pin = pin.with_context(|| format!("no {name} is pinned"))?;
    Ok(shop.host.path(pin.as_ref()))
}

/// The program that is attached to the link to the outside.
fn attached_program(shop: &Shop, side: &str) -> Result<SchedClassifier> {
    let pin = pinned(shop, &format!("uplink_*_{side}"))?;
    let link = PinnedLink::from_pin(&pin).with_context(|| pin.display().to_string())?;
    let info = FdLink::from(link).info().context("link of an uplink")?;
    let number = info.program_id();
    let found = loaded_programs().find(|program| {
        let program = program.as_ref();
        program.is_ok_and(|program| program.id() == number)
    });
    let program = found.context("the uplink's program is gone")?;
    let program = program.context("the uplink's program")?;
    SchedClassifier::from_program_info(program, Cow::Owned(side.to_owned()))
        .context("the uplink's program")
}

fn client(own: IpAddr) -> IpAddr {
    match own {
        IpAddr::V4(_) => CLIENT_V4.into(),
        IpAddr::V6(_) => CLIENT_V6.into(),
    }
}

/// The client after which those come that begin flows: a million, none of which comes again.
fn first_of_many(own: IpAddr) -> IpAddr {
    match own {
        // 240.0.0.0/4 is nobody's (RFC 1112, 4).
        IpAddr::V4(_) => Ipv4Addr::new(240, 0, 0, 0).into(),
        IpAddr::V6(_) => Ipv6Addr::new(0x2001, 0xdb8, 8, 0, 0, 0, 0, 0).into(),
    }
}

/// A frame between the client and our endpoint. Its checksums are zero: the programs change them by
/// what they change of the packet, and nobody else sees it.
struct Frame {
    own: IpAddr,
    client: IpAddr,
    protocol: u8,
    flags: u8,
    payload: usize,
}

impl Frame {
    fn build(&self, own_port: u16, client_port: u16, is_reply: bool) -> Vec<u8> {
        let (mut from, mut to) = ((self.client, client_port), (self.own, own_port));
        if is_reply {
            (from, to) = (to, from);
        }
        let mut upper = [from.1.to_be_bytes(), to.1.to_be_bytes()].concat();
        match self.protocol {
            // Verification tag, checksum, and a DATA chunk (RFC 9260, 3.3.1) of the whole rest.
            SCTP => {
                upper.extend([0, 0, 0, 1, 0, 0, 0, 0]);
                let length = u16::try_from(16 + self.payload).unwrap_or(u16::MAX);
                upper.extend([&[0, 3][..], &length.to_be_bytes(), &[0; 12]].concat());
            }
            _ => upper.extend([
                0, 0, 0, 1, 0, 0, 0, 1, 0x50, self.flags, 0xff, 0xff, 0, 0, 0, 0,
            ]),
        }
        upper.resize(upper.len() + self.payload, 7);
        let length = u16::try_from(upper.len()).unwrap_or(u16::MAX);
        let mut frame = vec![0; 12];
        match (from.0, to.0) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                frame.extend([8, 0, 0x45, 0]);
                frame.extend((length + 20).to_be_bytes());
                frame.extend([0, 1, 0, 0, 64, self.protocol, 0, 0]);
                frame.extend([from.octets(), to.octets()].concat());
            }
            (from, to) => {
                let octets = |address| match address {
                    IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
                    IpAddr::V6(v6) => v6.octets(),
                };
                frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
                frame.extend(length.to_be_bytes());
                frame.extend([self.protocol, 64]);
                frame.extend([octets(from), octets(to)].concat());
            }
        }
        frame.extend(upper);
        frame
    }
}
