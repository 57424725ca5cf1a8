//! What the programs at endpoints' links do for a whole daemon.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::process::Command;

use api::net::Attachment;

use crate::dns_query::{ask_tcp, ask_udp, lookup};
use crate::world::{PATIENCE, Sandbox, World, address, ip, soon};

/// The value of a series.
#[track_caller]
fn metric(world: &World, series: &str) -> u64 {
    let mut text = String::new();
    world.netd().metrics(&mut text);
    let line = text.lines().find_map(|line| line.strip_prefix(series));
    let value = line.unwrap_or_else(|| panic!("no {series} in {text}"));
    value.trim().parse().unwrap()
}

const REFUSED: &str = "hawser_endpoint_refused_packets_total";

fn filters(attachment: &Attachment) -> usize {
    let link = attachment.host_ifname.as_ref().unwrap().as_str();
    let out = Command::new("tc")
        .args(["filter", "show", "dev", link, "ingress"])
        .output()
        .unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    text.matches("direct-action").count()
}

fn v4(attachment: &Attachment) -> Ipv4Addr {
    match address(attachment, false) {
        IpAddr::V4(address) => address,
        IpAddr::V6(_) => unreachable!("asked for IPv4"),
    }
}

/// Sends from an address that is not the sandbox's, to its gateway.
fn forge(sandbox: &Sandbox, attachment: &Attachment) {
    let gateway = attachment.addresses[0].gateway.unwrap();
    let [a, b, ..] = v4(attachment).octets();
    let forged = Ipv4Addr::new(a, b, 99, 99);
    sandbox.run(|| {
        ip(&format!("address add {forged}/32 dev eth0"));
        let socket = UdpSocket::bind((forged, 0)).unwrap();
        socket.send_to(b"forged", (gateway, 9)).unwrap();
        ip(&format!("address del {forged}/32 dev eth0"));
    });
}

#[test]
fn containers_send_in_their_own_name_unless_the_network_lets_them() {
    let world = World::new("spoof");
    world.create(r#"{"Name":"strict"}"#);
    world.create(r#"{"Name":"lenient","Options":{"hawser.spoof-check":"false"}}"#);
    let (strict, lenient) = (Sandbox::new("strict"), Sandbox::new("lenient"));
    let at = lenient.attach(&world, "lenient");
    let gateway = at.addresses[0].gateway.unwrap();
    let heard = UdpSocket::bind((gateway, 9)).unwrap();
    heard.set_read_timeout(Some(PATIENCE)).unwrap();
    forge(&lenient, &at);
    let (_, from) = heard.recv_from(&mut [0; 16]).unwrap();
    assert_ne!(from.ip(), address(&at, false), "it may");

    let at = strict.attach(&world, "strict");
    forge(&strict, &at);
    // Forged is the packet, and the question for the gateway's link address before it.
    soon("the packet is refused", || {
        ["ipv4", "arp"]
            .iter()
            .any(|reason| metric(&world, &format!("{REFUSED}{{reason=\"{reason}\"}}")) > 0)
    });
}

#[test]
fn programs_are_attached_again_wherever_they_are_missing() {
    let mut world = World::new("edge-repair");
    world.create(r#"{"Name":"shop"}"#);
    let web = Sandbox::new("web");
    let at = web.attach(&world, "shop");
    let link = at.host_ifname.clone().unwrap();
    assert_eq!(filters(&at), 1);
    let remove = || {
        let arguments = ["filter", "del", "dev", link.as_str(), "ingress"];
        let done = Command::new("tc").args(arguments).status().unwrap();
        assert!(done.success());
        assert_eq!(filters(&at), 0);
    };
    remove();
    let report = world.netd().reconcile().unwrap();
    assert_eq!((report.repaired, filters(&at)), (1, 1), "{report:?}");
    // As left by a version that had no such program.
    world.kill();
    remove();
    std::fs::remove_file(world.pin("endpoints")).unwrap();
    world.start();
    assert_eq!(filters(&at), 1, "adopted");
    assert_eq!(world.netd().reconcile().unwrap().repaired, 0);
    web.run(|| lookup("web").unwrap());
    web.detach(&world);
    assert_eq!(world.netd().reconcile().unwrap().repaired, 0);
}

#[test]
fn endpoints_have_counters_both_ways() {
    let world = World::new("edge-traffic");
    world.create(r#"{"Name":"shop"}"#);
    let web = Sandbox::new("web");
    let at = web.attach(&world, "shop");
    let gateway = at.addresses[0].gateway.unwrap();
    let labels = format!(
        "{{container=\"{}\",interface=\"eth0\",network=\"shop\"}}",
        at.container_id
    );
    let count = |what: &str| metric(&world, &format!("hawser_endpoint_{what}_total{labels}"));
    let (sent, received) = (count("transmit_bytes"), count("receive_bytes"));
    let host = UdpSocket::bind((gateway, 0)).unwrap();
    host.set_read_timeout(Some(PATIENCE)).unwrap();
    let to = host.local_addr().unwrap();
    let socket = web.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.send_to(&[0; 1000], to).unwrap();
        socket
    });
    let (_, from) = host.recv_from(&mut [0; 1000]).unwrap();
    host.send_to(&[0; 500], from).unwrap();
    socket.recv_from(&mut [0; 1000]).unwrap();
    assert!(count("transmit_bytes") >= sent + 1042);
    assert!(count("receive_bytes") >= received + 542);
    assert!(count("transmit_packets") > 0 && count("receive_packets") > 0);
}

fn answered(world: &World) -> u64 {
    ["a", "aaaa", "nodata"]
        .iter()
        .map(|kind| {
            let name = "hawser_dns_answered_at_link_total";
            metric(world, &format!("{name}{{answer=\"{kind}\"}}"))
        })
        .sum()
}

#[test]
fn names_resolve_at_the_link_and_without_the_daemon() {
    let mut world = World::new("edge-names");
    world.create(r#"{"Name":"shop"}"#);
    world.create(r#"{"Name":"back"}"#);
    let (web, db, other) = (
        Sandbox::new("web"),
        Sandbox::new("db"),
        Sandbox::new("other"),
    );
    web.attach(&world, "shop");
    let at = db.attach(&world, "shop");
    other.attach(&world, "back");
    let ask = |name: &str| web.run(|| lookup(name));
    let db_address = Ok(vec![v4(&at)]);
    assert_eq!(ask("db"), db_address);
    assert_eq!(ask("db.shop"), db_address);
    assert_eq!(answered(&world), 2, "both at the link");
    assert!(ask("other").is_err(), "names do not cross networks");
    assert_eq!(answered(&world), 2, "the daemon answered that");

    world.kill();
    assert_eq!(ask("DB"), db_address, "nobody but the program is there");
    world.start();
    assert_eq!(answered(&world), 3);
    assert_eq!(ask("db"), db_address);

    db.detach(&world);
    assert!(ask("db").is_err(), "gone when the detach has returned");
    let again = db.attach(&world, "shop");
    assert_eq!(ask("db"), Ok(vec![v4(&again)]), "there when the attach has");
    web.detach(&world);
    db.detach(&world);
    other.detach(&world);
    let names = "hawser_dns_names_at_link";
    assert_eq!(metric(&world, names), 0, "nothing is left");
}

/// A query for one name, with an OPT record that ends it if there is one.
fn query(name: &str, kind: u16, flags: [u8; 2], opt: Option<&[u8]>) -> Vec<u8> {
    const INTERNET: u16 = 1;
    let mut message = vec![0xab, 0xcd, flags[0], flags[1], 0, 1, 0, 0, 0, 0, 0];
    message.push(u8::from(opt.is_some()));
    for label in name.split('.') {
        message.push(u8::try_from(label.len()).unwrap());
        message.extend(label.as_bytes());
    }
    message.push(0);
    message.extend([kind.to_be_bytes(), INTERNET.to_be_bytes()].concat());
    message.extend(opt.unwrap_or_default());
    message
}

#[test]
fn the_link_and_the_daemon_answer_alike() {
    const A: u16 = 1;
    const AAAA: u16 = 28;
    const OPT: [u8; 11] = [0, 0, 41, 0x04, 0xd0, 0, 0, 0, 0, 0, 0];
    let cookie = [
        &OPT[..10],
        &[12, 0, 10, 0, 8],
        b"\x01\x02\x03\x04\x05\x06\x07\x08",
    ]
    .concat();
    let world = World::new("edge-alike");
    world.create(r#"{"Name":"both","EnableIPv6":true}"#);
    world.create(r#"{"Name":"four"}"#);
    world.create(r#"{"Name":"six","EnableIPv4":false,"EnableIPv6":true}"#);
    let pairs = ["both", "four", "six"].map(|network| {
        let [asker, db] = ["asker", "db"].map(|name| Sandbox::new(&format!("{name}-{network}")));
        asker.attach(&world, network);
        db.attach(&world, network);
        (network, asker, db)
    });
    for (network, asker, _db) in &pairs {
        let plain = format!("db-{network}");
        let names = [
            plain.clone(),
            plain.to_uppercase(),
            format!("Db-{network}.{network}"),
        ];
        for name in &names {
            for (kind, flags, opt) in [
                (A, [1, 0], None),
                (AAAA, [1, 0], None),
                (A, [0, 0], None),
                (AAAA, [1, 0x20], None),
                (A, [1, 0x10], Some(&OPT[..])),
                (AAAA, [1, 0], Some(&OPT[..])),
                (A, [1, 0], Some(&cookie[..])),
                (AAAA, [1, 0], Some(&cookie[..])),
            ] {
                let message = query(name, kind, flags, opt);
                let before = answered(&world);
                let udp = asker.run(|| ask_udp(Ipv4Addr::UNSPECIFIED, &message));
                // The one who asks has no IPv4 address there, by which the programs know it.
                let at_link = u64::from(*network != "six");
                let what = format!("{name} {kind} {flags:?} {opt:?}");
                assert_eq!(answered(&world), before + at_link, "{what}");
                assert_eq!(udp, asker.run(|| ask_tcp(&message)), "{what}");
            }
        }
    }
}

/// The link address that the sandbox remembers for `address`.
fn remembered(sandbox: &Sandbox, address: IpAddr) -> Option<String> {
    let shown = sandbox.run(|| ip(&format!("neigh show to {address}")));
    let (_, rest) = shown.split_once("lladdr ")?;
    rest.split_whitespace().next().map(str::to_owned)
}

#[test]
fn neighbours_learn_at_once_who_has_an_address_now() {
    let world = World::new("announce");
    world.create(r#"{"Name":"shop","EnableIPv6":true}"#);
    let (web, client) = (Sandbox::new("web"), Sandbox::new("client"));
    client.attach(&world, "shop");
    let mut request = web.request("shop");
    request.mac = Some("02:11:22:33:44:55".parse().unwrap());
    let first = world.netd().attach(request).unwrap();
    let both = [address(&first, false), address(&first, true)];
    client.run(|| {
        for address in both {
            let socket = UdpSocket::bind((any(address), 0)).unwrap();
            socket.send_to(b"who is there?", (address, 9)).unwrap();
        }
    });
    for address in both {
        soon("the client learns the address", || {
            remembered(&client, address).as_deref() == Some("02:11:22:33:44:55")
        });
    }
    web.detach(&world);

    let next = Sandbox::new("next");
    let mut request = next.request("shop");
    (request.ipv4, request.ipv6) = (Some(v4(&first)), v6(&first));
    let second = world.netd().attach(request).unwrap();
    let now = second.mac.unwrap().to_string();
    // The client sends nothing: by itself it would remember the old one for as long as it lives.
    for address in both {
        soon("the client learns of the change", || {
            remembered(&client, address) == Some(now.clone())
        });
    }
}

fn v6(attachment: &Attachment) -> Option<Ipv6Addr> {
    match address(attachment, true) {
        IpAddr::V4(_) => None,
        IpAddr::V6(address) => Some(address),
    }
}

fn any(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}
