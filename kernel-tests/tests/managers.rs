//! Managers that keep the cluster in an etcd of their own.

#[cfg(test)]
mod root {
    use std::fs;
    use std::time::{Duration, Instant};

    use anyhow::{Result, ensure};
    use kernel_tests::cluster::{address, etcds, kill};
    use kernel_tests::{Cluster, Shop, program, wait};

    /// `HOSTNAME STATUS [MANAGER STATUS]`.
    fn nodes(shop: &Shop) -> Result<Vec<String>> {
        let format = "{{.Hostname}} {{.Status}} {{.ManagerStatus}}";
        let listing = shop.daemon.hawser(&["node", "ls", "--format", format])?;
        Ok(listing.lines().map(|line| line.trim().to_owned()).collect())
    }

    fn sees(shop: &Shop, what: &str, expected: &[&str]) {
        // Which one leads is nobody's business here.
        shop.soon(what, || {
            let found = nodes(shop)?;
            let plain: Vec<String> = found
                .iter()
                .map(|line| line.replace("Leader", "Reachable"))
                .collect();
            ensure!(plain == expected, "{found:?}");
            let leaders = found.iter().filter(|line| line.ends_with("Leader")).count();
            ensure!(leaders == 1, "{found:?}");
            Ok(())
        });
    }

    fn reaches(shop: &Shop, from: &str, target: &str) {
        shop.soon("it is reached", || {
            shop.daemon
                .hawser(&["exec", from, "ping", "-c1", "-W1", target])
        });
    }

    fn sockets(shop: &Shop) -> String {
        shop.host.output("ss", &["-Hltnp"]).unwrap()
    }

    #[test]
    fn a_manager_keeps_the_cluster_by_itself() {
        let mut cluster = Cluster::without_etcd(1).unwrap();
        cluster.init().unwrap();
        let first = cluster.node(1);
        sees(first, "it leads", &["n1 Ready Reachable"]);
        let [pid] = &*etcds(first) else {
            panic!("one etcd, not {:?}", etcds(first));
        };
        let pid = pid.clone();
        // Only its address, and nobody without a certificate.
        let listening = sockets(first);
        let its: Vec<&str> = listening
            .lines()
            .filter(|line| line.contains("\"etcd\""))
            .collect();
        let at = |port: u16| format!("{}:{port}", address(1));
        assert_eq!(its.len(), 2, "{listening}");
        assert!(
            its.iter()
                .all(|line| line.contains(&at(2379)) || line.contains(&at(2380)))
        );
        for port in [2379, 2380] {
            for scheme in ["http", "https"] {
                let url = format!("{scheme}://{}/version", at(port));
                let asked = first.host.output("curl", &["-sfk", "-m", "5", &url]);
                assert!(asked.is_err(), "{url}: {asked:?}");
            }
        }
        let mode = fs::metadata(first.daemon.directories().state().join("swarm/etcd")).unwrap();
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(mode.permissions().mode() & 0o777, 0o700);

        first.type_("network create -d overlay --attachable net");
        first.idle("c1", "--network net");
        // The daemon's end is not etcd's, and the next one finds it.
        cluster.nodes[0].daemon.kill().unwrap();
        assert_eq!(etcds(cluster.node(1)), [&*pid]);
        cluster.nodes[0].daemon.launch().unwrap();
        let first = cluster.node(1);
        assert_eq!(etcds(first), [&*pid]);
        first.idle("c2", "--network net");
        reaches(first, "c2", "c1");
        // Whatever ends it, it comes back with what it had.
        kill(&pid).unwrap();
        first.soon("etcd is back", || {
            first.daemon.hawser(&["network", "inspect", "net"])
        });
        first.soon("containers can join", || {
            let words = ["run", "--rm", "--network", "net", "tools", "true"];
            first.daemon.hawser(&words)
        });
        assert_ne!(etcds(first), [&*pid]);

        first.type_("rm -f c1 c2");
        first.refuses("swarm leave", 1, "the last manager cannot leave");
        first.type_("swarm leave --force");
        assert_eq!(etcds(first), [""; 0]);
        assert!(!first.daemon.directories().state().join("swarm").exists());
        // Another one can begin.
        cluster.init().unwrap();
        let first = cluster.node(1);
        sees(first, "it leads", &["n1 Ready Reachable"]);
        let state = first.daemon.directories().state();
        cluster.nodes[0].daemon.clean().unwrap();
        assert_eq!(etcds(cluster.node(1)), [""; 0]);
        assert!(!state.join("swarm").exists(), "uninstalled");
    }

    fn subject(shop: &Shop) -> String {
        let file = shop.daemon.directories().state();
        let file = file
            .join("swarm/certificates/swarm-node.crt")
            .display()
            .to_string();
        let words = ["x509", "-noout", "-subject", "-serial", "-in", &file];
        shop.host.output("openssl", &words).unwrap()
    }

    #[test]
    fn networks_of_the_host_do_not_wait_for_a_silent_etcd() {
        let cluster = Cluster::without_etcd(1).unwrap().joined(1).unwrap();
        let shop = cluster.node(1);
        shop.type_("network create -d overlay --attachable shared");
        shop.type_("network create own");
        shop.idle("c1", "--network shared");
        let etcd = etcds(shop);
        let signal = |signal: &str| {
            program::output(std::process::Command::new("kill").args([signal, &etcd[0]])).unwrap();
        };
        // Longer than it takes to be noticed, and until nobody asks any more.
        let silence = Duration::from_secs(25);
        signal("-STOP");
        let begun = Instant::now();
        let mut slow = Vec::new();
        while begun.elapsed() < silence {
            let start = Instant::now();
            shop.type_("run --rm --network own tools true");
            if start.elapsed() > Duration::from_secs(3) {
                slow.push((begun.elapsed(), start.elapsed()));
            }
        }
        // One call may have been under way.
        assert!(slow.len() <= 1, "{slow:?}");
        let start = Instant::now();
        shop.refuses(
            "run --rm --network shared tools true",
            125,
            "the control plane does not answer",
        );
        assert!(
            start.elapsed() < Duration::from_secs(3),
            "{:?}",
            start.elapsed()
        );
        signal("-CONT");
        shop.soon("it is heard again", || {
            shop.daemon
                .hawser(&["run", "--rm", "--network", "shared", "tools", "true"])
        });
        shop.type_("rm -f c1");
    }

    #[test]
    fn workers_become_managers_and_managers_workers() {
        let mut cluster = Cluster::without_etcd(2).unwrap().joined(1).unwrap();
        let [first, second] = [1, 2].map(|number| cluster.node(number));
        first.type_("network create -d overlay --attachable net");
        second.idle("c2", "--network net");
        assert!(subject(second).contains("OU = swarm-worker"));
        first.refuses(
            "node demote self",
            1,
            "attempting to demote the last manager",
        );
        second.refuses(
            "node promote self",
            1,
            "this node is not a swarm manager: run it on n1 (172.31.1.5:2377)",
        );

        let said = first.type_("node promote n2");
        assert_eq!(said.trim(), "Node n2 promoted to a manager in the swarm.");
        assert_eq!(
            first.type_("node promote n2").trim(),
            "Node n2 is already a manager."
        );
        let both = ["n1 Ready Reachable", "n2 Ready Reachable"];
        sees(first, "it is a manager", &both);
        sees(second, "it knows", &both);
        assert!(subject(second).contains("OU = swarm-manager"));
        assert_eq!(etcds(second).len(), 1);
        second.type_("network create -d overlay --attachable other");

        // The one that began it becomes a worker, and everything is the other's.
        second.soon("it can be demoted", || {
            second.daemon.hawser(&["node", "demote", "n1"])
        });
        first.soon("it is a worker", || {
            let ls = first.run(&["node", "ls"]);
            ensure!(ls.stderr.contains("not a swarm manager"), "{ls:?}");
            Ok(())
        });
        assert_eq!(etcds(first), [""; 0]);
        assert!(
            !first
                .daemon
                .directories()
                .state()
                .join("swarm/etcd")
                .exists()
        );
        assert!(subject(first).contains("OU = swarm-worker"));
        sees(second, "one is left", &["n1 Ready", "n2 Ready Reachable"]);
        first.idle_soon("c1", "--network net");
        reaches(first, "c1", "c2");

        // Both are what they were after a restart, and the door is the other's.
        for node in &mut cluster.nodes {
            node.daemon.kill().unwrap();
            node.daemon.launch().unwrap();
        }
        let [first, second] = [1, 2].map(|number| cluster.node(number));
        sees(second, "the same", &["n1 Ready", "n2 Ready Reachable"]);
        first.type_("swarm leave");
        let token = second.type_("swarm join-token -q worker");
        let join = format!("swarm join --token {} {}", token.trim(), address(2));
        first.soon("it joins again", || {
            first.daemon.hawser(&join.split(' ').collect::<Vec<_>>())
        });
        first.type_("rm -f c1");
    }

    #[test]
    fn certificates_do_not_end() {
        let cluster = Cluster::without_etcd(2).unwrap();
        let words = ["--cert-expiry=25s", "--node-lease=3s"];
        let at = address(1).to_string();
        let init = [&["swarm", "init", "--advertise-addr", &at][..], &words].concat();
        cluster.node(1).daemon.hawser(&init).unwrap();
        cluster.join(2, "worker").unwrap();
        let [first, second] = [1, 2].map(|number| cluster.node(number));
        let begun = Instant::now();
        let before = [first, second].map(subject);
        let mut last = before.clone();
        for _ in 0..2 {
            for (number, node) in [first, second].into_iter().enumerate() {
                node.soon("it has another certificate", || {
                    let now = subject(node);
                    ensure!(now != last[number], "{now}");
                    Ok(())
                });
                last[number] = subject(node);
            }
        }
        let joins = |node: &Shop, network: &str| {
            node.soon("it works", || {
                node.daemon
                    .hawser(&["run", "--rm", "--network", network, "tools", "true"])
            });
        };
        first.type_("network create -d overlay --attachable net");
        joins(second, "net");
        // From the next one on they are good for longer.
        assert_eq!(
            first.type_("swarm update --cert-expiry 720h").trim(),
            "Swarm updated."
        );
        for node in [first, second] {
            let file = node
                .daemon
                .directories()
                .state()
                .join("swarm/certificates/swarm-node.crt");
            let file = file.display().to_string();
            // Good for twenty days more at least.
            let words = ["x509", "-checkend", "1728000", "-noout", "-in", &file];
            node.soon("it is good for long", || {
                node.host.output("openssl", &words)
            });
        }
        let root = first
            .daemon
            .directories()
            .state()
            .join("swarm/certificates/swarm-root-ca.crt");
        let root = fs::read_to_string(root).unwrap();
        assert_eq!(first.type_("swarm ca").trim(), root.trim());
        // Those that they came with are over.
        let over = Duration::from_secs(26).saturating_sub(begun.elapsed());
        wait::until(
            over + Duration::from_secs(1),
            "the first ones are over",
            || (begun.elapsed() > Duration::from_secs(26)).then_some(()),
        )
        .unwrap();
        let etcd = etcds(first);
        kill(&etcd[0]).unwrap();
        first.soon("new connections are made", || {
            first.daemon.hawser(&["node", "ls"])
        });
        joins(second, "net");
        first.soon("nobody is on it", || {
            first.daemon.hawser(&["network", "rm", "net"])
        });
    }

    #[test]
    fn a_host_without_etcd_is_told_what_is_missing() {
        let shop = Shop::configured("[swarm]\netcd = \"/nonexistent/etcd\"\n");
        shop.refuses(
            "swarm init --advertise-addr 127.0.0.1",
            1,
            "install the package etcd-server",
        );
        assert!(shop.type_("info").contains("Swarm: inactive"));
        assert!(!shop.daemon.directories().state().join("swarm").exists());
    }

    #[test]
    fn two_of_three_managers_go_on_without_the_third() {
        let mut cluster = Cluster::without_etcd(4).unwrap().joined(3).unwrap();
        let all = [
            "n1 Ready Reachable",
            "n2 Ready Reachable",
            "n3 Ready Reachable",
            "n4 Ready",
        ];
        for number in 1..=3 {
            sees(cluster.node(number), "all are there", &all);
            assert_eq!(etcds(cluster.node(number)).len(), 1);
        }
        let [first, worker] = [1, 4].map(|number| cluster.node(number));
        assert_eq!(etcds(worker), [""; 0], "a worker keeps nothing");
        first.type_("network create -d overlay --attachable net");
        worker.idle("c4", "--network net");

        // The first dies with all that it has: the one that everybody has joined by.
        let killed = etcds(first);
        cluster.nodes[0].daemon.kill().unwrap();
        kill(&killed[0]).unwrap();
        let [second, worker] = [2, 4].map(|number| cluster.node(number));
        let two = [
            "n1 Down Unreachable",
            "n2 Ready Reachable",
            "n3 Ready Reachable",
            "n4 Ready",
        ];
        sees(second, "one is missed", &two);
        second.soon("networks can be created", || {
            second.daemon.hawser(&[
                "network",
                "create",
                "-d",
                "overlay",
                "--attachable",
                "other",
            ])
        });
        second.idle("c2", "--network net");
        reaches(second, "c2", "c4");
        // The worker has learnt of the others after it came.
        worker.soon("it joins what is new", || {
            worker
                .daemon
                .hawser(&["run", "--rm", "--network", "other", "tools", "true"])
        });

        // And it is back.
        cluster.nodes[0].daemon.launch().unwrap();
        sees(cluster.node(1), "all are there again", &all);

        // One that leaves costs the others nothing.
        let [first, third] = [1, 3].map(|number| cluster.node(number));
        third.type_("swarm leave");
        assert_eq!(etcds(third), [""; 0]);
        let two = [
            "n1 Ready Reachable",
            "n2 Ready Reachable",
            "n3 Down",
            "n4 Ready",
        ];
        sees(first, "it has left", &two);
        first.type_("node rm n3");
        first.refuses("node rm n2", 1, "must be demoted to worker before removal");
        // With one of two gone, nothing can be decided, and leaving needs force.
        let (_, second) = (first, cluster.node(2));
        let gone = etcds(second);
        cluster.nodes[1].daemon.kill().unwrap();
        kill(&gone[0]).unwrap();
        let first = cluster.node(1);
        first.refuses("swarm leave", 1, "the control plane does not answer");
        cluster.nodes[1].daemon.launch().unwrap();
        sees(
            cluster.node(1),
            "both are there",
            &["n1 Ready Reachable", "n2 Ready Reachable", "n4 Ready"],
        );
        cluster.node(2).type_("swarm leave");
        sees(
            cluster.node(1),
            "one is left",
            &["n1 Ready Reachable", "n2 Down", "n4 Ready"],
        );
        cluster
            .node(2)
            .refuses("node ls", 1, "this node is in no cluster");
    }
}
