use std::io::Write as _;
use std::time::Duration;

use domain::base::iana::Rtype;
use netd::dns::{Config, Limits};

use crate::topology::{Topology, query, receive_framed, render, send_framed};

fn limited(limits: Limits) -> Config {
    Config {
        limits,
        ..Config::default()
    }
}

#[test]
fn one_connection_carries_many_queries() {
    let topology = Topology::new(40, Config::default());
    let mut stream = topology.connection_from(3);
    for name in ["web", "app", "web.shop"] {
        send_framed(&mut stream, &query(name, Rtype::A));
    }
    for expected in [
        "NOERROR 127.53.40.2",
        "NOERROR 127.53.40.3",
        "NOERROR 127.53.40.2",
    ] {
        assert_eq!(render(&receive_framed(&mut stream).unwrap()), expected);
    }
}

#[test]
fn a_query_may_arrive_in_pieces() {
    let topology = Topology::new(41, Config::default());
    let mut stream = topology.connection_from(3);
    stream.set_nodelay(true).unwrap();
    let query = query("web", Rtype::A);
    let mut framed = (query.len() as u16).to_be_bytes().to_vec();
    framed.extend(query);
    for byte in framed {
        stream.write_all(&[byte]).unwrap();
    }
    assert_eq!(
        render(&receive_framed(&mut stream).unwrap()),
        "NOERROR 127.53.41.2"
    );
}

#[test]
fn a_message_is_as_long_as_its_length_says() {
    let topology = Topology::new(46, Config::default());
    let mut stream = topology.connection_from(3);
    // The longest there is: what follows the question belongs to nobody.
    let mut longest = query("web", Rtype::A);
    longest.resize(usize::from(u16::MAX), 0);
    for message in [longest, query("app", Rtype::A)] {
        send_framed(&mut stream, &message);
    }
    for expected in ["NOERROR 127.53.46.2", "NOERROR 127.53.46.3"] {
        assert_eq!(render(&receive_framed(&mut stream).unwrap()), expected);
    }
    // Nothing is no query, and one that stops short of its length is never answered.
    stream.write_all(&[0, 0]).unwrap();
    assert_eq!(receive_framed(&mut stream), None);
    let mut stream = topology.connection_from(3);
    let half = query("web", Rtype::A);
    stream
        .write_all(&(half.len() as u16 + 1).to_be_bytes())
        .unwrap();
    stream.write_all(&half).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(receive_framed(&mut stream), None);
}

#[test]
fn a_silent_connection_is_closed() {
    let limits = Limits {
        tcp_idle: Duration::from_millis(50),
        ..Limits::default()
    };
    let topology = Topology::new(42, limited(limits));
    let mut stream = topology.connection_from(3);
    stream.write_all(&[0]).unwrap();
    assert_eq!(receive_framed(&mut stream), None);
}

#[test]
fn a_connection_ends_however_busy_it_is() {
    let limits = Limits {
        tcp_total: Duration::from_millis(200),
        ..Limits::default()
    };
    let topology = Topology::new(43, limited(limits));
    let mut stream = topology.connection_from(3);
    let query = query("web", Rtype::A);
    let mut framed = (query.len() as u16).to_be_bytes().to_vec();
    framed.extend(query);
    let mut answered = 0;
    while stream.write_all(&framed).is_ok() && receive_framed(&mut stream).is_some() {
        answered += 1;
    }
    assert!(answered > 0);
}

#[test]
fn one_client_cannot_take_all_connections() {
    let limits = Limits {
        connections_per_client: 2,
        ..Limits::default()
    };
    let topology = Topology::new(44, limited(limits));
    let mut kept: Vec<_> = (0..2).map(|_| topology.connection_from(3)).collect();
    let query = query("web", Rtype::A);
    for stream in &mut kept {
        send_framed(stream, &query);
        assert!(receive_framed(stream).is_some());
    }
    assert_eq!(
        receive_framed(&mut topology.connection_from(3)),
        None,
        "one too many"
    );
    assert_eq!(topology.metric("tcp_refused_total"), 1);
    let mut other = topology.connection_from(2);
    send_framed(&mut other, &query);
    assert!(receive_framed(&mut other).is_some(), "another client");
}

#[test]
fn garbage_closes_only_its_own_connection() {
    let topology = Topology::new(45, Config::default());
    let mut good = topology.connection_from(3);
    for garbage in [&b"\0\0"[..], b"\0\x05hello", b"\xff\xff\x80"] {
        let mut bad = topology.connection_from(3);
        bad.write_all(garbage).unwrap();
        bad.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(receive_framed(&mut bad), None, "{garbage:x?}");
    }
    send_framed(&mut good, &query("web", Rtype::A));
    assert!(receive_framed(&mut good).is_some());
}
