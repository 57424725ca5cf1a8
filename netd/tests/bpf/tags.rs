//! VLAN tags as a program at a link sees them: the outermost one beside the packet, where the kernel
//! has put it (`skb_vlan_untag`), the next ones in it.

use std::os::fd::AsFd as _;

use abi::map::{JUMP_TC, TcSlot};
use netd::bpf::{Side, Verdict};
use sys::bpf::probe::Probe;

use crate::cases::{PROTOCOLS, first, more};
use crate::frame::{SYN, tcp};
use crate::guard::{edge, on_loopback};
use crate::instance::{Instance, frontend};
use crate::packet::Packet;

/// 802.1Q and 802.1ad, in network order.
const VLAN: u16 = 0x8100_u16.to_be();
const QINQ: u16 = 0x88a8_u16.to_be();
/// Priority 3 of VLAN 5; and a priority without a VLAN.
const TAG: u16 = 3 << 13 | 5;
const PRIORITY: u16 = 7 << 13;
/// `TC_ACT_UNSPEC` and `TC_ACT_SHOT`, include/uapi/linux/pkt_cls.h.
const UNSPEC: u32 = u32::MAX;
const SHOT: u32 = 2;

const ENDS: [[&str; 3]; 2] = [
    ["198.18.0.7:40000", "192.0.2.1:8080", "172.18.0.2:80"],
    [
        "[2001:db8:7::7]:40000",
        "[2001:db8::1]:8080",
        "[fd00:18::2]:80",
    ],
];

/// What leaves the program of a slot when the frame comes to it with these tags.
fn run(plane: &Instance, slot: TcSlot, tags: &[(u16, u16)], frame: &[u8]) -> (u32, Vec<u8>) {
    let table = sys::bpf::open(&plane.options.pin_dir.join(JUMP_TC)).unwrap();
    let probe = Probe::tagging(table.as_fd(), slot as u32, tags).unwrap();
    let mut out = vec![0; frame.len() + 4 * tags.len()];
    let run = probe.run(frame, &mut out, 1).unwrap();
    out.truncate(run.length);
    (run.verdict, out)
}

/// Two tags and more are nobody's that this host could lead anywhere: the packet behind them stays.
fn is_led(tags: &[(u16, u16)]) -> bool {
    tags.len() == 1
}

/// The frame with those tags that are in it.
fn tagged(frame: &[u8], tags: &[(u16, u16)]) -> Vec<u8> {
    let mut out = frame.to_vec();
    for (kind, number) in tags.split_last().map_or(&[][..], |(_, inner)| inner) {
        let tag = [kind.to_ne_bytes(), number.to_be_bytes()].concat();
        out.splice(12..12, tag);
    }
    out
}

#[test]
fn one_tag_changes_nothing_and_two_keep_a_packet_from_us() {
    let plane = Instance::open("tags", None);
    let local = ["192.0.2.1", "2001:db8::1"].map(|ip| ip.parse().unwrap());
    plane.set_local_addresses(&local.into()).unwrap();
    let mut rows = 0;
    for (name, protocol) in PROTOCOLS {
        for (any, ends) in ["any4", "any6"].into_iter().zip(ENDS) {
            let at = frontend(&format!("{any}:8080/{name}"));
            plane.publish(at, ends[2].parse().unwrap()).unwrap();
            let [client, host, web] = ends.map(|end| end.parse().unwrap());
            let request = more(protocol, client, host);
            let before = first(protocol, client, host).build();
            plane.replay(Side::Ingress, &before).unwrap();
            for tags in [
                &[(VLAN, TAG)][..],
                &[(QINQ, TAG)],
                &[(VLAN, PRIORITY)],
                &[(VLAN, TAG), (QINQ, TAG)],
                &[(VLAN, TAG), (VLAN, PRIORITY)],
                &[(VLAN, TAG), (VLAN, TAG), (QINQ, TAG)],
            ] {
                let check = |what: &str, slot, packet: &Packet, led: &Packet| {
                    let (verdict, out) = run(&plane, slot, tags, &packet.build());
                    assert_eq!(verdict, UNSPEC, "{any} {name} {what} {tags:?}");
                    let becomes = if is_led(tags) { led } else { packet };
                    let becomes = tagged(&becomes.build(), tags);
                    assert_eq!(out, becomes, "{any} {name} {what} {tags:?}");
                };
                let in_of_flow = request.between(client, web);
                check("in", TcSlot::Ingress, &request, &in_of_flow);
                let reply = more(protocol, web, client);
                let out_of_flow = reply.between(host, client);
                check("out", TcSlot::Egress, &reply, &out_of_flow);
                rows += 2;
            }
        }
    }
    println!("{rows} cases");
}

/// Behind a tag a container could be anybody: its bridge knows no VLANs.
#[test]
fn a_container_sends_no_tags() {
    let plane = on_loopback("tags-endpoint", edge(true));
    let frame = tcp("172.18.0.2:80", "198.51.100.7:4", SYN);
    let untagged = plane.replay_endpoint(&frame).unwrap();
    assert_eq!(untagged.verdict, Verdict::Pass);
    for tags in [
        &[(VLAN, TAG)][..],
        &[(QINQ, TAG)],
        &[(VLAN, PRIORITY)],
        &[(VLAN, TAG), (QINQ, TAG)],
    ] {
        let (verdict, _) = run(&plane, TcSlot::Endpoint, tags, &frame);
        assert_eq!(verdict, SHOT, "{tags:?}");
    }
    assert!(plane.refusals().unwrap().contains(&("vlan", 4)));
}
