//! Whether an endpoint may send what it sends: only in its own name.
//!
//! A bridge believes every frame. Without this an endpoint could answer ARP or neighbour discovery
//! for the gateway, take over another container's address, or become the network's router.

use crate::Address;
use crate::endpoint::{EndpointValue, Mac, Refusal};
use crate::packet::{Fragment, PROTOCOL_IPV4};
use crate::protocol;

/// `ETH_P_ARP`, `ETH_P_8021Q` and `ETH_P_8021AD` as `__sk_buff::protocol` holds them.
pub const PROTOCOL_ARP: u32 = 0x0806_u16.to_be() as u32;
pub const PROTOCOL_VLAN: u32 = 0x8100_u16.to_be() as u32;
pub const PROTOCOL_QINQ: u32 = 0x88a8_u16.to_be() as u32;

/// An ARP message for IPv4 over Ethernet (RFC 826).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arp {
    pub hardware: u16,
    pub protocol: u16,
    /// Of both kinds of address.
    pub lengths: u16,
    pub operation: u16,
    pub sender_mac: Mac,
    /// Two halves: the address is not aligned.
    pub sender: [u16; 2],
    pub target_mac: Mac,
    pub target: [u16; 2],
}

const _: () = assert!(size_of::<Arp>() == 28);

const ETHERNET: u16 = 1_u16.to_be();
pub(crate) const LENGTHS: u16 = 0x0604_u16.to_be();
pub(crate) const REQUEST: u16 = 1_u16.to_be();
pub(crate) const REPLY: u16 = 2_u16.to_be();

/// The client ports of DHCP (RFC 2131, 4.1) and DHCPv6 (RFC 8415, 7.2): only servers send there.
const DHCP_CLIENT: u16 = 68;
const DHCP_SERVER: u16 = 67;
const DHCP6_CLIENT: u16 = 546;

/// ICMPv6 types (RFC 4861, 4; RFC 2710; RFC 3810).
const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
pub const NEIGHBOUR_SOLICITATION: u8 = 135;
pub(crate) const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;
const LISTENER_REPORT: u8 = 131;
const LISTENER_DONE: u8 = 132;
const LISTENER_REPORT_V2: u8 = 143;

/// Options of neighbour discovery that carry a link address (RFC 4861, 4.6.1).
pub(crate) const SOURCE_LINK_ADDRESS: u8 = 1;
pub(crate) const TARGET_LINK_ADDRESS: u8 = 2;
/// Options read before a message is taken for malformed; the kernel sends one or two.
pub const MAX_OPTIONS: u32 = 4;

type Checked = Result<(), Refusal>;

#[inline(always)]
const fn require(condition: bool, otherwise: Refusal) -> Checked {
    if condition { Ok(()) } else { Err(otherwise) }
}

#[inline(always)]
pub const fn source_mac(endpoint: &EndpointValue, source: Mac) -> Checked {
    let (own, other) = (endpoint.mac.0, source.0);
    let same = own[0] == other[0] && own[1] == other[1] && own[2] == other[2];
    require(same, Refusal::Mac)
}

/// Requests and replies speak for their sender. A sender of 0.0.0.0 asks whether an address is
/// free, for nobody (RFC 5227, 1.1).
#[inline(always)]
pub fn arp(endpoint: &EndpointValue, message: &Arp) -> Checked {
    let known = message.hardware == ETHERNET
        && u32::from(message.protocol) == PROTOCOL_IPV4
        && message.lengths == LENGTHS
        && matches!(message.operation, REQUEST | REPLY);
    let sender = join(message.sender);
    let own = sender == endpoint.v4 && endpoint.v4 != 0;
    let probe = sender == 0 && message.operation == REQUEST;
    require(
        known && (own || probe) && source_mac(endpoint, message.sender_mac).is_ok(),
        Refusal::Arp,
    )
}

#[inline(always)]
const fn join([first, second]: [u16; 2]) -> u32 {
    let ([a, b], [c, d]) = (first.to_ne_bytes(), second.to_ne_bytes());
    u32::from_ne_bytes([a, b, c, d])
}

/// The ports of a UDP datagram, in host order; none of a later fragment or another protocol.
pub type UdpPorts = Option<(u16, u16)>;

#[inline(always)]
pub const fn ipv4(
    endpoint: &EndpointValue,
    source: u32,
    destination: u32,
    udp: UdpPorts,
) -> Checked {
    if let Some((_, DHCP_CLIENT)) = udp {
        return Err(Refusal::DhcpServer);
    }
    if source != 0 {
        return require(source == endpoint.v4, Refusal::Ipv4);
    }
    // Who has no address yet may ask for one.
    let asks = matches!(udp, Some((DHCP_CLIENT, DHCP_SERVER))) && destination == u32::MAX;
    require(asks, Refusal::Ipv4)
}

/// In whose name an IPv6 packet is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    Own,
    /// `::`, while the kernel still finds out whether an address is free.
    Unspecified,
}

#[inline(always)]
pub fn ipv6(endpoint: &EndpointValue, source: Address, udp: UdpPorts) -> Result<Source, Refusal> {
    if let Some((_, DHCP6_CLIENT)) = udp {
        return Err(Refusal::DhcpServer);
    }
    if source.is_unspecified() {
        Ok(Source::Unspecified)
    } else if is_own(endpoint, source) {
        Ok(Source::Own)
    } else {
        Err(Refusal::Ipv6)
    }
}

#[inline(always)]
fn is_own(endpoint: &EndpointValue, address: Address) -> bool {
    !address.is_unspecified() && (address == endpoint.v6 || address == endpoint.link_local)
}

/// What else of an ICMPv6 message must be checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Icmp6 {
    Nothing,
    /// Options begin at this offset; the message has a target if `target` is set.
    Neighbour {
        options: u32,
        target: bool,
    },
}

/// Judges a packet of protocol `protocol`, for ICMPv6 of type `kind`, by all but its body.
///
/// Neighbour discovery is never fragmented (RFC 6980, 5), so that a fragment can only be meant to
/// hide it.
#[inline(always)]
pub const fn upper6(
    source: Source,
    protocol: u8,
    kind: u8,
    fragment: Fragment,
) -> Result<Icmp6, Refusal> {
    if protocol != protocol::ICMPV6 {
        return match source {
            Source::Own => Ok(Icmp6::Nothing),
            Source::Unspecified => Err(Refusal::Ipv6),
        };
    }
    let what = match kind {
        ROUTER_ADVERTISEMENT | REDIRECT => return Err(Refusal::Router),
        NEIGHBOUR_SOLICITATION | NEIGHBOUR_ADVERTISEMENT => Icmp6::Neighbour {
            options: 24,
            target: true,
        },
        ROUTER_SOLICITATION => Icmp6::Neighbour {
            options: 8,
            target: false,
        },
        LISTENER_REPORT | LISTENER_DONE | LISTENER_REPORT_V2 => return Ok(Icmp6::Nothing),
        _ => {
            return match source {
                Source::Own => Ok(Icmp6::Nothing),
                Source::Unspecified => Err(Refusal::Ipv6),
            };
        }
    };
    match fragment {
        Fragment::Whole => Ok(what),
        Fragment::First | Fragment::Later => Err(Refusal::Neighbour),
    }
}

/// Whose address the message may be about: an advertisement, and the question whether an address
/// is free, must be about an own one.
#[inline(always)]
pub fn target(endpoint: &EndpointValue, source: Source, kind: u8, target: Address) -> Checked {
    let asks = kind == NEIGHBOUR_SOLICITATION && matches!(source, Source::Own);
    require(asks || is_own(endpoint, target), Refusal::Neighbour)
}

/// One option of a neighbour discovery message: its first eight bytes. Returns its length.
#[inline(always)]
pub const fn option(endpoint: &EndpointValue, bytes: [u8; 8]) -> Result<u32, Refusal> {
    let [kind, units, mac @ ..] = bytes;
    if units == 0 {
        return Err(Refusal::Malformed);
    }
    if matches!(kind, SOURCE_LINK_ADDRESS | TARGET_LINK_ADDRESS)
        && (units != 1 || source_mac(endpoint, Mac::from_octets(mac)).is_err())
    {
        return Err(Refusal::Neighbour);
    }
    Ok(units as u32 * 8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Be16;

    const MAC: Mac = Mac::from_octets([2, 0x42, 10, 0, 0, 2]);
    const OTHER: Mac = Mac::from_octets([2, 0x42, 10, 0, 0, 3]);

    fn v4(octets: [u8; 4]) -> u32 {
        u32::from_ne_bytes(octets)
    }

    fn v6(last: u8) -> Address {
        let mut octets = [0; 16];
        (octets[0], octets[15]) = (0xfd, last);
        Address::from_octets(octets)
    }

    fn endpoint() -> EndpointValue {
        EndpointValue {
            network: 1,
            v6: v6(2),
            link_local: MAC.link_local(),
            v4: v4([10, 0, 0, 2]),
            resolver: 0,
            resolver_port: Be16::ZERO,
            mac: MAC,
            flags: 1,
            direct_mtu: 0,
            name: [0; 16],
        }
    }

    fn message(operation: u16, sender_mac: Mac, sender: [u8; 4]) -> Arp {
        let [a, b, c, d] = sender;
        Arp {
            hardware: ETHERNET,
            protocol: 0x0800_u16.to_be(),
            lengths: LENGTHS,
            operation: operation.to_be(),
            sender_mac,
            sender: [u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d])],
            target_mac: OTHER,
            target: [0; 2],
        }
    }

    #[test]
    fn arp_speaks_for_the_endpoint_alone() {
        let own = [10, 0, 0, 2];
        let check = |message: &Arp| arp(&endpoint(), message).is_ok();
        assert!(check(&message(1, MAC, own)) && check(&message(2, MAC, own)));
        assert!(check(&message(1, MAC, [0; 4])), "a probe");
        assert!(!check(&message(2, MAC, [0; 4])), "no reply for nobody");
        assert!(!check(&message(2, MAC, [10, 0, 0, 1])), "the gateway's");
        assert!(!check(&message(2, OTHER, own)), "another link address");
        assert!(!check(&message(3, MAC, own)), "RARP");
        let mut other = message(1, MAC, own);
        other.hardware = 6_u16.to_be();
        assert!(!check(&other), "another medium");
        let mut without = endpoint();
        without.v4 = 0;
        assert!(arp(&without, &message(2, MAC, [0; 4])).is_err());
    }

    #[test]
    fn ipv4_sources() {
        let everybody = u32::MAX;
        let from = |source, to, udp| ipv4(&endpoint(), v4(source), to, udp);
        assert_eq!(from([10, 0, 0, 2], 7, None), Ok(()));
        assert_eq!(from([10, 0, 0, 3], 7, None), Err(Refusal::Ipv4));
        assert_eq!(from([0; 4], 7, None), Err(Refusal::Ipv4));
        assert_eq!(from([0; 4], everybody, Some((68, 67))), Ok(()));
        assert_eq!(from([0; 4], 7, Some((68, 67))), Err(Refusal::Ipv4));
        assert_eq!(from([10, 0, 0, 2], 7, Some((68, 67))), Ok(()), "a renewal");
        let answer = from([10, 0, 0, 2], 7, Some((67, 68)));
        assert_eq!(answer, Err(Refusal::DhcpServer));
    }

    #[test]
    fn ipv6_sources() {
        let from = |source, udp| ipv6(&endpoint(), source, udp);
        assert_eq!(from(v6(2), None), Ok(Source::Own));
        assert_eq!(from(MAC.link_local(), None), Ok(Source::Own));
        assert_eq!(from(OTHER.link_local(), None), Err(Refusal::Ipv6));
        assert_eq!(from(v6(3), None), Err(Refusal::Ipv6));
        assert_eq!(from(Address::ANY6, None), Ok(Source::Unspecified));
        assert_eq!(from(v6(2), Some((547, 546))), Err(Refusal::DhcpServer));
        assert_eq!(from(v6(2), Some((546, 547))), Ok(Source::Own));
    }

    #[test]
    fn nobody_without_an_address_says_more_than_neighbour_discovery() {
        let from = |protocol, kind| upper6(Source::Unspecified, protocol, kind, Fragment::Whole);
        assert_eq!(from(protocol::TCP, 0), Err(Refusal::Ipv6));
        assert_eq!(from(protocol::ICMPV6, 128), Err(Refusal::Ipv6));
        assert_eq!(
            from(protocol::ICMPV6, LISTENER_REPORT_V2),
            Ok(Icmp6::Nothing)
        );
        assert!(from(protocol::ICMPV6, NEIGHBOUR_SOLICITATION).is_ok());
    }

    #[test]
    fn containers_are_no_routers_and_do_not_hide_in_fragments() {
        for kind in [ROUTER_ADVERTISEMENT, REDIRECT] {
            let found = upper6(Source::Own, protocol::ICMPV6, kind, Fragment::Whole);
            assert_eq!(found, Err(Refusal::Router));
        }
        let found = upper6(Source::Own, protocol::ICMPV6, 136, Fragment::First);
        assert_eq!(found, Err(Refusal::Neighbour));
        let echo = upper6(Source::Own, protocol::ICMPV6, 128, Fragment::First);
        assert_eq!(echo, Ok(Icmp6::Nothing));
    }

    #[test]
    fn targets_are_own_where_they_are_claimed() {
        let check = |source, kind, address| target(&endpoint(), source, kind, address).is_ok();
        assert!(check(Source::Own, NEIGHBOUR_SOLICITATION, v6(9)));
        assert!(!check(Source::Unspecified, NEIGHBOUR_SOLICITATION, v6(9)));
        assert!(check(Source::Unspecified, NEIGHBOUR_SOLICITATION, v6(2)));
        assert!(check(
            Source::Own,
            NEIGHBOUR_ADVERTISEMENT,
            MAC.link_local()
        ));
        assert!(!check(Source::Own, NEIGHBOUR_ADVERTISEMENT, v6(9)));
        assert!(!check(Source::Own, NEIGHBOUR_ADVERTISEMENT, Address::ANY6));
    }

    #[test]
    fn options_carry_the_own_link_address() {
        let check = |bytes| option(&endpoint(), bytes);
        assert_eq!(check([1, 1, 2, 0x42, 10, 0, 0, 2]), Ok(8));
        assert_eq!(check([2, 1, 2, 0x42, 10, 0, 0, 3]), Err(Refusal::Neighbour));
        assert_eq!(check([2, 2, 2, 0x42, 10, 0, 0, 2]), Err(Refusal::Neighbour));
        assert_eq!(check([14, 1, 9, 9, 9, 9, 9, 9]), Ok(8), "a nonce");
        assert_eq!(check([14, 0, 9, 9, 9, 9, 9, 9]), Err(Refusal::Malformed));
    }
}
