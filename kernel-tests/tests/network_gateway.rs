//! Containers on several networks: which one leads out, publishes ports and names interfaces.

#[cfg(test)]
mod root {
    use kernel_tests::Shop;
    use kernel_tests::shop::TOOLS;

    /// The networks by which the container's default route goes and its port is published.
    fn way_out(shop: &Shop, container: &str) -> (String, String) {
        let route = shop.inside(container, "ip route show default");
        let gateway = route.split(' ').nth(2).unwrap_or_default().to_owned();
        let by = |field: &str| {
            let format = format!(
                "{{{{range $k, $v := .NetworkSettings.Networks}}}}{{{{$k}}}} {{{{$v.{field}}}}} {{{{end}}}}"
            );
            let words = shop.inspect(container, &format);
            let words: Vec<String> = words.split(' ').map(str::to_owned).collect();
            words
        };
        let gateways = by("Gateway");
        let found = gateways.chunks(2).find(|pair| pair[1] == gateway);
        let network = found.map(|pair| pair[0].clone()).unwrap_or_default();
        (network, shop.type_(&format!("port {container} 80")))
    }

    #[test]
    fn the_first_network_by_name_leads_out_unless_another_goes_before() {
        let shop = Shop::open();
        for name in ["front", "back", "apart"] {
            shop.type_(&format!("network create {name}"));
        }
        let url = format!("http://{}:8080", shop.outside.host_v4);
        let expect = |container: &str, network: &str| {
            let (by, port) = way_out(&shop, container);
            assert_eq!(by, network, "{container}");
            assert!(port.contains("0.0.0.0:8080"), "{port}");
            let page = shop.soon("the port answers the outside", || shop.outside.fetch(&url));
            assert_eq!(page, "hello");
        };
        let both = ["-p", "8080:80", "--network", "front", "--network", "back"];
        shop.serve("web", "hello", &both);
        expect("web", "back");
        shop.type_("network connect --gw-priority -1 apart web");
        expect("web", "back");
        shop.type_("network disconnect apart web");
        shop.type_("network connect apart web");
        expect("web", "apart");
        let format = "{{range .NetworkSettings.Networks}}{{.GwPriority}}{{end}}";
        assert_eq!(shop.inspect("web", format), "000");
        shop.type_("network disconnect apart web");
        expect("web", "back");
        shop.type_("stop -t 0 web");
        shop.type_("network connect --gw-priority 5 apart web");
        shop.type_("start web");
        shop.soon("the server listens", || {
            shop.daemon.hawser(&["exec", "web", "fetch", "127.0.0.1"])
        });
        expect("web", "apart");
        shop.type_("rm -f web");

        let first = [
            "-p",
            "8080:80",
            "--network",
            "name=front,gw-priority=1",
            "--network",
            "back",
        ];
        shop.serve("web", "hello", &first);
        expect("web", "front");
        shop.refuses(
            &format!("run --network name=front,gw-priority=x {TOOLS} true"),
            125,
            "invalid gw-priority \"x\"",
        );
    }

    #[test]
    fn a_network_names_its_interfaces() {
        let shop = Shop::open();
        let option = "com.docker.network.container_iface_prefix";
        shop.type_(&format!("network create -o {option}=lan lan"));
        shop.type_("network create plain");
        shop.idle("c1", "--network lan --network plain");
        assert_eq!(shop.inside("c1", "ls /sys/class/net"), "eth0\nlan0\nlo");
        shop.type_("network create -o com.docker.network.container_iface_prefix=lan more");
        shop.type_("network connect more c1");
        assert_eq!(
            shop.inside("c1", "ls /sys/class/net"),
            "eth0\nlan0\nlan1\nlo"
        );
        shop.refuses(
            &format!("network create -o {option}=much-too-long bad"),
            1,
            "the first 1 to 12 bytes",
        );
    }

    #[test]
    fn a_routed_network_publishes_the_containers_own_port() {
        let shop = Shop::open();
        let mode = "com.docker.network.bridge.gateway_mode_ipv4=routed";
        shop.type_(&format!("network create -o {mode} lan"));
        for name in ["web", "second"] {
            shop.serve(name, name, &["-p", "8080:80", "--network", "lan"]);
            // The outside host's way to everywhere is this host.
            let url = format!("http://{}", shop.address(name, "lan"));
            let page = shop.soon("it answers at its address", || shop.outside.fetch(&url));
            assert_eq!(page, name);
        }
        assert!(shop.fetch_on_host("http://127.0.0.1:8080").is_err());
        assert_eq!(shop.type_("port web"), "");
        let ports = shop.type_("ps --filter name=web --format {{.Ports}}");
        assert_eq!(ports, "80/tcp");
    }
}
