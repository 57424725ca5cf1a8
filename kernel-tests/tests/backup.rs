//! A cluster that is begun again from its backup.

#[cfg(test)]
mod root {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use anyhow::ensure;
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
        let address = second.address("c2", "vantage-net");
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
            "this node is no manager",
        );
        assert!(!fs::exists(&other).unwrap(), "half a backup is none");
        fs::write(&other, text.replacen("vantage", "VANTAGE", 1)).unwrap();
        first.refuses(&format!("swarm restore --force {other}"), 1, "damaged");
        first.refuses(&format!("swarm restore {name}"), 1, "or use --force");
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
            address,
            "it is claimed still"
        );
        for target in ["c2", &address] {
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
    }
}
