//! `hawser network …`: what it prints, and what it leaves in the kernel.

#[cfg(test)]
mod root {
    use kernel_tests::Shop;
    use kernel_tests::shop::TOOLS;
    use serde_json::Value;

    fn link(shop: &Shop, name: &str) -> Value {
        let text = shop
            .host
            .output("ip", &["-json", "-details", "link", "show", name]);
        let value: Value = serde_json::from_str(&text.unwrap()).unwrap();
        value[0].clone()
    }

    fn ports_of(shop: &Shop, bridge: &str) -> usize {
        let text = shop
            .host
            .output("ip", &["-json", "link", "show", "master", bridge]);
        let links: Value = serde_json::from_str(&text.unwrap()).unwrap();
        // iproute2 prints an empty object for each link that does not fit.
        let all = links.as_array().map(Vec::as_slice).unwrap_or_default();
        all.iter().filter(|link| link["ifname"].is_string()).count()
    }

    #[test]
    fn three_networks_are_always_there() {
        let shop = Shop::open();
        let table = shop.type_("network ls");
        let rows: Vec<Vec<&str>> = table
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(rows[0], ["NETWORK", "ID", "NAME", "DRIVER", "SCOPE"]);
        let names: Vec<&[&str]> = rows[1..].iter().map(|row| &row[1..]).collect();
        assert_eq!(
            names,
            [
                ["bridge", "bridge", "local"],
                ["host", "host", "local"],
                ["none", "null", "local"]
            ]
        );
        assert!(rows[1..].iter().all(|row| row[0].len() == 12));

        let bridge: Value = serde_json::from_str(&shop.type_("network inspect bridge")).unwrap();
        let bridge = &bridge[0];
        for (key, expected) in [
            ("Name", Value::from("bridge")),
            ("Scope", "local".into()),
            ("Driver", "bridge".into()),
            ("EnableIPv6", false.into()),
            ("Internal", false.into()),
            ("Attachable", false.into()),
            ("Ingress", false.into()),
        ] {
            assert_eq!(bridge[key], expected, "{key}");
        }
        assert_eq!(bridge["IPAM"]["Driver"], "default");
        assert_eq!(bridge["IPAM"]["Config"][0]["Subnet"], "172.17.0.0/16");
        assert_eq!(bridge["ConfigFrom"]["Network"], "");
        let name = bridge["Options"]["com.docker.network.bridge.name"]
            .as_str()
            .unwrap();
        let kernel = link(&shop, name);
        assert_eq!(kernel["mtu"], 1500);
        let flags = kernel["flags"].as_array().unwrap();
        assert!(flags.contains(&"UP".into()), "{kernel}");
    }

    #[test]
    fn a_user_network_is_a_bridge_of_the_kernel() {
        let shop = Shop::open();
        let id = shop.type_("network create -d bridge localnet");
        let bridge = format!("br-{}", &id[..12]);
        let default = "{{index .Options \"com.docker.network.bridge.name\"}}";
        let default = shop.inspect("bridge", default);
        for name in [&bridge, &default] {
            assert_eq!(
                link(&shop, name)["linkinfo"]["info_data"]["stp_state"],
                0,
                "{name}"
            );
            assert_eq!(ports_of(&shop, name), 0, "{name}");
        }
        shop.type_(&format!(
            "container run -d --name c1 --network localnet {TOOLS} sleep 600"
        ));
        #[rustfmt::skip]
        let containers = shop.hawser(&[
            "network", "inspect", "localnet", "--format", "{{json .Containers}}",
        ]);
        let containers: Value = serde_json::from_str(&containers).unwrap();
        let c1 = containers.as_object().unwrap().values().next().unwrap();
        assert_eq!(c1["Name"], "c1");
        assert_eq!(c1["EndpointID"].as_str().unwrap().len(), 64);
        assert_eq!(c1["IPv6Address"], "");
        let address = c1["IPv4Address"].as_str().unwrap();
        let (ip, prefix) = address.split_once('/').unwrap();
        assert_eq!(prefix, "16");
        let octets: Vec<String> = ip
            .split('.')
            .map(|octet| format!("{:02x}", octet.parse::<u8>().unwrap()))
            .collect();
        assert_eq!(c1["MacAddress"], format!("02:42:{}", octets.join(":")));
        assert_eq!(
            (ports_of(&shop, &bridge), ports_of(&shop, &default)),
            (1, 0)
        );
        let ping = format!("run --rm --name c2 --network localnet {TOOLS} ping -c1 -W2 c1");
        assert!(shop.type_(&ping).contains(&format!("PING c1 ({ip})")));
    }

    #[test]
    fn listings_are_filtered_and_formatted() {
        let shop = Shop::open();
        let id = shop.type_("network create --label app=yes --label tier=front one");
        shop.type_("network create --label app=yes two");
        let names = |filters: &str| {
            let line = format!("network ls {filters} --format {{{{.Name}}}}");
            shop.type_(&line)
                .lines()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        assert_eq!(names("--filter label=app"), ["one", "two"]);
        assert_eq!(
            names("--filter label=app=yes --filter label=tier=front"),
            ["one"]
        );
        assert_eq!(names("--filter driver=null"), ["none"]);
        assert_eq!(names("--filter type=custom"), ["one", "two"]);
        assert_eq!(names("--filter type=builtin"), ["bridge", "host", "none"]);
        assert_eq!(names("--filter scope=swarm"), Vec::<String>::new());
        shop.idle("c1", "--network one");
        assert_eq!(names("--filter dangling=true"), ["two"]);
        assert_eq!(names(&format!("--filter id={}", &id[..6])), ["one"]);
        assert_eq!(
            shop.type_("network ls -q --no-trunc --filter name=^one$"),
            id
        );
        let line = shop.type_("network ls --filter name=^one$ --format json");
        let row: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(row["ID"], id[..12]);
        assert_eq!(row["Labels"], "app=yes,tier=front");
        assert_eq!(row["Internal"], "false");
        assert!(
            row["CreatedAt"].as_str().unwrap().ends_with(" +0000 UTC"),
            "{row}"
        );
        shop.refuses("network ls --filter bogus=1", 1, "invalid filter \"bogus\"");
        shop.refuses("network ls --filter dangling=maybe", 1, "invalid filter");

        let ran = shop.run(&[
            "network",
            "inspect",
            "-v",
            "-f",
            "{{.Name}}",
            "one",
            "nobody",
            "two",
        ]);
        assert_eq!((ran.code, ran.stdout.as_str()), (1, "one\ntwo\n"));
        assert_eq!(ran.stderr, "hawser: network nobody not found\n");
    }

    #[test]
    fn unused_networks_are_pruned_and_used_ones_stay() {
        let shop = Shop::open();
        for name in ["used", "idle", "kept"] {
            shop.type_(&format!("network create --label app --label {name} {name}"));
        }
        shop.idle("c1", "--network used");
        let asked = shop.type_("network prune --filter label=app");
        assert!(
            asked.contains("WARNING! This will remove all custom networks"),
            "{asked}"
        );
        assert!(asked.contains("[y/N]"), "{asked}");
        shop.type_("network prune -f --filter until=1h");
        shop.type_("network inspect idle");
        let pruned = shop.type_("network prune -f --filter label=app --filter label!=kept");
        assert_eq!(pruned, "Deleted Networks:\nidle");
        shop.type_("network prune --force");
        let names = shop.type_("network ls --filter type=custom --format {{.Name}}");
        assert_eq!(names, "used");
        assert_eq!(shop.type_("network prune -f"), "");
        shop.refuses(
            "network rm used",
            1,
            "network used is in use by container c1",
        );
        shop.refuses("network rm nobody", 1, "network nobody not found");
        assert_eq!(shop.type_("network rm -f nobody"), "");
        shop.refuses("network rm bridge", 1, "pre-defined");
    }

    #[test]
    fn addresses_are_given_as_in_docker() {
        let shop = Shop::open();
        #[rustfmt::skip]
        shop.hawser(&[
            "network", "create", "--subnet", "10.66.0.0/24,fd66::/64", "--ip-range", "10.66.0.128/25",
            "--gateway", "10.66.0.254", "--aux-address", "router=10.66.0.128", "--ipv6=true",
            "--ipam-driver", "default", "--scope", "local", "--attachable", "--internal=false", "net1",
        ]);
        let config: Value =
            serde_json::from_str(&shop.inspect("net1", "{{json .IPAM.Config}}")).unwrap();
        assert_eq!(config[0]["Gateway"], "10.66.0.254");
        assert_eq!(config[0]["IPRange"], "10.66.0.128/25");
        assert_eq!(config[0]["AuxiliaryAddresses"]["router"], "10.66.0.128");
        assert_eq!(config[1]["Subnet"], "fd66::/64");
        assert_eq!(
            shop.inspect("net1", "{{.EnableIPv6}} {{.Attachable}} {{.Internal}}"),
            "true true false"
        );
        shop.idle("c1", "--network net1 --ip6 fd66::9");
        assert_eq!(
            shop.address("c1", "net1"),
            "10.66.0.129",
            "the first of the range is reserved"
        );
        let six = "{{.NetworkSettings.Networks.net1.GlobalIPv6Address}}/\
                   {{.NetworkSettings.Networks.net1.GlobalIPv6PrefixLen}}";
        assert_eq!(shop.inspect("c1", six), "fd66::9/64");
        for (line, part) in [
            (
                "network create net1",
                "network with name net1 already exists",
            ),
            (
                "network create --config-only net2",
                "--config-only is not supported",
            ),
            (
                "network create --scope swarm net2",
                "unknown --scope \"swarm\"",
            ),
            (
                "network create --ipam-driver dhcp net2",
                "unknown IPAM driver \"dhcp\"",
            ),
            (
                "network create --gateway 10.1.0.1 net2",
                "no matching subnet for --gateway",
            ),
            ("network create -d bogus net2", "\"bogus\""),
            ("network connect nope c1", "network nope not found"),
            ("network connect net1 nobody", "No such container: nobody"),
            (
                "network connect net1 c1",
                "is connected to network net1 already",
            ),
        ] {
            shop.refuses(line, 1, part);
        }
        let unknown = format!("run --network nope {TOOLS} true");
        shop.refuses(&unknown, 125, "network nope not found");
    }

    #[test]
    fn a_network_of_ipv6_alone_says_so() {
        let shop = Shop::open();
        shop.type_("network create --ipv4=false --ipv6 --subnet fd66:1::/64 six");
        assert_eq!(
            shop.inspect(
                "six",
                "{{.EnableIPv4}} {{.EnableIPv6}} {{len .IPAM.Config}}"
            ),
            "false true 1"
        );
        let listed = "network ls --filter type=custom --format {{.Name}}:{{.IPv4}}:{{.IPv6}}";
        assert_eq!(shop.type_(listed), "six:false:true");
        shop.idle("c1", "--network six");
        assert_eq!(shop.inside("c1", "ip -4 -o addr show dev eth0"), "");
        shop.type_("network create --ipv4 both");
        assert_eq!(
            shop.inspect("both", "{{.EnableIPv4}} {{.EnableIPv6}}"),
            "true false"
        );
        shop.refuses(
            "network create --ipv4=false none-at-all",
            1,
            "neither IPv4 nor IPv6",
        );
        shop.refuses(
            "network create --ipv6=false --subnet fd66:2::/64 four",
            1,
            "subnet fd66:2::/64 is given, but IPv6 is disabled",
        );
    }

    #[test]
    fn subnets_that_cannot_be_are_refused_in_one_line() {
        let shop = Shop::open();
        shop.type_("network create --subnet 10.66.0.0/24 -o com.docker.network.bridge.name=lan9 x");
        let before = (
            shop.type_("network ls -q"),
            shop.host.output("ip", &["-o", "link"]),
        );
        for (flags, part) in [
            ("--subnet 10.67.0.0/32", "too small"),
            ("--subnet fd67::/128", "too small"),
            (
                "--subnet 10.67.0.0/24 --gateway 10.68.0.1",
                "no matching subnet",
            ),
            (
                "--subnet 10.67.0.0/24 --ip-range 10.67.0.0/23",
                "not in subnet",
            ),
            (
                "--subnet 10.67.0.0/24 --ip-range 10.68.0.0/25",
                "no matching subnet",
            ),
            ("--subnet 10.67.0.0/24 --subnet 10.67.0.0/24", "overlap"),
            ("--subnet 10.66.0.0/25", "overlaps network x"),
            (
                "--subnet 10.67.0.0/30 --aux-address a=10.67.0.2",
                "no address of",
            ),
            ("--subnet 224.0.0.0/24", "multicast"),
            ("--subnet 127.1.0.0/24", "loopback"),
            ("--subnet 240.1.0.0/24", "reserved"),
            ("--subnet fe80::/64", "link-local"),
            (
                "-o com.docker.network.bridge.name=lan9",
                "is that of network x already",
            ),
            (
                "-o com.docker.network.bridge.name=lo",
                "interface lo exists already",
            ),
        ] {
            shop.refuses(&format!("network create {flags} y"), 1, part);
        }
        let after = (
            shop.type_("network ls -q"),
            shop.host.output("ip", &["-o", "link"]),
        );
        assert_eq!(before.0, after.0);
        assert_eq!(
            before.1.unwrap(),
            after.1.unwrap(),
            "nothing is left behind"
        );
        // Other names are two characters or more.
        assert_eq!(shop.inspect("x", "{{.Name}}"), "x");
    }
}
