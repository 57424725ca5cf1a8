//! A cluster that is begun again from its backup.

#[cfg(test)]
mod root {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use anyhow::{Result, ensure};
    use kernel_tests::cluster::address;
    use kernel_tests::shop::TOOLS;
    use kernel_tests::{Cluster, Shop};

    fn lists(shop: &Shop, network: &str) -> bool {
        let format = "{{.Name}} {{.Driver}} {{.Scope}}";
        let names = shop.hawser(&["network", "ls", "--format", format]);
        names
            .lines()
            .any(|line| line == format!("{network} overlay swarm"))
    }

    #[test]
    fn a_cluster_comes_back_with_all_that_it_had() {
        let cluster = Cluster::without_etcd(2).unwrap().joined(1).unwrap();
        let [first, second] = [1, 2].map(|number| cluster.node(number));
        first.type_("network create -d overlay --attachable vantage-net");
        first.type_("service create -q --name vantage-svc --network vantage-net");
        first.type_("node update --label-add zone=east n2");
        second.idle("c2", "--network vantage-net");
        let claimed = second.address("c2", "vantage-net");
        let token = first.type_("swarm join-token -q worker");

        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("swarm.bkp");
        let name = file.display().to_string();
        first.hawser(&["swarm", "backup", &name]);
        let mode = fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let text = fs::read_to_string(&file).unwrap();
        first.refuses(&format!("swarm backup {name}"), 1, "exists");
        assert_eq!(fs::read_to_string(&file).unwrap(), text);
        let other = directory.path().join("other").display().to_string();
        second.refuses(
            &format!("swarm backup {other}"),
            1,
            "this node is not a swarm manager",
        );
        assert!(!fs::exists(&other).unwrap(), "half a backup is none");
        fs::write(&other, text.replacen("vantage", "VANTAGE", 1)).unwrap();
        first.refuses(&format!("swarm restore --force {other}"), 1, "damaged");
        first.refuses(&format!("swarm restore {name}"), 1, "or use --force");
        // Nobody leaves its cluster for one that cannot begin here.
        let no_address = "this host has no address";
        for (shop, flags) in [(second, ""), (first, "--advertise-addr 192.0.2.9 ")] {
            let restore = format!("swarm restore --force {flags}{name}");
            shop.refuses(&restore, 1, no_address);
            assert!(shop.type_("info").contains("Swarm: active"));
        }
        assert!(lists(first, "vantage-net"), "nothing has happened");

        // What the worker has heard since is of a store that is to be no more.
        first.type_("service update -q --label-add told=before vantage-svc");
        let label = "{{.Spec.Labels.told}}";
        let told = |shop: &Shop, word: &str| {
            shop.soon("it is told", || {
                let inspect = ["service", "inspect", "-f", label, "vantage-svc"];
                let found = shop.daemon.hawser(&inspect)?;
                ensure!(found == word, "{found}");
                Ok(())
            });
        };
        told(second, "before");

        first.type_("swarm leave --force");
        assert!(!lists(first, "vantage-net"));
        let said = first.type_(&format!("swarm restore {name}"));
        assert!(said.ends_with(") is now a manager."), "{said}");
        assert!(lists(first, "vantage-net"));
        assert_eq!(first.type_("swarm join-token -q worker"), token);
        // The worker comes back by itself, with its container.
        let format = "{{.Hostname}} {{.Status}} {{.ManagerStatus}}";
        first.soon("all are there", || {
            let found = first.daemon.hawser(&["node", "ls", "--format", format])?;
            let found: Vec<&str> = found.lines().map(str::trim).collect();
            ensure!(found == ["n1 Ready Leader", "n2 Ready"], "{found:?}");
            Ok(())
        });
        let zone = first.hawser(&["node", "inspect", "--format", "{{.Spec.Labels.zone}}", "n2"]);
        assert_eq!(zone.trim(), "east");
        first.type_("service update -q --label-add told=after vantage-svc");
        told(second, "after");
        first.idle_soon("c1", "--network vantage-net");
        assert_ne!(
            first.address("c1", "vantage-net"),
            claimed,
            "it is claimed still"
        );
        for target in ["c2", &claimed] {
            first.soon("it is reached", || {
                first
                    .daemon
                    .hawser(&["exec", "c1", "ping", "-c1", "-W1", target])
            });
        }
        second.idle("c3", "--network vantage-net");
        first.type_("rm -f c1");
        second.type_("rm -f c2 c3");

        // In place of another cluster, which has to be asked for.
        first.type_("network create -d overlay later");
        first.type_(&format!("swarm restore --force {name}"));
        assert!(lists(first, "vantage-net") && !lists(first, "later"));

        // In another host's place, under its own name.
        first.type_("swarm leave --force");
        let at = address(2);
        second.type_(&format!(
            "swarm restore --force --advertise-addr {at} {name}"
        ));
        let format = "{{.Description.Hostname}} {{.ManagerStatus.Addr}}";
        let own = second.hawser(&["node", "inspect", "--format", format, "self"]);
        assert_eq!(own.trim(), format!("n2 {at}:2377"));
    }

    /// `HOSTNAME STATUS`.
    fn nodes(shop: &Shop) -> Result<Vec<String>> {
        let format = "{{.Hostname}} {{.Status}}";
        let listing = shop.daemon.hawser(&["node", "ls", "--format", format])?;
        Ok(listing.lines().map(str::to_owned).collect())
    }

    fn see(shop: &Shop, what: &str, expected: &[&str]) {
        shop.soon(what, || {
            let found = nodes(shop)?;
            ensure!(found == expected, "{found:?}");
            Ok(())
        });
    }

    #[test]
    fn replicas_stay_where_they_are_until_their_hosts_have_heard_of_it() {
        let mut cluster = Cluster::without_etcd(2).unwrap().joined(1).unwrap();
        let first = cluster.node(1);
        let create = "service create -q --name web --replicas 2 --constraint node.hostname==n2";
        let words: Vec<&str> = create.split(' ').collect();
        first.hawser(&[&words[..], &[TOOLS, "sleep", "600"]].concat());
        let tasks = |shop: &Shop| shop.type_("service ps -q --no-trunc web");
        let before = tasks(first);
        assert_eq!(before.lines().count(), 2);
        let directory = tempfile::tempdir().unwrap();
        let name = directory.path().join("swarm.bkp").display().to_string();
        first.type_(&format!("swarm backup {name}"));

        cluster.nodes[1].daemon.kill().unwrap();
        let first = cluster.node(1);
        first.type_(&format!("swarm restore --force {name}"));
        see(first, "it is waited for", &["n1 Ready", "n2 Unknown"]);
        // The agent of the one that leads has looked at it when it has done something else.
        let other = create.replace("web", "other").replace("n2", "n1");
        let words: Vec<&str> = other.split(' ').collect();
        first.hawser(&[&words[..], &[TOOLS, "sleep", "600"]].concat());
        assert_eq!(tasks(first), before);
        cluster.nodes[1].daemon.launch().unwrap();
        let first = cluster.node(1);
        see(first, "it is back", &["n1 Ready", "n2 Ready"]);
        assert_eq!(tasks(first), before);

        // Whoever does not come is gone.
        cluster.nodes[1].daemon.kill().unwrap();
        let first = cluster.node(1);
        first.type_(&format!("swarm restore --force {name}"));
        see(first, "it is waited for", &["n1 Ready", "n2 Unknown"]);
        see(first, "it is gone", &["n1 Ready", "n2 Down"]);
        first.soon("others take over", || {
            let now = tasks(first);
            ensure!(now.lines().count() > 2, "{now}");
            Ok(())
        });
        cluster.nodes[1].daemon.launch().unwrap();
        cluster.node(1).type_("service rm web");
    }
}
