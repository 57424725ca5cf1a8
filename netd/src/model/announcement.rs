//! Frames by which an interface tells its neighbours the link address of its addresses, so that
//! nobody keeps on sending to the one that had an address before.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use api::id::MacAddr;

const BROADCAST: [u8; 6] = [0xff; 6];
/// Of ff02::1 (RFC 2464, section 7).
const ALL_NODES_LINK: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ICMPV6: u8 = 58;
/// Neighbours take the new link address in the place of the one they have (RFC 4861, section 4.4).
const OVERRIDE: u8 = 0x20;

/// The announcement of `address` at `mac`: a gratuitous ARP request (RFC 5227, section 3) or an
/// unsolicited neighbour advertisement (RFC 4861, section 7.2.6).
pub(crate) fn frame(mac: MacAddr, address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => gratuitous_arp(mac, address),
        IpAddr::V6(address) => advertisement(mac, address),
    }
}

fn gratuitous_arp(MacAddr(mac): MacAddr, address: Ipv4Addr) -> Vec<u8> {
    let address = address.octets();
    // Ethernet and IPv4 addresses of 6 and 4 bytes; a request (RFC 826).
    let header = [0, 1, 0x08, 0, 6, 4, 0, 1];
    let parts: [&[u8]; 8] = [
        &BROADCAST,
        &mac,
        &[0x08, 0x06],
        &header,
        &mac,
        &address,
        &[0; 6],
        &address,
    ];
    parts.concat()
}

fn advertisement(MacAddr(mac): MacAddr, address: Ipv6Addr) -> Vec<u8> {
    let target = address.octets();
    // Type, code, checksum, flags, reserved; the option is the target's link address, one unit of
    // eight bytes.
    let head = [136, 0, 0, 0, OVERRIDE, 0, 0, 0];
    let mut message = [&head[..], &target, &[2, 1], &mac].concat();
    let length = [0, message.len() as u8];
    let pseudo = [
        &target[..],
        &ALL_NODES.octets(),
        &[0, 0],
        &length,
        &[0, 0, 0, ICMPV6],
    ]
    .concat();
    let checksum = checksum(pseudo.iter().chain(&message)).to_be_bytes();
    message[2..4].copy_from_slice(&checksum);
    // Hop limit 255: from this link (RFC 4861, section 7.1.2).
    let header = [&[0x60, 0, 0, 0], &length[..], &[ICMPV6, 255]].concat();
    let parts: [&[u8]; 7] = [
        &ALL_NODES_LINK,
        &mac,
        &[0x86, 0xdd],
        &header,
        &target,
        &ALL_NODES.octets(),
        &message,
    ];
    parts.concat()
}

/// RFC 1071, of an even number of bytes.
fn checksum<'a>(bytes: impl Iterator<Item = &'a u8>) -> u16 {
    let sum: u32 = bytes
        .zip([8, 0].into_iter().cycle())
        .map(|(byte, shift)| u32::from(*byte) << shift)
        .sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    !((sum & 0xffff) + (sum >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: MacAddr = MacAddr([0x02, 0x42, 0xac, 0x12, 0, 2]);

    #[test]
    fn an_ipv4_address_is_asked_for_by_who_has_it() {
        let frame = frame(MAC, Ipv4Addr::new(172, 18, 0, 2).into());
        let expected = "ffffffffffff0242ac120002 0806 0001080006040001 0242ac120002 ac120002 \
                        000000000000 ac120002";
        assert_eq!(hex::encode(frame), expected.replace(' ', ""));
    }

    #[test]
    fn an_ipv6_address_is_advertised_to_all_nodes() {
        let frame = frame(MAC, "fd00::2".parse().unwrap());
        let expected = "333300000001 0242ac120002 86dd 60000000 0020 3a ff \
                        fd000000000000000000000000000002 ff020000000000000000000000000001 \
                        8800ae4320000000 fd000000000000000000000000000002 0201 0242ac120002";
        assert_eq!(hex::encode(frame), expected.replace(' ', ""));
    }
}
