//! Endpoints that come and go on five hosts, on two links with a router between them and with clocks
//! that differ, while daemons are killed, a host is cut off and the control plane is away: afterwards
//! every kernel knows who is where, and nothing else.

#[cfg(test)]
mod root {
    use std::collections::{BTreeMap, BTreeSet};
    use std::net::{IpAddr, Ipv4Addr};
    use std::os::fd::{AsFd, AsRawFd};
    use std::time::{Duration, Instant};

    use anyhow::{Context, Result, ensure};
    use api::net::{AttachRequest, Attachment};
    use api::path;
    use kernel_tests::cluster::address;
    use kernel_tests::{Cluster, Dice, Shop};
    use serde_json::{Value, json};
    use sys::netns::NetNs;

    const STEPS: usize = 200;
    /// How many there are at a time, about.
    const CROWD: usize = 30;
    /// How many seconds the clock of each node is ahead: certificates allow for an hour between two.
    const CLOCKS: [i64; 5] = [0, 1500, 0, -1500, 0];
    const NODES: u64 = CLOCKS.len() as u64;

    /// A link address and where frames to it are sent.
    type Fdb = BTreeSet<(String, String)>;

    struct Endpoint {
        node: u8,
        attachment: Attachment,
        _sandbox: NetNs,
    }

    impl Endpoint {
        fn v4(&self) -> Ipv4Addr {
            let own = self
                .attachment
                .addresses
                .iter()
                .map(|own| own.address.addr());
            let mut v4 = own.filter_map(|address| match address {
                IpAddr::V4(v4) => Some(v4),
                IpAddr::V6(_) => None,
            });
            v4.next().expect("it has an address")
        }
    }

    /// Who is where.
    struct Town {
        cluster: Cluster,
        endpoints: BTreeMap<String, Endpoint>,
        made: usize,
    }

    impl Town {
        fn attach(&mut self, node: u8, v4: Option<Ipv4Addr>) -> Result<()> {
            self.made += 1;
            let name = format!("c{}", self.made);
            let sandbox = NetNs::create().expect("root is needed");
            let netns = format!(
                "/proc/{}/fd/{}",
                std::process::id(),
                sandbox.as_fd().as_raw_fd()
            );
            let request: AttachRequest = serde_json::from_value(json!({
                "network": "net", "container_id": name, "ifname": "eth0", "netns": netns,
                "name": name, "ipv4": v4,
            }))?;
            let client = self.cluster.node(node).daemon.client();
            let attachment: Attachment = client.post(path::ENDPOINTS, &request)?;
            let known = self.endpoints.values().find(|other| Some(other.v4()) == v4);
            assert!(known.is_none(), "{v4:?} is had twice");
            let endpoint = Endpoint {
                node,
                attachment,
                _sandbox: sandbox,
            };
            let taken = self
                .endpoints
                .values()
                .any(|other| other.v4() == endpoint.v4());
            assert!(!taken, "{} is had twice", endpoint.v4());
            self.endpoints.insert(name, endpoint);
            Ok(())
        }

        fn detach(&mut self, name: &str) -> Endpoint {
            let gone = self.endpoints.remove(name).expect("it is there");
            let client = self.cluster.node(gone.node).daemon.client();
            let route = format!("{}/{name}/eth0", path::ENDPOINTS);
            client.delete(&route).expect("it is detached");
            gone
        }

        /// One of those on a node, or of all.
        fn some(&self, dice: &mut Dice, node: Option<u8>) -> Option<String> {
            let fits = |endpoint: &Endpoint| node.is_none_or(|node| endpoint.node == node);
            let names = self.endpoints.iter().filter(|(_, e)| fits(e));
            let names: Vec<&String> = names.map(|(name, _)| name).collect();
            let at = dice.roll(names.len().max(1) as u64) as usize;
            names.get(at).map(|name| (*name).clone())
        }

        /// What a node's kernel should know of the others.
        fn expected(&self, node: u8) -> Fdb {
            if self
                .endpoints
                .values()
                .all(|endpoint| endpoint.node != node)
            {
                return Fdb::new();
            }
            let others = self.endpoints.values().filter(|other| other.node != node);
            let entry = |other: &Endpoint| {
                let host = address(other.node).to_string();
                let mac = other.attachment.mac.expect("it has a link address");
                (mac.to_string(), host)
            };
            others.map(entry).collect()
        }

        fn differences(&self) -> Result<()> {
            for node in 1..=NODES as u8 {
                let (found, expected) = (fdb(self.cluster.node(node))?, self.expected(node));
                let differs: Vec<_> = found.symmetric_difference(&expected).collect();
                ensure!(differs.is_empty(), "node {node}: {differs:?}");
            }
            Ok(())
        }

        /// Every kernel knows who is where, and every daemon finds nothing to repair.
        #[track_caller]
        fn converges(&self, after: &str) -> Duration {
            let begin = Instant::now();
            let first = self.cluster.node(1);
            first.soon(after, || self.differences());
            let took = begin.elapsed();
            for shop in &self.cluster.nodes {
                shop.soon(after, || {
                    let diagnosis = shop.run(&["doctor"]);
                    ensure!(diagnosis.code == 0, "{diagnosis:?}");
                    Ok(())
                });
            }
            self.differences().expect(after);
            took
        }
    }

    /// What a node's tunnels of networks know.
    fn fdb(shop: &Shop) -> Result<Fdb> {
        let links = shop
            .host
            .output("ip", &["-j", "link", "show", "type", "vxlan"])?;
        let links: Value = serde_json::from_str(&links).context(links)?;
        let names = links.as_array().into_iter().flatten();
        let names = names.filter_map(|link| link["ifname"].as_str());
        let mut all = Fdb::new();
        for name in names.filter(|name| *name != "vx-mesh") {
            let dump = shop
                .host
                .output("bridge", &["-j", "fdb", "show", "dev", name])?;
            let dump: Value = serde_json::from_str(&dump).context(dump)?;
            for entry in dump.as_array().into_iter().flatten() {
                if let (Some(mac), Some(dst)) = (entry["mac"].as_str(), entry["dst"].as_str()) {
                    all.insert((mac.to_owned(), dst.to_owned()));
                }
            }
        }
        Ok(all)
    }

    #[test]
    fn whatever_happens_everybody_knows_who_is_where() {
        let cluster = Cluster::with_clocks(&CLOCKS).unwrap();
        cluster.share_link(&[1, 2]).unwrap();
        cluster.share_link(&[3, 4, 5]).unwrap();
        let cluster = cluster.joined(1).unwrap();
        let create = "network create -d overlay --attachable --ipv6 net";
        cluster.node(1).type_(create);
        let mut town = Town {
            cluster,
            endpoints: BTreeMap::new(),
            made: 0,
        };
        let mut dice = Dice::new(7);
        let mut times = Vec::new();
        for step in 0..STEPS {
            let node = 1 + dice.roll(NODES) as u8;
            match dice.roll(4) {
                // Elsewhere with the same address.
                0 if !town.endpoints.is_empty() => {
                    let name = town.some(&mut dice, None).unwrap();
                    let v4 = town.detach(&name).v4();
                    town.attach(node, Some(v4)).unwrap();
                }
                1 if town.endpoints.len() > CROWD => {
                    let name = town.some(&mut dice, None).unwrap();
                    town.detach(&name);
                }
                _ if town.endpoints.len() < 2 * CROWD => town.attach(node, None).unwrap(),
                _ => {
                    let name = town.some(&mut dice, None).unwrap();
                    town.detach(&name);
                }
            }
            if step % 50 == 49 {
                times.push(town.converges("after some steps"));
                let daemon = &mut town.cluster.nodes[usize::from(node) - 1].daemon;
                daemon.kill().unwrap();
                daemon.launch().unwrap();
            }
        }

        // A node is cut off: the others forget what it has, and know it again.
        let cut = |town: &Town, state: &str| {
            let words = ["link", "set", "n2", state];
            town.cluster.router.output("ip", &words).unwrap();
        };
        while town.some(&mut dice, Some(2)).is_none() || town.endpoints.len() < 4 {
            town.attach(2, None).unwrap();
        }
        town.converges("before the cut");
        cut(&town, "down");
        let first = town.cluster.node(1);
        first.soon("what is cut off is forgotten", || {
            let gone = address(2).to_string();
            let found = fdb(first)?;
            ensure!(found.iter().all(|(_, host)| *host != gone), "{found:?}");
            Ok(())
        });
        let known = fdb(town.cluster.node(2)).unwrap();
        assert_eq!(known, town.expected(2), "it goes on with what it knows");
        town.attach(2, None).unwrap_err();
        let name = town.some(&mut dice, Some(2)).unwrap();
        town.detach(&name);
        town.attach(3, None).unwrap();
        cut(&town, "up");
        times.push(town.converges("when it is back"));

        // The control plane is away while some end.
        town.cluster.etcd.as_mut().unwrap().stop().unwrap();
        for node in [1, 3] {
            if let Some(name) = town.some(&mut dice, Some(node)) {
                town.detach(&name);
            }
        }
        town.cluster.etcd.as_mut().unwrap().launch().unwrap();
        times.push(town.converges("when it answers again"));

        let names: Vec<String> = town.endpoints.keys().cloned().collect();
        names.iter().for_each(|name| drop(town.detach(name)));
        town.converges("when all are gone");
        let first = town.cluster.node(1);
        first.soon("no address is left", || {
            first.daemon.hawser(&["network", "rm", "net"])
        });
        println!("everybody knew after {times:?}");
    }
}
