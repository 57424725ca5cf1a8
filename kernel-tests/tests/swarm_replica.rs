//! Replicas on the hosts of a cluster.

#[cfg(test)]
mod root {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use anyhow::{Result, ensure};
    use kernel_tests::cluster::{REGISTRY, address};
    use kernel_tests::program;
    use kernel_tests::registry::{Guard, LOGIN, Registry};
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
        assert_eq!(own, "n1 tools:latest");
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
        let id = third.hawser(&["info", "--format", "{{.Swarm.NodeID}}"]);
        let name = third.type_(&format!(
            "ps --format {{{{.Names}}}} --filter label=com.docker.swarm.node.id={id} \
             --filter label=com.docker.swarm.service.name=all"
        ));
        assert!(name.starts_with(&format!("all.{id}.")), "{name}");
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

    /// Ends late when it is told to.
    const LINGER: &str = "trap 'sleep 3; exit 0' TERM; while :; do sleep 1 & wait; done";

    #[test]
    fn fewer_replicas_stay_even_and_a_network_goes_after_its_service() {
        let cluster = Cluster::without_etcd(2).unwrap().joined(1).unwrap();
        let [first, second] = [1, 2].map(|number| cluster.node(number));
        first.type_("network create -d overlay shop");
        first.type_("node update --availability drain n2");
        let create = "service create --name web --network shop --replicas 2 --drain 0s";
        let words: Vec<&str> = create.split_whitespace().collect();
        first.hawser(&[&words[..], &[TOOLS, "sh", "-c", LINGER]].concat());
        first.type_("node update --availability active n2");
        first.type_("service scale web=4");
        run_on(first, "web", 4, &["n1", "n2"]);
        first.type_("service scale web=2");
        run_on(first, "web", 2, &["n1", "n2"]);
        second.refuses(
            "network rm shop",
            1,
            "not a swarm manager: run it on n1 (172.31.1.5:2377)",
        );
        first.refuses(
            "network rm shop",
            1,
            "network shop is in use by service web",
        );
        first.type_("service rm web");
        // Its replicas take their time to end.
        assert_eq!(first.type_("network rm shop"), "shop");
        let names = first.hawser(&["network", "ls", "--format", "{{.Name}}"]);
        assert!(names.lines().all(|name| name != "shop"), "{names}");
        have(first, 0);
        have(second, 0);
    }

    /// `hawser WORDS` of somebody whose logins are in `home`.
    fn typed(shop: &Shop, home: &Path, words: &str) -> String {
        let words: Vec<&str> = words.split_whitespace().collect();
        let mut command = shop.daemon.command(&words).unwrap();
        let ran = program::run(command.env("DOCKER_CONFIG", home)).unwrap();
        assert_eq!(ran.code, 0, "{ran:?}");
        ran.stdout
    }

    /// Of [`LOGIN`], as it is sent and kept.
    const SECRET: &str = "bWU6cGFzcw==";
    /// What begins the keys of those that are kept.
    const LOGINS: &str = "logins/";

    #[test]
    fn a_login_goes_with_a_service_to_the_hosts_that_pull() {
        let cluster = Cluster::without_etcd(2).unwrap().joined(1).unwrap();
        let [first, second] = [1, 2].map(|number| cluster.node(number));
        let guard = Guard {
            login: Some(LOGIN),
            ..Guard::default()
        };
        let _registry = Registry::at(&cluster.router, REGISTRY, guard).unwrap();
        let home = first.daemon.directories().root().join("docker");
        typed(first, &home, &format!("login -u me -p pass {REGISTRY}"));
        let image = format!("{REGISTRY}/web");
        for tag in [1, 2] {
            first.type_(&format!("create --name c{tag} {TOOLS} true"));
            let change = format!("WORKDIR /{tag}");
            first.hawser(&[
                "commit",
                "-c",
                &change,
                &format!("c{tag}"),
                &format!("{image}:{tag}"),
            ]);
            typed(first, &home, &format!("push {image}:{tag}"));
            first.type_(&format!("rm c{tag}"));
        }
        let create = |flags: &str| {
            let words = format!(
                "service create -d --name web --constraint node.hostname==n2 --restart-delay 100ms \
                 --stop-grace-period 0s {flags} {image}:1 sleep 600"
            );
            typed(first, &home, &words)
        };
        create("");
        first.soon("the reason is shown", || {
            let words = ["service", "ps", "--no-trunc", "web"];
            let said = first.daemon.hawser(&words)?;
            let parts = [
                "access to web denied",
                "or --with-registry-auth where the service",
            ];
            ensure!(parts.iter().all(|part| said.contains(part)), "{said}");
            Ok(())
        });
        first.type_("service rm web");
        have(second, 0);

        create("--with-registry-auth");
        run_on(first, "web", 1, &["n2"]);
        // It is kept until another one comes, and shown to nobody.
        let update = format!("service update -d --update-monitor 1s --image {image}:2 web");
        typed(first, &home, &update);
        first.soon("the other image runs", || {
            let container = second.daemon.hawser(&["ps", "-q"])?;
            let at = second.daemon.hawser(&["exec", &container, "pwd"])?;
            ensure!(at == "/2", "{at}");
            Ok(())
        });
        let shown = first.type_("service inspect web");
        assert!(
            !shown.contains("ogin") && !shown.contains(SECRET),
            "{shown}"
        );
        second.refuses(&format!("pull {image}:1"), 1, "denied");
        let backup = || {
            let file = home.join("backup").display().to_string();
            first.hawser(&["swarm", "backup", &file]);
            let content = fs::read_to_string(&file).unwrap();
            fs::remove_file(&file).unwrap();
            content
        };
        // Not so that whoever has a manager's disk reads it.
        let kept = backup();
        assert!(kept.contains(LOGINS) && !kept.contains(SECRET), "{kept}");
        first.type_("service rm web");
        assert!(!backup().contains(LOGINS), "nothing is left of it");

        // A service of one host has it, too.
        first.type_(&format!("rmi {image}:1"));
        let own = "service create -d --with-registry-auth --name own --network bridge";
        typed(first, &home, &format!("{own} {image}:1 sleep 600"));
        have(first, 1);
        first.type_("service rm own");
        have(first, 0);
    }

    /// A line for each host, and one more when it is told to.
    const SAY: &str = "trap 'echo late from $NODE' USR1; echo out of $NODE; echo err of $NODE >&2; \
                       while :; do sleep 1 & wait; done";

    /// The lines of `text`, without what says whose they are.
    fn lines(text: &str) -> BTreeSet<&str> {
        let lines = text.lines().filter_map(|line| line.split_once("| "));
        lines.map(|(_, line)| line).collect()
    }

    #[test]
    fn a_manager_reads_what_replicas_write_on_every_host() {
        let cluster = Cluster::new(3).unwrap().joined(1).unwrap();
        let [first, second, third] = [1, 2, 3].map(|number| cluster.node(number));
        first.hawser(&[
            "service",
            "create",
            "--detach",
            "--name",
            "web",
            "--mode",
            "global",
            "--env",
            "NODE={{.Node.Hostname}}",
            TOOLS,
            "sh",
            "-c",
            SAY,
        ]);
        run_on(first, "web", 3, &["n1", "n2", "n3"]);
        first.soon("all hosts are heard", || {
            let read = first.daemon.run(&["service", "logs", "web"])?;
            let expected: [&[&str]; 2] = [
                &["out of n1", "out of n2", "out of n3"],
                &["err of n1", "err of n2", "err of n3"],
            ];
            for (found, expected) in [&read.stdout, &read.stderr].into_iter().zip(expected) {
                ensure!(
                    lines(found).into_iter().eq(expected.iter().copied()),
                    "{read:?}"
                );
            }
            let is_its = |line: &str| line.contains("@n3    | out of n3");
            ensure!(
                read.code == 0 && read.stdout.lines().any(is_its),
                "{read:?}"
            );
            Ok(())
        });
        let tail = first.run(&["service", "logs", "--raw", "--tail", "1", "web"]);
        assert_eq!((&*tail.stdout, tail.stderr.lines().count()), ("", 3));
        let task = first.hawser(&["service", "ps", "-q", "--filter", "node=n3", "web"]);
        assert_eq!(lines(&first.hawser(&["service", "logs", &task])).len(), 1);

        // As it comes, until the service is removed.
        let followed = std::thread::scope(|scope| {
            let follower = scope.spawn(|| first.daemon.run(&["service", "logs", "-f", "web"]));
            let container = third.type_("ps -q");
            third.type_(&format!("kill --signal USR1 {container}"));
            first.soon("the late line is there", || {
                let read = first.daemon.hawser(&["service", "logs", "web"])?;
                ensure!(read.contains("late from n3"), "{read}");
                Ok(())
            });
            first.type_("service rm web");
            follower.join().unwrap().unwrap()
        });
        assert_eq!(followed.code, 0, "{followed:?}");
        assert!(followed.stdout.contains("| late from n3\n"), "{followed:?}");
        assert!(followed.stdout.contains("| out of n2\n"), "{followed:?}");
        have(second, 0);
    }

    #[test]
    fn only_managers_read_what_replicas_write_elsewhere() {
        let cluster = Cluster::new(3).unwrap().joined(1).unwrap();
        let [first, second, third] = [1, 2, 3].map(|number| cluster.node(number));
        let create = "service create --detach --name web --constraint node.hostname==n3";
        let words: Vec<&str> = create.split(' ').collect();
        let said = [&words[..], &[TOOLS, "sh", "-c", "echo words; sleep 600"]].concat();
        first.hawser(&said);
        run_on(first, "web", 1, &["n3"]);
        first.soon("it is read", || {
            let read = first.daemon.hawser(&["service", "logs", "--raw", "web"])?;
            ensure!(read == "words", "{read}");
            Ok(())
        });
        second.refuses(
            "service logs web",
            1,
            "this node is not a swarm manager: run it on n1 (172.31.1.5:2377)",
        );
        // Past the daemon, with the papers of a worker and without any, in anybody's name.
        let task = first.type_("service ps -q --no-trunc web");
        let url = format!("https://{}:2377/v1/output", address(3));
        let home = second
            .daemon
            .directories()
            .state()
            .join("swarm/certificates");
        let papers = [
            home.join("swarm-node.crt").display().to_string(),
            home.join("swarm-node.key").display().to_string(),
        ];
        for node in [first, second] {
            let id = node.hawser(&["info", "--format", "{{.Swarm.NodeID}}"]);
            let wanted = format!(r#"{{"node":"{id}","wanted":{{"Task":"{task}","Tail":"all"}}}}"#);
            let asked = ["-sk", "-m", "5", "--json", &wanted, &url];
            let shown = ["--cert", &papers[0], "--key", &papers[1]];
            for words in [&asked[..], &[&asked[..], &shown].concat()] {
                let said = second.host.output("curl", words).unwrap();
                assert!(said.contains("is no manager of the cluster"), "{said}");
            }
        }
        // What is silent is named.
        let agent = third.daemon.agent().expect("an agent runs");
        kernel_tests::cluster::kill(&agent.to_string()).unwrap();
        first.soon("it is said", || {
            let read = first.daemon.run(&["service", "logs", "web"])?;
            let why = "node n3 at 172.31.3.5:2377: the agent of this node does not answer";
            ensure!(read.code == 1 && read.stderr.contains(why), "{read:?}");
            Ok(())
        });
        third.type_("resume");
        first.type_("service rm web");
        have(third, 0);
    }

    #[test]
    fn another_manager_goes_on_when_the_leader_dies() {
        // The first leader's clock is ahead, and that of a host that carries out behind.
        let clocks = [1500, 0, -1500];
        let mut cluster = Cluster::with_clocks(&clocks).unwrap().joined(2).unwrap();
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
