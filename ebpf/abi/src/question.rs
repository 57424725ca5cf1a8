//! How the daemon asks a socket hook for the cookie of a network namespace.
//!
//! A thread inside the namespace connects to an address of 127.255.0.0/16 that stands for a number.
//! The program enters the namespace's cookie under that number if the daemon has made the entry, and
//! refuses the connect: nothing is sent.

#[cfg(feature = "user")]
use core::net::{Ipv4Addr, SocketAddrV4};

use crate::address::{Address, Be16};

/// The upper half of the addresses that are questions.
const NETWORK: u32 = 0x7fff;

/// The number of the question that a connect may be.
#[inline(always)]
pub const fn number(address: Address, port: Be16) -> Option<u32> {
    let host = u32::from_be(address.0[3]);
    if address.is_v4() && host >> 16 == NETWORK {
        Some(host << 16 | port.get() as u32)
    } else {
        None
    }
}

/// Where to connect to ask question `number`, whose lower half is not zero.
#[cfg(feature = "user")]
pub const fn address(number: u32) -> SocketAddrV4 {
    let host = NETWORK << 16 | number >> 16;
    SocketAddrV4::new(Ipv4Addr::from_bits(host), number as u16)
}

#[cfg(all(test, feature = "user"))]
mod tests {
    use super::*;

    fn asked(to: SocketAddrV4) -> Option<u32> {
        let address = Address::v4(to.ip().to_bits().to_be());
        number(address, Be16::new(to.port()))
    }

    #[test]
    fn a_question_is_known_by_its_address() {
        for question in [1, 0x1234_5678, u32::MAX] {
            assert_eq!(asked(address(question)), Some(question));
        }
        assert_eq!(asked("127.254.255.255:80".parse().unwrap()), None);
        assert_eq!(asked("128.255.0.1:80".parse().unwrap()), None);
        assert_eq!(
            number(Address([1, 2, 3, 0x7fff_0001_u32.to_be()]), Be16::new(1)),
            None
        );
    }
}
