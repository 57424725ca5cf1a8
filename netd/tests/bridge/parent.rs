//! Networks made from a parent interface: the outside machine is on the parent's segment.

use std::net::IpAddr;
use std::process::Command;

use api::{ApiError, ErrorCode};

use crate::dns_query::lookup;
use crate::tests::{OUTSIDE4, OUTSIDE6, any4, any6};
use crate::traffic::{is_refused, seen_by, serve};
use crate::world::{Sandbox, World, address, ip, soon};

/// A network on eth0 with the outside machine as its router; containers get the upper half.
fn lan(options: &str) -> String {
    format!(
        r#"{{"Name":"lan","Driver":"macvlan","EnableIPv6":true,"Options":{{{options}}},
            "IPAM":{{"Config":[
                {{"Subnet":"192.0.2.0/24","IPRange":"192.0.2.128/25","Gateway":"192.0.2.7"}},
                {{"Subnet":"2001:db8::/64","IPRange":"2001:db8::8000/113","Gateway":"2001:db8::7"}}
            ]}}}}"#
    )
}

/// A container that serves TCP port 80, and its addresses.
fn server(world: &World, name: &str, network: &str) -> (Sandbox, [IpAddr; 2]) {
    let sandbox = Sandbox::new(name);
    let attached = sandbox.attach(world, network);
    assert_eq!(attached.host_ifname, None);
    sandbox.run(|| serve(any6(80)));
    let at = [address(&attached, false), address(&attached, true)];
    (sandbox, at)
}

/// Whether the second of two containers is reached from the first; both reach the outside machine
/// and are reached from it, under their own addresses.
fn siblings(name: &str, mode: &str) -> bool {
    let world = World::new(name);
    world.create(&lan(&format!(r#""parent":"eth0","macvlan_mode":"{mode}""#)));
    world.outside(|| serve(any6(80)));
    let (web, web_at) = server(&world, "web", "lan");
    let (_db, db_at) = server(&world, "db", "lan");
    for (at, outside) in web_at
        .into_iter()
        .zip([IpAddr::from(OUTSIDE4), IpAddr::from(OUTSIDE6)])
    {
        let seen = web.run(|| seen_by((outside, 80))).unwrap();
        assert_eq!(seen.to_canonical(), at, "its own address");
        let seen = world.outside(|| seen_by((at, 80))).unwrap();
        assert_eq!(seen.to_canonical(), outside, "without a published port");
    }
    let reached = db_at.map(|at| web.run(|| !is_refused((at, 80))));
    assert_eq!(reached[0], reached[1], "in both families");
    let inside = web.run(|| ip("route show default"));
    assert!(inside.contains("via 192.0.2.7 dev eth0"), "{inside}");
    web.detach(&world);
    let left = web.run(|| ip("-oneline link show"));
    assert_eq!(left.lines().count(), 1, "loopback only: {left}");
    reached[0]
}

#[test]
fn containers_are_machines_of_the_parents_network() {
    assert!(siblings("mv-bridge", "bridge"));
}

#[test]
fn names_resolve_where_the_host_has_no_address() {
    let world = World::new("mv-names");
    world.create(&lan(r#""parent":"eth0""#));
    world.create(r#"{"Name":"six","EnableIPv4":false,"EnableIPv6":true}"#);
    let (_web, web_at) = server(&world, "web", "lan");
    let (db, _) = server(&world, "db", "lan");
    assert_eq!(db.run(|| lookup("web").unwrap()), [web_at[0]]);
    let (one, two) = (Sandbox::new("one"), Sandbox::new("two"));
    one.attach(&world, "six");
    two.attach(&world, "six");
    let found = two.run(|| lookup("one")).expect("the name exists");
    assert!(found.is_empty(), "and has no IPv4 address: {found:?}");
}

#[test]
fn a_published_port_is_not_short_cut_from_where_it_leads_nowhere() {
    let world = World::new("mv-apart");
    world.create(&lan(r#""parent":"eth0""#));
    world.create(r#"{"Name":"shop"}"#);
    let shop = Sandbox::new("shop");
    let port = r#"[{"protocol":"tcp","container_port":80,"host_port":8080}]"#;
    shop.publish(&world, "shop", port);
    shop.run(|| serve(any4(80)));
    let neighbour = Sandbox::new("neighbour");
    let namespace = neighbour.request("").netns;
    ip(&format!(
        "link add late type veth peer name eth0 netns {namespace}"
    ));
    ip("address add 198.51.100.1/24 dev late");
    ip("link set late up");
    world.netd().reconcile().unwrap();
    neighbour.run(|| {
        ip("address add 198.51.100.7/24 dev eth0");
        ip("link set eth0 up");
    });
    // A host and its own macvlan containers do not hear each other: the outside machine is the
    // router between them, without telling them of a shorter way.
    ip("route add 192.0.2.128/25 via 192.0.2.7");
    world.outside(|| {
        ip("route add 198.51.100.0/24 via 192.0.2.1");
        for (setting, value) in [
            ("conf/all/send_redirects", "0"),
            ("conf/eth0/send_redirects", "0"),
            ("ip_forward", "1"),
        ] {
            std::fs::write(format!("/proc/sys/net/ipv4/{setting}"), value).unwrap();
        }
    });
    let (web, at) = server(&world, "web", "lan");
    let seen = web.run(|| seen_by(([198, 51, 100, 1], 8080))).unwrap();
    assert_eq!(
        seen, at[0],
        "by way of the network, as from any other machine"
    );
}

#[test]
fn private_and_vepa_containers_do_not_see_each_other() {
    assert!(!siblings("mv-private", "private"));
    assert!(
        !siblings("mv-vepa", "vepa"),
        "the other end sends nothing back"
    );
}

#[test]
fn a_passthru_network_is_one_containers() {
    let world = World::new("mv-passthru");
    world.create(&lan(r#""parent":"eth0","macvlan_mode":"passthru""#));
    world.outside(|| serve(any4(80)));
    let mac = ip("-oneline link show eth0");
    let (web, at) = server(&world, "web", "lan");
    assert_eq!(web.run(|| seen_by((OUTSIDE4, 80))).unwrap(), at[0]);
    let attached = &world.netd().endpoints(None)[0];
    let own = attached.mac.unwrap().to_string();
    assert!(mac.contains(&own), "the parent's MAC address {own}: {mac}");
    let db = Sandbox::new("db");
    let error = world
        .netd()
        .attach(db.request("lan"))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("takes one container, which is web"),
        "{error}"
    );
    world
        .netd()
        .check(&attached.container_id, &attached.ifname)
        .unwrap();
}

#[test]
fn without_a_parent_containers_have_only_each_other_and_are_repaired() {
    let world = World::new("mv-dummy");
    let json = lan("")
        .replace("192.0.2", "198.51.100")
        .replace("2001:db8:", "2001:db8:1:");
    world.create(&json);
    let (web, _) = server(&world, "web", "lan");
    let (_db, at) = server(&world, "db", "lan");
    let reached = || at.iter().all(|at| web.run(|| seen_by((*at, 80))).is_ok());
    assert!(reached());
    world.outside(|| serve(any4(80)));
    assert!(web.run(|| is_refused((OUTSIDE4, 80))));

    let parent = format!("dm-{}", world.netd().network("lan").unwrap().id.short());
    world.follow();
    ip(&format!("link delete {parent}"));
    soon("parent and containers are back", || {
        web.run(|| ip_finds("eth0")) && at.iter().all(|at| web.run(|| !is_refused((*at, 80))))
    });
}

#[test]
fn a_renamed_interface_is_neither_lost_nor_left_behind() {
    let world = World::new("mv-renamed");
    world.create(&lan(r#""parent":"eth0""#));
    let (web, _) = server(&world, "web", "lan");
    let links = || {
        let shown = web.run(|| ip("-brief link show type macvlan"));
        let names = shown.lines().filter_map(|line| line.split('@').next());
        names.map(str::to_owned).collect::<Vec<_>>()
    };
    web.run(|| {
        ip("link set eth0 down");
        ip("link set eth0 name lan0");
        ip("link set lan0 up");
        // Of somebody else, under the name that ours had.
        ip("link add link lan0 name eth0 type macvlan mode bridge");
    });
    let report = world.netd().reconcile().unwrap();
    assert_eq!(report.failures, [""; 0]);
    assert_eq!(links(), ["lan0", "eth0"], "made once");
    web.run(|| ip("link delete eth0"));
    let report = world.netd().reconcile().unwrap();
    assert_eq!(report.failures, [""; 0]);
    assert_eq!(links(), ["lan0"], "not lost");
    web.detach(&world);
    assert_eq!(links(), [""; 0]);
}

fn ip_finds(link: &str) -> bool {
    let shown = Command::new("ip").args(["link", "show", link]).output();
    shown.unwrap().status.success()
}

#[test]
fn a_sub_interface_is_made_on_demand_where_the_kernel_has_vlans() {
    let world = World::new("mv-vlan");
    let create = |json: &str| {
        let request = serde_json::from_str(json).unwrap();
        world.netd().create_network(request)
    };
    let json = lan(r#""parent":"eth0.100""#);
    let has_vlans = Command::new("ip")
        .args([
            "link", "add", "link", "eth0", "name", "probe", "type", "vlan", "id", "9",
        ])
        .output()
        .unwrap();
    if !has_vlans.status.success() {
        let error = ApiError::from(create(&json).unwrap_err());
        assert_eq!(error.code, ErrorCode::Unsupported);
        assert!(
            error.message.contains("CONFIG_VLAN_8021Q"),
            "{}",
            error.message
        );
        assert!(!ip_finds("eth0.100"));
        return;
    }
    ip("link delete probe");
    create(&json).unwrap();
    let shown = ip("-details link show eth0.100");
    assert!(shown.contains("id 100") && shown.contains("UP"), "{shown}");
    world.outside(|| {
        ip("link add link eth0 name eth0.100 type vlan id 100");
        ip("link set eth0.100 up");
        ip("address delete 192.0.2.7/24 dev eth0");
        ip("address add 192.0.2.7/24 dev eth0.100");
        serve(any4(80));
    });
    let (web, at) = server(&world, "web", "lan");
    let seen = web.run(|| seen_by((OUTSIDE4, 80))).unwrap();
    assert_eq!(seen, at[0]);
    web.detach(&world);
    world.netd().remove_network("lan").unwrap();
    assert!(!ip_finds("eth0.100"));

    ip("link add link eth0 name eth0.200 type vlan id 200");
    create(&lan(r#""parent":"eth0.200""#)).unwrap();
    world.netd().remove_network("lan").unwrap();
    assert!(ip_finds("eth0.200"), "it was there before");
}

#[test]
fn ipvlan_works_where_the_kernel_has_it() {
    let world = World::new("ipvlan");
    let has_ipvlan = Command::new("ip")
        .args([
            "link", "add", "link", "eth0", "name", "probe", "type", "ipvlan",
        ])
        .output()
        .unwrap();
    for mode in ["l2", "l3", "l3s"] {
        let options = format!(r#""parent":"eth0","ipvlan_mode":"{mode}""#);
        let json = lan(&options).replace("macvlan", "ipvlan");
        let created = world
            .netd()
            .create_network(serde_json::from_str(&json).unwrap());
        if !has_ipvlan.status.success() {
            let error = ApiError::from(created.unwrap_err());
            assert_eq!(error.code, ErrorCode::Unsupported);
            assert!(error.message.contains("CONFIG_IPVLAN"), "{}", error.message);
            continue;
        }
        created.unwrap();
        let (web, _) = server(&world, "web", "lan");
        let (db, at) = server(&world, "db", "lan");
        web.run(|| seen_by((at[0], 80))).unwrap();
        web.detach(&world);
        db.detach(&world);
        world.netd().remove_network("lan").unwrap();
    }
}
