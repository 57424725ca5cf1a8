//! Beside a real firewalld, with a message bus of its own, on a throwaway host.

#[cfg(test)]
mod root {
    use std::process::{Child, Stdio};
    use std::time::Duration;

    use kernel_tests::{Pods, wait};
    use serde_json::json;

    /// An interpreter starts, reads some hundred files and writes its rules.
    const START: Duration = Duration::from_secs(60);
    const SOON: Duration = Duration::from_secs(10);

    const BUS: &str = r#"<!DOCTYPE busconfig PUBLIC
  "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
  "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path=/run/dbus/system_bus_socket</listen>
  <policy context="default">
    <allow user="*"/><allow own="*"/><allow send_destination="*"/>
    <allow receive_type="method_call"/><allow eavesdrop="true"/>
  </policy>
</busconfig>
"#;

    /// Ended with the test; what it holds goes with the host.
    struct Running(Child);

    impl Drop for Running {
        fn drop(&mut self) {
            // It may have ended already; waiting for it is what matters.
            drop(self.0.kill());
            drop(self.0.wait());
        }
    }

    fn start(pods: &Pods, program: &str, arguments: &[&str]) -> Running {
        let mut command = pods.host.command(program);
        command.args(arguments).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn();
        Running(child.unwrap_or_else(|error| panic!("{program}: {error}")))
    }

    /// In the order in which they are to end.
    struct Firewalld {
        _daemon: Running,
        _bus: Running,
    }

    impl Firewalld {
        fn start(pods: &Pods) -> Self {
            // What it keeps is kept for this test.
            let host = |program, arguments: &[&str]| pods.host.output(program, arguments).unwrap();
            host("mount", &["-t", "tmpfs", "tmpfs", "/etc/firewalld"]);
            host("mkdir", &["/run/dbus"]);
            let config = pods.scratch().join("bus.conf");
            std::fs::write(&config, BUS).unwrap();
            let config = format!("--config-file={}", config.display());
            let bus = start(pods, "dbus-daemon", &[&config, "--nofork", "--nopidfile"]);
            wait::until(SOON, "the bus is there", || {
                let there = ["-S", "/run/dbus/system_bus_socket"];
                pods.host.output("test", &there).ok()
            })
            .unwrap();
            let daemon = start(pods, "firewalld", &["--nofork", "--nopid"]);
            wait::until(START, "firewalld runs", || {
                pods.host.output("firewall-cmd", &["--state"]).ok()
            })
            .unwrap();
            Self {
                _daemon: daemon,
                _bus: bus,
            }
        }
    }

    #[test]
    fn reloading_firewalld_leaves_networks_and_published_ports_as_they_were() {
        let pods = Pods::open();
        let inline = json!({"driver": "bridge", "subnet": "10.60.0.0/24"});
        let list = pods.list("pods", "1.0.0", &[pods.hawser(&inline)]);
        pods.sandbox("web");
        let ports =
            json!({"portMappings": [{"hostPort": 18080, "containerPort": 80, "protocol": "tcp"}]});
        list.add("web", &ports);
        let page = pods.scratch().join("index.html");
        std::fs::write(&page, "here").unwrap();
        let root = pods.scratch().display().to_string();
        let serve = [
            "netns", "exec", "web", "busybox", "httpd", "-f", "-p", "80", "-h", &root,
        ];
        let _server = start(&pods, "ip", &serve);
        let url = format!("http://{}:18080", pods.outside.host_v4);
        let answers = |what: &str| {
            let page = wait::until(SOON, what, || pods.outside.fetch(&url).ok());
            assert_eq!(page.unwrap(), "here", "{what}");
        };
        answers("before firewalld");
        let _firewalld = Firewalld::start(&pods);
        let table = |name: &str| pods.host.output("nft", &["list", "table", "inet", name]);
        let ours = table("hawser").unwrap();
        let command = |arguments: &[&str]| pods.host.output("firewall-cmd", arguments).unwrap();
        // It refuses what is forwarded between zones, published ports as well: containers get a
        // zone that all others may send to, and ours judges what is for them.
        for words in [
            "--new-zone=hawser",
            "--zone=hawser --set-target=ACCEPT",
            "--zone=hawser --add-source=10.60.0.0/24",
            "--new-policy=to-hawser",
            "--policy=to-hawser --set-target=ACCEPT",
            "--policy=to-hawser --add-ingress-zone=ANY",
            "--policy=to-hawser --add-egress-zone=hawser",
        ] {
            let words: Vec<&str> = words.split(' ').collect();
            command(&[&["--permanent"], &words[..]].concat());
        }
        for how in ["--reload", "--complete-reload"] {
            command(&[how]);
            let theirs = table("firewalld").unwrap();
            wait::until(SOON, "nothing differs", || {
                let found = pods.daemon.run(&["doctor"]).ok()?;
                found.success().ok()
            })
            .unwrap();
            answers(how);
            let outside = pods.outside.v4.to_string();
            pods.inside("web", &["busybox", "ping", "-c1", "-W5", &outside]);
            assert_eq!(
                table("firewalld").unwrap(),
                theirs,
                "{how}: theirs is theirs"
            );
            let now = table("hawser").unwrap();
            assert_eq!(rules(&now), rules(&ours), "{how}: and ours is ours");
        }
        // What starting one over does to everybody's rules on some systems.
        pods.host.output("nft", &["flush", "ruleset"]).unwrap();
        wait::until(SOON, "our table is back", || {
            let now = table("hawser").ok()?;
            (rules(&now) == rules(&ours)).then_some(())
        })
        .unwrap();
        answers("after everything was flushed");
        list.check("web", &ports);
        list.del("web", &ports);
    }

    /// Without the counters.
    fn rules(table: &str) -> String {
        let mut words = table.split_ascii_whitespace();
        let mut kept = Vec::new();
        while let Some(word) = words.next() {
            kept.push(word);
            if matches!(word, "packets" | "bytes") {
                words.next();
            }
        }
        kept.join(" ")
    }
}
