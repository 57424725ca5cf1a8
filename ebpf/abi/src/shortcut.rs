//! When packets of a published port may go past the host's stack, straight between an uplink and the
//! container's link.
//!
//! In [`Mode::Hybrid`] the host's packet filter decides about each direction of a connection by its
//! first packets, which cross it: one that arrives behind it, with the mark that it entered with,
//! opens the shortcut to those that follow. An opening holds for one [`Shortcuts::epoch_at`]. That ends
//! whenever somebody changes a packet filter, and by itself each half minute, so that what nobody
//! tells of, and the times of connection tracking, count as well. What opens and ends a connection
//! always crosses.
//!
//! In [`Mode::Fast`] nothing crosses, in [`Mode::Compat`] everything does.

use crate::flow::State;
use crate::map::{FLOW_TUNNEL, Flow};
use crate::packet::Flags;
use crate::protocol;

/// One [`Shortcuts`]. A daemon that does not know it leaves it zero, or as it is.
pub const SHORTCUTS: &str = "shortcuts";

#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Compat = 0,
    Hybrid = 1,
    Fast = 2,
}

impl Mode {
    #[inline(always)]
    pub const fn from_raw(raw: u32) -> Self {
        match raw {
            1 => Self::Hybrid,
            2 => Self::Fast,
            _ => Self::Compat,
        }
    }
}

/// Value of [`SHORTCUTS`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shortcuts {
    /// A [`Mode`].
    pub mode: u32,
    /// Counts the changes of packet filters.
    pub epoch: u32,
}

/// An epoch ends after 2^35 ns, 34 s: a shift instead of a division. Connection tracking forgets an
/// idle UDP flow later (`nf_conntrack_udp_timeout_stream`, 120 s).
const PERIOD_BITS: u32 = 35;

impl Shortcuts {
    /// Never comes again, because both its parts only grow; never zero, which a new flow has.
    #[inline(always)]
    pub const fn epoch_at(&self, now: u64) -> u32 {
        let epoch = self.epoch.wrapping_add((now >> PERIOD_BITS) as u32);
        if epoch == 0 { 1 } else { epoch }
    }

    /// Whether a packet of the flow may go past the host's stack. `now` may be that of the packet
    /// before it, as far as another one tells.
    #[inline(always)]
    pub const fn admits(&self, flow: &Flow, protocol: u8, flags: Flags, now: u64) -> bool {
        if !has_shortcut(flow, protocol) {
            return false;
        }
        match Mode::from_raw(self.mode) {
            Mode::Compat => false,
            Mode::Hybrid => is_settled(flow, flags) && flow.epoch == self.epoch_at(now),
            Mode::Fast => true,
        }
    }

    /// Whether a packet of the flow may leave by this interface: in hybrid mode, by that by which those
    /// leave that cross the packet filter. What routes by marks, or by where a packet came from on the
    /// longer way, is not known here.
    #[inline(always)]
    pub const fn leaves(&self, flow: &Flow, exit: u32) -> bool {
        matches!(Mode::from_raw(self.mode), Mode::Fast) || flow.exit == exit as u16
    }

    /// Whether a packet of the flow that crossed the packet filter opens the shortcut to the next ones.
    #[inline(always)]
    pub const fn opens(&self, flow: &Flow, protocol: u8, flags: Flags) -> bool {
        matches!(Mode::from_raw(self.mode), Mode::Hybrid)
            && has_shortcut(flow, protocol)
            && is_settled(flow, flags)
    }
}

/// Only flows between an uplink, or another node, and a published port have one: containers that ask
/// have their own ways, and those of a virtual address are judged by the rules between networks. SCTP's checksum is
/// the work of another program, which ends the run.
#[inline(always)]
const fn has_shortcut(flow: &Flow, protocol: u8) -> bool {
    flow.flags & !FLOW_TUNNEL == 0 && matches!(protocol, protocol::TCP | protocol::UDP)
}

/// Whether both ends spoke, none ended, and the packet neither opens nor ends the connection.
#[inline(always)]
const fn is_settled(flow: &Flow, flags: Flags) -> bool {
    matches!(State::from_raw(flow.state), State::Established) && flags.is_amid()
}

/// What a packet is on the wire, without its link header: a packet that is to be cut up by the device
/// is as large as one of its pieces.
#[inline(always)]
pub const fn wire_length(length: u32, segment: u32, headers: u32) -> u32 {
    if segment == 0 {
        length
    } else {
        headers + segment
    }
}

const _: () = assert!(size_of::<Shortcuts>() == 8);

#[cfg(feature = "user")]
pod!(Shortcuts);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::map::{FLOW_ENDPOINT, FLOW_SELF, FLOW_VIP};

    const SYN: Flags = Flags(2);
    const ACK: Flags = Flags(16);
    const FIN: Flags = Flags(17);
    const SECOND: u64 = 1_000_000_000;

    fn shortcuts(mode: Mode) -> Shortcuts {
        Shortcuts {
            mode: mode as u32,
            epoch: 7,
        }
    }

    fn flow(state: State, epoch: u32) -> Flow {
        Flow {
            state: state as u8,
            epoch,
            ..Flow::default()
        }
    }

    #[test]
    fn an_epoch_ends_with_a_change_and_with_time() {
        let before = shortcuts(Mode::Hybrid);
        let changed = Shortcuts { epoch: 8, ..before };
        let now = 1_000 * SECOND;
        let epochs = [
            before.epoch_at(now),
            changed.epoch_at(now),
            changed.epoch_at(now + 35 * SECOND),
        ];
        assert!(epochs[0] < epochs[1] && epochs[1] < epochs[2], "{epochs:?}");
        assert_eq!(Shortcuts::default().epoch_at(0), 1);
    }

    #[test]
    fn hybrid_follows_what_crossed_until_the_epoch_ends() {
        let hybrid = shortcuts(Mode::Hybrid);
        let now = hybrid.epoch_at(SECOND);
        let admits = |flow: &Flow, flags| hybrid.admits(flow, protocol::TCP, flags, SECOND);
        let settled = flow(State::Established, now);
        assert!(admits(&settled, ACK));
        assert!(!admits(&settled, FIN) && !admits(&settled, SYN));
        assert!(!admits(&flow(State::Established, now - 1), ACK));
        assert!(!admits(&flow(State::Established, 0), ACK));
        assert!(!admits(&flow(State::New, now), ACK));
        assert!(!admits(&flow(State::ClientClosed, now), ACK));
        let udp = hybrid.admits(&settled, protocol::UDP, Flags::NONE, SECOND);
        assert!(udp);
        assert!(!hybrid.admits(&settled, protocol::SCTP, ACK, SECOND));
        assert!(hybrid.opens(&flow(State::Established, 0), protocol::TCP, ACK));
        for (state, flags) in [
            (State::New, ACK),
            (State::Established, FIN),
            (State::Established, Flags(18)),
            (State::BackendClosed, ACK),
        ] {
            assert!(!hybrid.opens(&flow(state, 0), protocol::TCP, flags));
        }
    }

    #[test]
    fn fast_admits_all_and_compat_nothing() {
        let (fast, compat) = (shortcuts(Mode::Fast), shortcuts(Mode::Compat));
        for (state, flags) in [
            (State::New, SYN),
            (State::Established, ACK),
            (State::Closed, FIN),
        ] {
            let flow = flow(state, 0);
            assert!(fast.admits(&flow, protocol::TCP, flags, SECOND));
            assert!(!compat.admits(&flow, protocol::TCP, flags, SECOND));
            assert!(!fast.opens(&flow, protocol::TCP, flags));
            assert!(!compat.opens(&flow, protocol::TCP, flags));
        }
    }

    #[test]
    fn only_flows_of_published_ports_with_the_outside_have_shortcuts() {
        for flags in [FLOW_VIP, FLOW_ENDPOINT, FLOW_SELF] {
            let flow = Flow {
                flags,
                ..flow(State::Established, 8)
            };
            assert!(!shortcuts(Mode::Fast).admits(&flow, protocol::TCP, ACK, 0));
            assert!(!shortcuts(Mode::Hybrid).opens(&flow, protocol::TCP, ACK));
        }
    }

    #[test]
    fn a_packet_that_a_device_cuts_up_is_as_large_as_a_piece() {
        assert_eq!(wire_length(1500, 0, 40), 1500);
        assert_eq!(wire_length(64_000, 1448, 52), 1500);
    }

    #[test]
    fn modes_round_trip() {
        for mode in [Mode::Compat, Mode::Hybrid, Mode::Fast] {
            assert_eq!(Mode::from_raw(mode as u32), mode);
        }
        assert_eq!(Mode::from_raw(9), Mode::Compat);
    }
}
