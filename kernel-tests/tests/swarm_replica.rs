//! Replicas on the hosts of a cluster.

#[cfg(test)]
mod root {
    use std::collections::BTreeSet;

    use anyhow::{Result, ensure};
    use kernel_tests::cluster::address;
    use kernel_tests::shop::{TOOLS, fetch_during};
    use kernel_tests::{Cluster, Shop, outside};

    /// Serves its own host name, and ends at once when it is told to.
    const SERVE: &str = "trap 'exit 0' TERM; mkdir -p /srv; echo $PAGE $(hostname) >/srv/index.html; \
                         httpd -p 80 -h /srv; while :; do sleep 1 & wait; done";

    fn create(shop: &Shop, name: &str, flags: &str) -> String {
        let head = ["service", "create", "--name", name];
        let flags: Vec<&str> = flags.split_whitespace().collect();
        shop.hawser(&[&head[..], &flags, &[TOOLS, "sh", "-c", SERVE]].concat())
    }

    /// The hosts of the replicas that run, in order.
    fn hosts(shop: &Shop, service: &str) -> Result<Vec<String>> {
        let format = "{{.Node}} {{.DesiredState}} {{.CurrentState}}";
        let words = ["service", "ps", "--format", format, service];
        let lines = shop.daemon.hawser(&words)?;
        let running = lines.lines().filter_map(|line| {
            let (host, state) = line.split_once(' ')?;
            state
                .starts_with("Running Running")
                .then(|| host.to_owned())
        });
        let mut hosts: Vec<String> = running.collect();
        hosts.sort_unstable();
        Ok(hosts)
    }

    /// So many run, on these hosts and on each of them: which has more is open.
    #[track_caller]
    fn run_on(shop: &Shop, service: &str, count: usize, expected: &[&str]) {
        shop.soon(&format!("{count} of {service} run on {expected:?}"), || {
            let found = hosts(shop, service)?;
            let mut hosts = found.clone();
            hosts.dedup();
            let all = || {
                shop.daemon
                    .hawser(&["service", "ps", "--no-trunc", service])
            };
            ensure!(
                hosts == expected && found.len() == count,
                "{found:?}: {}",
                all()?
            );
            Ok(())
        });
    }

    /// The containers of services that run on a host.
    fn containers(shop: &Shop) -> Result<usize> {
        let words = ["ps", "-q", "--filter", "label=com.docker.swarm.task.id"];
        Ok(shop.daemon.hawser(&words)?.lines().count())
    }

    #[track_caller]
    fn have(shop: &Shop, count: usize) {
        shop.soon("so many containers run", || {
            let found = containers(shop)?;
            ensure!(found == count, "{found}");
            Ok(())
        });
    }

    fn page(cluster: &Cluster, node: u8) -> Result<String> {
        outside::fetch_on(&cluster.router, &format!("http://{}:8080", address(node)))
    }

    #[test]
    fn replicas_are_spread_moved_updated_and_removed() {
        let mut cluster = Cluster::without_etcd(3).unwrap().joined(1).unwrap();
        let [first, second, third] = [1, 2, 3].map(|number| cluster.node(number));
        let said = create(
            first,
            "web",
            "--replicas 3 -p 8080:80 --health-tcp 80 -e PAGE=old",
        );
        assert!(
            said.contains("overall progress: 3 out of 3 tasks"),
            "{said}"
        );
        run_on(first, "web", 3, &["n1", "n2", "n3"]);
        let row = first.hawser(&["service", "ls", "--format", "{{.Name}} {{.Replicas}}"]);
        assert_eq!(row, "web 3/3");
        // Any node knows, and each what is its own.
        run_on(third, "web", 3, &["n1", "n2", "n3"]);
        let own = first.hawser(&["node", "ps", "--format", "{{.Node}} {{.Image}}"]);
        assert_eq!(own, "n1 tools");
        let pages: BTreeSet<String> = (0..30).filter_map(|_| page(&cluster, 2).ok()).collect();
        assert_eq!(pages.len(), 3, "each replica answers");

        // An update and a drain, of which no client notices anything.
        let (asked, failed) = fetch_during(
            || page(&cluster, 1),
            || {
                let update = "service update --env-add PAGE=new --update-monitor 1s web";
                first.type_(update);
                first.type_("node update --availability drain n2");
                run_on(first, "web", 3, &["n1", "n3"]);
                have(second, 0);
            },
        );
        assert!(failed.is_empty(), "{} of {asked}: {failed:?}", failed.len());
        assert!(page(&cluster, 2).unwrap().starts_with("new "));
        first.type_("node update --availability active n2");

        // A node that dies: what it had runs elsewhere, and is stopped when it is back.
        let had = containers(third).unwrap();
        let agent = third.daemon.agent().expect("an agent runs");
        kernel_tests::cluster::kill(&agent.to_string()).unwrap();
        cluster.nodes[2].daemon.kill().unwrap();
        let first = cluster.node(1);
        run_on(first, "web", 3, &["n1", "n2"]);
        first.soon("two answer", || page(&cluster, 2).map(drop));
        cluster.nodes[2].daemon.launch().unwrap();
        let [first, second, third] = [1, 2, 3].map(|number| cluster.node(number));
        assert_eq!(containers(third).unwrap(), had, "they have run on");
        third.type_("resume");
        have(third, 0);

        // What nobody can run waits and says why, until somebody can.
        let zone = "--replicas 2 --detach --constraint node.labels.zone==east";
        create(first, "east", zone);
        first.soon("it waits", || {
            let said = first
                .daemon
                .hawser(&["service", "ps", "--no-trunc", "east"])?;
            let why = "no suitable node (scheduling constraints not satisfied on 3 nodes)";
            ensure!(said.contains(why) && said.contains("Pending"), "{said}");
            Ok(())
        });
        first.type_("node update --label-add zone=east n3");
        run_on(first, "east", 2, &["n3"]);

        // One on every host, also on one that has been drained and is back.
        create(first, "all", "--mode global");
        run_on(first, "all", 3, &["n1", "n2", "n3"]);
        first.type_("service rm web east");
        have(third, 1);
        // Whoever leaves has nothing left of the cluster's.
        third.type_("swarm leave");
        have(third, 0);
        run_on(first, "all", 2, &["n1", "n2"]);
        first.type_("service rm all");
        for shop in [first, second] {
            have(shop, 0);
        }
        let left = "ps -aq --filter label=com.docker.swarm.task.id";
        for shop in [first, second, third] {
            shop.soon("nothing is left", || {
                let left = shop.daemon.hawser(&left.split(' ').collect::<Vec<_>>())?;
                ensure!(left.is_empty(), "{left}");
                Ok(())
            });
        }
    }

    #[test]
    fn another_manager_goes_on_when_the_leader_dies() {
        let mut cluster = Cluster::new(3).unwrap().joined(2).unwrap();
        let second = cluster.node(2);
        // Any manager takes the command, whoever leads.
        create(second, "web", "--replicas 3 --restart-delay 100ms");
        run_on(second, "web", 3, &["n1", "n2", "n3"]);
        let agent = cluster.node(1).daemon.agent().expect("an agent runs");
        kernel_tests::cluster::kill(&agent.to_string()).unwrap();
        cluster.nodes[0].daemon.kill().unwrap();
        let second = cluster.node(2);
        run_on(second, "web", 3, &["n2", "n3"]);
        second.type_("service scale -d web=4");
        run_on(second, "web", 4, &["n2", "n3"]);

        // Without etcd all that runs goes on, and what ends meanwhile is replaced when it is back.
        cluster.etcd.as_mut().unwrap().stop().unwrap();
        let (second, third) = (cluster.node(2), cluster.node(3));
        have(second, 2);
        let victim = third.type_("ps -lq");
        third.type_(&format!("kill {victim}"));
        have(third, 1);
        cluster.etcd.as_mut().unwrap().launch().unwrap();
        run_on(cluster.node(2), "web", 4, &["n2", "n3"]);
        cluster.nodes[0].daemon.launch().unwrap();
        let first = cluster.node(1);
        first.type_("resume");
        have(first, 0);
        cluster.node(2).type_("service rm web");
        for shop in &cluster.nodes {
            have(shop, 0);
        }
    }
}
