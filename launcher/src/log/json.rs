//! Docker's json-file log, byte for byte: one JSON object a line.
//!
//! ```text
//! {"log":"hello\n","stream":"stdout","time":"2026-01-02T03:04:05.678901234Z"}
//! {"log":"hello\n","stream":"stdout","attrs":{"tier":"web"},"time":"2026-01-02T03:04:05.678901234Z"}
//! ```

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Deserialize;

use super::{Entry, Stream};

/// Appends an entry. `attributes` are what [`attributes`] has made.
pub(crate) fn encode(
    out: &mut Vec<u8>,
    stream: Stream,
    line: &[u8],
    attributes: &[u8],
    time: &str,
) {
    out.extend_from_slice(b"{\"log\":\"");
    escape(out, line);
    out.extend_from_slice(b"\",\"stream\":\"");
    out.extend_from_slice(stream.name().as_bytes());
    out.push(b'"');
    out.extend_from_slice(attributes);
    out.extend_from_slice(b",\"time\":\"");
    out.extend_from_slice(time.as_bytes());
    out.extend_from_slice(b"\"}\n");
}

/// The member `attrs`, with the comma before it; nothing of nothing.
pub(crate) fn attributes(attributes: &BTreeMap<String, String>) -> Vec<u8> {
    let mut text = Vec::new();
    for (name, value) in attributes {
        text.extend_from_slice(if text.is_empty() {
            b",\"attrs\":{\""
        } else {
            b",\""
        });
        escape(&mut text, name.as_bytes());
        text.extend_from_slice(b"\":\"");
        escape(&mut text, value.as_bytes());
        text.push(b'"');
    }
    if !text.is_empty() {
        text.push(b'}');
    }
    text
}

/// Go's escapes, which Docker's readers and tests know: `<`, `>` and `&` too, and bytes that are
/// not UTF-8 as U+FFFD, one for each.
fn escape(out: &mut Vec<u8>, bytes: &[u8]) {
    for chunk in bytes.utf8_chunks() {
        let mut rest = chunk.valid();
        while let Some(at) = rest.bytes().position(may_need_escape) {
            let (plain, special) = rest.split_at(at);
            out.extend_from_slice(plain.as_bytes());
            let mut characters = special.chars();
            characters
                .next()
                .into_iter()
                .for_each(|first| escape_character(out, first));
            rest = characters.as_str();
        }
        out.extend_from_slice(rest.as_bytes());
        for _ in chunk.invalid() {
            out.extend_from_slice(b"\\ufffd");
        }
    }
}

/// Of the first byte of a character; U+2028 and U+2029 begin with 0xe2.
fn may_need_escape(byte: u8) -> bool {
    matches!(byte, b'"' | b'\\' | b'<' | b'>' | b'&' | ..0x20 | 0xe2)
}

fn escape_character(out: &mut Vec<u8>, character: char) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    match character {
        '"' | '\\' => out.extend_from_slice(&[b'\\', character as u8]),
        '\n' => out.extend_from_slice(b"\\n"),
        '\r' => out.extend_from_slice(b"\\r"),
        '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | ..' ' => {
            let code = u32::from(character);
            let digits = [12, 8, 4, 0].map(|shift| DIGITS[(code >> shift & 15) as usize]);
            out.extend_from_slice(b"\\u");
            out.extend_from_slice(&digits);
        }
        _ => out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
    }
}

/// The entry of one line; none if it is damaged.
pub(super) fn decode(line: &[u8]) -> Option<Entry> {
    #[derive(Deserialize)]
    struct Line {
        log: String,
        #[serde(default)]
        stream: String,
        #[serde(default)]
        attrs: BTreeMap<String, String>,
        time: Timestamp,
    }
    let line: Line = serde_json::from_slice(line).ok()?;
    Some(Entry {
        stream: match line.stream.as_str() {
            "stderr" => Stream::Stderr,
            _ => Stream::Stdout,
        },
        time: line.time,
        line: line.log.into_bytes(),
        attributes: line.attrs.into_iter().collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: &str = "2026-01-02T03:04:05.6Z";

    fn encoded(line: &[u8], attrs: &[(&str, &str)]) -> String {
        let attrs = attrs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        let mut out = Vec::new();
        let attrs = attributes(&attrs.collect());
        encode(&mut out, Stream::Stdout, line, &attrs, TIME);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn an_entry_is_dockers_byte_for_byte() {
        assert_eq!(
            encoded(b"a\t\"<b>\"\\\xff\xc3\xa9\r\n", &[]),
            "{\"log\":\"a\\u0009\\\"\\u003cb\\u003e\\\"\\\\\\ufffdé\\r\\n\",\"stream\":\"stdout\",\
             \"time\":\"2026-01-02T03:04:05.6Z\"}\n"
        );
        assert_eq!(
            encoded(b"x\n", &[("tier", "web"), ("os", "\"x\"")]),
            "{\"log\":\"x\\n\",\"stream\":\"stdout\",\"attrs\":{\"os\":\"\\\"x\\\"\",\
             \"tier\":\"web\"},\"time\":\"2026-01-02T03:04:05.6Z\"}\n"
        );
    }

    #[test]
    fn only_what_go_escapes_is_escaped() {
        assert_eq!(
            encoded(
                "\u{2027}\u{2028}\u{2029}\u{202a}€\u{7f}\u{1b}[0m\0".as_bytes(),
                &[]
            ),
            "{\"log\":\"\u{2027}\\u2028\\u2029\u{202a}€\u{7f}\\u001b[0m\\u0000\",\
             \"stream\":\"stdout\",\"time\":\"2026-01-02T03:04:05.6Z\"}\n"
        );
        for line in [&b"\xe2\x80"[..], b"\xe2\x80\xa8\xe2", b"&\xff&"] {
            let text = encoded(line, &[]);
            let decoded = decode(text.as_bytes()).unwrap();
            let said = String::from_utf8_lossy(&decoded.line).into_owned();
            assert_eq!(
                said.replace('\u{fffd}', ""),
                String::from_utf8_lossy(line).replace('\u{fffd}', "")
            );
        }
    }

    #[test]
    fn what_was_written_is_read_again() {
        let text = encoded(b"<a>\n", &[("tier", "web")]);
        let entry = decode(text.as_bytes()).unwrap();
        assert_eq!(entry.line, b"<a>\n");
        assert_eq!(entry.time.to_string(), TIME);
        assert_eq!(entry.attributes, [("tier".to_owned(), "web".to_owned())]);
        assert_eq!(decode(b"torn\n"), None);
    }
}
