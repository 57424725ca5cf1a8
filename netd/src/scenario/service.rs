//! Services on the fake kernel: what the data plane is told as members come, go, drain and fail.

use std::time::Duration;

use api::ErrorCode;
use api::service::{MemberState, MemberUpdate, ProbeResult, Service, ServiceJoin, ServiceSpec};

use super::crash::crash_everywhere;
use super::{World, eth0, network, refusal, request};
use crate::model::port::BoundSocket;
use crate::netd::Netd;

fn spec(json: &str) -> ServiceSpec {
    serde_json::from_str(json).unwrap()
}

const WEB: &str = r#"{"Name":"web","Networks":[{"Target":"shop"}],
    "EndpointSpec":{"Ports":[{"TargetPort":80,"PublishedPort":8080}]}}"#;
const CHECKED: &str = r#"{"Name":"web","Networks":[{"Target":"shop"}],
    "EndpointSpec":{"Ports":[{"TargetPort":80,"PublishedPort":8080}]},
    "Health":{"Probe":{"Kind":"command","Command":["true"]},"Interval":1000000000,
    "Timeout":1000000000,"StartPeriod":0,"Rise":1,"Fall":2}}"#;

fn shop(netd: &Netd) {
    netd.create_network(network(r#"{"Name":"shop"}"#)).unwrap();
}

fn join(netd: &Netd, container: &str, inode: u64, weight: u32) {
    let mut asked = request("shop", container, inode);
    asked.ports.clear();
    asked.services = vec![ServiceJoin {
        service: "web".into(),
        weight,
    }];
    netd.attach(asked).unwrap();
}

/// `frontends > backend*weight …`, one line an entry.
fn balanced(world: &World) -> Vec<String> {
    let mut shown = Vec::new();
    world.kernel.edit(|observed| {
        for entry in observed.data_plane.balanced.values() {
            let frontends: Vec<String> = entry.frontends.iter().map(|f| f.to_string()).collect();
            let backends = entry.backends.iter();
            let backends: Vec<String> = backends
                .map(|(b, weight)| format!("{b}*{weight}"))
                .collect();
            shown.push(format!("{} > {}", frontends.join(" "), backends.join(" ")));
        }
    });
    shown
}

fn states(service: &Service) -> Vec<(String, MemberState, bool)> {
    let members = service.members.iter();
    members
        .map(|m| (m.name.clone(), m.state, m.in_use))
        .collect()
}

fn report(netd: &Netd, container: &str, healthy: bool) -> Service {
    let probe = ProbeResult {
        healthy,
        error: if healthy { "" } else { "exit code 1" }.into(),
    };
    let update = MemberUpdate {
        probe: Some(probe),
        ..MemberUpdate::default()
    };
    netd.update_member("web", container, &update).unwrap()
}

#[test]
fn a_service_has_an_address_and_a_port_and_spreads_them_over_its_members() {
    let world = World::new();
    let netd = world.start().unwrap();
    shop(&netd);
    let before = world.kernel.snapshot();
    let made = netd.create_service(spec(WEB)).unwrap();
    assert_eq!(
        made.endpoint.virtual_ips[0].addr.to_string(),
        "172.18.0.2/16"
    );
    assert_eq!(
        balanced(&world),
        [
            "0.0.0.0:8080/tcp > ",
            "[::]:8080/tcp > ",
            "172.18.0.2/tcp 172.18.0.2/sctp > ",
            "172.18.0.2/udp > ",
        ]
    );
    join(&netd, "c1", 10, 1);
    join(&netd, "c2", 11, 3);
    let both = [
        "0.0.0.0:8080/tcp > 172.18.0.3:80*1 172.18.0.4:80*3",
        "[::]:8080/tcp > 172.18.0.3:80*1 172.18.0.4:80*3",
        "172.18.0.2/tcp 172.18.0.2/sctp > 172.18.0.3:0*1 172.18.0.4:0*3",
        "172.18.0.2/udp > 172.18.0.3:0*1 172.18.0.4:0*3",
    ];
    assert_eq!(balanced(&world), both);
    drop(netd);
    let netd = world.start().unwrap();
    assert_eq!(balanced(&world), both, "the next daemon finds it so");
    assert_eq!(netd.reconcile().unwrap(), crate::Report::default());
    world
        .kernel
        .edit(|observed| observed.data_plane.balanced.clear());
    netd.reconcile().unwrap();
    assert_eq!(balanced(&world), both, "and repairs it");
    netd.detach("c1", &eth0()).unwrap();
    assert_eq!(balanced(&world)[0], "0.0.0.0:8080/tcp > 172.18.0.4:80*3");
    let (code, message) = refusal(netd.remove_service("web", false));
    assert_eq!(code, ErrorCode::InUse);
    assert!(message.contains("has members: container c2;"), "{message}");
    netd.remove_service("web", true).unwrap();
    assert!(balanced(&world).is_empty());
    netd.detach("c2", &eth0()).unwrap();
    assert_eq!(world.kernel.snapshot(), before, "nothing is left");
}

#[test]
fn an_address_of_a_service_is_never_given_to_anybody_else() {
    let mut world = World::new();
    let netd = world.start().unwrap();
    netd.create_network(network(
        r#"{"Name":"shop","IPAM":{"Config":[{"Subnet":"10.9.0.0/29"}]}}"#,
    ))
    .unwrap();
    let vip = |netd: &Netd| netd.service("web").unwrap().endpoint.virtual_ips[0].addr;
    netd.create_service(spec(WEB)).unwrap();
    let first = vip(&netd);
    drop(netd);
    world.reboot();
    let netd = world.start().unwrap();
    assert_eq!(vip(&netd), first, "it outlives the host");
    for (inode, name) in (10..).zip(["c1", "c2", "c3", "c4"]) {
        join(&netd, name, inode, 1);
    }
    let (code, _) = refusal(netd.attach(request("shop", "c5", 15)));
    assert_eq!(
        code,
        ErrorCode::Exhausted,
        "four members, a gateway and the service"
    );
    let mut greedy = request("shop", "c5", 15);
    greedy.ipv4 = match first.addr() {
        std::net::IpAddr::V4(address) => Some(address),
        std::net::IpAddr::V6(_) => None,
    };
    let (code, message) = refusal(netd.attach(greedy));
    assert_eq!(code, ErrorCode::Conflict);
    assert!(message.contains("by service web"), "{message}");
    let (code, message) = refusal(netd.remove_network("shop"));
    assert_eq!(code, ErrorCode::InUse, "{message}");
}

#[test]
fn refusals_name_the_subject_and_leave_nothing() {
    let world = World::new();
    let netd = world.start_alone().unwrap();
    shop(&netd);
    netd.attach(request("shop", "c1", 10)).unwrap();
    netd.create_service(spec(WEB)).unwrap();
    let before = world.kernel.snapshot();
    let check = |json: &str, code: ErrorCode, part: &str| {
        let (found, message) = refusal(netd.create_service(spec(json)));
        assert!(message.contains(part), "{message}");
        assert_eq!(found, code, "{message}");
        assert_eq!(world.kernel.snapshot(), before, "{message}");
        assert_eq!(netd.services().len(), 1, "{message}");
    };
    let invalid = ErrorCode::InvalidInput;
    check(r#"{"Name":"a.b"}"#, invalid, "invalid service name \"a.b\"");
    check(
        r#"{"Name":"web"}"#,
        ErrorCode::Conflict,
        "service web already exists",
    );
    check(
        r#"{"Name":"db","Networks":[{"Target":"none"}]}"#,
        invalid,
        "network none (driver null) carries no services",
    );
    check(
        r#"{"Name":"db","Networks":[{"Target":"gone"}]}"#,
        ErrorCode::NotFound,
        "network gone not found",
    );
    check(
        r#"{"Name":"db","Networks":[{"Target":"shop"},{"Target":"shop"}]}"#,
        invalid,
        "network shop is given twice",
    );
    let port = |port: u16| {
        format!(
            r#"{{"Name":"db","EndpointSpec":{{"Ports":[{{"TargetPort":80,"PublishedPort":{port}}}]}}}}"#
        )
    };
    check(&port(8080), ErrorCode::Conflict, "published by service web");
    check(
        &port(8010),
        ErrorCode::Conflict,
        "published by container c1",
    );
    check(
        r#"{"Name":"db","EndpointSpec":{"Mode":"dnsrr","Ports":[{"TargetPort":80,"PublishedPort":1}]}}"#,
        invalid,
        "port *:1->80/tcp cannot be published in mode ingress",
    );
    check(
        r#"{"Name":"db","EndpointSpec":{"Ports":[{"TargetPort":0}]}}"#,
        invalid,
        "the container port is 0",
    );
    check(
        r#"{"Name":"db","Health":{"Probe":{"Kind":"tcp","Port":80},"Interval":0,"Timeout":1,
            "StartPeriod":0,"Rise":1,"Fall":1}}"#,
        invalid,
        "invalid health check: its interval",
    );
    let mut elsewhere = request("bridge", "c2", 11);
    elsewhere.services = vec![ServiceJoin {
        service: "web".into(),
        weight: 1,
    }];
    let (_, message) = refusal(netd.attach(elsewhere));
    assert!(
        message.contains("service web is not on network bridge, but on shop"),
        "{message}"
    );
}

#[test]
fn a_member_that_drains_keeps_its_connections_and_gets_no_new_ones() {
    let world = World::new();
    let netd = world.start().unwrap();
    shop(&netd);
    let mut with_drain = spec(WEB);
    with_drain.drain = Duration::from_millis(60);
    netd.create_service(with_drain).unwrap();
    join(&netd, "c1", 10, 1);
    join(&netd, "c2", 11, 1);
    let socket = |listens| BoundSocket {
        protocol: api::net::Protocol::Tcp,
        address: "172.18.0.3".parse().unwrap(),
        port: 80,
        listens,
        inode: 1,
    };
    world
        .kernel
        .set_inside_sockets(vec![socket(true), socket(false)]);
    let drained = netd.drain("c1", Duration::from_secs(60)).unwrap();
    assert_eq!(drained.left, 1, "the service's patience is the shorter one");
    assert_eq!(
        balanced(&world)[0],
        "0.0.0.0:8080/tcp > 172.18.0.3:80*0 172.18.0.4:80*1"
    );
    world.kernel.set_inside_sockets(vec![socket(true)]);
    assert_eq!(netd.drain("c1", Duration::from_secs(60)).unwrap().left, 0);
    assert_eq!(
        netd.drain("nobody", Duration::from_secs(60)).unwrap().left,
        0
    );
    let service = netd.service("web").unwrap();
    let expected = [
        ("c1".to_owned(), MemberState::Draining, false),
        ("c2".to_owned(), MemberState::Serving, true),
    ];
    assert_eq!(states(&service), expected);
    netd.detach("c2", &eth0()).unwrap();
    assert_eq!(balanced(&world)[0], "0.0.0.0:8080/tcp > 172.18.0.3:80*0");
}

#[test]
fn members_serve_while_they_are_well_and_all_of_them_when_none_is() {
    let world = World::new();
    let netd = world.start().unwrap();
    shop(&netd);
    netd.create_service(spec(CHECKED)).unwrap();
    join(&netd, "c1", 10, 1);
    join(&netd, "c2", 11, 1);
    let entry = |at: usize| balanced(&world)[at].clone();
    let (tcp, udp) = (0, 3);
    let mut verdicts = netd.verdicts();
    assert_eq!(
        entry(tcp),
        "0.0.0.0:8080/tcp > 172.18.0.3:80*1 172.18.0.4:80*1"
    );
    let service = report(&netd, "c2", true);
    assert_eq!(
        entry(tcp),
        "0.0.0.0:8080/tcp > 172.18.0.3:80*0 172.18.0.4:80*1"
    );
    assert_eq!(service.members[0].state, MemberState::Starting);
    assert!(!service.last_resort);
    report(&netd, "c1", true);
    report(&netd, "c1", false);
    assert_eq!(
        entry(tcp),
        "0.0.0.0:8080/tcp > 172.18.0.3:80*1 172.18.0.4:80*1"
    );
    let service = report(&netd, "c1", false);
    assert_eq!(service.members[0].error, "exit code 1");
    let told: Vec<(String, Option<String>)> = std::iter::from_fn(|| verdicts.try_recv().ok())
        .map(|judged| (judged.container, judged.error))
        .collect();
    let down = Some("exit code 1".to_owned());
    assert_eq!(
        told,
        [("c2", None), ("c1", None), ("c1", down)].map(|(id, error)| (id.to_owned(), error)),
        "each verdict once, and no failure that is none yet"
    );
    assert_eq!(
        entry(tcp),
        "0.0.0.0:8080/tcp > 172.18.0.3:80*0 172.18.0.4:80*1",
        "connections may end by themselves"
    );
    assert_eq!(
        entry(udp),
        "172.18.0.2/udp > 172.18.0.4:0*1",
        "what has no end goes to another one"
    );
    drop(netd);
    let netd = world.start().unwrap();
    assert_eq!(
        states(&netd.service("web").unwrap())[0].1,
        MemberState::Down,
        "remembered"
    );
    report(&netd, "c2", false);
    let service = report(&netd, "c2", false);
    assert!(service.last_resort);
    assert!(
        states(&service)
            .iter()
            .all(|(_, state, used)| *used && *state == MemberState::Down)
    );
    assert_eq!(
        entry(tcp),
        "0.0.0.0:8080/tcp > 172.18.0.3:80*1 172.18.0.4:80*1"
    );
    let service = report(&netd, "c1", true);
    assert!(!service.last_resort);
    assert_eq!(
        entry(tcp),
        "0.0.0.0:8080/tcp > 172.18.0.3:80*1 172.18.0.4:80*0"
    );
}

#[test]
fn an_update_changes_what_it_says_and_cuts_nobody_off() {
    let world = World::new();
    let netd = world.start().unwrap();
    shop(&netd);
    let made = netd.create_service(spec(WEB)).unwrap();
    join(&netd, "c1", 10, 2);
    let numbers = |world: &World| {
        let mut numbers = Vec::new();
        world
            .kernel
            .edit(|o| numbers = o.data_plane.balanced.keys().copied().collect());
        numbers
    };
    let had: Vec<u64> = numbers(&world);
    let mut new = made.spec.clone();
    new.affinity = api::service::Affinity::Client;
    new.endpoint_spec
        .ports
        .push(serde_json::from_str(r#"{"TargetPort":443,"PublishedPort":8443}"#).unwrap());
    let updated = netd.update_service("web", Some(1), new.clone()).unwrap();
    assert_eq!(updated.version.index, 2);
    assert!(had.iter().all(|number| numbers(&world).contains(number)));
    assert!(balanced(&world).contains(&"0.0.0.0:8443/tcp > 172.18.0.3:443*2".to_owned()));
    let (code, message) = refusal(netd.update_service("web", Some(1), new.clone()));
    assert_eq!(code, ErrorCode::Conflict, "{message}");
    new.endpoint_spec.ports.clear();
    new.endpoint_spec.mode = api::service::EndpointMode::Dnsrr;
    let updated = netd.update_service("web", None, new).unwrap();
    assert!(updated.endpoint.virtual_ips.is_empty());
    assert!(balanced(&world).is_empty());
    let weight = MemberUpdate {
        weight: Some(1001),
        ..MemberUpdate::default()
    };
    assert_eq!(
        refusal(netd.update_member("web", "c1", &weight)).0,
        ErrorCode::InvalidInput
    );
    assert_eq!(
        refusal(netd.update_member("web", "c9", &weight)).0,
        ErrorCode::NotFound
    );
}

#[test]
fn a_port_in_mode_host_is_published_by_the_member_itself() {
    let world = World::new();
    let netd = world.start().unwrap();
    shop(&netd);
    netd.create_service(spec(
        r#"{"Name":"web","Networks":[{"Target":"shop"}],"EndpointSpec":{"Mode":"dnsrr","Ports":
            [{"TargetPort":80,"PublishedPort":8080,"PublishMode":"host"}]}}"#,
    ))
    .unwrap();
    assert!(balanced(&world).is_empty());
    join(&netd, "c1", 10, 1);
    assert_eq!(netd.endpoints(Some("c1"))[0].ports[0].host_port, 8080);
    let mut second = request("shop", "c2", 11);
    second.ports.clear();
    second.services = vec![ServiceJoin {
        service: "web".into(),
        weight: 1,
    }];
    let (code, message) = refusal(netd.attach(second));
    assert_eq!(code, ErrorCode::Conflict);
    assert!(
        message.contains("8080/tcp is already allocated: published by container c1"),
        "{message}"
    );
}

#[test]
fn a_crash_while_creating_a_service_is_undone() {
    crash_everywhere(shop, |netd| netd.create_service(spec(WEB)).map(drop));
}

#[test]
fn a_crash_while_joining_a_service_is_undone() {
    crash_everywhere(
        |netd| {
            shop(netd);
            netd.create_service(spec(WEB)).unwrap();
            join(netd, "c1", 10, 1);
        },
        |netd| {
            let mut asked = request("shop", "c2", 11);
            asked.services = vec![ServiceJoin {
                service: "web".into(),
                weight: 1,
            }];
            netd.attach(asked).map(drop)
        },
    );
}

#[test]
fn a_crash_while_leaving_a_service_is_completed() {
    crash_everywhere(
        |netd| {
            shop(netd);
            netd.create_service(spec(WEB)).unwrap();
            join(netd, "c1", 10, 1);
            join(netd, "c2", 11, 1);
        },
        |netd| netd.detach("c1", &eth0()),
    );
}

#[test]
fn a_crash_while_removing_a_service_is_completed() {
    crash_everywhere(
        |netd| {
            shop(netd);
            netd.create_service(spec(WEB)).unwrap();
            join(netd, "c1", 10, 1);
        },
        |netd| {
            netd.remove_service("web", true)?;
            assert!(netd.services().is_empty());
            Ok(())
        },
    );
}
