//! SCTP's checksum after a change of ports.
//!
//! The checksum is a CRC32c over the whole packet, with a zero in its own place and no pseudo header
//! (RFC 9260, 6.8): a change of addresses leaves it alone, a change of ports does not.
//!
//! A CRC is linear: `crc(a ⊕ b) = crc(a) ⊕ crc(b)` but for the constants at its beginning and end,
//! which cancel out. So a checksum changes by the remainder of the difference of the ports, followed
//! by as many zeros as the packet has further bytes. With the difference as a polynomial, that is
//! its product with `x^(8 · length)`: two multiplications with powers out of tables, whatever the
//! length, and not a byte of the packet is read. A checksum that was wrong stays wrong.

/// Bytes before the first chunk: ports, verification tag, checksum.
pub const HEADER_LEN: u32 = 12;
/// Where the checksum lies.
pub const CHECKSUM: u32 = 8;
/// The longest packet, by the length fields of IP.
const MAX_LEN: u32 = 65_535;

/// Castagnoli's polynomial. All numbers here hold the coefficient of `x^0` in their highest bit, as
/// the checksum does when it is read as a little-endian number (RFC 9260, appendix A).
const POLYNOMIAL: u64 = 0x82f6_3b78;
const ONE: u32 = 1 << 31;

/// `x^(8 n)` and `x^(8 · 256 n)` for each `n`: the powers of every length are products of two.
static POWERS: [u32; 256] = powers(times_byte(ONE));
static HIGH_POWERS: [u32; 256] = powers(multiply(POWERS_255, times_byte(ONE)));
const POWERS_255: u32 = powers(times_byte(ONE))[255];

const fn powers(base: u32) -> [u32; 256] {
    let mut powers = [ONE; 256];
    let mut n = 1;
    while n < 256 {
        powers[n] = multiply(powers[n - 1], base);
        n += 1;
    }
    powers
}

const fn times_byte(mut a: u32) -> u32 {
    let mut bit = 0;
    while bit < 8 {
        a = times_x(a as u64) as u32;
        bit += 1;
    }
    a
}

#[inline(always)]
const fn times_x(a: u64) -> u64 {
    (a >> 1) ^ (POLYNOMIAL & 0_u64.wrapping_sub(a & 1))
}

/// The product of two polynomials. Without a branch: the verifier would follow both ways of each of
/// the 32. In 64 bits: BPF's smaller numbers cost an instruction more at every step.
#[inline(always)]
const fn multiply(a: u32, b: u32) -> u32 {
    let (a, mut b, mut product) = (a as u64, b as u64, 0);
    let mut power = 0;
    while power < 32 {
        product ^= b & 0_u64.wrapping_sub((a >> (31 - power)) & 1);
        b = times_x(b);
        power += 1;
    }
    product as u32
}

/// What to xor a packet's checksum with when its first four bytes are xored with `ports`. Both are
/// as in the packet; `length` is the packet's, headers of IP not counted.
#[inline(always)]
pub fn change(ports: u32, length: u32) -> u32 {
    let low = POWERS[(length & 0xff) as usize];
    let high = HIGH_POWERS[(length >> 8 & 0xff) as usize];
    multiply(multiply(u32::from_le(ports), low), high).to_le()
}

/// Whether a packet may have this many bytes from its ports on.
#[inline(always)]
pub const fn is_length(length: u32) -> bool {
    HEADER_LEN <= length && length <= MAX_LEN
}

/// Whether the packet's checksum has still to be filled in, or never will be: then nobody may touch
/// it.
///
/// A sender whose device computes the checksum leaves zero there (`sctp_packet_pack`, and
/// `skb_crc32c_csum_help`, which includes what it finds in the sum), and so does one that has agreed
/// with its peer to send none (RFC 9653). Nothing else tells a program: the context does not show
/// `ip_summed`. One packet of 2^32 has a zero for its true checksum and is lost.
#[inline(always)]
pub const fn is_left_open(checksum: u32) -> bool {
    checksum == 0
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::vec::Vec;

    /// Byte by byte over everything, as the receiver does.
    fn checksum(packet: &[u8]) -> u32 {
        let register = packet.iter().fold(u32::MAX, |register, byte| {
            times_byte(register ^ u32::from(*byte))
        });
        !register
    }

    /// Numbers that look random (Marsaglia's xorshift).
    fn numbers(mut seed: u64) -> impl FnMut() -> u64 {
        move || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed
        }
    }

    fn check(length: usize, next: &mut impl FnMut() -> u64) {
        let mut packet: Vec<u8> = (0..length).map(|_| next() as u8).collect();
        packet[8..12].fill(0);
        let before = checksum(&packet);
        let difference = next() as u32;
        for (byte, change) in packet.iter_mut().zip(difference.to_ne_bytes()) {
            *byte ^= change;
        }
        // The checksum is in the packet as a little-endian number.
        let changed = before.to_le() ^ change(difference, length as u32);
        assert_eq!(changed, checksum(&packet).to_le(), "{length} bytes");
    }

    #[test]
    fn the_standard_check_value_is_met() {
        assert_eq!(checksum(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn a_changed_checksum_is_the_one_of_the_changed_packet() {
        let mut next = numbers(0x5c79_0001);
        for length in 12..=600 {
            check(length, &mut next);
        }
        for _ in 0..1500 {
            let length = 12 + next() as usize % 8989;
            check(length, &mut next);
        }
        for length in [0x8000, 0xff00, 0xffff] {
            check(length, &mut next);
        }
    }

    #[test]
    fn no_change_of_ports_is_no_change_of_the_checksum() {
        for length in [12, 1500, 65_535] {
            assert_eq!(change(0, length), 0);
        }
    }

    #[test]
    fn lengths_that_no_packet_has() {
        assert!(!is_length(11) && is_length(12) && is_length(65_535) && !is_length(65_536));
        assert!(is_left_open(0) && !is_left_open(1));
    }
}
