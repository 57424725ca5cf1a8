//! Ports that the kernel must not choose for the host's own connections.
//!
//! A published port has no socket, so the kernel would hand it out as a source port, and the answers
//! to that connection would go to the container. `ip_local_reserved_ports` keeps it from doing so.

use std::fmt;
use std::str::FromStr;

const BITS: usize = u64::BITS as usize;
const WORDS: usize = (1 << 16) / BITS;

/// A bit a port: the setting is read and written with each attach that publishes something, and ten
/// thousand ports of others should not be felt then.
///
/// As text it is the setting's value: ports and ranges, separated by commas.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct PortSet(Box<[u64; WORDS]>);

/// A part of the setting that is no port or range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no port or range of ports")]
pub(crate) struct NotPorts(String);

impl PortSet {
    pub(crate) fn contains(&self, port: u16) -> bool {
        let (word, bit) = place(port);
        self.0[word] & bit != 0
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Whether all of `others` are there.
    pub(crate) fn has(&self, others: &Self) -> bool {
        let mut pairs = self.0.iter().zip(others.0.iter());
        pairs.all(|(word, other)| other & !word == 0)
    }

    pub(crate) fn remove(&mut self, others: &Self) {
        for (word, other) in self.0.iter_mut().zip(others.0.iter()) {
            *word &= !other;
        }
    }

    fn insert(&mut self, port: u16) {
        let (word, bit) = place(port);
        self.0[word] |= bit;
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = u16> {
        let words = (0_u16..).zip(self.0.iter().copied());
        words.filter(|(_, word)| *word != 0).flat_map(|(at, word)| {
            (0..64).filter_map(move |bit| (word & 1 << bit != 0).then_some(at * 64 + bit))
        })
    }
}

fn place(port: u16) -> (usize, u64) {
    let port = usize::from(port);
    (port / BITS, 1 << (port % BITS))
}

impl Default for PortSet {
    fn default() -> Self {
        Self(Box::new([0; WORDS]))
    }
}

impl FromIterator<u16> for PortSet {
    fn from_iter<T: IntoIterator<Item = u16>>(ports: T) -> Self {
        let mut set = Self::default();
        for port in ports {
            set.insert(port);
        }
        set
    }
}

impl FromStr for PortSet {
    type Err = NotPorts;

    fn from_str(text: &str) -> Result<Self, NotPorts> {
        let mut ports = Self::default();
        for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let number = |text: &str| {
                text.parse::<u16>()
                    .map_err(|_not_a_port| NotPorts(part.to_owned()))
            };
            for port in number(first)?..=number(last)? {
                ports.insert(port);
            }
        }
        Ok(ports)
    }
}

impl fmt::Display for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut ports = self.iter().peekable();
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

impl fmt::Debug for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PortSet({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_setting_survives_the_round_trip() {
        for text in ["", "80", "80,443", "63-64", "0,80-82,443,65534-65535"] {
            let parsed: PortSet = text.parse().unwrap();
            assert_eq!(parsed.to_string(), text);
        }
        assert!("80-x".parse::<PortSet>().is_err());
    }

    #[test]
    fn a_set_has_what_is_in_it() {
        let mut set: PortSet = "80,1000-1999".parse().unwrap();
        assert_eq!((set.len(), set.is_empty()), (1001, false));
        set.remove(&(1000..1999).collect());
        let added: PortSet = [443, 80].into_iter().collect();
        set = set.iter().chain(added.iter()).collect();
        assert!(set.has(&added) && !added.has(&set));
        assert_eq!(set.to_string(), "80,443,1999");
        assert!(set.contains(443) && !set.contains(442));
        set.remove(&set.clone());
        assert!(set.is_empty());
    }
}
