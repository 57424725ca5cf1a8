//! Networks of several subnets: a segment each, and the nodes route between them.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::path::Path;
use std::process::Command;

use api::ApiError;
use api::net::Attachment;

use super::nodes::{Node, Nodes};
use super::{addresses, lookup_in, talks};
use crate::world::{PATIENCE, Sandbox, ip, soon};

const PROD: &str = r#"{"Name":"prod","Driver":"overlay","Attachable":true,"EnableIPv6":true,
    "IPAM":{"Config":[{"Subnet":"10.1.1.0/24"},{"Subnet":"11.1.1.0/24","Gateway":"11.1.1.254"}]},
    "Options":{"com.docker.network.driver.overlay.vxlanid_list":"7001,7002"}}"#;

fn attach_at(node: &Node, sandbox: &Sandbox, address: Ipv4Addr) -> Attachment {
    let mut request = sandbox.request("prod");
    request.ipv4 = Some(address);
    let attached = node.try_attach(request);
    attached.unwrap_or_else(|error| panic!("{error}"))
}

/// Whether a datagram that lives for so many hops arrives.
fn arrives(from: &Sandbox, to: &Sandbox, at: IpAddr, hops: u32) -> bool {
    let server = to.run(|| UdpSocket::bind((at, 0)).unwrap());
    server.set_read_timeout(Some(PATIENCE / 40)).unwrap();
    let back = server.local_addr().unwrap();
    from.run(|| {
        let client = UdpSocket::bind("0.0.0.0:0").unwrap();
        client.set_ttl(hops).unwrap();
        client.send_to(b"?", back).unwrap();
    });
    server.recv(&mut [0; 9]).is_ok()
}

fn refusal(nodes: &Nodes, json: &str) -> String {
    let request = serde_json::from_str(json).unwrap();
    let refused = nodes[0].run(|| nodes[0].netd().create_network(request));
    ApiError::from(refused.unwrap_err()).message
}

#[test]
fn subnets_are_segments_and_nodes_route_between_them() {
    let nodes = Nodes::new("segments", 2);
    nodes[0].create(PROD);
    let [web, api, db, cache] = ["web", "api", "db", "cache"].map(Sandbox::new);
    let web_at = nodes[0].attach(&web, "prod");
    assert_eq!(addresses(&web_at)[0].to_string(), "10.1.1.2");
    let api_at = nodes[1].attach(&api, "prod");
    let db_at = attach_at(&nodes[1], &db, [11, 1, 1, 5].into());
    let cache_at = attach_at(&nodes[0], &cache, [11, 1, 1, 6].into());
    for node in &nodes.nodes {
        soon("both others are known", || node.leads().len() == 8);
        let shown = node.run(|| ip("-d link show type vxlan"));
        assert!(
            shown.contains("vxlan id 7001 ") && shown.contains("vxlan id 7002 "),
            "{shown}"
        );
    }
    // Of each: the same segment, the other one on the same node, and the other one on another node.
    let all = [
        (&web, &web_at),
        (&api, &api_at),
        (&db, &db_at),
        (&cache, &cache_at),
    ];
    let check_all = || {
        for (from, _) in all {
            for (to, at) in all {
                for at in addresses(at) {
                    assert!(talks(from, to, at), "to {at}");
                }
            }
        }
    };
    check_all();
    assert!(arrives(&web, &api, addresses(&api_at)[0], 1));
    for (to, at) in [(&db, &db_at), (&cache, &cache_at)] {
        assert!(!arrives(&web, to, addresses(at)[0], 1));
        assert!(arrives(&web, to, addresses(at)[0], 2));
    }
    assert_eq!(lookup_in(&web, "db"), addresses(&db_at)[..1]);
    assert_eq!(lookup_in(&db, "web.prod"), addresses(&web_at)[..1]);
    for node in &nodes.nodes {
        assert_eq!(node.reconcile(), netd::Report::default());
    }
    for port in nodes[0].ports() {
        nodes[0].run(|| ip(&format!("link del {port}")));
    }
    assert!(nodes[0].reconcile().repaired > 0);
    assert_eq!(nodes[0].leads().len(), 8);
    // Where bridges do not ask the packet filter, a node routes what goes to another segment, and sees
    // no answer to it.
    for node in &nodes.nodes {
        node.run(|| {
            for family in ["ip", "ip6"] {
                let asks = format!("/proc/sys/net/bridge/bridge-nf-call-{family}tables");
                if Path::new(&asks).exists() {
                    std::fs::write(asks, "0").unwrap();
                }
            }
        });
        let rules = "table inet firewall { chain forward { type filter hook forward priority 0; \
                     ct state established,related accept; ct state invalid drop; }; }";
        let done = node.run(|| Command::new("nft").arg(rules).status());
        assert!(done.unwrap().success());
    }
    check_all();
    for (at, sandbox) in [(0, &web), (0, &cache), (1, &api), (1, &db)] {
        nodes[at].detach(sandbox);
    }
    for node in &nodes.nodes {
        assert!(node.ports().is_empty());
        let left = node.run(|| ip("-o link show type bridge"));
        assert!(!left.contains("br-"), "{left}");
    }
    nodes[0].remove("prod").unwrap();
}

#[test]
fn numbers_of_segments_are_somebodys_once() {
    let nodes = Nodes::new("numbers", 1);
    nodes[0].create(PROD);
    let with = |vnis: &str| {
        let subnets = r#"{"Subnet":"10.2.1.0/24"},{"Subnet":"10.2.2.0/24"}"#;
        let key = "com.docker.network.driver.overlay.vxlanid_list";
        refusal(
            &nodes,
            &format!(
                r#"{{"Name":"b","Driver":"overlay","IPAM":{{"Config":[{subnets}]}},"Options":{{"{key}":"{vnis}"}}}}"#
            ),
        )
    };
    for (vnis, message) in [
        (
            "7003,7002",
            "VXLAN network number 7002 is that of another network already: choose another one",
        ),
        (
            "7003,7003",
            "VXLAN network number 7003 is given twice: each subnet has one of its own",
        ),
        (
            "7003",
            "1 VXLAN network numbers for 2 subnets: give one for each",
        ),
        (
            "7003,16777216",
            "expected numbers from 1 to 15728639, separated by commas",
        ),
    ] {
        let refused = with(vnis);
        assert!(refused.contains(message), "{refused}");
    }
    let unpaired = r#"{"Name":"b","Driver":"overlay","IPAM":{"Config":[{"Subnet":"10.2.1.0/24"},
        {"Subnet":"10.2.2.0/24"},{"Subnet":"fd02::/64"}]}}"#;
    assert!(refusal(&nodes, unpaired).contains("2 subnets of IPv4 and 1 of IPv6"));
    let web = Sandbox::new("web");
    let mut request = web.request("prod");
    request.ipv4 = Some([10, 1, 1, 9].into());
    let second = nodes[0].overlays()[0].ipam.config[3].subnet.unwrap();
    let IpAddr::V6(of_second) = second.hosts().nth(9).unwrap() else {
        panic!("{second}");
    };
    request.ipv6 = Some(of_second);
    let refused = nodes[0].try_attach(request).unwrap_err().to_string();
    assert!(
        refused.contains("are of different segments of network prod"),
        "{refused}"
    );
}
