//! Fetching header fields from a packet: directly where they lie at a fixed place, as they do in
//! nearly every packet, and else by `bpf_skb_load_bytes`, which copes with packets in several pieces
//! and needs no bounds proof. Each call costs as much as a look-up in a small table, and more where
//! the kernel guards its returns against speculation.
//!
//! Uplinks are Ethernet devices: the packet begins with a 14-byte header (VLAN tags are in the
//! metadata, where `rx-vlan-offload` and `skb_vlan_untag` put them).

use abi::guard::NEIGHBOUR_SOLICITATION;
use abi::map::{Direction, FlowKey, FragmentKey, FragmentPorts};
use abi::packet::{
    ETHERNET_LEN, Extension, Flags, Fragment, IPV4_MIN_LEN, IPV6_LEN, MAX_EXTENSIONS,
    PROTOCOL_IPV4, PROTOCOL_IPV6, extension, ipv4_header_len, is_icmp_error,
};
use abi::{Address, Be16, protocol};
use aya_ebpf::programs::TcContext;

use crate::frame::Frame;
use crate::map;
use crate::rewrite::Failed;

/// The network-layer facts of a packet.
pub(crate) struct Header {
    pub source: Address,
    pub destination: Address,
    /// Of the upper layer.
    pub protocol: u8,
    pub fragment: Fragment,
    /// Of the fragmented packet.
    pub id: u32,
    /// Offset of the network header.
    pub network: u32,
    /// Offset of the upper layer's header.
    pub transport: u32,
    /// Where the packet ends by its IP header: a short frame is padded.
    pub end: u32,
}

/// The fixed part (RFC 791 §3.1), fields in network order.
#[repr(C, packed(2))]
#[derive(Clone, Copy)]
pub(crate) struct Ipv4 {
    pub version_length: u8,
    tos: u8,
    pub length: u16,
    id: u16,
    pub fragment: u16,
    pub ttl: u8,
    pub protocol: u8,
    pub checksum: u16,
    pub source: u32,
    pub destination: u32,
}

/// The header of RFC 8200 (3), in the same way.
#[repr(C, packed(2))]
#[derive(Clone, Copy)]
pub(crate) struct Ipv6 {
    version_class_flow: u32,
    length: u16,
    pub next: u8,
    pub hops: u8,
    pub source: [u32; 4],
    pub destination: [u32; 4],
}

/// Where the network header of a frame is, and what follows one without options.
pub(crate) const NETWORK: usize = ETHERNET_LEN as usize;
pub(crate) const AFTER_IPV4: usize = NETWORK + IPV4_MIN_LEN as usize;
pub(crate) const AFTER_IPV6: usize = NETWORK + IPV6_LEN as usize;
/// What is read of most packets: IPv6, and TCP without options.
const HEADERS: u32 = 74;

/// Not a packet the data plane handles.
pub(crate) struct Unknown;

impl Header {
    #[inline(always)]
    pub(crate) fn outer(ctx: &impl Frame) -> Result<Self, Unknown> {
        let mut header = match ctx.network_protocol() {
            PROTOCOL_IPV4 => Self::outer4(ctx)?,
            PROTOCOL_IPV6 => Self::outer6(ctx)?,
            _ => return Err(Unknown),
        };
        let known = u32::from(header.protocol) << 8 | header.fragment as u32;
        let [.., protocol, fragment] = forgotten(ctx, known).to_be_bytes();
        header.protocol = protocol;
        header.fragment = Fragment::from_raw(fragment);
        header.transport = forgotten(ctx, header.transport);
        Ok(header)
    }

    #[inline(always)]
    pub(crate) fn outer4(ctx: &impl Frame) -> Result<Self, Unknown> {
        gather(ctx);
        Self::ipv4(near::<Ipv4, NETWORK>(ctx)?, ETHERNET_LEN)
    }

    #[inline(always)]
    pub(crate) fn outer6(ctx: &impl Frame) -> Result<Self, Unknown> {
        gather(ctx);
        Self::ipv6(ctx, near::<Ipv6, NETWORK>(ctx)?, ETHERNET_LEN)
    }

    #[inline(always)]
    pub(crate) fn ipv4(ip: Ipv4, network: u32) -> Result<Self, Unknown> {
        let length = ipv4_header_len(ip.version_length).ok_or(Unknown)?;
        Ok(Self {
            source: Address::v4(ip.source),
            destination: Address::v4(ip.destination),
            protocol: ip.protocol,
            fragment: Fragment::of_ipv4(u16::from_be(ip.fragment)),
            id: u32::from(ip.id),
            network,
            transport: network + length,
            end: network + u32::from(u16::from_be(ip.length)),
        })
    }

    #[inline(always)]
    pub(crate) fn ipv6(ctx: &impl Frame, ip: Ipv6, network: u32) -> Result<Self, Unknown> {
        // IPv4 addresses in an IPv6 packet are on no wire (RFC 4291, 2.5.5.2), and here they would
        // be taken for those of an IPv4 packet.
        let [first, ..] = ip.version_class_flow.to_ne_bytes();
        if first >> 4 != 6 || Address(ip.source).is_v4() || Address(ip.destination).is_v4() {
            return Err(Unknown);
        }
        let mut header = Self {
            source: Address(ip.source),
            destination: Address(ip.destination),
            protocol: ip.next,
            fragment: Fragment::Whole,
            id: 0,
            network,
            transport: network + IPV6_LEN,
            end: network + IPV6_LEN + u32::from(u16::from_be(ip.length)),
        };
        for _ in 0..MAX_EXTENSIONS {
            // The common case reads nothing more.
            if matches!(extension(header.protocol, 0), Extension::Upper) {
                return Ok(header);
            }
            let bytes: [u8; 8] = ctx.fetch(header.transport)?;
            match extension(header.protocol, bytes[1]) {
                Extension::Upper => return Ok(header),
                Extension::Skip(length) => header.transport += length,
                Extension::Fragment => {
                    header.fragment = Fragment::of_ipv6(u16::from_be_bytes([bytes[2], bytes[3]]));
                    header.id = u32::from_ne_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
                    header.transport += 8;
                }
            }
            header.protocol = bytes[0];
            if matches!(header.fragment, Fragment::Later) {
                return Ok(header);
            }
        }
        match extension(header.protocol, 0) {
            Extension::Upper => Ok(header),
            Extension::Skip(_) | Extension::Fragment => Err(Unknown),
        }
    }

    #[inline(always)]
    pub(crate) fn is_v4(&self) -> bool {
        self.source.is_v4()
    }

    /// Whether this is an ICMP error, which quotes the packet it is about.
    #[inline(always)]
    pub(crate) fn is_icmp_error(&self, ctx: &TcContext) -> bool {
        let own = if self.is_v4() {
            protocol::ICMP
        } else {
            protocol::ICMPV6
        };
        if self.protocol != own || !matches!(self.fragment, Fragment::Whole) {
            return false;
        }
        match load::<u8>(ctx, self.transport) {
            Ok(kind) => is_icmp_error(own, kind),
            Err(Unknown) => false,
        }
    }

    /// Whether somebody asks for a link address over IPv6.
    #[inline(always)]
    pub(crate) fn is_solicitation(&self, ctx: &TcContext) -> bool {
        self.protocol == protocol::ICMPV6
            && matches!(self.fragment, Fragment::Whole)
            && matches!(load::<u8>(ctx, self.transport), Ok(NEIGHBOUR_SOLICITATION))
    }

    #[inline(always)]
    pub(crate) fn fragment_key(&self) -> FragmentKey {
        FragmentKey {
            source: self.source,
            destination: self.destination,
            id: self.id,
            protocol: self.protocol,
            pad: [0; 3],
        }
    }

    /// Ports and flags. A later fragment's are those of its first one, if that was ours.
    #[inline(always)]
    pub(crate) fn ports(&self, ctx: &impl Frame) -> Result<Ports, Unknown> {
        if matches!(self.fragment, Fragment::Later) {
            let ports = map::fragment_ports(&self.fragment_key()).ok_or(Unknown)?;
            return Ok(Ports {
                ports,
                flags: Flags::NONE,
            });
        }
        match self.protocol {
            protocol::TCP | protocol::SCTP => {
                let bytes: [u16; 7] = upper(ctx, self.transport)?;
                let flags = Flags::of(self.protocol, bytes[6].to_ne_bytes());
                Ok(Ports {
                    ports: FragmentPorts {
                        source_port: Be16(bytes[0]),
                        destination_port: Be16(bytes[1]),
                    },
                    flags: Flags(forgotten(ctx, u32::from(flags.0)) as u8),
                })
            }
            protocol::UDP => Ok(Ports {
                ports: quoted_ports(ctx, self)?,
                flags: Flags::NONE,
            }),
            _ => Err(Unknown),
        }
    }

    #[inline(always)]
    pub(crate) fn flow_key(&self, ports: &FragmentPorts, direction: Direction) -> FlowKey {
        FlowKey {
            source: self.source,
            destination: self.destination,
            source_port: ports.source_port,
            destination_port: ports.destination_port,
            protocol: self.protocol,
            direction: direction as u8,
            pad: 0,
        }
    }
}

/// The transport-layer facts of a packet that has ports.
pub(crate) struct Ports {
    pub ports: FragmentPorts,
    pub flags: Flags,
}

/// The first four bytes of TCP, UDP and SCTP alike: all that an ICMP error is sure to quote.
#[inline(always)]
pub(crate) fn quoted_ports(ctx: &impl Frame, header: &Header) -> Result<FragmentPorts, Unknown> {
    let [source, destination]: [u16; 2] = upper(ctx, header.transport)?;
    Ok(FragmentPorts {
        source_port: Be16(source),
        destination_port: Be16(destination),
    })
}

/// The same number, of which the verifier does not know any more how it came about.
///
/// It would follow each way through the parser on its own to the end of the program, where one
/// number leads to a branch, and that is a million instructions soon. The context's fields are
/// anything to it, each time they are read.
#[inline(always)]
fn forgotten(ctx: &impl Frame, number: u32) -> u32 {
    number ^ ctx.opaque() ^ ctx.opaque()
}

/// Brings the headers of a packet into one piece, in which they nearly always are.
#[inline(always)]
fn gather(ctx: &impl Frame) {
    let length = ctx.length().min(HEADERS);
    if ctx.start() + length as usize > ctx.end() {
        ctx.pull(length);
    }
}

/// Where a `T` lies in the packet, if the packet is that long and lies there in one piece. Good until
/// the next call that changes the packet.
#[inline(always)]
pub(crate) fn direct<T, const AT: usize>(ctx: &impl Frame) -> Option<*mut T> {
    // Frames begin at even addresses (`NET_IP_ALIGN`), and the places here are even.
    const { assert!(align_of::<T>() <= 2 && AT.is_multiple_of(2)) };
    let (start, end) = (ctx.start(), ctx.end());
    if start + AT + size_of::<T>() > end {
        None
    } else {
        Some((start + AT) as *mut T)
    }
}

/// A copy of what lies at a fixed place. `T` consists of integers.
#[inline(always)]
pub(crate) fn near<T: Copy, const AT: usize>(ctx: &impl Frame) -> Result<T, Unknown> {
    let place = direct::<T, AT>(ctx).ok_or(Unknown)?;
    // SAFETY: the packet has a `T` there, which is aligned, and all its values are good ones.
    Ok(unsafe { *place })
}

/// A copy of what the upper layer's header begins with.
#[inline(always)]
fn upper<T: Copy>(ctx: &impl Frame, transport: u32) -> Result<T, Unknown> {
    match transport as usize {
        AFTER_IPV4 => near::<T, AFTER_IPV4>(ctx),
        AFTER_IPV6 => near::<T, AFTER_IPV6>(ctx),
        _ => ctx.fetch(transport),
    }
}

/// Writes the ports at the beginning of the upper layer's header.
#[inline(always)]
pub(crate) fn put_ports(
    ctx: &impl Frame,
    transport: u32,
    ports: &FragmentPorts,
) -> Result<(), Failed> {
    // Which of the three it was when they were read does not matter any more.
    let place = match forgotten(ctx, transport) as usize {
        AFTER_IPV4 => direct::<FragmentPorts, AFTER_IPV4>(ctx),
        AFTER_IPV6 => direct::<FragmentPorts, AFTER_IPV6>(ctx),
        _ => None,
    };
    match place {
        // SAFETY: as in `near`; the kernel makes the packet ours to write before the program runs.
        Some(place) => unsafe { *place = *ports },
        None => ctx.put(transport, ports)?,
    }
    Ok(())
}

#[inline(always)]
pub(crate) fn load<T>(ctx: &TcContext, offset: u32) -> Result<T, Unknown> {
    ctx.load(offset as usize).map_err(|_short| Unknown)
}
