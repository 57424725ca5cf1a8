//! Services under load while their backends come and go, and the daemon with them. Needs root.
//!
//! Each backend is a port of the topology's container, and says its number to whoever connects.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use crate::instance::{Instance, frontend};
use crate::live::local;
use crate::topology::{PATIENCE, Topology, connect};
use netd::bpf::Balanced;
use sys::netns::NetNs;

const HOST: &str = "192.0.2.1:8080";
const SHOP: u64 = 7;
const BACKENDS: std::ops::Range<u16> = 81..87;
/// How many connections are opened meanwhile, at least, and how many changes are made: a slow host
/// takes longer.
const CONNECTIONS: usize = 5000;
const CHANGES: usize = 60;
const DEATHS: usize = 3;
/// Who opens connections one after the other.
const CLIENTS: usize = 4;

/// Serves until the test's process ends: its number, then whatever is sent.
fn serve(ns: &NetNs, number: u16) {
    let bind = format!("172.18.0.2:{number}");
    let listener = ns.run(|| TcpListener::bind(bind)).unwrap().unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            thread::spawn(move || -> io::Result<()> {
                stream.write_all(&number.to_be_bytes())?;
                let mut buffer = [0; 64];
                loop {
                    match stream.read(&mut buffer)? {
                        0 => return Ok(()),
                        length => stream.write_all(&buffer[..length])?,
                    }
                }
            });
        }
    });
}

fn shop(weights: &[(u16, u32)]) -> Balanced {
    let backends = weights.iter().map(|(number, weight)| {
        let address = format!("172.18.0.2:{number}");
        (address.parse().unwrap(), *weight)
    });
    Balanced {
        frontends: [frontend("any4:8080/tcp")].into(),
        backends: backends.collect(),
        ..Balanced::default()
    }
}

/// Connects, and learns which backend answers.
fn open(ns: &NetNs) -> io::Result<(TcpStream, u16)> {
    let mut stream = connect(ns, HOST)?;
    let mut number = [0; 2];
    stream.read_exact(&mut number)?;
    Ok((stream, u16::from_be_bytes(number)))
}

fn echoes(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(b"ping")?;
    let mut back = [0; 4];
    stream.read_exact(&mut back)
}

/// A topology whose client has ports for as many connections as it opens.
fn topology() -> Topology {
    let net = Topology::new();
    net.client
        .run(|| {
            for (key, value) in [("tcp_tw_reuse", "1"), ("ip_local_port_range", "1024 65535")] {
                std::fs::write(format!("/proc/sys/net/ipv4/{key}"), value).unwrap();
            }
        })
        .unwrap();
    net
}

pub(crate) struct Ending<'a>(pub(crate) &'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Opens connections from several threads while `change` runs, which sees how many there are so far,
/// and returns how many there were. Each must be answered, whatever changes.
#[track_caller]
fn under_load(net: &Topology, change: impl FnOnce(&AtomicUsize)) -> usize {
    let done = AtomicBool::new(false);
    let opened = AtomicUsize::new(0);
    let failed = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let answered = open(&net.client).and_then(|(mut stream, number)| {
                        echoes(&mut stream).map_err(|error| {
                            io::Error::new(error.kind(), format!("backend {number}: {error}"))
                        })
                    });
                    opened.fetch_add(1, Ordering::Relaxed);
                    if let Err(error) = answered {
                        failed.fetch_add(1, Ordering::Relaxed);
                        eprintln!("{error}");
                    }
                }
            });
        }
        let _ending = Ending(&done);
        change(&opened);
    });
    assert_eq!(failed.load(Ordering::Relaxed), 0, "connections failed");
    opened.load(Ordering::Relaxed)
}

#[test]
fn backends_join_and_drain_under_load_without_a_reset() {
    let net = topology();
    let plane = Instance::open("load", None);
    local(&plane);
    net.attach(&plane);
    for number in BACKENDS {
        serve(&net.container, number);
    }
    let mut serving: BTreeSet<u16> = BACKENDS.take(3).collect();
    let service = |serving: &BTreeSet<u16>, drained: Option<u16>| {
        let all = serving.iter().map(|number| (*number, 1));
        let all: Vec<(u16, u32)> = all.chain(drained.map(|number| (number, 0))).collect();
        plane.balance(SHOP, &shop(&all)).unwrap();
    };
    service(&serving, None);
    // One that is held by each draining backend, and lives through all of it.
    let (mut held, first) = open(&net.client).unwrap();
    let mut changes = 0;
    let opened = under_load(&net, |opened| {
        for number in BACKENDS.cycle() {
            if changes >= CHANGES && opened.load(Ordering::Relaxed) >= CONNECTIONS {
                break;
            }
            if number == first {
                continue;
            }
            if serving.remove(&number) && serving.len() > 1 {
                service(&serving, Some(number));
                // Connections here are short: who drains is without them soon, and goes then.
                let deadline = Instant::now() + PATIENCE;
                let address = format!("172.18.0.2:{number}").parse().unwrap();
                let active = || -> u64 {
                    let all = plane.traffic().unwrap();
                    let backends = all.iter().flat_map(|service| &service.backends);
                    let drained = backends.filter(|backend| backend.address == address);
                    drained.map(|backend| backend.active).sum()
                };
                while active() > 0 {
                    assert!(Instant::now() < deadline, "{} connections", active());
                    thread::yield_now();
                }
                service(&serving, None);
            } else {
                serving.insert(number);
                service(&serving, None);
            }
            changes += 1;
            echoes(&mut held).unwrap();
        }
    });
    println!("{opened} connections, {changes} changes");
    let service = plane.traffic().unwrap().remove(0);
    let counted: u64 = service.backends.iter().map(|b| b.counts.new_flows).sum();
    let counted = counted + service.past.new_flows;
    assert_eq!(counted as usize, opened + 1, "each is counted once");
}

#[test]
fn a_killed_backend_takes_its_own_connections_alone() {
    let net = topology();
    let plane = Instance::open("killed", None);
    local(&plane);
    net.attach(&plane);
    let all: Vec<(u16, u32)> = BACKENDS.map(|number| (number, 1)).collect();
    for (number, _) in &all {
        serve(&net.container, *number);
    }
    plane.balance(SHOP, &shop(&all)).unwrap();
    let mut held: Vec<(TcpStream, u16)> = (0..200).map(|_| open(&net.client).unwrap()).collect();
    let (killed, rest) = all.split_first().unwrap();
    under_load(&net, |_| {
        for (stream, _) in &mut held {
            echoes(stream).unwrap();
        }
    });
    plane.balance(SHOP, &shop(rest)).unwrap();
    let opened = under_load(&net, |_| {
        for (stream, number) in &mut held {
            let alive = echoes(stream).is_ok();
            assert_eq!(alive, *number != killed.0, "of backend {number}");
        }
    });
    assert!(opened > 0);
}

#[test]
fn a_daemon_that_dies_again_and_again_loses_nothing() {
    let net = topology();
    let mut plane = Instance::open("dying", None);
    local(&plane);
    net.attach(&plane);
    let all: Vec<(u16, u32)> = BACKENDS.map(|number| (number, 1)).collect();
    for (number, _) in &all {
        serve(&net.container, *number);
    }
    plane.balance(SHOP, &shop(&all)).unwrap();
    let mut held: Vec<(TcpStream, u16)> = (0..50).map(|_| open(&net.client).unwrap()).collect();
    let mut deaths = 0;
    let opened = under_load(&net, |opened| {
        while deaths < DEATHS || opened.load(Ordering::Relaxed) < CONNECTIONS {
            plane.close();
            for (stream, _) in &mut held {
                echoes(stream).unwrap();
            }
            net.host.run(|| plane.reopen()).unwrap();
            deaths += 1;
        }
    });
    println!("{opened} connections, {deaths} deaths");
}
