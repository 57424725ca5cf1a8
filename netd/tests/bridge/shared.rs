//! Endpoints that others have a part in, or that ask for more than a plain one: rate limits,
//! routes, addresses chosen elsewhere, interfaces made elsewhere.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use api::net::{Bandwidth, LinkBy};

use crate::traffic::{seen_by, serve};
use crate::world::{PATIENCE, Sandbox, World, address, eth0, ip, soon};

const LIMIT_BITS: u64 = 8_000_000;
const BURST_BITS: u64 = 64 << 10;
/// Takes a second and a half at the limit.
const LENGTH: usize = 1_500_000;

/// How long `LENGTH` bytes take from `client` to `server`, which serves one connection.
fn transfer(
    server: &dyn Fn(Box<dyn FnOnce() -> SocketAddr + Send>) -> SocketAddr,
    client: &dyn Fn(Box<dyn FnOnce() -> Duration + Send>) -> Duration,
) -> Duration {
    let at = server(Box::new(|| {
        let listener = TcpListener::bind("0.0.0.0:0").unwrap();
        let at = listener.local_addr().unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut buffer = vec![0; 64 << 10];
            while stream.read(&mut buffer).unwrap() > 0 {}
            stream.write_all(b".").unwrap();
        });
        at
    }));
    client(Box::new(move || {
        let mut stream = TcpStream::connect_timeout(&at, PATIENCE).unwrap();
        let start = Instant::now();
        stream.write_all(&vec![0; LENGTH]).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        stream.read_exact(&mut [0]).unwrap();
        start.elapsed()
    }))
}

#[test]
fn rates_are_limited_both_ways_and_the_limits_are_repaired() {
    let world = World::new("rate");
    world.create(r#"{"Name":"shop"}"#);
    let web = Sandbox::new("web");
    let mut request = web.request("shop");
    request.bandwidth = Some(Bandwidth {
        ingress_rate: LIMIT_BITS,
        ingress_burst: BURST_BITS,
        egress_rate: LIMIT_BITS,
        egress_burst: BURST_BITS,
    });
    let attached = world.netd().attach(request).unwrap();
    let check = || world.netd().check(&attached.container_id, &eth0());
    let inside = address(&attached, false);
    let gateway = attached.addresses[0].gateway.unwrap();
    let at = |ip: IpAddr, bound: SocketAddr| SocketAddr::new(ip, bound.port());
    let to_sandbox = || transfer(&|work| at(inside, web.run(work)), &|work| work());
    let from_sandbox = || transfer(&|work| at(gateway, work()), &|work| web.run(work));
    // The burst goes at once, and a clock may be a little early.
    let least = Duration::from_millis(1100);
    let limited = || {
        check().unwrap();
        for (way, took) in [("to", to_sandbox()), ("from", from_sandbox())] {
            assert!(took > least, "{way} the sandbox: {took:?}");
            assert!(took < PATIENCE, "{way} the sandbox: {took:?}");
        }
    };
    limited();
    let host_end = attached.host_ifname.clone().unwrap();
    let buffer = format!("rate{}", &attached.endpoint_id.as_str()[..8]);
    tc(&format!("qdisc del dev {host_end} root"));
    assert!(check().is_err());
    world.netd().reconcile().unwrap();
    check().unwrap();
    ip(&format!("link delete {buffer}"));
    let error = check().unwrap_err().to_string();
    assert!(error.contains("a rate limit is missing"), "{error}");
    world.netd().reconcile().unwrap();
    limited();
    assert_eq!(world.netd().reconcile().unwrap(), netd::Report::default());
    web.detach(&world);
    soon("the buffer is gone", || !ip("link").contains(&buffer));
}

fn tc(arguments: &str) {
    let status = Command::new("tc").args(arguments.split(' ')).status();
    assert!(status.unwrap().success(), "tc {arguments}");
}

#[test]
fn routes_and_addresses_are_taken_as_given() {
    let world = World::new("routes");
    world.create(r#"{"Name":"shop","IPAM":{"Config":[{"Subnet":"10.8.0.0/24"}]}}"#);
    let web = Sandbox::new("web");
    let mut request = web.request("shop");
    request.addresses =
        serde_json::from_str(r#"[{"address":"10.8.0.77/24","gateway":"10.8.0.1"}]"#).unwrap();
    request.routes = serde_json::from_str(
        r#"[{"dst":"192.0.2.0/24","gateway":"10.8.0.1","mtu":1400,"advmss":1300,"priority":7},
            {"dst":"198.51.100.0/24","gateway":null,"scope":253},
            {"dst":"0.0.0.0/0","gateway":"10.8.0.1","table":1000}]"#,
    )
    .unwrap();
    let attached = world.netd().attach(request).unwrap();
    assert_eq!(attached.addresses[0].address.to_string(), "10.8.0.77/24");
    let routes = web.run(|| ip("-4 route show table all dev eth0"));
    for expected in [
        "192.0.2.0/24 via 10.8.0.1 metric 7 mtu 1400 advmss 1300",
        "198.51.100.0/24 scope link",
        "default via 10.8.0.1 table 1000",
    ] {
        assert!(routes.contains(expected), "{expected} in {routes}");
    }
    assert!(!web.run(|| ip("-4 route")).contains("default"));
    let other = Sandbox::new("other");
    let mut request = other.request("shop");
    for (given, part) in [
        ("10.8.0.77/24", "in use on network shop by container web"),
        ("10.9.0.7/24", "is not in a subnet of network shop"),
        ("10.8.0.1/24", "gateway"),
    ] {
        let given = format!(r#"[{{"address":"{given}","gateway":null}}]"#);
        request.addresses = serde_json::from_str(&given).unwrap();
        let error = world.netd().attach(request.clone()).unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
    }
}

#[test]
fn an_interface_made_by_others_gets_ports_and_names() {
    let world = World::new("others");
    world.create(r#"{"Name":"shop"}"#);
    let web = Sandbox::new("web");
    let mut request = web.request("shop");
    // As another plugin would have done it.
    let inside = &request.netns;
    ip(&format!(
        "link add theirs type veth peer name eth0 netns {inside}"
    ));
    ip("address add 10.77.0.1/24 dev theirs");
    ip("link set theirs up");
    web.run(|| {
        ip("link set lo up");
        ip("address add 10.77.0.2/24 dev eth0");
        ip("link set eth0 up");
        ip("route add default via 10.77.0.1");
        serve("0.0.0.0:80".parse::<SocketAddr>().unwrap());
    });
    request.link = LinkBy::Others;
    request.addresses =
        serde_json::from_str(r#"[{"address":"10.77.0.2/24","gateway":"10.77.0.1"}]"#).unwrap();
    request.ports =
        serde_json::from_str(r#"[{"protocol":"tcp","container_port":80,"host_port":8080}]"#)
            .unwrap();
    let attached = world.netd().attach(request.clone()).unwrap();
    assert_eq!(world.netd().attach(request).unwrap(), attached, "again");
    assert_eq!((attached.host_ifname, attached.mac), (None, None));
    let host4: IpAddr = "192.0.2.1".parse().unwrap();
    let outside4: IpAddr = "192.0.2.7".parse().unwrap();
    assert_eq!(world.outside(|| seen_by((host4, 8080))).unwrap(), outside4);
    let peer = Sandbox::new("peer");
    peer.attach(&world, "shop");
    let answer = peer.run(|| crate::dns_query::lookup("web")).unwrap();
    assert_eq!(answer, [std::net::Ipv4Addr::new(10, 77, 0, 2)]);
    world.netd().check(&attached.container_id, &eth0()).unwrap();
    web.detach(&world);
    assert!(
        ip("link show theirs").contains("theirs"),
        "not ours to remove"
    );
    assert!(world.outside(|| seen_by((host4, 8080))).is_err());
}
