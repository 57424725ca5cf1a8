//! Networks made from a parent interface.

use api::id::IfName;
use api::net::{AttachRequest, NetworkCreate};
use api::{ApiError, ErrorCode};

use super::crash::crash_everywhere;
use super::{World, eth0, network, refusal, request};
use crate::Report;
use crate::model::driver::LinkKind;

pub(super) fn lan(options: &str) -> NetworkCreate {
    network(&format!(
        r#"{{"Name":"lan","Driver":"macvlan","Options":{{{options}}},
            "IPAM":{{"Config":[{{"Subnet":"192.0.2.0/24","IPRange":"192.0.2.128/25"}}]}}}}"#
    ))
}

pub(super) fn on_lan(container: &str, inode: u64) -> AttachRequest {
    let mut request = request("lan", container, inode);
    request.ports.clear();
    request
}

#[test]
fn a_crash_while_creating_a_sub_interface_is_undone() {
    crash_everywhere(
        |_| {},
        |netd| netd.create_network(lan(r#""parent":"eth0.100""#)).map(drop),
    );
}

#[test]
fn a_crash_while_attaching_without_a_host_end_is_undone() {
    crash_everywhere(
        |netd| {
            netd.create_network(lan(r#""parent":"eth0""#)).unwrap();
            netd.attach(on_lan("db", 11)).unwrap();
        },
        |netd| netd.attach(on_lan("web", 10)).map(drop),
    );
}

#[test]
fn a_crash_while_detaching_without_a_host_end_is_completed() {
    crash_everywhere(
        |netd| {
            netd.create_network(lan(r#""parent":"eth0""#)).unwrap();
            netd.attach(on_lan("db", 11)).unwrap();
            netd.attach(on_lan("web", 10)).unwrap();
        },
        |netd| netd.detach("web", &eth0()),
    );
}

#[test]
fn a_crash_while_removing_a_sub_interface_is_completed() {
    crash_everywhere(
        |netd| {
            netd.create_network(lan(r#""parent":"eth0.100""#)).unwrap();
        },
        |netd| netd.remove_network("lan"),
    );
}

#[test]
fn a_sub_interface_goes_with_the_last_network_and_only_if_it_was_made() {
    let world = World::new();
    let netd = world.start().unwrap();
    let before = world.kernel.snapshot();
    let second = || {
        let mut second = lan(r#""parent":"eth0.100""#);
        second.name = "lan2".to_owned();
        second.ipam.config[0].subnet = "198.51.100.0/24".parse().ok();
        second.ipam.config[0].ip_range = None;
        second
    };
    netd.create_network(lan(r#""parent":"eth0.100""#)).unwrap();
    netd.create_network(second()).unwrap();
    netd.remove_network("lan").unwrap();
    assert_ne!(world.kernel.snapshot(), before, "lan2 needs it");
    netd.remove_network("lan2").unwrap();
    assert_eq!(world.kernel.snapshot(), before);

    world.kernel.add_link("eth0.100");
    let before = world.kernel.snapshot();
    netd.create_network(second()).unwrap();
    netd.remove_network("lan2").unwrap();
    assert_eq!(world.kernel.snapshot(), before, "somebody else's stays");
}

#[test]
fn a_parent_that_went_away_is_repaired_with_its_endpoints() {
    let world = World::new();
    let netd = world.start().unwrap();
    netd.create_network(lan(r#""parent":"eth0.100""#)).unwrap();
    netd.attach(on_lan("web", 10)).unwrap();
    let good = world.kernel.snapshot();
    world.kernel.lose_link(&IfName::parse("eth0.100").unwrap());
    assert_ne!(world.kernel.snapshot(), good);
    let report = netd.reconcile().unwrap();
    assert!(report.failures.is_empty(), "{report:?}");
    assert_eq!(world.kernel.snapshot(), good);
    assert_eq!(netd.reconcile().unwrap(), Report::default());
}

#[test]
fn endpoints_of_a_parent_obey_its_rules() {
    let world = World::new();
    let netd = world.start().unwrap();
    let passthru = r#""parent":"eth0","macvlan_mode":"passthru""#;
    let created = netd.create_network(lan(passthru)).unwrap();
    assert_eq!(created.warning, "");
    let check = |request: AttachRequest, part: &str| {
        let (code, message) = refusal(netd.attach(request));
        assert!(message.contains(part), "{code:?} {message}");
    };
    check(
        request("lan", "web", 10),
        "lan (driver macvlan) publishes no ports",
    );
    let mut own_mac = on_lan("web", 10);
    own_mac.mac = "02:00:00:00:00:09".parse().ok();
    check(own_mac, "shares its parent's MAC address");
    let attached = netd.attach(on_lan("web", 10)).unwrap();
    assert_eq!(attached.mac.unwrap().to_string(), "02:00:00:00:00:01");
    assert_eq!(attached.host_ifname, None);
    assert_eq!(attached.addresses[0].address.to_string(), "192.0.2.128/24");
    assert_eq!(attached.routes[0].gateway.unwrap().to_string(), "192.0.2.1");
    assert_eq!(attached.dns.nameservers[0].to_string(), "127.0.0.11");
    check(on_lan("db", 11), "takes one container, which is web");
    netd.check("web", &eth0()).unwrap();
    let clash = network(r#"{"Name":"other","Driver":"ipvlan","Options":{"parent":"eth0"}}"#);
    let error = ApiError::from(netd.create_network(clash).unwrap_err());
    assert_eq!(error.code, ErrorCode::Conflict, "{}", error.message);
}

#[test]
fn a_layer_three_ipvlan_is_routed_by_its_interface() {
    let world = World::new();
    let netd = world.start().unwrap();
    let l3 = r#"{"Name":"lan","Driver":"ipvlan",
        "Options":{"parent":"eth0","ipvlan_mode":"l3"},
        "IPAM":{"Config":[{"Subnet":"198.51.100.0/24"}]}}"#;
    netd.create_network(network(l3)).unwrap();
    let attached = netd.attach(on_lan("web", 10)).unwrap();
    assert_eq!(attached.routes[0].dst.to_string(), "0.0.0.0/0");
    assert_eq!(attached.routes[0].gateway, None);
    assert_eq!(attached.addresses[0].gateway, None);
    assert_eq!(
        attached.mac.unwrap().to_string(),
        "02:00:00:00:00:01",
        "the parent's"
    );
}

#[test]
fn what_the_kernel_lacks_is_said_before_anything_is_made() {
    let world = World::new();
    let netd = world.start().unwrap();
    world.kernel.lacks(LinkKind::Vlan);
    world.kernel.lacks(LinkKind::Ipvlan);
    let before = world.kernel.snapshot();
    let check = |request: NetworkCreate, part: &str| {
        let error = ApiError::from(netd.create_network(request).unwrap_err());
        assert_eq!(error.code, ErrorCode::Unsupported);
        assert!(error.message.contains(part), "{}", error.message);
        assert_eq!(world.kernel.snapshot(), before);
    };
    check(
        lan(r#""parent":"eth0.100""#),
        "vlan is not in this kernel (CONFIG_VLAN_8021Q): name a parent interface that exists",
    );
    check(
        network(r#"{"Name":"lan","Driver":"ipvlan","Options":{"parent":"eth0"}}"#),
        "ipvlan is not in this kernel (CONFIG_IPVLAN): use driver macvlan",
    );
}
