//! Names and ids, checked once where they enter.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a text is not a name or an id. The message says what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidId {
    #[error(
        "invalid {what} name {text:?}: only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed, {min} to {max} characters"
    )]
    Name {
        what: &'static str,
        text: String,
        min: usize,
        max: usize,
    },
    #[error(
        "invalid interface name {text:?}: 1 to 15 bytes, no '/', ':' or white space, not '.' or '..'"
    )]
    IfName { text: String },
    #[error("invalid id {text:?}: expected 64 lower-case hexadecimal digits")]
    Hex64 { text: String },
    #[error("invalid id {text:?}: expected 25 digits and lower-case letters")]
    Cluster { text: String },
    #[error("invalid digest {text:?}: expected sha256: and 64 lower-case hexadecimal digits")]
    Digest { text: String },
    #[error("invalid MAC address {text:?}: expected six hexadecimal octets, not a group address")]
    Mac { text: String },
}

/// Shortens what a user typed so that a hostile 1 MB name cannot flood a log or a terminal.
fn excerpt(text: &str) -> String {
    const SHOWN: usize = 64;
    match text.char_indices().nth(SHOWN) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

/// Docker's rule for names: `[a-zA-Z0-9][a-zA-Z0-9_.-]+`. Those of networks may be one character.
fn is_restricted_name(text: &str, min: usize) -> bool {
    let mut bytes = text.bytes();
    (min..=NAME_MAX).contains(&text.len())
        && bytes.next().is_some_and(|b| b.is_ascii_alphanumeric())
        && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

fn is_lower_hex(text: &str) -> bool {
    text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

const CLUSTER_ID_LEN: usize = 25;

fn is_base36(text: &str) -> bool {
    text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'z'))
}

macro_rules! text_newtype {
    ($(#[$doc:meta])* $name:ident, |$text:ident| $check:expr, $error:expr $(, or $also:expr)?) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks `text`.
            ///
            /// # Errors
            /// [`InvalidId`] when the text breaks the type's rule.
            pub fn parse(text: &str) -> Result<Self, InvalidId> {
                let $text = text;
                if $check { Ok(Self(text.to_owned())) } else { Err($error(excerpt(text))) }
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                Self::parse(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(text: String) -> Result<Self, InvalidId> {
                $(
                    let $text = text.as_str();
                    if $also {
                        return Ok(Self(text));
                    }
                )?
                Self::parse(&text)
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> String {
                value.0
            }
        }
    };
}

const NAME_MAX: usize = 255;

text_newtype!(
    /// A network's name, 1 to 255 characters.
    NetworkName,
    |text| is_restricted_name(text, 1),
    |text| InvalidId::Name { what: "network", text, min: 1, max: NAME_MAX }
);
text_newtype!(
    /// A volume's name, 2 to 255 characters. An anonymous volume's is 64 hexadecimal digits.
    VolumeName,
    |text| is_restricted_name(text, 2),
    |text| InvalidId::Name { what: "volume", text, min: 2, max: NAME_MAX }
);
text_newtype!(
    /// A snapshot's name, 1 to 255 characters; it tells the snapshots of one volume apart.
    SnapshotName,
    |text| is_restricted_name(text, 1),
    |text| InvalidId::Name { what: "snapshot", text, min: 1, max: NAME_MAX }
);
text_newtype!(
    /// A container's name, 2 to 255 characters.
    ContainerName,
    |text| is_restricted_name(text, 2),
    |text| InvalidId::Name { what: "container", text, min: 2, max: NAME_MAX }
);
text_newtype!(
    /// A random id of 64 lower-case hexadecimal digits: containers, networks, endpoints. A network
    /// of the cluster has one as nodes do: nobody types it where a container's is expected, so that
    /// [`Id::parse`] knows the former alone.
    Id,
    |text| text.len() == 64 && is_lower_hex(text),
    |text| InvalidId::Hex64 { text },
    or text.len() == CLUSTER_ID_LEN && is_base36(text)
);
text_newtype!(
    /// A node of a cluster: 25 digits and lower-case letters, as Docker's.
    NodeId,
    |text| text.len() == CLUSTER_ID_LEN && is_base36(text),
    |text| InvalidId::Cluster { text }
);
text_newtype!(
    /// `sha256:` and 64 lower-case hexadecimal digits: layers (diff and chain ids) and images.
    Digest,
    |text| text.strip_prefix("sha256:").is_some_and(|hex| hex.len() == 64 && is_lower_hex(hex)),
    |text| InvalidId::Digest { text }
);
text_newtype!(
    /// A kernel interface name (`dev_valid_name` in the kernel's `net/core/dev.c`).
    IfName,
    |text| (1..=15).contains(&text.len())
        && text != "."
        && text != ".."
        && !text.bytes().any(|b| b == b'/' || b == b':' || b == 0 || b.is_ascii_whitespace()),
    |text| InvalidId::IfName { text }
);

impl Id {
    /// Formats 32 random bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes.iter().map(|b| format!("{b:02x}")).collect())
    }

    /// Of an object that the whole cluster knows: written from 16 random bytes as [`NodeId`]s are.
    pub fn of_cluster(bytes: [u8; 16]) -> Self {
        Self(NodeId::from_bytes(bytes).0)
    }

    pub fn is_of_cluster(&self) -> bool {
        self.0.len() == CLUSTER_ID_LEN
    }

    /// The first 12 digits: what listings show.
    pub fn short(&self) -> &str {
        &self.0[..12]
    }
}

impl NodeId {
    /// Writes 16 random bytes in base 36.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
        let mut left = u128::from_be_bytes(bytes);
        let digit = |_| {
            let digit = DIGITS[(left % 36) as usize];
            left /= 36;
            char::from(digit)
        };
        Self((0..CLUSTER_ID_LEN).map(digit).collect())
    }
}

impl Digest {
    /// Formats a SHA-256 value.
    pub fn from_sha256(bytes: [u8; 32]) -> Self {
        Self(format!("sha256:{}", Id::from_bytes(bytes)))
    }

    /// The 64 hexadecimal digits after `sha256:`.
    pub fn hex(&self) -> &str {
        &self.0["sha256:".len()..]
    }
}

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MacAddr(pub [u8; 6]);

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for MacAddr {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let invalid = || InvalidId::Mac {
            text: excerpt(text),
        };
        let mut octets = [0u8; 6];
        let mut parts = text.split([':', '-']);
        for octet in &mut octets {
            let part = parts
                .next()
                .filter(|part| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit()))
                .ok_or_else(invalid)?;
            *octet = u8::from_str_radix(part, 16).map_err(|_not_hex| invalid())?;
        }
        // Bit 0 of the first octet marks a group address (IEEE 802, 8.2), which no interface has.
        if parts.next().is_some() || octets[0] & 1 == 1 || octets == [0; 6] {
            return Err(invalid());
        }
        Ok(Self(octets))
    }
}

impl TryFrom<String> for MacAddr {
    type Error = InvalidId;
    fn try_from(text: String) -> Result<Self, InvalidId> {
        text.parse()
    }
}

impl From<MacAddr> for String {
    fn from(mac: MacAddr) -> String {
        mac.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_dockers_rule() {
        for good in ["ab", "a1", "my_vol.v-2", "0a", &"a".repeat(255)] {
            assert!(VolumeName::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "a",
            "-ab",
            ".x",
            "a/b",
            "..",
            "a b",
            "a\0b",
            "é1",
            &"0".repeat(300),
        ] {
            assert!(VolumeName::parse(bad).is_err(), "{bad:?}");
            assert_eq!(NetworkName::parse(bad).is_err(), bad != "a", "{bad:?}");
        }
        assert!(ContainerName::parse("a").is_err());
    }

    #[test]
    fn an_error_shows_only_an_excerpt() {
        let error = NetworkName::parse(&"x".repeat(1_000_000))
            .unwrap_err()
            .to_string();
        assert!(error.len() < 300, "{} bytes", error.len());
    }

    #[test]
    fn interface_names_follow_the_kernel() {
        assert!(IfName::parse("eth0").is_ok());
        for bad in ["", ".", "..", "a/b", "a b", "a:b", "sixteen-bytes-xx"] {
            assert!(IfName::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn mac_round_trips_and_refuses_group_addresses() {
        let mac: MacAddr = "02:42:ac:11:00:02".parse().unwrap();
        assert_eq!(mac.to_string(), "02:42:ac:11:00:02");
        for bad in [
            "01:00:5e:00:00:01",
            "00:00:00:00:00:00",
            "02:42:ac:11:00",
            "02:42:ac:11:00:02:03",
            "+2:42:ac:11:00:02",
        ] {
            assert!(bad.parse::<MacAddr>().is_err(), "{bad}");
        }
    }

    #[test]
    fn digests_split_into_their_parts() {
        let digest = Digest::from_sha256([0xab; 32]);
        assert_eq!(digest.hex(), "ab".repeat(32));
        assert_eq!(Digest::parse(digest.as_str()).unwrap(), digest);
        assert!(Digest::parse("sha256:AB").is_err());
    }

    #[test]
    fn an_id_of_the_cluster_is_read_but_not_typed() {
        let id = Id::of_cluster([7; 16]);
        assert_eq!((id.as_str().len(), id.short().len()), (25, 12));
        let text = serde_json::to_string(&id).unwrap();
        assert_eq!(serde_json::from_str::<Id>(&text).unwrap(), id);
        assert!(Id::parse(id.as_str()).is_err());
        assert!(serde_json::from_str::<Id>(r#""abc""#).is_err());
    }
}
