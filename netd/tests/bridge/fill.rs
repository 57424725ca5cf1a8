//! Tables that fill up with traffic are told of before they are full.

use std::net::{Ipv4Addr, UdpSocket};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::world::{Sandbox, World, soon};

/// Connections that the table has room for, and those that are begun: the table is told of from nine
/// tenths on.
const ROOM: u32 = 1_024;
const BEGUN: usize = 980;

/// One after the other, because each CPU has a share of the room and takes what it sends from that.
fn on_each_cpu(world: &World, work: impl Fn(usize, usize) + Sync) {
    let allowed = sched_getaffinity(None).unwrap();
    let cpus: Vec<usize> = (0..CpuSet::MAX_CPU)
        .filter(|n| allowed.is_set(*n))
        .collect();
    for (number, cpu) in cpus.iter().enumerate() {
        world.outside(|| {
            let mut only = CpuSet::new();
            only.set(*cpu);
            sched_setaffinity(None, &only).unwrap();
            work(number, cpus.len());
        });
    }
}

#[test]
fn a_table_of_connections_that_fills_up_is_told_of() {
    let mut world = World::new("fill");
    world.kill();
    world.config.other_connections = ROOM.try_into().unwrap();
    world.start();
    world.create(r#"{"Name":"shop"}"#);
    let web = Sandbox::new("web");
    let port = r#"[{"protocol":"udp","container_port":53,"host_port":8053}]"#;
    web.publish(&world, "shop", port);
    let told = || -> Vec<String> {
        let found = world.netd().doctor(false).unwrap().findings;
        let tables = found
            .into_iter()
            .filter(|found| found.what.starts_with("table"));
        tables
            .map(|found| format!("{}; {}", found.what, found.way_out))
            .collect()
    };
    assert_eq!(told(), [""; 0]);
    on_each_cpu(&world, |number, cpus| {
        for n in (number..BEGUN).step_by(cpus) {
            let own = (Ipv4Addr::UNSPECIFIED, 20_000 + n as u16);
            let socket = UdpSocket::bind(own).unwrap();
            socket.send_to(b"?", ("192.0.2.1", 8053)).unwrap();
        }
    });
    soon("a table is told of", || !told().is_empty());
    let told = told().join("\n");
    assert!(
        told.contains("table ct_any of the data plane has "),
        "{told}"
    );
    assert!(
        told.contains(&format!("of at most {} entries", 2 * ROOM)),
        "{told}"
    );
    assert!(told.contains("hawser service top"), "{told}");
}
