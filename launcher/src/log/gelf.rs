//! The log driver `gelf`: Graylog's Extended Log Format, with the fields that Docker sends.

use std::io::{self, Write};

use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::syslog::{Peer, peer};
use super::{Stream, subject};
use crate::container::Record;

const PORT: u16 = 12201;
/// What fits into a datagram on the way through most networks, less the head of a chunk.
const CHUNK: usize = 1420 - CHUNK_HEAD;
const CHUNK_HEAD: usize = 12;
const CHUNK_MAGIC: [u8; 2] = [0x1e, 0x0f];
/// The format knows no more of one message.
const MOST_CHUNKS: usize = 128;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    Udp(Peer),
    Tcp(Peer),
}

impl Address {
    /// None if it is none.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        match scheme {
            "udp" => peer(rest, PORT).map(Self::Udp),
            "tcp" => peer(rest, PORT).map(Self::Tcp),
            _ => None,
        }
    }
}

/// How datagrams are packed. A stream takes none of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packing {
    None,
    Gzip(u32),
    Zlib(u32),
}

/// What all messages of a container have in common.
#[derive(Debug, Clone)]
pub(crate) struct Sender {
    fields: Map<String, Value>,
    /// None for a stream.
    datagrams: Option<Packing>,
    /// Tells the chunks of this container's messages from others'.
    seed: u64,
}

impl Sender {
    pub(crate) fn of(
        record: &Record,
        tag: &str,
        hostname: &str,
        attributes: impl IntoIterator<Item = (String, String)>,
        datagrams: Option<Packing>,
        seed: u64,
    ) -> Self {
        let known = subject::of(record);
        let fields = json!({
            "version": "1.1",
            "host": hostname,
            "_container_id": record.id.as_str(),
            "_container_name": record.name.as_str(),
            "_image_id": known["ImageFullID"],
            "_image_name": known["ImageName"],
            "_command": known["Command"],
            "_tag": tag,
            "_created": record.created,
        });
        let mut fields = match fields {
            Value::Object(fields) => fields,
            _ => Map::new(),
        };
        for (name, value) in attributes {
            fields.insert(format!("_{name}"), value.into());
        }
        Self {
            fields,
            datagrams,
            seed,
        }
    }

    /// What is sent of one entry, one datagram after the other. None if it is too long for any.
    pub(crate) fn messages(
        &self,
        stream: Stream,
        line: &[u8],
        time: Timestamp,
        number: u64,
    ) -> Vec<Vec<u8>> {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let level = match stream {
            Stream::Stdout => 6,
            Stream::Stderr => 3,
        };
        let mut fields = self.fields.clone();
        fields.insert(
            "short_message".to_owned(),
            String::from_utf8_lossy(line).into(),
        );
        fields.insert("level".to_owned(), level.into());
        #[expect(
            clippy::cast_precision_loss,
            reason = "the format wants a number of seconds, and milliseconds fit"
        )]
        let seconds = time.as_millisecond() as f64 / 1000.0;
        fields.insert("timestamp".to_owned(), seconds.into());
        let mut message = Value::Object(fields).to_string().into_bytes();
        let Some(packing) = self.datagrams else {
            message.push(0);
            return vec![message];
        };
        // Memory takes everything.
        let packed = packed(packing, &message).unwrap_or(message);
        chunks(&packed, self.seed ^ number)
    }
}

fn packed(packing: Packing, message: &[u8]) -> io::Result<Vec<u8>> {
    match packing {
        Packing::None => Ok(message.to_vec()),
        Packing::Gzip(level) => {
            let mut packer = GzEncoder::new(Vec::new(), Compression::new(level));
            packer.write_all(message)?;
            packer.finish()
        }
        Packing::Zlib(level) => {
            let mut packer = ZlibEncoder::new(Vec::new(), Compression::new(level));
            packer.write_all(message)?;
            packer.finish()
        }
    }
}

fn chunks(message: &[u8], id: u64) -> Vec<Vec<u8>> {
    if message.len() <= CHUNK + CHUNK_HEAD {
        return vec![message.to_vec()];
    }
    let parts = message.chunks(CHUNK);
    let Some(count) = u8::try_from(parts.len())
        .ok()
        .filter(|_| parts.len() <= MOST_CHUNKS)
    else {
        return Vec::new();
    };
    let heads = (0..count).map(|number| {
        let mut head = CHUNK_MAGIC.to_vec();
        head.extend(id.to_be_bytes());
        head.extend([number, count]);
        head
    });
    heads
        .zip(parts)
        .map(|(head, part)| [&head, part].concat())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sender(datagrams: Option<Packing>) -> Sender {
        Sender {
            fields: json!({"host": "node1"}).as_object().unwrap().clone(),
            datagrams,
            seed: 0,
        }
    }

    #[test]
    fn a_stream_has_messages_with_a_zero_between() {
        let time = "2026-01-02T03:04:05.678901Z".parse().unwrap();
        let sent = sender(None).messages(Stream::Stderr, b"oh \xff no\n", time, 1);
        let (message, end) = sent[0].split_at(sent[0].len() - 1);
        let message: Value = serde_json::from_slice(message).unwrap();
        let expected = json!({
            "host": "node1", "level": 3, "short_message": "oh \u{fffd} no",
            "timestamp": 1_767_323_045.678,
        });
        assert_eq!((message, end), (expected, &[0][..]));
    }

    #[test]
    fn a_long_message_is_cut_into_chunks() {
        let line = vec![b'x'; 4000];
        let sent =
            sender(Some(Packing::None)).messages(Stream::Stdout, &line, Timestamp::UNIX_EPOCH, 7);
        assert_eq!(sent.len(), 3);
        let mut whole = Vec::new();
        for (number, chunk) in (0..).zip(&sent) {
            assert_eq!(chunk[..12], [0x1e, 0x0f, 0, 0, 0, 0, 0, 0, 0, 7, number, 3]);
            assert!(chunk.len() <= 1420);
            whole.extend(&chunk[12..]);
        }
        let whole: Value = serde_json::from_slice(&whole).unwrap();
        assert_eq!(whole["short_message"].as_str().unwrap().len(), 4000);
        assert_eq!(
            sender(Some(Packing::Gzip(1)))
                .messages(Stream::Stdout, &line, Timestamp::UNIX_EPOCH, 7)
                .len(),
            1
        );
        assert!(chunks(&vec![0; 200_000], 1).is_empty());
    }
}
