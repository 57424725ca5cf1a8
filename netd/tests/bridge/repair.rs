//! What others destroy is noticed and made anew while they still look, and nothing of theirs is
//! touched.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use api::net::Attachment;
use sys::kernel::is_linux;

use crate::traffic::{seen_by, serve};
use crate::world::{PATIENCE, Sandbox, World, address, eth0, ip, soon};

const HOST4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// From the damage to the repair.
const PROMISE: Duration = Duration::from_secs(1);
/// A machine that runs other things may be late now and then.
const ATTEMPTS: usize = 4;

fn run(program: &str, arguments: &str) -> String {
    let output = Command::new(program).args(arguments.split(' ')).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {arguments}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// A published container on a network with both families, and a daemon that follows the kernel.
struct Shop {
    world: World,
    web: Sandbox,
    at: Attachment,
    bridge: String,
}

impl Shop {
    fn open(name: &str) -> Self {
        let world = World::new(name);
        world.create(r#"{"Name":"shop","EnableIPv6":true}"#);
        let web = Sandbox::new("web");
        let port = r#"[{"protocol":"tcp","container_port":80,"host_port":8080}]"#;
        let at = web.publish(&world, "shop", port);
        web.run(|| serve((std::net::Ipv6Addr::UNSPECIFIED, 80)));
        world.outside(|| serve((Ipv4Addr::UNSPECIFIED, 90)));
        let bridge = format!("br-{}", world.netd().network("shop").unwrap().id.short());
        world.follow();
        Self {
            world,
            web,
            at,
            bridge,
        }
    }

    fn link(&self) -> &str {
        self.at.host_ifname.as_ref().unwrap().as_str()
    }

    fn differences(&self) -> usize {
        self.world.netd().doctor(false).unwrap().differences.len()
    }

    /// Damages, and expects everything to be as before within [`PROMISE`].
    #[track_caller]
    fn survives(&self, what: &str, damage: impl Fn()) {
        let mut best = Duration::MAX;
        for _ in 0..ATTEMPTS {
            soon("nothing differs before", || self.differences() == 0);
            damage();
            let start = Instant::now();
            // What is found differing before the daemon acts counts as well as what is not.
            std::thread::yield_now();
            soon(what, || self.differences() == 0);
            best = best.min(start.elapsed());
            self.works(what);
            if best < PROMISE {
                return;
            }
        }
        panic!("{what}: repaired after {best:?} at best");
    }

    fn works(&self, what: &str) {
        let fetched = self.world.outside(|| seen_by((HOST4, 8080)));
        assert!(fetched.is_ok(), "{what}: published port: {fetched:?}");
        let outside = (Ipv4Addr::new(192, 0, 2, 7), 90);
        assert_eq!(self.web.run(|| seen_by(outside)).unwrap(), HOST4, "{what}");
        for v6 in [false, true] {
            let reached = seen_by((address(&self.at, v6), 80));
            assert!(
                reached.is_ok(),
                "{what}: from the host, v6 {v6}: {reached:?}"
            );
        }
    }
}

#[test]
fn a_flushed_or_edited_packet_filter_is_written_again() {
    let shop = Shop::open("nft");
    shop.survives("nft flush ruleset", || drop(run("nft", "flush ruleset")));
    shop.survives("our table deleted", || {
        drop(run("nft", "delete table inet hawser"));
    });
    shop.survives("a rule added in front", || {
        drop(run("nft", "insert rule inet hawser postrouting accept"));
    });
    let bridge = &shop.bridge;
    shop.survives("an element removed", || {
        run(
            "nft",
            &format!("delete element inet hawser bridges {{ {bridge} }}"),
        );
    });
}

#[test]
fn bridges_and_links_come_back() {
    let shop = Shop::open("links");
    let (bridge, link) = (shop.bridge.clone(), shop.link().to_owned());
    shop.survives("bridge deleted", || {
        drop(ip(&format!("link delete {bridge}")))
    });
    shop.survives("bridge down", || {
        drop(ip(&format!("link set {bridge} down")))
    });
    shop.survives("link down", || drop(ip(&format!("link set {link} down"))));
    shop.survives("link off its bridge", || {
        drop(ip(&format!("link set {link} nomaster")))
    });
    let gateway = shop.at.addresses[0].gateway.unwrap();
    shop.survives("gateway address removed", || {
        drop(ip(&format!("address delete {gateway}/16 dev {bridge}")));
    });
    shop.survives("all addresses removed", || {
        drop(ip(&format!("address flush dev {bridge} scope global")));
    });
}

#[test]
fn a_lost_endpoint_is_made_as_it_was() {
    let shop = Shop::open("endpoint");
    let inside = || {
        let look = |what: &str| shop.web.run(|| ip(what));
        let mac = look("-brief link show dev eth0");
        let mac = mac.split_whitespace().nth(2).unwrap().to_owned();
        let addresses = look("-oneline address show dev eth0 scope global");
        // Without the interface's number in front.
        let addresses: Vec<String> = addresses
            .lines()
            .map(|line| line.split_whitespace().nth(3).unwrap().to_owned())
            .collect();
        (
            mac,
            addresses,
            look("route show"),
            look("-6 route show default"),
        )
    };
    let before = inside();
    let link = shop.link().to_owned();
    shop.survives("host end deleted", || {
        drop(ip(&format!("link delete {link}")))
    });
    assert_eq!(inside(), before);
    shop.survives("container end deleted", || {
        drop(shop.web.run(|| ip("link delete eth0")));
    });
    assert_eq!(inside(), before);
    let id = &shop.at.container_id;
    shop.world.netd().check(id, &eth0()).unwrap();
}

#[test]
fn forwarding_and_programs_come_back() {
    let shop = Shop::open("programs");
    for key in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
        let path = Path::new("/proc/sys").join(key);
        shop.survives(key, || std::fs::write(&path, "0").unwrap());
    }
    let link = shop.link().to_owned();
    shop.survives("endpoint's filter deleted", || {
        run("tc", &format!("filter delete dev {link} ingress"));
    });
    shop.survives("endpoint's qdisc deleted", || {
        run("tc", &format!("qdisc delete dev {link} clsact"));
    });
    shop.survives("uplink's programs detached", || {
        let pins = std::fs::read_dir(shop.world.pin_dir()).unwrap();
        for pin in pins.map(|entry| entry.unwrap()) {
            if pin.file_name().to_string_lossy().starts_with("uplink_") {
                std::fs::remove_file(pin.path()).unwrap();
            }
        }
    });
    shop.survives("socket hooks detached", || {
        let pins = std::fs::read_dir(shop.world.pin_dir()).unwrap();
        for pin in pins.map(|entry| entry.unwrap()) {
            if pin.file_name().to_string_lossy().starts_with("hook_") {
                std::fs::remove_file(pin.path()).unwrap();
            }
        }
    });
    seen_by((Ipv4Addr::LOCALHOST, 8080)).unwrap();
    // The pins stay, and lead nowhere. Programs at uplinks have links since TCX.
    let pins = std::fs::read_dir(shop.world.pin_dir()).unwrap();
    let pins = pins.map(|entry| entry.unwrap().path());
    let is_link = |path: &Path| {
        let name = path.file_name().unwrap().to_string_lossy();
        name.starts_with("hook_") || name.starts_with("uplink_") && is_linux(6, 6)
    };
    for pin in pins.filter(|path| is_link(path)) {
        run("bpftool", &format!("link detach pinned {}", pin.display()));
    }
    soon("links detached behind their pins", || {
        shop.differences() == 0
    });
    shop.works("links detached behind their pins");
    seen_by((Ipv4Addr::LOCALHOST, 8080)).unwrap();
}

#[test]
fn isolation_on_a_bridge_comes_back() {
    let world = World::new("isolated");
    let options = r#"{"com.docker.network.bridge.enable_icc":"false"}"#;
    world.create(&format!(r#"{{"Name":"strict","Options":{options}}}"#));
    let web = Sandbox::new("web");
    let at = web.attach(&world, "strict");
    world.follow();
    let link = at.host_ifname.unwrap();
    let isolated = || {
        let shown = run("bridge", &format!("-details link show dev {link}"));
        shown.contains("isolated on")
    };
    assert!(isolated());
    run("bridge", &format!("link set dev {link} isolated off"));
    soon("the port is isolated again", isolated);
}

/// Without anybody following the kernel: what is found, repaired, and then no more.
#[test]
fn the_doctor_names_each_difference_and_repairs_it() {
    let world = World::new("doctor");
    world.create(r#"{"Name":"shop","EnableIPv6":true}"#);
    let web = Sandbox::new("web");
    let port = r#"[{"protocol":"tcp","container_port":80,"host_port":8080}]"#;
    let at = web.publish(&world, "shop", port);
    let (bridge, link) = (
        format!("br-{}", world.netd().network("shop").unwrap().id.short()),
        at.host_ifname.clone().unwrap(),
    );
    let gateway = at.addresses[0].gateway.unwrap();
    let inside = address(&at, false);
    let check = |damage: &dyn Fn(), what: &[&str]| {
        let well = world.netd().doctor(false).unwrap();
        assert!(well.is_well(), "before {what:?}: {:?}", well.differences);
        damage();
        let found = world.netd().doctor(false).unwrap();
        let lines: Vec<&str> = found.differences.iter().map(|d| d.what.as_str()).collect();
        for what in what {
            assert!(
                lines.iter().any(|line| line == what),
                "no {what} in {lines:?}"
            );
        }
        assert!(!found.is_well());
        let again = world.netd().doctor(false).unwrap();
        assert_eq!(
            again.differences, found.differences,
            "looking changes nothing"
        );
        let repaired = world.netd().doctor(true).unwrap();
        assert!(repaired.is_well(), "{:?}", repaired.differences);
        let after = world.netd().doctor(false).unwrap();
        assert_eq!(after.differences, [], "{what:?}");
    };
    check(
        &|| drop(ip(&format!("link set {bridge} down"))),
        &[&format!("bridge {bridge} of network shop is down")],
    );
    check(
        &|| drop(ip(&format!("link delete {bridge}"))),
        &[
            &format!("bridge {bridge} of network shop is missing"),
            &format!("interface {bridge} lacks address {gateway}/16"),
            &format!("interface {link} is not on bridge {bridge}"),
        ],
    );
    check(
        &|| drop(run("nft", "flush ruleset")),
        &["nftables table inet hawser is missing, or its rules were changed"],
    );
    check(
        &|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap(),
        &["the host does not forward IPv4"],
    );
    check(
        &|| drop(ip(&format!("link delete {link}"))),
        &["interface eth0 of container web is gone"],
    );
    check(
        &|| drop(run("tc", &format!("filter delete dev {link} ingress"))),
        &[&format!(
            "what container web sends is not checked at {link}"
        )],
    );
    check(
        &|| drop(web.run(|| ip(&format!("address delete {inside}/16 dev eth0")))),
        &[&format!(
            "interface eth0 of container web: address {inside} is missing"
        )],
    );
    check(
        &|| drop(web.run(|| ip("link set eth0 down"))),
        &["interface eth0 of container web: it is down"],
    );
    check(
        &|| drop(ip("address add 192.0.2.99/24 dev eth0")),
        &["the data plane does not know the host's addresses"],
    );
    check(
        &|| {
            let pins = std::fs::read_dir(world.pin_dir()).unwrap();
            for pin in pins.map(|entry| entry.unwrap()) {
                if pin.file_name().to_string_lossy().starts_with("uplink_") {
                    std::fs::remove_file(pin.path()).unwrap();
                }
            }
        },
        &["published ports are not served on eth0"],
    );
}

#[test]
fn the_doctor_warns_of_forward_chains_that_drop() {
    let world = World::new("warns");
    let chains = || -> Vec<String> {
        let findings = world.netd().doctor(true).unwrap().findings;
        findings.into_iter().map(|finding| finding.what).collect()
    };
    assert!(!chains().iter().any(|what| what.contains("drops")));
    run("iptables", "-P FORWARD DROP");
    run("nft", "add table inet site");
    run(
        "nft",
        "add chain inet site through { type filter hook forward priority 5; policy drop; }",
    );
    for part in [
        "chain FORWARD of nftables table ip filter",
        "chain through of nftables table inet site",
    ] {
        let found = chains();
        assert!(
            found.iter().any(|what| what.starts_with(part)),
            "{part}: {found:?}"
        );
    }
    assert!(
        run("iptables", "-S FORWARD").contains("-P FORWARD DROP"),
        "it stays so"
    );

    // The way out that is named works.
    world.create(r#"{"Name":"shop"}"#);
    let web = Sandbox::new("web");
    let port = r#"[{"protocol":"tcp","container_port":80,"host_port":8080}]"#;
    web.publish(&world, "shop", port);
    web.run(|| serve((Ipv4Addr::UNSPECIFIED, 80)));
    run("nft", "delete table inet site");
    assert!(world.outside(|| crate::traffic::is_refused((HOST4, 8080))));
    run(
        "nft",
        "insert rule ip filter FORWARD meta mark & 0x1000 == 0x1000 accept",
    );
    run(
        "iptables",
        "-A FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT",
    );
    world.outside(|| seen_by((HOST4, 8080))).unwrap();
}

/// Somebody who undoes each repair gets ever slower answers, not a busy loop.
#[test]
fn a_dispute_does_not_run_hot() {
    let shop = Shop::open("dispute");
    let flushes = || {
        let start = Instant::now();
        let mut flushes = 0;
        while start.elapsed() < Duration::from_secs(4) {
            let there = run("nft", "list tables").contains("hawser");
            if there {
                run("nft", "flush ruleset");
                flushes += 1;
            }
            std::thread::yield_now();
        }
        flushes
    };
    let first = flushes();
    assert!((1..60).contains(&first), "{first} repairs");
    // A slow host comes to the point where it waits later.
    let mut later = std::iter::repeat_with(flushes).take(3);
    assert!(later.any(|repairs| repairs <= 3), "as {first} at first");
    let start = Instant::now();
    while shop.differences() > 0 {
        assert!(start.elapsed() < 3 * PATIENCE, "given up");
        std::thread::yield_now();
    }
}

#[test]
fn nothing_of_others_is_changed() {
    let shop = Shop::open("foreign");
    let nft = |words: &str| {
        let output = Command::new("nft").arg(words).output().unwrap();
        assert!(output.status.success(), "{words}: {output:?}");
    };
    nft("add table inet other");
    nft("add chain inet other forward { type filter hook forward priority 5; policy accept; }");
    nft("add rule inet other forward ct state established accept");
    nft("add table ip nat2");
    nft("add chain ip nat2 post { type nat hook postrouting priority 110; }");
    nft("add rule ip nat2 post ip saddr 203.0.113.0/24 masquerade");
    run("iptables", "-A FORWARD -s 203.0.113.9 -j DROP");
    run(
        "iptables",
        "-t nat -A POSTROUTING -s 203.0.113.8 -j MASQUERADE",
    );
    ip("link add other0 type bridge");
    ip("link add other1 type veth peer name other2");
    ip("link set other1 master other0");
    ip("link set other0 up");
    ip("address add 203.0.113.1/24 dev other0");
    ip("route add 198.51.100.0/24 via 192.0.2.7");
    ip("rule add fwmark 0x77 table 77");
    ip("route add default via 192.0.2.7 table 77");
    let foreign = || {
        let links: Vec<String> = ip("-oneline link show")
            .lines()
            .filter(|line| !line.contains(&shop.bridge) && !line.contains("veth"))
            // Without a carrier that comes and goes: numbers and names, flags aside.
            .map(|line| line.split(": ").nth(1).unwrap_or_default().to_owned())
            .collect();
        let ours = |line: &&str| {
            !line.contains(&shop.bridge) && !line.contains("hawser0") && !line.contains("veth")
        };
        let keep = |text: String| {
            text.lines()
                .filter(ours)
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let tables = ["inet other", "ip nat2", "ip filter", "ip nat"]
            .map(|table| run("nft", &format!("-a list table {table}")));
        (
            links,
            keep(ip("route show table all").replace(" linkdown", "")),
            keep(ip("-6 route show table all").replace(" linkdown", "")),
            keep(ip("rule show")),
            keep(ip("-oneline address show")),
            tables,
            std::fs::read_to_string("/proc/sys/net/ipv4/conf/default/rp_filter").unwrap(),
        )
    };
    soon("nothing differs", || shop.differences() == 0);
    // The kernel itself adds routes once it has checked that nobody else has an address.
    soon("addresses are settled", || {
        !ip("-oneline address show dev eth0").contains("tentative")
    });
    let before = foreign();
    shop.world.create(r#"{"Name":"more","EnableIPv6":true}"#);
    let extra = Sandbox::new("extra");
    let port = r#"[{"protocol":"udp","container_port":53,"host_port":8053}]"#;
    extra.publish(&shop.world, "more", port);
    extra.detach(&shop.world);
    shop.world.netd().remove_network("more").unwrap();
    run("nft", "delete table inet hawser");
    ip(&format!("link delete {}", shop.bridge));
    soon("repaired", || shop.differences() == 0);
    shop.world.netd().doctor(true).unwrap();
    shop.works("beside others");
    assert_eq!(foreign(), before);
}
