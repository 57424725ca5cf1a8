//! Managers that must be unlocked after they were restarted.

#[cfg(test)]
mod root {
    use std::fs::{self, File};
    use std::path::PathBuf;
    use std::process::Output;

    use anyhow::ensure;
    use kernel_tests::cluster::{address, etcds, kill};
    use kernel_tests::{Cluster, Shop};

    const LOCKED: &str = "Swarm is encrypted and needs to be unlocked before it can be used.";

    fn certificates(shop: &Shop) -> PathBuf {
        shop.daemon.directories().state().join("swarm/certificates")
    }

    fn is_sealed(shop: &Shop) -> bool {
        certificates(shop).join("swarm-node.key.sealed").exists()
    }

    /// `hawser WORDS` with the key typed.
    fn typed(shop: &Shop, words: &[&str], key: &str) -> Output {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), format!("{key}\n")).unwrap();
        let mut command = shop.daemon.command(words).unwrap();
        command.stdin(File::open(file.path()).unwrap());
        command.output().unwrap()
    }

    fn unlock(shop: &Shop, key: &str) -> Result<(), String> {
        let output = typed(shop, &["swarm", "unlock"], key);
        match output.status.success() {
            true => Ok(()),
            false => Err(String::from_utf8(output.stderr).unwrap()),
        }
    }

    fn sees(shop: &Shop, expected: &[&str]) {
        shop.soon("the nodes are so", || {
            let format = "{{.Hostname}} {{.Status}} {{.ManagerStatus}}";
            let found = shop.daemon.hawser(&["node", "ls", "--format", format])?;
            // Which one leads is nobody's business here.
            let found = found.replace("Leader", "Reachable");
            let found: Vec<&str> = found.lines().map(str::trim).collect();
            ensure!(found == expected, "{found:?}");
            Ok(())
        });
    }

    fn restart(cluster: &mut Cluster, number: usize) {
        let daemon = &mut cluster.nodes[number - 1].daemon;
        daemon.kill().unwrap();
        daemon.launch().unwrap();
    }

    #[test]
    fn a_manager_that_was_restarted_is_unlocked_first() {
        let mut cluster = Cluster::without_etcd(3).unwrap().joined(2).unwrap();
        let [first, second, third] = [1, 2, 3].map(|number| cluster.node(number));
        first.type_("network create -d overlay --attachable net");
        first.idle("c1", "--network net");
        second.idle("c2", "--network net");
        second.idle("c3", "--network net");
        first.refuses("swarm unlock-key", 1, "no unlock key is set");
        assert!(
            unlock(second, "SWMKEY-1-x")
                .unwrap_err()
                .contains("no unlock key")
        );

        let said = first.type_("swarm update --autolock=true");
        assert!(said.starts_with("Swarm updated.\n"), "{said}");
        let key = first.type_("swarm unlock-key -q").trim().to_owned();
        assert!(key.starts_with("SWMKEY-1-") && said.contains(&format!("    {key}\n")));
        second.soon("it has learnt the key", || {
            let learnt = second.daemon.hawser(&["swarm", "unlock-key", "-q"])?;
            ensure!(learnt.trim() == key && is_sealed(second), "{learnt}");
            Ok(())
        });
        // Neither managers' keys nor the cluster's are on a disk that somebody takes away.
        for manager in [first, second] {
            let file = certificates(manager).join("swarm-node.key");
            let run = fs::read_link(&file).unwrap();
            assert!(
                !run.starts_with(manager.daemon.directories().state()),
                "{run:?}"
            );
        }
        assert!(!is_sealed(third), "a worker has nothing to lock");
        let backup = tempfile::tempdir().unwrap();
        let backup = backup.path().join("locked.bkp").display().to_string();
        first.hawser(&["swarm", "backup", &backup]);
        assert!(!fs::read_to_string(&backup).unwrap().contains("PRIVATE KEY"));

        restart(&mut cluster, 2);
        let [first, second, third] = [1, 2, 3].map(|number| cluster.node(number));
        second.refuses("node ls", 1, LOCKED);
        second.refuses("service ls", 1, LOCKED);
        second.refuses("service ps web", 1, LOCKED);
        second.refuses("swarm leave", 1, LOCKED);
        let silent = "the control plane does not answer";
        second.refuses("run --rm --network net tools true", 125, silent);
        assert!(second.type_("info").contains("Swarm: locked"));
        sees(
            first,
            &["n1 Ready Reachable", "n2 Down Unreachable", "n3 Ready"],
        );
        second.inside("c3", "ping -c1 -W2 c2");
        assert_eq!(etcds(second).len(), 1, "the cluster has its vote");
        let other = "SWMKEY-1-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
        assert!(unlock(second, other).unwrap_err().contains("invalid key"));
        second.refuses("node ls", 1, LOCKED);
        unlock(second, &key).unwrap();
        let all = ["n1 Ready Reachable", "n2 Ready Reachable", "n3 Ready"];
        sees(second, &all);
        second.soon("containers can join", || {
            let words = [
                "run",
                "--rm",
                "--network",
                "net",
                "tools",
                "ping",
                "-c1",
                "c1",
            ];
            second.daemon.hawser(&words)
        });
        assert!(
            unlock(second, &key)
                .unwrap_err()
                .contains("swarm is not locked")
        );

        // Another key: the one before opens nothing any more.
        let said = first.type_("swarm unlock-key --rotate");
        assert!(
            said.starts_with("Successfully rotated manager unlock key.\n"),
            "{said}"
        );
        let rotated = first.type_("swarm unlock-key -q").trim().to_owned();
        assert_ne!(rotated, key);
        second.soon("it has learnt the other key", || {
            let learnt = second.daemon.hawser(&["swarm", "unlock-key", "-q"])?;
            ensure!(learnt.trim() == rotated, "{learnt}");
            Ok(())
        });
        // Tokens and certificates are given as before.
        first.type_("swarm join-token --rotate worker");
        third.type_("swarm leave");
        cluster.join(3, "manager").unwrap();
        assert!(is_sealed(cluster.node(3)), "who joins is told the key");
        restart(&mut cluster, 1);
        let first = cluster.node(1);
        first.refuses("node ls", 1, LOCKED);
        assert!(unlock(first, &key).unwrap_err().contains("invalid key"));
        unlock(first, &rotated).unwrap();

        first.soon("it can be switched off", || {
            first
                .daemon
                .hawser(&["swarm", "update", "--autolock=false"])
        });
        for number in 1..=3 {
            let node = cluster.node(number);
            node.soon("it is not locked any more", || {
                ensure!(!is_sealed(node));
                Ok(())
            });
            let file = certificates(node).join("swarm-node.key");
            assert!(fs::symlink_metadata(file).unwrap().is_file());
        }
        restart(&mut cluster, 2);
        let second = cluster.node(2);
        second.soon("it takes part", || second.daemon.hawser(&["node", "ls"]));
        second.type_("rm -f c2 c3");
        cluster.node(1).type_("rm -f c1");
    }

    #[test]
    fn a_cluster_that_is_locked_from_the_beginning_comes_back_with_its_key() {
        let mut cluster = Cluster::without_etcd(1).unwrap();
        let first = cluster.node(1);
        let at = address(1);
        let said = first.type_(&format!("swarm init --autolock --advertise-addr {at}"));
        let key = first.type_("swarm unlock-key -q").trim().to_owned();
        assert!(said.contains(&key), "{said}");
        first.type_("network create -d overlay net");
        let backup = tempfile::tempdir().unwrap();
        let backup = backup.path().join("locked.bkp").display().to_string();
        first.hawser(&["swarm", "backup", &backup]);

        // The host starts anew: nothing is in memory, and etcd does not run.
        let state = first.daemon.directories().state();
        let file = state.join("swarm/certificates/swarm-node.key");
        let run = fs::read_link(&file).unwrap();
        cluster.nodes[0].daemon.kill().unwrap();
        for pid in etcds(cluster.node(1)) {
            kill(&pid).unwrap();
        }
        fs::remove_file(&run).unwrap();
        cluster.nodes[0].daemon.launch().unwrap();
        let first = cluster.node(1);
        first.refuses("node ls", 1, LOCKED);
        unlock(first, &key).unwrap();
        sees(first, &["n1 Ready Reachable"]);
        first.type_("network inspect net");

        first.refuses(
            &format!("swarm restore --force {backup}"),
            1,
            "that is locked",
        );
        let words = ["swarm", "restore", "--force", "--unlock", &*backup];
        let restored = typed(first, &words, &key);
        assert!(restored.status.success(), "{restored:?}");
        assert_eq!(first.type_("swarm unlock-key -q").trim(), key);
        assert!(is_sealed(first));
        cluster.nodes[0].daemon.kill().unwrap();
        cluster.nodes[0].daemon.launch().unwrap();
        let first = cluster.node(1);
        first.refuses("swarm leave", 1, LOCKED);
        first.type_("swarm leave --force");
        assert!(first.type_("info").contains("Swarm: inactive"));
        assert!(!state.join("swarm").exists() && !run.exists());
    }
}
