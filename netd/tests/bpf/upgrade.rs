//! Replacing programs and maps while traffic goes on. Needs root.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::frame::{ACK, SYN, tcp};
use crate::instance::{Instance, frontend};
use crate::live::{cgroup, local, publish};
use crate::load::Ending;
use crate::topology::{
    PATIENCE, Topology, connect, cookie, echo_tcp, echo_udp, read_greeting, round_trip, udp,
};
use netd::bpf::{Balanced, BpfError, DataPlane, Sandbox, Side};

const HOST: &str = "192.0.2.1:8080";
/// Between two things that are done again and again.
const PACE: Duration = Duration::from_millis(2);
/// As long as a guest has for a story.
const LONGEST: Duration = Duration::from_secs(600);

/// Tables of programs, of the daemon, arrays and tries: each in another size.
const LARGER: [(&str, u32); 8] = [
    ("ct_tcp", 150_000),
    ("ct_half", 150_000),
    ("ct_any", 150_000),
    ("peers", 70_000),
    ("frontends", 70_000),
    ("ranges", 70_000),
    ("backends", 65_540),
    ("traffic", 140_000),
];
const SMALLER: [(&str, u32); 4] = [
    ("ct_tcp", 60_000),
    ("ct_half", 60_000),
    ("ct_any", 60_000),
    ("peers", 60_000),
];

#[test]
fn no_packet_is_lost_while_the_tables_are_replaced() {
    let net = Topology::new();
    let mut plane = Instance::open("upgrade", Some(cgroup()));
    local(&plane);
    publish(&plane, "any4", "172.18.0.2:80");
    net.attach(&plane);
    let host = Sandbox {
        host: true,
        ..Sandbox::default()
    };
    plane.set_sandbox(cookie(&plane, &net.host), host).unwrap();
    echo_tcp(&net.container, "172.18.0.2:80");
    echo_udp(&net.container, "172.18.0.2:80");
    let mut download = connect(&net.client, HOST).unwrap();
    read_greeting(&mut download);
    let done = AtomicBool::new(false);
    let (rounds, datagrams, connections) = <(AtomicUsize, AtomicUsize, AtomicUsize)>::default();
    // Traffic ends by itself, too.
    let deadline = Instant::now() + LONGEST;
    let until_done = |count: &AtomicUsize, work: &mut dyn FnMut(usize)| {
        while !done.load(Ordering::Relaxed) && Instant::now() < deadline {
            work(count.fetch_add(1, Ordering::Relaxed));
            // The verifier needs the processor too.
            thread::sleep(PACE);
        }
    };
    let data = vec![7; 256 << 10];
    thread::scope(|scope| {
        scope.spawn(|| until_done(&rounds, &mut |_| round_trip(&download, &data)));
        // One after the other: each must come back.
        for (ns, to) in [(&net.client, HOST), (&net.host, "127.0.0.1:8080")] {
            let (datagrams, connections, until_done) = (&datagrams, &connections, &until_done);
            scope.spawn(move || {
                let socket = udp(ns, "0.0.0.0:0");
                until_done(datagrams, &mut |number| {
                    let sent = number.to_be_bytes();
                    socket.send_to(&sent, to).unwrap();
                    let mut back = [0; 16];
                    let (length, from) = socket.recv_from(&mut back).unwrap();
                    assert_eq!((&back[..length], from), (&sent[..], to.parse().unwrap()));
                });
            });
            scope.spawn(move || {
                until_done(connections, &mut |_| {
                    let mut stream = connect(ns, to).unwrap();
                    read_greeting(&mut stream);
                    round_trip(&stream, b"new");
                });
            });
        }
        let counts = || [&rounds, &datagrams, &connections].map(|c| c.load(Ordering::Relaxed));
        let progress = |before: [usize; 3]| {
            let deadline = Instant::now() + PATIENCE;
            while counts().iter().zip(before).any(|(now, was)| *now < was + 5) {
                assert!(Instant::now() < deadline, "{:?} after {before:?}", counts());
                thread::sleep(PACE);
            }
        };
        // Also when this thread fails: the others are waited for.
        let _ending = Ending(&done);
        progress(counts());
        for sizes in [&LARGER[..], &SMALLER, &[]] {
            net.host.run(|| plane.upgrade(sizes)).unwrap();
            progress(counts());
            assert_eq!(plane.published().unwrap().len(), 2);
            assert_eq!(net.host.run(|| plane.uplinks().unwrap()).unwrap().len(), 1);
        }
    });
    let drops = plane.drops().unwrap();
    assert!(drops.iter().all(|(_, count)| *count == 0), "{drops:?}");
    let names: Vec<_> = fs::read_dir(plane.options.pin_dir.parent().unwrap())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names, ["v1"], "the old maps are gone");
    // Everything goes, what earlier versions left too.
    let options = plane.options.clone();
    net.host.run(|| drop(plane)).unwrap();
    assert!(!options.pin_dir.parent().unwrap().exists());
    assert!(connect(&net.client, HOST).is_err(), "nothing translates");
}

const SHOP: u64 = 7;

fn web(number: usize) -> String {
    format!("172.18.0.{number}:80")
}

fn shop(first: u32) -> Balanced {
    Balanced {
        frontends: [frontend("any4:8080/tcp"), frontend("any4:9000+5/udp")].into(),
        backends: [(2, first), (3, 1)]
            .map(|(number, weight)| (web(number).parse().unwrap(), weight))
            .into(),
        ..Balanced::default()
    }
}

fn host(name: &str) -> Instance {
    let plane = Instance::open(name, None);
    plane
        .set_local_addresses(&["192.0.2.1".parse().unwrap()].into())
        .unwrap();
    plane
}

fn goes_to(plane: &DataPlane, flow: u16, flags: u8) -> usize {
    let client = format!("198.51.100.7:{}", 20_000 + flow);
    let got = plane
        .replay(Side::Ingress, &tcp(&client, HOST, flags))
        .unwrap();
    let to = |number: &usize| got.frame == tcp(&client, &web(*number), flags);
    [2, 3].into_iter().find(to).expect("a backend")
}

/// A flow of a drained backend is known by its entry alone: its hash leads elsewhere.
#[test]
fn every_flow_is_carried_over() {
    let mut plane = host("upgrade-flows");
    plane.balance(SHOP, &shop(1)).unwrap();
    let before: Vec<usize> = (0..3000).map(|flow| goes_to(&plane, flow, SYN)).collect();
    plane.balance(SHOP, &shop(0)).unwrap();
    let balanced = plane.balanced().unwrap();
    for sizes in [&LARGER[..], &SMALLER] {
        plane.upgrade(sizes);
        assert_eq!(plane.balanced().unwrap(), balanced);
        for (flow, backend) in (0..3000).zip(&before) {
            assert_eq!(goes_to(&plane, flow, ACK), *backend, "{flow}");
        }
    }
    assert_eq!(goes_to(&plane, 4000, SYN), 3, "drained");
    let fill = plane.fill().unwrap();
    let table = fill.iter().find(|fill| fill.table == "ct_tcp").unwrap();
    assert_eq!(table.capacity, 60_000);
}

#[test]
fn an_upgrade_that_was_interrupted_is_done_again() {
    let mut plane = host("upgrade-again");
    plane.balance(SHOP, &shop(1)).unwrap();
    let before: Vec<usize> = (0..200).map(|flow| goes_to(&plane, flow, SYN)).collect();
    let (own, other) = {
        let own = plane.options.pin_dir.clone();
        let other = own.with_file_name("v1_before");
        (own, other)
    };
    for with_shared in [false, true] {
        // As a daemon leaves it that dies after its first steps.
        plane.close();
        fs::rename(&own, &other).unwrap();
        if with_shared {
            fs::create_dir(&own).unwrap();
            fs::hard_link(other.join("frontends"), own.join("frontends")).unwrap();
        }
        plane.upgrade(if with_shared { &SMALLER } else { &LARGER });
        assert!(!other.exists());
        for (flow, backend) in (0..200).zip(&before) {
            assert_eq!(goes_to(&plane, flow, ACK), *backend, "{flow}");
        }
    }
    plane.close();
    fs::rename(&own, &other).unwrap();
    DataPlane::uninstall(&plane.options).unwrap();
    assert!(!own.parent().unwrap().exists(), "uninstalled all the same");
}

#[test]
fn the_maps_of_a_newer_daemon_are_left_alone() {
    let mut plane = host("upgrade-newer");
    plane.close();
    let (own, newer) = {
        let own = plane.options.pin_dir.clone();
        (own.clone(), own.with_file_name("v9"))
    };
    fs::rename(&own, &newer).unwrap();
    let error = DataPlane::open(&plane.options).unwrap_err();
    assert!(matches!(error, BpfError::Newer { .. }), "{error}");
    assert!(!own.exists());
    DataPlane::uninstall(&plane.options).unwrap();
    assert!(!newer.exists(), "as the error says");
}
