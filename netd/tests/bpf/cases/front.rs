//! The same cases where XDP sees packets first: what it does is what tc would have done, and what it
//! leaves is left as it came.

use netd::bpf::{Mode, Replay, Side, Verdict};

use super::{Case, Expect, all, publish};
use crate::front::link_of_container;
use crate::guard::edge;
use crate::instance::Instance;
use crate::packet::{ACK, Packet, SYN_ACK};

/// The largest frame that XDP is given in one piece, of a page with room before and behind.
const PAGE: usize = 3_000;

/// Two hosts with the same container, one of them with the front.
fn hosts() -> [Instance; 2] {
    let link = link_of_container();
    let planes = ["tc", "xdp"].map(|name| Instance::open(&format!("front-{name}"), None));
    for plane in &planes {
        publish(plane);
        plane.set_mode(Mode::Fast).unwrap();
        plane.attach_endpoint(&link, &edge(true)).unwrap();
    }
    planes[1].take_frames(&link).unwrap();
    planes
}

/// As an uplink with both does.
fn arrive(plane: &Instance, frame: &[u8], by_front: &mut usize) -> Replay {
    if frame.len() <= PAGE {
        let got = plane.replay_front(frame).unwrap();
        if got.verdict != Verdict::Pass {
            *by_front += 1;
            return got;
        }
        assert_eq!(got.frame, frame, "what the front leaves, it leaves alone");
    }
    plane.replay(Side::Ingress, frame).unwrap()
}

/// The packets of a case, and where they lead somewhere, those of the connection that it might be of.
fn packets(case: &Case) -> Vec<(Side, Packet)> {
    let mut packets = case.before.clone();
    packets.push((case.side, case.packet.clone()));
    if let (Side::Ingress, Expect::Becomes(translated)) = (case.side, &case.expect) {
        let more = case.packet.plain(ACK);
        packets.extend([
            (Side::Egress, translated.answer(SYN_ACK)),
            (Side::Ingress, more.clone()),
            (Side::Ingress, more),
            (Side::Ingress, case.packet.clone()),
        ]);
    }
    packets
}

#[test]
fn a_front_does_what_tc_does() {
    let [tc, xdp] = hosts();
    let (mut redirected, mut by_front) = (0, 0);
    for case in all() {
        for (number, (side, packet)) in packets(&case).iter().enumerate() {
            let name = format!("{}, packet {number}", case.name);
            let frame = packet.build();
            let alone = tc.replay(*side, &frame).unwrap();
            let got = match side {
                Side::Ingress => arrive(&xdp, &frame, &mut by_front),
                _ => xdp.replay(*side, &frame).unwrap(),
            };
            redirected += usize::from(alone.verdict == Verdict::Redirect);
            assert_eq!(got.verdict, alone.verdict, "{name}");
            if got.verdict != Verdict::Drop {
                assert_eq!(got.frame, alone.frame, "{name}");
            }
        }
    }
    println!("{by_front} of {redirected} packets that take the shortcut by the front");
    // The others begin connections, or have options or extension headers.
    assert!(by_front > 300, "{by_front} of {redirected}");
    assert_eq!(xdp.drops().unwrap(), tc.drops().unwrap());
    assert_eq!(xdp.traffic().unwrap(), tc.traffic().unwrap());
}
