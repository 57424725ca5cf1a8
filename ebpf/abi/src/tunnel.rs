//! Backends on other nodes: a packet to one goes through a tunnel as it came, client and frontend and
//! all, and is translated where the backend is. The reply leaves from there, straight to the client.
//!
//! The tunnel is a VXLAN device that takes its key from each packet (`ip link add … type vxlan
//! external`). The network number of that key tells the backend: no header of ours is on the wire.
//!
//! ```text
//! client ──▶ uplink: remotes[backend] ──▶ tunnel ──▶ tunnel: arrivals[backend] ──▶ container
//!    ▲                                                                                │
//!    └──────────────────── uplink of that node ◀── frontend's address ◀───────────────┘
//! ```

use crate::map::Backend;
use crate::packet::{IPV4_MIN_LEN, IPV6_LEN};

/// Where backends on other nodes are, by backend.
pub const REMOTES: &str = "remotes";
/// The service of each backend of this node that other nodes may lead packets to, by backend.
pub const ARRIVALS: &str = "arrivals";
/// One [`Arriving`].
pub const ARRIVING: &str = "arriving";

/// Network numbers from here on are for packets to backends (of 24 bits: RFC 7348, 5).
const BLOCK: u32 = 0xf0_0000;
/// The lower half of a number is the backend's, the four bits above it are of its generation: a
/// number that another node has kept too long is nobody's for the next fifteen that get the slot.
const BACKEND_BITS: u32 = 16;
const GENERATION_MASK: u32 = 0xf;

/// The number under which other nodes reach a backend of this one.
#[inline(always)]
pub const fn number(backend: u32, generation: u32) -> u32 {
    BLOCK | (generation & GENERATION_MASK) << BACKEND_BITS | backend & 0xffff
}

/// The backend that a number is for; `None` for one of a container network.
#[inline(always)]
pub const fn backend(number: u32) -> Option<u32> {
    if number & BLOCK == BLOCK && number >> 24 == 0 {
        Some(number & 0xffff)
    } else {
        None
    }
}

/// Whether the backend with this id still is the one that the number was for.
#[inline(always)]
pub const fn leads_to(number: u32, id: u32, backend: &Backend) -> bool {
    backend.is_live() && !backend.is_remote() && self::number(id, backend.generation) == number
}

/// Value of [`REMOTES`].
///
/// Begins as `struct bpf_tunnel_key` does (include/uapi/linux/bpf.h, since Linux 4.4): the kernel reads
/// that part where it lies.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Remote {
    /// See [`number`]: that node's, of the backend.
    pub number: u32,
    /// The node's address: over IPv4 in the first word, in the host's order; over IPv6 in the network's.
    pub node: [u32; 4],
    pub tos: u8,
    pub ttl: u8,
    /// The kernel wants zero in both.
    pub ext: u16,
    pub label: u32,
    /// The tunnel's device.
    pub ifindex: u32,
    /// The longest packet, its IP header counted, that fits with the headers around it.
    pub mtu: u16,
    /// [`REMOTE_V6`] or zero.
    pub flags: u16,
}

/// How much of a [`Remote`] is the kernel's.
pub const TUNNEL_KEY_LEN: u32 = 28;

/// The node is reached over IPv6.
pub const REMOTE_V6: u16 = 1;

/// What Linux begins with.
pub const TUNNEL_TTL: u8 = 64;

/// What surrounds a packet on its way: Ethernet, VXLAN, UDP and IP (RFC 7348, 5).
#[inline(always)]
pub const fn overhead(v6: bool) -> u16 {
    14 + 8
        + 8
        + if v6 {
            IPV6_LEN as u16
        } else {
            IPV4_MIN_LEN as u16
        }
}

/// Value of [`ARRIVING`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arriving {
    /// The longest packet that other nodes can send here, its IP header counted; zero if it is not
    /// known.
    pub mtu: u32,
}

impl Arriving {
    /// The largest segment that fits, of TCP without options (RFC 9293, 3.7.1); zero if any does.
    #[inline(always)]
    pub const fn segment(&self, v4: bool) -> u16 {
        let headers = 20 + if v4 { IPV4_MIN_LEN } else { IPV6_LEN };
        let segment = self.mtu.saturating_sub(headers);
        if segment > 0xffff { 0 } else { segment as u16 }
    }
}

const _: () = {
    assert!(size_of::<Remote>() == 36);
    assert!(core::mem::offset_of!(Remote, ifindex) == TUNNEL_KEY_LEN as usize);
    assert!(size_of::<Arriving>() == 4);
    assert!(crate::map::MAX_BACKENDS <= 1 << BACKEND_BITS);
};

#[cfg(feature = "user")]
pod!(Remote, Arriving);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::map::{BACKEND_LIVE, BACKEND_REMOTE};

    fn live(generation: u32, state: u16) -> Backend {
        Backend {
            generation,
            state,
            ..Backend::default()
        }
    }

    #[test]
    fn numbers_are_of_24_bits_and_tell_the_backend() {
        for id in [1, 2, 255, 256, 65_535] {
            for generation in [0, 1, 15, 16, 0x1234_5678] {
                let number = number(id, generation);
                assert!((BLOCK..1 << 24).contains(&number), "{number:x}");
                assert_eq!(backend(number), Some(id));
            }
        }
        for of_a_network in [0, 1, 4096, 0xe_ffff, 0xef_ffff, 0x1f0_0001] {
            assert_eq!(backend(of_a_network), None, "{of_a_network:x}");
        }
    }

    #[test]
    fn a_number_is_good_for_one_generation() {
        let old = number(7, 3);
        assert!(leads_to(old, 7, &live(3, BACKEND_LIVE)));
        assert!(!leads_to(old, 7, &live(3, 0)), "retired");
        for later in 4..19 {
            assert!(!leads_to(old, 7, &live(later, BACKEND_LIVE)), "{later}");
        }
        let elsewhere = live(3, BACKEND_LIVE | BACKEND_REMOTE);
        assert!(!leads_to(old, 7, &elsewhere), "packets do not go round");
    }

    #[test]
    fn headers_around_a_packet_are_counted() {
        assert_eq!((overhead(false), overhead(true)), (50, 70));
    }

    #[test]
    fn segments_fit_with_their_headers() {
        let arriving = Arriving { mtu: 1450 };
        assert_eq!(arriving.segment(true), 1410);
        assert_eq!(arriving.segment(false), 1390);
        assert_eq!(Arriving::default().segment(true), 0, "not known");
    }
}
