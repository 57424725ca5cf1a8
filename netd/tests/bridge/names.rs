//! Names as a container finds them, whichever way its questions take.

use std::net::{IpAddr, Ipv4Addr, TcpListener, UdpSocket};

use api::net::{EndpointRename, Link};

use crate::dns_query::{lookup, lookup_from};
use crate::world::{Sandbox, World, address, eth0, soon};

const LOOPBACK: Ipv4Addr = Ipv4Addr::LOCALHOST;

#[test]
fn a_socket_bound_to_loopback_is_answered_inside() {
    let mut world = World::new("loopback-dns");
    world.create(r#"{"Name":"shop"}"#);
    let (web, db) = (Sandbox::new("web"), Sandbox::new("db"));
    let at = address(&web.attach(&world, "shop"), false);
    db.attach(&world, "shop");
    let asks = |source| db.run(|| lookup_from(source, "web"));
    assert_eq!(asks(LOOPBACK).unwrap(), [at]);
    assert_eq!(asks(Ipv4Addr::UNSPECIFIED).unwrap(), [at]);
    // A name server of the container's own is not in the way, and none is in its.
    db.run(|| {
        let _udp = UdpSocket::bind("0.0.0.0:53").unwrap();
        let _tcp = TcpListener::bind("0.0.0.0:53").unwrap();
        assert_eq!(lookup("web").unwrap(), [at]);
        assert_eq!(lookup_from(LOOPBACK, "web").unwrap(), [at]);
    });
    world.kill();
    world.start();
    assert_eq!(asks(LOOPBACK).unwrap(), [at], "after a restart");
    assert_eq!(world.netd().reconcile().unwrap(), netd::Report::default());
}

#[test]
fn without_hooks_the_resolver_is_inside_each_sandbox() {
    let mut world = World::without_hooks("hookless");
    world.create(r#"{"Name":"front"}"#);
    world.create(r#"{"Name":"back"}"#);
    let (web, db, proxy) = (
        Sandbox::new("web"),
        Sandbox::new("db"),
        Sandbox::new("proxy"),
    );
    let web_at = web.attach(&world, "front");
    let db_at = address(&db.attach(&world, "back"), false);
    proxy.attach(&world, "front");
    assert_eq!(web_at.dns.nameservers, [IpAddr::from([127, 0, 0, 11])]);
    let web_at = address(&web_at, false);
    let check = |world: &World, both: bool| {
        for source in [LOOPBACK, Ipv4Addr::UNSPECIFIED] {
            let asks = |who: &Sandbox, name| who.run(|| lookup_from(source, name));
            assert_eq!(asks(&proxy, "web").unwrap(), [web_at]);
            assert_eq!(
                asks(&proxy, "db").is_ok(),
                both,
                "only for those on its network"
            );
            assert!(asks(&web, "db").is_err());
            assert_eq!(asks(&db, "db").unwrap(), [db_at]);
        }
        assert_eq!(world.netd().reconcile().unwrap(), netd::Report::default());
    };
    check(&world, false);
    let mut second = proxy.request("back");
    second.ifname = "eth1".parse().unwrap();
    world.netd().attach(second.clone()).unwrap();
    check(&world, true);
    world.kill();
    world.start();
    check(&world, true);
    world
        .netd()
        .detach(&second.container_id, &second.ifname)
        .unwrap();
    check(&world, false);
    proxy.detach(&world);
    let free = || proxy.run(|| UdpSocket::bind("127.0.0.11:53").is_ok());
    soon("nothing is left inside", free);
}

#[test]
fn a_namespace_that_only_the_resolver_holds_is_let_go() {
    let world = World::without_hooks("held");
    world.follow();
    world.create(r#"{"Name":"shop"}"#);
    let web = Sandbox::new("web");
    let host_end = web.attach(&world, "shop").host_ifname.unwrap();
    drop(web);
    soon("the endpoint is collected", || {
        world.netd().endpoints(None).is_empty()
    });
    let link = format!("/sys/class/net/{host_end}");
    soon("its link is gone", || !std::path::Path::new(&link).exists());
}

#[test]
fn a_rename_moves_the_name_and_a_link_follows_the_container() {
    let world = World::new("rename");
    world.create(r#"{"Name":"shop"}"#);
    let (web, db, other) = (
        Sandbox::new("web"),
        Sandbox::new("db"),
        Sandbox::new("other"),
    );
    let at = address(&web.attach(&world, "shop"), false);
    let mut request = db.request("shop");
    request.links = vec![Link {
        container: web.request("").container_id,
        alias: "foo".to_owned(),
    }];
    world.netd().attach(request).unwrap();
    other.attach(&world, "shop");
    let asks = |who: &Sandbox, name: &str| who.run(|| lookup(name));
    assert_eq!(asks(&db, "foo").unwrap(), [at]);
    assert!(asks(&other, "foo").is_err(), "it is db's own name for it");
    let rename = EndpointRename {
        container_id: web.request("").container_id,
        name: "www".to_owned(),
    };
    world.netd().rename(&rename).unwrap();
    assert!(asks(&db, "web").is_err());
    assert_eq!(asks(&db, "www").unwrap(), [at]);
    assert_eq!(asks(&db, "foo").unwrap(), [at]);
    // It starts again, elsewhere.
    let id = web.request("").container_id;
    world.netd().detach(&id, &eth0()).unwrap();
    assert!(asks(&db, "foo").is_err());
    let again = Sandbox::new("web");
    let moved = address(&again.attach(&world, "shop"), false);
    assert_ne!(moved, at);
    assert_eq!(asks(&db, "foo").unwrap(), [moved]);
}

#[test]
fn the_default_network_forwards_but_knows_no_names() {
    let world = World::new("nameless");
    let (web, db) = (Sandbox::new("web"), Sandbox::new("db"));
    web.attach(&world, "bridge");
    db.attach(&world, "bridge");
    // An internal server of the host's is asked by the daemon, in the host's namespace.
    let error = db.run(|| lookup("web")).unwrap_err();
    assert_ne!(
        error,
        domain::base::iana::Rcode::REFUSED,
        "an endpoint is no stranger"
    );
}
