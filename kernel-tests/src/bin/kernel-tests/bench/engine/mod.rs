//! Who connects sandboxes: our plugin and its peers, each as its runtime starts it.
//!
//! An engine works on a throwaway host of its own; what it is timed for is from the start of its
//! first program to the end of its last.

mod call;
mod hawser;
mod netavark;
mod reference;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use kernel_tests::Host;

pub(crate) use self::hawser::{Hawser, NETWORK};
pub(crate) use self::netavark::{GATEWAY, Netavark};
pub(crate) use self::reference::Reference;

/// What a program that has not ended by then is killed after.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);
/// The interface inside the sandbox.
pub(crate) const IFNAME: &str = "eth0";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Add,
    Del,
}

/// A network namespace that is to be connected.
#[derive(Debug, Clone)]
pub(crate) struct Sandbox {
    /// Unique on its host; addresses that an engine is told are made of it.
    pub(crate) number: u32,
    /// As seen from this process.
    pub(crate) path: PathBuf,
}

impl Sandbox {
    pub(crate) fn id(&self) -> String {
        format!("bench{}", self.number)
    }

    /// The address of those engines that do not choose one themselves; the first is the gateway's.
    fn address(&self, subnet: std::net::Ipv4Addr) -> std::net::Ipv4Addr {
        std::net::Ipv4Addr::from_bits(subnet.to_bits() + 2 + self.number)
    }
}

/// TCP ports to publish, each as the same port of the sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ports {
    first: u16,
    count: u16,
    step: u16,
}

impl Ports {
    pub(crate) const NONE: Self = Self::range(1, 0);

    pub(crate) const fn range(first: u16, count: u16) -> Self {
        Self {
            first,
            count,
            step: 1,
        }
    }

    /// Every other port, so that no two make a range.
    pub(crate) const fn single(first: u16, count: u16) -> Self {
        Self {
            first,
            count,
            step: 2,
        }
    }

    pub(crate) fn is_empty(self) -> bool {
        self.count == 0
    }

    /// The first port of a range that is published as such.
    fn as_range(self) -> Option<u16> {
        (self.step == 1 && self.count > 1).then_some(self.first)
    }

    fn each(self) -> impl Iterator<Item = u16> {
        (0..self.count).map(move |number| self.first + number * self.step)
    }

    /// As CNI runtimes say it; they know no ranges.
    fn mappings(self) -> serde_json::Value {
        self.each()
            .map(|port| {
                serde_json::json!({"hostPort": port, "containerPort": port, "protocol": "tcp"})
            })
            .collect()
    }
}

pub(crate) trait Engine {
    /// Connects or disconnects `sandbox` and says how long that took.
    fn run(&self, verb: Verb, sandbox: &Sandbox, ports: Ports) -> Result<Duration>;

    /// Publishes `ports` for `sandbox`, which is connected for that, in whatever time it takes:
    /// what is there when something else is measured.
    fn prepare(&self, sandbox: &Sandbox, ports: Ports) -> Result<()> {
        self.run(Verb::Add, sandbox, ports).map(drop)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Hawser,
    Reference,
    Netavark,
}

impl Kind {
    pub(crate) const ALL: [Self; 3] = [Self::Hawser, Self::Reference, Self::Netavark];
    pub(crate) const PEERS: [Self; 2] = [Self::Reference, Self::Netavark];

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Hawser => "hawser",
            Self::Reference => "reference plugins",
            Self::Netavark => "netavark 2.1",
        }
    }

    pub(crate) fn start(self, host: &Arc<Host>) -> Result<Box<dyn Engine>> {
        Ok(match self {
            Self::Hawser => Box::new(Hawser::start(Arc::clone(host))?),
            Self::Reference => Box::new(Reference::new(host)?),
            Self::Netavark => Box::new(Netavark::new(host)?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn single_ports_never_make_a_range() {
        let ports: Vec<u16> = Ports::single(20_000, 3).each().collect();
        assert_eq!(ports, [20_000, 20_002, 20_004]);
        assert_eq!(Ports::single(20_000, 3).as_range(), None);
        assert_eq!(Ports::range(20_000, 3).as_range(), Some(20_000));
        assert_eq!(Ports::range(20_000, 1).as_range(), None);
        assert_eq!(Ports::NONE.each().count(), 0);
    }

    #[test]
    fn ten_thousand_single_ports_fit() {
        assert_eq!(Ports::single(20_000, 10_000).each().last(), Some(39_998));
    }

    #[test]
    fn the_thousandth_sandbox_is_inside_its_subnet() {
        let sandbox = Sandbox {
            number: 1000,
            path: PathBuf::new(),
        };
        let subnet = std::net::Ipv4Addr::new(10, 89, 0, 0);
        assert_eq!(sandbox.address(subnet).to_string(), "10.89.3.234");
    }
}
