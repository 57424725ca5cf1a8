//! Services that start their own containers, as users see them.

#[cfg(test)]
mod root {
    use std::collections::BTreeSet;

    use anyhow::{Result, ensure};
    use kernel_tests::Shop;
    use kernel_tests::shop::{TOOLS, fetch_during};

    /// Serves its own host name, and ends at once when it is told to.
    const SERVE: &str = "trap 'exit 0' TERM; mkdir -p /srv; echo $PAGE $(hostname) >/srv/index.html; \
                         httpd -p 80 -h /srv; while :; do sleep 1 & wait; done";
    const PUBLISHED: &str = "published=8080,target=80";

    fn create(shop: &Shop, flags: &[&str], script: &str) -> String {
        let head = ["service", "create", "--name", "web", "--network", "shop"];
        shop.hawser(&[&head, flags, &[TOOLS, "sh", "-c", script]].concat())
    }

    fn open() -> Shop {
        let shop = Shop::open();
        shop.type_("network create shop");
        shop
    }

    /// `NAME DESIRED STATE` of each replica, newest first in each slot.
    fn tasks(shop: &Shop) -> Vec<String> {
        let format = "{{.Name}} {{.DesiredState}} {{.CurrentState}}";
        let lines = shop.hawser(&["service", "ps", "--format", format, "web"]);
        let words = |line: &str| -> Vec<String> {
            line.split_whitespace().take(4).map(str::to_owned).collect()
        };
        lines
            .lines()
            .map(|line| {
                let mut words = words(line);
                words.truncate(if words.first().is_some_and(|w| w == "\\_") {
                    4
                } else {
                    3
                });
                words.join(" ")
            })
            .collect()
    }

    fn running(shop: &Shop) -> usize {
        tasks(shop)
            .iter()
            .filter(|line| line.ends_with("Running Running"))
            .count()
    }

    #[track_caller]
    fn become_running(shop: &Shop, count: usize) {
        shop.soon("replicas run", || {
            let found = tasks(shop);
            ensure!(running(shop) == count, "{found:?}");
            Ok(())
        });
    }

    fn pages(shop: &Shop) -> BTreeSet<String> {
        let url = format!("http://{}:8080", shop.outside.host_v4);
        (0..30)
            .map(|_| shop.outside.fetch(&url))
            .collect::<Result<BTreeSet<String>>>()
            .unwrap_or_else(|error| BTreeSet::from([format!("{error:#}")]))
    }

    /// Ends all containers of the service; the agent ends with the last of them.
    #[track_caller]
    fn remove(shop: &Shop) {
        let removed = shop.run(&["service", "rm", "web"]);
        assert_eq!((removed.code, removed.stderr.as_str()), (0, ""));
        shop.soon("nothing is left", || {
            let left = shop.type_("ps -aq");
            ensure!(left.is_empty(), "{left}");
            Ok(())
        });
        assert_eq!(shop.type_("service ls -q"), "");
    }

    #[test]
    fn replicas_are_started_balanced_replaced_scaled_and_removed() {
        let shop = open();
        let said = create(
            &shop,
            &[
                "--replicas",
                "3",
                "--publish",
                PUBLISHED,
                "--restart-delay",
                "100ms",
            ],
            SERVE,
        );
        assert!(
            said.contains("overall progress: 3 out of 3 tasks"),
            "{said}"
        );
        assert!(said.contains("verify: Service"), "{said}");
        let row = shop.hawser(&[
            "service",
            "ls",
            "--format",
            "{{.Name}} {{.Mode}} {{.Replicas}} {{.Image}} {{.Ports}}",
        ]);
        assert_eq!(
            row,
            format!("web replicated 3/3 {TOOLS}:latest *:8080->80/tcp")
        );
        assert_eq!(
            tasks(&shop),
            [
                "web.1 Running Running",
                "web.2 Running Running",
                "web.3 Running Running"
            ]
        );
        assert_eq!(pages(&shop).len(), 3, "each replica answers");

        // One is killed: another takes its place, and its end is on record.
        let victim = shop.type_("ps -q --filter name=web.2.");
        shop.hawser(&["kill", &victim]);
        shop.soon("the dead one is followed", || {
            let found = tasks(&shop);
            let past = found.iter().any(|line| line == "\\_ web.2 Shutdown Failed");
            ensure!(past && running(&shop) == 3, "{found:?}");
            Ok(())
        });
        shop.soon("all answer", || {
            let found = pages(&shop);
            ensure!(found.len() == 3, "{found:?}");
            Ok(())
        });

        assert!(
            shop.type_("service scale web=5")
                .starts_with("web scaled to 5")
        );
        assert_eq!(running(&shop), 5);
        assert!(
            shop.type_("service scale -d web=1")
                .starts_with("web scaled to 1")
        );
        become_running(&shop, 1);
        shop.refuses("service scale web=many", 1, "expected SERVICE=NUMBER");
        shop.refuses(
            "service update --replicas 2000 web",
            1,
            "at most 1000 replicas",
        );
        remove(&shop);
    }

    #[test]
    fn replicas_outlive_the_daemon_and_a_killed_agent() {
        let mut shop = open();
        create(
            &shop,
            &["--replicas", "2", "--restart-delay", "100ms", "-d"],
            SERVE,
        );
        become_running(&shop, 2);
        let before = shop.type_("ps -q --no-trunc");
        let agent = shop.daemon.agent().expect("an agent runs");
        shop.daemon.kill().expect("the daemon is killed");
        shop.daemon.launch().expect("the daemon starts again");
        let agent = rustix::process::Pid::from_raw(agent).expect("a process id");
        rustix::process::kill_process(agent, rustix::process::Signal::KILL)
            .expect("the agent is killed");
        assert_eq!(
            shop.type_("ps -q --no-trunc"),
            before,
            "nothing was touched"
        );
        // Somebody starts it again: systemd, or the next command on services.
        shop.type_("service scale -d web=3");
        become_running(&shop, 3);
        let now = shop.type_("ps -q --no-trunc");
        assert!(
            before.lines().all(|id| now.contains(id)),
            "both are still there"
        );
        remove(&shop);
    }

    #[test]
    fn an_update_replaces_replicas_without_an_error_of_a_client() {
        let shop = open();
        let flags = [
            "--replicas",
            "3",
            "--publish",
            PUBLISHED,
            "-e",
            "PAGE=old",
            "-d",
        ];
        // Without a check a replica gets connections before it listens, and without time to start
        // one on a slow host is replaced before it does.
        #[rustfmt::skip]
        let health = [
            "--health-tcp", "80", "--health-interval", "100ms", "--health-start-period", "30s",
        ];
        create(&shop, &[&flags[..], &health].concat(), SERVE);
        become_running(&shop, 3);
        shop.soon("all answer", || {
            let found = pages(&shop);
            ensure!(
                found.len() == 3 && found.iter().all(|p| p.starts_with("old")),
                "{found:?}"
            );
            Ok(())
        });
        let url = format!("http://{}:8080", shop.outside.host_v4);
        let (asked, failed) = fetch_during(
            || shop.outside.fetch(&url),
            || {
                shop.type_("service update --env-add PAGE=new --update-monitor 1s web");
            },
        );
        assert!(failed.is_empty(), "{} of {asked}: {failed:?}", failed.len());
        assert!(asked > 10);
        let found = pages(&shop);
        assert!(
            found.len() == 3 && found.iter().all(|p| p.starts_with("new")),
            "{found:?}"
        );
        let status = "{{.UpdateStatus.State}} {{.UpdateStatus.Message}}";
        let status = shop.hawser(&["service", "inspect", "--format", status, "web"]);
        assert_eq!(status, "completed update completed");

        shop.type_("service rollback web");
        let found = pages(&shop);
        assert!(
            found.iter().all(|page| page.starts_with("old")),
            "{found:?}"
        );
        let state = shop.hawser(&[
            "service",
            "inspect",
            "--format",
            "{{.UpdateStatus.State}}",
            "web",
        ]);
        assert_eq!(state, "rollback_completed");
        remove(&shop);
    }

    #[test]
    fn a_replica_that_is_found_down_is_replaced() {
        let shop = open();
        create(
            &shop,
            &[
                "--replicas",
                "2",
                "--restart-delay",
                "100ms",
                "--stop-grace-period",
                "0s",
                "--health-cmd",
                "test ! -e /ill || { echo ill; false; }",
                "--health-interval",
                "100ms",
                "--health-fall",
                "2",
            ],
            "sleep 600",
        );
        let first = shop.type_("ps -q --filter name=web.1.");
        shop.inside(&first, "touch /ill");
        shop.soon("it is replaced", || {
            let found = tasks(&shop);
            let past = found.iter().any(|line| line == "\\_ web.1 Shutdown Failed");
            ensure!(past && running(&shop) == 2, "{found:?}");
            Ok(())
        });
        let errors = shop.hawser(&[
            "service",
            "ps",
            "--no-trunc",
            "--format",
            "{{.Error}}",
            "web",
        ]);
        assert!(errors.contains("unhealthy: exit code 1: ill"), "{errors}");
        remove(&shop);
    }

    #[test]
    fn a_failing_update_pauses_and_says_so() {
        let shop = open();
        create(
            &shop,
            &["--replicas", "2", "-d", "--stop-grace-period", "0s"],
            "sleep 600",
        );
        become_running(&shop, 2);
        let ran = shop.run(&[
            "service",
            "update",
            "--args",
            "false",
            "--update-monitor",
            "1s",
            "web",
        ]);
        assert_eq!(ran.code, 1, "{ran:?}");
        assert!(
            ran.stderr.contains("update paused due to failure"),
            "{ran:?}"
        );
        let good = shop.hawser(&["service", "ps", "--format", "{{.CurrentState}}", "web"]);
        assert!(good.contains("Running"), "the other goes on: {good}");
        shop.refuses(
            "service update --image none:1 --replicas many web",
            125,
            "many",
        );
        remove(&shop);
    }

    #[test]
    fn what_cannot_start_is_said_in_the_listing() {
        let shop = open();
        shop.hawser(&[
            "service",
            "create",
            "-d",
            "--name",
            "web",
            "--network",
            "shop",
            "localhost:1/nothing:1",
        ]);
        shop.soon("the reason is shown", || {
            let said = shop.type_("service ps --no-trunc web");
            ensure!(said.contains("cannot reach registry localhost:1"), "{said}");
            Ok(())
        });
        assert_eq!(
            shop.hawser(&["service", "ls", "--format", "{{.Replicas}}"]),
            "0/1"
        );
        let create = "service create -d --name far --constraint node.hostname!=FAR \
                      --constraint node.labels.zone==east tools sleep 600";
        shop.type_(create);
        shop.soon("the reason is shown", || {
            let said = shop.type_("service ps --no-trunc far");
            ensure!(said.contains("no suitable node"), "{said}");
            Ok(())
        });
        shop.type_("service rm far");
        remove(&shop);
        let create = "service create --name x --constraint node.name==a tools true";
        shop.refuses(create, 1, "expected one of node.id");
        shop.refuses("service create --network shop", 1, "needs a --name");
        shop.refuses(
            "service create --name x --replicas 2",
            1,
            "--replicas needs replicas",
        );
        for flags in ["--update-monitor 1s", "--env A=1", "--log-opt max-size=1m"] {
            let words = format!("service create --name x {flags}");
            shop.refuses(&words, 1, "needs replicas");
        }
        shop.refuses(
            "service create --name x --restart-condition often tools true",
            1,
            "none, on-failure or any",
        );
        shop.type_("service create --name joined");
        shop.refuses("service scale joined=2", 1, "has no replicas");
        shop.refuses("service rollback joined", 1, "no previous specification");
        shop.type_("service rm joined");
    }

    #[test]
    fn replicas_know_who_they_are_and_their_logs_say_it() {
        let shop = open();
        create(
            &shop,
            &[
                "--replicas",
                "2",
                "-d",
                "--env",
                "WHO={{.Service.Name}}-{{.Task.Slot}}",
                "--hostname",
                "{{.Service.Name}}{{.Task.Slot}}",
            ],
            "echo I am $WHO at $(hostname); sleep 600",
        );
        become_running(&shop, 2);
        shop.soon("both lines are there", || {
            let lines = shop.type_("service logs web");
            let mut found: Vec<&str> = lines
                .lines()
                .filter_map(|line| line.split_once("| "))
                .map(|(_, text)| text)
                .collect();
            found.sort_unstable();
            ensure!(
                found == ["I am web-1 at web1", "I am web-2 at web2"],
                "{lines}"
            );
            Ok(())
        });
        let raw = shop.type_("service logs --raw --tail 1 web");
        assert_eq!(raw.lines().count(), 2, "{raw}");
        let labelled = "ps -q --filter label=com.docker.swarm.service.name=web";
        assert_eq!(shop.type_(labelled).lines().count(), 2);
        remove(&shop);
    }

    /// The one replica that runs, once it is not `before`.
    #[track_caller]
    fn next_replica(shop: &Shop, before: &str) -> String {
        shop.soon("a replica runs", || {
            let running = shop.type_("ps -q");
            ensure!(
                running.lines().count() == 1 && running != before,
                "{running}"
            );
            Ok(running)
        })
    }

    const RAW: u64 = 1 << 13;

    /// What can be seen inside of the settings below.
    fn settings(shop: &Shop, container: &str) -> (Vec<String>, bool) {
        let seen = shop.inside(
            container,
            "grep -o '192.0.2.*' /etc/hosts; cat /proc/sys/net/ipv4/ip_default_ttl; \
             awk '/open files/ {print $4}' /proc/1/limits; id -G; grep -o ndots.* /etc/resolv.conf; \
             touch /x 2>/dev/null && echo writable || echo read-only; \
             awk '/CapBnd/ {print $2}' /proc/1/status",
        );
        let mut lines: Vec<String> = seen
            .lines()
            .map(|line| line.replace('\t', " ").trim().to_owned())
            .collect();
        let bounding = u64::from_str_radix(&lines.pop().unwrap(), 16).unwrap();
        (lines, bounding & RAW > 0)
    }

    #[test]
    fn an_update_gives_replicas_settings_and_takes_them_back() {
        let shop = open();
        let flags = "service create -d --name web --network name=shop,alias=www --init \
                     --host db:192.0.2.1 --sysctl net.ipv4.ip_default_ttl=63 --cap-drop net_raw \
                     --ulimit nofile=99 --group 1234 --dns-option ndots:7 --entrypoint";
        let mut words: Vec<&str> = flags.split_whitespace().collect();
        words.extend(["sh -c 'exec sleep \"600\"'", TOOLS]);
        shop.hawser(&words);
        let first = next_replica(&shop, "");
        assert_eq!(shop.inspect(&first, "{{.HostConfig.Init}}"), "true");
        let (seen, has_raw) = settings(&shop, &first);
        let given = ["192.0.2.1 db", "63", "99", "0 1234", "ndots:7", "writable"];
        assert_eq!((&seen[..], has_raw), (&given.map(str::to_owned)[..], false));
        shop.idle("other", "--network shop");
        shop.inside("other", "ping -c1 -W5 www");
        shop.type_("rm -f other");

        shop.type_(
            "service update -d --init=false --read-only --host-rm db --host-add cache:192.0.2.2 \
             --sysctl-add net.ipv4.ip_default_ttl=62 --cap-add net_raw --group-rm 1234 \
             --ulimit-add nofile=98 --dns-option-rm ndots:7 \
             --dns-option-add ndots:6 --network-add name=shop,alias=ww2 web",
        );
        let second = next_replica(&shop, &first);
        assert_eq!(shop.inspect(&second, "{{.HostConfig.Init}}"), "<no value>");
        let (seen, has_raw) = settings(&shop, &second);
        let given = ["192.0.2.2 cache", "62", "98", "0", "ndots:6", "read-only"];
        assert_eq!((&seen[..], has_raw), (&given.map(str::to_owned)[..], true));
        let words = [
            "service",
            "inspect",
            "--format",
            "{{json .Spec.Networks}}",
            "web",
        ];
        let kept = shop.hawser(&words);
        assert_eq!(kept, r#"[{"Aliases":["ww2"],"Target":"shop"}]"#);
        remove(&shop);
    }

    #[test]
    fn what_replicas_cannot_have_is_refused_before_there_are_any() {
        let shop = open();
        for (flags, part) in [
            ("--host db", "invalid --add-host \"db\""),
            ("--dns here", "expected an IP address"),
            ("--sysctl x", "expected NAME=VALUE"),
            ("--ulimit nofile", "ulimit"),
            ("--workdir here", "absolute path"),
            ("--stop-signal LOUD", "invalid signal"),
            ("--log-driver post", "post"),
            ("--limit-memory 1m", "6MB"),
            (
                "--network name=shop,ip=10.0.0.9",
                "addresses are for single containers",
            ),
            ("--mount type=volume,source=vol", "target"),
        ] {
            let words = format!("service create --name web {flags} tools true");
            shop.refuses(&words, 1, part);
        }
        shop.refuses(
            "service create --name a.b tools true",
            1,
            "invalid service name",
        );
        assert_eq!(shop.type_("service ls -q"), "");
        shop.type_("service create -d --name web --network shop tools sleep 600");
        shop.refuses("service update --host-add db web", 1, "invalid --add-host");
        shop.refuses("service update --network-add nowhere web", 1, "nowhere");
        remove(&shop);
    }

    #[test]
    fn a_replica_that_will_not_stop_has_its_grace_period() {
        let shop = open();
        let script = "trap 'echo heard' TERM; echo ready; while :; do sleep 0.2; done";
        create(
            &shop,
            &["-d", "--stop-grace-period", "4s", "--drain", "0s"],
            script,
        );
        let web = next_replica(&shop, "");
        shop.soon("it listens to signals", || {
            ensure!(shop.type_("service logs --raw web").contains("ready"));
            Ok(())
        });
        let since = std::time::Instant::now();
        shop.type_("service scale -d web=0");
        shop.soon("it is told", || {
            ensure!(shop.type_(&format!("logs {web}")).contains("heard"));
            Ok(())
        });
        let told = since.elapsed();
        let ended = shop.type_(&format!("wait {web}"));
        assert_eq!(ended, "137");
        let grace = since.elapsed();
        assert!(
            (3500..30_000).contains(&grace.as_millis()) && told < grace,
            "told after {told:?}, killed after {grace:?}"
        );
        remove(&shop);
    }
}
