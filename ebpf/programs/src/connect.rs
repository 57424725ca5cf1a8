//! connect4, connect6: a process that names a published port, or 127.0.0.11, talks to the
//! container, or the name server, from the first packet on.
//!
//! Who names a service that nobody serves is refused. The helper that says why came with 5.18:
//! `connect4_older` and `connect6_older` leave that to the packets.

use abi::maglev::number_hash;
use abi::map::{Backend, NO_BACKEND, NO_SERVICE, PEER_VIP, Peer, Reason, SERVICE_VIP, Service};
use abi::socket::{Route, reaches, route};
use abi::trace::{Decision, Ends};
use abi::{Address, Be16};
use aya_ebpf::helpers::bpf_set_retval;
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;

use crate::count::Lost;
use crate::lookup::{self, Asker, Found};
use crate::socket::{self, ALLOW, Family, REFUSE};
use crate::trace::Said;
use crate::{count, map, peer, trace};

const ECONNREFUSED: i32 = 111;

#[cgroup_sock_addr(connect4)]
pub(crate) fn connect4(ctx: SockAddrContext) -> i32 {
    connect(&ctx, Family::V4)
}

#[cgroup_sock_addr(connect6)]
pub(crate) fn connect6(ctx: SockAddrContext) -> i32 {
    connect(&ctx, Family::V6)
}

#[cgroup_sock_addr(connect4)]
pub(crate) fn connect4_older(ctx: SockAddrContext) -> i32 {
    let bound = socket::bound(&ctx, Family::V4);
    redirect(&ctx, Family::V4, bound, true);
    ALLOW
}

#[cgroup_sock_addr(connect6)]
pub(crate) fn connect6_older(ctx: SockAddrContext) -> i32 {
    let bound = socket::bound(&ctx, Family::V6);
    redirect(&ctx, Family::V6, bound, true);
    ALLOW
}

#[inline(always)]
fn connect(ctx: &SockAddrContext, family: Family) -> i32 {
    let bound = socket::bound(ctx, family);
    let Some(Led::Nowhere) = redirect(ctx, family, bound, true) else {
        return ALLOW;
    };
    // SAFETY: the helper has no preconditions; it fails for values that are no errno.
    unsafe { bpf_set_retval(-ECONNREFUSED) };
    REFUSE
}

/// Where a call was led.
pub(crate) enum Led {
    ToBackend,
    /// Nobody serves the service whose own address it names, and no stack would say so.
    Nowhere,
}

/// Points the call at where its destination really is. `connected` says that all later packets of
/// the socket go there, too. `None` and [`Led::Nowhere`] mean that the call stays as it was.
#[inline(always)]
pub(crate) fn redirect(
    ctx: &SockAddrContext,
    family: Family,
    bound: Address,
    connected: bool,
) -> Option<Led> {
    let sandbox = socket::sandbox(ctx)?;
    let protocol = socket::protocol(ctx)?;
    let (named, port) = (socket::address(ctx, family), socket::port(ctx));
    let destination = named.connect_target();
    let (mut service, mut backend_id, mut flags) = (NO_SERVICE, NO_BACKEND, 0);
    let ends = || Ends {
        source: Address::ANY6,
        destination,
        source_port: Be16::ZERO,
        destination_port: port,
        protocol,
    };
    let (address, new_port) = match route(sandbox, destination, port, bound) {
        Route::Untouched => return None,
        Route::Dns => (sandbox.dns_address, sandbox.dns_port),
        Route::DnsInside => (destination, sandbox.dns_inside_port),
        Route::Frontend { wildcard } => {
            let target = match lookup::find(destination, port, protocol, wildcard, &Caller(ctx)) {
                Found::Target(mut target) => {
                    target.near(port);
                    target
                }
                Found::Nothing => {
                    trace::tell(ends, || Said::nowhere(Decision::Miss, None, 0));
                    return None;
                }
                // Nobody listens on a published port of the host, so the process is refused there.
                Found::NoBackend(service) => {
                    let lost = Lost::of(service)(Reason::NoBackend);
                    count::lost(&lost);
                    trace::tell(ends, || Said::nowhere(Decision::Lost, Some(&lost), 0));
                    let is_vip = |service: Service| service.flags & SERVICE_VIP != 0;
                    return map::service(service)
                        .is_some_and(is_vip)
                        .then_some(Led::Nowhere);
                }
            };
            (service, backend_id) = (target.service, target.id);
            flags = if target.vip { PEER_VIP } else { 0 };
            let Backend { address, port, .. } = target.backend;
            (address, port)
        }
    };
    if !reaches(
        matches!(family, Family::V6),
        destination,
        address,
        connected,
    ) {
        let lost = Lost::of(service)(Reason::Family);
        count::lost(&lost);
        trace::tell(ends, || Said::nowhere(Decision::Lost, Some(&lost), 0));
        return None;
    }
    // Without the entry the process would see answers from an address it never named.
    let peer = Peer {
        address: named,
        port,
        flags,
    };
    peer::remember(ctx, address, new_port, peer)?;
    socket::set(ctx, family, address, new_port);
    if service != NO_SERVICE {
        let decision = if connected {
            Decision::Connect
        } else {
            Decision::Send
        };
        let said = || Said {
            decision,
            reason: 0,
            service,
            to: address,
            to_port: new_port,
            length: 0,
        };
        trace::tell(ends, said);
    }
    count::begun(service, backend_id, |counters| {
        if connected {
            counters.connects += 1;
        } else {
            counters.datagrams += 1;
        }
    });
    Some(Led::ToBackend)
}

/// A process whose socket has no address yet: each socket is a flow, each namespace a client.
struct Caller<'a>(&'a SockAddrContext);

impl Asker for Caller<'_> {
    #[inline(always)]
    fn hash(&self, affinity: bool) -> u64 {
        let Self(ctx) = self;
        number_hash(if affinity {
            socket::namespace(ctx)
        } else {
            socket::cookie(ctx)
        })
    }
}
