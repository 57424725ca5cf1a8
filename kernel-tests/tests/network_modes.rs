//! Networks that are none of one's own: host, none, another container's; tiers; resolvers.

#[cfg(test)]
mod root {
    use std::fs;
    use std::net::Ipv4Addr;
    use std::process::{Child, Stdio};

    use kernel_tests::Shop;
    use kernel_tests::shop::TOOLS;

    const SERVE: &str = "mkdir -p /srv; echo $0 >/srv/index.html; exec httpd -f -p 80 -h /srv";

    /// A DNS server on the outside host that knows one name.
    struct Resolver(Child);

    impl Resolver {
        fn start(shop: &Shop, name: &str, address: Ipv4Addr) -> Self {
            // Answers one question a packet: header, the question as asked, one A record.
            let script = "import socket, sys\n\
                name = b''.join(bytes([len(l)]) + l.encode() for l in sys.argv[1].split('.')) + b'\\0'\n\
                s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind((sys.argv[3], 53))\n\
                print('ready', flush=True)\n\
                while True:\n\
                \x20q, peer = s.recvfrom(512); end = q.index(b'\\0', 12) + 5\n\
                \x20known = q[12:end-4].lower() == name\n\
                \x20a = known and q[end-4:end-2] == b'\\0\\x01'\n\
                \x20head = q[:2] + (b'\\x81\\x80' if known else b'\\x81\\x83') + b'\\0\\x01' \
                + (b'\\0\\x01' if a else b'\\0\\0') + b'\\0\\0\\0\\0'\n\
                \x20record = b'\\xc0\\x0c\\0\\x01\\0\\x01\\0\\0\\0\\x3c\\0\\x04' + socket.inet_aton(sys.argv[2])\n\
                \x20s.sendto(head + q[12:end] + (record if a else b''), peer)\n";
            let mut child = shop
                .outside
                .command("python3")
                .args(["-c", script, name, &address.to_string()])
                .arg(shop.outside.v4.to_string())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut line = [0; 5];
            let stdout = child.stdout.as_mut().unwrap();
            std::io::Read::read_exact(stdout, &mut line).unwrap();
            Self(child)
        }
    }

    impl Drop for Resolver {
        fn drop(&mut self) {
            drop(self.0.kill());
            drop(self.0.wait());
        }
    }

    #[test]
    fn services_of_one_network_find_each_other_without_links() {
        let shop = Shop::open();
        shop.type_("network create compose_default");
        shop.idle("node1", "--network compose_default --expose 1234");
        shop.idle("node2", "--network compose_default --expose 1234");
        shop.inside("node1", "ping -c1 -W2 node2");
        let rows = shop.hawser(&[
            "network",
            "ls",
            "--format",
            "{{.Name}} {{.Driver}} {{.Scope}}",
        ]);
        assert_eq!(
            rows,
            "bridge bridge local\ncompose_default bridge local\nhost host local\nnone null local"
        );
    }

    #[test]
    fn three_tiers_meet_only_in_the_middle() {
        let shop = Shop::open();
        shop.type_("network create -o com.docker.network.driver.mtu=1400 front");
        shop.type_("network create -o com.docker.network.bridge.enable_icc=true back");
        shop.serve("proxy", "proxy", &["--network", "front"]);
        shop.serve("app", "app", &["--network", "front", "--network", "back"]);
        shop.serve("db", "db", &["--network", "back"]);
        for (from, to) in [
            ("proxy", "app"),
            ("app", "proxy"),
            ("app", "db"),
            ("db", "app"),
        ] {
            assert_eq!(
                shop.inside(from, &format!("fetch {to}")),
                to,
                "{from} to {to}"
            );
        }
        let (front, back) = (shop.address("proxy", "front"), shop.address("db", "back"));
        for (from, name, address) in [("proxy", "db", &back), ("db", "proxy", &front)] {
            let ran = shop.try_inside(from, &format!("ping -c1 -W1 {name}"));
            assert!(
                ran.text().contains(&format!("bad address '{name}'")),
                "{ran:?}"
            );
            assert_ne!(
                shop.try_inside(from, &format!("ping -c1 -W1 {address}"))
                    .code,
                0
            );
        }
        let option = "{{index .Options \"com.docker.network.driver.mtu\"}}";
        assert_eq!(shop.inspect("front", option), "1400");
        assert_eq!(shop.inside("proxy", "cat /sys/class/net/eth0/mtu"), "1400");
    }

    #[test]
    fn the_hosts_network_is_the_hosts_own() {
        let shop = Shop::open();
        shop.hawser(&[
            "run", "-d", "--net", "host", "--name", "web", TOOLS, "sh", "-c", SERVE, "host",
        ]);
        shop.soon("the page is on the host's own port", || {
            let page = shop.fetch_on_host("http://127.0.0.1:80")?;
            anyhow::ensure!(page == "host", "{page}");
            Ok(())
        });
        let own = shop
            .host
            .output("readlink", &["/proc/thread-self/ns/net"])
            .unwrap();
        assert_eq!(shop.inside("web", "readlink /proc/thread-self/ns/net"), own);
        assert_eq!(shop.inspect("web", "{{.HostConfig.NetworkMode}}"), "host");
        let networks =
            "{{range $k, $v := .NetworkSettings.Networks}}{{$k}} {{$v.NetworkID}}{{end}}";
        let id = shop.inspect("host", "{{.Id}}");
        assert_eq!(shop.inspect("web", networks), format!("host {id}"));
        let line = [
            "run",
            "--rm",
            "--network",
            "host",
            "-p",
            "81:81",
            TOOLS,
            "true",
        ];
        let ran = shop.run(&line);
        assert_eq!(
            (ran.code, ran.stderr.trim()),
            (
                0,
                "WARNING: Published ports are discarded when using host network mode"
            )
        );
        shop.refuses("network connect bridge web", 1, "sharing network namespace");
    }

    #[test]
    fn none_has_nothing_but_the_loopback() {
        let shop = Shop::open();
        shop.idle("alone", "--net none");
        assert_eq!(shop.inside("alone", "ls /sys/class/net"), "lo");
        assert_eq!(shop.inside("alone", "ip route"), "");
        shop.inside("alone", "ping -c1 -W1 127.0.0.1");
        assert_ne!(shop.try_inside("alone", "ping -c1 -W1 172.17.0.1").code, 0);
    }

    #[test]
    fn a_container_shares_anothers_whole_stack() {
        let shop = Shop::open();
        shop.type_("network create shop");
        shop.serve(
            "main",
            "shared",
            &["--network", "shop", "--add-host", "gate:192.0.2.9"],
        );
        let share = |words: &str| {
            let line = format!("run --rm --network container:main {TOOLS} {words}");
            shop.type_(&line)
        };
        let address = shop.address("main", "shop");
        assert!(share("ip -o -4 addr show eth0").contains(&format!("{address}/")));
        assert_eq!(share("ip route"), shop.inside("main", "ip route"));
        assert_eq!(share("fetch 127.0.0.1"), "shared");
        for file in ["hosts", "hostname", "resolv.conf"] {
            let own = shop.inside("main", &format!("cat /etc/{file}"));
            assert_eq!(share(&format!("cat /etc/{file}")), own, "{file}");
        }
        shop.idle("side", "--network container:main");
        let id = shop.inspect("main", "{{.Id}}");
        assert_eq!(
            shop.inspect("side", "{{.HostConfig.NetworkMode}}"),
            format!("container:{id}")
        );
        assert_eq!(
            shop.inspect("side", "{{json .NetworkSettings.Networks}}"),
            "{}"
        );
        shop.inside("side", "ping -c1 -W2 main");
        shop.idle("third", "--network container:side");
        shop.inside("third", "grep gate /etc/hosts");

        for (flags, part) in [
            ("-p 80:80", "port publishing does not go with"),
            ("--expose 80", "port exposing does not go with"),
            ("--hostname x", "--hostname does not go with"),
            ("--dns 192.0.2.1", "--dns does not go with"),
            ("--add-host x:192.0.2.1", "--add-host does not go with"),
        ] {
            let line = format!("run {flags} --network container:main {TOOLS} true");
            shop.refuses(&line, 125, part);
        }
        let nobody = format!("run --network container:nobody {TOOLS} true");
        shop.refuses(&nobody, 125, "No such container: nobody");
        shop.refuses("network connect shop side", 1, "sharing network namespace");

        shop.type_("rm -f third side");
        shop.type_(&format!(
            "create --name late --network container:main {TOOLS} true"
        ));
        shop.type_("stop -t 0 main");
        shop.refuses("start late", 1, "it is not running; start it first");
        shop.type_("rm -f main");
        shop.refuses("start late", 1, "No such container");
    }

    #[test]
    fn names_of_the_world_are_asked_of_the_servers_that_were_named() {
        let mut shop = Shop::open();
        let server = shop.outside.v4;
        let _resolver = Resolver::start(&shop, "host.dockercerts.com", Ipv4Addr::new(192, 0, 2, 8));
        shop.type_("network create shop");
        let flags = format!("--network shop --dns={server} --dns-search=dockercerts.com");
        shop.idle("c1", &flags);
        let resolv_conf = shop.inside("c1", "cat /etc/resolv.conf");
        assert!(
            resolv_conf.contains("nameserver 127.0.0.11"),
            "{resolv_conf}"
        );
        assert!(
            resolv_conf.contains("search dockercerts.com"),
            "{resolv_conf}"
        );
        for name in ["host", "host.dockercerts.com"] {
            let ran = shop.try_inside("c1", &format!("ping -c1 -W1 {name}"));
            assert!(
                ran.text().contains(&format!("PING {name} (192.0.2.8)")),
                "{ran:?}"
            );
        }
        // Without names of its own, the default network hands the servers on.
        let line =
            format!("run --rm --dns {server} --dns-opt ndots:3 {TOOLS} cat /etc/resolv.conf");
        let text = shop.type_(&line);
        assert!(text.contains(&format!("nameserver {server}")), "{text}");
        assert!(text.contains("options ndots:3"), "{text}");

        let config = shop.daemon.directories().config();
        let text = fs::read_to_string(&config).unwrap();
        fs::write(
            &config,
            format!("{text}\n[network]\ndns = [\"{server}:53\"]\n"),
        )
        .unwrap();
        shop.daemon.stop().unwrap();
        shop.daemon.launch().unwrap();
        shop.idle("c2", "--network shop");
        let ran = shop.try_inside("c2", "ping -c1 -W1 host.dockercerts.com");
        assert!(ran.text().contains("(192.0.2.8)"), "{ran:?}");
    }

    #[test]
    fn host_gateway_is_the_hosts_address() {
        let shop = Shop::open();
        shop.type_("network create shop");
        let line =
            format!("run --rm --network shop --add-host up:host-gateway {TOOLS} cat /etc/hosts");
        let hosts = shop.type_(&line);
        assert!(hosts.contains("172.17.0.1\tup"), "{hosts}");
    }
}
