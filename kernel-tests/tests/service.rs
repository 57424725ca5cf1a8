//! Services as users and their clients see them.

#[cfg(test)]
mod root {
    use std::collections::BTreeSet;
    use std::net::IpAddr;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::thread;
    use std::time::{Duration, Instant};

    use anyhow::{Result, ensure};
    use api::service::Drained;
    use kernel_tests::shop::{TOOLS, pages, set};
    use kernel_tests::{Host, Pods, Shop, outside};
    use serde_json::json;

    /// With a network, and a client on it.
    fn open() -> Shop {
        let shop = Shop::open();
        shop.type_("network create shop");
        shop.idle("client", "--network shop");
        shop
    }

    fn inside(shop: &Shop, target: &str) -> Result<String> {
        shop.daemon
            .hawser(&["exec", "client", "fetch", target])
            .map(|page| page.trim().to_owned())
    }

    /// The addresses of a name, as the client gets them.
    fn lookup(shop: &Shop, name: &str) -> BTreeSet<String> {
        let said = shop
            .try_inside("client", &format!("nslookup {name} 2>&1"))
            .stdout;
        // What comes before the first name is the server.
        let answers = said.split("Name:").skip(1).flat_map(str::split_whitespace);
        answers
            .filter(|word| word.parse::<IpAddr>().is_ok())
            .map(str::to_owned)
            .collect()
    }

    fn vip(shop: &Shop, service: &str) -> String {
        let format = "{{(index .Endpoint.VirtualIPs 0).Addr}}";
        let addr = shop.hawser(&["service", "inspect", "--format", format, service]);
        addr.split('/').next().unwrap_or_default().to_owned()
    }

    fn states(shop: &Shop, service: &str) -> String {
        let format = "{{.Name}}={{.CurrentState}}/{{.InUse}}";
        let lines = shop.hawser(&["service", "ps", "--format", format, service]);
        let mut members: Vec<&str> = lines.lines().collect();
        // Who left and came back is the last.
        members.sort_unstable();
        members.join(" ")
    }

    #[track_caller]
    fn becomes(shop: &Shop, service: &str, expected: &str) {
        shop.soon(expected, || {
            let found = states(shop, service);
            ensure!(found == expected, "{found}");
            Ok(())
        });
    }

    #[test]
    fn a_service_answers_at_its_address_by_its_name_and_at_its_port() {
        let shop = open();
        let id =
            shop.type_("service create --name web --network shop --publish 8080:80 -l tier=front");
        assert_eq!(id.len(), 64);
        let url = format!("http://{}:8080", shop.outside.host_v4);
        let asked = Instant::now();
        assert!(
            shop.fetch_on_host("http://127.0.0.1:8080").is_err(),
            "there is nobody"
        );
        assert!(shop.outside.fetch(&url).is_err(), "there is nobody");
        assert!(asked.elapsed() < Duration::from_secs(2), "refused at once");
        shop.serve("one", "first", &["--service", "web"]);
        shop.serve("two", "second", &["--service", "web", "--network", "shop"]);

        let both = set(&["first", "second"]);
        let address = vip(&shop, "web");
        assert_eq!(lookup(&shop, "web"), set(&[&address]));
        assert_eq!(lookup(&shop, "web.shop"), set(&[&address]));
        let members = set(&[&shop.address("one", "shop"), &shop.address("two", "shop")]);
        assert_eq!(lookup(&shop, "tasks.web"), members);
        let name = shop.inside("client", &format!("nslookup {address}"));
        assert!(name.contains("web.shop"), "{name}");
        assert_eq!(pages(|| inside(&shop, "web")), both);
        assert_eq!(pages(|| inside(&shop, &address)), both);
        assert_eq!(pages(|| shop.outside.fetch(&url)), both);
        assert_eq!(pages(|| shop.fetch_on_host("http://127.0.0.1:8080")), both);

        let row = shop.hawser(&[
            "service",
            "ls",
            "--format",
            "{{.Name}} {{.Mode}} {{.Replicas}} {{.Ports}}",
        ]);
        assert_eq!(row, "web joined 2/2 *:8080->80/tcp");
        assert_eq!(
            shop.type_("service ls -q --filter label=tier=front"),
            id[..12]
        );
        assert_eq!(shop.type_("service ls -q --filter endpoint-mode=dnsrr"), "");
        let pretty = shop.type_("service inspect --pretty web");
        for part in [
            "Endpoint Mode:\tvip",
            " PublishedPort = 8080",
            "  PublishMode = ingress",
            &address,
        ] {
            assert!(pretty.contains(part), "{pretty}");
        }
        shop.refuses("network rm shop", 1, "in use by service web");
        shop.refuses(
            "service create --name web --network shop",
            1,
            "service web already exists",
        );
        let taken = format!("run --rm -p 8080:80 {TOOLS} true");
        shop.refuses(
            &taken,
            125,
            "port 8080/tcp is already allocated: published by service web",
        );

        shop.type_("stop -t 5 two");
        assert_eq!(pages(|| inside(&shop, "web")), set(&["first"]));
        shop.type_("start two");
        becomes(&shop, "web", "one=serving/yes two=serving/yes");
        let removed = shop.run(&["service", "rm", "web"]);
        assert_eq!(
            (removed.code, removed.stdout.as_str()),
            (0, "web\n"),
            "{removed:?}"
        );
        assert_eq!(removed.stderr, "web is removed, and one, two run on\n");
        shop.refuses("service rm web", 1, "service web not found");
        assert!(lookup(&shop, "web").is_empty());
        assert!(shop.outside.fetch(&url).is_err());
        assert_eq!(inside(&shop, "one").unwrap(), "first", "members run on");
        shop.refuses("service inspect web", 1, "no such service: web");
    }

    #[test]
    fn in_mode_dnsrr_the_name_stands_for_the_members() {
        let shop = open();
        shop.type_("service create --name web --network shop --endpoint-mode dnsrr");
        assert!(lookup(&shop, "web").is_empty());
        shop.serve("one", "first", &["--service", "web"]);
        shop.serve("two", "second", &["--service", "web"]);
        let members = set(&[&shop.address("one", "shop"), &shop.address("two", "shop")]);
        assert_eq!(lookup(&shop, "web"), members);
        assert_eq!(lookup(&shop, "tasks.web"), members);
        shop.type_("service update --member-weight two=0 web");
        assert_eq!(lookup(&shop, "web"), set(&[&shop.address("one", "shop")]));
        shop.refuses(
            "service create --name other --endpoint-mode dnsrr --publish 80",
            1,
            "cannot be published in mode ingress",
        );
        shop.type_("service update --endpoint-mode vip --publish-add 8081:80 web");
        assert_eq!(lookup(&shop, "web"), set(&[&vip(&shop, "web")]));
        assert_eq!(
            pages(|| shop.fetch_on_host("http://127.0.0.1:8081")),
            set(&["first"])
        );
        shop.type_("service update --publish-rm 80 web");
        assert!(shop.fetch_on_host("http://127.0.0.1:8081").is_err());
    }

    #[test]
    fn affinity_keeps_a_client_and_weights_share() {
        let shop = open();
        shop.type_("service create --name web --network shop --publish 8080:80 --affinity client");
        shop.serve("one", "first", &["--service", "web"]);
        shop.serve(
            "two",
            "second",
            &["--service", "web", "--service-weight", "3"],
        );
        let url = format!("http://{}:8080", shop.outside.host_v4);
        assert_eq!(pages(|| shop.outside.fetch(&url)).len(), 1);
        assert_eq!(pages(|| inside(&shop, "web")).len(), 1);
        shop.type_("service update --affinity none web");
        assert_eq!(pages(|| shop.outside.fetch(&url)).len(), 2);
        let mut second = 0;
        for _ in 0..200 {
            second += usize::from(shop.outside.fetch(&url).unwrap() == "second");
        }
        // Three quarters of 200, five standard deviations of six wide.
        assert!((120..=180).contains(&second), "{second} of 200");
        shop.type_("service update --member-weight two=0 web");
        assert_eq!(pages(|| shop.outside.fetch(&url)), set(&["first"]));
        shop.refuses(
            "service update --member-weight two=5000 web",
            1,
            "invalid weight 5000",
        );
        shop.refuses(
            "service update --member-weight three=1 web",
            1,
            "no member of service web",
        );
    }

    /// Fetches as fast as it goes while `change` runs; returns how many went wrong, of how many.
    fn under_load(host: &Host, url: &str, change: impl FnOnce()) -> (usize, usize, Vec<String>) {
        let (stop, all) = (AtomicBool::new(false), AtomicUsize::new(0));
        let failures = std::sync::Mutex::new(Vec::new());
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        all.fetch_add(1, Ordering::Relaxed);
                        if let Err(error) = outside::fetch_on(host, url) {
                            failures.lock().unwrap().push(format!("{error:#}"));
                        }
                    }
                });
            }
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(change));
            stop.store(true, Ordering::Relaxed);
            if let Err(panic) = done {
                std::panic::resume_unwind(panic);
            }
        });
        let failures = failures.into_inner().unwrap();
        (failures.len(), all.into_inner(), failures)
    }

    #[test]
    fn members_come_and_go_and_the_daemon_dies_without_a_failed_request() {
        let mut shop = open();
        #[rustfmt::skip]
        shop.hawser(&[
            "service", "create", "--name", "web", "--network", "shop", "--publish", "8080:80",
            "--health-http", "80", "--health-interval", "200ms",
        ]);
        shop.serve("one", "first", &["--service", "web"]);
        becomes(&shop, "web", "one=serving/yes");
        let url = "http://127.0.0.1:8080";
        let host = Arc::clone(&shop.host);
        let address = vip(&shop, "web");
        let (failed, all, failures) = under_load(&host, url, || {
            shop.serve("two", "second", &["--service", "web"]);
            becomes(&shop, "web", "one=serving/yes two=serving/yes");
            shop.type_("stop -t 10 one");
            becomes(&shop, "web", "two=serving/yes");
            shop.type_("start one");
            becomes(&shop, "web", "one=serving/yes two=serving/yes");
            shop.type_("service update --affinity client --label-add a=b web");
            shop.daemon.kill().unwrap();
            assert!(
                outside::fetch_on(&host, url).is_ok(),
                "nobody needs the daemon"
            );
            shop.daemon.launch().unwrap();
            becomes(&shop, "web", "one=serving/yes two=serving/yes");
            shop.type_("stop -t 10 two");
            becomes(&shop, "web", "one=serving/yes");
        });
        assert!(all > 20, "{all}");
        assert_eq!(failed, 0, "of {all}: {failures:?}");
        assert_eq!(vip(&shop, "web"), address);
    }

    #[test]
    fn members_that_are_not_well_get_nothing_unless_none_is() {
        let shop = open();
        #[rustfmt::skip]
        shop.hawser(&[
            "service", "create", "--name", "web", "--network", "shop", "--publish", "8080:80",
            "--health-http", "80/index.html", "--health-interval", "100ms", "--health-rise", "1",
            "--health-fall", "2", "--health-start-period", "30s",
        ]);
        shop.serve("one", "first", &["--service", "web"]);
        shop.serve("two", "second", &["--service", "web"]);
        becomes(&shop, "web", "one=serving/yes two=serving/yes");
        shop.inside("one", "mv /srv/index.html /srv/hidden");
        becomes(&shop, "web", "one=down/no two=serving/yes");
        let error = shop.hawser(&[
            "service",
            "ps",
            "--no-trunc",
            "--filter",
            "name=one",
            "--format",
            "{{.Error}}",
            "web",
        ]);
        assert!(error.contains("answered with status 404"), "{error}");
        let url = "http://127.0.0.1:8080/hidden";
        assert_eq!(
            pages(|| shop.fetch_on_host("http://127.0.0.1:8080")),
            set(&["second"])
        );
        assert_eq!(
            lookup(&shop, "tasks.web"),
            set(&[&shop.address("two", "shop")])
        );
        shop.inside("two", "mv /srv/index.html /srv/hidden");
        becomes(&shop, "web", "one=down/yes two=down/yes");
        assert_eq!(pages(|| shop.fetch_on_host(url)), set(&["first", "second"]));
        let row = shop.type_("service ls --format {{.Replicas}}");
        assert_eq!(row, "2/2 (none well)");
        let log = shop.daemon.log();
        assert_eq!(log.matches("no member is well").count(), 1, "{log}");
        shop.inside("one", "mv /srv/hidden /srv/index.html");
        becomes(&shop, "web", "one=serving/yes two=down/no");
        shop.type_("service update --no-healthcheck web");
        becomes(&shop, "web", "one=serving/yes two=serving/yes");
    }

    #[test]
    fn a_command_inside_says_whether_a_member_is_well() {
        let shop = open();
        #[rustfmt::skip]
        shop.hawser(&[
            "service", "create", "--name", "web", "--network", "shop", "--health-cmd",
            "echo looked; test -e /ok", "--health-interval", "100ms", "--health-fall", "1",
            "--health-rise", "1", "--health-timeout", "20s", "--health-start-period", "5m",
        ]);
        shop.serve("one", "first", &["--service", "web"]);
        becomes(&shop, "web", "one=starting/yes");
        shop.inside("one", "touch /ok");
        becomes(&shop, "web", "one=serving/yes");
        shop.inside("one", "rm /ok");
        becomes(&shop, "web", "one=down/yes");
        let error = shop.hawser(&["service", "ps", "--format", "{{.Error}}", "web"]);
        assert_eq!(error, "exit code 1: looked");
        shop.soon("both verdicts are told", || {
            let past = "events --since 10m --until 0s --filter event=health_status";
            let told = shop.type_(&format!("{past} --format {{{{.Action}}}}"));
            let both = "health_status: healthy\nhealth_status: unhealthy";
            ensure!(told == both, "{told}");
            Ok(())
        });
    }

    #[test]
    fn a_service_is_reached_over_ipv6() {
        let shop = Shop::open();
        shop.type_("network create --ipv6 shop");
        shop.idle("client", "--network shop");
        shop.type_("service create --name web --network shop --publish 8080:80");
        shop.serve("one", "first", &["--service", "web"]);
        shop.serve("two", "second", &["--service", "web"]);
        let both = set(&["first", "second"]);
        assert_eq!(pages(|| shop.fetch_on_host("http://[::1]:8080")), both);
        let format = "{{(index .Endpoint.VirtualIPs 1).Addr}}";
        let addr = shop.hawser(&["service", "inspect", "--format", format, "web"]);
        let v6 = addr.split('/').next().unwrap();
        assert!(lookup(&shop, "web").contains(v6), "{v6}");
        assert_eq!(pages(|| inside(&shop, v6)), both);
    }

    /// Refused, and not left waiting.
    #[track_caller]
    fn is_refused(fetch: impl FnOnce() -> Result<String>) {
        let asked = Instant::now();
        assert!(fetch().is_err());
        assert!(asked.elapsed() < Duration::from_secs(3), "refused at once");
    }

    #[test]
    fn clients_are_led_to_members_of_their_family_or_refused() {
        let shop = Shop::open();
        shop.type_("network create plain");
        shop.type_("network create --ipv6 dual");
        shop.type_("network create --ipv4=false --ipv6 six");
        shop.type_("service create --name web --network plain --network dual --publish 8080:80");
        shop.type_("service create --name new --network six --publish 8081:80");
        let (v4, v6) = (shop.outside.host_v4, shop.outside.host_v6);
        let outside = |url: String| shop.outside.fetch(&url);
        let own = |url: &str| shop.fetch_on_host(url);

        shop.serve("one", "first", &["--service", "web", "--network", "plain"]);
        let first = set(&["first"]);
        assert_eq!(pages(|| outside(format!("http://{v4}:8080"))), first);
        assert_eq!(pages(|| own("http://127.0.0.1:8080")), first);
        is_refused(|| outside(format!("http://[{v6}]:8080")));
        assert_eq!(pages(|| own("http://[::1]:8080")), first, "nobody has IPv6");

        shop.serve("two", "second", &["--service", "web", "--network", "dual"]);
        let (second, both) = (set(&["second"]), set(&["first", "second"]));
        assert_eq!(pages(|| outside(format!("http://{v4}:8080"))), both);
        assert_eq!(pages(|| own("http://127.0.0.1:8080")), both);
        assert_eq!(pages(|| outside(format!("http://[{v6}]:8080"))), second);
        assert_eq!(pages(|| own("http://[::1]:8080")), second);

        shop.idle("three", "--service new");
        let serve = "mkdir -p /srv; echo third >/srv/index.html; httpd -p 80 -h /srv";
        shop.inside("three", serve);
        let asked = || outside(format!("http://[{v6}]:8081"));
        shop.soon("the member of IPv6 alone answers", asked);
        assert_eq!(own("http://[::1]:8081").unwrap(), "third");
        is_refused(|| outside(format!("http://{v4}:8081")));
        is_refused(|| own("http://127.0.0.1:8081"));
    }

    #[test]
    fn services_of_two_networks_do_not_see_each_other() {
        let shop = open();
        shop.type_("network create back");
        shop.type_("service create --name web --network shop");
        shop.type_("service create --name db --network back");
        shop.serve("one", "first", &["--service", "web"]);
        shop.serve("two", "second", &["--service", "db"]);
        assert!(lookup(&shop, "db").is_empty());
        assert_eq!(inside(&shop, "web").unwrap(), "first");
        let address = vip(&shop, "db");
        assert!(inside(&shop, &address).is_err(), "{address}");
        shop.refuses(
            &format!("run --rm --network back --service web {TOOLS} true"),
            125,
            "service web is on none of the container's networks, but on shop",
        );
        shop.type_("service update --network-add back web");
        shop.refuses(
            "service update --network-rm shop web",
            1,
            "has members on network shop",
        );
        shop.type_("network connect back client");
        assert_eq!(inside(&shop, "db").unwrap(), "second");
    }

    #[test]
    fn host_mode_is_the_members_own_port() {
        let shop = open();
        shop.type_(
            "service create --name web --network shop --publish published=8080,target=80,mode=host",
        );
        shop.serve("one", "first", &["--service", "web"]);
        assert_eq!(
            shop.fetch_on_host("http://127.0.0.1:8080").unwrap(),
            "first"
        );
        assert_eq!(shop.type_("port one 80"), "0.0.0.0:8080\n[::]:8080");
        shop.refuses(
            &format!("run --rm --service web {TOOLS} true"),
            125,
            "port 8080/tcp is already allocated: published by container one",
        );
    }
    #[test]
    fn an_orchestrator_joins_through_the_plugin_and_drains_through_the_api() {
        let pods = Pods::open();
        let hawser = |words: &str| {
            let words: Vec<&str> = words.split_whitespace().collect();
            pods.daemon.hawser(&words).unwrap()
        };
        hawser("network create pods");
        hawser("service create --name api --network pods --publish 8080:80");
        pods.sandbox("p1");
        let config = pods.hawser(&json!({
            "cniVersion": "1.1.0", "name": "pods", "network": "pods",
            "runtimeConfig": {"services": [{"service": "api", "weight": 2}]},
        }));
        pods.plugin("hawser", "ADD", "p1", &config);
        let listed = || hawser("service ps --format {{.Name}}-{{.Weight}}-{{.CurrentState}} api");
        assert_eq!(listed(), "p1-2-serving");
        let drained: Drained = pods
            .daemon
            .client()
            .post("/v1/endpoints/p1/drain?wait=1", &())
            .unwrap();
        assert_eq!(drained.left, 0);
        assert_eq!(listed(), "p1-2-draining");
        pods.plugin("hawser", "DEL", "p1", &config);
        assert_eq!(listed(), "");
    }
}
