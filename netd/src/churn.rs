//! Many endpoints that come and go, on the fake kernel: nothing is left, nothing is given twice,
//! and nobody waits for what is dead.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

use api::id::MacAddr;
use api::{ApiError, ErrorCode};

use crate::fake::End;
use crate::netd::Netd;
use crate::scenario::{World, eth0, network, request};

fn plain(network: &str, inode: u64) -> api::net::AttachRequest {
    let mut request = request(network, &format!("c{inode}"), inode);
    request.ports.clear();
    request
}

#[test]
fn an_interrupted_departure_is_finished_by_the_next_daemon() {
    for end in [End::Killed, End::Refuses] {
        for steps in 0.. {
            let world = World::new();
            let netd = world.start().unwrap();
            netd.create_network(network(r#"{"Name":"shop"}"#)).unwrap();
            let before = world.kernel.snapshot();
            netd.attach(request("shop", "web", 10)).unwrap();
            world.kernel.end_after(Some((steps, end)));
            let done = catch_unwind(AssertUnwindSafe(|| netd.detach("web", &eth0())));
            let through = world.kernel.snapshot() == before;
            drop(netd);
            world.kernel.end_after(None);
            let netd = world.start().unwrap();
            assert!(netd.endpoints(None).is_empty());
            assert_eq!(world.kernel.snapshot(), before, "after {steps} steps");
            assert_eq!(netd.departures.len(), 0);
            netd.attach(request("shop", "web", 10)).unwrap();
            if through {
                assert!(matches!(done, Ok(Ok(()))), "{done:?}");
                assert!(steps > 4, "a detach has more steps than {steps}");
                break;
            }
        }
    }
}

#[test]
fn a_departure_that_is_refused_holds_nobody_up() {
    let world = World::new();
    let netd = world.start().unwrap();
    netd.create_network(network(r#"{"Name":"shop"}"#)).unwrap();
    let before = world.kernel.snapshot();
    let first = netd.attach(plain("shop", 10)).unwrap();
    // Resolver, guard and link are taken away; the deletion of the link is refused.
    world.kernel.end_after(Some((3, End::Refuses)));
    netd.detach("c10", &eth0()).unwrap();
    world.kernel.end_after(None);
    assert_eq!(netd.departures.len(), 1);
    assert_ne!(world.kernel.snapshot(), before, "the link is still there");
    let mut other = plain("shop", 11);
    other.ipv4 = Some("172.18.0.2".parse().unwrap());
    let other = netd.attach(other).unwrap();
    assert_eq!(other.addresses, first.addresses, "free although resting");
    netd.detach("c11", &eth0()).unwrap();
    netd.reconcile().unwrap();
    assert_eq!(netd.departures.len(), 0);
    assert_eq!(world.kernel.snapshot(), before);
}

#[test]
fn an_attach_that_waits_for_an_interface_holds_nobody_up() {
    let world = World::new();
    let netd = world.start_threaded().unwrap();
    netd.create_network(network(r#"{"Name":"shop"}"#)).unwrap();
    netd.attach(plain("shop", 10)).unwrap();
    let deletions = world.kernel.hold_deletions();
    netd.detach("c10", &eth0()).unwrap();
    let looks = world.kernel.looks_inside();
    std::thread::scope(|scope| {
        let again = scope.spawn(|| netd.attach(plain("shop", 10)));
        while world.kernel.looks_inside() == looks {
            std::thread::yield_now();
        }
        netd.attach(plain("shop", 11)).unwrap();
        netd.detach("c11", &eth0()).unwrap();
        assert!(!again.is_finished(), "its interface has not left yet");
        drop(deletions);
        again.join().unwrap().unwrap();
    });
    assert_eq!(netd.endpoints(None).len(), 1);
}

#[test]
fn an_exhausted_subnet_gives_what_the_dead_hold() {
    let world = World::new();
    let netd = world.start().unwrap();
    let tiny = r#"{"Name":"tiny","IPAM":{"Config":[{"Subnet":"10.9.0.0/29"}]}}"#;
    netd.create_network(network(tiny)).unwrap();
    for inode in 10..15 {
        netd.attach(plain("tiny", inode)).unwrap();
    }
    let error = ApiError::from(netd.attach(plain("tiny", 15)).unwrap_err());
    assert_eq!(error.code, ErrorCode::Exhausted);
    assert_eq!(
        error.message,
        "network tiny has no free address left in 10.9.0.0/29: remove containers, or use a network \
         with a larger --subnet"
    );
    world.kernel.remove_namespace("/run/netns/n12");
    let heir = netd.attach(plain("tiny", 15)).unwrap();
    assert_eq!(heir.addresses[0].address.to_string(), "10.9.0.4/29");
    assert_eq!(netd.endpoints(Some("c12")), []);
}

#[test]
fn ports_addresses_and_mac_of_the_dead_are_free_at_need() {
    let world = World::new();
    let netd = world.start().unwrap();
    netd.create_network(network(r#"{"Name":"shop"}"#)).unwrap();
    let dead = netd.attach(request("shop", "web", 10)).unwrap();
    let mut heir = request("shop", "db", 11);
    heir.ports[0].host_port = 8010;
    heir.ipv4 = Some("172.18.0.2".parse().unwrap());
    heir.mac = dead.mac;
    let error = netd.attach(heir.clone()).unwrap_err();
    assert!(error.to_string().contains("container web"), "{error}");
    world.kernel.remove_namespace("/run/netns/n10");
    let heir = netd.attach(heir).unwrap();
    assert_eq!(heir.addresses, dead.addresses);
    assert_eq!(heir.ports, dead.ports);
}

#[test]
fn a_reboot_leaves_networks_and_no_lease() {
    let mut world = World::new();
    let netd = world.start().unwrap();
    let tiny = r#"{"Name":"tiny","IPAM":{"Config":[{"Subnet":"10.9.0.0/29"}]}}"#;
    netd.create_network(network(tiny)).unwrap();
    let before = world.kernel.snapshot();
    for inode in 10..15 {
        netd.attach(request("tiny", &format!("c{inode}"), inode))
            .unwrap();
    }
    netd.detach("c14", &eth0()).unwrap();
    drop(netd);
    world.reboot();
    let netd = world.start().unwrap();
    assert!(netd.endpoints(None).is_empty());
    assert_eq!(world.kernel.snapshot(), before, "the network is made anew");
    // Every address and port is free, under the same names and in the same namespaces.
    for inode in 10..15 {
        netd.attach(request("tiny", &format!("c{inode}"), inode))
            .unwrap();
    }
}

#[test]
fn attaches_at_once_never_share_an_address() {
    let world = World::new();
    let netd = world.start().unwrap();
    let small = r#"{"Name":"small","EnableIPv6":true,
                    "IPAM":{"Config":[{"Subnet":"10.9.0.0/26"}]}}"#;
    netd.create_network(network(small)).unwrap();
    let inodes = 100..161_u64;
    for inode in inodes.clone() {
        let path = format!("/run/netns/n{inode}");
        world.kernel.add_namespace(&path, inode);
    }
    let attached: Vec<_> = std::thread::scope(|scope| {
        let netd = &netd;
        let attach = |inode| scope.spawn(move || netd.attach(plain("small", inode)).unwrap());
        let threads: Vec<_> = inodes.map(attach).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    let addresses: BTreeSet<_> = attached
        .iter()
        .flat_map(|a| a.addresses.iter().map(|a| a.address))
        .collect();
    assert_eq!(addresses.len(), 2 * attached.len());
    assert_eq!(attached.len(), 61, "the subnet is full");
    assert!(netd.attach(plain("small", 10)).is_err());
}

#[test]
fn ten_thousand_come_and_go_without_a_trace() {
    let world = World::in_memory();
    let netd = world.start().unwrap();
    let small = r#"{"Name":"small","IPAM":{"Config":[{"Subnet":"10.9.0.0/28"}]}}"#;
    netd.create_network(network(small)).unwrap();
    let before = world.kernel.snapshot();
    for round in 0..2_000 {
        let mut addresses = BTreeSet::new();
        for inode in 10..15 {
            let attached = netd.attach(request("small", &format!("c{round}x{inode}"), inode));
            addresses.insert(attached.unwrap().addresses[0].address);
        }
        assert_eq!(addresses.len(), 5);
        for inode in 10..15 {
            netd.detach(&format!("c{round}x{inode}"), &eth0()).unwrap();
        }
    }
    assert_eq!(world.kernel.snapshot(), before);
    assert!(netd.endpoints(None).is_empty());
    assert_eq!(netd.departures.len(), 0);
    netd.remove_network("small").unwrap();
    assert!(netd.store.endpoints().unwrap().is_empty());
    assert!(netd.store.departures().unwrap().is_empty());
    assert!(netd.store.cursors().unwrap().is_empty(), "of no network");
    let size = std::fs::metadata(world.path("endpoints.redb"))
        .unwrap()
        .len();
    assert!(size < 4 << 20, "the records' file has {size} bytes");
}

#[test]
fn neighbours_are_told_of_what_they_may_remember_otherwise() {
    let world = World::new();
    let netd = world.start().unwrap();
    for name in ["shop", "other"] {
        let json = format!(r#"{{"Name":"{name}"}}"#);
        netd.create_network(network(&json)).unwrap();
    }
    let come_and_go = |netd: &Netd, network: &str, mac: Option<MacAddr>| {
        let mut request = plain(network, 10);
        request.mac = mac;
        let addresses = netd.attach(request).unwrap().addresses;
        netd.detach("c10", &eth0()).unwrap();
        let told = world.kernel.take_announced();
        assert!(told.is_empty() || told == [addresses[0].address.addr()]);
        !told.is_empty()
    };
    assert!(
        !come_and_go(&netd, "shop", None),
        "addresses tell link addresses"
    );
    let chosen = MacAddr([0x02, 0, 0, 0, 0, 1]);
    assert!(come_and_go(&netd, "shop", Some(chosen)));
    assert!(
        come_and_go(&netd, "shop", None),
        "it may be one that had another"
    );
    drop(netd);
    let netd = world.start().unwrap();
    assert!(
        come_and_go(&netd, "shop", None),
        "whoever remembers outlives the daemon"
    );
    assert!(!come_and_go(&netd, "other", None));
}
