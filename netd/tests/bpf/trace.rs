//! Decisions told to who traces. Needs root.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::frame::{ACK, SYN, tcp, udp};
use crate::instance::{Instance, frontend};
use crate::topology::PATIENCE;
use netd::bpf::{BpfError, Side, Trace, TraceFilter, Traced};

use Side::{Egress, Ingress};

const CLIENT: &str = "198.51.100.7:40000";
const HOST: &str = "192.0.2.1:8080";
const WEB: &str = "172.18.0.2:80";

fn host(name: &str) -> Instance {
    let plane = Instance::open(name, None);
    plane
        .set_local_addresses(&["192.0.2.1".parse().unwrap()].into())
        .unwrap();
    for protocol in ["tcp", "udp"] {
        let port = frontend(&format!("any4:8080/{protocol}"));
        plane.publish(port, WEB.parse().unwrap()).unwrap();
    }
    plane
}

/// What comes at once: every packet of these tests has been decided when it is asked.
fn all(trace: &mut Trace) -> Vec<Traced> {
    trace.next(Duration::ZERO).unwrap()
}

fn decisions(events: &[Traced]) -> Vec<&'static str> {
    events.iter().map(|event| event.decision).collect()
}

#[test]
fn a_flow_is_told_from_its_first_packet_to_its_replies() {
    let plane = host("trace");
    let mut trace = plane.shared().trace(&TraceFilter::default()).unwrap();
    plane.replay(Ingress, &tcp(CLIENT, HOST, SYN)).unwrap();
    plane.replay(Egress, &tcp(WEB, CLIENT, ACK)).unwrap();
    plane.replay(Ingress, &tcp(CLIENT, HOST, ACK)).unwrap();
    let events = all(&mut trace);
    assert_eq!(decisions(&events), ["new", "reply", "hit"]);
    let first = &events[0];
    assert_eq!(first.source, Some(CLIENT.parse().unwrap()));
    assert_eq!(first.destination, HOST.parse().unwrap());
    assert_eq!(first.to, Some(WEB.parse().unwrap()));
    assert_eq!(first.length as usize, tcp(CLIENT, HOST, SYN).len());
    let counted = plane.traffic().unwrap();
    assert!(counted.iter().any(|service| service.id == first.service));
    assert_eq!(events[1].to, Some(HOST.parse().unwrap()));
    assert_eq!(trace.lost().unwrap(), 0);
}

#[test]
fn what_is_not_served_is_told_with_its_reason() {
    let plane = host("trace-lost");
    plane
        .balance(
            7,
            &netd::bpf::Balanced {
                frontends: [frontend("any4:9000/tcp")].into(),
                ..netd::bpf::Balanced::default()
            },
        )
        .unwrap();
    let mut trace = plane.shared().trace(&TraceFilter::default()).unwrap();
    for to in ["192.0.2.1:9000", "192.0.2.1:9001"] {
        plane.replay(Ingress, &tcp(CLIENT, to, SYN)).unwrap();
    }
    let events = all(&mut trace);
    assert_eq!(decisions(&events), ["lost", "miss"]);
    assert_eq!(events[0].reason, Some("no-backend"));
    assert_eq!((events[1].reason, events[1].to), (None, None));
}

#[test]
fn a_filter_narrows_what_is_told() {
    let plane = host("trace-filter");
    let shared = plane.shared();
    let told = |filter: TraceFilter| {
        let mut trace = shared.trace(&filter).unwrap();
        plane.replay(Ingress, &tcp(CLIENT, HOST, ACK)).unwrap();
        plane.replay(Ingress, &udp(CLIENT, HOST)).unwrap();
        all(&mut trace).len()
    };
    let any = TraceFilter::default();
    assert_eq!(told(any.clone()), 2);
    let udp = any_protocol("udp");
    assert_eq!(
        told(TraceFilter {
            protocol: Some(udp),
            ..any.clone()
        }),
        1
    );
    assert_eq!(
        told(TraceFilter {
            port: Some(80),
            ..any.clone()
        }),
        2,
        "the backend's"
    );
    assert_eq!(
        told(TraceFilter {
            port: Some(81),
            ..any.clone()
        }),
        0
    );
    let address = Some("172.18.0.2".parse().unwrap());
    assert_eq!(
        told(TraceFilter {
            address,
            ..any.clone()
        }),
        2
    );
    let address = Some("172.18.0.3".parse().unwrap());
    assert_eq!(
        told(TraceFilter {
            address,
            ..any.clone()
        }),
        0
    );
    let tcp = frontend("any4:8080/tcp");
    let counted = plane.traffic().unwrap();
    let id = counted.iter().find(|s| s.frontends == [tcp]).unwrap().id;
    assert_eq!(
        told(TraceFilter {
            services: vec![id],
            ..any.clone()
        }),
        1
    );
    let mut trace = shared.trace(&TraceFilter { one_in: 10, ..any }).unwrap();
    for _ in 0..1000 {
        plane.replay(Ingress, &tcp_packet()).unwrap();
    }
    let sampled = all(&mut trace).len();
    assert!((30..300).contains(&sampled), "{sampled} of 1000");
}

fn any_protocol(name: &str) -> api::net::Protocol {
    name.parse().unwrap()
}

fn tcp_packet() -> Vec<u8> {
    tcp(CLIENT, HOST, ACK)
}

#[test]
fn one_traces_at_a_time_and_what_does_not_fit_is_counted() {
    let plane = host("trace-one");
    let shared = plane.shared();
    let trace = shared.trace(&TraceFilter::default()).unwrap();
    let second = shared.trace(&TraceFilter::default()).unwrap_err();
    assert!(matches!(second, BpfError::Busy), "{second}");
    for _ in 0..4000 {
        plane.replay(Ingress, &tcp_packet()).unwrap();
    }
    assert!(trace.lost().unwrap() > 0);
    drop(trace);
    let mut trace = shared.trace(&TraceFilter::default()).unwrap();
    assert!(all(&mut trace).is_empty(), "an earlier trace's");
    assert_eq!(trace.lost().unwrap(), 0);
}

#[test]
fn a_trace_that_nobody_reads_ends_by_itself() {
    let plane = host("trace-lease");
    let trace = plane.shared().trace(&TraceFilter::default()).unwrap();
    let deadline = Instant::now() + PATIENCE;
    // More than the ring holds, so that each further decision is lost while the trace is on.
    let lost = || {
        for _ in 0..3000 {
            plane.replay(Ingress, &tcp_packet()).unwrap();
        }
        trace.lost().unwrap()
    };
    let mut before = lost();
    assert!(before > 0, "the trace is on");
    loop {
        let now = lost();
        if now == before {
            break;
        }
        assert!(Instant::now() < deadline, "the trace is still on");
        before = now;
    }
}

#[test]
fn nothing_is_told_while_nobody_asks() {
    let plane = host("trace-off");
    plane.replay(Ingress, &tcp_packet()).unwrap();
    drop(plane.shared().trace(&TraceFilter::default()).unwrap());
    plane.replay(Ingress, &tcp_packet()).unwrap();
    let mut trace = Arc::clone(&plane.shared())
        .trace(&TraceFilter::default())
        .unwrap();
    assert!(all(&mut trace).is_empty());
}
