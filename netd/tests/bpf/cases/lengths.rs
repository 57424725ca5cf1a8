//! Packets that end early, at every length: they go on untouched, translated, or not at all, and
//! nothing beyond their end is read.

use netd::bpf::Side::Ingress;

use super::{Cases, PROTOCOLS, first, more};
use crate::packet::{SCTP, TCP, UDP};

pub(super) fn add(all: &mut Cases) {
    for (name, p) in PROTOCOLS {
        // What must be there to know the flow, and to change the checksum.
        let (known, whole) = match p {
            TCP => (14, 18),
            UDP => (4, 8),
            _ => (14, 14),
        };
        for length in 0..=20 {
            for (v, e) in all.families() {
                let header = if e.is_v4() { 34 } else { 54 };
                let sent = all
                    .case(format!("{name} {v}: {length} bytes, in"))
                    .ingress(first(p, e.client, e.host).cut(header + length));
                match length {
                    _ if length < known => sent.untouched(),
                    _ if length < whole => sent.drops(),
                    _ => sent.goes(e.client, e.web),
                }
            }
            for (v, e) in all.families() {
                let header = if e.is_v4() { 34 } else { 54 };
                let sent = all
                    .case(format!("{name} {v}: {length} bytes, out"))
                    .after(Ingress, first(p, e.client, e.host))
                    .egress(more(p, e.web, e.client).cut(header + length));
                match length {
                    _ if length < known => sent.untouched(),
                    _ if length < whole => sent.drops(),
                    _ => sent.goes(e.host, e.client),
                }
            }
        }
        for length in [0, 1, 3] {
            let e = all.ends4();
            all.case(format!("{name}: {length} bytes of options"))
                .ingress(first(p, e.client, e.host).options(&[1; 8]).cut(34 + length))
                .untouched();
            let e = all.ends6();
            all.case(format!("{name}: {length} bytes of an extension header"))
                .ingress(first(p, e.client, e.host).extension(60, 1).cut(54 + length))
                .untouched();
        }
    }
    // A length in the IP header that leaves no room for SCTP's own: no checksum can be right.
    for length in [0, 20, 31] {
        let e = all.ends4();
        all.case(format!("sctp: an IPv4 packet of {length} bytes"))
            .ingress(first(SCTP, e.client, e.host).edit(16, 0).edit(17, length))
            .drops();
    }
    for length in [0, 11] {
        let e = all.ends6();
        all.case(format!("sctp: an IPv6 packet of {length} bytes"))
            .ingress(first(SCTP, e.client, e.host).edit(18, 0).edit(19, length))
            .drops();
    }
}
