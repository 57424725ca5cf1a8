//! The maps: names (which are also their pin files), sizes, keys and values.
//!
//! ```text
//! prefilter  bit maps: ports published per family and protocol, sources that may be backends
//! frontends  address, port, protocol ──▶ service
//! ranges     the same for ranges of ports, by prefix
//! services   service ──▶ backend, or how to choose one
//! tables     service ──▶ table of backends, for services with several: see `maglev`
//! backends   id ──▶ address, port, generation
//! remotes    id ──▶ the node it is on, where that is another one: see `tunnel`
//! ct_half/ct_tcp/ct_any
//!                 client, frontend ──▶ backend      forward
//!                 backend, client  ──▶ frontend     reverse
//! ```

use crate::address::{Address, Be16};
use crate::dns::{ANSWERS, ASKERS, NAMES};
use crate::endpoint::{ENDPOINTS, FRAME_LINKS, PLACES, REFUSALS};
#[cfg(feature = "user")]
use crate::range::{RangeKey, RangeValue};
use crate::sealed::{SEALED, SEALED_PORT};
use crate::shortcut::SHORTCUTS;
use crate::trace::{TRACE_EVENTS, TRACE_FILTER, TRACE_LOST};
use crate::tunnel::{ARRIVALS, ARRIVING, HOMES, REMOTES};

pub const PREFILTER: &str = "prefilter";
pub const PREFILTER_SCTP: &str = "prefilter_sctp";
pub const PREFILTER_VIPS: &str = "prefilter_vips";
pub const FRONTENDS: &str = "frontends";
/// Frontends of several ports: see [`crate::range`].
pub const RANGES: &str = "ranges";
pub const SERVICES: &str = "services";
/// Tables of [`crate::maglev::SMALL`] slots, by service.
pub const TABLES: &str = "tables";
/// Tables of [`crate::maglev::LARGE`] slots, by service.
pub const LARGE_TABLES: &str = "large_tables";
/// The daemon's own notes: services with several backends by the daemon's number for them.
pub const BALANCED: &str = "balanced";
/// The daemon's own notes: the backends of those services.
pub const MEMBERS: &str = "members";
pub const BACKENDS: &str = "backends";
pub const LOCAL_ADDRS: &str = "local_addrs";
pub const CT_TCP: &str = "ct_tcp";
pub const CT_ANY: &str = "ct_any";
/// TCP flows until both ends have spoken, and the client once more: see [`MAX_CT_HALF`].
pub const CT_HALF: &str = "ct_half";
pub const FRAGMENTS: &str = "fragments";
pub const SANDBOXES: &str = "sandboxes";
pub const PEERS: &str = "peers";
/// Processes that may bind published ports, by their number in the first namespace.
pub const RUNTIMES: &str = "runtimes";
/// What the daemon asks by a connect, and the answers: see [`crate::question`].
pub const QUESTIONS: &str = "questions";
/// What went to and from each backend.
pub const TRAFFIC: &str = "traffic";
/// What was lost of each service; the programs make the entries.
pub const SERVICE_DROPS: &str = "service_drops";
pub const DROPS: &str = "drops";
/// The programs of the version before, while the daemon replaces them: indexed by
/// [`PreviousSlot`]. They know flows that nobody else knows yet.
pub const PREVIOUS: &str = "previous";
/// The tail-call table of the tc programs, indexed by [`TcSlot`].
pub const JUMP_TC: &str = "jump_tc";
/// Another one, indexed by [`StepSlot`]: the first keeps the size that it is pinned with.
pub const JUMP_STEPS: &str = "jump_steps";
/// That of the XDP programs, indexed by [`FrontSlot`].
pub const JUMP_FRONT: &str = "jump_front";

/// Every map but the tail-call tables.
pub const DATA: [&str; 39] = [
    PREFILTER,
    PREFILTER_SCTP,
    PREFILTER_VIPS,
    FRONTENDS,
    RANGES,
    SERVICES,
    TABLES,
    LARGE_TABLES,
    BALANCED,
    MEMBERS,
    BACKENDS,
    LOCAL_ADDRS,
    CT_TCP,
    CT_ANY,
    CT_HALF,
    FRAGMENTS,
    SANDBOXES,
    PEERS,
    RUNTIMES,
    TRAFFIC,
    SERVICE_DROPS,
    DROPS,
    ENDPOINTS,
    PLACES,
    FRAME_LINKS,
    REFUSALS,
    NAMES,
    ASKERS,
    ANSWERS,
    TRACE_FILTER,
    TRACE_EVENTS,
    TRACE_LOST,
    SHORTCUTS,
    REMOTES,
    HOMES,
    ARRIVALS,
    ARRIVING,
    SEALED_PORT,
    SEALED,
];

/// The tables that can fill up with what users and their traffic bring.
pub const MEASURED: [&str; 22] = [
    FRONTENDS,
    RANGES,
    SERVICES,
    TABLES,
    LARGE_TABLES,
    BALANCED,
    MEMBERS,
    LOCAL_ADDRS,
    CT_TCP,
    CT_ANY,
    CT_HALF,
    FRAGMENTS,
    SANDBOXES,
    PEERS,
    TRAFFIC,
    SERVICE_DROPS,
    ENDPOINTS,
    PLACES,
    NAMES,
    ASKERS,
    REMOTES,
    ARRIVALS,
];

/// The socket hooks. Each has a stub `<hook>_entry`, a program `<hook>` and a tail-call table
/// `jump_<hook>` of its own: from 6.1 on the kernel ties a table to one attach type.
pub const SOCKET_HOOKS: [&str; 10] = [
    "connect4",
    "connect6",
    "sendmsg4",
    "sendmsg6",
    "recvmsg4",
    "recvmsg6",
    "getpeername4",
    "getpeername6",
    "bind4",
    "bind6",
];

/// Slots of [`JUMP_TC`].
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcSlot {
    Ingress = 0,
    Egress = 1,
    /// ICMP errors from outside about replies of a backend.
    IngressIcmp = 2,
    /// ICMP errors on their way out about packets to a backend.
    EgressIcmp = 3,
    /// Packets from an endpoint.
    Endpoint = 4,
    /// Queries of an endpoint for its network's resolver.
    Names = 5,
    /// SCTP packets whose ports were changed: their checksum.
    Sctp = 6,
    /// Packets from an endpoint that may go on.
    Vouch = 7,
}

/// Slots of [`PREVIOUS`].
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PreviousSlot {
    Ingress = 0,
    Egress = 1,
}

/// Slots of [`JUMP_STEPS`].
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepSlot {
    /// Packets to a frontend that belong to no flow yet.
    Begin = 0,
    /// Packets to an endpoint, and its answers to itself.
    Reply = 1,
    /// Questions of an endpoint for link addresses.
    Neighbour = 2,
    /// Packets of an endpoint to a service's own address that lead to no backend.
    Answer = 3,
    /// Packets that another node has sent here: see [`crate::tunnel`].
    Arrive = 4,
    /// Those of them that belong to no flow yet.
    Admit = 5,
    /// Packets for another node that are too long for the way there.
    Large = 6,
    /// An endpoint's first packet of a connection that another node has sent here.
    Clamp = 7,
}

/// Slots of [`JUMP_FRONT`].
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrontSlot {
    Front = 0,
}

/// How many slots [`JUMP_FRONT`] has.
pub const FRONT_SLOTS: u32 = 4;

/// The program of each slot of [`JUMP_FRONT`].
pub const FRONT_PROGRAMS: [(FrontSlot, &str); 1] = [(FrontSlot::Front, "uplink_front")];

/// How many slots [`JUMP_STEPS`] has.
pub const STEP_SLOTS: u32 = 16;

/// The program of each slot of [`JUMP_STEPS`].
pub const STEP_PROGRAMS: [(StepSlot, &str); 8] = [
    (StepSlot::Begin, "uplink_begin"),
    (StepSlot::Reply, "endpoint_reply"),
    (StepSlot::Neighbour, "endpoint_neighbour"),
    (StepSlot::Answer, "endpoint_answer"),
    (StepSlot::Arrive, "tunnel_arrive"),
    (StepSlot::Admit, "tunnel_admit"),
    (StepSlot::Large, "uplink_large"),
    (StepSlot::Clamp, "endpoint_clamp"),
];

/// The program of each slot of [`JUMP_TC`], by its name in the object.
/// One that others call comes before them: a daemon fills the slots in this order.
pub const TC_PROGRAMS: [(TcSlot, &str); 8] = [
    (TcSlot::Sctp, "sctp_checksum"),
    (TcSlot::Ingress, "uplink_ingress"),
    (TcSlot::Egress, "uplink_egress"),
    (TcSlot::IngressIcmp, "icmp_ingress"),
    (TcSlot::EgressIcmp, "icmp_egress"),
    (TcSlot::Endpoint, "endpoint_ingress"),
    (TcSlot::Names, "endpoint_names"),
    (TcSlot::Vouch, "endpoint_vouch"),
];

pub const MAX_FRONTENDS: u32 = 65_536;
pub const MAX_RANGES: u32 = 65_536;
pub const MAX_SERVICES: u32 = 65_536;
pub const MAX_BACKENDS: u32 = 65_536;
/// Services with several backends, of either size of table.
pub const MAX_TABLES: u32 = 16_384;
pub const MAX_LOCAL_ADDRS: u32 = 4_096;
/// 17.8 MB for this many two-entry flows in the prototype.
pub const MAX_CT_TCP: u32 = 131_072;
/// UDP and SCTP. Apart from TCP's, so that a UDP flood cannot evict TCP flows.
pub const MAX_CT_ANY: u32 = 65_536;
/// Apart from [`CT_TCP`], so that packets of clients that never hear the answer, whose addresses are
/// forged, evict their like and no connection.
pub const MAX_CT_HALF: u32 = 65_536;
pub const MAX_FRAGMENTS: u32 = 8_192;
pub const MAX_SANDBOXES: u32 = 65_536;
pub const MAX_PEERS: u32 = 65_536;
pub const MAX_RUNTIMES: u32 = 1_024;
pub const MAX_QUESTIONS: u32 = 64;
/// A backend's entry each, and a service's for those it had.
pub const MAX_TRAFFIC: u32 = MAX_BACKENDS + MAX_SERVICES;
/// Most services lose nothing.
pub const MAX_SERVICE_DROPS: u32 = MAX_SERVICES;

/// Key of [`FRONTENDS`]. A wildcard frontend has [`Address::ANY4`] or [`Address::ANY6`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrontendKey {
    pub address: Address,
    pub port: Be16,
    pub protocol: u8,
    /// Reserved for frontends that only some sources may reach; zero.
    pub scope: u8,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrontendValue {
    pub service: u32,
    pub flags: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Service {
    /// How many it has.
    pub backends: u32,
    /// Index into [`BACKENDS`]; [`NO_BACKEND`] when a table chooses.
    pub backend: u32,
    /// The backend that this one replaces, until it is retired; zero if none. A daemon that died
    /// between the two writes finds it here.
    pub retiring: u32,
    /// Of [`SERVICE_BALANCED`] and those after it.
    pub flags: u32,
}

/// A table chooses the backend of each flow.
pub const SERVICE_BALANCED: u32 = 1;
/// The table is in [`LARGE_TABLES`].
pub const SERVICE_LARGE: u32 = 2;
/// All flows of a client go to one backend.
pub const SERVICE_AFFINITY: u32 = 4;
/// The daemon is changing the table: should it die, the next one makes it anew.
pub const SERVICE_CHANGING: u32 = 8;
/// Every port of a range leads to the backends' one port, instead of each to its own.
pub const SERVICE_ONE_PORT: u32 = 16;
/// Its frontends stand for its backends on their own network. They are not published: a packet to
/// them may go where one to the backend's own address may.
pub const SERVICE_VIP: u32 = 32;
/// Other nodes may send to its backends here.
pub const SERVICE_REACHABLE: u32 = 64;

/// Key of [`MEMBERS`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MemberKey {
    pub service: u32,
    /// Index into [`BACKENDS`].
    pub backend: u32,
}

/// Slot zero of [`BACKENDS`] is never used, so that zero can mean "none".
pub const NO_BACKEND: u32 = 0;
/// Nor is zero a service's number.
pub const NO_SERVICE: u32 = 0;

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backend {
    pub address: Address,
    /// Raised each time the slot is retired: a flow that remembers another one is stale.
    pub generation: u32,
    pub port: Be16,
    /// Of [`BACKEND_LIVE`] and those after it.
    pub state: u16,
}

pub const BACKEND_LIVE: u16 = 1;
/// On another node: packets from outside go through the tunnel.
pub const BACKEND_REMOTE: u16 = 2;

impl Backend {
    #[inline(always)]
    pub const fn is_live(&self) -> bool {
        self.state & BACKEND_LIVE != 0
    }

    #[inline(always)]
    pub const fn is_remote(&self) -> bool {
        self.state & BACKEND_REMOTE != 0
    }
}

#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Forward = 0,
    Reverse = 1,
}

/// Key of [`CT_TCP`] and [`CT_ANY`]: the packet as it arrives at the hook.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowKey {
    pub source: Address,
    pub destination: Address,
    pub source_port: Be16,
    pub destination_port: Be16,
    pub protocol: u8,
    pub direction: u8,
    pub pad: u16,
}

/// What becomes of a flow's packets.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// Forward: the backend, the new destination. Reverse: the frontend, the new source.
    pub address: Address,
    /// `bpf_ktime_get_ns` of the last packet.
    pub last_seen: u64,
    /// Approximate: two CPUs may write at once. Exact figures are in [`TRAFFIC`].
    pub packets: u64,
    pub bytes: u64,
    pub service: u32,
    pub backend: u32,
    /// Of the backend, when the flow was made.
    pub generation: u32,
    /// Forward: the backend's port. Reverse: the frontend's.
    pub port: Be16,
    /// The client's port after translation: another one only where two frontends of one backend
    /// are used from one client port.
    pub client_port: Be16,
    /// A [`crate::flow::State`].
    pub state: u8,
    /// Of [`FLOW_VIP`] and those after it.
    pub flags: u8,
    /// The interface by which packets of this direction left the host, the lower half of its number.
    pub exit: u16,
    /// Until when packets of this direction take the shortcut: see [`crate::shortcut`].
    pub epoch: u32,
}

/// The frontend is a [`SERVICE_VIP`]'s.
pub const FLOW_VIP: u8 = 1;
/// The client is an endpoint of this host, and the packets come from its link.
pub const FLOW_ENDPOINT: u8 = 2;
/// The client is the backend: to it, the frontend is the client, and its answers to that one come from
/// its link, too.
pub const FLOW_SELF: u8 = 4;
/// The backend is on another node, which answers the client itself: no reply is seen here, and there is
/// no reverse entry.
pub const FLOW_REMOTE: u8 = 8;
/// The client's packets come from another node.
pub const FLOW_TUNNEL: u8 = 16;

/// Key of [`FRAGMENTS`]: what all fragments of one packet share.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentKey {
    pub source: Address,
    pub destination: Address,
    pub id: u32,
    pub protocol: u8,
    pub pad: [u8; 3],
}

/// The ports that only the first fragment carries.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FragmentPorts {
    pub source_port: Be16,
    pub destination_port: Be16,
}

impl FragmentPorts {
    /// Both, in the order in which a packet has them.
    #[inline(always)]
    pub const fn word(self) -> u32 {
        let ([a, b], [c, d]) = (
            self.source_port.0.to_ne_bytes(),
            self.destination_port.0.to_ne_bytes(),
        );
        u32::from_ne_bytes([a, b, c, d])
    }
}

/// Value of [`SANDBOXES`], whose key is a network namespace cookie.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SandboxValue {
    /// Where 127.0.0.11:53 leads; port zero if nowhere.
    pub dns_address: Address,
    pub dns_port: Be16,
    /// Where on 127.0.0.11 it leads sockets that are bound to loopback; zero if nowhere.
    pub dns_inside_port: Be16,
    /// [`SANDBOX_HOST`], [`SANDBOX_APART`] or zero.
    pub flags: u32,
}

/// The namespace is the host's own.
pub const SANDBOX_HOST: u32 = 1;
/// The container has no way to the backends of frontends, as on a macvlan network: names lead to its
/// name server, and every other destination means what it says.
pub const SANDBOX_APART: u32 = 2;

/// Key of [`PEERS`]: a socket and a translated address it talks to. Because the address is part of
/// the key, a packet from the same socket's other peers is never mistaken for a translated one.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PeerKey {
    pub socket: u64,
    pub address: Address,
    pub port: Be16,
    pub pad: [u16; 3],
}

/// The address the application named.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    pub address: Address,
    pub port: Be16,
    /// [`PEER_VIP`] or zero.
    pub flags: u16,
}

/// The frontend is a [`SERVICE_VIP`]'s.
pub const PEER_VIP: u16 = 1;

/// Key of [`TRAFFIC`]. With [`NO_BACKEND`] it has what the service's former backends had: a
/// service's sums never go back.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TrafficKey {
    pub service: u32,
    pub backend: u32,
}

/// Value of [`TRAFFIC`], per CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub packets_in: u64,
    pub bytes_in: u64,
    pub packets_out: u64,
    pub bytes_out: u64,
    /// Flows that came through an uplink.
    pub new_flows: u64,
    /// Sockets that the socket hooks connected.
    pub connects: u64,
    /// Datagrams that the socket hooks sent there, of sockets that are not connected.
    pub datagrams: u64,
}

/// Key of [`SERVICE_DROPS`]; its value, per CPU, counts.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DropKey {
    pub service: u32,
    /// A [`Reason`].
    pub reason: u32,
}

/// Why a packet was dropped, or left alone where a translation was due. Index into [`DROPS`].
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A published port whose container is gone.
    NoBackend = 0,
    /// The backend has no address of the packet's family; left to the host's stack.
    Family = 1,
    /// No source port left that would tell this flow from another one of the same backend.
    PortsExhausted = 2,
    /// A flow or fragment table took no entry.
    FlowTable = 3,
    /// A header that ends early, or more extension headers than are followed; left to the stack.
    Malformed = 4,
    /// The packet could not be rewritten.
    Rewrite = 5,
    /// Too long for the way to the node of its backend; its sender is told where that can be.
    TooLong = 6,
    /// From another node, for a backend that is here no more.
    Stale = 7,
}

pub const REASONS: [&str; 8] = [
    "no-backend",
    "family",
    "ports-exhausted",
    "flow-table",
    "malformed",
    "rewrite",
    "too-long",
    "stale",
];

const _: () = {
    assert!(size_of::<FrontendKey>() == 20);
    assert!(size_of::<FrontendValue>() == 8);
    assert!(size_of::<Service>() == 16);
    assert!(size_of::<MemberKey>() == 8);
    assert!(size_of::<Backend>() == 24);
    assert!(size_of::<FlowKey>() == 40);
    assert!(size_of::<Flow>() == 64);
    assert!(size_of::<FragmentKey>() == 40);
    assert!(size_of::<FragmentPorts>() == 4);
    assert!(size_of::<SandboxValue>() == 24);
    assert!(size_of::<PeerKey>() == 32);
    assert!(size_of::<Peer>() == 20);
    assert!(size_of::<TrafficKey>() == 8);
    assert!(size_of::<Counters>() == 56);
    assert!(size_of::<DropKey>() == 8);
    assert!(REASONS.len() == Reason::Stale as usize + 1);
};

#[cfg(feature = "user")]
pod!(
    Address,
    FrontendKey,
    FrontendValue,
    RangeKey,
    RangeValue,
    Service,
    MemberKey,
    Backend,
    FlowKey,
    Flow,
    FragmentKey,
    FragmentPorts,
    SandboxValue,
    PeerKey,
    Peer,
    TrafficKey,
    Counters,
    DropKey
);
