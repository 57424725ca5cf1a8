//! Which of a sandbox's networks carries its default route, and publishes its ports.

use api::id::IfName;
use api::net::{AttachRequest, Attachment};

use super::crash::crash_everywhere;
use super::{World, network, request};
use crate::NetError;
use crate::netd::Netd;

fn create(netd: &Netd, names: &[&str]) {
    for name in names {
        let json = format!(r#"{{"Name":"{name}","EnableIPv6":true}}"#);
        netd.create_network(network(&json)).unwrap();
    }
}

/// Container `web` joins as `eth<number>`, without ports.
fn joins(name: &str, number: u8, priority: Option<i64>) -> AttachRequest {
    let mut request = request(name, "web", 10);
    request.ifname = ifname(number);
    request.gw_priority = priority;
    request.ports.clear();
    request
}

fn ifname(number: u8) -> IfName {
    IfName::parse(&format!("eth{number}")).unwrap()
}

fn endpoints(netd: &Netd) -> Vec<Attachment> {
    netd.endpoints(Some("web"))
}

/// The networks that carry default routes; the container's CHECK agrees with each endpoint.
fn carriers(netd: &Netd) -> Vec<String> {
    let endpoints = endpoints(netd);
    for endpoint in &endpoints {
        netd.check("web", &endpoint.ifname).unwrap();
    }
    let routes = endpoints
        .iter()
        .flat_map(|endpoint| endpoint.routes.iter().map(|_| endpoint.network.to_string()));
    routes.collect()
}

#[test]
fn the_first_network_by_name_goes_first_and_a_priority_before_it() {
    let world = World::new();
    let netd = world.start().unwrap();
    create(&netd, &["m", "n", "a", "z"]);
    let join = |name, number, priority| netd.attach(joins(name, number, Some(priority))).unwrap();
    join("m", 0, 0);
    join("n", 1, 0);
    assert_eq!(carriers(&netd), ["m", "m"]);
    assert_eq!(join("a", 2, 0).routes.len(), 2);
    assert_eq!(carriers(&netd), ["a", "a"]);
    join("z", 3, 7);
    assert_eq!(carriers(&netd), ["z", "z"]);
    netd.detach("web", &ifname(3)).unwrap();
    assert_eq!(carriers(&netd), ["a", "a"]);
    join("z", 3, -1);
    assert_eq!(carriers(&netd), ["a", "a"]);
    for (number, next) in [(2, "m"), (0, "n"), (1, "z")] {
        netd.detach("web", &ifname(number)).unwrap();
        assert_eq!(carriers(&netd), [next, next]);
    }
}

#[test]
fn who_knows_no_priority_means_the_order() {
    let world = World::new();
    let netd = world.start().unwrap();
    create(&netd, &["m", "a"]);
    netd.attach(joins("m", 0, None)).unwrap();
    netd.attach(joins("a", 1, None)).unwrap();
    assert_eq!(carriers(&netd), ["m", "m"]);
}

#[test]
fn each_family_goes_by_the_first_network_that_has_it() {
    let world = World::new();
    let netd = world.start().unwrap();
    create(&netd, &["both"]);
    netd.create_network(network(r#"{"Name":"four"}"#)).unwrap();
    netd.create_network(network(r#"{"Name":"shut","Internal":true}"#))
        .unwrap();
    for (number, name, priority) in [(0, "both", 0), (1, "four", 1), (2, "shut", 2)] {
        netd.attach(joins(name, number, Some(priority))).unwrap();
    }
    assert_eq!(carriers(&netd), ["both", "four"]);
}

fn publishing(netd: &Netd) -> Vec<(String, String)> {
    let published = netd.view().published();
    published
        .iter()
        .map(|(frontend, backend)| (frontend.to_string(), backend.ip().to_string()))
        .collect()
}

fn with_port(name: &str, number: u8) -> AttachRequest {
    AttachRequest {
        ports: request(name, "web", 10).ports,
        ..joins(name, number, Some(0))
    }
}

#[test]
fn published_ports_follow_the_default_route() {
    let world = World::new();
    let netd = world.start().unwrap();
    create(&netd, &["m", "a"]);
    let address = |at: &Attachment| at.addresses[0].address.addr().to_string();
    let first = netd.attach(with_port("m", 0)).unwrap();
    let before = (publishing(&netd), world.kernel.snapshot());
    assert_eq!(
        before.0[0],
        ("0.0.0.0:8010/tcp".to_owned(), address(&first))
    );
    let second = netd.attach(joins("a", 1, Some(0))).unwrap();
    assert_eq!(second.ports, first.ports);
    assert!(endpoints(&netd)[0].ports.is_empty());
    let now = publishing(&netd);
    assert_eq!(now[0], ("0.0.0.0:8010/tcp".to_owned(), address(&second)));
    assert_eq!(now.len(), before.0.len());
    // The port is still the container's.
    let mut other = request("m", "db", 11);
    other.ports[0].host_port = 8010;
    assert!(netd.attach(other).is_err());
    assert_eq!(netd.reconcile().unwrap().repaired, 0);
    netd.detach("web", &ifname(1)).unwrap();
    assert_eq!(publishing(&netd), before.0);
    assert_eq!(endpoints(&netd)[0], first);
    let after = world.kernel.snapshot();
    assert_eq!(after, before.1);
    netd.detach("web", &ifname(0)).unwrap();
    let mut other = request("m", "db", 11);
    other.ports[0].host_port = 8010;
    netd.attach(other).unwrap();
}

#[test]
fn ports_stay_where_a_default_route_stays() {
    let world = World::new();
    let netd = world.start().unwrap();
    create(&netd, &["m"]);
    netd.create_network(network(
        r#"{"Name":"six","EnableIPv4":false,"EnableIPv6":true}"#,
    ))
    .unwrap();
    let first = netd.attach(with_port("m", 0)).unwrap();
    netd.attach(joins("six", 1, Some(1))).unwrap();
    assert_eq!(carriers(&netd), ["m", "six"]);
    assert_eq!(endpoints(&netd)[0].ports, first.ports);
}

#[test]
fn an_end_in_the_middle_gives_all_back() {
    fn prepare(netd: &Netd) {
        create(netd, &["m", "a"]);
        netd.attach(with_port("m", 0)).unwrap();
    }
    fn takes_over(netd: &Netd) -> Result<(), NetError> {
        netd.attach(joins("a", 1, Some(0))).map(drop)
    }
    crash_everywhere(prepare, takes_over);
}
