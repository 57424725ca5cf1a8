//! `hawser doctor`: what others did to the network is said, repaired, and gone.

#[cfg(test)]
mod root {
    use std::collections::BTreeSet;

    use anyhow::ensure;
    use kernel_tests::Shop;

    #[test]
    fn a_healthy_host_has_nothing_to_say_and_a_repair_is_told() {
        let shop = Shop::open();
        shop.hawser(&["network", "create", "shop"]);
        shop.serve("web", "hello", &["--network", "shop", "-p", "18080:80"]);
        let well = shop.run(&["doctor"]);
        assert_eq!(well.code, 0, "{}", well.text());
        assert!(well.stdout.starts_with("the kernel is as it should be\n"));
        assert!(well.stdout.contains("uplinks: "), "{}", well.stdout);

        // A change inside a container is its own affair until somebody asks.
        let pid = shop.inspect("web", "{{.State.Pid}}");
        let inside = [
            "--target", &pid, "--net", "ip", "link", "set", "eth0", "down",
        ];
        shop.host.output("nsenter", &inside).unwrap();
        let ill = shop.run(&["doctor"]);
        assert_eq!(ill.code, 1, "{}", ill.text());
        let line = "interface eth0 of container web: it is down: would configure eth0 in ";
        assert!(ill.stdout.contains(line), "{}", ill.stdout);
        let repaired = shop.run(&["doctor", "--repair"]);
        assert_eq!(repaired.code, 0, "{}", repaired.text());
        let line = "interface eth0 of container web: it is down: repaired: configure eth0 in ";
        assert!(repaired.stdout.contains(line), "{}", repaired.stdout);
        assert_eq!(shop.run(&["doctor"]).code, 0);
        assert_eq!(shop.fetch("shop", "web").success().unwrap(), "hello");
    }

    #[test]
    fn names_and_ports_come_back_after_a_bridge_and_a_firewall_are_torn_down() {
        let shop = Shop::open();
        shop.hawser(&["network", "create", "shop"]);
        shop.serve("web", "hello", &["--network", "shop", "-p", "18080:80"]);
        shop.hawser(&[
            "run",
            "-d",
            "--name",
            "client",
            "--network",
            "shop",
            "tools",
            "sleep",
            "600",
        ]);
        let id = shop.inspect("shop", "{{.Id}}");
        let bridge = format!("br-{}", &id[..12]);
        for damage in [
            ["ip", "link", "del", &bridge].as_slice(),
            &["nft", "flush", "ruleset"],
            &["ip", "link", "set", &bridge, "down"],
        ] {
            shop.host.output(damage[0], &damage[1..]).unwrap();
            let url = format!("http://{}:18080", shop.outside.host_v4);
            shop.soon("the port answers outside", || {
                let page = shop.outside.fetch(&url)?;
                ensure!(page == "hello", "{page}");
                Ok(())
            });
            shop.soon("the name resolves and answers", || {
                let page = shop.daemon.hawser(&["exec", "client", "fetch", "web"])?;
                ensure!(page == "hello", "{page}");
                Ok(())
            });
            assert_eq!(shop.run(&["doctor"]).code, 0, "{damage:?}");
        }
    }

    /// Everything a container goes through, and a daemon that dies, beside rules, interfaces and
    /// routes of others.
    #[test]
    fn what_belongs_to_others_is_never_touched() {
        let mut shop = Shop::open();
        let host = std::sync::Arc::clone(&shop.host);
        let on_host = |line: &str| {
            let words: Vec<&str> = line.split(' ').collect();
            host.output(words[0], &words[1..]).unwrap()
        };
        for line in [
            "nft add table inet site",
            "nft add chain inet site through { type filter hook forward priority 5; policy accept; }",
            "nft add rule inet site through ct state established accept",
            "iptables -A FORWARD -s 203.0.113.9 -j DROP",
            "iptables -t nat -A POSTROUTING -s 203.0.113.8 -j MASQUERADE",
            "ip link add other0 type bridge",
            "ip addr add 203.0.113.1/24 dev other0",
            "ip link set other0 up",
            "ip rule add fwmark 0x77 table 77",
            "sysctl -w net.ipv4.conf.all.rp_filter=2",
        ] {
            on_host(line);
        }
        let foreign = || -> BTreeSet<String> {
            let ours = |line: &&str| {
                ["hawser0", "br-", "veth"]
                    .iter()
                    .any(|ours| line.contains(ours))
            };
            let mut lines = BTreeSet::new();
            for command in [
                "nft -a list table inet site",
                "nft -a list table ip filter",
                "nft -a list table ip nat",
                "iptables-save",
                "ip -brief link",
                "ip -brief address",
                "ip -4 route show table all",
                // The kernel's own entries in table local follow IPv6 forwarding.
                "ip -6 route show table main",
                "ip rule",
                "sysctl net.ipv4.conf.all.rp_filter net.ipv4.conf.other0.forwarding",
            ] {
                let text = on_host(command);
                // Dates and counters of iptables-save are nobody's settings.
                let kept = text.lines().filter(|line| !line.starts_with(['#', ':']));
                lines.extend(
                    kept.filter(|line| !ours(line))
                        .map(|line| format!("{command}: {line}")),
                );
            }
            lines
        };
        let before = foreign();
        shop.hawser(&["network", "create", "--ipv6", "shop"]);
        shop.hawser(&["network", "create", "--internal", "vault"]);
        shop.serve(
            "web",
            "hello",
            &["--network", "shop", "-p", "18080:80", "-p", "18053:53/udp"],
        );
        shop.hawser(&["network", "connect", "vault", "web"]);
        shop.fetch_on_host("http://127.0.0.1:18080").unwrap();
        shop.daemon.kill().unwrap();
        shop.daemon.launch().unwrap();
        shop.hawser(&["doctor", "--repair"]);
        shop.hawser(&["network", "disconnect", "vault", "web"]);
        shop.hawser(&["rm", "-f", "web"]);
        shop.hawser(&["network", "rm", "shop"]);
        shop.hawser(&["network", "rm", "vault"]);
        assert_eq!(foreign(), before);
    }
}
