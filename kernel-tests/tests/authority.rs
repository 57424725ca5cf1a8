//! Another authority takes the place of the one that a cluster has.

#[cfg(test)]
mod root {
    use std::fs;
    use std::path::{Path, PathBuf};
    use std::time::Duration;

    use anyhow::{Result, ensure};
    use kernel_tests::cluster::{address, etcds};
    use kernel_tests::shop::TOOLS;
    use kernel_tests::{Cluster, Shop, wait};

    /// Managers go one after the other, twice.
    const ROTATION: Duration = Duration::from_secs(150);

    fn certificates(shop: &Shop) -> PathBuf {
        shop.daemon.directories().state().join("swarm/certificates")
    }

    fn root(shop: &Shop) -> String {
        let file = certificates(shop).join("swarm-root-ca.crt");
        fs::read_to_string(file).unwrap()
    }

    /// What a node answers to whoever shows the certificate and the key in `papers`.
    fn ask(shop: &Shop, papers: &Path, to: &str) -> Result<String> {
        let file = |name: &str| papers.join(name).display().to_string();
        let shown = [file("swarm-node.crt"), file("swarm-node.key")];
        let url = format!("https://{to}");
        let words = [
            "-sk", "-m", "5", "--cert", &shown[0], "--key", &shown[1], &url,
        ];
        shop.host.output("curl", &words)
    }

    /// The one authority that a node trusts, when it is not `old` any more.
    fn ends(shop: &Shop, old: &str) -> String {
        let root = wait::until(ROTATION, "the rotation ends", || {
            let text = root(shop);
            (text.matches("BEGIN").count() == 1 && text.trim() != old.trim()).then_some(text)
        });
        root.unwrap()
    }

    fn reach(shop: &Shop, from: &str, target: &str) {
        shop.soon("it is reached", || {
            shop.daemon
                .hawser(&["exec", from, "ping", "-c1", "-W1", target])
        });
    }

    #[test]
    fn another_authority_takes_over_while_containers_talk() {
        let mut cluster = Cluster::without_etcd(5).unwrap();
        cluster.init().unwrap();
        for (number, role) in [(2, "manager"), (3, "manager"), (4, "worker")] {
            cluster.join(number, role).unwrap();
        }
        let [first, second, fourth] = [1, 2, 4].map(|number| cluster.node(number));
        first.type_("network create -d overlay --attachable net");
        fourth.idle("c4", "--network net");
        let target = fourth.address("c4", "net");
        first.type_(&format!(
            "run -d --name pings --network net {TOOLS} ping -i 0.2 {target}"
        ));
        let old = [first, fourth].map(|shop| {
            let directory = tempfile::tempdir().unwrap();
            for name in ["swarm-node.crt", "swarm-node.key"] {
                fs::copy(certificates(shop).join(name), directory.path().join(name)).unwrap();
            }
            directory
        });
        let token = first.type_("swarm join-token -q worker");
        let before = root(first);
        let etcd = etcds(first);
        let etcd_at = format!("{}:2379/version", address(1));
        assert!(
            ask(fourth, old[1].path(), &etcd_at)
                .unwrap()
                .contains("etcdserver")
        );

        let ran = second.run(&["swarm", "ca", "--rotate"]);
        assert_eq!(ran.code, 0, "{ran:?}");
        let said = &ran.stdout;
        for line in [
            "desired root digest: sha256:",
            "  rotated TLS certificates:  4/4 nodes\n",
            "  rotated CA certificates:   4/4 nodes\n",
        ] {
            assert!(said.contains(line), "{said}");
        }
        let after = second.type_("swarm ca");
        assert!(said.trim_end().ends_with(after.trim()), "{said}");
        assert_ne!(after.trim(), before.trim());
        for number in 1..=4 {
            assert_eq!(root(cluster.node(number)).trim(), after.trim());
        }
        assert_ne!(etcds(first), etcd, "it trusts others");

        first.type_("kill --signal INT pings");
        first.soon("it has counted", || {
            let said = first.daemon.hawser(&["logs", "pings"])?;
            let counts = said.lines().find(|line| line.contains("transmitted"));
            let words = counts.unwrap_or_default().split_whitespace();
            let counts: Vec<u32> = words.filter_map(|word| word.parse().ok()).collect();
            // One may have been under way.
            let all = matches!(*counts, [sent, back, ..] if sent > 20 && back + 1 >= sent);
            ensure!(all, "{said}");
            Ok(())
        });

        // Whoever has papers of the old one is nobody, by any door.
        for (papers, shop) in old.iter().zip([first, fourth]) {
            for to in [&etcd_at, &format!("{}:2377/v1/renew", address(2))] {
                let asked = ask(shop, papers.path(), to);
                assert!(asked.is_err(), "{to}: {asked:?}");
            }
            assert!(ask(shop, &certificates(shop), &etcd_at).is_ok());
        }
        for node in &mut cluster.nodes {
            node.daemon.kill().unwrap();
            node.daemon.launch().unwrap();
        }
        let [first, fourth, fifth] = [1, 4, 5].map(|number| cluster.node(number));
        let join = |token: &str| format!("swarm join --token {} {}", token.trim(), address(1));
        fifth.refuses(&join(&token), 1, "not of the cluster that the token is for");
        let now = first.type_("swarm join-token -q worker");
        // The digest of one, the secret of the other.
        let half = [
            now.trim().rsplit_once('-').unwrap().0,
            token.trim().rsplit_once('-').unwrap().1,
        ];
        fifth.refuses(&join(&half.join("-")), 1, "was rotated");
        fifth.type_(&join(&now));
        fifth.idle_soon("c5", "--network net");
        reach(fifth, "c5", &target);
        fourth.idle_soon("c6", "--network net");
    }

    #[test]
    fn a_rotation_goes_on_whoever_is_ended() {
        let mut cluster = Cluster::without_etcd(4).unwrap().joined(3).unwrap();
        let [first, fourth] = [1, 4].map(|number| cluster.node(number));
        first.type_("network create -d overlay --attachable net");
        fourth.idle("c4", "--network net");
        let before = root(first);
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str| directory.path().join(name).display().to_string();
        let files = [file("ours.crt"), file("ours.key")];
        let make = [
            "req",
            "-x509",
            "-nodes",
            "-subj",
            "/CN=ours",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-days",
            "9",
            "-out",
            &files[0],
            "-keyout",
            &files[1],
        ];
        first.host.output("openssl", &make).unwrap();
        let given = format!(
            "swarm ca --rotate -d --ca-cert {} --ca-key {}",
            files[0], files[1]
        );
        assert_eq!(first.type_(&given), "");
        for node in &mut cluster.nodes[..3] {
            node.daemon.kill().unwrap();
            node.daemon.launch().unwrap();
            node.soon("it trusts both, or has done so", || {
                ensure!(root(node).trim() != before.trim(), "it waits");
                Ok(())
            });
        }
        let ours = fs::read_to_string(&files[0]).unwrap();
        for number in 1..=4 {
            let shop = cluster.node(number);
            assert_eq!(ends(shop, &before).trim(), ours.trim());
        }
        let first = cluster.node(1);
        first.idle_soon("c1", "--network net");
        reach(first, "c1", "c4");
    }

    #[test]
    fn a_silent_host_holds_a_rotation_up_until_it_is_removed() {
        let mut cluster = Cluster::without_etcd(2).unwrap().joined(1).unwrap();
        let first = cluster.node(1);
        first.refuses("swarm ca --ca-cert f", 1, "--rotate");
        let file = certificates(first)
            .join("swarm-root-ca.crt")
            .display()
            .to_string();
        let given = format!("swarm ca --rotate --ca-cert {file} --ca-key {file}");
        first.refuses(&given, 1, "read the authority's key");
        let before = root(first);
        cluster.nodes[1].daemon.kill().unwrap();
        let first = cluster.node(1);
        first.type_("swarm ca --rotate --detach");
        first.refuses("swarm ca --rotate", 1, "which waits for n");
        let both = || root(cluster.node(1)).matches("BEGIN").count() == 2;
        first.soon("it trusts both", || {
            ensure!(both(), "one");
            let said = first.run(&["swarm", "ca", "--rotate"]).stderr;
            ensure!(said.contains("which waits for n2:"), "{said}");
            Ok(())
        });
        // In the middle it is saved, and goes on from there.
        let directory = tempfile::tempdir().unwrap();
        let name = directory.path().join("swarm.bkp").display().to_string();
        first.type_(&format!("swarm backup {name}"));
        first.type_(&format!("swarm restore --force {name}"));
        assert!(both());
        cluster.nodes[1].daemon.launch().unwrap();
        let [first, second] = [1, 2].map(|number| cluster.node(number));
        let after = ends(second, &before);
        assert_eq!(ends(first, &before), after);
        // The only etcd restarts once more, with the new authority alone.
        let said = first.soon("it answers", || first.daemon.hawser(&["swarm", "ca"]));
        assert_eq!(said.trim(), after.trim());

        cluster.nodes[1].daemon.kill().unwrap();
        let first = cluster.node(1);
        let again = ["swarm", "ca", "--rotate", "--detach"];
        first.soon("it begins", || first.daemon.hawser(&again));
        first.soon("it is down", || first.daemon.hawser(&["node", "rm", "n2"]));
        assert_ne!(ends(first, &after), before);
        // What was saved before knows nobody who came to the next one.
        first.type_(&format!("swarm restore --force {name}"));
        first.soon("it is there", || first.daemon.hawser(&["node", "ls"]));
    }
}
