//! Services with several backends, packet by packet on the loaded programs.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::frame::{ACK, FIN_ACK, SYN, tcp, udp};
use crate::instance::{Instance, frontend};
use netd::bpf::{Balanced, BpfError, Change, Side, Verdict};

const HOST: &str = "192.0.2.1:8080";
const HOST6: &str = "[2001:db8::1]:8080";
const SHOP: u64 = 7;
/// Flows that begin at a service to see where they go.
const FLOWS: u16 = 4_000;

fn host(name: &str) -> Instance {
    let plane = Instance::open(name, None);
    let local = ["192.0.2.1", "2001:db8::1"].map(|ip| ip.parse().unwrap());
    plane.set_local_addresses(&local.into()).unwrap();
    plane
}

fn web(number: usize) -> String {
    format!("172.18.0.{number}:80")
}

/// Port 8080 of the host, at backends with these weights.
fn shop(weights: &[(usize, u32)]) -> Balanced {
    let backends = weights
        .iter()
        .map(|(n, weight)| (address(&web(*n)), *weight));
    Balanced {
        frontends: ["any4:8080/tcp", "any4:8080/udp"].map(frontend).into(),
        backends: backends.collect(),
        ..Balanced::default()
    }
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn client(flow: u16) -> String {
    format!("198.51.100.7:{}", 20_000 + flow)
}

/// Which backend the packet goes to; zero when it stays as it was.
#[track_caller]
fn goes_to(plane: &Instance, flow: u16, flags: u8) -> usize {
    let client = client(flow);
    let got = plane
        .replay(Side::Ingress, &tcp(&client, HOST, flags))
        .unwrap();
    if got.frame == tcp(&client, HOST, flags) {
        return 0;
    }
    let sent_to = |number: &usize| got.frame == tcp(&client, &web(*number), flags);
    (1..100).find(sent_to).expect("a packet to a backend")
}

/// Where flows go that begin now.
fn spread(plane: &Instance, flows: std::ops::Range<u16>) -> Vec<usize> {
    flows.map(|flow| goes_to(plane, flow, SYN)).collect()
}

fn counts(backends: &[usize]) -> BTreeMap<usize, usize> {
    let mut counts = BTreeMap::new();
    for backend in backends {
        *counts.entry(*backend).or_default() += 1;
    }
    counts
}

#[test]
fn flows_spread_by_weight_and_stay_where_they_are() {
    let plane = host("balance");
    let change = plane
        .balance(SHOP, &shop(&[(2, 1), (3, 1), (4, 2)]))
        .unwrap();
    assert_eq!(change, Change::Created);
    let first = spread(&plane, 0..FLOWS);
    let counts = counts(&first);
    for (backend, share) in [(2, 0.25), (3, 0.25), (4, 0.5)] {
        let have = counts[&backend] as f64 / f64::from(FLOWS);
        // Four standard deviations of a fair draw.
        assert!(
            (have - share).abs() < 0.03,
            "{backend}: {have}, not {share}"
        );
    }
    for (flow, backend) in (0..FLOWS).zip(&first) {
        assert_eq!(goes_to(&plane, flow, ACK), *backend);
        let (reply, client) = (web(*backend), client(flow));
        let got = plane
            .replay(Side::Egress, &tcp(&reply, &client, ACK))
            .unwrap();
        assert_eq!(
            got.frame,
            tcp(HOST, &client, ACK),
            "replies come from the frontend"
        );
    }
}

#[test]
fn a_flow_that_nobody_remembers_goes_where_it_went() {
    let plane = host("forgotten");
    plane
        .balance(SHOP, &shop(&[(2, 1), (3, 1), (4, 1)]))
        .unwrap();
    let before = spread(&plane, 0..400);
    let mut again = host("forgotten-again");
    again
        .balance(SHOP, &shop(&[(4, 1), (3, 1), (2, 1)]))
        .unwrap();
    let there: Vec<usize> = (0..400).map(|flow| goes_to(&again, flow, ACK)).collect();
    assert_eq!(there, before, "another host, the middle of the flow");
    again.close();
}

#[test]
fn a_draining_backend_keeps_its_flows_and_gets_no_more() {
    let plane = host("draining");
    plane.balance(SHOP, &shop(&[(2, 1), (3, 1)])).unwrap();
    let before = spread(&plane, 0..400);
    let change = plane.balance(SHOP, &shop(&[(2, 0), (3, 1)])).unwrap();
    assert_eq!(change, Change::Changed);
    let after: Vec<usize> = (0..400).map(|flow| goes_to(&plane, flow, ACK)).collect();
    assert_eq!(after, before);
    assert_eq!(counts(&spread(&plane, 400..800)), [(3, 400)].into());
    // A connection that is over may begin again, elsewhere.
    let drained = (0..400)
        .find(|flow| before[usize::from(*flow)] == 2)
        .unwrap();
    goes_to(&plane, drained, FIN_ACK);
    assert_eq!(goes_to(&plane, drained, SYN), 3);
}

#[test]
fn the_flows_of_a_lost_backend_move_and_the_others_stay() {
    let plane = host("lost");
    let all: Vec<(usize, u32)> = (2..12).map(|number| (number, 1)).collect();
    plane.balance(SHOP, &shop(&all)).unwrap();
    let before = spread(&plane, 0..FLOWS);
    plane.balance(SHOP, &shop(&all[1..])).unwrap();
    for (flow, backend) in (0..FLOWS).zip(before) {
        let now = goes_to(&plane, flow, ACK);
        assert!(now > 2, "flow {flow} goes to {now}");
        assert!(backend == 2 || now == backend, "flow {flow} left {backend}");
    }
}

#[test]
fn datagrams_leave_a_dead_backend_at_once() {
    let plane = host("datagrams");
    plane.balance(SHOP, &shop(&[(2, 1), (3, 1)])).unwrap();
    let goes_to = |flow| {
        let client = client(flow);
        let got = plane.replay(Side::Ingress, &udp(&client, HOST)).unwrap();
        (2..4).find(|number| got.frame == udp(&client, &web(*number)))
    };
    let flow = (0..100).find(|flow| goes_to(*flow) == Some(2)).unwrap();
    plane.balance(SHOP, &shop(&[(3, 1)])).unwrap();
    assert_eq!(goes_to(flow), Some(3));
}

#[test]
fn a_client_with_affinity_has_one_backend() {
    let plane = host("affinity");
    let mut affine = shop(&[(2, 1), (3, 1), (4, 1)]);
    plane.balance(SHOP, &affine).unwrap();
    assert_eq!(counts(&spread(&plane, 0..200)).len(), 3);
    affine.affinity = true;
    assert_eq!(plane.balance(SHOP, &affine).unwrap(), Change::Changed);
    assert_eq!(counts(&spread(&plane, 200..400)).len(), 1);
}

#[test]
fn a_service_without_backends_answers_nobody() {
    let plane = host("nobody");
    plane.balance(SHOP, &shop(&[])).unwrap();
    assert_eq!(goes_to(&plane, 0, SYN), 0);
    let drops: BTreeMap<_, _> = plane.drops().unwrap().into_iter().collect();
    assert_eq!(drops["no-backend"], 1);
    plane.balance(SHOP, &shop(&[(2, 1)])).unwrap();
    assert_eq!(goes_to(&plane, 0, SYN), 2);
}

#[test]
fn more_backends_than_a_small_table_serves() {
    let plane = host("many");
    let all: Vec<(usize, u32)> = (2..62).map(|number| (number, 1)).collect();
    plane.balance(SHOP, &shop(&all)).unwrap();
    assert_eq!(counts(&spread(&plane, 0..FLOWS)).len(), 60);
    plane.balance(SHOP, &shop(&all[..2])).unwrap();
    let few = counts(&spread(&plane, 0..200));
    assert_eq!(few.keys().copied().collect::<Vec<_>>(), [2, 3]);
}

#[test]
fn the_next_daemon_finds_everything_and_removes_all_of_it() {
    let mut plane = host("adopted");
    let mut shop = shop(&[(2, 1), (3, 5), (4, 0)]);
    shop.frontends.insert(frontend("any4:9000+3/tcp"));
    plane.balance(SHOP, &shop).unwrap();
    let before = spread(&plane, 0..200);
    let found = plane.balanced().unwrap();
    assert_eq!(found[&SHOP].backends, shop.backends);
    assert_eq!(found[&SHOP], shop);
    plane.close();
    plane.reopen();
    assert_eq!(plane.balanced().unwrap(), found);
    assert_eq!(plane.balance(SHOP, &shop).unwrap(), Change::Unchanged);
    let after: Vec<usize> = (0..200).map(|flow| goes_to(&plane, flow, ACK)).collect();
    assert_eq!(after, before);
    assert_eq!(plane.unbalance(SHOP).unwrap(), Change::Changed);
    assert_eq!(plane.unbalance(SHOP).unwrap(), Change::Unchanged);
    assert!(plane.balanced().unwrap().is_empty());
    let packet = tcp(&client(0), HOST, SYN);
    let got = plane.replay(Side::Ingress, &packet).unwrap();
    assert_eq!((got.verdict, got.frame), (Verdict::Pass, packet));
}

#[test]
fn a_port_leads_to_one_service() {
    let plane = host("taken");
    plane.balance(SHOP, &shop(&[(2, 1)])).unwrap();
    let port = frontend("any4:8080/tcp");
    let taken = |error| matches!(error, BpfError::Taken { frontend } if frontend == port);
    assert!(taken(plane.publish(port, address(&web(9))).unwrap_err()));
    let mut other = shop(&[(9, 1)]);
    other.frontends = [port].into();
    assert!(taken(plane.balance(SHOP + 1, &other).unwrap_err()));
    assert_eq!(
        plane.balanced().unwrap().len(),
        1,
        "a refusal changes nothing"
    );
    assert_eq!(plane.unpublish(&port).unwrap(), Change::Unchanged);
    assert_eq!(goes_to(&plane, 0, SYN), 2);
}

/// Ports that the ports of 9000 to 9002 lead to at the one backend.
fn range(plane: &Instance) -> [Option<u16>; 5] {
    [8999, 9000, 9001, 9002, 9003].map(|port: u16| {
        let client = client(port);
        let packet = tcp(&client, &format!("192.0.2.1:{port}"), SYN);
        let got = plane.replay(Side::Ingress, &packet).unwrap();
        (79..90).find(|port| got.frame == tcp(&client, &format!("172.18.0.2:{port}"), SYN))
    })
}

#[test]
fn a_range_leads_to_as_many_ports_or_to_one() {
    let mut plane = host("ranges");
    let mut service = shop(&[(2, 1)]);
    service.frontends = ["any4:9000+3/tcp", "any4:9000+3/udp"].map(frontend).into();
    plane.balance(SHOP, &service).unwrap();
    assert_eq!(range(&plane), [None, Some(80), Some(81), Some(82), None]);
    plane.unbalance(SHOP).unwrap();
    service.one_port = true;
    plane.balance(SHOP, &service).unwrap();
    assert_eq!(range(&plane), [None, Some(80), Some(80), Some(80), None]);
    plane.close();
    plane.reopen();
    assert_eq!(plane.balanced().unwrap()[&SHOP], service);
    assert_eq!(plane.balance(SHOP, &service).unwrap(), Change::Unchanged);
    service.frontends = [frontend("any4:9000+2/tcp")].into();
    assert_eq!(plane.balance(SHOP, &service).unwrap(), Change::Changed);
    assert_eq!(range(&plane), [None, Some(80), Some(80), None, None]);
}

#[test]
fn ipv6_is_balanced_alike() {
    let plane = host("balance6");
    let backends = ["[fd00:18::2]:80", "[fd00:18::3]:80"];
    let service = Balanced {
        frontends: [frontend("any6:8080/tcp")].into(),
        backends: backends.map(|backend| (address(backend), 1)).into(),
        ..Balanced::default()
    };
    plane.balance(SHOP, &service).unwrap();
    let mut seen = [0; 2];
    for port in 20_000..20_200 {
        let client = format!("[2001:db8:7::7]:{port}");
        let got = plane
            .replay(Side::Ingress, &tcp(&client, HOST6, SYN))
            .unwrap();
        let to = |backend: &str| got.frame == tcp(&client, backend, SYN);
        seen[backends.iter().position(|backend| to(backend)).unwrap()] += 1;
    }
    assert!(seen.iter().all(|count| *count > 60), "{seen:?}");
}
