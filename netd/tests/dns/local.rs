use domain::base::iana::Rtype;
use netd::dns::Config;

use crate::topology::{Topology, eventually, id};

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

fn no_upstream() -> Config {
    Config {
        resolv_conf: "/nonexistent/resolv.conf".into(),
        ..Config::default()
    }
}
