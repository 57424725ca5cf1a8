//! The reference plugins before and behind ours in one configuration list.

#[cfg(test)]
mod root {
    use std::process::Child;

    use kernel_tests::shop::SOON;
    use kernel_tests::{Pods, wait};
    use serde_json::{Value, json};

    /// Ours, with no capability that another plugin of the chain has.
    fn ours(pods: &Pods) -> Value {
        let mut plugin = pods.hawser(&json!({"driver": "bridge", "subnet": "10.60.0.0/24"}));
        plugin["capabilities"] = json!({"aliases": true});
        plugin
    }

    /// A web server in a sandbox; ends with the test.
    struct Server(Child);

    impl Server {
        fn start(pods: &Pods, sandbox: &str) -> Self {
            std::fs::write(pods.scratch().join("index.html"), sandbox).unwrap();
            let serve = ["busybox", "httpd", "-f", "-p", "80", "-h"];
            let mut command = pods.host.command("ip");
            command.args(["netns", "exec", sandbox]).args(serve);
            Self(command.arg(pods.scratch()).spawn().unwrap())
        }
    }

    impl Drop for Server {
        fn drop(&mut self) {
            // It may have ended already; waiting for it is what matters.
            drop(self.0.kill());
            drop(self.0.wait());
        }
    }

    #[test]
    fn portmap_and_firewall_work_behind_ours() {
        let pods = Pods::open();
        let portmap = json!({"type": "portmap", "capabilities": {"portMappings": true}});
        let firewall = json!({"type": "firewall", "backend": "iptables"});
        let list = pods.list("chain", "1.0.0", &[ours(&pods), portmap, firewall]);
        pods.sandbox("web");
        let ports =
            json!({"portMappings": [{"hostPort": 18080, "containerPort": 80, "protocol": "tcp"}]});
        list.add("web", &ports);
        assert_eq!(pods.attachments()[0].ports, [], "the port is portmap's");
        let server = Server::start(&pods, "web");
        let url = format!("http://{}:18080", pods.outside.host_v4);
        let page = wait::until(SOON, &url, || pods.outside.fetch(&url).ok());
        assert_eq!(page.unwrap(), "web");
        // What the firewall plugin is for: nothing passes but what it lets through, which is what
        // containers ask for themselves.
        let rules = ["-P", "FORWARD", "DROP"];
        pods.host.output("iptables", &rules).unwrap();
        let outside = pods.outside.v4.to_string();
        pods.inside("web", &["busybox", "ping", "-c1", "-W5", &outside]);
        // No CHECK: this portmap looks for rules of both families whatever the container has.
        list.del("web", &ports);
        drop(server);
        assert!(pods.outside.fetch(&url).is_err());
        assert!(pods.attachments().is_empty());
        let left = pods.host.output("iptables-save", &[]).unwrap();
        assert!(
            !left.contains("10.60.0.") && !left.contains("18080"),
            "{left}"
        );
    }

    #[test]
    fn ours_makes_its_interface_behind_the_loopback_plugin() {
        let pods = Pods::open();
        let loopback = json!({"type": "loopback"});
        let tuning = json!({"type": "tuning", "mac": "02:00:00:00:12:34"});
        let list = pods.list("chain", "1.0.0", &[loopback, ours(&pods), tuning]);
        pods.sandbox("web");
        let result = list.add("web", &json!({}));
        let interfaces = result["interfaces"].as_array().unwrap();
        let names = interfaces.iter().map(|i| i["name"].as_str().unwrap());
        let names: Vec<&str> = names.collect();
        assert_eq!(names[0], "lo", "what was there stays: {result}");
        assert!(names.contains(&"eth0"), "{result}");
        let own = names.iter().position(|name| *name == "eth0").unwrap();
        let address = result["ips"].as_array().unwrap();
        let address = address.iter().find(|ip| ip["interface"] == own).unwrap();
        assert_eq!(address["gateway"], "10.60.0.1", "{result}");
        let link = pods.inside("web", &["ip", "-j", "link", "show", "eth0"]);
        assert!(link.contains("02:00:00:00:12:34"), "{link}");
        pods.inside("web", &["busybox", "ping", "-c1", "-W5", "127.0.0.1"]);
        list.check("web", &json!({}));
        list.del("web", &json!({}));
        assert!(pods.attachments().is_empty());
    }

    #[test]
    fn a_limit_on_what_is_sent_is_asked_of_ours_and_not_of_the_bandwidth_plugin() {
        let pods = Pods::open();
        let rates = json!({"egressRate": 80_000_000, "egressBurst": 8_000_000});
        let mut bandwidth = rates.clone();
        bandwidth["type"] = json!("bandwidth");
        pods.sandbox("web");
        let theirs = pods.list("theirs", "1.0.0", &[ours(&pods), bandwidth]);
        let refused = theirs.run("add", "web", &json!({})).unwrap();
        // One ingress queue an interface, and ours stands there (sch_ingress.c, EEXIST).
        let text = refused.text();
        assert!(text.contains("create ingress qdisc: file exists"), "{text}");
        theirs.del("web", &json!({}));
        assert!(pods.attachments().is_empty());
        let links = pods.host.output("ip", &["-o", "link"]).unwrap();
        assert!(!links.contains("veth") && !links.contains("bwp"), "{links}");

        let mut limited = ours(&pods);
        limited["bandwidth"] = rates;
        limited["network"] = json!("theirs");
        let list = pods.list("ours", "1.0.0", &[limited]);
        list.add("web", &json!({}));
        let queues = pods.host.output("tc", &["qdisc", "show"]).unwrap();
        assert!(
            queues.contains("tbf") && queues.contains("rate 80Mbit"),
            "{queues}"
        );
        pods.inside("web", &["busybox", "ping", "-c1", "-W5", "10.60.0.1"]);
        list.check("web", &json!({}));
        list.del("web", &json!({}));
    }
}
