//! Several hosts: how they become a cluster, and the networks that span them.

#[cfg(test)]
mod root {
    use anyhow::ensure;
    use kernel_tests::cluster::address;
    use kernel_tests::shop::TOOLS;
    use kernel_tests::{Cluster, Shop};

    /// Lines of a listing without its header, with single blanks.
    fn rows(listing: &str) -> Vec<String> {
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        listing.lines().skip(1).map(words).collect()
    }

    /// `HOSTNAME STATUS AVAILABILITY [MANAGER STATUS]`, with a star before the node that was asked.
    fn nodes(shop: &Shop) -> Vec<String> {
        let format =
            "{{if .Self}}*{{end}}{{.Hostname}} {{.Status}} {{.Availability}} {{.ManagerStatus}}";
        let listing = shop.hawser(&["node", "ls", "--format", format]);
        listing.lines().map(|line| line.trim().to_owned()).collect()
    }

    #[test]
    fn hosts_become_a_cluster_and_leave_it() {
        let mut cluster = Cluster::new(3).unwrap();
        let [first, second, third] = [1, 2, 3].map(|number| cluster.node(number));
        assert!(first.type_("info").contains("Swarm: inactive"));
        first.refuses("node ls", 1, "this node is in no cluster");

        let said = cluster.init().unwrap();
        assert!(
            said.starts_with("Swarm initialized: current node ("),
            "{said}"
        );
        assert!(said.contains(") is now a manager."), "{said}");
        let command = format!("{}:2377", address(1));
        assert!(
            said.contains("    hawser swarm join --token SWMTKN-1-"),
            "{said}"
        );
        assert!(said.contains(&command), "{said}");
        first.refuses(
            "swarm init --advertise-addr 172.31.1.5 --etcd http://172.31.1.1:2379",
            1,
            "this node is in a cluster already",
        );
        let taken = "swarm init --advertise-addr 172.31.2.5 --etcd http://172.31.1.1:2379";
        second.refuses(taken, 1, "this etcd has cluster");

        let said = cluster.join(2, "manager").unwrap();
        assert_eq!(said, "This node joined a swarm as a manager.");
        let said = cluster.join(3, "worker").unwrap();
        assert_eq!(said, "This node joined a swarm as a worker.");
        first.soon("all are heard of", || {
            let found = nodes(first);
            let expected = [
                "*n1 Ready Active Leader",
                "n2 Ready Active Reachable",
                "n3 Ready Active",
            ];
            if found == expected {
                Ok(())
            } else {
                Err(anyhow::anyhow!("{found:?}"))
            }
        });
        assert_eq!(nodes(second)[1], "*n2 Ready Active Reachable");
        third.refuses("node ls", 1, "this node is not a swarm manager: run it on");
        let info = third.type_("info");
        assert!(
            info.contains("Swarm: active") && info.contains("Is Manager: false"),
            "{info}"
        );

        // Docker's own columns, and what a node is in detail.
        let header = first.type_("node ls");
        let header = header
            .lines()
            .next()
            .unwrap()
            .split("  ")
            .filter(|word| !word.is_empty());
        let header: Vec<&str> = header.map(str::trim).collect();
        assert_eq!(
            header,
            [
                "ID",
                "HOSTNAME",
                "STATUS",
                "AVAILABILITY",
                "MANAGER STATUS",
                "ENGINE VERSION"
            ]
        );
        first.type_("node update --label-add zone=east --availability drain n3");
        let format = "{{.Spec.Availability}} {{.Spec.Labels.zone}} {{.Status.Addr}}";
        let detail = first.hawser(&["node", "inspect", "--format", format, "n3"]);
        assert_eq!(detail.trim(), format!("drain east {}", address(3)));
        assert_eq!(
            first
                .type_("node ls -q -f node.label=zone=east")
                .lines()
                .count(),
            1
        );
        assert!(
            second
                .type_("node inspect --pretty n3")
                .contains(" - zone=east")
        );

        // A token that was replaced opens nothing.
        let old = first.type_("swarm join-token -q worker");
        let said = first.type_("swarm join-token --rotate worker");
        assert!(
            said.starts_with("Successfully rotated worker join token."),
            "{said}"
        );
        third.type_("swarm leave");
        let join = format!("swarm join --token {} {}", old.trim(), address(1));
        third.refuses(&join, 1, "was rotated");
        first.soon("it is missed", || match &nodes(first)[2] {
            line if line == "n3 Down Drain" => Ok(()),
            other => Err(anyhow::anyhow!("{other}")),
        });
        first.type_("node rm n3");
        cluster.join(3, "worker").unwrap();

        // A restart of everything but etcd forgets nobody, and what leads is led on.
        for number in [0, 1] {
            let daemon = &mut cluster.nodes[number].daemon;
            daemon.kill().unwrap();
            daemon.launch().unwrap();
        }
        let first = cluster.node(1);
        first.soon("all are heard of again", || {
            let found = nodes(first);
            let ready = found.iter().filter(|line| line.contains(" Ready "));
            if ready.count() == 3 && found.iter().any(|line| line.ends_with("Leader")) {
                Ok(())
            } else {
                Err(anyhow::anyhow!("{found:?}"))
            }
        });
    }

    #[test]
    fn a_cluster_is_told_dockers_settings() {
        let cluster = Cluster::without_etcd(2).unwrap();
        let [first, second] = [1, 2].map(|number| cluster.node(number));
        let init = "swarm init --advertise-addr 172.31.1.5";
        for (flags, why) in [
            (
                "10.77.1.0/16",
                "10.77.1.0/16 has host bits, 10.77.0.0/16 has not",
            ),
            ("fd00::/48", "not of IPv4"),
            (
                "10.77.0.0/16,10.77.3.0/24",
                "10.77.0.0/16 and 10.77.3.0/24 overlap",
            ),
            (
                "10.77.0.0/16 --default-addr-pool-mask-length 8",
                "subnets of /8 are larger than 10.77.0.0/16",
            ),
            (
                "10.77.0.0/16 --default-addr-pool-mask-length 30",
                "of up to /29",
            ),
        ] {
            first.refuses(&format!("{init} --default-addr-pool {flags}"), 1, why);
        }
        let said = first.run(
            &format!(
                "{init} --default-addr-pool 10.77.0.0/16 --default-addr-pool-mask-length 26 \
                 --task-history-limit 2 --dispatcher-heartbeat 2s --max-snapshots 1"
            )
            .split_whitespace()
            .collect::<Vec<_>>(),
        );
        assert_eq!(said.code, 0, "{said:?}");
        assert!(
            said.stderr.contains("--max-snapshots has no effect"),
            "{said:?}"
        );
        cluster.join(2, "worker").unwrap();
        let info = first.type_("info");
        for line in [
            " Nodes: 2",
            " Default Address Pool: 10.77.0.0/16",
            " SubnetSize: 26",
            "  Task History Retention Limit: 2",
            "  Heartbeat Period: 2 seconds",
            " Node Address: 172.31.1.5",
        ] {
            assert!(
                info.lines()
                    .any(|own| own == format!(" {line}") || own == line),
                "{line}: {info}"
            );
        }
        let managers = "{{range .Swarm.RemoteManagers}}{{.Addr}}{{end}}";
        let managers = second.hawser(&["info", "--format", managers]);
        assert_eq!(managers, "172.31.1.5:2377");

        // Networks have theirs from there.
        first.type_("network create -d overlay net");
        let subnets = ["ingress", "net"].map(|network| {
            let format = "{{(index .IPAM.Config 0).Subnet}}";
            first.hawser(&["network", "inspect", "--format", format, network])
        });
        assert_eq!(subnets, ["10.77.0.0/26", "10.77.0.64/26"]);

        // So many tasks are looked at, and more when that is changed.
        let create = "service create -d --name bad --restart-delay 100ms --network net tools false";
        first.type_(create);
        let rows = |count: usize| {
            first.soon(&format!("{count} are listed"), || {
                let listed = first.daemon.hawser(&["service", "ps", "-q", "bad"])?;
                ensure!(listed.lines().count() == count, "{listed}");
                Ok(())
            });
        };
        rows(2);
        first.type_("swarm update --task-history-limit 4");
        rows(4);
        first.type_("service rm bad");
    }

    #[test]
    fn a_network_spans_hosts_in_different_networks() {
        let cluster = Cluster::new(3).unwrap().joined(1).unwrap();
        let [first, second, third] = [1, 2, 3].map(|number| cluster.node(number));
        let id = first.type_("network create -d overlay --attachable --ipv6 uber-net");
        assert_eq!(id.trim().len(), 25, "{id}");
        let listed = |shop: &Shop| {
            let names = shop.hawser(&[
                "network",
                "ls",
                "--format",
                "{{.Name}} {{.Driver}} {{.Scope}}",
            ]);
            names.lines().any(|line| line == "uber-net overlay swarm")
        };
        assert!(listed(first) && !listed(second), "only where it is needed");
        first.idle("c1", "--network uber-net");
        second.idle("c2", "--network uber-net");
        assert!(listed(second) && !listed(third));
        let format = "{{(index .NetworkSettings.Networks \"uber-net\").IPAddress}} {{(index .NetworkSettings.Networks \"uber-net\").GlobalIPv6Address}}";
        let addresses = second.inspect("c2", format);
        let (v4, v6) = addresses.split_once(' ').unwrap();
        assert_ne!(first.address("c1", "uber-net"), v4);
        for target in ["c2", v4, v6] {
            first.soon("it is reached", || {
                first
                    .daemon
                    .hawser(&["exec", "c1", "ping", "-c1", "-W1", target])
            });
        }
        second.soon("and the other way", || {
            second
                .daemon
                .hawser(&["exec", "c2", "ping", "-c1", "-W1", "c1"])
        });
        let hops = first.inside("c1", &format!("traceroute -n -w 2 -q 1 {v4}"));
        assert_eq!(hops.lines().count(), 2, "one hop: {hops}");
        assert!(hops.lines().nth(1).unwrap().contains(v4), "{hops}");

        // A third host hears of both at once.
        third.idle("c3", "--network uber-net");
        for name in ["c1", "c2"] {
            third.soon("it is reached", || {
                third
                    .daemon
                    .hawser(&["exec", "c3", "ping", "-c1", "-W1", name])
            });
        }
        first.type_("rm -f c1");
        first.refuses("network rm uber-net", 1, "c2");
        second.type_("rm -f c2");
        third.soon("its end is heard of", || {
            match third.try_inside("c3", "nslookup c2").code {
                0 => Err(anyhow::anyhow!("c2 resolves")),
                _ => Ok(()),
            }
        });
        third.type_("rm -f c3");
        first.soon("nobody uses it", || {
            first.daemon.hawser(&["network", "rm", "uber-net"])
        });
        assert!(
            rows(&third.type_("network ls"))
                .iter()
                .all(|row| !row.contains("overlay"))
        );
    }

    #[test]
    fn what_runs_goes_on_without_etcd_and_without_daemons() {
        let mut cluster = Cluster::new(2).unwrap().joined(1).unwrap();
        cluster
            .node(1)
            .type_("network create -d overlay --attachable net");
        cluster.node(1).idle("c1", "--network net");
        cluster.node(2).idle("c2", "--network net");
        let address = cluster.node(2).address("c2", "net");
        let reach = |cluster: &Cluster, target: &str| {
            let first = cluster.node(1);
            first.soon("it is reached", || {
                let words = ["exec", "c1", "ping", "-c1", "-W1", target];
                first.daemon.hawser(&words)
            });
        };
        reach(&cluster, "c2");
        cluster.etcd.as_mut().unwrap().stop().unwrap();
        for node in &mut cluster.nodes {
            node.daemon.kill().unwrap();
            node.daemon.launch().unwrap();
        }
        reach(&cluster, &address);
        let second = cluster.node(2);
        second.refuses(
            &format!("run --rm --network net {TOOLS} true"),
            125,
            "the control plane does not answer",
        );
        cluster.etcd.as_mut().unwrap().launch().unwrap();
        let second = cluster.node(2);
        second.soon("new ones join", || {
            let words = [
                "run",
                "--rm",
                "--network",
                "net",
                TOOLS,
                "ping",
                "-c1",
                "-W2",
                "c1",
            ];
            second.daemon.hawser(&words)
        });
        reach(&cluster, "c2");
    }
}
