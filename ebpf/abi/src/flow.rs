//! Connection tracking: states, staleness, and the source ports of clashing flows.

use crate::address::{Address, Be16};
use crate::map::{Backend, Direction, FLOW_REMOTE, Flow, FlowKey};
use crate::packet::Flags;
use crate::protocol;

/// How long an outbound flow keeps its source port from being taken for a published one:
/// `nf_conntrack_udp_timeout_stream`, and `nf_conntrack_sctp_timeout_established`, before which the
/// association would have ended by itself for want of an answer to its heartbeats.
const UDP_IDLE_NS: u64 = 120 * 1_000_000_000;
const SCTP_IDLE_NS: u64 = 210 * 1_000_000_000;

/// What the two ends have been seen to do: the states of RFC 9293 (3.3.2) as far as somebody in between
/// can tell them apart. Between the backend's answer and the client's next word (SYN-RECEIVED) a flow is
/// [`State::Established`] in [`crate::map::CT_HALF`].
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Only the client spoke.
    New = 0,
    /// Both spoke.
    Established = 1,
    /// The client has sent its FIN, or what SCTP has for it: the backend is in CLOSE-WAIT. In this and
    /// all later states packets still follow the flow; a SYN, or an INIT, begins another one.
    ClientClosed = 2,
    /// Not ours: the host, or a masqueraded container, talks from a port that is also published.
    Outbound = 3,
    /// The backend has sent its FIN.
    BackendClosed = 4,
    /// Both have (LAST-ACK, TIME-WAIT), or the backend has sent a RST (CLOSED).
    Closed = 5,
    /// A RST came from the client, or from somebody who says so: only the backend knows whether it
    /// believes that (RFC 5961, 3.2).
    Aborted = 6,
}

impl State {
    #[inline(always)]
    pub const fn from_raw(raw: u8) -> Self {
        match raw {
            1 => Self::Established,
            2 => Self::ClientClosed,
            3 => Self::Outbound,
            4 => Self::BackendClosed,
            5 => Self::Closed,
            6 => Self::Aborted,
            _ => Self::New,
        }
    }

    /// The state after a packet of the flow. Total: no packet is refused for its flags, because
    /// the end points judge them better.
    #[inline(always)]
    pub const fn next(self, direction: Direction, flags: Flags) -> Self {
        match (self, direction) {
            (Self::Outbound | Self::Closed, _) => self,
            (_, Direction::Reverse) if flags.resets() => Self::Closed,
            (_, Direction::Forward) if flags.resets() => Self::Aborted,
            (Self::Aborted, _) => self,
            (Self::ClientClosed, Direction::Reverse)
            | (Self::BackendClosed, Direction::Forward)
                if flags.closes() =>
            {
                Self::Closed
            }
            (_, Direction::Forward) if flags.closes() => Self::ClientClosed,
            (_, Direction::Reverse) if flags.closes() => Self::BackendClosed,
            (Self::New, Direction::Reverse) => Self::Established,
            _ => self,
        }
    }

    /// Whether an end has closed the connection, so that the same ports may begin another one.
    #[inline(always)]
    pub const fn is_ending(self) -> bool {
        matches!(
            self,
            Self::ClientClosed | Self::BackendClosed | Self::Closed | Self::Aborted
        )
    }
}

/// What ingress does with a packet whose flow it found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Translate as the flow says.
    Follow,
    /// Leave the packet alone.
    Pass,
    /// Forget the flow and look the frontend up.
    Renew,
}

/// Judges a forward flow. `backend` is as for [`is_current`].
#[inline(always)]
pub const fn judge(
    flow: &Flow,
    backend: Option<&Backend>,
    protocol: u8,
    flags: Flags,
    now: u64,
) -> Verdict {
    let state = State::from_raw(flow.state);
    if matches!(state, State::Outbound) {
        let idle = now.saturating_sub(flow.last_seen);
        // A SYN comes from somebody who connects to us, never from the far end of our own flow.
        let over = match protocol {
            protocol::TCP => flags.opens(),
            protocol::SCTP => flags.opens() || idle > SCTP_IDLE_NS,
            _ => idle > UDP_IDLE_NS,
        };
        return if over { Verdict::Renew } else { Verdict::Pass };
    }
    let current = is_current(flow, backend);
    if !current || (state.is_ending() && flags.opens()) {
        Verdict::Renew
    } else {
        Verdict::Follow
    }
}

/// The state of a forward flow after a packet of its client. A backend on another node is not heard:
/// it has spoken when the client goes on, and its connection is over when the client ends it.
#[inline(always)]
pub const fn heard(flow: &Flow, flags: Flags) -> State {
    let next = State::from_raw(flow.state).next(Direction::Forward, flags);
    if flow.flags & FLOW_REMOTE == 0 {
        return next;
    }
    match next {
        State::New if flow.packets > 0 && !flags.opens() => State::Established,
        State::ClientClosed => State::Closed,
        _ => next,
    }
}

/// Whether a flow of [`crate::map::CT_HALF`] is a connection: the backend has answered, and the client
/// has heard that.
#[inline(always)]
pub const fn is_connection(flow: &Flow, flags: Flags) -> bool {
    matches!(State::from_raw(flow.state), State::Established) && !flags.opens()
}

/// Whether the flow's backend still is the one it was made for. `backend` is the slot the flow
/// names, as it is now.
#[inline(always)]
pub const fn is_current(flow: &Flow, backend: Option<&Backend>) -> bool {
    match backend {
        Some(backend) => backend.is_live() && backend.generation == flow.generation,
        None => false,
    }
}

/// Whether a reverse entry belongs to the flow of `frontend` from `client_port`; else it is
/// another flow of the same backend and client address.
#[inline(always)]
pub fn is_same_flow(entry: &Flow, frontend: Address, port: Be16, client_port: Be16) -> bool {
    entry.address == frontend && entry.port == port && entry.client_port == client_port
}

/// How many source ports are tried for a flow whose own is taken.
pub const PORT_ATTEMPTS: u32 = 8;

/// The `attempt`th source port to try, from the upper half: below it live most client ports that
/// were chosen by hand.
#[inline(always)]
pub const fn alternative_port(client_port: Be16, frontend_port: Be16, attempt: u32) -> Be16 {
    // A multiplicative hash (Knuth, 6.4): consecutive client ports land far apart.
    let seed = ((client_port.get() as u32) << 16 | frontend_port.get() as u32)
        .wrapping_add(attempt.wrapping_mul(0x9e37_79b9));
    let hash = seed.wrapping_mul(0x9e37_79b1) >> 17;
    Be16::new(32_768 | hash as u16)
}

/// The reverse key of a flow from `client` to `backend`: its replies as they leave.
#[inline(always)]
pub const fn reverse_key(
    client: Address,
    client_port: Be16,
    backend: Address,
    backend_port: Be16,
    protocol: u8,
) -> FlowKey {
    FlowKey {
        source: backend,
        destination: client,
        source_port: backend_port,
        destination_port: client_port,
        protocol,
        direction: Direction::Reverse as u8,
        pad: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::map::{BACKEND_LIVE, BACKEND_REMOTE};

    const SYN: Flags = Flags(2);
    const ACK: Flags = Flags(16);
    const FIN: Flags = Flags(17);
    const RST: Flags = Flags(4);

    fn flow(state: State) -> Flow {
        Flow {
            state: state as u8,
            generation: 7,
            last_seen: 1_000,
            ..Flow::default()
        }
    }

    fn backend(generation: u32, state: u16) -> Backend {
        Backend {
            generation,
            state,
            ..Backend::default()
        }
    }

    #[test]
    fn states_follow_the_packets() {
        use Direction::{Forward, Reverse};
        for (from, direction, flags, to) in [
            (State::New, Forward, SYN, State::New),
            (State::New, Reverse, Flags(18), State::Established),
            (State::New, Reverse, Flags::NONE, State::Established),
            (State::Established, Forward, ACK, State::Established),
            (State::Established, Reverse, FIN, State::BackendClosed),
            (State::Established, Forward, FIN, State::ClientClosed),
            (State::ClientClosed, Forward, FIN, State::ClientClosed),
            (State::ClientClosed, Forward, ACK, State::ClientClosed),
            (State::ClientClosed, Reverse, ACK, State::ClientClosed),
            (State::ClientClosed, Reverse, FIN, State::Closed),
            (State::BackendClosed, Reverse, FIN, State::BackendClosed),
            (State::BackendClosed, Forward, FIN, State::Closed),
            (State::BackendClosed, Forward, RST, State::Aborted),
            (State::New, Forward, FIN, State::ClientClosed),
            (State::New, Forward, RST, State::Aborted),
            (State::New, Reverse, RST, State::Closed),
            (State::Established, Forward, RST, State::Aborted),
            (State::Established, Reverse, RST, State::Closed),
            (State::Aborted, Forward, ACK, State::Aborted),
            (State::Aborted, Reverse, FIN, State::Aborted),
            (State::Aborted, Reverse, RST, State::Closed),
            (State::Closed, Forward, ACK, State::Closed),
            (State::Closed, Forward, RST, State::Closed),
            (State::Outbound, Reverse, FIN, State::Outbound),
        ] {
            assert_eq!(
                from.next(direction, flags),
                to,
                "{from:?} {direction:?} {flags:?}"
            );
            assert_eq!(State::from_raw(to as u8), to);
        }
    }

    #[test]
    fn a_flow_is_followed_while_its_backend_lives() {
        let live = backend(7, BACKEND_LIVE);
        for (state, backend, flags, want) in [
            (State::Established, Some(live), ACK, Verdict::Follow),
            (State::New, Some(live), SYN, Verdict::Follow),
            (State::ClientClosed, Some(live), ACK, Verdict::Follow),
            (State::ClientClosed, Some(live), SYN, Verdict::Renew),
            (State::Closed, Some(live), ACK, Verdict::Follow),
            (State::Closed, Some(live), SYN, Verdict::Renew),
            (State::Aborted, Some(live), ACK, Verdict::Follow),
            (State::Aborted, Some(live), SYN, Verdict::Renew),
            (
                State::Established,
                Some(backend(8, BACKEND_LIVE)),
                ACK,
                Verdict::Renew,
            ),
            (State::Established, Some(backend(7, 0)), ACK, Verdict::Renew),
            (State::Established, None, ACK, Verdict::Renew),
        ] {
            let got = judge(&flow(state), backend.as_ref(), protocol::TCP, flags, 2_000);
            assert_eq!(got, want, "{state:?} {backend:?} {flags:?}");
        }
    }

    #[test]
    fn a_connection_takes_an_answer_and_somebody_who_hears_it() {
        for (state, flags, want) in [
            (State::New, SYN, false),
            (State::New, ACK, false),
            (State::Established, SYN, false),
            (State::Established, ACK, true),
            (State::ClientClosed, ACK, false),
        ] {
            assert_eq!(
                is_connection(&flow(state), flags),
                want,
                "{state:?} {flags:?}"
            );
        }
    }

    #[test]
    fn a_backend_of_another_node_is_not_heard() {
        let remote = |state, packets| Flow {
            flags: FLOW_REMOTE,
            packets,
            ..flow(state)
        };
        for (packets, flags, after) in [
            (0, SYN, State::New),
            (0, ACK, State::New),
            (1, SYN, State::New),
            (1, ACK, State::Established),
            (1, FIN, State::Closed),
            (1, RST, State::Aborted),
        ] {
            let got = heard(&remote(State::New, packets), flags);
            assert_eq!(got, after, "{packets} {flags:?}");
        }
        assert_eq!(heard(&flow(State::New), FIN), State::ClientClosed);
        let elsewhere = backend(7, BACKEND_LIVE | BACKEND_REMOTE);
        assert!(is_current(&flow(State::New), Some(&elsewhere)));
    }

    #[test]
    fn outbound_flows_are_left_alone_until_they_end() {
        let outbound = flow(State::Outbound);
        let judge = |protocol, flags, now| judge(&outbound, None, protocol, flags, now);
        assert_eq!(judge(protocol::TCP, ACK, u64::MAX), Verdict::Pass);
        assert_eq!(judge(protocol::TCP, SYN, 1_000), Verdict::Renew);
        assert_eq!(judge(protocol::UDP, Flags::NONE, 1_000), Verdict::Pass);
        assert_eq!(judge(protocol::UDP, Flags::NONE, 0), Verdict::Pass);
        let late = 1_001 + UDP_IDLE_NS;
        assert_eq!(judge(protocol::UDP, Flags::NONE, late), Verdict::Renew);
        assert_eq!(judge(protocol::SCTP, ACK, late), Verdict::Pass);
        assert_eq!(judge(protocol::SCTP, SYN, 1_000), Verdict::Renew);
        let late = 1_001 + SCTP_IDLE_NS;
        assert_eq!(judge(protocol::SCTP, ACK, late), Verdict::Renew);
    }

    #[test]
    fn alternative_ports_differ_and_are_high() {
        let ports: [u16; PORT_ATTEMPTS as usize] = core::array::from_fn(|attempt| {
            alternative_port(Be16::new(40_000), Be16::new(80), attempt as u32).get()
        });
        for (i, port) in ports.iter().enumerate() {
            assert!(*port >= 32_768);
            assert!(!ports[..i].contains(port), "{ports:?}");
        }
    }
}
