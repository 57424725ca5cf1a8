//! Frames of encrypted networks that go between nodes in clear text, by an uplink: somebody forged them,
//! or something here is not as it should be. They are dropped, whatever else would let them pass.

use abi::map::FragmentPorts;
use abi::packet::Fragment;
use abi::{protocol, sealed};
use aya_ebpf::programs::TcContext;

use crate::map;
use crate::packet::{Header, load};

/// Of a packet's headers that matter here, UDP's.
const UDP: u32 = 8;

/// Whether it is one; then it is counted.
#[inline(always)]
pub(crate) fn is_exposed(ctx: &TcContext, header: &Header, ports: &FragmentPorts) -> bool {
    // Without the first fragment, the later ones are no packet.
    if header.protocol != protocol::UDP || matches!(header.fragment, Fragment::Later) {
        return false;
    }
    let port = u32::from(ports.destination_port.get());
    if port == 0 || map::sealed_port() != port {
        return false;
    }
    let Ok(vxlan) = load(ctx, header.transport + UDP) else {
        return false;
    };
    let Some(count) = map::sealed(sealed::network(vxlan)) else {
        return false;
    };
    // SAFETY: the kernel returned a valid per-CPU slot, which only this CPU writes.
    unsafe { *count += 1 };
    true
}
