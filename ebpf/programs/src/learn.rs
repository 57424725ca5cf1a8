//! connect4 on kernels below 5.14, which tell the cookie of a network namespace to programs alone.

use abi::question;
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;

use crate::map;
use crate::socket::{self, ALLOW, Family, REFUSE};

/// Answers the daemon's questions. Who guesses one answers it for another namespace: that is one in
/// four thousand million, while the question is open.
#[cgroup_sock_addr(connect4)]
pub(crate) fn learn(ctx: SockAddrContext) -> i32 {
    let asked = question::number(socket::address(&ctx, Family::V4), socket::port(&ctx));
    let Some(answer) = asked.and_then(map::answer_to) else {
        return ALLOW;
    };
    // SAFETY: the kernel returned a valid entry of an aligned u64; the daemon reads it afterwards.
    unsafe { *answer = socket::namespace(&ctx) };
    REFUSE
}
