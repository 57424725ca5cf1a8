//! `hawser trace`: what the data plane decides, as it decides.

use std::io::{self, Write};
use std::net::IpAddr;
use std::time::Duration;

use api::client::{ClientError, escape};
use api::net::Protocol;
use api::path::TRACE;
use api::traffic::{Decision, TraceLine};
use clap::Args;
use jiff::SignedDuration;

use super::context::Context;
use super::error::CliError;
use super::output;

/// `hawser trace`.
#[derive(Debug, Clone, Args)]
pub struct TraceFlags {
    /// Only this port, of either end or of the backend
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,
    /// Only this address, of either end or of the backend
    #[arg(long, value_name = "ADDRESS")]
    pub address: Option<IpAddr>,
    /// Only this service, or container with published ports
    #[arg(long, value_name = "NAME")]
    pub service: Option<String>,
    /// Only this protocol: tcp, udp or sctp
    #[arg(long, value_name = "PROTOCOL")]
    pub protocol: Option<Protocol>,
    /// Only one decision in so many, by chance
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub one_in: Option<u32>,
    /// End after so many decisions
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// End after this time, such as 10s
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    pub duration: Option<Duration>,
    /// Print a line of JSON for each
    #[arg(long)]
    pub json: bool,
}

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let expected = |_why| format!("expected a time such as 10s or 1m30s, not {text:?}");
    let parsed: SignedDuration = text.parse().map_err(expected)?;
    Duration::try_from(parsed).map_err(|_negative| "expected a time after now".to_owned())
}

/// # Errors
/// No daemon, somebody else traces, or nothing has the name asked for.
pub fn trace(context: &Context, flags: &TraceFlags) -> Result<i32, CliError> {
    let mut lines = Lines {
        json: flags.json,
        rest: Vec::new(),
        failed: None,
    };
    let traced = context.client().get_into(&route(flags), &mut lines);
    match (traced, lines.failed) {
        // Our own output failed, not the daemon's.
        (_, Some(error)) => Err(error),
        (Err(ClientError::Exchange { source, .. }), None)
            if source.kind() == io::ErrorKind::UnexpectedEof =>
        {
            Err(CliError::TraceEnded)
        }
        (traced, None) => traced.map(|()| 0).map_err(CliError::from),
    }
}

fn route(flags: &TraceFlags) -> String {
    let fields = [
        ("port", flags.port.map(|port| port.to_string())),
        ("address", flags.address.map(|address| address.to_string())),
        ("service", flags.service.clone()),
        (
            "protocol",
            flags.protocol.map(|protocol| protocol.as_str().to_owned()),
        ),
        ("one_in", flags.one_in.map(|n| n.to_string())),
        ("count", flags.count.map(|n| n.to_string())),
        (
            "for_ms",
            flags.duration.map(|whole| whole.as_millis().to_string()),
        ),
    ];
    let fields: Vec<String> = fields
        .into_iter()
        .filter_map(|(name, value)| Some(format!("{name}={}", escape(&value?))))
        .collect();
    format!("{TRACE}?{}", fields.join("&"))
}

/// Prints the lines of a stream of bytes as they are whole.
struct Lines {
    json: bool,
    rest: Vec<u8>,
    failed: Option<CliError>,
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.rest.extend_from_slice(bytes);
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            let shown = shown(&line[..end], self.json);
            if let Some(Err(error)) = shown.map(output::line) {
                self.failed = Some(error);
                return Err(io::ErrorKind::BrokenPipe.into());
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// `None` for a sign of life.
fn shown(line: &[u8], json: bool) -> Option<String> {
    let text = String::from_utf8_lossy(line);
    if text.trim().is_empty() {
        return None;
    }
    if json {
        return Some(text.into_owned());
    }
    Some(match serde_json::from_slice(line) {
        Ok(TraceLine::Decision(decision)) => in_words(&decision),
        Ok(TraceLine::Lost { lost }) => format!("{lost} more came too fast to be shown"),
        Err(_newer) => text.into_owned(),
    })
}

fn in_words(decision: &Decision) -> String {
    let Decision {
        time,
        decision,
        protocol,
        source,
        destination,
        to,
        service,
        reason,
        length,
        ..
    } = decision;
    let clock = time.split(['T', 'Z']).nth(1).unwrap_or(time);
    let protocol = protocol.map_or("?", Protocol::as_str);
    let from = source.map_or("local".to_owned(), |source| source.to_string());
    let mut words = format!("{clock} {protocol:<4} {decision:<7} {from} > {destination}");
    if let Some(to) = to {
        words.push_str(&format!(" => {to}"));
    }
    if let Some(reason) = reason {
        words.push_str(&format!(" ({reason})"));
    }
    if let Some(service) = service {
        words.push_str(&format!(" {service}"));
    }
    if *length > 0 {
        words.push_str(&format!(" {length} bytes"));
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"{"time":"2026-01-02T03:04:05.123456Z","decision":"new","protocol":"tcp","source":"198.51.100.7:40000","destination":"192.0.2.1:8080","to":"172.18.0.2:80","service":"web","kind":"container","length":74}"#;

    #[test]
    fn a_decision_is_a_line() {
        assert_eq!(
            shown(LINE.as_bytes(), false).unwrap(),
            "03:04:05.123456 tcp  new     198.51.100.7:40000 > 192.0.2.1:8080 => 172.18.0.2:80 web 74 bytes"
        );
        assert_eq!(shown(LINE.as_bytes(), true).unwrap(), LINE);
        assert_eq!(shown(b"", false), None, "a sign of life");
        let lost = shown(br#"{"lost":7}"#, false).unwrap();
        assert_eq!(lost, "7 more came too fast to be shown");
        let connect = br#"{"time":"2026-01-02T03:04:05Z","decision":"lost","protocol":"udp","destination":"127.0.0.1:53","reason":"no-backend","length":0}"#;
        assert_eq!(
            shown(connect, false).unwrap(),
            "03:04:05 udp  lost    local > 127.0.0.1:53 (no-backend)"
        );
    }

    #[test]
    fn lines_come_in_any_pieces() {
        let mut lines = Lines {
            json: true,
            rest: Vec::new(),
            failed: None,
        };
        lines.write_all(b"\n{\"lost\"").unwrap();
        assert_eq!(lines.rest, b"{\"lost\"");
        lines.write_all(b":1}\n").unwrap();
        assert!(lines.rest.is_empty() && lines.failed.is_none());
    }

    #[test]
    fn flags_become_a_query() {
        let flags = TraceFlags {
            port: Some(80),
            address: Some("fd00::1".parse().unwrap()),
            service: Some("a/b".to_owned()),
            protocol: Some(Protocol::Udp),
            one_in: None,
            count: Some(3),
            duration: Some(duration("1m30s").unwrap()),
            json: false,
        };
        assert_eq!(
            route(&flags),
            format!(
                "{TRACE}?port=80&address=fd00%3A%3A1&service=a%2Fb&protocol=udp&count=3&for_ms=90000"
            )
        );
        assert!(duration("soon").is_err() && duration("-5s").is_err());
    }
}
