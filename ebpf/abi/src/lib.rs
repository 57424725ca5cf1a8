//! What the eBPF programs and the daemon agree on: map layouts, map names, and the pure decisions
//! of the data plane.
//!
//! Nothing here touches a packet or a map. The programs parse and look up, call a function of this
//! crate, and act on its answer; the same function runs in host unit tests.
//!
//! **Invariants.** Every struct is `repr(C)`, has no implicit padding and only fixed-width fields,
//! because map keys are compared byte by byte. Addresses and ports are in network order as soon as
//! they are in an [`Address`] or a [`Be16`]. A change of a layout, or of what a name of [`map`] means,
//! must raise [`SCHEMA`]: the daemon then pins beside the old maps instead of misreading them. A new
//! map need not, because a daemon makes what it does not find.
#![no_std]

/// Lets user space hand values of these types to the kernel as they lie in memory.
#[cfg(feature = "user")]
macro_rules! pod {
    ($($name:ident),*) => {$(
        // SAFETY: `repr(C)`, `Copy`, integers only, no padding (sizes are asserted next to the
        // type) and valid for every bit pattern.
        unsafe impl aya::Pod for $name {}
    )*};
}

/// Keys or values as the kernel has them, one after the other.
#[cfg(feature = "user")]
pub fn bytes_of<T: aya::Pod>(values: &[T]) -> &[u8] {
    // SAFETY: a `Pod` is nothing but bytes that all have a value; the slice is as long as those of
    // `values`, and borrows them.
    unsafe { core::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

pub mod activity;
pub mod address;
pub mod answer;
pub mod checksum;
pub mod dns;
pub mod endpoint;
pub mod flow;
pub mod frontend;
pub mod guard;
pub mod maglev;
pub mod map;
pub mod neighbour;
pub mod packet;
pub mod question;
pub mod range;
pub mod sctp;
pub mod sealed;
pub mod shortcut;
pub mod socket;
pub mod trace;
pub mod tunnel;

pub use address::{Address, Be16};

/// The bit of a packet's mark by which the programs vouch for it: it belongs to a published port.
/// The packet filter of the host may match it, and ours does. Other bits are left alone, and no
/// packet of a container has it from the start: a mark does not survive the way between network
/// namespaces (`skb_scrub_packet`).
///
/// Of the bits that well-known programs claim for themselves only one container network plugin,
/// which cannot run beside this one, has this one.
pub const MARK_PUBLISHED: u32 = 0x1000;

/// The version in the pin directory's name.
pub const SCHEMA: u32 = 1;

/// IP protocol numbers (IANA) that the data plane tells apart.
pub mod protocol {
    pub const ICMP: u8 = 1;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const ICMPV6: u8 = 58;
    pub const SCTP: u8 = 132;
}
