//! Checksums: kept right, kept wrong, and kept away from.

use netd::bpf::Side::Ingress;

use super::{Cases, Ends, PROTOCOLS, first, more};
use crate::packet::{Packet, SCTP, UDP};

pub(super) fn add(all: &mut Cases) {
    wrong(all);
    absent(all);
    padded(all);
    for length in [0, 1, 2, 3, 4, 227, 228, 229, 239, 240, 241, 500, 1400, 3000] {
        sctp_of(all, length);
    }
    for (v, e) in all.families() {
        let packet = zero_sum(&e);
        all.case(format!("{v}: a UDP checksum that turns out zero"))
            .ingress(packet)
            .goes(e.client, e.web);
    }
}

/// A wrong checksum stays wrong, by as much as it was: whoever receives it must notice.
fn wrong(all: &mut Cases) {
    for (name, p) in PROTOCOLS {
        for by in [1, 0x4321] {
            for (v, e) in all.families() {
                all.case(format!("{name} {v}: a checksum wrong by {by}, in"))
                    .ingress(first(p, e.client, e.host).wrong(by))
                    .goes(e.client, e.web);
            }
            for (v, e) in all.families() {
                all.case(format!("{name} {v}: a checksum wrong by {by}, out"))
                    .after(Ingress, first(p, e.client, e.host))
                    .egress(more(p, e.web, e.client).wrong(by))
                    .goes(e.host, e.client);
            }
        }
        let e = all.ends4();
        all.case(format!("{name}: a wrong header checksum, in"))
            .ingress(first(p, e.client, e.host).wrong_header(0x0101))
            .goes(e.client, e.web);
        let e = all.ends4();
        all.case(format!("{name}: a wrong header checksum, out"))
            .after(Ingress, first(p, e.client, e.host))
            .egress(more(p, e.web, e.client).wrong_header(0x0101))
            .goes(e.host, e.client);
    }
}

fn absent(all: &mut Cases) {
    let e = all.ends4();
    all.case("a UDP request without a checksum")
        .ingress(first(UDP, e.client, e.host).no_checksum())
        .goes(e.client, e.web);
    let e = all.ends4();
    all.case("a UDP reply without a checksum")
        .after(Ingress, first(UDP, e.client, e.host))
        .egress(more(UDP, e.web, e.client).no_checksum())
        .goes(e.host, e.client);
    // Of a container whose link computes it, or of two that have agreed to do without.
    for (v, e) in all.families() {
        all.case(format!("{v}: an SCTP request without a checksum"))
            .ingress(first(SCTP, e.client, e.host).no_checksum())
            .goes(e.client, e.web);
    }
    for (v, e) in all.families() {
        all.case(format!("{v}: an SCTP reply without a checksum"))
            .after(Ingress, first(SCTP, e.client, e.host))
            .egress(more(SCTP, e.web, e.client).no_checksum())
            .goes(e.host, e.client);
    }
}

/// What a device appends to a short frame is no part of the packet, nor of its checksum.
fn padded(all: &mut Cases) {
    for (name, p) in PROTOCOLS {
        for padding in [1, 18] {
            for (v, e) in all.families() {
                all.case(format!("{name} {v}: {padding} bytes behind the packet"))
                    .ingress(first(p, e.client, e.host).payload(b"").padding(padding))
                    .goes(e.client, e.web);
            }
        }
    }
}

fn sctp_of(all: &mut Cases, length: usize) {
    let payload: Vec<u8> = (0..length).map(|i| (i * 7 % 251) as u8).collect();
    for (v, e) in all.families() {
        all.case(format!("sctp {v}: {length} bytes in a chunk, in"))
            .ingress(more(SCTP, e.client, e.host).payload(&payload))
            .goes(e.client, e.web);
    }
    for (v, e) in all.families() {
        all.case(format!("sctp {v}: {length} bytes in a chunk, out"))
            .after(Ingress, first(SCTP, e.client, e.host))
            .egress(more(SCTP, e.web, e.client).payload(&payload))
            .goes(e.host, e.client);
    }
}

/// A datagram whose checksum would be zero after the translation, which says "none".
fn zero_sum(e: &Ends) -> Packet {
    let udp = |word: u16| first(UDP, e.client, e.host).payload(&word.to_be_bytes());
    let at = if e.is_v4() { 14 + 20 + 6 } else { 14 + 40 + 6 };
    (0..=u16::MAX)
        .map(udp)
        .find(|packet| packet.between(e.client, e.web).build()[at..at + 2] == [0xff, 0xff])
        .expect("one of all words makes the sum what is wanted")
}
