use std::net::SocketAddr;

use super::*;
use crate::bpf::{Frontend, FrontendAddress};

fn frontend(address: FrontendAddress, port: u16) -> Frontend {
    Frontend {
        address,
        protocol: api::net::Protocol::Tcp,
        port,
        count: 1,
    }
}

fn counted(packets: u64, flows: u64) -> bpf::Counts {
    bpf::Counts {
        packets_in: packets,
        new_flows: flows,
        ..bpf::Counts::default()
    }
}

fn backend(address: &str, weight: u32, packets: u64) -> bpf::BackendTraffic {
    bpf::BackendTraffic {
        address: address.parse::<SocketAddr>().unwrap(),
        weight,
        counts: counted(packets, 1),
        active: 2,
    }
}

fn service(
    number: Option<u64>,
    frontends: Vec<Frontend>,
    backends: Vec<bpf::BackendTraffic>,
) -> bpf::ServiceTraffic {
    bpf::ServiceTraffic {
        id: 1,
        number,
        frontends,
        backends,
        past: bpf::Counts::default(),
        drops: BTreeMap::new(),
    }
}

fn containers() -> BTreeMap<IpAddr, String> {
    [("172.18.0.2", "web"), ("172.18.0.3", "web2")]
        .map(|(address, name)| (address.parse().unwrap(), name.to_owned()))
        .into()
}

#[test]
fn a_port_published_on_both_families_is_one_entry() {
    let mut six = service(
        None,
        vec![frontend(FrontendAddress::Any6, 8080)],
        vec![backend("172.18.0.2:80", 1, 5)],
    );
    six.drops = [("family", 3), ("rewrite", 0)].into();
    let counted = vec![
        service(
            None,
            vec![frontend(FrontendAddress::Any4, 8080)],
            vec![backend("172.18.0.2:80", 1, 10)],
        ),
        six,
        service(
            None,
            vec![frontend(FrontendAddress::Any4, 8081)],
            vec![backend("172.18.0.2:80", 1, 1)],
        ),
    ];
    let report = report(counted, &containers(), &BTreeMap::new());
    assert_eq!(report.len(), 2);
    let web = &report[0];
    assert_eq!((web.name.as_str(), web.kind), ("web", Kind::Container));
    assert_eq!(web.published, ["0.0.0.0:8080/tcp", "[::]:8080/tcp"]);
    assert_eq!((web.counts.packets_in, web.counts.flows), (15, 2));
    assert_eq!((web.active, web.backends.len()), (4, 1));
    assert_eq!(web.backends[0].counts.packets_in, 15);
    assert_eq!(web.dropped, [("family".to_owned(), 3)].into());
}

#[test]
fn a_service_has_its_backends_and_what_those_had_that_are_gone() {
    let mut shop = service(
        Some(7),
        vec![frontend(FrontendAddress::Any4, 80)],
        vec![
            backend("172.18.0.2:80", 2, 10),
            backend("172.18.0.3:80", 0, 4),
        ],
    );
    shop.past = counted(100, 9);
    let nameless = service(Some(8), vec![], vec![]);
    let services = [(7, "shop".to_owned())].into();
    let report = report(vec![nameless, shop], &containers(), &services);
    assert_eq!(report[0].name, "8", "on its way in or out");
    let shop = &report[1];
    assert_eq!((shop.name.as_str(), shop.kind), ("shop", Kind::Service));
    assert_eq!((shop.counts.packets_in, shop.counts.flows), (114, 11));
    let of: Vec<_> = shop
        .backends
        .iter()
        .map(|backend| (backend.container.as_str(), backend.weight))
        .collect();
    assert_eq!(of, [("web", 2), ("web2", 0)]);
}

fn table(name: &str, in_use: Option<u32>) -> Table {
    Table {
        name: name.to_owned(),
        entries: 100,
        capacity: 100,
        in_use,
    }
}

#[test]
fn a_full_table_is_told_of_once_an_episode() {
    let mut episodes = Episodes::default();
    let mut look = |in_use| {
        let tables = [table("ct_tcp", Some(in_use)), table("peers", None)];
        let turns = episodes.look(&tables);
        turns.into_iter().map(|(_, turn)| turn).collect::<Vec<_>>()
    };
    for (in_use, turns) in [
        (89, vec![]),
        (90, vec![Turn::Begins]),
        (100, vec![]),
        (85, vec![]),
        (90, vec![]),
        (79, vec![Turn::Ends]),
        (79, vec![]),
        (95, vec![Turn::Begins]),
    ] {
        assert_eq!(look(in_use), turns, "{in_use}");
    }
}
