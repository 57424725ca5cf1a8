//! Which way a packet goes that does not take the host's stack: back where it came from, or into the
//! far end of a container's link.

use std::net::SocketAddr;

use api::id::IfName;
use netd::bpf::{Mode, Side, Verdict};
use sys::netns::NetNs;

use crate::cases::{PROTOCOLS, more};
use crate::guard::{MAC, edge, on_loopback};
use crate::instance::{Instance, frontend};
use crate::packet::{DATA, INIT, Packet, SCTP};
use crate::topology::ip;

const CLIENTS: [&str; 2] = ["198.18.0.7:40000", "[2001:db8:7::7]:40000"];
const HOSTS: [&str; 2] = ["192.0.2.1:8080", "[2001:db8::1]:8080"];
const WEBS: [&str; 2] = ["172.18.0.2:80", "[fd00:18::2]:80"];

/// A host whose loopback is the link of the container behind port 8080.
fn at_the_container(name: &str) -> Instance {
    let plane = on_loopback(name, edge(true));
    publish(&plane);
    plane
}

/// A host whose loopback is the link to the outside.
fn at_the_uplink(name: &str) -> Instance {
    let namespace = NetNs::create().expect("root is needed to create a network namespace");
    ip(&namespace, "link add c0 type veth peer name c1");
    namespace.enter().unwrap();
    let plane = Instance::open(name, None);
    let link = IfName::parse("c0").unwrap();
    plane.attach_endpoint(&link, &edge(true)).unwrap();
    publish(&plane);
    plane
}

fn publish(plane: &Instance) {
    let local = ["192.0.2.1", "2001:db8::1"].map(|ip| ip.parse().unwrap());
    plane.set_local_addresses(&local.into()).unwrap();
    for (name, _) in PROTOCOLS {
        for (any, web) in ["any4", "any6"].into_iter().zip(WEBS) {
            let at = frontend(&format!("{any}:8080/{name}"));
            plane.publish(at, web.parse().unwrap()).unwrap();
        }
    }
}

fn between(protocol: u8, from: &str, to: &str) -> Packet {
    more(protocol, from.parse().unwrap(), to.parse().unwrap())
}

/// The frame as the link has it on its way to the container.
fn to_the_container(mut frame: Vec<u8>) -> Vec<u8> {
    frame[..6].copy_from_slice(&MAC);
    frame
}

/// The frame that turns around: its link addresses are swapped.
fn turned(mut frame: Vec<u8>) -> Vec<u8> {
    let (to, from) = frame.split_at_mut(6);
    to.swap_with_slice(&mut from[..6]);
    frame
}

#[test]
fn what_is_for_a_container_enters_its_link_past_the_stack_in_fast_mode_only() {
    let plane = at_the_uplink("ways-peer");
    for mode in [Mode::Fast, Mode::Compat] {
        plane.set_mode(mode).unwrap();
        for (name, protocol) in PROTOCOLS {
            for ((client, host), web) in CLIENTS.into_iter().zip(HOSTS).zip(WEBS) {
                // SCTP's checksum is another program's work, which ends the run.
                let past = mode == Mode::Fast && protocol != SCTP;
                for ttl in [64, 2, 1] {
                    let packet = between(protocol, client, host).ttl(ttl);
                    let led = between(protocol, client, web);
                    let (verdict, led) = if past && ttl > 1 {
                        let frame = led.ttl(ttl - 1).build();
                        (Verdict::Redirect, to_the_container(frame))
                    } else {
                        (Verdict::Pass, led.ttl(ttl).build())
                    };
                    let got = plane.replay(Side::Ingress, &packet.build()).unwrap();
                    let what = format!("{mode:?} {name} {host}, {ttl} hops");
                    assert_eq!((got.verdict, got.frame), (verdict, led), "{what}");
                }
                // The stack cuts up what is too large, or says that it is.
                let large = between(protocol, client, host).payload(&[7; 1500]);
                let got = plane.replay(Side::Ingress, &large.build()).unwrap();
                assert_eq!(got.verdict, Verdict::Pass, "{mode:?} {name} {host}");
            }
        }
    }
}

#[test]
fn what_a_container_asks_of_itself_turns_around_at_its_link() {
    let plane = at_the_container("ways-back");
    for (name, protocol) in PROTOCOLS {
        for (host, web) in HOSTS.into_iter().zip(WEBS) {
            let asker = web.replace(":80", ":40000");
            let seen = host.replace(":8080", ":40000");
            for payload in [0, 1, 15, 1000] {
                let payload = vec![7; payload];
                let request = between(protocol, &asker, host).payload(&payload);
                let got = plane.replay_endpoint(&request.build()).unwrap();
                let led = turned(between(protocol, &seen, web).payload(&payload).build());
                let what = format!("{name} {host}, {} bytes", payload.len());
                assert_eq!((got.verdict, got.frame), (Verdict::Redirect, led), "{what}");

                let answer = between(protocol, web, &seen).payload(&payload);
                let got = plane.replay_endpoint(&answer.build()).unwrap();
                let led = turned(between(protocol, host, &asker).payload(&payload).build());
                let what = format!("{what}, the answer");
                assert_eq!((got.verdict, got.frame), (Verdict::Redirect, led), "{what}");
            }
        }
    }
    let drops = plane.drops().unwrap();
    assert!(drops.iter().all(|(_, count)| *count == 0), "{drops:?}");
}

/// An association from its first chunk on, as nothing but the link's programs lead it.
#[test]
fn an_association_with_oneself_begins_and_goes_on() {
    let plane = at_the_container("ways-sctp");
    for (host, web) in HOSTS.into_iter().zip(WEBS) {
        let [host, web]: [SocketAddr; 2] = [host, web].map(|at| at.parse().unwrap());
        let asker = SocketAddr::new(web.ip(), 40_000);
        let seen = SocketAddr::new(host.ip(), 40_000);
        for (chunk, from, to, out_from, out_to) in [
            (INIT, asker, host, seen, web),
            (2, web, seen, host, asker),
            (10, asker, host, seen, web),
            (11, web, seen, host, asker),
            (DATA, asker, host, seen, web),
            (3, web, seen, host, asker),
        ] {
            let got = plane.replay_endpoint(&Packet::new(SCTP, from, to, chunk).build());
            let got = got.unwrap();
            let led = turned(Packet::new(SCTP, out_from, out_to, chunk).build());
            let what = format!("chunk {chunk} to {to}");
            assert_eq!((got.verdict, got.frame), (Verdict::Redirect, led), "{what}");
        }
    }
}
