//! Names: of containers, aliases and links, on networks that have them and on the default one.

#[cfg(test)]
mod root {
    use std::collections::BTreeSet;

    use kernel_tests::Shop;
    use kernel_tests::shop::TOOLS;

    /// Listens on a port with its standard input open, as in a terminal.
    const LISTEN: &str = "sleep 600 | nc -l -p 1234";

    fn listen(shop: &Shop, name: &str, flags: &[&str]) {
        let head = ["run", "-d", "--name", name];
        shop.hawser(&[&head, flags, &[TOOLS, "sh", "-c", LISTEN]].concat());
        shop.soon("the server listens", || {
            // 1234 is 04D2, and 0A is TCP_LISTEN.
            let probe = "cat /proc/net/tcp* | grep -E ':04D2 0+:0000 0A'";
            shop.daemon.hawser(&["exec", name, "sh", "-c", probe])
        });
    }

    fn hears(shop: &Shop, name: &str, line: &str) {
        shop.soon("the line arrives", || {
            let log = shop.daemon.hawser(&["logs", name])?;
            anyhow::ensure!(log == line, "{log:?}");
            Ok(())
        });
    }

    fn addresses_of(shop: &Shop, asker: &str, name: &str) -> BTreeSet<String> {
        let script = format!("nslookup -type=a {name} | sed '1,/^$/d'");
        let answer = shop.try_inside(asker, &script).stdout;
        let lines = answer.lines().filter(|line| line.starts_with("Address"));
        lines
            .filter_map(|line| line.split_whitespace().last())
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn two_containers_of_the_default_network_talk_by_address() {
        let shop = Shop::open();
        listen(&shop, "server", &[]);
        let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
        let address = shop.inspect("server", format);
        assert!(address.starts_with("172.17."), "{address}");
        assert_eq!(
            shop.inspect("server", "{{.NetworkSettings.IPAddress}}"),
            address
        );
        let client = format!("echo a line typed | nc -w 2 {address} 1234");
        shop.hawser(&["run", "--rm", TOOLS, "sh", "-c", &client]);
        hears(&shop, "server", "a line typed");
    }

    #[test]
    fn a_link_names_a_container_of_the_default_network() {
        let shop = Shop::open();
        listen(&shop, "server", &["--expose", "1234", "-e", "MODE=fast"]);
        shop.idle("client", "--link server");
        shop.inside("client", "echo a line typed | nc -w 2 server 1234");
        hears(&shop, "server", "a line typed");
        let variables = shop.inside("client", "env");
        let address = shop.address("server", "bridge");
        for expected in [
            "SERVER_NAME=/client/server".to_owned(),
            format!("SERVER_PORT=tcp://{address}:1234"),
            format!("SERVER_PORT_1234_TCP_ADDR={address}"),
            "SERVER_ENV_MODE=fast".to_owned(),
        ] {
            assert!(
                variables.lines().any(|line| line == expected),
                "{expected}: {variables}"
            );
        }
        assert_eq!(
            shop.inspect("client", "{{json .HostConfig.Links}}"),
            r#"["/server:/client/server"]"#
        );
        // Without the link there are no names.
        shop.idle("other", "");
        let ran = shop.try_inside("other", "ping -c1 -W1 server");
        assert!(ran.text().contains("bad address 'server'"), "{ran:?}");
    }

    #[test]
    fn a_link_follows_its_container_to_another_address() {
        let shop = Shop::open();
        shop.serve("server", "hello", &[]);
        shop.idle("client", "--link server:web");
        let before = shop.address("server", "bridge");
        shop.type_("stop -t 0 server");
        // Addresses are used again late: whoever comes now gets another one in any case.
        shop.idle("between", "");
        shop.type_("rename server shop-server");
        shop.type_("start shop-server");
        let after = shop.address("shop-server", "bridge");
        assert_ne!(before, after);
        let hosts = shop.inside("client", "grep web /etc/hosts");
        assert!(hosts.starts_with(&format!("{after}\tweb ")), "{hosts}");
        shop.soon("the server answers by its alias", || {
            shop.daemon.hawser(&["exec", "client", "fetch", "web"])
        });
        // Only the link goes.
        shop.refuses("rm --link client/db", 1, "no link \"client/db\"");
        assert_eq!(shop.type_("rm --link /client/web"), "/client/web");
        assert_eq!(shop.inspect("client", "{{json .HostConfig.Links}}"), "null");
        let hosts = shop.inside("client", "cat /etc/hosts");
        assert!(!hosts.contains("web"), "{hosts}");
        shop.type_("stop -t 0 client");
        shop.type_("start client");
        assert_eq!(shop.type_("ps -q").lines().count(), 3);
    }

    #[test]
    fn a_link_that_leads_nowhere_is_refused() {
        let shop = Shop::open();
        shop.type_("network create shop");
        shop.idle("away", "--network shop");
        shop.type_(&format!("create --name asleep {TOOLS} sleep 600"));
        for (link, part) in [
            ("nobody", "No such container: nobody"),
            (
                "away",
                "cannot link to /away, as it does not belong to the default network",
            ),
            ("asleep", "cannot link to a non running container: /asleep"),
            ("a:b:c", "expected CONTAINER[:ALIAS]"),
        ] {
            let line = format!("run --name client --link {link} {TOOLS} true");
            shop.refuses(&line, 125, part);
        }
        let line = format!("run --network host --link away {TOOLS} true");
        shop.refuses(&line, 125, "--link does not go with --network host");
        assert_eq!(
            shop.type_("ps -aq --filter name=client"),
            "",
            "nothing is left"
        );
    }

    #[test]
    fn the_hostname_is_what_hostname_prints_and_the_name_is_what_is_looked_up() {
        let shop = Shop::open();
        shop.type_("network create shop");
        #[rustfmt::skip]
        shop.hawser(&[
            "run", "-d", "--name", "server", "--network", "shop", "--hostname", "your_name_server",
            TOOLS, "sh", "-c",
            "mkdir -p /srv; echo Welcome to $(hostname) >/srv/index.html; exec httpd -f -h /srv",
        ]);
        shop.soon("the page is there", || {
            let page = shop.fetch("shop", "server").success()?;
            anyhow::ensure!(page == "Welcome to your_name_server", "{page}");
            Ok(())
        });
        assert_eq!(
            shop.inside("server", "cat /etc/hostname"),
            "your_name_server"
        );
        let hosts = shop.inside("server", "cat /etc/hosts");
        let line = format!("{}\tyour_name_server", shop.address("server", "shop"));
        assert!(hosts.contains(&line), "{hosts}");
        let names = shop.inspect("server", "{{json .NetworkSettings.Networks.shop.DNSNames}}");
        let id = shop.inspect("server", "{{.Id}}");
        assert_eq!(
            names,
            format!(r#"["server","{}","your_name_server"]"#, &id[..12])
        );
    }

    #[test]
    fn names_resolve_only_where_a_network_is_shared() {
        let shop = Shop::open();
        assert_eq!(shop.type_("network create mynet").len(), 64);
        shop.type_("network inspect mynet");
        shop.type_("network create -d bridge --subnet 172.25.0.0/16 isolated_nw");
        shop.idle("c1", "");
        shop.idle("c2", "");
        shop.type_("network connect isolated_nw c2");
        let containers = shop.inspect(
            "isolated_nw",
            "{{range .Containers}}{{.Name}} {{.IPv4Address}}{{end}}",
        );
        assert!(containers.starts_with("c2 172.25."), "{containers}");
        shop.idle("c3", "--network isolated_nw --ip 172.25.1.3");
        let networks = shop.inspect(
            "c3",
            "{{range $k, $v := .NetworkSettings.Networks}}{{$k}} {{$v.IPAMConfig.IPv4Address}}{{end}}",
        );
        assert_eq!(networks, "isolated_nw 172.25.1.3");
        let reply = shop.inside("c2", "ping -c1 -W2 c3");
        assert!(reply.contains("PING c3 (172.25.1.3)"), "{reply}");
        assert!(
            reply.contains("64 bytes from 172.25.1.3: seq=0 ttl=64"),
            "{reply}"
        );
        let ran = shop.try_inside("c2", "ping -c1 -W1 c1");
        assert!(ran.text().contains("ping: bad address 'c1'"), "{ran:?}");

        shop.type_("restart -t 0 c3");
        assert_eq!(shop.address("c3", "isolated_nw"), "172.25.1.3");
        let taken = format!("run --network isolated_nw --ip 172.25.1.3 {TOOLS} true");
        shop.refuses(&taken, 125, "172.25.1.3");
        let outside = format!("run --network isolated_nw --ip 192.0.2.1 {TOOLS} true");
        shop.refuses(&outside, 125, "192.0.2.1");
        let fixed = format!("run --ip 172.17.0.99 {TOOLS} true");
        shop.refuses(&fixed, 125, "user defined networks only");
    }

    #[test]
    fn a_link_on_a_user_network_is_one_containers_own_name_for_another() {
        let shop = Shop::open();
        shop.type_("network create -d bridge --subnet 172.25.0.0/16 isolated_nw");
        shop.idle("c1", "");
        shop.idle("c3", "--network isolated_nw --ip 172.25.1.3");
        shop.type_("network connect isolated_nw c1 --link c3:foo");
        for name in ["c3", "foo"] {
            let reply = shop.inside("c1", &format!("ping -c1 -w1 {name}"));
            assert!(
                reply.contains(&format!("PING {name} (172.25.1.3)")),
                "{reply}"
            );
        }
        let links = "{{json .NetworkSettings.Networks.isolated_nw.Links}}";
        assert_eq!(shop.inspect("c1", links), r#"["c3:foo"]"#);
        shop.idle("c4", "--network isolated_nw --network-alias bar");
        let address = shop.address("c4", "isolated_nw");
        for (asker, name, expected) in [
            ("c1", "bar", Some(&address)),
            ("c3", "bar", Some(&address)),
            ("c4", "foo", None),
        ] {
            let found = addresses_of(&shop, asker, name);
            assert_eq!(
                found,
                expected.into_iter().cloned().collect(),
                "{asker}: {name}"
            );
        }
        // At the start of a container, too; of one that is not there yet; through a rename.
        shop.idle("c5", "--network isolated_nw --link late:soon");
        assert!(addresses_of(&shop, "c5", "soon").is_empty());
        shop.idle("late", "--network isolated_nw");
        let late = BTreeSet::from([shop.address("late", "isolated_nw")]);
        assert_eq!(addresses_of(&shop, "c5", "soon"), late);
        shop.type_("rename c3 c33");
        let moved = BTreeSet::from(["172.25.1.3".to_owned()]);
        assert_eq!(addresses_of(&shop, "c1", "foo"), moved);
        assert_eq!(addresses_of(&shop, "c1", "c33"), moved);
        assert!(addresses_of(&shop, "c1", "c3").is_empty());
        let names = shop.inspect(
            "c33",
            "{{index .NetworkSettings.Networks.isolated_nw.DNSNames 0}}",
        );
        assert_eq!(names, "c33");
    }

    #[test]
    fn a_shared_alias_fails_over() {
        let shop = Shop::open();
        shop.type_("network create mybridge");
        shop.idle("cont1", "--network mybridge");
        shop.idle("cont2", "--network mybridge --network-alias dop");
        shop.idle("cont3", "");
        shop.type_("network connect --alias dop mybridge cont3");
        let address = |name| shop.address(name, "mybridge");
        let both = BTreeSet::from([address("cont2"), address("cont3")]);
        assert_eq!(addresses_of(&shop, "cont1", "dop"), both);
        let reply = shop.inside("cont1", "ping -c1 -W2 dop");
        let (gone, stays) = if reply.contains(&address("cont2")) {
            ("cont2", "cont3")
        } else {
            ("cont3", "cont2")
        };
        let left = address(stays);
        shop.type_(&format!("stop -t 0 {gone}"));
        assert_eq!(
            addresses_of(&shop, "cont1", "dop"),
            BTreeSet::from([left.clone()])
        );
        let reply = shop.inside("cont1", "ping -c1 -W2 dop");
        assert!(reply.contains(&format!("PING dop ({left})")), "{reply}");
        shop.type_(&format!("start {gone}"));
        assert_eq!(addresses_of(&shop, "cont1", "dop").len(), 2);
    }

    #[test]
    fn an_alias_is_one_more_name_and_leaving_takes_it_away() {
        let shop = Shop::open();
        shop.type_("network create my-net");
        assert_eq!(shop.inspect("my-net", "{{.Driver}}"), "bridge");
        shop.idle("plain", "--network my-net");
        shop.idle("named", "--network my-net --network-alias my-nginx-alias");
        let address = shop.address("named", "my-net");
        for name in ["named", "my-nginx-alias", "MY-NGINX-ALIAS", "named.my-net"] {
            let found = addresses_of(&shop, "plain", name);
            assert_eq!(found, BTreeSet::from([address.clone()]), "{name}");
        }
        shop.type_("network disconnect my-net named");
        let names = shop.inspect("my-net", "{{range .Containers}}{{.Name}} {{end}}");
        assert_eq!(names, "plain");
        assert!(addresses_of(&shop, "plain", "my-nginx-alias").is_empty());
        shop.refuses(
            "network disconnect my-net named",
            1,
            "is not connected to network my-net",
        );
        shop.type_("network connect --alias again my-net named");
        assert_eq!(addresses_of(&shop, "plain", "again").len(), 1);
        shop.refuses("network rm my-net", 1, "is in use by container");
        shop.type_("rm -f plain named");
        assert_eq!(shop.type_("network rm my-net"), "my-net");
    }

    #[test]
    fn a_connection_made_while_a_container_is_stopped_is_joined_at_its_start() {
        let shop = Shop::open();
        shop.type_("network create front");
        shop.type_("network create --subnet 10.77.0.0/24 back");
        shop.type_(&format!(
            "create --name both --network front {TOOLS} sleep 600"
        ));
        shop.type_("network connect --ip 10.77.0.9 --alias db back both");
        let asked = "{{json .NetworkSettings.Networks.back.Aliases}} \
                     {{.NetworkSettings.Networks.back.IPAMConfig.IPv4Address}}";
        assert_eq!(shop.inspect("both", asked), r#"["db"] 10.77.0.9"#);
        shop.type_("start both");
        assert_eq!(shop.address("both", "back"), "10.77.0.9");
        let links = shop.inside("both", "ls /sys/class/net");
        assert_eq!(
            links.split_whitespace().collect::<Vec<_>>(),
            ["eth0", "eth1", "lo"]
        );
        shop.type_("stop -t 0 both");
        shop.type_("network disconnect front both");
        shop.type_("start both");
        let networks = "{{range $k, $v := .NetworkSettings.Networks}}{{$k}} {{end}}";
        assert_eq!(shop.inspect("both", networks), "back");
    }

    #[test]
    fn an_interface_has_the_name_that_was_asked_for() {
        let shop = Shop::open();
        shop.type_("network create shop");
        let option = "com.docker.network.endpoint.ifname";
        shop.idle(
            "c1",
            &format!("--network name=shop,driver-opt={option}=lan0"),
        );
        assert_eq!(
            shop.inside("c1", "ls /sys/class/net | sort | xargs"),
            "lan0 lo"
        );
        shop.type_("network create more");
        shop.type_(&format!(
            "network connect --driver-opt {option}=lan1 more c1"
        ));
        assert_eq!(
            shop.inside("c1", "ls /sys/class/net | sort | xargs"),
            "lan0 lan1 lo"
        );
    }
}
