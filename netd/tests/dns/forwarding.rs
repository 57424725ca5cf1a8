use std::net::SocketAddr;
use std::time::{Duration, Instant};

use domain::base::iana::{Rcode, Rtype};
use netd::dns::{Config, DnsServer, Limits, Rate};
use tokio::runtime::Runtime;

use crate::topology::{
    Topology, eventually, query, rcode_reply, receive, receive_framed, render, runtime, send_framed,
};
use crate::upstream::{Over, Upstream, address, addresses};

/// A topology whose server forwards to `upstreams`, and the runtime that keeps them alive.
fn topology(test: u8, upstreams: &[&Upstream], limits: Limits) -> Topology {
    let upstreams = upstreams.iter().map(|upstream| upstream.address).collect();
    Topology::new(
        test,
        Config {
            upstreams,
            limits,
            ..Config::default()
        },
    )
}

/// Slow limits off: a test that waits for a deadline sets it short.
fn quick() -> Limits {
    Limits {
        hedge_after: Duration::from_millis(100),
        deadline: Duration::from_millis(600),
        stale_after: Duration::from_millis(300),
        ..Limits::default()
    }
}

fn silent(_query: &[u8], _over: Over) -> Vec<Vec<u8>> {
    Vec::new()
}

#[test]
fn unknown_names_go_to_the_upstream_and_local_ones_do_not() {
    let runtime = runtime();
    let upstream = Upstream::start(&runtime, |query, _| vec![address(query, 1, 0)]);
    let topology = topology(60, &[&upstream], Limits::default());
    assert_eq!(topology.ask("example.com", Rtype::A), "NOERROR 192.0.2.1");
    assert_eq!(topology.ask("single", Rtype::A), "NOERROR 192.0.2.1");
    assert_eq!(
        topology.ask_tcp("example.com", Rtype::A),
        "NOERROR 192.0.2.1"
    );
    assert_eq!(upstream.queries(), 3);
    topology.ask("web", Rtype::A);
    topology.ask("web", Rtype::MX);
    topology.ask_from(9, "example.com", Rtype::A);
    assert_eq!(
        upstream.queries(),
        3,
        "nothing of ours, and nothing for strangers, leaves"
    );
}

#[test]
fn the_relay_changes_nothing_but_the_id() {
    let runtime = runtime();
    let upstream = Upstream::start(&runtime, |query, _| {
        let mut reply = query.to_vec();
        reply[2] |= 0x80;
        vec![reply]
    });
    let topology = topology(61, &[&upstream], Limits::default());
    // An unknown type, and an EDNS option that nobody knows.
    let mut sent = query("ExAmPle.com", Rtype::from_int(65281));
    sent[11] = 1;
    sent.extend_from_slice(b"\0\0\x29\x10\0\0\0\x80\0\0\x08\xfd\xe9\0\x04\x01\x02\x03\x04");
    let client = topology.client(3);
    client.send(&sent).unwrap();
    let reply = receive(&client);
    sent[2] |= 0x80;
    assert_eq!(reply, sent);
}

#[test]
fn ids_and_ports_cannot_be_guessed() {
    let runtime = runtime();
    let upstream = Upstream::start(&runtime, |query, _| vec![address(query, 1, 0)]);
    let topology = topology(62, &[&upstream], Limits::default());
    for n in 0..250 {
        topology.ask(&format!("n{n}.example"), Rtype::A);
    }
    let sources = upstream.sources();
    let distinct = |mut values: Vec<u16>| {
        values.sort_unstable();
        values.dedup();
        values.len()
    };
    let ids = distinct(
        sources
            .iter()
            .map(|(_, id)| u16::from_be_bytes(*id))
            .collect(),
    );
    assert!(ids > 200, "{ids} ids");
    let ports = distinct(sources.iter().map(|(port, _)| *port).collect());
    assert!(
        ports >= 3,
        "a socket is replaced after 100 queries at the latest: {ports} ports"
    );
}

#[test]
fn forged_replies_are_ignored() {
    let runtime = runtime();
    let upstream = Upstream::start(&runtime, |sent, _| {
        let mut wrong_id = address(sent, 66, 60);
        wrong_id[0] ^= 1;
        let mut wrong_question = address(&query("other.example", Rtype::A), 66, 60);
        wrong_question[..2].copy_from_slice(&sent[..2]);
        let mut no_reply = address(sent, 66, 60);
        no_reply[2] &= 0x7f;
        vec![
            wrong_id,
            wrong_question,
            no_reply,
            b"\0".to_vec(),
            address(sent, 1, 60),
        ]
    });
    let topology = topology(63, &[&upstream], Limits::default());
    assert_eq!(topology.ask("example.com", Rtype::A), "NOERROR 192.0.2.1");
    assert_eq!(topology.metric("upstream_mismatches_total"), 4);
}

#[test]
fn a_silent_server_is_hedged_and_then_asked_last() {
    let runtime = runtime();
    let dead = Upstream::start(&runtime, silent);
    let alive = Upstream::start(&runtime, |query, _| vec![address(query, 2, 0)]);
    let limits = Limits {
        hedge_after: Duration::from_millis(100),
        ..Limits::default()
    };
    let topology = topology(64, &[&dead, &alive], limits);
    let start = Instant::now();
    assert_eq!(topology.ask("example.com", Rtype::A), "NOERROR 192.0.2.2");
    assert!(start.elapsed() >= Duration::from_millis(100));
    assert_eq!((dead.queries(), alive.queries()), (1, 1));
    for _ in 0..5 {
        topology.ask("example.com", Rtype::A);
    }
    assert_eq!(
        dead.queries(),
        1,
        "the server that was silent waits for its turn"
    );
}

#[test]
fn a_server_that_refuses_is_followed_by_the_next() {
    let runtime = runtime();
    let unwilling = Upstream::start(&runtime, |query, _| {
        vec![rcode_reply(query, Rcode::REFUSED)]
    });
    let willing = Upstream::start(&runtime, |query, _| vec![address(query, 2, 0)]);
    let both = topology(65, &[&unwilling, &willing], Limits::default());
    assert_eq!(both.ask("example.com", Rtype::A), "NOERROR 192.0.2.2");
    let one = topology(66, &[&unwilling], Limits::default());
    assert_eq!(
        one.ask("example.com", Rtype::A),
        "REFUSED",
        "the best there is"
    );
}

#[test]
fn a_closed_port_fails_at_once() {
    let closed: SocketAddr = "127.53.67.9:1".parse().unwrap();
    let topology = Topology::new(
        67,
        Config {
            upstreams: vec![closed],
            ..Config::default()
        },
    );
    let start = Instant::now();
    assert_eq!(topology.ask("example.com", Rtype::A), "SERVFAIL");
    assert!(
        start.elapsed() < Duration::from_secs(2),
        "{:?}",
        start.elapsed()
    );
}

#[test]
fn silence_ends_in_servfail_before_the_client_gives_up() {
    let runtime = runtime();
    let dead = Upstream::start(&runtime, silent);
    let topology = topology(68, &[&dead], quick());
    assert_eq!(topology.ask("example.com", Rtype::A), "SERVFAIL");
    assert_eq!(dead.queries(), 2, "a datagram may have been lost");
    assert_eq!(topology.metric("upstream_failures_total"), 1);
    assert!(Limits::default().deadline < Duration::from_secs(5));
}

#[test]
fn replies_are_cached_by_their_ttl() {
    let runtime = runtime();
    let upstream = Upstream::start(&runtime, |query, _| vec![address(query, 1, 60)]);
    let topology = topology(69, &[&upstream], Limits::default());
    for name in ["example.com", "EXAMPLE.com", "example.com"] {
        assert_eq!(topology.ask(name, Rtype::A), "NOERROR 192.0.2.1");
    }
    assert_eq!(
        (upstream.queries(), topology.metric("cache_hits_total")),
        (1, 2)
    );
    topology.ask("example.com", Rtype::AAAA);
    assert_eq!(upstream.queries(), 2);
}

#[test]
fn expired_replies_serve_while_the_upstream_is_away() {
    let runtime = runtime();
    let upstream = Upstream::start(&runtime, |query, _| vec![address(query, 1, 1)]);
    let topology = topology(70, &[&upstream], quick());
    assert_eq!(topology.ask("example.com", Rtype::A), "NOERROR 192.0.2.1");
    upstream.set(silent);
    eventually("the reply has expired", || {
        let answer = topology.ask("example.com", Rtype::A);
        assert_eq!(answer, "NOERROR 192.0.2.1");
        topology.metric("stale_answers_total") == 1
    });
    upstream.set(|query, _| vec![address(query, 7, 60)]);
    assert_eq!(topology.ask("example.com", Rtype::A), "NOERROR 192.0.2.7");
}

#[test]
fn truncation_is_relayed_over_udp_and_resolved_over_tcp() {
    let runtime = runtime();
    let upstream = Upstream::start(&runtime, |query, over| match over {
        Over::Udp => {
            let mut reply = rcode_reply(query, Rcode::NOERROR);
            reply[2] |= 2;
            vec![reply]
        }
        Over::Tcp => vec![addresses(query, &(1..=100).collect::<Vec<_>>(), 60)],
    });
    let topology = topology(71, &[&upstream], Limits::default());
    assert_eq!(topology.ask("example.com", Rtype::A), "NOERROR TC");
    let whole = topology.ask_tcp("example.com", Rtype::A);
    assert_eq!(whole.split(' ').count(), 101, "{whole}");
    assert_eq!(
        topology.ask("example.com", Rtype::A),
        "NOERROR TC",
        "not from TCP's cache"
    );
}

#[test]
fn one_client_cannot_use_up_the_forwarder() {
    let runtime = runtime();
    let upstream = Upstream::start(&runtime, |query, _| {
        // Everything of the greedy client hangs.
        let greedy = query.windows(6).any(|window| window == b"greedy");
        if greedy {
            Vec::new()
        } else {
            vec![address(query, 1, 0)]
        }
    });
    let limits = Limits {
        in_flight_per_client: 3,
        ..Limits::default()
    };
    let topology = topology(72, &[&upstream], limits);
    let greedy = topology.client(3);
    for n in 0..4 {
        greedy
            .send(&query(&format!("{n}.greedy.example"), Rtype::A))
            .unwrap();
    }
    let start = Instant::now();
    assert_eq!(render(&receive(&greedy)), "SERVFAIL", "the fourth, at once");
    assert!(
        start.elapsed() < Duration::from_secs(2),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(topology.metric("shed_total"), 1);
    assert_eq!(
        topology.ask_from(2, "example.com", Rtype::A),
        "NOERROR 192.0.2.1"
    );
    assert_eq!(topology.ask_from(3, "web", Rtype::A), "NOERROR 127.53.72.2");
}

#[test]
fn internal_networks_ask_nobody() {
    let runtime = runtime();
    let upstream = Upstream::start(&runtime, |query, _| vec![address(query, 1, 60)]);
    let topology = topology(74, &[&upstream], Limits::default());
    let mut endpoint = topology.endpoint('4', &["vault"]);
    endpoint.internal = true;
    topology.server.upsert(endpoint);
    assert_eq!(topology.ask_from(4, "example.com", Rtype::A), "NXDOMAIN");
    assert_eq!(topology.ask_from(4, "web", Rtype::A), "NOERROR 127.53.74.2");
    assert_eq!(upstream.queries(), 0);
}

/// A server on the port that a resolver's configuration cannot change.
fn serve_on_53(runtime: &Runtime, at: &str, last: u8) {
    let server = runtime.block_on(tokio::net::UdpSocket::bind((at, 53)));
    let server = server.unwrap();
    runtime.spawn(async move {
        let mut query = [0; 512];
        while let Ok((len, from)) = server.recv_from(&mut query).await {
            let reply = address(&query[..len], last, 0);
            server.send_to(&reply, from).await.unwrap();
        }
    });
}

#[test]
fn resolv_conf_is_followed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("resolv.conf");
    let config = Config {
        resolv_conf: path.clone(),
        ..Config::default()
    };
    let topology = Topology::new(75, config);
    assert_eq!(
        topology.ask("example.com", Rtype::A),
        "SERVFAIL",
        "no servers"
    );
    assert_eq!(topology.ask("single", Rtype::A), "NXDOMAIN", "no servers");
    let runtime = runtime();
    for (address_of_server, last) in [("127.53.75.53", 1), ("127.53.75.54", 2)] {
        serve_on_53(&runtime, address_of_server, last);
        let staged = directory.path().join("staged");
        std::fs::write(&staged, format!("nameserver {address_of_server}\n")).unwrap();
        std::fs::rename(&staged, &path).unwrap();
        eventually("the new server is asked", || {
            topology.ask("example.com", Rtype::A) == format!("NOERROR 192.0.2.{last}")
        });
    }
}

#[test]
fn a_link_to_resolv_conf_is_followed_where_it_leads() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("resolv.conf");
    let runtime = runtime();
    let servers = [("127.53.78.53", 1), ("127.53.78.54", 2)];
    for (address_of_server, last) in servers {
        serve_on_53(&runtime, address_of_server, last);
        let file = directory.path().join(last.to_string());
        std::fs::write(file, format!("nameserver {address_of_server}\n")).unwrap();
    }
    let link = |to: u8| {
        let staged = directory.path().join("staged");
        std::os::unix::fs::symlink(directory.path().join(to.to_string()), &staged).unwrap();
        std::fs::rename(&staged, &path).unwrap();
    };
    link(1);
    let config = Config {
        resolv_conf: path.clone(),
        ..Config::default()
    };
    let topology = Topology::new(78, config);
    assert_eq!(topology.ask("example.com", Rtype::A), "NOERROR 192.0.2.1");
    link(2);
    eventually("the link's new target counts", || {
        topology.ask("example.com", Rtype::A) == "NOERROR 192.0.2.2"
    });
    // The file behind the link changes in place.
    std::fs::write(directory.path().join("2"), "nameserver 127.53.78.53\n").unwrap();
    eventually("the target's new content counts", || {
        topology.ask("example.com", Rtype::A) == "NOERROR 192.0.2.1"
    });
}

#[test]
fn a_client_that_asks_too_fast_fails_at_once_and_others_do_not() {
    let runtime = runtime();
    let upstream = Upstream::start(&runtime, |query, _| vec![address(query, 1, 0)]);
    let limits = Limits {
        rate_per_client: Rate {
            per_second: 0.001,
            burst: 3.0,
        },
        ..Limits::default()
    };
    let topology = topology(79, &[&upstream], limits);
    let answers = |client| [0; 4].map(|_| topology.ask_from(client, "example.com", Rtype::A));
    let [good, bad] = ["NOERROR 192.0.2.1", "SERVFAIL"].map(str::to_owned);
    let expected = [good.clone(), good.clone(), good, bad];
    assert_eq!(answers(3), expected);
    assert_eq!(answers(2), expected, "another client");
    assert_eq!(topology.metric("shed_total"), 2);
    assert_eq!(topology.ask("web", Rtype::A), "NOERROR 127.53.79.2");
}

#[test]
fn the_server_never_asks_itself() {
    let runtime = runtime();
    let socket = std::net::UdpSocket::bind("127.53.76.1:0").unwrap();
    let own = socket.local_addr().unwrap();
    drop(socket);
    let config = Config {
        upstreams: vec![own],
        ..Config::default()
    };
    let server = DnsServer::new(config, runtime.handle().clone()).unwrap();
    let network = crate::topology::id('a');
    assert_eq!(server.listen(&network, own.ip(), own.port()).unwrap(), own);
    let topology = Topology::attach(76, runtime, server, own);
    assert_eq!(topology.ask("example.com", Rtype::A), "SERVFAIL");
    assert_eq!(topology.metric("queries_udp_total"), 1);
}

#[test]
fn a_slow_query_does_not_hold_up_a_connection_of_another() {
    let runtime = runtime();
    let dead = Upstream::start(&runtime, silent);
    let topology = topology(77, &[&dead], Limits::default());
    let mut waiting = topology.connection_from(3);
    send_framed(&mut waiting, &query("example.com", Rtype::A));
    let start = Instant::now();
    let mut other = topology.connection_from(3);
    send_framed(&mut other, &query("web", Rtype::A));
    assert_eq!(
        render(&receive_framed(&mut other).unwrap()),
        "NOERROR 127.53.77.2"
    );
    assert!(
        start.elapsed() < Duration::from_secs(2),
        "{:?}",
        start.elapsed()
    );
}
