//! Containers as machines of a network that exists already: macvlan, with and without VLANs.

#[cfg(test)]
mod root {
    use std::net::Ipv4Addr;

    use kernel_tests::Shop;
    use kernel_tests::host::Namespaces;
    use kernel_tests::program;
    use kernel_tests::shop::TOOLS;

    /// The host's `eth0`, and a machine at the other end of its wire, which knows it as `lan0`.
    struct Wire<'s> {
        shop: &'s Shop,
        machine: Namespaces,
    }

    impl<'s> Wire<'s> {
        fn new(shop: &'s Shop) -> Self {
            let machine = Namespaces::new(&["--net"]).unwrap();
            let wire = Self { shop, machine };
            wire.lay("eth0", "lan0");
            wire.machine("link set lo up");
            wire
        }

        fn lay(&self, here: &str, there: &str) {
            let pid = self.machine.pid();
            self.host(&format!(
                "link add {here} type veth peer name {there} netns {pid}"
            ));
            self.host(&format!("link set {here} up"));
            self.machine(&format!("link set {there} up"));
        }

        /// Runs `ip WORDS` on the host.
        fn host(&self, words: &str) -> String {
            let words: Vec<&str> = words.split(' ').collect();
            self.shop.host.output("ip", &words).unwrap()
        }

        /// Runs `ip WORDS` on the machine.
        fn machine(&self, words: &str) -> String {
            program::output(self.machine.command("ip").args(words.split(' '))).unwrap()
        }

        /// Puts the machine on VLAN `id`, under the address `net`. On a kernel without VLANs a wire
        /// of its own stands for one, under the name that its sub-interface would have.
        fn join_vlan(&self, id: u16, net: &str, has_vlans: bool) {
            let link = format!("lan0.{id}");
            if has_vlans {
                self.machine(&format!("link add link lan0 name {link} type vlan id {id}"));
                self.machine(&format!("link set {link} up"));
            } else {
                self.lay(&format!("eth0.{id}"), &link);
            }
            self.machine(&format!("address add {net} dev {link}"));
        }

        fn has_vlans(&self) -> bool {
            let mut probe = self.machine.command("ip");
            probe.args("link add link lan0 name probe type vlan id 9".split(' '));
            let has = program::output(&mut probe).is_ok();
            if has {
                self.machine("link delete probe");
            }
            has
        }

        fn is_on_host(&self, link: &str) -> bool {
            let links = self.host("-oneline link show");
            links.contains(&format!(": {link}@")) || links.contains(&format!(": {link}:"))
        }
    }

    fn mac(shop: &Shop, container: &str, network: &str) -> String {
        let format = format!("{{{{(index .NetworkSettings.Networks {network:?}).MacAddress}}}}");
        shop.inspect(container, &format)
    }

    #[test]
    fn two_vlans_are_two_networks() {
        const CREATE: &str = "network create -d macvlan --subnet=10.0.0.0/24 \
             --ip-range=10.0.0.0/25 --gateway=10.0.0.1 -o parent=eth0.100 macvlan100";
        let shop = Shop::open();
        let wire = Wire::new(&shop);
        let has_vlans = wire.has_vlans();
        if !has_vlans {
            shop.refuses(CREATE, 1, "vlan is not in this kernel (CONFIG_VLAN_8021Q)");
            assert!(!wire.is_on_host("eth0.100"));
        }
        wire.join_vlan(100, "10.0.0.200/24", has_vlans);
        wire.join_vlan(200, "192.168.3.200/24", has_vlans);
        shop.type_(CREATE);
        shop.type_(
            "network create -d macvlan --subnet=192.168.3.0/24 --gateway=192.168.3.1 \
             -o parent=eth0.200 macvlan200",
        );
        for id in [100, 200] {
            let shown = wire.host(&format!("-details link show eth0.{id}"));
            assert!(shown.contains("UP"), "{shown}");
            assert_eq!(shown.contains(&format!("id {id}")), has_vlans, "{shown}");
        }
        shop.idle("mactainer1", "--network macvlan100");
        shop.idle("mactainer2", "--network macvlan200");
        let address: Ipv4Addr = shop.address("mactainer1", "macvlan100").parse().unwrap();
        assert!(
            address.octets()[..3] == [10, 0, 0] && address.octets()[3] < 128,
            "{address} is not in 10.0.0.0/25"
        );
        let second = shop.address("mactainer2", "macvlan200");
        assert!(second.starts_with("192.168.3."), "{second}");
        shop.inside("mactainer1", "ping -c1 -W2 10.0.0.200");
        shop.inside("mactainer2", "ping -c1 -W2 192.168.3.200");
        // The wire sees the container's own link address.
        let seen = wire.machine(&format!("neigh show {address}"));
        let own = mac(&shop, "mactainer1", "macvlan100");
        assert!(seen.contains(&own), "{own} is not in {seen}");
        assert!(!wire.host("link show eth0.100").contains(&own));
        let ran = shop.try_inside("mactainer1", &format!("ping -c1 -W1 {second}"));
        assert_ne!(ran.code, 0, "each VLAN is a network of its own");

        shop.refuses(
            "network rm macvlan100",
            1,
            "network macvlan100 is in use by container mactainer1",
        );
        shop.type_("rm -f mactainer1 mactainer2");
        shop.type_("network rm macvlan100 macvlan200");
        assert_eq!(wire.is_on_host("eth0.100"), !has_vlans, "made, so removed");
        assert!(wire.is_on_host("eth0"));
    }

    #[test]
    fn the_lan_reaches_a_container_without_a_port_mapping() {
        let shop = Shop::open();
        let wire = Wire::new(&shop);
        wire.machine("address add 192.168.0.1/24 dev lan0");
        shop.type_(
            "network create -d macvlan --subnet 192.168.0.0/24 --gateway 192.168.0.1 \
             -o parent=eth0 my-macvlan-net",
        );
        shop.serve("web", "hello", &["--net", "my-macvlan-net"]);
        let address = shop.address("web", "my-macvlan-net");
        assert!(address.starts_with("192.168.0."), "{address}");
        let url = format!("http://{address}:80");
        let fetch = ["--silent", "--fail", "--noproxy", "*", "--max-time", "10"];
        let page = program::output(wire.machine.command("curl").args(fetch).arg(&url));
        assert_eq!(page.unwrap(), "hello");
        assert_eq!(shop.type_("port web"), "");
        let route = shop.inside("web", "ip route show default");
        assert!(route.contains("via 192.168.0.1"), "{route}");
        shop.idle("c2", "--net my-macvlan-net");
        assert_eq!(shop.inside("c2", "fetch web"), "hello");
    }

    #[test]
    fn ports_of_such_containers_are_discarded_with_a_warning() {
        let shop = Shop::open();
        let _wire = Wire::new(&shop);
        shop.type_("network create -d macvlan --subnet 192.168.0.0/24 -o parent=eth0 lan");
        let words = format!("run -d --name web -p 8080:80 --net lan {TOOLS} sleep 600");
        let ran = shop.run(&words.split(' ').collect::<Vec<_>>());
        assert_eq!(
            (ran.code, ran.stderr.trim()),
            (
                0,
                "WARNING: Published ports are discarded on network lan (macvlan): containers are \
                 reached at their own addresses"
            )
        );
        let ports = shop.inspect("web", "{{json .NetworkSettings.Ports}}");
        assert_eq!(ports, r#"{"80/tcp":null}"#);
        assert!(shop.fetch_on_host("http://127.0.0.1:8080").is_err());
        // On a network beside it they are published.
        shop.type_("network create shop");
        shop.serve(
            "both",
            "hello",
            &["-p", "8080:80", "--net", "lan", "--net", "shop"],
        );
        let page = shop.soon("the port answers", || {
            shop.fetch_on_host("http://127.0.0.1:8080")
        });
        assert_eq!(page, "hello");
    }
}
