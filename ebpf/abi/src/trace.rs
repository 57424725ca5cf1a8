//! Showing decisions to somebody who asks: the filter, and what is told.
//!
//! While nobody asks, a packet costs the programs one look at [`Filter::until`]. It is a time, so
//! that a daemon that dies while it traces leaves nothing on.

use crate::address::{Address, Be16};

/// One [`Filter`].
pub const TRACE_FILTER: &str = "trace_filter";
/// A ring of [`Event`]s.
pub const TRACE_EVENTS: &str = "trace_events";
/// Events that found the ring full, per CPU.
pub const TRACE_LOST: &str = "trace_lost";

/// Some two thousand events.
pub const TRACE_RING_BYTES: u32 = 256 << 10;
/// Services that a filter can name.
pub const TRACE_SERVICES: usize = 8;

/// Which decisions are told. Zero in a field means any.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// `bpf_ktime_get_ns` at which tracing ends; zero while it is off.
    pub until: u64,
    /// Of either end.
    pub address: Address,
    pub services: [u32; TRACE_SERVICES],
    /// One decision in so many.
    pub one_in: u32,
    /// Of either end.
    pub port: Be16,
    pub protocol: u8,
    pub pad: u8,
}

/// The ends of a packet, or of a socket call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    pub source: Address,
    pub destination: Address,
    pub source_port: Be16,
    pub destination_port: Be16,
    pub protocol: u8,
}

impl Filter {
    /// Whether a decision about `service` is asked for. `to` is the other side of the translation,
    /// which people may ask for as well: a container's own address and port.
    #[inline(always)]
    pub fn wants(&self, ends: &Ends, to: (Address, Be16), service: u32) -> bool {
        let any = Address::ANY6;
        let protocol = self.protocol == 0 || self.protocol == ends.protocol;
        let port = self.port == Be16::ZERO
            || self.port == ends.source_port
            || self.port == ends.destination_port
            || self.port == to.1;
        let address = self.address == any
            || self.address == ends.source
            || self.address == ends.destination
            || self.address == to.0;
        protocol && port && address && self.has(service)
    }

    #[inline(always)]
    fn has(&self, service: u32) -> bool {
        let [a, b, c, d, e, f, g, h] = self.services;
        a == 0
            || service != 0
                && (a == service
                    || b == service
                    || c == service
                    || d == service
                    || e == service
                    || f == service
                    || g == service
                    || h == service)
    }
}

/// A decision.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// `bpf_ktime_get_ns`.
    pub at: u64,
    pub source: Address,
    pub destination: Address,
    /// Forward: the backend. Reverse: the frontend.
    pub to: Address,
    pub service: u32,
    pub length: u32,
    pub source_port: Be16,
    pub destination_port: Be16,
    pub to_port: Be16,
    pub protocol: u8,
    /// A [`Decision`].
    pub decision: u8,
    /// A [`crate::map::Reason`], of what is lost.
    pub reason: u8,
    pub pad: [u8; 7],
}

const _: () = {
    assert!(size_of::<Filter>() == 64);
    assert!(size_of::<Event>() == 80);
};

#[cfg(feature = "user")]
pod!(Filter);

/// What was decided.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Nothing is published there.
    Miss = 0,
    /// The first packet of a flow, led to a backend.
    New = 1,
    /// A later one.
    Hit = 2,
    /// A backend's packet, led back.
    Reply = 3,
    /// Dropped, or not served.
    Lost = 4,
    /// A local socket that connects.
    Connect = 5,
    /// A datagram of a local socket that is not connected.
    Send = 6,
}

pub const DECISIONS: [&str; 7] = ["miss", "new", "hit", "reply", "lost", "connect", "send"];
const _: () = assert!(DECISIONS.len() == Decision::Send as usize + 1);

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: Address = Address::v4(1);
    const HOST: Address = Address::v4(2);
    const WEB: Address = Address::v4(3);

    fn ends() -> Ends {
        Ends {
            source: CLIENT,
            destination: HOST,
            source_port: Be16::new(40_000),
            destination_port: Be16::new(8080),
            protocol: 6,
        }
    }

    fn wants(filter: Filter, service: u32) -> bool {
        filter.wants(&ends(), (WEB, Be16::new(80)), service)
    }

    #[test]
    fn a_field_of_zero_wants_everything() {
        assert!(wants(Filter::default(), 0) && wants(Filter::default(), 7));
    }

    #[test]
    fn each_field_narrows() {
        let any = Filter::default();
        for port in [40_000, 8080, 80] {
            let port = Be16::new(port);
            assert!(wants(Filter { port, ..any }, 7));
        }
        assert!(!wants(
            Filter {
                port: Be16::new(81),
                ..any
            },
            7
        ));
        for address in [CLIENT, HOST, WEB] {
            assert!(wants(Filter { address, ..any }, 7));
        }
        assert!(!wants(
            Filter {
                address: Address::v4(4),
                ..any
            },
            7
        ));
        assert!(wants(Filter { protocol: 6, ..any }, 7));
        assert!(!wants(
            Filter {
                protocol: 17,
                ..any
            },
            7
        ));
        let services = [3, 7, 0, 0, 0, 0, 0, 0];
        assert!(wants(Filter { services, ..any }, 7));
        assert!(!wants(Filter { services, ..any }, 8));
        assert!(!wants(Filter { services, ..any }, 0), "no service at all");
    }
}
