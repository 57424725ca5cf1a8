//! ICMP: errors about translated packets, and everything else.

use std::net::SocketAddr;

use netd::bpf::Side::{Egress, Ingress};

use super::{Cases, Ends, PROTOCOLS, first, more};
use crate::packet::{Fragment, ICMP, ICMP6, Packet, TCP};

/// Types that tell a sender about its packet, and their codes: the next one after the last assigned,
/// too, and the last one.
const ERRORS4: [(&str, u8, &[u8]); 3] = [
    (
        "unreachable",
        3,
        &[
            0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 255,
        ],
    ),
    ("time exceeded", 11, &[0, 1, 2, 255]),
    ("parameter problem", 12, &[0, 1, 2, 3, 255]),
];
const ERRORS6: [(&str, u8, &[u8]); 4] = [
    ("unreachable", 1, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 255]),
    ("too big", 2, &[0, 1, 255]),
    ("time exceeded", 3, &[0, 1, 2, 255]),
    (
        "parameter problem",
        4,
        &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 255],
    ),
];
/// Types that quote a packet and are none of the container's business.
const IGNORED4: [(&str, u8, &[u8]); 2] =
    [("source quench", 4, &[0]), ("redirect", 5, &[0, 1, 2, 3])];

pub(super) fn add(all: &mut Cases) {
    for (name, p) in PROTOCOLS {
        for (v, kinds, next) in [
            ("v4", &ERRORS4[..], Cases::ends4 as Next),
            ("v6", &ERRORS6, Cases::ends6),
        ] {
            for (kind, number, codes) in kinds {
                for code in *codes {
                    let what = format!("{name} {v} {kind}, code {code}");
                    errors(all, &what, p, (*number, *code), next);
                }
            }
        }
        for (kind, number, codes) in IGNORED4 {
            for code in codes {
                let what = format!("{name} v4 {kind}, code {code}");
                ignored(all, &what, p, (number, *code));
            }
        }
        for (v, ends) in [("v4", Cases::ends4 as Next), ("v6", Cases::ends6)] {
            lengths(all, &format!("{name} {v}"), p, ends);
            others(all, &format!("{name} {v}"), p, ends);
        }
    }
    messages(all);
}

type Next = fn(&Cases) -> Ends;

/// "Fragmentation needed", "packet too big".
fn too_big(e: &Ends) -> u8 {
    if e.is_v4() { 3 } else { 2 }
}

fn ip_header(e: &Ends) -> usize {
    if e.is_v4() { 20 } else { 40 }
}

/// Eight bytes behind the IP header: as much as RFC 792 asks for.
fn enough(e: &Ends) -> usize {
    ip_header(e) + 8
}

fn errors(all: &mut Cases, what: &str, p: u8, (kind, code): (u8, u8), next: Next) {
    let e = next(all);
    let quoted = more(p, e.host, e.client);
    let about = |to: SocketAddr, quoted: &Packet| {
        Packet::error(e.router, to.ip(), kind, quoted, enough(&e)).code(code)
    };
    all.case(format!("{what}: from a router, about a reply"))
        .after(Ingress, first(p, e.client, e.host))
        .ingress(about(e.host, &quoted))
        .becomes(about(e.web, &quoted.quoted_between(e.web, e.client)));

    let e = next(all);
    let quoted = more(p, e.client, e.web);
    let about = |from: SocketAddr, quoted: &Packet| {
        Packet::error(from.ip(), e.client.ip(), kind, quoted, enough(&e)).code(code)
    };
    all.case(format!("{what}: from the container, about a request"))
        .after(Ingress, first(p, e.client, e.host))
        .egress(about(e.web, &quoted))
        .becomes(about(e.host, &quoted.quoted_between(e.client, e.host)));

    let e = next(all);
    let quoted = more(p, e.client, e.web);
    let about = |quoted: &Packet| {
        Packet::error(e.host.ip(), e.client.ip(), kind, quoted, enough(&e)).code(code)
    };
    all.case(format!("{what}: from the host, about a request"))
        .after(Ingress, first(p, e.client, e.host))
        .egress(about(&quoted))
        .becomes(about(&quoted.quoted_between(e.client, e.host)));
}

fn ignored(all: &mut Cases, what: &str, p: u8, (kind, code): (u8, u8)) {
    let e = all.ends4();
    let quoted = more(p, e.host, e.client);
    all.case(format!("{what}: from a router, about a reply"))
        .after(Ingress, first(p, e.client, e.host))
        .ingress(Packet::error(e.router, e.host.ip(), kind, &quoted, enough(&e)).code(code))
        .untouched();
    let e = all.ends4();
    let quoted = more(p, e.client, e.web);
    all.case(format!("{what}: from the host, about a request"))
        .after(Ingress, first(p, e.client, e.host))
        .egress(Packet::error(e.host.ip(), e.client.ip(), kind, &quoted, enough(&e)).code(code))
        .untouched();
}

/// How much of the packet is quoted.
fn lengths(all: &mut Cases, what: &str, p: u8, next: Next) {
    for more_than_header in [4, 5, 7, 8, 12, 64] {
        let e = next(all);
        let quoted = more(p, e.host, e.client);
        let about = |to: SocketAddr, quoted: &Packet| {
            let length = ip_header(&e) + more_than_header;
            Packet::error(e.router, to.ip(), too_big(&e), quoted, length)
        };
        all.case(format!("{what}: an error with {more_than_header} bytes"))
            .after(Ingress, first(p, e.client, e.host))
            .ingress(about(e.host, &quoted))
            .becomes(about(e.web, &quoted.quoted_between(e.web, e.client)));
    }
    for missing in [1, 2, 4, 5, 20] {
        let e = next(all);
        let quoted = more(p, e.host, e.client);
        let length = ip_header(&e) + 4 - missing;
        all.case(format!("{what}: an error that lacks {missing} bytes"))
            .after(Ingress, first(p, e.client, e.host))
            .ingress(Packet::error(
                e.router,
                e.host.ip(),
                too_big(&e),
                &quoted,
                length,
            ))
            .untouched();
    }
}

fn others(all: &mut Cases, what: &str, p: u8, next: Next) {
    let e = next(all);
    let quoted = more(p, e.host, e.client);
    let error = |to: SocketAddr, quoted: &Packet| {
        Packet::error(e.router, to.ip(), too_big(&e), quoted, enough(&e))
    };
    all.case(format!("{what}: an error with a wrong checksum"))
        .after(Ingress, first(p, e.client, e.host))
        .ingress(error(e.host, &quoted).wrong(0x1111))
        .becomes(error(e.web, &quoted.quoted_between(e.web, e.client)).wrong(0x1111));
    all.case(format!("{what}: an error about a reply of a closed port"))
        .ingress(error(e.host, &more(p, e.closed, e.client)))
        .untouched();
    all.case(format!(
        "{what}: an error that reaches another than the sender"
    ))
    .ingress(error(e.closed, &more(p, e.web, e.client)))
    .untouched();
    let later = quoted.clone().fragment(Fragment::Later);
    all.case(format!("{what}: an error about a later fragment"))
        .ingress(error(e.host, &later))
        .untouched();

    let e = next(all);
    all.case(format!("{what}: an error about nothing of ours"))
        .ingress(Packet::error(
            e.router,
            e.host.ip(),
            too_big(&e),
            &more(p, e.host, e.client),
            enough(&e),
        ))
        .untouched();
    all.case(format!("{what}: an error about nothing of ours, out"))
        .egress(Packet::error(
            e.web.ip(),
            e.client.ip(),
            too_big(&e),
            &more(p, e.client, e.web),
            enough(&e),
        ))
        .untouched();

    let e = next(all);
    all.case(format!("{what}: an error about the host's own packet"))
        .after(Egress, first(p, e.host, e.client))
        .ingress(Packet::error(
            e.router,
            e.host.ip(),
            too_big(&e),
            &more(p, e.host, e.client),
            enough(&e),
        ))
        .untouched();

    let e = next(all);
    let quoted = more(p, e.host, e.client).fragment(Fragment::First);
    let about = |to: SocketAddr, quoted: &Packet| {
        Packet::error(e.router, to.ip(), too_big(&e), quoted, enough(&e) + 8)
    };
    all.case(format!("{what}: an error about a first fragment"))
        .after(Ingress, first(p, e.client, e.host))
        .ingress(about(e.host, &quoted))
        .becomes(about(e.web, &quoted.quoted_between(e.web, e.client)));
}

fn messages(all: &mut Cases) {
    let ping = |from: SocketAddr, to: SocketAddr, kind| {
        let protocol = if from.is_ipv4() { ICMP } else { ICMP6 };
        Packet::new(protocol, from, to, kind)
    };
    for kind in [0, 8, 9, 13, 42, 255] {
        let e = all.ends4();
        all.case(format!("ICMP of type {kind}, in"))
            .ingress(ping(e.client, e.host, kind))
            .untouched();
        all.case(format!("ICMP of type {kind}, out"))
            .egress(ping(e.web, e.client, kind))
            .untouched();
    }
    for kind in [0, 5, 100, 127, 128, 129, 133, 135, 143, 255] {
        let e = all.ends6();
        all.case(format!("ICMPv6 of type {kind}, in"))
            .ingress(ping(e.client, e.host, kind))
            .untouched();
        all.case(format!("ICMPv6 of type {kind}, out"))
            .egress(ping(e.web, e.client, kind))
            .untouched();
    }
    for (v, e) in all.families() {
        // An answer to a ping is quoted by its type, which is no port.
        let quoted = ping(e.host, e.client, 0);
        all.case(format!("{v}: an error about a ping"))
            .ingress(Packet::error(
                e.router,
                e.host.ip(),
                too_big(&e),
                &quoted,
                enough(&e),
            ))
            .untouched();
    }
    for (v, e) in all.families() {
        let quoted = more(TCP, e.host, e.client);
        let error = Packet::error(e.router, e.host.ip(), too_big(&e), &quoted, enough(&e));
        all.case(format!("{v}: an error in fragments"))
            .after(Ingress, first(TCP, e.client, e.host))
            .ingress(error.fragment(Fragment::First))
            .untouched();
    }
    let e = all.ends4();
    let quoted = more(TCP, e.host, e.client).options(&[1; 4]);
    let about = |to: SocketAddr, quoted: &Packet| {
        Packet::error(e.router, to.ip(), 3, quoted, 32).options(&[1; 8])
    };
    all.case("an error with options, about a packet with options")
        .after(Ingress, first(TCP, e.client, e.host))
        .ingress(about(e.host, &quoted))
        .becomes(about(e.web, &quoted.quoted_between(e.web, e.client)));
    let e = all.ends6();
    let quoted = more(TCP, e.host, e.client).extension(60, 1);
    let about = |to: SocketAddr, quoted: &Packet| {
        Packet::error(e.router, to.ip(), 2, quoted, 56).extension(0, 1)
    };
    all.case("an error behind a header, about a packet behind a header")
        .after(Ingress, first(TCP, e.client, e.host))
        .ingress(about(e.host, &quoted))
        .becomes(about(e.web, &quoted.quoted_between(e.web, e.client)));
}
