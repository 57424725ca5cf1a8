//! Links that follow the underlay.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::parent::{lan, on_lan};
use super::{World, eth0, network, request};
use crate::Report;
use crate::fake::End;

#[test]
fn a_crash_while_following_the_mtu_is_completed() {
    for steps in 0..6 {
        for end in [End::Killed, End::Refuses] {
            let world = World::new();
            let netd = world.start().unwrap();
            netd.create_network(network(r#"{"Name":"shop"}"#)).unwrap();
            netd.create_network(lan(r#""parent":"eth0""#)).unwrap();
            netd.attach(request("shop", "web", 10)).unwrap();
            netd.attach(on_lan("db", 11)).unwrap();
            world.kernel.edit(|observed| {
                observed.underlay_mtu = Some(1400);
                observed.links.get_mut(&eth0()).unwrap().mtu = 1400;
            });
            world.kernel.end_after(Some((steps, end)));
            let _ended = catch_unwind(AssertUnwindSafe(|| netd.reconcile()));
            drop(netd);
            world.kernel.end_after(None);
            let netd = world.start().unwrap();
            assert!(netd.endpoints(None).iter().all(|e| e.mtu == 1400));
            assert_eq!(netd.reconcile().unwrap(), Report::default());
            assert!(!format!("{:?}", world.kernel.snapshot()).contains("1500, Some"));
            for (container, inode) in [("web", 10), ("db", 11)] {
                assert_eq!(world.kernel.inside_mtu(inode, &eth0()), 1400, "{container}");
            }
        }
    }
}

#[test]
fn an_explicit_mtu_stays_and_a_new_container_gets_the_present_one() {
    let world = World::new();
    let netd = world.start().unwrap();
    netd.create_network(network(
        r#"{"Name":"fixed","Options":{"com.docker.network.driver.mtu":"1450"}}"#,
    ))
    .unwrap();
    netd.create_network(network(r#"{"Name":"shop"}"#)).unwrap();
    world
        .kernel
        .edit(|observed| observed.underlay_mtu = Some(9000));
    netd.reconcile().unwrap();
    let mtu = |name: &str, inode| netd.attach(request(name, name, inode)).unwrap().mtu;
    assert_eq!(mtu("fixed", 10), 1450);
    assert_eq!(mtu("shop", 11), 9000);
    let listed = netd.network("bridge").unwrap().options;
    assert_eq!(listed["com.docker.network.driver.mtu"], "9000");
}
