//! Beginning, middle and end of flows.

use std::net::SocketAddr;

use abi::Be16;
use abi::flow::alternative_port;
use netd::bpf::Side::{Egress, Ingress};

use super::{Cases, Ends, PROTOCOLS, first, more};
use crate::packet::{
    ABORT, FIN_ACK, INIT_ACK, Packet, RST, SCTP, SHUTDOWN_COMPLETE, SYN_ACK, TCP, UDP,
};

pub(super) fn add(all: &mut Cases) {
    for (name, protocol) in PROTOCOLS {
        begun(all, name, protocol);
        ranges(all, name, protocol);
        two_ports(all, name, protocol);
        outbound(all, name, protocol);
    }
    for (name, protocol, answer, ends) in [
        ("tcp", TCP, SYN_ACK, [FIN_ACK, RST]),
        ("sctp", SCTP, INIT_ACK, [SHUTDOWN_COMPLETE, ABORT]),
    ] {
        answered(all, name, protocol, answer);
        for end in ends {
            ended(all, name, protocol, end);
        }
    }
}

fn begun(all: &mut Cases, name: &str, p: u8) {
    for (v, e) in all.families() {
        all.case(format!("{name} {v}: a port that is not published"))
            .ingress(first(p, e.client, e.closed))
            .untouched();
    }
    for (v, e) in all.families() {
        all.case(format!("{name} {v}: a new flow"))
            .ingress(first(p, e.client, e.host))
            .goes(e.client, e.web);
    }
    for (v, e) in all.families() {
        all.case(format!("{name} {v}: a new flow, the port stays"))
            .ingress(first(p, e.client, e.same))
            .goes(e.client, e.same_web);
    }
    for (v, e) in all.families() {
        all.case(format!("{name} {v}: from the middle of a flow"))
            .ingress(more(p, e.client, e.host))
            .goes(e.client, e.web);
    }
    for (v, e) in all.families() {
        all.case(format!("{name} {v}: a packet of a flow"))
            .after(Ingress, first(p, e.client, e.host))
            .after(Egress, more(p, e.web, e.client))
            .ingress(more(p, e.client, e.host))
            .goes(e.client, e.web);
    }
    for (v, e) in all.families() {
        all.case(format!("{name} {v}: a reply"))
            .after(Ingress, first(p, e.client, e.host))
            .egress(more(p, e.web, e.client))
            .goes(e.host, e.client);
    }
    for (v, e) in all.families() {
        all.case(format!("{name} {v}: a reply, the port stays"))
            .after(Ingress, first(p, e.client, e.same))
            .egress(more(p, e.same_web, e.client))
            .goes(e.same, e.client);
    }
    for (v, e) in all.families() {
        all.case(format!(
            "{name} {v}: a reply to a flow that began before us"
        ))
        .after(Ingress, more(p, e.client, e.host))
        .egress(more(p, e.web, e.client))
        .goes(e.host, e.client);
    }
    for (v, e) in all.families() {
        all.case(format!("{name} {v}: a reply that nobody asked for"))
            .egress(more(p, e.web, e.client))
            .untouched();
    }
    for (v, e) in all.families() {
        let other = SocketAddr::new(e.web.ip(), 81);
        all.case(format!("{name} {v}: the backend talks from another port"))
            .after(Ingress, first(p, e.client, e.host))
            .egress(more(p, other, e.client))
            .untouched();
    }
}

fn ranges(all: &mut Cases, name: &str, p: u8) {
    for (port, inside) in [(6000, 3000), (6042, 3042), (6099, 3099)] {
        for (v, e) in all.families() {
            let (host, web) = ranged(&e, port, inside);
            all.case(format!("{name} {v}: port {port} of a range"))
                .ingress(first(p, e.client, host))
                .goes(e.client, web);
        }
        for (v, e) in all.families() {
            let (host, web) = ranged(&e, port, inside);
            all.case(format!("{name} {v}: a reply of port {port} of a range"))
                .after(Ingress, first(p, e.client, host))
                .egress(more(p, web, e.client))
                .goes(host, e.client);
        }
    }
    for port in [5999, 6100] {
        for (v, e) in all.families() {
            let (host, _) = ranged(&e, port, 0);
            all.case(format!("{name} {v}: port {port} beside a range"))
                .ingress(first(p, e.client, host))
                .untouched();
        }
    }
}

fn ranged(e: &Ends, port: u16, inside: u16) -> (SocketAddr, SocketAddr) {
    (
        SocketAddr::new(e.host.ip(), port),
        SocketAddr::new(e.web.ip(), inside),
    )
}

/// Two published ports of one port of a container, used from one client port: the second flow gets
/// another source port, or its replies could not be told from the first one's.
fn two_ports(all: &mut Cases, name: &str, p: u8) {
    let ends = |e: Ends| {
        let second = SocketAddr::new(e.host.ip(), 7000);
        let port = alternative_port(Be16::new(e.client.port()), Be16::new(7000), 0);
        (e, second, SocketAddr::new(e.client.ip(), port.get()))
    };
    for (v, e) in all.families() {
        let (e, second, other) = ends(e);
        all.case(format!(
            "{name} {v}: a second port from the same client port"
        ))
        .after(Ingress, first(p, e.client, e.host))
        .ingress(first(p, e.client, second))
        .goes(other, e.web);
    }
    for (v, e) in all.families() {
        let (e, second, other) = ends(e);
        all.case(format!("{name} {v}: the second port's reply"))
            .after(Ingress, first(p, e.client, e.host))
            .after(Ingress, first(p, e.client, second))
            .egress(more(p, e.web, other))
            .goes(second, e.client);
    }
    for (v, e) in all.families() {
        let (e, second, _) = ends(e);
        all.case(format!(
            "{name} {v}: the first port's reply, after the second's"
        ))
        .after(Ingress, first(p, e.client, e.host))
        .after(Ingress, first(p, e.client, second))
        .egress(more(p, e.web, e.client))
        .goes(e.host, e.client);
    }
    for (v, e) in all.families() {
        let (e, second, _) = ends(e);
        all.case(format!(
            "{name} {v}: the first port's request, after the second's"
        ))
        .after(Ingress, first(p, e.client, e.host))
        .after(Ingress, first(p, e.client, second))
        .ingress(more(p, e.client, e.host))
        .goes(e.client, e.web);
    }
    for (v, e) in all.families() {
        let (e, second, other) = ends(e);
        all.case(format!("{name} {v}: the second port's next request"))
            .after(Ingress, first(p, e.client, e.host))
            .after(Ingress, first(p, e.client, second))
            .ingress(more(p, e.client, second))
            .goes(other, e.web);
    }
}

/// The host, or a masqueraded container, talks from a port that is published as well.
fn outbound(all: &mut Cases, name: &str, p: u8) {
    for (v, e) in all.families() {
        all.case(format!("{name} {v}: the host's own request"))
            .egress(first(p, e.host, e.client))
            .untouched();
    }
    for (v, e) in all.families() {
        all.case(format!("{name} {v}: the answer to the host"))
            .after(Egress, first(p, e.host, e.client))
            .ingress(more(p, e.client, e.host))
            .untouched();
    }
    for (v, e) in all.families() {
        let sent = all
            .case(format!("{name} {v}: a request from where the host asked"))
            .after(Egress, first(p, e.host, e.client))
            .ingress(first(p, e.client, e.host));
        if p == UDP {
            // Nothing tells it from an answer.
            sent.untouched();
        } else {
            sent.goes(e.client, e.web);
        }
    }
}

fn answered(all: &mut Cases, name: &str, p: u8, answer: u8) {
    for (v, e) in all.families() {
        all.case(format!("{name} {v}: the answer to the first packet"))
            .after(Ingress, first(p, e.client, e.host))
            .egress(Packet::new(p, e.web, e.client, answer))
            .goes(e.host, e.client);
    }
}

fn ended(all: &mut Cases, name: &str, p: u8, end: u8) {
    let what = |v: &str, what: &str| format!("{name} {v}, end {end}: {what}");
    for (v, e) in all.families() {
        all.case(what(v, "from the client"))
            .after(Ingress, first(p, e.client, e.host))
            .ingress(Packet::new(p, e.client, e.host, end))
            .goes(e.client, e.web);
    }
    for (v, e) in all.families() {
        all.case(what(v, "from the backend"))
            .after(Ingress, first(p, e.client, e.host))
            .egress(Packet::new(p, e.web, e.client, end))
            .goes(e.host, e.client);
    }
    for (v, e) in all.families() {
        all.case(what(v, "what is still on its way in"))
            .after(Ingress, first(p, e.client, e.host))
            .after(Egress, Packet::new(p, e.web, e.client, end))
            .ingress(more(p, e.client, e.host))
            .goes(e.client, e.web);
    }
    for (v, e) in all.families() {
        all.case(what(v, "what is still on its way out"))
            .after(Ingress, first(p, e.client, e.host))
            .after(Ingress, Packet::new(p, e.client, e.host, end))
            .egress(more(p, e.web, e.client))
            .goes(e.host, e.client);
    }
    for (v, e) in all.families() {
        all.case(what(v, "the same ports again"))
            .after(Ingress, first(p, e.client, e.host))
            .after(Egress, Packet::new(p, e.web, e.client, end))
            .ingress(first(p, e.client, e.host))
            .goes(e.client, e.web);
    }
    for (v, e) in all.families() {
        // The ended flow's source port at the backend is free for another one's.
        let second = SocketAddr::new(e.host.ip(), 7000);
        all.case(what(v, "the other published port keeps the client port"))
            .after(Ingress, first(p, e.client, e.host))
            .after(Egress, Packet::new(p, e.web, e.client, end))
            .ingress(first(p, e.client, second))
            .goes(e.client, e.web);
    }
    if end == RST || end == ABORT {
        // The host refuses somebody else's packet: that begins nothing of its own.
        for (v, e) in all.families() {
            all.case(what(v, "after the host's own"))
                .after(Egress, Packet::new(p, e.host, e.client, end))
                .ingress(more(p, e.client, e.host))
                .goes(e.client, e.web);
        }
    }
}
