//! The programs that are attached: each only jumps to the current version of the real one.
//!
//! While a slot is empty, traffic goes on untouched. A stub never changes what it does, so that one
//! left by an earlier version of the daemon is as good as a new one.

use abi::map::{FrontSlot, StepSlot, TcSlot};
use aya_ebpf::bindings::TC_ACT_UNSPEC;
use aya_ebpf::bindings::xdp_action::XDP_PASS;
use aya_ebpf::macros::{cgroup_sock_addr, classifier, map, xdp};
use aya_ebpf::maps::ProgramArray;
use aya_ebpf::programs::{SockAddrContext, TcContext, XdpContext};

use crate::map::{JUMP_FRONT, JUMP_STEPS, JUMP_TC};
use crate::socket::ALLOW;

#[classifier]
pub(crate) fn ingress_entry(ctx: TcContext) -> i32 {
    // SAFETY: the table holds tc programs only, and nothing here needs to be dropped.
    unsafe { JUMP_TC.tail_call(&ctx, TcSlot::Ingress as u32) };
    TC_ACT_UNSPEC
}

#[classifier]
pub(crate) fn egress_entry(ctx: TcContext) -> i32 {
    // SAFETY: as in `ingress_entry`.
    unsafe { JUMP_TC.tail_call(&ctx, TcSlot::Egress as u32) };
    TC_ACT_UNSPEC
}

#[classifier]
pub(crate) fn endpoint_entry(ctx: TcContext) -> i32 {
    // SAFETY: as in `ingress_entry`.
    unsafe { JUMP_TC.tail_call(&ctx, TcSlot::Endpoint as u32) };
    TC_ACT_UNSPEC
}

#[classifier]
pub(crate) fn endpoint_exit(ctx: TcContext) -> i32 {
    // SAFETY: as in `ingress_entry`.
    unsafe { JUMP_STEPS.tail_call(&ctx, StepSlot::Reply as u32) };
    TC_ACT_UNSPEC
}

#[classifier]
pub(crate) fn tunnel_entry(ctx: TcContext) -> i32 {
    // SAFETY: as in `ingress_entry`.
    unsafe { JUMP_STEPS.tail_call(&ctx, StepSlot::Arrive as u32) };
    TC_ACT_UNSPEC
}

#[xdp]
pub(crate) fn front_entry(ctx: XdpContext) -> u32 {
    // SAFETY: the table holds XDP programs only, and nothing here needs to be dropped.
    unsafe { JUMP_FRONT.tail_call(&ctx, FrontSlot::Front as u32) };
    XDP_PASS
}

/// A socket hook's stub and its table of one slot.
macro_rules! socket_hook {
    ($hook:ident, $entry:ident, $table:ident, $name:literal) => {
        #[map(name = $name)]
        static $table: ProgramArray = ProgramArray::with_max_entries(1, 0);

        #[cgroup_sock_addr($hook)]
        pub(crate) fn $entry(ctx: SockAddrContext) -> i32 {
            // SAFETY: the table holds programs of this hook only; nothing needs to be dropped.
            unsafe { $table.tail_call(&ctx, 0) };
            ALLOW
        }
    };
}

socket_hook!(connect4, connect4_entry, JUMP_CONNECT4, "jump_connect4");
socket_hook!(connect6, connect6_entry, JUMP_CONNECT6, "jump_connect6");
socket_hook!(sendmsg4, sendmsg4_entry, JUMP_SENDMSG4, "jump_sendmsg4");
socket_hook!(sendmsg6, sendmsg6_entry, JUMP_SENDMSG6, "jump_sendmsg6");
socket_hook!(recvmsg4, recvmsg4_entry, JUMP_RECVMSG4, "jump_recvmsg4");
socket_hook!(recvmsg6, recvmsg6_entry, JUMP_RECVMSG6, "jump_recvmsg6");
socket_hook!(
    getpeername4,
    getpeername4_entry,
    JUMP_GETPEERNAME4,
    "jump_getpeername4"
);
socket_hook!(
    getpeername6,
    getpeername6_entry,
    JUMP_GETPEERNAME6,
    "jump_getpeername6"
);
socket_hook!(bind4, bind4_entry, JUMP_BIND4, "jump_bind4");
socket_hook!(bind6, bind6_entry, JUMP_BIND6, "jump_bind6");
