//! Ports that the kernel must not choose for the host's own connections.
//!
//! A published port has no socket, so the kernel would hand it out as a source port, and the answers
//! to that connection would go to the container. `ip_local_reserved_ports` keeps it from doing so.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// The setting's value: ports and ranges, separated by commas.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ReservedPorts(pub(crate) BTreeSet<u16>);

/// A part of the setting that is no port or range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no port or range of ports")]
pub(crate) struct NotPorts(String);

impl FromStr for ReservedPorts {
    type Err = NotPorts;

    fn from_str(text: &str) -> Result<Self, NotPorts> {
        let mut ports = BTreeSet::new();
        for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let number = |text: &str| {
                text.parse::<u16>()
                    .map_err(|_not_a_port| NotPorts(part.to_owned()))
            };
            ports.extend(number(first)?..=number(last)?);
        }
        Ok(Self(ports))
    }
}

impl fmt::Display for ReservedPorts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut ports = self.0.iter().copied().peekable();
        let mut separator = "";
        while let Some(first) = ports.next() {
            let mut last = first;
            while let Some(next) = ports.next_if(|next| last.checked_add(1) == Some(*next)) {
                last = next;
            }
            match last == first {
                true => write!(f, "{separator}{first}")?,
                false => write!(f, "{separator}{first}-{last}")?,
            }
            separator = ",";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_setting_survives_the_round_trip() {
        for text in ["", "80", "80,443", "80-82,443,65534-65535"] {
            let parsed: ReservedPorts = text.parse().unwrap();
            assert_eq!(parsed.to_string(), text);
        }
        assert!("80-x".parse::<ReservedPorts>().is_err());
    }
}
