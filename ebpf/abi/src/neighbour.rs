//! Answers for addresses that nobody has: those of services.

use crate::address::Address;
use crate::endpoint::Mac;
use crate::guard::{self, Arp};

/// A neighbour solicitation with the link address of who asks, and the advertisement that answers it
/// (RFC 4861, 4.3 and 4.4). Linux sends no other one but to find out whether an address is free.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Solicitation {
    pub kind: u8,
    pub code: u8,
    pub checksum: u16,
    pub flags: u32,
    pub target: Address,
    /// Type, and length in units of eight bytes.
    pub option: [u8; 2],
    pub mac: Mac,
}

const _: () = assert!(size_of::<Solicitation>() == 32);

/// Solicited, and in the place of what was known before.
const FLAGS: u32 = 0x6000_0000_u32.to_be();

/// The answer to an ARP request, and the address it is about.
#[inline(always)]
pub const fn arp(asked: &Arp) -> Option<(Address, Arp)> {
    let address = ipv4(asked.target);
    let asks = asked.operation == guard::REQUEST && asked.lengths == guard::LENGTHS;
    if !asks || ipv4(asked.sender).is_unspecified() {
        return None;
    }
    let answer = Arp {
        operation: guard::REPLY,
        sender_mac: Mac::of_service(address),
        sender: asked.target,
        target_mac: asked.sender_mac,
        target: asked.sender,
        ..*asked
    };
    Some((address, answer))
}

/// The answer to a solicitation, but for its checksum, which is still the question's.
#[inline(always)]
pub const fn answer(asked: &Solicitation) -> Option<Solicitation> {
    let [option, length] = asked.option;
    if asked.kind != guard::NEIGHBOUR_SOLICITATION
        || option != guard::SOURCE_LINK_ADDRESS
        || length != 1
    {
        return None;
    }
    Some(Solicitation {
        kind: guard::NEIGHBOUR_ADVERTISEMENT,
        flags: FLAGS,
        option: [guard::TARGET_LINK_ADDRESS, 1],
        mac: Mac::of_service(asked.target),
        ..*asked
    })
}

#[inline(always)]
const fn ipv4([high, low]: [u16; 2]) -> Address {
    let ([a, b], [c, d]) = (high.to_ne_bytes(), low.to_ne_bytes());
    Address::v4(u32::from_ne_bytes([a, b, c, d]))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: Mac = Mac::from_octets([2, 0, 0, 0, 0, 1]);

    fn halves([a, b, c, d]: [u8; 4]) -> [u16; 2] {
        [u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d])]
    }

    #[test]
    fn requests_are_answered_and_nothing_else_is() {
        let asked = Arp {
            hardware: 1_u16.to_be(),
            protocol: 0x0800_u16.to_be(),
            lengths: guard::LENGTHS,
            operation: guard::REQUEST,
            sender_mac: CLIENT,
            sender: halves([172, 18, 0, 2]),
            target_mac: Mac::default(),
            target: halves([172, 18, 0, 5]),
        };
        let (address, answer) = arp(&asked).unwrap();
        assert_eq!(address, Address::v4(u32::from_ne_bytes([172, 18, 0, 5])));
        assert_eq!(answer.sender_mac.octets(), [2, 0x42, 172, 18, 0, 5]);
        assert_eq!((answer.target_mac, answer.target), (CLIENT, asked.sender));
        assert_eq!(
            (answer.sender, answer.operation),
            (asked.target, guard::REPLY)
        );
        assert_eq!(arp(&answer), None);
        let probe = Arp {
            sender: [0; 2],
            ..asked
        };
        assert_eq!(arp(&probe), None, "somebody wants the address");
    }

    #[test]
    fn solicitations_are_answered_and_nothing_else_is() {
        let asked = Solicitation {
            kind: 135,
            code: 0,
            checksum: 7,
            flags: 0,
            target: Address([1, 2, 3, u32::from_ne_bytes([0, 0, 0, 5])]),
            option: [1, 1],
            mac: CLIENT,
        };
        let answered = answer(&asked).unwrap();
        assert_eq!((answered.kind, answered.option), (136, [2, 1]));
        assert_eq!(answered.mac.octets(), [2, 0x42, 0, 0, 0, 5]);
        assert_eq!(answered.target, asked.target);
        assert_eq!(answer(&answered), None);
    }
}
