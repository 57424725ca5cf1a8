//! What lies between the frame's header and the ports.

use netd::bpf::Side::Ingress;

use super::{Cases, PROTOCOLS, first, more};
use crate::packet::{Packet, TCP};

/// Hop-by-hop, routing, destination and mobility headers.
const EXTENSIONS: [(&str, u8); 4] = [
    ("hop-by-hop", 0),
    ("routing", 43),
    ("destination", 60),
    ("mobility", 135),
];

type Shape = fn(Packet) -> Packet;

pub(super) fn add(all: &mut Cases) {
    for (name, protocol) in PROTOCOLS {
        options(all, name, protocol);
        extensions(all, name, protocol);
        lifetimes(all, name, protocol);
        strange(all, name, protocol);
    }
    other_protocols(all);
}

fn options(all: &mut Cases, name: &str, p: u8) {
    let timestamp = [68, 12, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    for (what, bytes) in [
        ("a router alert", &[148, 4, 0, 0][..]),
        ("a timestamp", &timestamp),
        ("a source route", &[131, 7, 4, 10, 0, 0, 1, 0]),
        ("40 bytes of options", &[1; 40]),
    ] {
        let e = all.ends4();
        all.case(format!("{name}: {what}, in"))
            .ingress(first(p, e.client, e.host).options(bytes))
            .goes(e.client, e.web);
        let e = all.ends4();
        all.case(format!("{name}: {what}, out"))
            .after(Ingress, first(p, e.client, e.host))
            .egress(more(p, e.web, e.client).options(bytes))
            .goes(e.host, e.client);
    }
}

fn extensions(all: &mut Cases, name: &str, p: u8) {
    for (what, number) in EXTENSIONS {
        for units in [1, 3] {
            both_ways(all, &format!("{name}: {what} of {units}"), p, |packet| {
                packet.extension(number, units)
            });
        }
    }
    let combined: [(&str, Shape); 4] = [
        ("an authentication header", Packet::authenticated),
        ("an atomic fragment", Packet::atomic),
        ("four kinds of headers", |packet| {
            let packet = packet.extension(0, 1).extension(60, 2).extension(43, 3);
            packet.authenticated()
        }),
        ("six headers", |packet| {
            (0..6).fold(packet, |packet, _| packet.extension(60, 1))
        }),
    ];
    for (what, shape) in combined {
        both_ways(all, &format!("{name}: {what}"), p, shape);
    }
    for count in [7, 20] {
        let e = all.ends6();
        let packet = first(p, e.client, e.host);
        let packet = (0..count).fold(packet, |packet, _| packet.extension(60, 1));
        all.case(format!("{name}: {count} headers"))
            .ingress(packet)
            .untouched();
    }
}

fn both_ways(all: &mut Cases, name: &str, p: u8, shape: impl Fn(Packet) -> Packet) {
    let e = all.ends6();
    all.case(format!("{name}, in"))
        .ingress(shape(first(p, e.client, e.host)))
        .goes(e.client, e.web);
    let e = all.ends6();
    all.case(format!("{name}, out"))
        .after(Ingress, first(p, e.client, e.host))
        .egress(shape(more(p, e.web, e.client)))
        .goes(e.host, e.client);
}

/// Forwarding counts the time to live down, not the translation.
fn lifetimes(all: &mut Cases, name: &str, p: u8) {
    for ttl in [0, 1, 255] {
        for (v, e) in all.families() {
            all.case(format!("{name} {v}: a time to live of {ttl}"))
                .ingress(first(p, e.client, e.host).ttl(ttl))
                .goes(e.client, e.web);
        }
    }
}

fn strange(all: &mut Cases, name: &str, p: u8) {
    for (what, kind) in [("802.1Q", 0x8100), ("802.1ad", 0x88a8)] {
        for (v, e) in all.families() {
            // The kernel keeps the outermost tag beside the packet: this one is an inner one.
            all.case(format!("{name} {v}: an inner tag of {what}"))
                .ingress(first(p, e.client, e.host).tag(kind))
                .untouched();
        }
    }
    for (what, high, low) in [
        ("ARP", 8, 6),
        ("MPLS", 0x88, 0x47),
        ("PPPoE", 0x88, 0x64),
        ("a length", 0, 46),
    ] {
        for (v, e) in all.families() {
            let packet = first(p, e.client, e.host).edit(12, high).edit(13, low);
            all.case(format!("{name} {v}: as {what}"))
                .ingress(packet)
                .untouched();
        }
    }
    for (what, byte) in [("length 16", 0x44), ("length 0", 0x40), ("version 5", 0x55)] {
        let e = all.ends4();
        all.case(format!("{name}: an IPv4 header of {what}"))
            .ingress(first(p, e.client, e.host).edit(14, byte))
            .untouched();
    }
    let e = all.ends6();
    all.case(format!("{name}: an IPv6 header of version 4"))
        .ingress(first(p, e.client, e.host).edit(14, 0x45))
        .untouched();
}

fn other_protocols(all: &mut Cases) {
    for (what, number) in [
        ("IP in IP", 4),
        ("DCCP", 33),
        ("GRE", 47),
        ("ESP", 50),
        ("nothing", 59),
        ("UDP-Lite", 136),
        ("an unknown protocol", 254),
    ] {
        for (v, e) in all.families() {
            let at = if e.is_v4() { 14 + 9 } else { 14 + 6 };
            all.case(format!("{v}: {what}"))
                .ingress(first(TCP, e.client, e.host).edit(at, number))
                .untouched();
        }
    }
}
