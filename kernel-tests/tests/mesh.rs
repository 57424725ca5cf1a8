//! Services of several hosts: a port that every host answers at, wherever its members are.

#[cfg(test)]
mod root {
    use anyhow::{Result, ensure};
    use kernel_tests::cluster::address;
    use kernel_tests::shop::{pages, set};
    use kernel_tests::{Cluster, Shop, outside};

    fn url(node: u8) -> String {
        format!("http://{}:8080", address(node))
    }

    /// What the router, a client of all, gets from a node's port.
    fn from_router(cluster: &Cluster, node: u8) -> Result<String> {
        outside::fetch_on(&cluster.router, &url(node))
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
        for target in [url(1), url(2), url(3), "http://127.0.0.1:8080".to_owned()] {
            becomes(first, &target, &["third"], || first.fetch_on_host(&target));
        }
        first.idle("client", "");
        let inside = || {
            let words = ["exec", "client", "fetch", "172.31.1.5", "8080"];
            Ok(first.daemon.hawser(&words)?.trim().to_owned())
        };
        becomes(first, "from a container", &["third"], inside);

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
