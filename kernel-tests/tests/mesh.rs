//! Services of several hosts: a port that every host answers at, wherever its members are.

#[cfg(test)]
mod root {
    use std::net::UdpSocket;
    use std::path::Path;
    use std::thread::{self, JoinHandle};
    use std::time::Duration;

    use anyhow::{Result, ensure};
    use kernel_tests::cluster::{LEASE, address, address_v6};
    use kernel_tests::shop::{pages, set};
    use kernel_tests::{Cluster, Shop, outside};
    use sys::netns::NetNs;

    fn url(node: u8) -> String {
        format!("http://{}:8080", address(node))
    }

    /// What the router, a client of all, gets from a node's port.
    fn from_router(cluster: &Cluster, node: u8) -> Result<String> {
        outside::fetch_on(&cluster.router, &url(node))
    }

    /// What `node ls` says of each.
    fn nodes_of(shop: &Shop, format: &str) -> Result<Vec<String>> {
        let found = shop.daemon.hawser(&["node", "ls", "--format", format])?;
        Ok(found.lines().map(|line| line.trim().to_owned()).collect())
    }

    #[track_caller]
    fn becomes(shop: &Shop, what: &str, expected: &[&str], fetch: impl Fn() -> Result<String>) {
        shop.soon(what, || {
            let found = pages(&fetch);
            ensure!(found == set(expected), "{found:?}");
            Ok(())
        });
    }

    #[test]
    fn a_port_is_answered_by_every_node_with_the_clients_own_address() {
        let mut cluster = Cluster::new(3).unwrap().joined(1).unwrap();
        let [first, second, third] = [1, 2, 3].map(|number| cluster.node(number));
        // As distributions set it that know of no host that is its own neighbour.
        for node in [first, second, third] {
            let strict = "echo 1 >/proc/sys/net/ipv4/conf/all/rp_filter";
            node.host.output("sh", &["-c", strict]).unwrap();
        }
        let networks = first.hawser(&["network", "ls", "--format", "{{.Name}} {{.Driver}}"]);
        assert!(networks.contains("ingress overlay"), "{networks}");
        second.refuses("service create --name web -p 8080:80", 1, "run it on n1");
        let id = first.type_("service create --name web -p 8080:80");
        assert_eq!(id.trim().len(), 25, "{id}");
        third.soon("it is heard of", || {
            third.daemon.hawser(&["service", "inspect", "web"])
        });
        third.serve("c3", "third", &["--service", "web"]);

        // Nodes without a member lead there, and the server sees who asked.
        for node in [1, 2, 3] {
            becomes(first, "it answers", &["third"], || {
                from_router(&cluster, node)
            });
        }
        let log = third.run(&["logs", "c3"]).text();
        for client in ["172.31.1.1", "172.31.2.1", "172.31.3.1"] {
            assert!(log.contains(&format!("{client}]:")), "no {client}: {log}");
        }

        // The nodes themselves, by whichever address, and their containers are clients, too.
        // The one that has the member asks another, which leads back to it.
        for node in [first, third] {
            for target in [url(1), url(2), url(3), "http://127.0.0.1:8080".to_owned()] {
                becomes(node, &target, &["third"], || node.fetch_on_host(&target));
            }
        }
        for node in [first, third] {
            node.idle("client", "");
            let inside = || {
                let words = ["exec", "client", "fetch", "172.31.1.5", "8080"];
                Ok(node.daemon.hawser(&words)?.trim().to_owned())
            };
            becomes(node, "from a container", &["third"], inside);
        }

        // A member that comes is used by all, one that goes is not.
        second.serve("c2", "second", &["--service", "web"]);
        for node in [1, 2, 3] {
            becomes(first, "both answer", &["second", "third"], || {
                from_router(&cluster, node)
            });
        }
        let members = first.hawser(&["service", "ps", "--format", "{{.Name}}", "web"]);
        assert_eq!(members.lines().count(), 2, "{members}");
        third.type_("rm -f c3");
        for node in [1, 2, 3] {
            becomes(first, "one answers", &["second"], || {
                from_router(&cluster, node)
            });
        }

        // Without etcd, and after a restart, everything leads where it led.
        cluster.etcd.as_mut().unwrap().stop().unwrap();
        for node in &mut cluster.nodes {
            node.daemon.kill().unwrap();
            node.daemon.launch().unwrap();
        }
        let first = cluster.node(1);
        for node in [1, 2, 3] {
            becomes(first, "it still answers", &["second"], || {
                from_router(&cluster, node)
            });
        }
        cluster.etcd.as_mut().unwrap().launch().unwrap();
        let first = cluster.node(1);
        first.soon("it is removed", || {
            first.daemon.hawser(&["service", "rm", "web"])
        });
        for node in [1, 2, 3] {
            first.soon("nobody answers", || match from_router(&cluster, node) {
                Ok(page) => Err(anyhow::anyhow!("{page}")),
                Err(_refused) => Ok(()),
            });
        }
    }

    /// Tells whoever sends a datagram to port 53 of a container who that is, until it is dropped.
    struct Mirror {
        namespace: NetNs,
        thread: Option<JoinHandle<()>>,
    }

    impl Mirror {
        fn start(shop: &Shop, container: &str) -> Self {
            let pid = shop.inspect(container, "{{.State.Pid}}");
            let namespace = network_of(pid.trim()).unwrap();
            let socket = namespace.run(|| UdpSocket::bind("[::]:53"));
            let socket = socket.unwrap().unwrap();
            let thread = thread::spawn(move || {
                while let Ok((1.., asker)) = socket.recv_from(&mut [0; 16]) {
                    let who = asker.ip().to_string();
                    socket.send_to(who.as_bytes(), asker).unwrap();
                }
            });
            Self {
                namespace,
                thread: Some(thread),
            }
        }
    }

    impl Drop for Mirror {
        fn drop(&mut self) {
            // An empty datagram is its end.
            let end = || UdpSocket::bind("[::]:0")?.send_to(&[], "[::1]:53");
            drop(self.namespace.run(end));
            drop(self.thread.take().map(JoinHandle::join));
        }
    }

    fn network_of(pid: &str) -> Result<NetNs> {
        Ok(NetNs::open(Path::new(&format!("/proc/{pid}/ns/net")))?)
    }

    /// Whom a server takes the router for, which asks at a node's UDP port.
    fn asked(cluster: &Cluster, node: u8) -> Result<String> {
        let router = network_of(&cluster.router.pid().to_string())?;
        let ask = || -> std::io::Result<String> {
            let socket = UdpSocket::bind("[::]:0")?;
            socket.set_read_timeout(Some(Duration::from_secs(1)))?;
            socket.send_to(b"who", (address_v6(node), 8053))?;
            let mut said = [0; 64];
            let (length, _) = socket.recv_from(&mut said)?;
            Ok(String::from_utf8_lossy(&said[..length]).into_owned())
        };
        Ok(router.run(ask)??)
    }

    #[test]
    fn hosts_that_have_ipv6_alone_are_a_cluster_whose_ports_answer() {
        let cluster = Cluster::without_etcd(3).unwrap();
        for shop in &cluster.nodes {
            let flush = ["-4", "address", "flush", "dev", "eth0"];
            shop.host.output("ip", &flush).unwrap();
        }
        let [first, second, third] = [1, 2, 3].map(|number| cluster.node(number));
        let [at_first, at_second] = [1, 2].map(address_v6);
        first.type_(&format!(
            "swarm init --advertise-addr {at_first} --node-lease {LEASE}s"
        ));
        for (shop, role) in [(second, "manager"), (third, "worker")] {
            let token = first.type_(&format!("swarm join-token -q {role}"));
            let token = token.trim();
            shop.type_(&format!("swarm join --token {token} [{at_first}]:2377"));
        }
        let format = "{{.Hostname}} {{.Status}} {{.ManagerStatus}}";
        first.soon("all are there", || {
            let found = nodes_of(first, format)?;
            ensure!(found == ["n1 Ready Leader", "n2 Ready Reachable", "n3 Ready"]);
            Ok(())
        });

        first.type_("network create -d overlay --attachable --ipv6 net");
        third.idle("c3", "--network net");
        second.idle("c2", "--network net");
        let families =
            "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{.GlobalIPv6Address}}{{end}}";
        for target in third
            .inspect("c3", families)
            .split_whitespace()
            .chain(["c3"])
        {
            second.soon("it is reached", || {
                second
                    .daemon
                    .hawser(&["exec", "c2", "ping", "-c1", "-W1", target])
            });
        }

        first.type_("service create --name web -p 8080:80");
        first.type_("service create --name dns -p 8053:53/udp");
        third.soon("both are heard of", || {
            third.daemon.hawser(&["service", "inspect", "web", "dns"])
        });
        third.serve("web3", "third", &["--service", "web"]);
        third.idle("dns3", "--service dns");
        let _mirror = Mirror::start(third, "dns3");
        for node in [1, 2, 3] {
            let url = format!("http://[{}]:8080", address_v6(node));
            becomes(first, "it answers", &["third"], || {
                outside::fetch_on(&cluster.router, &url)
            });
            first.soon("it answers", || {
                let said = asked(&cluster, node)?;
                ensure!(said == format!("fd31:{node}::1"), "{said}");
                Ok(())
            });
        }
        let log = third.run(&["logs", "web3"]).text();
        for client in ["fd31:1::1", "fd31:2::1", "fd31:3::1"] {
            assert!(log.contains(&format!("[{client}]:")), "no {client}: {log}");
        }
        // The host itself, and the one that has the member by another that leads back to it.
        for (node, at) in [(second, at_second), (third, at_first)] {
            becomes(node, "the host", &["third"], || {
                node.fetch_on_host(&format!("http://[{at}]:8080"))
            });
        }
    }

    #[test]
    fn a_services_own_address_leads_to_members_on_all_nodes() {
        let cluster = Cluster::new(2).unwrap().joined(2).unwrap();
        let [first, second] = [1, 2].map(|number| cluster.node(number));
        first.type_("network create -d overlay --attachable shop");
        first.type_("service create --name web --network shop");
        second.soon("it is heard of", || {
            second.daemon.hawser(&["service", "inspect", "web"])
        });
        first.serve("c1", "first", &["--service", "web"]);
        second.serve("c2", "second", &["--service", "web"]);
        for shop in [first, second] {
            shop.idle("client", "--network shop");
            let fetch = || {
                let page = shop.daemon.hawser(&["exec", "client", "fetch", "web"])?;
                Ok(page.trim().to_owned())
            };
            becomes(shop, "both answer", &["first", "second"], fetch);
            let names = shop.inside("client", "nslookup tasks.web");
            for address in [first.address("c1", "shop"), second.address("c2", "shop")] {
                assert!(names.contains(&address), "{names}");
            }
        }
    }
}
