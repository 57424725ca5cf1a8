//! The maps; `abi::map` describes them.

use abi::dns::{ANSWER_NAMES, AskerKey, AskerValue, MAX_ASKERS, MAX_NAMES, NameKey, NameValue};
use abi::endpoint::{EndpointValue, MAX_ENDPOINTS, MAX_PLACES, Place, REFUSAL_NAMES};
use abi::frontend::{Bit, PREFILTER_SCTP_WORDS, PREFILTER_VIPS_WORDS, PREFILTER_WORDS};
use abi::maglev::{self, LARGE, LARGE_WORDS, SMALL, SMALL_WORDS};
use abi::map::{
    Backend, Counters, DropKey, FRONT_SLOTS, Flow, FlowKey, FragmentKey, FragmentPorts,
    FrontendKey, FrontendValue, MAX_BACKENDS, MAX_CT_ANY, MAX_CT_HALF, MAX_CT_TCP, MAX_FRAGMENTS,
    MAX_FRONTENDS, MAX_LOCAL_ADDRS, MAX_PEERS, MAX_QUESTIONS, MAX_RANGES, MAX_RUNTIMES,
    MAX_SANDBOXES, MAX_SERVICE_DROPS, MAX_SERVICES, MAX_TABLES, MAX_TRAFFIC, MemberKey, Peer,
    PeerKey, REASONS, Reason, STEP_SLOTS, SandboxValue, Service, TrafficKey,
};
use abi::range::{ALL_BITS, RangeKey, RangeValue};
use abi::sealed::MAX_SEALED;
use abi::shortcut::Shortcuts;
use abi::trace::{Filter, TRACE_RING_BYTES};
use abi::tunnel::{Arriving, Remote};
use abi::{Address, protocol};
use aya_ebpf::bindings::xdp_action::XDP_PASS;
use aya_ebpf::bindings::{BPF_F_NO_COMMON_LRU, BPF_F_NO_PREALLOC, BPF_NOEXIST};
use aya_ebpf::btf_maps::{Array as InnerArray, HashOfMaps};
use aya_ebpf::macros::{btf_map, map};
use aya_ebpf::maps::lpm_trie::Key;
use aya_ebpf::maps::{
    Array, DevMapHash, HashMap, LpmTrie, LruHashMap, PerCpuArray, PerCpuHashMap, ProgramArray,
    RingBuf,
};

use crate::clock::Clock;
use crate::count;

/// Maps only the daemon writes take memory by the entry, and their values stay valid for the whole
/// run of a program: the kernel frees them after an RCU grace period instead of reusing them.
const SPARSE: u32 = BPF_F_NO_PREALLOC;
/// One free list a CPU: a new flow costs half of what it does with a common one.
const PER_CPU_LRU: u32 = BPF_F_NO_COMMON_LRU;

#[map(name = "prefilter")]
static PREFILTER: Array<u64> = Array::with_max_entries(PREFILTER_WORDS, 0);
#[map(name = "prefilter_sctp")]
static PREFILTER_SCTP: Array<u64> = Array::with_max_entries(PREFILTER_SCTP_WORDS, 0);
#[map(name = "prefilter_vips")]
static PREFILTER_VIPS: Array<u64> = Array::with_max_entries(PREFILTER_VIPS_WORDS, 0);
#[map(name = "frontends")]
static FRONTENDS: HashMap<FrontendKey, FrontendValue> =
    HashMap::with_max_entries(MAX_FRONTENDS, SPARSE);
#[map(name = "ranges")]
static RANGES: LpmTrie<RangeKey, RangeValue> = LpmTrie::with_max_entries(MAX_RANGES, 0);
#[map(name = "services")]
static SERVICES: HashMap<u32, Service> = HashMap::with_max_entries(MAX_SERVICES, SPARSE);
/// One element, so that a table is written at once.
#[btf_map(name = "tables")]
static TABLES: HashOfMaps<
    u32,
    InnerArray<[u32; SMALL_WORDS], 1>,
    { MAX_TABLES as usize },
    { SPARSE as usize },
> = HashOfMaps::new();
#[btf_map(name = "large_tables")]
static LARGE_TABLES: HashOfMaps<
    u32,
    InnerArray<[u32; LARGE_WORDS], 1>,
    { MAX_TABLES as usize },
    { SPARSE as usize },
> = HashOfMaps::new();
#[map(name = "balanced")]
static BALANCED: HashMap<u64, u32> = HashMap::with_max_entries(MAX_TABLES, SPARSE);
#[map(name = "members")]
static MEMBERS: HashMap<MemberKey, u32> = HashMap::with_max_entries(MAX_BACKENDS, SPARSE);
#[map(name = "backends")]
static BACKENDS: Array<Backend> = Array::with_max_entries(MAX_BACKENDS, 0);
#[map(name = "local_addrs")]
static LOCAL_ADDRS: HashMap<Address, u32> = HashMap::with_max_entries(MAX_LOCAL_ADDRS, SPARSE);
#[map(name = "ct_tcp")]
static CT_TCP: LruHashMap<FlowKey, Flow> = LruHashMap::with_max_entries(MAX_CT_TCP, PER_CPU_LRU);
#[map(name = "ct_any")]
static CT_ANY: LruHashMap<FlowKey, Flow> = LruHashMap::with_max_entries(MAX_CT_ANY, PER_CPU_LRU);
#[map(name = "ct_half")]
pub(crate) static CT_HALF: LruHashMap<FlowKey, Flow> =
    LruHashMap::with_max_entries(MAX_CT_HALF, PER_CPU_LRU);
#[map(name = "fragments")]
static FRAGMENTS: LruHashMap<FragmentKey, FragmentPorts> =
    LruHashMap::with_max_entries(MAX_FRAGMENTS, 0);
#[map(name = "sandboxes")]
static SANDBOXES: HashMap<u64, SandboxValue> = HashMap::with_max_entries(MAX_SANDBOXES, SPARSE);
#[map(name = "peers")]
pub(crate) static PEERS: LruHashMap<PeerKey, Peer> = LruHashMap::with_max_entries(MAX_PEERS, 0);
#[map(name = "runtimes")]
static RUNTIMES: LruHashMap<u32, u32> = LruHashMap::with_max_entries(MAX_RUNTIMES, 0);
#[map(name = "questions")]
static QUESTIONS: HashMap<u32, u64> = HashMap::with_max_entries(MAX_QUESTIONS, SPARSE);
#[map(name = "traffic")]
static TRAFFIC: PerCpuHashMap<TrafficKey, Counters> =
    PerCpuHashMap::with_max_entries(MAX_TRAFFIC, SPARSE);
#[map(name = "service_drops")]
static SERVICE_DROPS: PerCpuHashMap<DropKey, u64> =
    PerCpuHashMap::with_max_entries(MAX_SERVICE_DROPS, SPARSE);
#[map(name = "drops")]
static DROPS: PerCpuArray<u64> = PerCpuArray::with_max_entries(REASONS.len() as u32, 0);
#[map(name = "endpoints")]
static ENDPOINTS: HashMap<u32, EndpointValue> = HashMap::with_max_entries(MAX_ENDPOINTS, SPARSE);
#[map(name = "places")]
static PLACES: HashMap<Address, Place> = HashMap::with_max_entries(MAX_PLACES, SPARSE);
#[map(name = "refusals")]
static REFUSALS: PerCpuArray<u64> = PerCpuArray::with_max_entries(REFUSAL_NAMES.len() as u32, 0);
#[map(name = "names")]
static NAMES: HashMap<NameKey, NameValue> = HashMap::with_max_entries(MAX_NAMES, SPARSE);
#[map(name = "askers")]
static ASKERS: HashMap<AskerKey, AskerValue> = HashMap::with_max_entries(MAX_ASKERS, SPARSE);
#[map(name = "answers")]
static ANSWERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(ANSWER_NAMES.len() as u32, 0);
#[map(name = "trace_filter")]
static TRACE_FILTER: Array<Filter> = Array::with_max_entries(1, 0);
#[map(name = "trace_events")]
pub(crate) static TRACE_EVENTS: RingBuf = RingBuf::with_byte_size(TRACE_RING_BYTES, 0);
#[map(name = "trace_lost")]
static TRACE_LOST: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);
#[map(name = "shortcuts")]
static SHORTCUTS: Array<Shortcuts> = Array::with_max_entries(1, 0);
#[map(name = "remote_backends")]
static REMOTES: HashMap<u32, Remote> = HashMap::with_max_entries(MAX_BACKENDS, SPARSE);
#[map(name = "remote_homes")]
static HOMES: HashMap<u32, Address> = HashMap::with_max_entries(MAX_BACKENDS, SPARSE);
#[map(name = "arrivals")]
static ARRIVALS: HashMap<u32, u32> = HashMap::with_max_entries(MAX_BACKENDS, SPARSE);
#[map(name = "arriving")]
static ARRIVING: Array<Arriving> = Array::with_max_entries(1, 0);
#[map(name = "sealed_port")]
static SEALED_PORT: Array<u32> = Array::with_max_entries(1, 0);
#[map(name = "sealed")]
static SEALED: PerCpuHashMap<u32, u64> = PerCpuHashMap::with_max_entries(MAX_SEALED, SPARSE);
#[map(name = "frame_links")]
static FRAME_LINKS: DevMapHash = DevMapHash::with_max_entries(MAX_ENDPOINTS, 0);
/// Not pinned: no more than a note.
#[map(name = "clock")]
static CLOCK: PerCpuArray<Clock> = PerCpuArray::with_max_entries(1, 0);
/// Not pinned. Verifiers before 6.3 tell stacks apart by which of their bytes are known to be zero: a
/// name that was read there would double the work.
#[map(name = "name_key")]
static NAME_KEY: PerCpuArray<NameKey> = PerCpuArray::with_max_entries(1, 0);
#[map(name = "jump_tc")]
pub(crate) static JUMP_TC: ProgramArray = ProgramArray::with_max_entries(8, 0);
#[map(name = "jump_steps")]
pub(crate) static JUMP_STEPS: ProgramArray = ProgramArray::with_max_entries(STEP_SLOTS, 0);
#[map(name = "jump_front")]
pub(crate) static JUMP_FRONT: ProgramArray = ProgramArray::with_max_entries(FRONT_SLOTS, 0);
#[map(name = "previous")]
pub(crate) static PREVIOUS: ProgramArray = ProgramArray::with_max_entries(2, 0);

#[inline(always)]
pub(crate) fn clock() -> Option<*mut Clock> {
    CLOCK.get_ptr_mut(0)
}

#[inline(always)]
pub(crate) fn name_key() -> Option<*mut NameKey> {
    NAME_KEY.get_ptr_mut(0)
}

/// Which packets may go past the host's stack.
#[inline(always)]
pub(crate) fn shortcuts() -> Shortcuts {
    SHORTCUTS.get(0).copied().unwrap_or_default()
}

/// Whether a service may have all ports of the address.
#[inline(always)]
pub(crate) fn may_be_vip(address: Address) -> bool {
    let bit = Bit::vip(address);
    let word = PREFILTER_VIPS.get(bit.word - PREFILTER_WORDS - PREFILTER_SCTP_WORDS);
    word.is_some_and(|word| word & bit.mask != 0)
}

/// One bit of the prefilter, of a port or a source.
#[inline(always)]
pub(crate) fn is_set(bit: Bit) -> bool {
    let word = match PREFILTER.get(bit.word) {
        Some(word) => Some(word),
        None => PREFILTER_SCTP.get(bit.word - PREFILTER_WORDS),
    };
    word.is_some_and(|word| word & bit.mask != 0)
}

#[inline(always)]
pub(crate) fn frontend(key: &FrontendKey) -> Option<FrontendValue> {
    // SAFETY: the map is SPARSE, so the value outlives this run; it is copied at once.
    unsafe { FRONTENDS.get(key) }.copied()
}

/// The range that a frontend's port is in.
#[inline(always)]
pub(crate) fn range(key: &FrontendKey) -> Option<RangeValue> {
    RANGES.get(Key::new(ALL_BITS, RangeKey::of(key))).copied()
}

#[inline(always)]
pub(crate) fn service(id: u32) -> Option<Service> {
    // SAFETY: as in `frontend`.
    unsafe { SERVICES.get(id) }.copied()
}

/// The backend that a service's table has for a flow.
#[inline(always)]
pub(crate) fn chosen(service: u32, large: bool, hash: u64) -> Option<u32> {
    // SAFETY: as in `frontend`; a table that is replaced outlives this run as well.
    unsafe {
        if large {
            let table = LARGE_TABLES.get_value(&service, &0)?;
            table.get(bounded(maglev::slot(hash, LARGE))).copied()
        } else {
            let table = TABLES.get_value(&service, &0)?;
            table.get(bounded(maglev::slot(hash, SMALL))).copied()
        }
    }
}

/// The slot, of which the compiler forgets that it is within the table, so that it keeps the check:
/// before Linux 6.10 the verifier knows nothing of a product with an unknown factor
/// (`adjust_scalar_min_max_vals`).
#[inline(always)]
fn bounded(slot: usize) -> usize {
    // SAFETY: a pointer to a variable of ours.
    unsafe { (&raw const slot).read_volatile() }
}

#[inline(always)]
pub(crate) fn backend(id: u32) -> Option<&'static Backend> {
    BACKENDS.get(id)
}

/// Where a backend on another node is.
#[inline(always)]
pub(crate) fn remote(backend: u32) -> Option<&'static Remote> {
    // SAFETY: as in `sandbox`.
    unsafe { REMOTES.get(backend) }
}

/// The address of a backend's node, if that is another one.
#[inline(always)]
pub(crate) fn home(backend: u32) -> Option<&'static Address> {
    // SAFETY: as in `sandbox`.
    unsafe { HOMES.get(backend) }
}

/// The service of a backend that other nodes may send to.
#[inline(always)]
pub(crate) fn arrival(backend: u32) -> Option<u32> {
    // SAFETY: as in `frontend`.
    unsafe { ARRIVALS.get(backend) }.copied()
}

/// What other nodes can send here.
#[inline(always)]
pub(crate) fn arriving() -> Arriving {
    ARRIVING.get(0).copied().unwrap_or_default()
}

#[inline(always)]
pub(crate) fn is_local(address: &Address) -> bool {
    LOCAL_ADDRS.get_ptr(address).is_some()
}

#[inline(always)]
pub(crate) fn sandbox(cookie: u64) -> Option<&'static SandboxValue> {
    // SAFETY: as in `frontend`; the reference is not kept beyond the run.
    unsafe { SANDBOXES.get(cookie) }
}

#[inline(always)]
pub(crate) fn is_runtime(process: u32) -> bool {
    RUNTIMES.get_ptr(process).is_some()
}

#[inline(always)]
pub(crate) fn answer_to(question: u32) -> Option<*mut u64> {
    QUESTIONS.get_ptr_mut(question)
}

#[inline(always)]
pub(crate) fn traffic(service: u32, backend: u32) -> Option<*mut Counters> {
    TRAFFIC.get_ptr_mut(TrafficKey { service, backend })
}

/// Makes the counters of a backend that has none yet: its first flow does, because most published
/// ports have none, and each entry takes a value of every CPU and the daemon 15 µs.
#[inline(always)]
pub(crate) fn make_traffic(service: u32, backend: u32) {
    let key = TrafficKey { service, backend };
    if TRAFFIC.get_ptr(key).is_none() {
        // Another CPU may have made it meanwhile. Where there is no memory, the next flow tries again.
        let _made = TRAFFIC.insert(key, Counters::default(), u64::from(BPF_NOEXIST));
    }
}

/// What a service lost for one reason; the entry is made at its first packet.
#[inline(always)]
pub(crate) fn service_drop_counter(key: &DropKey) -> Option<*mut u64> {
    if let Some(slot) = SERVICE_DROPS.get_ptr_mut(key) {
        return Some(slot);
    }
    // Another CPU may have made it meanwhile; a table that is full counts for all services only.
    let _made = SERVICE_DROPS.insert(key, 0, u64::from(BPF_NOEXIST));
    SERVICE_DROPS.get_ptr_mut(key)
}

#[inline(always)]
pub(crate) fn sealed_port() -> u32 {
    SEALED_PORT.get(0).copied().unwrap_or_default()
}

/// The counter of an encrypted network.
#[inline(always)]
pub(crate) fn sealed(network: u32) -> Option<*mut u64> {
    SEALED.get_ptr_mut(network)
}

#[inline(always)]
pub(crate) fn drop_counter(reason: u32) -> Option<*mut u64> {
    DROPS.get_ptr_mut(reason)
}

#[inline(always)]
pub(crate) fn endpoint(ifindex: u32) -> Option<&'static EndpointValue> {
    // SAFETY: as in `sandbox`.
    unsafe { ENDPOINTS.get(ifindex) }
}

/// The endpoint that has the address.
#[inline(always)]
pub(crate) fn place(address: &Address) -> Option<&'static Place> {
    // SAFETY: as in `sandbox`.
    unsafe { PLACES.get(address) }
}

/// Has the frame enter the far end of a link when the program ends with what is returned:
/// `XDP_REDIRECT` if that end takes frames.
#[inline(always)]
pub(crate) fn enter_frame(ifindex: u32) -> u32 {
    match FRAME_LINKS.redirect(ifindex, u64::from(XDP_PASS)) {
        Ok(action) | Err(action) => action,
    }
}

#[inline(always)]
pub(crate) fn name(key: &NameKey) -> Option<NameValue> {
    // SAFETY: as in `frontend`.
    unsafe { NAMES.get(key) }.copied()
}

#[inline(always)]
pub(crate) fn asker(key: &AskerKey) -> Option<&'static AskerValue> {
    // SAFETY: as in `sandbox`.
    unsafe { ASKERS.get(key) }
}

#[inline(always)]
pub(crate) fn answer_counter(what: u32) -> Option<*mut u64> {
    ANSWERS.get_ptr_mut(what)
}

#[inline(always)]
pub(crate) fn refusal_counter(refusal: u32) -> Option<*mut u64> {
    REFUSALS.get_ptr_mut(refusal)
}

#[inline(always)]
pub(crate) fn trace_filter() -> Option<&'static Filter> {
    TRACE_FILTER.get(0)
}

#[inline(always)]
pub(crate) fn trace_lost() -> Option<*mut u64> {
    TRACE_LOST.get_ptr_mut(0)
}

/// TCP and the rest have a table each.
#[inline(always)]
pub(crate) fn flows(proto: u8) -> &'static LruHashMap<FlowKey, Flow> {
    if proto == protocol::TCP {
        &CT_TCP
    } else {
        &CT_ANY
    }
}

/// Where flows begin.
#[inline(always)]
pub(crate) fn beginnings(proto: u8) -> &'static LruHashMap<FlowKey, Flow> {
    if proto == protocol::TCP {
        &CT_HALF
    } else {
        &CT_ANY
    }
}

/// A flow, wherever it is.
#[inline(always)]
pub(crate) fn flow(key: &FlowKey) -> Option<*mut Flow> {
    match flows(key.protocol).get_ptr_mut(key) {
        None if key.protocol == protocol::TCP => CT_HALF.get_ptr_mut(key),
        found => found,
    }
}

#[inline(always)]
pub(crate) fn fragment_ports(key: &FragmentKey) -> Option<FragmentPorts> {
    // SAFETY: an LRU value may be recycled while it is read; the four bytes are copied in one
    // load, and ports of another packet lead at worst to a flow that does not exist.
    unsafe { FRAGMENTS.get(key) }.copied()
}

/// Remembers the ports of a first fragment.
#[inline(always)]
pub(crate) fn remember_fragment(key: &FragmentKey, ports: FragmentPorts) {
    if FRAGMENTS.insert(key, ports, 0).is_err() {
        count::reason(Reason::FlowTable);
    }
}
