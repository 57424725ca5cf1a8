//! Which flows are in progress: for people who ask, not for the packets.
//!
//! A table keeps flows until it needs their room, so that an entry by itself says little.

use crate::flow::State;
use crate::protocol;

const SECOND_NS: u64 = 1_000_000_000;

/// What tells whether a flow is in progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub protocol: u8,
    /// A [`State`].
    pub state: u8,
    /// `bpf_ktime_get_ns` of its last packet.
    pub last_seen: u64,
}

/// Whether a flow is in progress: both ends may go on. The times are those after which Linux forgets
/// a connection by default (`nf_conntrack_*_timeout_*`).
pub const fn is_active(span: &Span, now: u64) -> bool {
    let seconds = match (State::from_raw(span.state), span.protocol) {
        (State::Closing | State::Outbound, _) => return false,
        (State::New, protocol::TCP) => 60,
        (State::New, _) => 30,
        (State::Established, protocol::TCP) => 5 * 24 * 3600,
        (State::Established, protocol::SCTP) => 210,
        (State::Established, _) => 120,
    };
    now.saturating_sub(span.last_seen) <= seconds * SECOND_NS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_end_by_their_packets_or_by_silence() {
        let idle = |protocol, state: State, seconds: u64| {
            let last_seen = 1_000 * SECOND_NS;
            let span = Span {
                protocol,
                state: state as u8,
                last_seen,
            };
            is_active(&span, last_seen + seconds * SECOND_NS)
        };
        let (tcp, udp, sctp) = (protocol::TCP, protocol::UDP, protocol::SCTP);
        assert!(idle(tcp, State::Established, 3600));
        assert!(!idle(tcp, State::Closing, 0) && !idle(tcp, State::Outbound, 0));
        assert!(idle(tcp, State::New, 60) && !idle(tcp, State::New, 61));
        assert!(idle(udp, State::New, 30) && !idle(udp, State::New, 31));
        assert!(idle(udp, State::Established, 120) && !idle(udp, State::Established, 121));
        assert!(idle(sctp, State::Established, 210) && !idle(sctp, State::Established, 211));
        // Another CPU's clock may be ahead.
        let ahead = Span {
            protocol: tcp,
            state: State::New as u8,
            last_seen: 9,
        };
        assert!(is_active(&ahead, 8));
    }
}
