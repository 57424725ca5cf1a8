//! Thousands of published ports: one binding, a handful of map entries.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};
use std::time::Instant;

use sys::kernel::is_linux;

use crate::traffic::{is_refused, seen_by, serve};
use crate::world::{Sandbox, World};

const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const RANGE: &str = r#"[{"protocol":"tcp","container_port":3000,"host_port":8000,"count":10000}]"#;

#[test]
fn every_port_of_a_range_answers_and_none_can_be_bound() {
    let world = World::new("range");
    let web = Sandbox::new("web");
    let begin = Instant::now();
    web.publish(&world, "bridge", RANGE);
    println!("attached with 10000 ports in {:?}", begin.elapsed());
    web.run(|| {
        for port in [3000, 7123, 12_999] {
            serve((Ipv4Addr::UNSPECIFIED, port));
        }
    });
    for port in [8000, 12_123, 17_999] {
        world.outside(|| seen_by((HOST, port))).unwrap();
        seen_by((Ipv4Addr::LOCALHOST, port)).unwrap();
        seen_by((Ipv6Addr::LOCALHOST, port)).unwrap();
    }
    assert!(world.outside(|| is_refused((HOST, 8001))), "nobody listens");
    let refusal = if is_linux(6, 1) {
        ErrorKind::AddrInUse
    } else {
        ErrorKind::PermissionDenied
    };
    for port in [8000, 12_345, 17_999] {
        let bound = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port));
        assert_eq!(bound.unwrap_err().kind(), refusal, "{port}");
    }
    drop(TcpListener::bind((Ipv4Addr::UNSPECIFIED, 7999)).unwrap());

    let other = Sandbox::new("other");
    let mut clash = other.request("bridge");
    clash.ports = serde_json::from_str(&RANGE.replace("8000", "17999")).unwrap();
    let error = world.netd().attach(clash).unwrap_err().to_string();
    assert_eq!(
        error,
        "port 17999/tcp is already allocated: published by container web"
    );
    assert_eq!(world.netd().reconcile().unwrap(), netd::Report::default());

    let begin = Instant::now();
    web.detach(&world);
    println!("detached in {:?}", begin.elapsed());
    assert!(world.outside(|| is_refused((HOST, 8000))));
    drop(TcpListener::bind((Ipv4Addr::UNSPECIFIED, 12_345)).unwrap());
    assert_eq!(world.netd().reconcile().unwrap(), netd::Report::default());
}
