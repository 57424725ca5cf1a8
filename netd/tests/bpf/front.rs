//! XDP of an uplink, over veth. Needs root.

use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsFd as _;
use std::time::Duration;

use abi::map::{JUMP_TC, TcSlot};
use api::id::IfName;
use aya::util::KernelVersion;
use netd::bpf::{Change, DataPlane, Mode, Side, Verdict};
use sys::ethtool::{self, Offload};
use sys::netns::NetNs;

use crate::bridged::Bridged;
use crate::frame::{ACK, SYN, tcp as frame_tcp};
use crate::guard::{edge, lo};
use crate::instance::{Instance, frontend};
use crate::packet::SYN_ACK;
use crate::topology::{connect, echo_tcp, echo_udp, ip, read_greeting, round_trip, udp};

const TARGETS: [(&str, &str, &str); 2] = [
    ("192.0.2.1:8080", "172.18.0.2:80", "any4"),
    ("[2001:db8::1]:8080", "[fd00:18::2]:80", "any6"),
];

/// A container behind a published port of a host with a front. The client makes its checksums itself,
/// as those who are not of this very host.
fn serve(net: &Bridged, mode: Mode, name: &str) -> Instance {
    let plane = Instance::open_in(mode, name, None);
    plane.want_front(true);
    net.attach(&plane);
    let a0 = IfName::parse("a0").unwrap();
    if takes_frames() {
        set(&net.a, Offload::JoinReceived, true);
        net.host.run(|| plane.take_frames(&a0).unwrap()).unwrap();
    }
    set(&net.client, Offload::SendChecksums, false);
    for (_, backend, any) in TARGETS {
        for protocol in ["tcp", "udp"] {
            let at = frontend(&format!("{any}:8080/{protocol}"));
            plane.publish(at, backend.parse().unwrap()).unwrap();
        }
        echo_tcp(&net.a, backend);
        echo_udp(&net.a, backend);
    }
    plane
}

/// Whether a container's end of its link can take them; elsewhere the daemon does without.
fn takes_frames() -> bool {
    KernelVersion::current().unwrap() >= KernelVersion::new(5, 13, 0)
}

fn set(ns: &NetNs, offload: Offload, on: bool) {
    ns.run(|| ethtool::set("eth0", offload, on).unwrap())
        .unwrap();
}

/// Enters a namespace with an endpoint's link, which is not the one that replayed frames come from.
pub(crate) fn link_of_container() -> IfName {
    let namespace = NetNs::create().expect("root is needed to create a network namespace");
    ip(&namespace, "link add a0 type veth peer name a1");
    namespace.enter().unwrap();
    IfName::parse("a0").unwrap()
}

/// Whether the uplink has a program in its driver.
fn has_front(net: &Bridged) -> bool {
    let link = ip(&net.host, "link show eth0");
    assert!(!link.contains("xdpgeneric"), "{link}");
    link.contains(" xdp ")
}

/// Nothing goes by tc any more: packets that it would have translated are the host's.
fn without_tc(plane: &Instance) {
    let table = sys::bpf::open(&plane.options.pin_dir.join(JUMP_TC)).unwrap();
    sys::bpf::map::clear_program(table.as_fd(), TcSlot::Ingress as u32).unwrap();
}

fn begin(net: &Bridged, to: &str) -> (TcpStream, UdpSocket) {
    let mut stream = connect(&net.client, to).unwrap();
    assert_eq!(read_greeting(&mut stream), stream.local_addr().unwrap());
    let any = if to.starts_with('[') {
        "[::]:0"
    } else {
        "0.0.0.0:0"
    };
    let socket = udp(&net.client, any);
    exchange(&stream, &socket, to);
    (stream, socket)
}

fn exchange(stream: &TcpStream, socket: &UdpSocket, to: &str) {
    round_trip(stream, &vec![7; 200_000]);
    for length in [1, 2, 1_001, 1_400] {
        socket.send_to(&vec![9; length], to).unwrap();
        let (got, from) = socket.recv_from(&mut [0; 2_000]).unwrap();
        assert_eq!((got, from), (length, to.parse::<SocketAddr>().unwrap()));
    }
}

#[test]
fn connections_go_on_by_the_front_alone() {
    let net = Bridged::new();
    let plane = serve(&net, Mode::Fast, "front");
    assert!(has_front(&net));
    let begun = TARGETS.map(|(to, _, _)| (begin(&net, to), to));
    without_tc(&plane);
    for ((stream, socket), to) in &begun {
        if takes_frames() {
            exchange(stream, socket, to);
        } else {
            let patience = Some(Duration::from_millis(300));
            socket.set_read_timeout(patience).unwrap();
            socket.send_to(b"?", to).unwrap();
            assert!(socket.recv_from(&mut [0; 9]).is_err(), "nobody but tc");
        }
    }
    let drops = plane.drops().unwrap();
    assert!(drops.iter().all(|(_, count)| *count == 0), "{drops:?}");
}

#[test]
fn checksums_that_are_left_open_are_tcs() {
    let net = Bridged::new();
    let _plane = serve(&net, Mode::Fast, "front-open");
    set(&net.client, Offload::SendChecksums, true);
    for (to, _, _) in TARGETS {
        begin(&net, to);
    }
}

#[test]
fn every_mode_works_behind_a_front() {
    for mode in [Mode::Compat, Mode::Hybrid] {
        let net = Bridged::new();
        let plane = serve(&net, mode, "front-mode");
        for (to, _, _) in TARGETS {
            begin(&net, to);
        }
        let drops = plane.drops().unwrap();
        assert!(drops.iter().all(|(_, count)| *count == 0), "{drops:?}");
    }
}

#[test]
fn a_front_outlives_the_daemon_and_follows_an_upgrade() {
    let net = Bridged::new();
    let mut plane = serve(&net, Mode::Fast, "front-stays");
    let (to, ..) = TARGETS[0];
    let (stream, socket) = begin(&net, to);
    plane.close();
    assert!(has_front(&net), "without a daemon");
    exchange(&stream, &socket, to);
    // Other sizes are other maps, and other programs.
    for sizes in [&[][..], &[("ct_tcp", 150_000), ("places", 70_000)]] {
        net.host.run(|| plane.upgrade(sizes)).unwrap();
        plane.want_front(true);
        let again = attach(&net, &plane);
        assert_eq!(again, Change::Unchanged);
        if takes_frames() {
            without_tc(&plane);
        }
        exchange(&stream, &socket, to);
    }
    plane.want_front(false);
    assert!(
        net.host
            .run(|| plane.uplinks().unwrap())
            .unwrap()
            .is_empty()
    );
    assert_eq!(attach(&net, &plane), Change::Changed);
    assert!(!has_front(&net), "nobody wants it any more");
    assert_eq!(net.host.run(|| plane.uplinks().unwrap()).unwrap().len(), 1);
    plane.want_front(true);
    assert_eq!(attach(&net, &plane), Change::Created);
    assert!(has_front(&net));
    net.host.run(|| drop(plane)).unwrap();
    assert!(!has_front(&net), "uninstalled");
}

fn attach(net: &Bridged, plane: &DataPlane) -> Change {
    let index = ip(&net.host, "-oneline link show eth0");
    let index = index.split(':').next().unwrap().parse().unwrap();
    let eth0 = IfName::parse("eth0").unwrap();
    let attach = || plane.attach_uplink(index, &eth0).unwrap();
    net.host.run(attach).unwrap()
}

#[test]
fn an_uplink_whose_driver_has_no_xdp_is_tcs() {
    let namespace = NetNs::create().expect("root is needed to create a network namespace");
    namespace.enter().unwrap();
    let plane = Instance::open("front-refused", None);
    plane.want_front(true);
    assert_eq!(plane.attach_uplink(1, &lo()).unwrap(), Change::Created);
    assert_eq!(plane.attach_uplink(1, &lo()).unwrap(), Change::Unchanged);
    assert_eq!(plane.uplinks().unwrap(), [1].into());
    let told = plane.describe_front().unwrap().unwrap();
    assert_eq!(told, "front: lo by tc alone, because its driver has no XDP");
}

#[test]
fn a_link_that_takes_no_frames_is_tcs() {
    let link = link_of_container();
    let plane = Instance::open("front-taker", None);
    plane.set_mode(Mode::Fast).unwrap();
    plane.attach_endpoint(&link, &edge(true)).unwrap();
    let local = ["192.0.2.1".parse().unwrap()].into();
    plane.set_local_addresses(&local).unwrap();
    let (client, host, web) = ("198.18.0.7:40000", "192.0.2.1:8080", "172.18.0.2:80");
    plane
        .publish(frontend("any4:8080/tcp"), web.parse().unwrap())
        .unwrap();
    plane
        .replay(Side::Ingress, &frame_tcp(client, host, SYN))
        .unwrap();
    plane
        .replay(Side::Egress, &frame_tcp(web, client, SYN_ACK))
        .unwrap();
    plane
        .replay(Side::Ingress, &frame_tcp(client, host, ACK))
        .unwrap();
    let packet = frame_tcp(client, host, ACK);
    let before = plane.replay_front(&packet).unwrap();
    assert_eq!((before.verdict, &before.frame), (Verdict::Pass, &packet));
    assert_eq!(plane.take_frames(&link).unwrap(), Change::Created);
    assert_eq!(plane.take_frames(&link).unwrap(), Change::Unchanged);
    assert_eq!(plane.frame_links().unwrap().len(), 1);
    let after = plane.replay_front(&packet).unwrap();
    assert_eq!(after.verdict, Verdict::Redirect);
}
