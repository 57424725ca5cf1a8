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
    /// The client has not been heard since the backend's answer.
    pub half: bool,
    /// `bpf_ktime_get_ns` of its last packet.
    pub last_seen: u64,
}

impl Span {
    const fn idle(&self, now: u64) -> u64 {
        now.saturating_sub(self.last_seen)
    }
}

/// Whether a flow is in progress: both ends may go on. The times are those after which Linux forgets
/// a connection by default (`nf_conntrack_*_timeout_*`).
pub const fn is_active(span: &Span, now: u64) -> bool {
    let seconds = match (State::from_raw(span.state), span.protocol) {
        (State::Closed | State::Aborted | State::Outbound, _) => return false,
        // SYN_SENT, SYN_RECV, ESTABLISHED; one end may still send when the other one has closed.
        (State::New, protocol::TCP) => 120,
        (State::Established, protocol::TCP) if span.half => 60,
        (State::Established, protocol::TCP) => 5 * 24 * 3600,
        (State::ClientClosed | State::BackendClosed, protocol::TCP) => 120,
        // SCTP has no half-closed associations, and gives its end three seconds.
        (State::ClientClosed | State::BackendClosed, _) => 3,
        (State::New, _) => 30,
        (State::Established, protocol::SCTP) => 210,
        (State::Established, _) => 120,
    };
    span.idle(now) <= seconds * SECOND_NS
}

/// `nf_conntrack_tcp_timeout_time_wait`: twice the time that a segment may live (RFC 9293, 3.4.2, has
/// twice as much).
pub const TIME_WAIT_NS: u64 = 120 * SECOND_NS;

/// Whether nobody misses the flow: both ends have closed it, and what was sent again has long arrived.
/// One that only the client is said to have aborted is no such flow.
pub const fn is_over(span: &Span, now: u64, after: u64) -> bool {
    matches!(State::from_raw(span.state), State::Closed) && span.idle(now) >= after
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
                half: false,
                last_seen,
            };
            is_active(&span, last_seen + seconds * SECOND_NS)
        };
        let (tcp, udp, sctp) = (protocol::TCP, protocol::UDP, protocol::SCTP);
        assert!(idle(tcp, State::Established, 3600));
        for state in [State::Closed, State::Aborted, State::Outbound] {
            assert!(!idle(tcp, state, 0), "{state:?}");
        }
        for state in [State::New, State::ClientClosed, State::BackendClosed] {
            assert!(idle(tcp, state, 120) && !idle(tcp, state, 121), "{state:?}");
        }
        assert!(idle(sctp, State::ClientClosed, 3) && !idle(sctp, State::BackendClosed, 4));
        assert!(idle(udp, State::New, 30) && !idle(udp, State::New, 31));
        assert!(idle(udp, State::Established, 120) && !idle(udp, State::Established, 121));
        assert!(idle(sctp, State::Established, 210) && !idle(sctp, State::Established, 211));
        // Another CPU's clock may be ahead.
        let ahead = Span {
            protocol: tcp,
            state: State::New as u8,
            half: true,
            last_seen: 9,
        };
        assert!(is_active(&ahead, 8));
    }

    #[test]
    fn a_client_that_says_no_more_after_the_answer_has_a_minute() {
        let span = Span {
            protocol: protocol::TCP,
            state: State::Established as u8,
            half: true,
            last_seen: 0,
        };
        assert!(is_active(&span, 60 * SECOND_NS) && !is_active(&span, 61 * SECOND_NS));
    }

    #[test]
    fn only_what_both_ends_have_closed_is_over() {
        for (state, over) in [
            (State::New, false),
            (State::Established, false),
            (State::ClientClosed, false),
            (State::BackendClosed, false),
            (State::Aborted, false),
            (State::Outbound, false),
            (State::Closed, true),
        ] {
            let span = Span {
                protocol: protocol::TCP,
                state: state as u8,
                half: false,
                last_seen: 0,
            };
            assert_eq!(
                is_over(&span, TIME_WAIT_NS, TIME_WAIT_NS),
                over,
                "{state:?}"
            );
            assert!(!is_over(&span, TIME_WAIT_NS - 1, TIME_WAIT_NS), "{state:?}");
        }
    }
}
