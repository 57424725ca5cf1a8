//! Packets that somebody else crafted (scapy), sent to published ports from outside: what the
//! container's programs see of them, and what comes back.

#[cfg(test)]
mod root {
    use std::collections::BTreeMap;
    use std::fs::{self, File};
    use std::path::Path;
    use std::process::{Child, Command, Stdio};
    use std::time::Duration;

    use kernel_tests::{Shop, program, wait};
    use serde_json::{Value, json};

    const SERVER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scapy/server.py");
    const CLIENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scapy/client.py");
    /// Debian's: another one on the way does not have its packages.
    const PYTHON: &str = "/usr/bin/python3";
    const CLIENT_V4: &str = "198.19.0.9";
    const CLIENT_V6: &str = "fd99::9";
    /// scapy takes seconds to begin.
    const PATIENCE: Duration = Duration::from_secs(60);

    /// Ends with the test.
    struct Server {
        process: Child,
        seen: std::path::PathBuf,
    }

    impl Drop for Server {
        fn drop(&mut self) {
            drop(self.process.kill());
            drop(self.process.wait());
        }
    }

    impl Server {
        fn start(sandbox: &str, scratch: &Path) -> Self {
            let seen = scratch.join("seen");
            let mut server = Command::new("nsenter");
            server.args([&format!("--net={sandbox}"), PYTHON, SERVER]);
            server
                .stdin(Stdio::null())
                .stdout(File::create(&seen).unwrap());
            let server = Self {
                process: server.spawn().unwrap(),
                seen,
            };
            let is_ready = || (!server.seen().is_empty()).then_some(());
            wait::until(
                PATIENCE,
                "python3-scapy begins (`cargo xtask setup test`)",
                is_ready,
            )
            .unwrap();
            server
        }

        fn seen(&self) -> Vec<Value> {
            let text = fs::read_to_string(&self.seen).unwrap();
            lines(&text)
        }
    }

    fn lines(text: &str) -> Vec<Value> {
        let whole = text.rsplit_once('\n').map_or("", |(whole, _begun)| whole);
        let lines = whole.lines().map(serde_json::from_str::<Value>);
        lines.collect::<Result<_, _>>().unwrap()
    }

    /// A client beyond the host outside, which no kernel answers for; returns the host's link address.
    fn route_clients(shop: &Shop) -> String {
        let link = &shop.outside.interface;
        let addressed = |mut command: Command| -> String {
            let text = program::output(&mut command).unwrap();
            let links: Value = serde_json::from_str(&text).unwrap();
            links[0]["address"].as_str().unwrap().to_owned()
        };
        let mut there = shop.outside.command("ip");
        there.args(["-json", "link", "show", "eth0"]);
        let mut here = shop.host.command("ip");
        here.args(["-json", "link", "show", link]);
        let (there, here) = (addressed(there), addressed(here));
        for client in [CLIENT_V4, CLIENT_V6] {
            shop.host
                .output("ip", &["route", "add", client, "dev", link])
                .unwrap();
            let neighbour = ["neigh", "add", client, "lladdr", &there, "dev", link];
            shop.host.output("ip", &neighbour).unwrap();
        }
        here
    }

    #[test]
    fn what_scapy_sends_arrives_as_sent_and_what_comes_back_is_an_answer() {
        let shop = Shop::open();
        shop.type_("network create --ipv6 shop");
        let ports = "-p 8080:80 -p 8080:80/udp -p 9001:9000/sctp -p 9099:99/udp";
        shop.idle("web", &format!("--network shop {ports}"));
        let mac = route_clients(&shop);
        let sandbox = format!("/proc/{}/ns/net", shop.inspect("web", "{{.State.Pid}}"));
        // A kernel without SCTP would say so to the client.
        let silence = "add table inet t; add chain inet t input { type filter hook input priority 0; }; \
            add rule inet t input meta l4proto sctp drop";
        let mut nft = Command::new("nsenter");
        program::output(nft.args([&format!("--net={sandbox}"), "nft", silence])).unwrap();
        let scratch = tempfile::tempdir().unwrap();
        let server = Server::start(&sandbox, scratch.path());
        let (host_v4, host_v6) = (
            shop.outside.host_v4.to_string(),
            shop.outside.host_v6.to_string(),
        );
        let mut client = shop.outside.command(PYTHON);
        client.args([CLIENT, &mac, &host_v4, &host_v6, CLIENT_V4, CLIENT_V6]);
        let said = program::output(&mut client).unwrap();
        let said: BTreeMap<String, Value> = lines(&(said + "\n"))
            .into_iter()
            .map(|line| (line["case"].as_str().unwrap().to_owned(), line))
            .collect();
        assert_eq!(said.len(), 17, "{said:#?}");
        for (case, line) in &said {
            assert_eq!(line["answered"], true, "{line}");
            if case.starts_with("too big") {
                continue;
            }
            let host = if case.contains("v4") {
                &host_v4
            } else {
                &host_v6
            };
            // A datagram in pieces has several sources, which must be one.
            let source = match &line["source"] {
                Value::Array(sources) if sources.len() == 1 => &sources[0],
                source => source,
            };
            assert_eq!(source, host.as_str(), "{line}");
            match case.split(' ').next() {
                Some("sctp") => assert_eq!(
                    (&line["port"], &line["right"]),
                    (&9001.into(), &true.into()),
                    "{line}"
                ),
                Some("refused") => assert_eq!(line["about"], json!([host, 9099, true]), "{line}"),
                _ => assert_eq!(
                    (&line["port"], &line["same"]),
                    (&8080.into(), &true.into()),
                    "{line}"
                ),
            }
        }

        let seen = server.seen();
        let count = |protocol: &str| {
            seen.iter()
                .filter(|line| line["protocol"] == protocol)
                .count()
        };
        // A piece that comes twice is dropped, or makes the datagram one that comes twice.
        assert!(count("udp") >= 8 && count("tcp") == 3, "{seen:#?}");
        // INIT and DATA of both families; their checksums were those of other ports.
        let sctp: Vec<&Value> = seen
            .iter()
            .filter(|line| line["protocol"] == "sctp")
            .collect();
        assert_eq!(sctp.len(), 4, "{seen:#?}");
        assert!(sctp.iter().all(|line| line["right"] == true), "{seen:#?}");
        for line in seen.iter().filter(|line| line["protocol"] != "ready") {
            let source = line["source"].as_str().unwrap();
            assert!(
                [CLIENT_V4, CLIENT_V6].contains(&source),
                "the client's own: {line}"
            );
        }
        for client in [CLIENT_V4, CLIENT_V6] {
            let mut route = Command::new("nsenter");
            route.args([&format!("--net={sandbox}"), "ip", "route", "get", client]);
            let route = program::output(&mut route).unwrap();
            assert!(
                route.contains("mtu 1300"),
                "the router's word arrived: {route}"
            );
        }
    }
}
