use std::collections::HashSet;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};

use domain::base::iana::Rtype;
use netd::dns::Config;

use crate::topology::{Topology, eventually, id, query, receive, render};

#[test]
fn containers_find_each_other_by_every_name() {
    let topology = Topology::new(1, Config::default());
    for name in ["web", "WWW", "web.shop", "www"] {
        assert_eq!(topology.ask(name, Rtype::A), "NOERROR 127.53.1.2", "{name}");
        assert_eq!(
            topology.ask_tcp(name, Rtype::A),
            "NOERROR 127.53.1.2",
            "{name} over TCP"
        );
        assert_eq!(topology.ask(name, Rtype::AAAA), "NOERROR", "{name}");
    }
    assert_eq!(
        topology.ask("2.1.53.127.in-addr.arpa", Rtype::PTR),
        "NOERROR web.shop."
    );
}

#[test]
fn a_name_resolves_as_soon_as_upsert_returns_and_not_after_remove() {
    let topology = Topology::new(2, no_upstream());
    for _ in 0..50 {
        topology.server.upsert(topology.endpoint('4', &["late"]));
        assert_eq!(topology.ask("late", Rtype::A), "NOERROR 127.53.2.4");
        topology.server.remove(&id('4'));
        assert_eq!(topology.ask("late", Rtype::A), "NXDOMAIN");
    }
}

#[test]
fn owners_of_an_alias_share_the_load() {
    let topology = Topology::new(3, Config::default());
    topology
        .server
        .upsert(topology.endpoint('4', &["second", "www"]));
    eventually("both orders are seen", {
        let mut seen = Vec::new();
        let topology = &topology;
        move || {
            let answer = topology.ask("www", Rtype::A);
            if !seen.contains(&answer) {
                seen.push(answer);
            }
            seen.sort();
            seen == [
                "NOERROR 127.53.3.2 127.53.3.4",
                "NOERROR 127.53.3.4 127.53.3.2",
            ]
        }
    });
}

#[test]
fn names_survive_a_storm_of_updates() {
    let topology = Topology::new(4, Config::default());
    std::thread::scope(|scope| {
        let storm = scope.spawn(|| {
            for n in 0..2000 {
                let name = format!("storm{}", n % 100);
                topology.server.upsert(topology.endpoint('5', &[&name]));
            }
        });
        while !storm.is_finished() {
            assert_eq!(topology.ask("web", Rtype::A), "NOERROR 127.53.4.2");
        }
    });
    assert_eq!(topology.metric("endpoints"), 3);
}

/// Each client keeps this many questions open.
const WINDOW: u16 = 32;

#[test]
fn a_storm_of_a_thousand_endpoints_loses_no_query() {
    let topology = Topology::new(5, Config::default());
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let clients = [2, 3].map(|number| {
            let client = topology.client(number);
            let done = &done;
            scope.spawn(move || ask_until(client, done))
        });
        for _ in 0..2 {
            for n in 0..1000 {
                topology.server.upsert(topology.numbered(n));
            }
            for n in 0..1000 {
                topology.server.remove(&topology.numbered(n).endpoint);
            }
        }
        done.store(true, Ordering::Relaxed);
        for client in clients {
            let asked = client.join().expect("every question is answered");
            assert!(asked > 0);
        }
    });
    assert_eq!(topology.metric("endpoints"), 2);
    assert_eq!(topology.metric("send_failures_total"), 0);
}

/// Asks until told to stop and returns how often. Panics when an answer is wrong or does not come.
fn ask_until(client: UdpSocket, done: &AtomicBool) -> usize {
    let mut asked = 0;
    let mut open = HashSet::new();
    let mut next = 0_u16;
    loop {
        while open.len() < WINDOW.into() && !done.load(Ordering::Relaxed) {
            next = next.wrapping_add(1);
            let mut query = query("web", Rtype::A);
            query[..2].copy_from_slice(&next.to_be_bytes());
            client.send(&query).unwrap();
            assert!(open.insert(next));
            asked += 1;
        }
        if open.is_empty() {
            return asked;
        }
        let reply = receive(&client);
        assert_eq!(render(&reply), "NOERROR 127.53.5.2");
        assert!(open.remove(&u16::from_be_bytes([reply[0], reply[1]])));
    }
}

fn no_upstream() -> Config {
    Config {
        resolv_conf: "/nonexistent/resolv.conf".into(),
        ..Config::default()
    }
}
