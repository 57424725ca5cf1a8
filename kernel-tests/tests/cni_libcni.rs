//! Our plugins under the reference library, alone and with the reference plugins as neighbours.

#[cfg(test)]
mod root {
    use std::time::Duration;

    use kernel_tests::{Pods, wait};
    use serde_json::{Value, json};

    const SOON: Duration = Duration::from_secs(10);

    fn none() -> Value {
        json!({})
    }

    /// The addresses of `eth0` and the routes of the sandbox, without what a kernel may choose.
    fn state(pods: &Pods, sandbox: &str) -> (Value, Value) {
        let read = |command: &[&str]| -> Value {
            serde_json::from_str(&pods.inside(sandbox, command)).unwrap()
        };
        let addresses = read(&["ip", "-j", "address", "show", "dev", "eth0"]);
        let info = addresses[0]["addr_info"].as_array().unwrap();
        let addresses = info.iter().filter(|entry| entry["scope"] == "global");
        let addresses = addresses.map(|entry| json!([entry["local"], entry["prefixlen"]]));
        let routes = read(&["ip", "-j", "route"]);
        let routes = routes.as_array().unwrap().iter();
        let routes = routes.map(|route| {
            json!([
                route["dst"],
                route["gateway"],
                route["dev"],
                route["scope"],
                route["prefsrc"]
            ])
        });
        (addresses.collect(), routes.collect())
    }

    #[test]
    fn every_version_adds_checks_and_deletes() {
        let pods = Pods::open();
        let inline = json!({"driver": "bridge", "subnet": "10.60.0.0/24"});
        for version in ["0.3.1", "0.4.0", "1.0.0"] {
            let list = pods.list("pods", version, &[pods.hawser(&inline)]);
            let name = format!("pod-{}", version.replace('.', ""));
            let netns = pods.sandbox(&name);
            let result = list.add(&name, &none());
            assert_eq!(result["cniVersion"], version);
            let interfaces = result["interfaces"].as_array().unwrap();
            let own = interfaces.iter().position(|i| i["name"] == "eth0").unwrap();
            assert_eq!(interfaces[own]["sandbox"], netns);
            assert_eq!(result["ips"][0]["interface"], own);
            assert_eq!(result["ips"][0]["gateway"], "10.60.0.1");
            pods.inside(&name, &["busybox", "ping", "-c1", "-W5", "10.60.0.1"]);
            let again = list.run("add", &name, &none()).unwrap();
            assert!(again.text().contains("already"), "{}", again.text());
            // The library deletes after a failed add, as the specification asks.
            list.del(&name, &none());
            list.del(&name, &none());
            list.add(&name, &none());
            if version != "0.3.1" {
                list.check(&name, &none());
                pods.inside(&name, &["ip", "route", "del", "default"]);
                let drifted = list.run("check", &name, &none()).unwrap();
                assert!(
                    drifted.text().contains("the route to 0.0.0.0/0 is missing"),
                    "{}",
                    drifted.text()
                );
            }
            // The namespace may be gone before.
            pods.host.output("ip", &["netns", "del", &name]).unwrap();
            list.del(&name, &none());
        }
        assert!(pods.attachments().is_empty());
    }

    #[test]
    fn pods_have_names_and_published_ports() {
        let pods = Pods::open();
        let list = pods.list(
            "pods",
            "1.0.0",
            &[pods.hawser(&json!({"driver": "bridge"}))],
        );
        let ports = json!({"portMappings": [
            {"hostPort": 18080, "containerPort": 80, "protocol": "tcp", "hostIP": ""},
            {"hostPort": 18081, "containerPort": 81, "protocol": "tcp"},
        ], "aliases": ["www"]});
        for (name, capabilities) in [("web", &ports), ("client", &none())] {
            pods.sandbox(name);
            list.add(name, capabilities);
        }
        let address = pods.attachments()[1].addresses[0].address.addr();
        for name in ["web", "www", "web.prod"] {
            let answer = pods.inside("client", &["dig", "+short", "@127.0.0.11", name]);
            assert_eq!(answer, address.to_string(), "{name}");
        }
        let page = pods.scratch().join("index.html");
        std::fs::write(&page, "hello").unwrap();
        let mut server = pods
            .host
            .command("ip")
            .args([
                "netns", "exec", "web", "busybox", "httpd", "-f", "-p", "80", "-h",
            ])
            .arg(pods.scratch())
            .spawn()
            .unwrap();
        let url = format!("http://{}:18080", pods.outside.host_v4);
        let got = wait::until(SOON, &url, || pods.outside.fetch(&url).ok());
        server.kill().unwrap();
        server.wait().unwrap();
        assert_eq!(got.unwrap(), "hello");
        let ports = &pods.attachments()[1].ports;
        let shown: Vec<String> = ports
            .iter()
            .map(|p| format!("{}+{}/{}", p.host_port, p.count, p.protocol))
            .collect();
        assert_eq!(shown, ["18080+2/tcp"]);
        list.del("web", &none());
        assert!(pods.outside.fetch(&url).is_err());
    }

    #[test]
    fn garbage_collection_by_one_runtime_spares_the_others() {
        let pods = Pods::open();
        let config = json!({"driver": "bridge", "network": "pods"});
        for name in ["a", "b", "c"] {
            pods.sandbox(name);
        }
        let list = pods.list("pods", "1.0.0", &[pods.hawser(&config)]);
        list.add("a", &none());
        let mut direct = pods.hawser(&config);
        direct["cniVersion"] = json!("1.1.0");
        direct["name"] = json!("pods");
        for name in ["b", "c"] {
            pods.plugin("hawser", "ADD", name, &direct);
        }
        let owners: Vec<String> = pods
            .attachments()
            .into_iter()
            .map(|entry| entry.owner.unwrap())
            .collect();
        assert_eq!(owners[0], "pods@cnirun");
        assert_ne!(owners[1], owners[0], "another program on the same list");
        direct["cni.dev/valid-attachments"] = json!([{"containerID": "b", "ifname": "eth0"}]);
        pods.plugin("hawser", "STATUS", "b", &direct);
        pods.plugin("hawser", "GC", "b", &direct);
        let left: Vec<String> = pods
            .attachments()
            .into_iter()
            .map(|entry| entry.container_id)
            .collect();
        assert_eq!(left, ["a", "b"]);
        list.check("a", &none());
    }

    #[test]
    fn reference_plugins_follow_ours_in_a_chain() {
        let pods = Pods::open();
        let tuning = json!({"type": "tuning", "sysctl": {"net.ipv4.conf.all.log_martians": "1"},
            "mtu": 1400});
        let bandwidth =
            json!({"type": "bandwidth", "ingressRate": 80_000_000, "ingressBurst": 8_000_000});
        let inline = json!({"driver": "bridge", "subnet": "10.60.0.0/24"});
        let list = pods.list("chain", "1.0.0", &[pods.hawser(&inline), tuning, bandwidth]);
        pods.sandbox("web");
        let result = list.add("web", &none());
        assert_eq!(result["ips"][0]["gateway"], "10.60.0.1");
        let mtu = pods.inside("web", &["ip", "-j", "link", "show", "eth0"]);
        assert!(mtu.contains(r#""mtu":1400"#), "{mtu}");
        let martians = pods.inside("web", &["cat", "/proc/sys/net/ipv4/conf/all/log_martians"]);
        assert_eq!(martians, "1");
        pods.inside("web", &["busybox", "ping", "-c1", "-W5", "10.60.0.1"]);
        list.check("web", &none());
        list.del("web", &none());
        assert!(pods.attachments().is_empty());
        let left = pods.host.output("ip", &["-o", "link"]).unwrap();
        assert!(!left.contains("veth") && !left.contains("bwp"), "{left}");
    }

    #[test]
    fn ours_follows_the_reference_bridge_and_publishes_its_ports() {
        let pods = Pods::open();
        pods.daemon
            .hawser(&[
                "network",
                "create",
                "--subnet",
                "10.62.0.0/24",
                "-d",
                "pool",
                "names",
            ])
            .unwrap();
        let bridge = json!({"type": "bridge", "bridge": "cni0", "isGateway": true,
            "ipam": pods.host_local("10.61.0.0/24")});
        let mut ours = pods.hawser(&json!({"network": "names"}));
        ours["capabilities"] = json!({"portMappings": true, "aliases": true});
        let tuning = json!({"type": "tuning"});
        let list = pods.list("chain", "1.0.0", &[bridge, ours, tuning]);
        pods.sandbox("web");
        let ports =
            json!({"portMappings": [{"hostPort": 18080, "containerPort": 80, "protocol": "tcp"}]});
        let result = list.add("web", &ports);
        assert_eq!(result["interfaces"].as_array().unwrap().len(), 3);
        assert_eq!(result["ips"][0]["address"], "10.61.0.2/24");
        std::fs::write(pods.scratch().join("index.html"), "theirs").unwrap();
        let mut server = pods
            .host
            .command("ip")
            .args([
                "netns", "exec", "web", "busybox", "httpd", "-f", "-p", "80", "-h",
            ])
            .arg(pods.scratch())
            .spawn()
            .unwrap();
        let url = format!("http://{}:18080", pods.outside.host_v4);
        let got = wait::until(SOON, &url, || pods.outside.fetch(&url).ok());
        server.kill().unwrap();
        server.wait().unwrap();
        assert_eq!(got.unwrap(), "theirs");
        list.check("web", &ports);
        list.del("web", &ports);
        assert!(pods.attachments().is_empty());
    }

    #[test]
    fn the_same_address_management_leads_to_the_same_sandbox_as_the_reference_bridge() {
        let pods = Pods::open();
        let list = |name: &str, mut plugin: Value, subnet: &str| {
            plugin["ipam"] = pods.host_local(subnet);
            pods.list(name, "1.0.0", &[plugin])
        };
        let reference = json!({"type": "bridge", "bridge": "cni0", "isGateway": true});
        let theirs = list("theirs", reference, "10.70.0.0/24");
        // The same numbers, one after the other: two bridges cannot have one subnet.
        pods.sandbox("a");
        let expected = theirs.add("a", &none());
        let expected_state = state(&pods, "a");
        theirs.del("a", &none());
        pods.host.output("ip", &["link", "del", "cni0"]).unwrap();
        let ours = list(
            "ours",
            pods.hawser(&json!({"driver": "bridge"})),
            "10.70.0.0/24",
        );
        pods.sandbox("b");
        let actual = ours.add("b", &none());
        assert_eq!(state(&pods, "b"), expected_state);
        for key in ["ips", "routes", "cniVersion"] {
            if key == "routes" {
                // The gateway may be given or be that of the address.
                assert_eq!(actual[key][0]["dst"], expected[key][0]["dst"]);
                assert_eq!(actual[key].as_array().unwrap().len(), 1);
            } else {
                assert_eq!(actual[key], expected[key], "{actual} {expected}");
            }
        }
        let shape = |result: &Value| -> Vec<(bool, bool)> {
            let interfaces = result["interfaces"].as_array().unwrap().iter();
            interfaces
                .map(|i| (i["mac"].is_string(), i["sandbox"].is_string()))
                .collect()
        };
        assert_eq!(
            shape(&actual),
            shape(&expected),
            "bridge, host's end, sandbox's end"
        );
        ours.check("b", &none());
        pods.inside("b", &["busybox", "ping", "-c1", "-W5", "10.70.0.1"]);
        ours.del("b", &none());
        let leases = pods.scratch().join("host-local/ours");
        let left: Vec<_> = std::fs::read_dir(leases)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .filter(|name| name.to_string_lossy().starts_with("10."))
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }

    #[test]
    fn our_address_management_serves_the_reference_bridge() {
        let pods = Pods::open();
        let ipam = json!({"type": "hawser-ipam", "socket": pods.daemon.directories().socket(),
            "subnet": "10.71.0.0/24", "routes": [{"dst": "0.0.0.0/0"}]});
        let bridge = json!({"type": "bridge", "bridge": "cni0", "isGateway": true, "ipam": ipam,
            "capabilities": {"ips": true}});
        let list = pods.list("leased", "1.0.0", &[bridge]);
        for name in ["a", "b"] {
            pods.sandbox(name);
        }
        let first = list.add("a", &none());
        assert_eq!(first["ips"][0]["address"], "10.71.0.2/24");
        assert_eq!(first["ips"][0]["gateway"], "10.71.0.1");
        let fixed = list.add("b", &json!({"ips": ["10.71.0.9"]}));
        assert_eq!(fixed["ips"][0]["address"], "10.71.0.9/24");
        pods.inside("a", &["busybox", "ping", "-c1", "-W5", "10.71.0.9"]);
        list.check("a", &none());
        assert_eq!(pods.attachments().len(), 2);
        list.del("a", &none());
        // One that is never deleted goes with its namespace.
        pods.host.output("ip", &["netns", "del", "b"]).unwrap();
        wait::until(Duration::from_secs(40), "the lease is collected", || {
            pods.attachments().is_empty().then_some(())
        })
        .unwrap();
    }
}
