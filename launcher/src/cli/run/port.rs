//! `-p`, `--expose`: ports on the command line.
//!
//! ```text
//! -p     [HOST-IP:][HOST-PORT[-LAST]:]PORT[-LAST][/PROTOCOL]      an IPv6 address in brackets
//! -p     target=PORT[,published=PORT[-LAST]][,protocol=PROTOCOL]
//! --expose PORT[-LAST][/PROTOCOL]
//! ```

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use api::net::Protocol;

use crate::container::{Empty, HostPort};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    #[error("invalid port {text:?} in {spec:?}: expected a number from 1 to 65535")]
    Number { spec: String, text: String },
    #[error("invalid port range {text:?} in {spec:?}: it ends before it starts")]
    Range { spec: String, text: String },
    #[error("invalid ranges in {spec:?}: {host} host ports for {container} container ports")]
    Lengths {
        spec: String,
        host: usize,
        container: usize,
    },
    #[error("invalid protocol {text:?} in {spec:?}: expected tcp, udp or sctp")]
    Protocol { spec: String, text: String },
    #[error("invalid IP address {text:?} in {spec:?}")]
    Address { spec: String, text: String },
    #[error("no port specified: {spec:?}")]
    Empty { spec: String },
    #[error("invalid field {field:?} in {spec:?}: expected target, published, protocol or mode")]
    Field { spec: String, field: String },
}

type Bindings = BTreeMap<String, Vec<HostPort>>;

/// The published ports of all `-p`, keyed `80/tcp`.
///
/// # Errors
/// [`PortError`] names the first bad one.
pub fn published(specs: &[String]) -> Result<Bindings, PortError> {
    let mut bindings = Bindings::new();
    for spec in specs {
        parse(spec)?.add_to(&mut bindings);
    }
    Ok(bindings)
}

/// The ports of all `--expose`, keyed `80/tcp`.
///
/// # Errors
/// [`PortError`] names the first bad one.
pub fn exposed(specs: &[String]) -> Result<BTreeMap<String, Empty>, PortError> {
    let mut ports = BTreeMap::new();
    for spec in specs {
        let (range, protocol) = split_protocol(spec, spec)?;
        ports.extend(range_of(spec, range)?.map(|port| (key(port, protocol), Empty {})));
    }
    Ok(ports)
}

/// What one `-p` says.
pub(in crate::cli) struct Publish {
    pub(in crate::cli) address: Option<IpAddr>,
    pub(in crate::cli) host: Option<RangeInclusive<u16>>,
    pub(in crate::cli) container: RangeInclusive<u16>,
    pub(in crate::cli) protocol: Protocol,
}

impl Publish {
    fn lengths(&self) -> (usize, usize) {
        let host = self.host.as_ref().map_or(0, RangeInclusive::len);
        (host, self.container.len())
    }

    fn add_to(self, bindings: &mut Bindings) {
        let (host, container) = self.lengths();
        let address = self.address.map(|address| address.to_string());
        // Several for one port: the daemon chooses one of them. Empty: any.
        let choice = match &self.host {
            Some(range) if container == 1 && host > 1 => {
                Some(format!("{}-{}", range.start(), range.end()))
            }
            Some(_) => None,
            None => Some(String::new()),
        };
        let mut host = self.host.into_iter().flatten();
        for port in self.container {
            let given = host.next().map(|port| port.to_string());
            let binding = HostPort {
                host_ip: address.clone().unwrap_or_default(),
                host_port: choice.clone().or(given).unwrap_or_default(),
            };
            let bindings = bindings.entry(key(port, self.protocol)).or_default();
            if !bindings.contains(&binding) {
                bindings.push(binding);
            }
        }
    }
}

fn key(port: u16, protocol: Protocol) -> String {
    format!("{port}/{protocol}")
}

/// # Errors
/// [`PortError`] says what is no port.
pub(in crate::cli) fn parse(spec: &str) -> Result<Publish, PortError> {
    let publish = if spec.contains('=') {
        parse_long(spec)?
    } else {
        parse_short(spec)?
    };
    let (host, container) = publish.lengths();
    if publish.host.is_some() && host != container && container != 1 {
        return Err(PortError::Lengths {
            spec: spec.to_owned(),
            host,
            container,
        });
    }
    Ok(publish)
}

fn parse_short(spec: &str) -> Result<Publish, PortError> {
    let (ports, protocol) = split_protocol(spec, spec)?;
    let (rest, container) = match ports.rsplit_once(':') {
        Some((rest, container)) => (Some(rest), container),
        None => (None, ports),
    };
    let (address, host) = match rest.map(|rest| split_address(spec, rest)) {
        Some(split) => split?,
        None => (None, ""),
    };
    Ok(Publish {
        address,
        host: (!host.is_empty())
            .then(|| range_of(spec, host))
            .transpose()?,
        container: range_of(spec, container)?,
        protocol,
    })
}

fn parse_long(spec: &str) -> Result<Publish, PortError> {
    let (mut target, mut host, mut protocol) = (None, None, Protocol::Tcp);
    for field in spec.split(',') {
        let (name, value) = field.split_once('=').unwrap_or((field, ""));
        match name {
            "target" => target = Some(range_of(spec, value)?),
            "published" => host = Some(range_of(spec, value)?),
            "protocol" => protocol = protocol_of(spec, value)?,
            // Containers of one host are published on that host; both modes mean the same here.
            "mode" if matches!(value, "host" | "ingress") => {}
            _ => {
                return Err(PortError::Field {
                    spec: spec.to_owned(),
                    field: field.to_owned(),
                });
            }
        }
    }
    let container = target.ok_or_else(|| PortError::Empty {
        spec: spec.to_owned(),
    })?;
    Ok(Publish {
        address: None,
        host,
        container,
        protocol,
    })
}

/// Splits what precedes the container's ports into address and host ports.
fn split_address<'s>(spec: &str, text: &'s str) -> Result<(Option<IpAddr>, &'s str), PortError> {
    let invalid = |address: &str| PortError::Address {
        spec: spec.to_owned(),
        text: address.to_owned(),
    };
    if let Some(rest) = text.strip_prefix('[') {
        let (address, tail) = rest.split_once(']').ok_or_else(|| invalid(text))?;
        let address: IpAddr = address.parse().map_err(|_not_an_ip| invalid(address))?;
        let host = tail.strip_prefix(':').ok_or_else(|| invalid(text))?;
        return Ok((Some(address), host));
    }
    match text.rsplit_once(':') {
        None if text.contains('.') => {
            let address = text.parse().map_err(|_not_an_ip| invalid(text))?;
            Ok((Some(address), ""))
        }
        None => Ok((None, text)),
        Some(("", host)) => Ok((None, host)),
        Some((address, host)) => {
            let address = address.parse().map_err(|_not_an_ip| invalid(address))?;
            Ok((Some(address), host))
        }
    }
}

fn split_protocol<'s>(spec: &str, text: &'s str) -> Result<(&'s str, Protocol), PortError> {
    match text.split_once('/') {
        None => Ok((text, Protocol::Tcp)),
        Some((ports, protocol)) => Ok((ports, protocol_of(spec, protocol)?)),
    }
}

fn protocol_of(spec: &str, text: &str) -> Result<Protocol, PortError> {
    text.parse().map_err(|_unknown| PortError::Protocol {
        spec: spec.to_owned(),
        text: text.to_owned(),
    })
}

fn range_of(spec: &str, text: &str) -> Result<RangeInclusive<u16>, PortError> {
    if text.is_empty() {
        return Err(PortError::Empty {
            spec: spec.to_owned(),
        });
    }
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (number(spec, first)?, number(spec, last)?);
    if last < first {
        return Err(PortError::Range {
            spec: spec.to_owned(),
            text: text.to_owned(),
        });
    }
    Ok(first..=last)
}

fn number(spec: &str, text: &str) -> Result<u16, PortError> {
    text.parse()
        .ok()
        .filter(|port| *port != 0 && text.bytes().all(|b| b.is_ascii_digit()))
        .ok_or_else(|| PortError::Number {
            spec: spec.to_owned(),
            text: text.to_owned(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(spec: &str) -> String {
        match published(&[spec.to_owned()]) {
            Err(error) => error.to_string(),
            Ok(bindings) => {
                let texts: Vec<String> = bindings
                    .iter()
                    .flat_map(|(key, hosts)| hosts.iter().map(move |host| (key, host)))
                    .map(|(key, host)| format!("{}:{}>{key}", host.host_ip, host.host_port))
                    .collect();
                texts.join(" ")
            }
        }
    }

    #[test]
    fn every_form_of_publish_is_read() {
        let rows = [
            ("80", ":>80/tcp"),
            ("8080:80", ":8080>80/tcp"),
            ("53:53/udp", ":53>53/udp"),
            ("127.0.0.1:8080:80", "127.0.0.1:8080>80/tcp"),
            ("127.0.0.1::80", "127.0.0.1:>80/tcp"),
            ("127.0.0.1:80", "127.0.0.1:>80/tcp"),
            ("[::1]:8080:80/tcp", "::1:8080>80/tcp"),
            ("[::1]::80", "::1:>80/tcp"),
            ("::1:8080:80", "::1:8080>80/tcp"),
            ("8000-8001:80-81", ":8000>80/tcp :8001>81/tcp"),
            ("8000-9000:80", ":8000-9000>80/tcp"),
            ("127.0.0.1:8000-8009:80", "127.0.0.1:8000-8009>80/tcp"),
            ("80-81/sctp", ":>80/sctp :>81/sctp"),
            (
                "target=80,published=8080,protocol=udp,mode=host",
                ":8080>80/udp",
            ),
        ];
        for (spec, expected) in rows {
            assert_eq!(shown(spec), expected, "{spec}");
        }
    }

    #[test]
    fn bad_ports_are_named() {
        for (spec, part) in [
            ("", "no port specified"),
            ("8080:", "no port specified"),
            ("http", "\"http\""),
            ("0", "\"0\""),
            ("70000:80", "\"70000\""),
            ("+80", "\"+80\""),
            ("90-80", "ends before"),
            ("8000-8001:80-82", "2 host ports for 3 container ports"),
            ("80/icmp", "\"icmp\""),
            ("1.2.3:80:80", "invalid IP address \"1.2.3\""),
            ("300.0.0.1:80", "invalid IP address"),
            ("[::1:80:80", "invalid IP address"),
            ("target=80,bogus=1", "bogus"),
            ("published=80", "no port specified"),
        ] {
            let message = shown(spec);
            assert!(message.contains(part), "{spec}: {message}");
        }
    }

    #[test]
    fn one_container_port_may_be_published_twice() {
        let specs = ["80:80", "81:80", "80:80"].map(str::to_owned);
        assert_eq!(published(&specs).unwrap()["80/tcp"].len(), 2);
    }

    #[test]
    fn exposed_ports_and_ranges() {
        let specs = ["80", "53/udp", "90-91"].map(str::to_owned);
        let keys: Vec<String> = exposed(&specs).unwrap().into_keys().collect();
        assert_eq!(keys, ["53/udp", "80/tcp", "90/tcp", "91/tcp"]);
        assert!(exposed(&["x".to_owned()]).is_err());
    }
}
