//! Networks whose frames go between nodes encrypted, and no other way: VXLAN in clear text is theirs
//! from nobody and for nobody.

/// The UDP port of VXLAN while there are such networks; zero otherwise.
pub const SEALED_PORT: &str = "sealed_port";
/// By VXLAN network number: frames in clear text that were dropped.
pub const SEALED: &str = "sealed";
pub const MAX_SEALED: u32 = 1 << 14;

/// Which network a VXLAN header is of (RFC 7348, section 5).
#[inline(always)]
pub const fn network([_, _, _, _, high, middle, low, _]: [u8; 8]) -> u32 {
    u32::from_be_bytes([0, high, middle, low])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_has_three_bytes_before_the_last_one() {
        assert_eq!(network([8, 0, 0, 0, 0, 0x10, 1, 0xff]), 4097);
        assert_eq!(network([0xff; 8]), 0x00ff_ffff);
    }
}
