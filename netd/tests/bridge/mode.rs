//! How packets of published ports go: the daemon's choice, and what follows when the host changes.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd as _;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use abi::map::{JUMP_TC, TcSlot};
use aya::util::KernelVersion;
use netd::{Front, Mode};
use sys::ethtool::{self, Offload};

use crate::traffic::{connect, round_trip, serve};
use crate::world::{PATIENCE, Sandbox, World, ip, soon};

const LIBERAL: &str = "/proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal";

fn published() -> SocketAddr {
    (Ipv4Addr::new(192, 0, 2, 1), 8080).into()
}

fn shop(name: &str) -> (World, Sandbox) {
    let world = World::new(name);
    world.create(r#"{"Name":"shop"}"#);
    let web = Sandbox::new("web");
    let port = r#"[{"protocol":"tcp","container_port":80,"host_port":8080}]"#;
    web.publish(&world, "shop", port);
    web.run(|| serve((Ipv4Addr::UNSPECIFIED, 80)));
    (world, web)
}

fn nft(arguments: &str) {
    let status = Command::new("nft").args(arguments.split(' ')).status();
    assert!(status.unwrap().success(), "nft {arguments}");
}

/// The daemon's word for it.
fn told(world: &World) -> String {
    let lines = world.netd().data_path();
    let line = lines
        .iter()
        .find(|line| line.starts_with("published ports: "));
    line.expect("the mode is told of").clone()
}

#[test]
fn a_connection_survives_restarts_in_other_modes() {
    let (mut world, _web) = shop("modes");
    assert!(told(&world).contains(" hybrid, "), "{}", told(&world));
    let (mut stream, _) = world.outside(|| connect(published(), PATIENCE)).unwrap();
    let (done, rounds) = <(AtomicBool, AtomicUsize)>::default();
    thread::scope(|scope| {
        let traffic = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                round_trip(&mut stream).unwrap();
                rounds.fetch_add(1, Ordering::Relaxed);
            }
        });
        for (mode, word) in [
            (Some(Mode::Fast), "fast"),
            (Some(Mode::Compat), "compat"),
            (None, "hybrid"),
            (Some(Mode::Compat), "compat"),
            (Some(Mode::Hybrid), "hybrid"),
        ] {
            world.kill();
            world.config.mode = mode;
            world.start();
            assert!(told(&world).contains(word), "{word}: {}", told(&world));
            let before = rounds.load(Ordering::Relaxed);
            soon("the connection goes on", || {
                assert!(
                    !traffic.is_finished(),
                    "the connection broke, in {word} mode"
                );
                rounds.load(Ordering::Relaxed) > before + 100
            });
        }
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_connection_goes_by_the_front_that_is_wanted() {
    let (mut world, web) = shop("front");
    let has_front = || ip("link show eth0").contains(" xdp ");
    assert!(!has_front(), "nobody asked for it");
    // As of a client that is not on this very host.
    world
        .outside(|| ethtool::set("eth0", Offload::SendChecksums, false))
        .unwrap();
    let (mut stream, _) = world.outside(|| connect(published(), PATIENCE)).unwrap();
    let by_xdp = if KernelVersion::current().unwrap() < KernelVersion::new(5, 13, 0) {
        "front: tc, because the links of containers take frames from XDP since Linux 5.13"
    } else {
        "front: eth0 by XDP in its driver"
    };
    for (front, mode, word) in [
        (Front::Xdp, Some(Mode::Fast), by_xdp),
        (
            Front::Xdp,
            Some(Mode::Compat),
            "front: tc, because in mode compat",
        ),
        (Front::Xdp, None, by_xdp),
        (Front::Tc, None, ""),
    ] {
        world.kill();
        world.config.front = front;
        world.config.mode = mode;
        world.start();
        let lines = world.netd().data_path();
        let line = lines.iter().find(|line| line.starts_with("front: "));
        let line = line.map_or("", String::as_str);
        assert!(
            line.starts_with(word) && word.is_empty() == line.is_empty(),
            "{line}"
        );
        assert_eq!(
            has_front(),
            word.contains("its driver"),
            "{front:?} {mode:?}"
        );
        for _ in 0..20 {
            round_trip(&mut stream).unwrap();
        }
        if mode == Some(Mode::Fast) && has_front() {
            // An endpoint of before, and nothing by tc.
            let table = sys::bpf::open(&world.pin(JUMP_TC)).unwrap();
            sys::bpf::map::clear_program(table.as_fd(), TcSlot::Ingress as u32).unwrap();
            round_trip(&mut stream).unwrap();
        }
    }
    web.detach(&world);
}

#[test]
fn a_connection_hears_of_a_packet_filter_that_changes() {
    let (world, _web) = shop("filter");
    world.follow();
    let (mut stream, _) = world.outside(|| connect(published(), PATIENCE)).unwrap();
    for _ in 0..100 {
        round_trip(&mut stream).unwrap();
    }
    nft("add table inet host");
    nft("add chain inet host forward { type filter hook forward priority 0; }");
    nft("add rule inet host forward ip saddr 192.0.2.7 drop");
    stream
        .set_read_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    soon("the connection is cut", || round_trip(&mut stream).is_err());
}

#[test]
fn connection_tracking_stays_liberal() {
    let (world, _web) = shop("liberal");
    let liberal = || std::fs::read_to_string(LIBERAL).unwrap();
    assert_eq!(liberal(), "1\n");
    std::fs::write(LIBERAL, "0").unwrap();
    world.netd().reconcile().unwrap();
    assert_eq!(liberal(), "1\n");
}

#[test]
fn segments_fit_the_uplink_where_it_is_narrower_than_the_network() {
    let world = World::new("segments");
    world.create(r#"{"Name":"shop","EnableIPv6":true}"#);
    let web = Sandbox::new("web");
    let port = r#"[{"protocol":"tcp","container_port":80,"host_port":8080}]"#;
    web.publish(&world, "shop", port);
    web.run(|| serve((Ipv6Addr::UNSPECIFIED, 80)));
    ip("link set eth0 mtu 1400");
    let host6 = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
    // The headers of IP and TCP.
    for (host, headers) in [(published(), 40), ((host6, 8080).into(), 60)] {
        let (_stream, _) = world.outside(|| connect(host, PATIENCE)).unwrap();
        let filter = format!("-Htin dst {host}");
        let told = |text: String| -> u32 {
            let (_, rest) = text.split_once(" mss:").expect("ss tells of segments");
            rest.split_whitespace().next().unwrap().parse().unwrap()
        };
        let segment = told(world.outside(|| output("ss", &filter)));
        assert!(segment <= 1400 - headers, "{host}: {segment}");
        assert!(segment > 1400 - headers - 40, "{host}: {segment}");
    }
}

fn output(program: &str, arguments: &str) -> String {
    let output = Command::new(program).args(arguments.split(' ')).output();
    String::from_utf8(output.unwrap().stdout).unwrap()
}
