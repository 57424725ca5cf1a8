//! What is counted of each service and backend, packet by packet. Needs root.

use std::net::SocketAddr;

use crate::frame::{ACK, FIN_ACK, SYN, tcp, udp};
use crate::instance::{Instance, frontend};
use netd::bpf::{Balanced, Counts, ServiceTraffic, Side, Verdict};

use Side::{Egress, Ingress};

const HOST: &str = "192.0.2.1:8080";
const SHOP: u64 = 7;

fn host(name: &str) -> Instance {
    let plane = Instance::open(name, None);
    plane
        .set_local_addresses(&["192.0.2.1".parse().unwrap()].into())
        .unwrap();
    plane
}

fn address(number: usize) -> SocketAddr {
    format!("172.18.0.{number}:80").parse().unwrap()
}

fn shop(backends: &[(usize, u32)]) -> Balanced {
    let backends = backends.iter().map(|(n, weight)| (address(*n), *weight));
    Balanced {
        frontends: ["any4:8080/tcp", "any4:8080/udp"].map(frontend).into(),
        backends: backends.collect(),
        ..Balanced::default()
    }
}

fn client(flow: u16) -> String {
    format!("198.51.100.7:{}", 20_000 + flow)
}

/// Opens a flow with its reply, and returns the backend that it went to.
fn open(plane: &Instance, flow: u16, backends: &[usize]) -> usize {
    let client = client(flow);
    let got = plane.replay(Ingress, &tcp(&client, HOST, SYN)).unwrap();
    let to = |number: &&usize| got.frame == tcp(&client, &address(**number).to_string(), SYN);
    let number = *backends.iter().find(to).expect("a backend");
    let reply = tcp(&address(number).to_string(), &client, ACK);
    plane.replay(Egress, &reply).unwrap();
    number
}

fn only(plane: &Instance) -> ServiceTraffic {
    let mut all = plane.traffic().unwrap();
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

fn of(service: &ServiceTraffic, number: usize) -> (Counts, u64) {
    let backend = service
        .backends
        .iter()
        .find(|b| b.address == address(number));
    let backend = backend.expect("a backend");
    (backend.counts, backend.active)
}

#[test]
fn each_backend_has_counters_of_its_own() {
    let plane = host("counters");
    plane.balance(SHOP, &shop(&[(2, 1), (3, 1)])).unwrap();
    let went: Vec<usize> = (0..40).map(|flow| open(&plane, flow, &[2, 3])).collect();
    for flow in 0..40 {
        plane
            .replay(Ingress, &tcp(&client(flow), HOST, ACK))
            .unwrap();
    }
    let service = only(&plane);
    assert_eq!(service.number, Some(SHOP));
    assert_eq!(service.frontends.len(), 2);
    let length = tcp(&client(0), HOST, SYN).len() as u64;
    for number in [2, 3] {
        let flows = went.iter().filter(|to| **to == number).count() as u64;
        let counts = Counts {
            packets_in: 2 * flows,
            bytes_in: 2 * flows * length,
            packets_out: flows,
            bytes_out: flows * length,
            new_flows: flows,
            ..Counts::default()
        };
        assert!(flows > 0);
        assert_eq!(of(&service, number), (counts, flows), "{number}");
    }
}

#[test]
fn a_flow_is_active_until_it_ends() {
    let plane = host("active");
    plane.balance(SHOP, &shop(&[(2, 1)])).unwrap();
    for flow in 0..10 {
        open(&plane, flow, &[2]);
    }
    for flow in 0..4 {
        plane
            .replay(Ingress, &tcp(&client(flow), HOST, FIN_ACK))
            .unwrap();
    }
    plane.replay(Ingress, &udp(&client(99), HOST)).unwrap();
    let (_, active) = of(&only(&plane), 2);
    assert_eq!(active, 11, "a backend may go on when the client has closed");
    for flow in 0..4 {
        plane
            .replay(Egress, &tcp("172.18.0.2:80", &client(flow), FIN_ACK))
            .unwrap();
    }
    let (counts, active) = of(&only(&plane), 2);
    assert_eq!((counts.new_flows, active), (11, 7));
    let fill = plane.fill().unwrap();
    let table = |name| *fill.iter().find(|fill| fill.table == name).unwrap();
    assert_eq!(table("ct_any").entries, 2);
    // Of four the backend has answered and the client spoken again.
    assert_eq!((table("ct_half").entries, table("ct_tcp").entries), (12, 8));
    assert_eq!(table("ct_any").in_use, Some(2));
    let frontends = table("frontends");
    assert_eq!((frontends.entries, frontends.in_use), (2, Some(2)));
    assert_eq!(table("peers").in_use, None, "hints");
}

#[test]
fn a_services_sums_keep_what_a_lost_backend_had() {
    let mut plane = host("past");
    plane.balance(SHOP, &shop(&[(2, 1), (3, 1)])).unwrap();
    for flow in 0..40 {
        open(&plane, flow, &[2, 3]);
    }
    let sum = |service: &ServiceTraffic| {
        let mut sum = service.past;
        for backend in &service.backends {
            sum += backend.counts;
        }
        sum
    };
    let before = sum(&only(&plane));
    assert_eq!(before.new_flows, 40);
    plane.balance(SHOP, &shop(&[(3, 1), (4, 1)])).unwrap();
    let after = only(&plane);
    assert_eq!(sum(&after), before);
    assert_eq!(of(&after, 4), (Counts::default(), 0));
    plane.close();
    plane.reopen();
    assert_eq!(only(&plane), after, "the next daemon goes on counting");
    plane.unbalance(SHOP).unwrap();
    plane.balance(SHOP, &shop(&[(3, 1)])).unwrap();
    assert_eq!(sum(&only(&plane)), Counts::default(), "another service");
}

#[test]
fn a_replaced_backend_of_a_port_leaves_its_counts() {
    let plane = host("replaced");
    let port = frontend("any4:8080/tcp");
    plane.publish(port, address(2)).unwrap();
    open(&plane, 0, &[2]);
    plane.publish(port, address(3)).unwrap();
    let service = only(&plane);
    assert_eq!((service.past.new_flows, service.number), (1, None));
    assert_eq!(of(&service, 3), (Counts::default(), 0));
    plane.unpublish(&port).unwrap();
    let traffic = plane.fill().unwrap();
    let traffic = traffic.iter().find(|f| f.table == "traffic").unwrap();
    assert_eq!(traffic.entries, 0, "nothing is left");
}

#[test]
fn what_a_service_loses_is_counted_by_reason() {
    let plane = host("lost");
    plane.balance(SHOP, &shop(&[])).unwrap();
    for flow in 0..3 {
        let got = plane
            .replay(Ingress, &tcp(&client(flow), HOST, SYN))
            .unwrap();
        assert_eq!(got.verdict, Verdict::Pass, "the host's stack refuses it");
    }
    plane
        .publish(
            frontend("any4:9090/tcp"),
            "[fd00:18::2]:80".parse().unwrap(),
        )
        .unwrap();
    plane
        .replay(Ingress, &tcp(&client(0), "192.0.2.1:9090", SYN))
        .unwrap();
    let all = plane.traffic().unwrap();
    let of = |number| {
        let service = all.iter().find(|service| service.number == number);
        service.unwrap().drops.clone()
    };
    assert_eq!(of(Some(SHOP)), [("no-backend", 3)].into());
    assert_eq!(of(None), [("family", 1)].into());
    plane.unbalance(SHOP).unwrap();
    plane.balance(SHOP, &shop(&[(2, 1)])).unwrap();
    let all = plane.traffic().unwrap();
    let service = all.iter().find(|service| service.number == Some(SHOP));
    assert!(service.unwrap().drops.is_empty());
}
