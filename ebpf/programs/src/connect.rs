//! connect4, connect6: a process that names a published port, or 127.0.0.11, talks to the
//! container, or the name server, from the first packet on.

use abi::Address;
use abi::maglev::number_hash;
use abi::map::{Backend, NO_BACKEND, NO_SERVICE, PEER_VIP, Peer, Reason};
use abi::socket::{Route, reaches, route};
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;

use crate::count::Lost;
use crate::lookup::{self, Asker, Found, Target};
use crate::socket::{self, ALLOW, Family};
use crate::{count, peer};

#[cgroup_sock_addr(connect4)]
pub(crate) fn connect4(ctx: SockAddrContext) -> i32 {
    let bound = socket::bound(&ctx, Family::V4);
    redirect(&ctx, Family::V4, bound, true);
    ALLOW
}

#[cgroup_sock_addr(connect6)]
pub(crate) fn connect6(ctx: SockAddrContext) -> i32 {
    let bound = socket::bound(&ctx, Family::V6);
    redirect(&ctx, Family::V6, bound, true);
    ALLOW
}

/// Points the call at where its destination really is. `connected` says that all later packets of
/// the socket go there, too. `None` means that the call stays as it was.
#[inline(always)]
pub(crate) fn redirect(
    ctx: &SockAddrContext,
    family: Family,
    bound: Address,
    connected: bool,
) -> Option<()> {
    let sandbox = socket::sandbox(ctx)?;
    let protocol = socket::protocol(ctx)?;
    let (named, port) = (socket::address(ctx, family), socket::port(ctx));
    let destination = named.connect_target();
    let (mut service, mut backend_id, mut flags) = (NO_SERVICE, NO_BACKEND, 0);
    let (address, new_port) = match route(sandbox, destination, port, bound) {
        Route::Untouched => return None,
        Route::Dns => (sandbox.dns_address, sandbox.dns_port),
        Route::DnsInside => (destination, sandbox.dns_inside_port),
        Route::Frontend { wildcard } => {
            let target = found(lookup::find(
                destination,
                port,
                protocol,
                wildcard,
                &Caller(ctx),
            ))?;
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
        count::lost(&Lost::of(service)(Reason::Family));
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
    count::traffic(service, backend_id, |counters| {
        if connected {
            counters.connects += 1;
        } else {
            counters.datagrams += 1;
        }
    });
    Some(())
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

#[inline(always)]
fn found(found: Found) -> Option<Target> {
    match found {
        Found::Target(target) => Some(target),
        Found::Nothing => None,
        // Nobody listens on a published port of the host, so the process is refused there.
        Found::NoBackend(service) => {
            count::lost(&Lost::of(service)(Reason::NoBackend));
            None
        }
    }
}
