//! The log driver `syslog`: where messages go, and what they look like.
//!
//! The formats are RFC 3164's and RFC 5424's as Docker sends them: the tag is the name of the program,
//! and with RFC 5424 the kind of message too. Without a format a message has no name of a host, as
//! the socket of the host's own syslog wants it.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::Stream;

const PORT: u16 = 514;
pub(super) const DAEMON: u8 = 3;
const ERROR: u8 = 3;
const INFO: u8 = 6;
/// By number (RFC 5424, table 1).
const FACILITIES: [&str; 24] = [
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv",
    "ftp", "", "", "", "", "local0", "local1", "local2", "local3", "local4", "local5", "local6",
    "local7",
];

/// Where messages go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    /// The host's own.
    Here,
    Datagrams(PathBuf),
    Stream(PathBuf),
    Udp(Peer),
    Tcp(Peer),
    Tls(Peer),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl Peer {
    /// # Errors
    /// The name is not known.
    pub(crate) fn resolve(&self) -> std::io::Result<Vec<SocketAddr>> {
        Ok((self.host.as_str(), self.port).to_socket_addrs()?.collect())
    }
}

impl Address {
    /// None if it is none.
    pub(super) fn parse(text: &str) -> Option<Self> {
        if text.is_empty() {
            return Some(Self::Here);
        }
        let (scheme, rest) = text.split_once("://")?;
        let path = || rest.starts_with('/').then(|| PathBuf::from(rest));
        match scheme {
            "unix" => path().map(Self::Stream),
            "unixgram" => path().map(Self::Datagrams),
            "udp" => peer(rest, PORT).map(Self::Udp),
            "tcp" => peer(rest, PORT).map(Self::Tcp),
            "tcp+tls" => peer(rest, PORT).map(Self::Tls),
            _ => None,
        }
    }
}

/// `HOST`, `HOST:PORT`, `[V6]:PORT`.
pub(super) fn peer(text: &str, usual_port: u16) -> Option<Peer> {
    let text = text.strip_suffix('/').unwrap_or(text);
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            (
                host,
                port.strip_prefix(':').or(port.is_empty().then_some("")),
            )
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, Some("")),
        },
    };
    let port = match port? {
        "" => usual_port,
        port => port.parse().ok().filter(|port| *port > 0)?,
    };
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:%".contains(&byte);
    (!host.is_empty() && host.bytes().all(is_name)).then(|| Peer {
        host: host.to_owned(),
        port,
    })
}

/// A name or a number; `daemon` unless given.
pub(super) fn facility(text: &str) -> Option<u8> {
    if text.is_empty() {
        return Some(DAEMON);
    }
    let named = FACILITIES.iter().position(|name| *name == text);
    let number = named.and_then(|number| u8::try_from(number).ok());
    number.or_else(|| text.parse().ok().filter(|number| *number < 24))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// As the C library sends messages.
    Plain,
    Rfc3164,
    Rfc5424,
    Rfc5424Micro,
}

impl Shape {
    pub(super) fn parse(text: &str) -> Option<Self> {
        match text {
            "" => Some(Self::Plain),
            "rfc3164" => Some(Self::Rfc3164),
            "rfc5424" => Some(Self::Rfc5424),
            "rfc5424micro" => Some(Self::Rfc5424Micro),
            _ => None,
        }
    }
}

/// How one message ends and the next begins on a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    Newline,
    /// Its length in front (RFC 5425, section 4.3).
    Length,
}

/// What all messages of a container have in common.
#[derive(Debug, Clone)]
pub(crate) struct Sender {
    pub(crate) facility: u8,
    pub(crate) shape: Shape,
    pub(crate) framing: Framing,
    pub(crate) tag: String,
    pub(crate) hostname: String,
    pub(crate) pid: u32,
    pub(crate) zone: TimeZone,
}

impl Sender {
    /// The message of one entry.
    pub(crate) fn message(&self, stream: Stream, line: &[u8], time: Timestamp) -> Vec<u8> {
        let severity = match stream {
            Stream::Stdout => INFO,
            Stream::Stderr => ERROR,
        };
        let priority = self.facility * 8 + severity;
        let (tag, pid, host) = (&self.tag, self.pid, &self.hostname);
        let time = time.to_zoned(self.zone.clone());
        // No more than nothing can come of a time that has no such form.
        let stamp = |form: &str| jiff::fmt::strtime::format(form, &time).unwrap_or_default();
        let seconds = "%b %e %H:%M:%S";
        let head = match self.shape {
            Shape::Plain => format!("<{priority}>{} {tag}[{pid}]: ", stamp(seconds)),
            Shape::Rfc3164 => format!("<{priority}>{} {host} {tag}[{pid}]: ", stamp(seconds)),
            Shape::Rfc5424 => {
                let time = stamp("%Y-%m-%dT%H:%M:%S%:z");
                format!("<{priority}>1 {time} {host} {tag} {pid} {tag} - ")
            }
            Shape::Rfc5424Micro => {
                let time = stamp("%Y-%m-%dT%H:%M:%S.%6f%:z");
                format!("<{priority}>1 {time} {host} {tag} {pid} {tag} - ")
            }
        };
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let mut message = head.into_bytes();
        message.extend_from_slice(line);
        message.push(b'\n');
        if self.framing == Framing::Length {
            message.splice(..0, format!("{} ", message.len()).into_bytes());
        }
        message
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
            ("", Some(Address::Here)),
            ("unix:///dev/log", Some(Address::Stream("/dev/log".into()))),
            (
                "unixgram:///run/x",
                Some(Address::Datagrams("/run/x".into())),
            ),
            ("udp://10.0.0.1", Some(Address::Udp(peer("10.0.0.1", 514)))),
            ("udp://[::1]", Some(Address::Udp(peer("::1", 514)))),
            ("tcp://[::1]:601", Some(Address::Tcp(peer("::1", 601)))),
            (
                "tcp+tls://logs.example:6514",
                Some(Address::Tls(peer("logs.example", 6514))),
            ),
            ("http://x", None),
            ("unix://relative", None),
            ("udp://", None),
            ("udp://a b", None),
            ("udp://a:0", None),
            ("udp://a:x", None),
            ("[::1]:514", None),
        ] {
            assert_eq!(Address::parse(text), address, "{text:?}");
        }
    }

    #[test]
    fn facilities_have_names_and_numbers() {
        for (text, number) in [
            ("", Some(3)),
            ("kern", Some(0)),
            ("local7", Some(23)),
            ("16", Some(16)),
            ("24", None),
            ("loud", None),
        ] {
            assert_eq!(facility(text), number, "{text:?}");
        }
    }

    #[test]
    fn messages_look_as_dockers_do() {
        let sent = |shape: &str, framing| {
            let sender = Sender {
                facility: 3,
                shape: Shape::parse(shape).unwrap(),
                framing,
                tag: "web".to_owned(),
                hostname: "node1".to_owned(),
                pid: 7,
                zone: TimeZone::fixed(jiff::tz::offset(1)),
            };
            let time = "2026-01-02T03:04:05.678901Z".parse().unwrap();
            let message = sender.message(Stream::Stderr, b"oh no\n", time);
            String::from_utf8(message).unwrap()
        };
        let newline = |shape| sent(shape, Framing::Newline);
        assert_eq!(newline(""), "<27>Jan  2 04:04:05 web[7]: oh no\n");
        assert_eq!(
            newline("rfc3164"),
            "<27>Jan  2 04:04:05 node1 web[7]: oh no\n"
        );
        let long = "<27>1 2026-01-02T04:04:05+01:00 node1 web 7 web - oh no\n";
        assert_eq!(newline("rfc5424"), long);
        assert_eq!(
            newline("rfc5424micro"),
            "<27>1 2026-01-02T04:04:05.678901+01:00 node1 web 7 web - oh no\n"
        );
        let counted = format!("{} {long}", long.len());
        assert_eq!(sent("rfc5424", Framing::Length), counted);
        assert_eq!(Shape::parse("rfc1"), None);
    }
}
