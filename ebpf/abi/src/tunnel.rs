//! Backends on other nodes: a packet to one goes through a tunnel as it came, client and frontend and
//! all, and is translated where the backend is. The reply leaves from there, straight to the client.
//!
//! The tunnel is a VXLAN interface of its own, with one network number for the whole cluster. The link
//! addresses of a packet's frame tell the rest, as on any segment: it is for the link address of a node,
//! by which the interface finds that node ([`Remote::to`]), and from that of a backend there
//! ([`sender`]). No header of ours is on the wire.
//!
//! ```text
//! client ──▶ uplink: remotes[backend] ──▶ tunnel ──▶ tunnel: arrivals[backend] ──▶ container
//!    ▲                                                                                │
//!    └──────────────────── uplink of that node ◀── frontend's address ◀───────────────┘
//! ```

use crate::endpoint::Mac;
use crate::map::Backend;
use crate::packet::{IPV4_MIN_LEN, IPV6_LEN};

/// Where backends on other nodes are, by backend.
pub const REMOTES: &str = "remote_backends";
/// The address of a backend's node, by backend: for clients of this host, whose packets no uplink sees.
/// They reach the node as everybody else does, at the port that they asked for.
pub const HOMES: &str = "remote_homes";
/// The service of each backend of this node that other nodes may lead packets to, by backend.
pub const ARRIVALS: &str = "arrivals";
/// One [`Arriving`].
pub const ARRIVING: &str = "arriving";

/// The upper half of a number is the backend's generation: one that another node has kept too long is
/// nobody's for the next 65 535 that get the slot.
const BACKEND_BITS: u32 = 16;
/// What stands before the number in a link address: one that is locally administered (IEEE 802, 8.4).
const SENDER: [u8; 2] = [0x02, 0x00];

/// The number under which other nodes reach a backend of this one.
#[inline(always)]
pub const fn number(backend: u32, generation: u32) -> u32 {
    generation << BACKEND_BITS | backend & 0xffff
}

/// The backend that a number is for.
#[inline(always)]
pub const fn backend(number: u32) -> u32 {
    number & 0xffff
}

/// The link address that a frame for the backend is from.
#[inline(always)]
pub const fn sender(number: u32) -> Mac {
    let ([a, b], [c, d, e, f]) = (SENDER, number.to_be_bytes());
    Mac::from_octets([a, b, c, d, e, f])
}

/// The number that a frame from this address is for; `None` if it is for nobody.
#[inline(always)]
pub const fn number_of(sender: Mac) -> Option<u32> {
    let [a, b, c, d, e, f] = sender.octets();
    if a == SENDER[0] && b == SENDER[1] {
        Some(u32::from_be_bytes([c, d, e, f]))
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
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Remote {
    /// The tunnel's interface.
    pub ifindex: u32,
    /// The longest packet, its IP header counted, that fits with the headers around it.
    pub mtu: u16,
    /// [`REMOTE_V6`] or zero.
    pub flags: u16,
    /// The node's link address on the tunnel's segment.
    pub to: Mac,
    /// What that node calls the backend: see [`sender`].
    pub from: Mac,
}

/// The node is reached over IPv6.
pub const REMOTE_V6: u16 = 1;

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
    assert!(size_of::<Remote>() == 20);
    // The two go into a frame as they lie.
    assert!(core::mem::offset_of!(Remote, from) == core::mem::offset_of!(Remote, to) + 6);
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
    fn a_sender_tells_the_backend() {
        for id in [1, 2, 255, 256, 65_535] {
            for generation in [0, 1, 0xffff, 0x1_0000, 0x1234_5678] {
                let number = number(id, generation);
                assert_eq!(backend(number), id);
                assert_eq!(number_of(sender(number)), Some(number));
            }
        }
        for nobodys in [[0; 6], [0xff; 6], [2, 1, 0, 0, 0, 1], [6, 0, 0, 0, 0, 1]] {
            assert_eq!(number_of(Mac::from_octets(nobodys)), None, "{nobodys:x?}");
        }
    }

    #[test]
    fn a_number_is_good_for_one_generation() {
        let old = number(7, 3);
        assert!(leads_to(old, 7, &live(3, BACKEND_LIVE)));
        assert!(!leads_to(old, 7, &live(3, 0)), "retired");
        for later in [4, 19, 0x1_0002] {
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
