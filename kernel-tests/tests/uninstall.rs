//! `hawserd --uninstall`: all of ours goes, whatever there was and however often it was interrupted,
//! and nothing of anybody else's.

#[cfg(test)]
mod root {
    use std::collections::BTreeSet;
    use std::process::Stdio;
    use std::time::Duration;

    use anyhow::{Result, ensure};
    use api::net::Attachment;
    use api::path;
    use kernel_tests::shop::TOOLS;
    use kernel_tests::{Shop, program, wait};
    use serde_json::{Value, json};

    /// What else is on the host, and must still be there afterwards. It routes, as containers'
    /// hosts do, and goes on doing so.
    const FOREIGN: &str = "
        set -e
        echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding
        ip link add br-lan type bridge && ip addr add 10.99.0.1/24 dev br-lan && ip link set br-lan up
        ip link add lan0 type veth peer name lan1 && ip link set lan0 master br-lan up
        ip link set lan1 up
        ip rule add priority 100 fwmark 0x99 lookup 99
        ip route add 10.98.0.0/24 via 10.99.0.9 table 99
        ip route add 10.97.0.0/24 via 10.99.0.9
        nft add table inet others
        nft add chain inet others forward '{ type filter hook forward priority 5; policy accept; }'
        nft add rule inet others forward ip saddr 10.96.0.1 drop
        tc qdisc add dev UPLINK clsact
        tc filter add dev UPLINK ingress prio 7 protocol ip u32 match ip src 10.96.0.2/32 classid 1:1
        tc filter add dev UPLINK egress prio 7 protocol ip u32 match ip src 10.96.0.2/32 classid 1:1
        tc qdisc add dev lan1 clsact
        echo 4000,5000-5010 >/proc/sys/net/ipv4/ip_local_reserved_ports
        mkdir -p /sys/fs/bpf/hawser/other/v1 /sys/fs/bpf/others
        bpftool map create /sys/fs/bpf/hawser/other/v1/frontends type array key 4 value 4 entries 1 \
            name other
        bpftool map create /sys/fs/bpf/others/map type array key 4 value 4 entries 1 name others
    ";

    /// Everything in the host's namespaces that a daemon could change there. The kernel gives links
    /// their own addresses (`fe80`) some time after they are up.
    const LOOK: &str = "
        ip -oneline link | sed 's/^[0-9]*: //; s/@.*//; s/: <.*//' | sort
        ip -oneline addr | awk '{ print $2, $3, $4 }' | grep -v fe80 | sort
        ip rule; ip -6 rule
        ip -4 route show table all | sed 's/ linkdown//'
        ip -6 route show table all | grep -v fe80 | sed 's/ linkdown//'
        nft list ruleset
        for link in $(ip -oneline link | sed 's/^[0-9]*: //; s/[@:].*//'); do
            tc qdisc show dev $link | grep -v noqueue
            tc filter show dev $link ingress; tc filter show dev $link egress
        done
        cat /proc/sys/net/ipv4/ip_local_reserved_ports
        find /sys/fs/bpf -mindepth 1
        bpftool net
    ";

    fn sh(shop: &Shop, script: &str) -> String {
        let script = script.replace("UPLINK", &shop.outside.interface);
        let said = shop.host.output("sh", &["-c", &script]);
        said.unwrap_or_else(|error| panic!("{error:#}"))
    }

    fn look(shop: &Shop) -> BTreeSet<String> {
        let lines = sh(shop, LOOK);
        lines.lines().map(|line| line.trim().to_owned()).collect()
    }

    /// The kernel's numbers of what is pinned: `map id 7`. A pin may go without its object.
    fn objects(shop: &Shop) -> Pinned {
        let pins = sh(
            shop,
            "find /sys/fs/bpf/hawser/* -path '*/other' -prune -o -type f -print",
        );
        let number = |kind: &'static str, pin: &str| -> Option<(&'static str, u64)> {
            let said = shop
                .host
                .output("bpftool", &["-j", kind, "show", "pinned", pin]);
            let said: Value = serde_json::from_str(&said.ok()?).ok()?;
            Some((kind, said["id"].as_u64()?))
        };
        let all = pins.lines().map(|pin| {
            let kinds = ["map", "prog", "link"].into_iter();
            let found = kinds.filter_map(|kind| number(kind, pin)).next();
            found.unwrap_or_else(|| panic!("{pin} is pinned, but what is it?"))
        });
        all.collect()
    }

    /// A service with members, ports of containers, a limited endpoint, and containers that end
    /// in every way.
    fn populate(shop: &Shop) {
        shop.type_("network create --ipv6 shop");
        shop.type_("network create -d macvlan -o parent=lan1 lan");
        #[rustfmt::skip]
        shop.hawser(&[
            "service", "create", "--name", "web", "--network", "shop", "--publish", "8080:80",
            "--publish", "8100-8110:80/udp", "--health-tcp", "80",
        ]);
        shop.serve("one", "first", &["--service", "web", "-p", "9000-9010:80"]);
        shop.serve(
            "two",
            "second",
            &["--service", "web", "-p", "127.0.0.1:9100:80"],
        );
        shop.idle("three", "-p 9200:80/sctp");
        shop.idle("four", "--network lan");
        shop.type_(&format!(
            "run --name five --network shop -p 9300:80 {TOOLS} true"
        ));
        sh(shop, "ip netns add limited");
        let request = json!({
            "network": "shop", "container_id": "limited", "ifname": "eth0",
            "netns": shop.host.path("/run/netns/limited".as_ref()),
            "ports": [{ "protocol": "tcp", "container_port": 80, "host_port": 9400 }],
            "bandwidth": { "ingress_rate": 8_000_000, "ingress_burst": 800_000,
                "egress_rate": 8_000_000, "egress_burst": 800_000 },
        });
        let attached: Attachment = shop
            .daemon
            .client()
            .post(path::ENDPOINTS, &request)
            .unwrap();
        assert_eq!(attached.network.as_str(), "shop");
        let url = format!("http://{}:8080", shop.outside.host_v4);
        shop.soon("the service answers", || shop.outside.fetch(&url));
    }

    type Pinned = BTreeSet<(&'static str, u64)>;

    /// A host with everything of ours on it beside foreign objects, what it was before, and what of
    /// ours is pinned.
    fn open() -> (Shop, BTreeSet<String>, Pinned) {
        let mut shop = Shop::open();
        shop.daemon.kill().unwrap();
        program::output(&mut uninstall(&shop)).unwrap();
        sh(&shop, FOREIGN);
        let before = look(&shop);
        shop.daemon.launch().unwrap();
        populate(&shop);
        let pinned = objects(&shop);
        (shop, before, pinned)
    }

    fn uninstall(shop: &Shop) -> std::process::Command {
        let words = shop.daemon.command_line().unwrap();
        let mut command = shop.host.command(&words[0]);
        command.args(&words[1..]).arg("--uninstall");
        command
    }

    #[track_caller]
    fn is_as(shop: &Shop, before: &BTreeSet<String>) {
        let as_before = || -> Result<()> {
            let now = look(shop);
            let left: Vec<&String> = now.difference(before).collect();
            let gone: Vec<&String> = before.difference(&now).collect();
            ensure!(
                left.is_empty() && gone.is_empty(),
                "left: {left:#?}, gone: {gone:#?}"
            );
            Ok(())
        };
        shop.soon("all of ours and nothing else is gone", as_before);
    }

    #[track_caller]
    fn are_gone(shop: &Shop, objects: &Pinned) {
        assert!(objects.len() > 30, "{objects:?}");
        // The kernel frees them after a grace period.
        shop.soon("the kernel has freed what was pinned", || {
            for (kind, number) in objects {
                let number = number.to_string();
                let shown = shop.host.output("bpftool", &[kind, "show", "id", &number]);
                ensure!(shown.is_err(), "{kind} {number} is still there");
            }
            Ok(())
        });
    }

    #[test]
    fn an_uninstall_takes_all_of_ours_and_nothing_else() {
        let (mut shop, before, pinned) = open();
        let refused = program::run(&mut uninstall(&shop)).unwrap();
        assert_ne!(refused.code, 0, "the daemon runs: {refused:?}");
        shop.daemon.kill().unwrap();
        program::output(&mut uninstall(&shop)).unwrap();
        is_as(&shop, &before);
        are_gone(&shop, &pinned);
        let again = program::output(&mut uninstall(&shop)).unwrap();
        assert_eq!(again, "", "there is nothing to remove any more");

        // What was created is on record, and what was running is not.
        shop.daemon.launch().unwrap();
        assert_eq!(
            shop.type_("service ls --format {{.Name}}={{.Replicas}}"),
            "web=0/0"
        );
        shop.serve("six", "sixth", &["--service", "web"]);
        let url = format!("http://{}:8080", shop.outside.host_v4);
        assert_eq!(shop.outside.fetch(&url).unwrap(), "sixth");
        shop.daemon.stop().unwrap();
        program::output(&mut uninstall(&shop)).unwrap();
        is_as(&shop, &before);
    }

    #[test]
    fn an_uninstall_ends_the_agent() {
        let mut shop = Shop::open();
        shop.type_(&format!("service create -q --name web {TOOLS} sleep 600"));
        let lock = shop.daemon.directories().state().join("agent/lock");
        let agent = std::fs::read_to_string(&lock).unwrap();
        let process = std::path::PathBuf::from(format!("/proc/{}", agent.trim()));
        assert!(process.exists());
        shop.daemon.stop().unwrap();
        let removed = program::output(&mut uninstall(&shop)).unwrap();
        assert!(removed.contains("agent/lock"), "{removed}");
        shop.soon("the agent has ended", || {
            let is_there = process.exists();
            ensure!(!is_there, "{process:?} is there");
            Ok(())
        });
        assert!(!lock.exists());
    }

    #[test]
    fn an_uninstall_that_is_killed_goes_on_where_it_was() {
        let (mut shop, before, pinned) = open();
        shop.daemon.kill().unwrap();
        let mut killed = 0;
        for patience in (1..20).map(|step| Duration::from_millis(10 * step)) {
            let mut command = uninstall(&shop);
            let mut process = command.stdout(Stdio::null()).spawn().unwrap();
            if wait::until(patience, "it ends", || process.try_wait().unwrap()).is_err() {
                process.kill().unwrap();
                killed += 1;
            }
            process.wait().unwrap();
        }
        assert!(killed > 0, "it was too fast to be killed");
        program::output(&mut uninstall(&shop)).unwrap();
        is_as(&shop, &before);
        are_gone(&shop, &pinned);
    }
}
