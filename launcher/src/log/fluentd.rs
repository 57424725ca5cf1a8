//! The log driver `fluentd`: the forward protocol's messages (fluentd's "Forward Protocol
//! Specification v1", 1.4.1), with the fields that Docker sends.
//!
//! Nobody is asked to acknowledge anything.

use std::path::PathBuf;

use jiff::Timestamp;

use super::Stream;
use super::syslog::{Peer, peer};
use crate::container::Record;

const PORT: u16 = 24224;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    Tcp(Peer),
    Tls(Peer),
    Stream(PathBuf),
}

impl Address {
    pub(super) fn usual() -> Self {
        Self::Tcp(Peer {
            host: "127.0.0.1".to_owned(),
            port: PORT,
        })
    }

    /// None if it is none.
    pub(super) fn parse(text: &str) -> Option<Self> {
        match text.split_once("://") {
            None => peer(text, PORT).map(Self::Tcp),
            Some(("tcp", rest)) => peer(rest, PORT).map(Self::Tcp),
            Some(("tls", rest)) => peer(rest, PORT).map(Self::Tls),
            Some(("unix", path)) => path.starts_with('/').then(|| Self::Stream(path.into())),
            Some(_) => None,
        }
    }
}

/// Which part of a line that is longer than an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) id: String,
    pub(crate) ordinal: u32,
    pub(crate) is_last: bool,
}

/// What all messages of a container have in common.
#[derive(Debug, Clone)]
pub(crate) struct Sender {
    tag: String,
    fields: Vec<(String, String)>,
    /// Times with nanoseconds.
    precise: bool,
}

impl Sender {
    pub(crate) fn of(
        record: &Record,
        tag: String,
        attributes: impl IntoIterator<Item = (String, String)>,
        precise: bool,
    ) -> Self {
        let own = [
            ("container_id".to_owned(), record.id.as_str().to_owned()),
            ("container_name".to_owned(), format!("/{}", record.name)),
        ];
        Self {
            tag,
            fields: own.into_iter().chain(attributes).collect(),
            precise,
        }
    }

    /// The message of one entry.
    pub(crate) fn message(
        &self,
        stream: Stream,
        line: &[u8],
        time: Timestamp,
        part: Option<&Part>,
    ) -> Vec<u8> {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let mut fields: Vec<(&str, &[u8])> = self
            .fields
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_bytes()))
            .collect();
        fields.push(("source", stream.name().as_bytes()));
        fields.push(("log", line));
        let numbers = part.map(|part| (part.ordinal.to_string(), part.is_last.to_string()));
        if let (Some(part), Some((ordinal, is_last))) = (part, &numbers) {
            fields.push(("partial_message", b"true"));
            fields.push(("partial_id", part.id.as_bytes()));
            fields.push(("partial_ordinal", ordinal.as_bytes()));
            fields.push(("partial_last", is_last.as_bytes()));
        }
        // An array of three (MessagePack): tag, time, record.
        let mut message = vec![0x93];
        put_text(&mut message, self.tag.as_bytes());
        put_time(&mut message, time, self.precise);
        put_head(&mut message, fields.len(), 0x80, 16, &[0xde, 0xdf]);
        for (name, value) in fields {
            put_text(&mut message, name.as_bytes());
            put_text(&mut message, value);
        }
        message
    }
}

fn put_text(out: &mut Vec<u8>, text: &[u8]) {
    if (32..256).contains(&text.len()) {
        out.extend([0xd9, low_byte(text.len())]);
    } else {
        put_head(out, text.len(), 0xa0, 32, &[0xda, 0xdb]);
    }
    out.extend_from_slice(text);
}

/// A length: within the first byte below `few`, else in two or four bytes after one of `wide`.
fn put_head(out: &mut Vec<u8>, length: usize, first: u8, few: usize, wide: &[u8; 2]) {
    let bytes = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    match length {
        _ if length < few => out.push(first | low_byte(length)),
        0..0x1_0000 => out.extend([wide[0], bytes[2], bytes[3]]),
        _ => out.extend([&wide[1..], &bytes].concat()),
    }
}

fn low_byte(length: usize) -> u8 {
    length.to_le_bytes()[0]
}

fn put_time(out: &mut Vec<u8>, time: Timestamp, precise: bool) {
    // The protocol's seconds have 32 bits.
    let seconds = u32::try_from(time.as_second()).unwrap_or_default();
    match precise {
        // `EventTime`, an extension of eight bytes.
        true => {
            let nanoseconds = u32::try_from(time.subsec_nanosecond()).unwrap_or_default();
            out.extend([0xd7, 0x00]);
            out.extend(seconds.to_be_bytes());
            out.extend(nanoseconds.to_be_bytes());
        }
        false => {
            out.push(0xce);
            out.extend(seconds.to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_dockers() {
        let peer = |host: &str, port| Peer {
            host: host.to_owned(),
            port,
        };
        for (text, address) in [
            ("logs", Some(Address::Tcp(peer("logs", 24224)))),
            ("logs:1", Some(Address::Tcp(peer("logs", 1)))),
            ("tcp://[::1]:2", Some(Address::Tcp(peer("::1", 2)))),
            ("tls://logs", Some(Address::Tls(peer("logs", 24224)))),
            ("unix:///run/f", Some(Address::Stream("/run/f".into()))),
            ("udp://logs", None),
            ("unix://f", None),
            ("", None),
        ] {
            assert_eq!(Address::parse(text), address, "{text:?}");
        }
    }

    #[test]
    fn messages_are_packed_as_the_protocol_says() {
        let mut sender = Sender {
            tag: "t".to_owned(),
            fields: vec![("a".to_owned(), "b".repeat(40))],
            precise: false,
        };
        let time = Timestamp::new(0x0102_0304, 5).unwrap();
        let message = sender.message(Stream::Stderr, b"oh\n", time, None);
        let expected = [
            &b"\x93\xa1t\xce\x01\x02\x03\x04\x83\xa1a\xd9\x28"[..],
            &[b'b'; 40],
            b"\xa6source\xa6stderr\xa3log\xa2oh",
        ];
        assert_eq!(message, expected.concat());
        sender.precise = true;
        let part = Part {
            id: "7".to_owned(),
            ordinal: 2,
            is_last: true,
        };
        let message = sender.message(Stream::Stdout, &[b'x'; 70_000], time, Some(&part));
        assert!(message.starts_with(b"\x93\xa1t\xd7\x00\x01\x02\x03\x04\x00\x00\x00\x05\x87"));
        assert!(message.ends_with(b"\xa1\x32\xacpartial_last\xa4true"));
        let head = b"\xa3log\xdb\x00\x01\x11\x70xx";
        assert!(message.windows(head.len()).any(|window| window == head));
    }
}
