//! What the programs need of a packet, wherever they meet it: in tc, as a socket buffer of the kernel's,
//! or in XDP, as the bytes that the device received.
//!
//! In XDP nothing is known of a packet but these, and only what lies at a fixed place is looked at:
//! helpers that reach further are newer than 5.10. What is not there is [`Unknown`], and left to tc.

use core::ptr::addr_of;

use abi::checksum::Change;
use abi::packet::checksum_offset;
use abi::protocol;
use aya_ebpf::bindings::{BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR};
use aya_ebpf::helpers::bpf_csum_update;
use aya_ebpf::programs::{TcContext, XdpContext};

use crate::packet::{AFTER_IPV4, AFTER_IPV6, Unknown, direct, load, near};
use crate::rewrite::Failed;

pub(crate) trait Frame {
    /// Where the packet begins and ends, as far as it is in one piece.
    fn start(&self) -> usize;
    fn end(&self) -> usize;

    /// Its whole length.
    fn length(&self) -> u32;

    /// How much each of the segments carries that a device is to make of it; zero if none.
    fn segment(&self) -> u32;

    /// What is below the link header, as the kernel has it (`skb->protocol`).
    fn network_protocol(&self) -> u32;

    /// The same number each time, of which the verifier knows nothing.
    fn opaque(&self) -> u32;

    /// Brings so much of it into one piece, if it can.
    fn pull(&self, length: u32);

    fn fetch<T>(&self, offset: u32) -> Result<T, Unknown>;

    fn put<T>(&self, offset: u32, value: &T) -> Result<(), Failed>;

    /// Changes the checksum at `checksum` of an upper layer by new addresses, and by new ports instead of old ones.
    fn sum(
        &self,
        checksum: u32,
        flags: u64,
        addresses: Change,
        ports: (u32, u32),
    ) -> Result<(), Failed>;

    /// Adds a change of the packet to the sum that a device made of it (`CHECKSUM_COMPLETE`), where nothing
    /// in the packet balances it: IPv6 has no header checksum, a later fragment and SCTP no sum of their
    /// own, and with a pseudo header the kernel takes out what it puts into the transport's.
    fn balance(&self, change: Change);
}

impl Frame for TcContext {
    #[inline(always)]
    fn start(&self) -> usize {
        self.data()
    }

    #[inline(always)]
    fn end(&self) -> usize {
        self.data_end()
    }

    #[inline(always)]
    fn length(&self) -> u32 {
        self.len()
    }

    #[inline(always)]
    fn segment(&self) -> u32 {
        // SAFETY: the context is valid while the program runs; the field is an aligned u32.
        unsafe { addr_of!((*self.skb.skb).gso_size).read_volatile() }
    }

    #[inline(always)]
    fn network_protocol(&self) -> u32 {
        self.skb.protocol()
    }

    #[inline(always)]
    fn opaque(&self) -> u32 {
        // SAFETY: as in `segment`.
        unsafe { addr_of!((*self.skb.skb).len).read_volatile() }
    }

    #[inline(always)]
    fn pull(&self, length: u32) {
        let _scattered = self.pull_data(length);
    }

    #[inline(always)]
    fn fetch<T>(&self, offset: u32) -> Result<T, Unknown> {
        load(self, offset)
    }

    #[inline(always)]
    fn put<T>(&self, offset: u32, value: &T) -> Result<(), Failed> {
        Ok(self.store(offset as usize, value, 0)?)
    }

    /// Only the kernel's helpers know whether the checksum is complete.
    #[inline(always)]
    fn sum(
        &self,
        checksum: u32,
        flags: u64,
        addresses: Change,
        (from, to): (u32, u32),
    ) -> Result<(), Failed> {
        let pseudo = flags | u64::from(BPF_F_PSEUDO_HDR);
        self.l4_csum_replace(checksum as usize, 0, addresses.0.into(), pseudo)?;
        if from != to {
            self.l4_csum_replace(checksum as usize, from.into(), to.into(), flags | 4)?;
        }
        Ok(())
    }

    #[inline(always)]
    fn balance(&self, change: Change) {
        // SAFETY: the context is valid; the helper fails where there is no such sum, which is no fault.
        let _none = unsafe { bpf_csum_update(self.skb.skb, change.0) };
    }
}

/// Where an Ethernet header says what follows it.
const ETHERTYPE: usize = 12;

impl Frame for XdpContext {
    #[inline(always)]
    fn start(&self) -> usize {
        self.data()
    }

    #[inline(always)]
    fn end(&self) -> usize {
        self.data_end()
    }

    #[inline(always)]
    fn length(&self) -> u32 {
        (self.data_end() - self.data()) as u32
    }

    /// Devices do not join packets that XDP is to see.
    #[inline(always)]
    fn segment(&self) -> u32 {
        0
    }

    #[inline(always)]
    fn network_protocol(&self) -> u32 {
        near::<u16, ETHERTYPE>(self).map_or(0, u32::from)
    }

    #[inline(always)]
    fn opaque(&self) -> u32 {
        0
    }

    #[inline(always)]
    fn pull(&self, _length: u32) {}

    #[inline(always)]
    fn fetch<T>(&self, _offset: u32) -> Result<T, Unknown> {
        Err(Unknown)
    }

    #[inline(always)]
    fn put<T>(&self, _offset: u32, _value: &T) -> Result<(), Failed> {
        Err(Failed)
    }

    /// The checksum must be complete: see [`upper_checksum`].
    #[inline(always)]
    fn sum(
        &self,
        checksum: u32,
        flags: u64,
        addresses: Change,
        (from, to): (u32, u32),
    ) -> Result<(), Failed> {
        // SAFETY: the packet has it there, and is ours to write; nothing else leads there.
        let sum = unsafe { &mut *upper_checksum(self, checksum).ok_or(Failed)? };
        let change = addresses.and(Change::of_words(from, to));
        *sum = if flags & u64::from(BPF_F_MARK_MANGLED_0) == 0 {
            change.apply(*sum)
        } else {
            change.apply_unless_none(*sum)
        };
        Ok(())
    }

    #[inline(always)]
    fn balance(&self, _change: Change) {}
}

/// Where the checksum of TCP or UDP is, at one of the places where it is read.
#[inline(always)]
pub(crate) fn upper_checksum(ctx: &XdpContext, at: u32) -> Option<*mut u16> {
    match at as usize {
        TCP4 => direct::<u16, TCP4>(ctx),
        TCP6 => direct::<u16, TCP6>(ctx),
        UDP4 => direct::<u16, UDP4>(ctx),
        UDP6 => direct::<u16, UDP6>(ctx),
        _ => None,
    }
}

const TCP4: usize = AFTER_IPV4 + offset(protocol::TCP);
const TCP6: usize = AFTER_IPV6 + offset(protocol::TCP);
const UDP4: usize = AFTER_IPV4 + offset(protocol::UDP);
const UDP6: usize = AFTER_IPV6 + offset(protocol::UDP);

const fn offset(protocol: u8) -> usize {
    match checksum_offset(protocol) {
        Some(offset) => offset as usize,
        None => panic!("a protocol with a checksum"),
    }
}
