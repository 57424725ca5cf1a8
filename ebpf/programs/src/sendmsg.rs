//! sendmsg4, sendmsg6: datagrams of sockets that never connect.

use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;

use crate::connect::redirect;
use crate::socket::{self, ALLOW, Family};

#[cgroup_sock_addr(sendmsg4)]
pub(crate) fn sendmsg4(ctx: SockAddrContext) -> i32 {
    let source = socket::datagram_source(&ctx, Family::V4);
    redirect(&ctx, Family::V4, source, false);
    ALLOW
}

#[cgroup_sock_addr(sendmsg6)]
pub(crate) fn sendmsg6(ctx: SockAddrContext) -> i32 {
    let source = socket::datagram_source(&ctx, Family::V6);
    redirect(&ctx, Family::V6, source, false);
    ALLOW
}
