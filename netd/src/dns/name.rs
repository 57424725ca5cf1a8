//! Names as the wire has them (RFC 1035 §3.1), lower-cased: the keys of a zone.
//!
//! Using the wire form as the key means that a query's name is looked up without building a text,
//! and that a dot inside a label can never be mistaken for a separator.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use api::net::Protocol;

/// RFC 1035 §2.3.4.
const MAX_LABEL: usize = 63;
const MAX_NAME: usize = 255;

/// A lower-cased name in wire form, without a heap allocation.
pub(super) struct Key {
    octets: [u8; MAX_NAME],
    len: usize,
}

impl Key {
    /// Copies labels (the root label included or not) and lower-cases them.
    ///
    /// `None` when they are longer than a name can be.
    pub(super) fn from_labels<'a>(labels: impl Iterator<Item = &'a [u8]>) -> Option<Self> {
        let mut key = Self {
            octets: [0; MAX_NAME],
            len: 0,
        };
        for label in labels.filter(|label| !label.is_empty()) {
            let end = key.len + 1 + label.len();
            // One octet stays free for the root label.
            if label.len() > MAX_LABEL || end >= MAX_NAME {
                return None;
            }
            key.octets[key.len] = label.len() as u8;
            key.octets[key.len + 1..end].copy_from_slice(label);
            key.octets[key.len + 1..end].make_ascii_lowercase();
            key.len = end;
        }
        key.len += 1;
        Some(key)
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.octets[..self.len]
    }

    pub(super) fn labels(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = self.as_bytes();
        std::iter::from_fn(move || {
            let (&len, tail) = rest.split_first()?;
            if len == 0 {
                return None;
            }
            let (label, tail) = tail.split_at_checked(usize::from(len))?;
            rest = tail;
            Some(label)
        })
    }

    pub(super) fn is_single_label(&self) -> bool {
        self.labels().count() == 1
    }
}

/// Encodes a dotted name in wire form with its case kept; `None` when it is no domain name.
pub(super) fn encode(dotted: &str) -> Option<Vec<u8>> {
    let mut wire = Vec::with_capacity(dotted.len() + 2);
    for label in dotted.strip_suffix('.').unwrap_or(dotted).split('.') {
        if label.is_empty() || label.len() > MAX_LABEL {
            return None;
        }
        wire.push(label.len() as u8);
        wire.extend_from_slice(label.as_bytes());
    }
    wire.push(0);
    (wire.len() <= MAX_NAME).then_some(wire)
}

/// The address that a name below `in-addr.arpa` or `ip6.arpa` stands for.
pub(super) fn reverse_address(name: &Key) -> Option<IpAddr> {
    let mut labels = [&[][..]; 34];
    let mut count = 0;
    for label in name.labels() {
        *labels.get_mut(count)? = label;
        count += 1;
    }
    match &labels[..count] {
        [octets @ .., b"in-addr", b"arpa"] if octets.len() == 4 => {
            let mut address = [0; 4];
            for (byte, label) in address.iter_mut().rev().zip(octets) {
                *byte = decimal_octet(label)?;
            }
            Some(IpAddr::V4(Ipv4Addr::from(address)))
        }
        [nibbles @ .., b"ip6", b"arpa"] if nibbles.len() == 32 => {
            let mut address = 0;
            for label in nibbles.iter().rev() {
                address = address << 4 | nibble(label)?;
            }
            Some(IpAddr::V6(Ipv6Addr::from_bits(address)))
        }
        _ => None,
    }
}

/// The protocol, the port and the key of the host of `_PORT._PROTOCOL.host`.
pub(super) fn service(name: &Key) -> Option<(Protocol, u16, &[u8])> {
    let mut labels = name.labels();
    let port = labels.next()?.strip_prefix(b"_")?;
    let protocol = labels.next()?.strip_prefix(b"_")?;
    // Each label has its length before it, and the underscore.
    let host = name.as_bytes().get(port.len() + protocol.len() + 4..)?;
    let port = std::str::from_utf8(port).ok()?;
    let canonical = port.bytes().all(|b| b.is_ascii_digit()) && !port.starts_with('0');
    let protocol = std::str::from_utf8(protocol).ok()?.parse().ok()?;
    Some((
        protocol,
        port.parse().ok().filter(|_number| canonical)?,
        host,
    ))
}

fn decimal_octet(label: &[u8]) -> Option<u8> {
    let canonical = label.iter().all(u8::is_ascii_digit) && (label.len() == 1 || label[0] != b'0');
    if !canonical {
        return None;
    }
    std::str::from_utf8(label).ok()?.parse().ok()
}

fn nibble(label: &[u8]) -> Option<u128> {
    match label {
        [digit] => char::from(*digit).to_digit(16).map(u128::from),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(dotted: &str) -> Key {
        Key::from_labels(dotted.split('.').map(str::as_bytes)).unwrap()
    }

    #[test]
    fn keys_are_lower_case_wire_names() {
        assert_eq!(key("Web.Shop").as_bytes(), b"\x03web\x04shop\0");
        assert_eq!(key("").as_bytes(), b"\0");
        assert!(key("web").is_single_label());
        assert!(!key("web.shop").is_single_label());
        assert!(!key("").is_single_label());
    }

    #[test]
    fn keys_longer_than_a_name_are_refused() {
        let label = [b'a'; 63];
        assert!(Key::from_labels([&label[..]; 4].into_iter()).is_none());
        assert!(Key::from_labels([&label[..]; 3].into_iter()).is_some());
        assert!(Key::from_labels([&[b'a'; 64][..]].into_iter()).is_none());
    }

    #[test]
    fn texts_that_are_no_domain_names_are_refused() {
        assert_eq!(encode("Web.shop.").unwrap(), b"\x03Web\x04shop\0");
        for bad in [
            "",
            ".",
            "a..b",
            ".a",
            &"a".repeat(64),
            &["a".repeat(60).as_str(); 5].join("."),
        ] {
            assert!(encode(bad).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn service_names_give_port_protocol_and_host() {
        let check = |name: &str, expected: Option<(Protocol, u16, &[u8])>| {
            assert_eq!(service(&key(name)), expected, "{name}");
        };
        check("_80._tcp.web", Some((Protocol::Tcp, 80, b"\x03web\0")));
        check(
            "_53._UDP.ns.shop",
            Some((Protocol::Udp, 53, b"\x02ns\x04shop\0")),
        );
        // The host is the root, which nobody is called.
        check("_80._tcp", Some((Protocol::Tcp, 80, b"\0")));
        for none in [
            "web",
            "80._tcp.web",
            "_80.tcp.web",
            "_080._tcp.web",
            "_+80._tcp.web",
            "_65536._tcp.web",
            "_http._tcp.web",
            "_80._icmp.web",
            "_._tcp.web",
        ] {
            check(none, None);
        }
    }

    #[test]
    fn reverse_names_give_addresses() {
        let check = |name: &str, expected: Option<&str>| {
            let expected = expected.map(|text| text.parse().unwrap());
            assert_eq!(reverse_address(&key(name)), expected, "{name}");
        };
        check("2.0.18.172.in-addr.arpa", Some("172.18.0.2"));
        check("2.0.18.172.IN-ADDR.ARPA", Some("172.18.0.2"));
        check("0.18.172.in-addr.arpa", None);
        check("1.2.0.18.172.in-addr.arpa", None);
        check("256.0.18.172.in-addr.arpa", None);
        check("02.0.18.172.in-addr.arpa", None);
        check("+2.0.18.172.in-addr.arpa", None);
        check("web", None);
        let v6 = "fd00::a2".parse::<Ipv6Addr>().unwrap();
        let nibbles: Vec<_> = (0..32)
            .map(|n| format!("{:x}", v6.to_bits() >> (4 * n) & 15))
            .collect();
        check(&format!("{}.ip6.arpa", nibbles.join(".")), Some("fd00::a2"));
        check(&format!("{}.ip6.arpa", nibbles[1..].join(".")), None);
        check(&format!("0.{}.ip6.arpa", nibbles.join(".")), None);
    }
}
