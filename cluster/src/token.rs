//! Join tokens: `SWMTKN-1-DIGEST-SECRET`, as Docker's.
//!
//! The digest is that of the certificate of the cluster's authority: whoever joins knows by it whom to
//! trust, before it trusts anybody. The secret decides the role.

use std::fmt;
use std::str::FromStr;

use api::id::NodeId;

const PREFIX: &str = "SWMTKN";
const VERSION: &str = "1";
/// Digits of 256 bits in base 36.
const DIGEST_LEN: usize = 50;
const BASE: u32 = 36;

/// What a node shows to join.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// SHA-256 of the authority's certificate (DER).
    pub digest: [u8; 32],
    pub secret: NodeId,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid join token: expected {PREFIX}-{VERSION}-DIGEST-SECRET, as hawser swarm join-token prints it"
)]
pub struct InvalidToken;

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digest = encode(self.digest);
        write!(f, "{PREFIX}-{VERSION}-{digest}-{}", self.secret)
    }
}

/// Tokens are secrets: they are in no log.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").finish_non_exhaustive()
    }
}

impl FromStr for Token {
    type Err = InvalidToken;

    fn from_str(text: &str) -> Result<Self, InvalidToken> {
        let parts: Vec<&str> = text.trim().split('-').collect();
        match parts.as_slice() {
            [PREFIX, VERSION, digest, secret] => Ok(Self {
                digest: decode(digest).ok_or(InvalidToken)?,
                secret: NodeId::parse(secret).map_err(|_other| InvalidToken)?,
            }),
            _ => Err(InvalidToken),
        }
    }
}

/// The number in base 36, always as long.
fn encode(mut number: [u8; 32]) -> String {
    let mut digits = [0_u8; DIGEST_LEN];
    for digit in digits.iter_mut().rev() {
        let mut rest = 0;
        for byte in &mut number {
            let value = rest * 256 + u32::from(*byte);
            // Less than 256, because the rest is less than the base.
            *byte = (value / BASE) as u8;
            rest = value % BASE;
        }
        let letter = char::from_digit(rest, BASE).unwrap_or('0');
        *digit = letter as u8;
    }
    digits.iter().map(|digit| char::from(*digit)).collect()
}

fn decode(text: &str) -> Option<[u8; 32]> {
    let is_digit = |c: char| c.is_ascii_digit() || c.is_ascii_lowercase();
    if text.len() != DIGEST_LEN || !text.chars().all(is_digit) {
        return None;
    }
    let mut number = [0_u8; 32];
    for digit in text.chars() {
        let mut carry = digit.to_digit(BASE)?;
        for byte in number.iter_mut().rev() {
            let value = u32::from(*byte) * BASE + carry;
            *byte = (value % 256) as u8;
            carry = value / 256;
        }
        if carry > 0 {
            return None;
        }
    }
    Some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(byte: u8) -> Token {
        Token {
            digest: [byte; 32],
            secret: NodeId::from_bytes([byte; 16]),
        }
    }

    #[test]
    fn a_token_is_read_as_it_is_printed() {
        for byte in [0, 1, 0x7f, 0xff] {
            let text = token(byte).to_string();
            assert_eq!(text.parse(), Ok(token(byte)), "{text}");
            let fields: Vec<usize> = text.split('-').map(str::len).collect();
            assert_eq!(fields, [6, 1, 50, 25], "{text}");
        }
        let padded = format!(" {}\n", token(5));
        assert_eq!(padded.parse(), Ok(token(5)));
    }

    #[test]
    fn what_is_no_token_is_refused() {
        let good = token(3).to_string();
        let too_large = "z".repeat(DIGEST_LEN);
        for bad in [
            "",
            "SWMTKN-1",
            &good[1..],
            &good[..good.len() - 1],
            &good.replace("-1-", "-2-"),
            &good.to_uppercase(),
            &format!("{good}-x"),
            &format!("SWMTKN-1-{too_large}-{}", token(1).secret),
        ] {
            assert_eq!(bad.parse::<Token>(), Err(InvalidToken), "{bad}");
        }
    }

    #[test]
    fn tokens_stay_out_of_logs() {
        assert_eq!(format!("{:?}", token(1)), "Token { .. }");
    }
}
