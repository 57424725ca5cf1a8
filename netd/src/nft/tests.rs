use std::process::Command;

use api::id::IfName;
use ipnet::IpNet;
use sys::netns::NetNs;

use super::*;

fn link(name: &str) -> IfName {
    IfName::parse(name).unwrap()
}

fn filter() -> Filter {
    let subnets = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    Filter {
        bridges: [link("br-1"), link("br-2")].into(),
        same: [link("br-1")].into(),
        apart: [(link("br-1"), link("br-3"))].into(),
        internal: [link("br-2")].into(),
        // Adjacent: the end of one is the start of the next.
        masquerade: subnets(&["10.0.0.0/24", "10.0.1.0/24", "fd00::/64"]),
        guarded: subnets(&["10.0.0.0/24", "10.0.1.0/24", "10.9.0.0/16", "fd00::/64"]),
        routed: subnets(&["10.9.0.0/16", "fd00::/64"]),
    }
}

fn namespace() -> NetNs {
    NetNs::create().expect("root is needed to create a network namespace")
}

/// Runs nft(8), showing handles, in the calling thread's namespace.
fn nft(words: &str) -> String {
    let output = Command::new("nft").args(["-a", words]).output().unwrap();
    assert!(output.status.success(), "nft {words}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_kernel_keeps_what_was_written() {
    namespace()
        .run(|| {
            assert_eq!(read().unwrap(), None);
            write(&filter()).unwrap();
            assert_eq!(read().unwrap(), Some(filter()));
            // Again, and with other contents: replaced, not added to.
            write(&filter()).unwrap();
            write(&Filter::default()).unwrap();
            assert_eq!(read().unwrap(), Some(Filter::default()));
            remove().unwrap();
            remove().unwrap();
            assert_eq!(read().unwrap(), None);
        })
        .unwrap();
}

#[test]
fn a_network_that_comes_and_goes_touches_its_own_elements_only() {
    namespace()
        .run(|| {
            write(&filter()).unwrap();
            let before = nft("list table inet hawser");
            let mut more = filter();
            more.bridges.insert(link("br-3"));
            more.masquerade.insert("10.0.2.0/24".parse().unwrap());
            // A subnet that grows into what was another one.
            more.guarded
                .remove(&"10.0.1.0/24".parse::<IpNet>().unwrap());
            more.guarded.insert("10.0.1.0/25".parse().unwrap());
            write(&more).unwrap();
            assert_eq!(read().unwrap(), Some(more));
            write(&filter()).unwrap();
            // Handles are never given out again: nothing was made anew.
            assert_eq!(nft("list table inet hawser"), before);
        })
        .unwrap();
}

#[test]
fn people_can_read_the_table() {
    namespace()
        .run(|| {
            write(&filter()).unwrap();
            let text = nft("list table inet hawser");
            for part in [
                "type filter hook prerouting priority",
                "meta mark & 0x00001000 != 0x00000000 accept comment \"published ports\"",
                "ct state established,related accept comment \"replies\"",
                "fib daddr type local accept",
                "ip daddr @routed4 icmp type echo-request accept comment",
                "ip6 daddr @routed6 icmpv6 type echo-request accept comment",
                "ip daddr @guarded4 counter packets 0 bytes 0 drop comment \"unpublished ports\"",
                "iifname . oifname @same accept comment \"within a network\"",
                "elements = { \"br-1\" . \"br-1\" }",
                "elements = { \"br-1\" . \"br-3\" }",
                "iifname @spread iifname . fib daddr oifname @apart notrack comment",
                "iifname . oifname @apart accept comment \"between subnets of a network\"",
                "10.9.0.0/16",
                "ip6 saddr @sources6 masquerade comment \"to the outside\"",
            ] {
                assert!(text.contains(part), "no {part} in {text}");
            }
        })
        .unwrap();
}

#[test]
fn every_change_of_the_rules_is_seen_and_undone_in_our_table_alone() {
    namespace()
        .run(|| {
            nft("add table inet other");
            nft("add chain inet other forward { type filter hook forward priority 5; policy drop; }");
            nft("add rule inet other forward accept");
            let others = nft("list table inet other");
            let damages = [
                "flush table inet hawser",
                "flush chain inet hawser forward",
                "delete table inet hawser",
                "add rule inet hawser forward accept",
                "insert rule inet hawser prerouting accept",
                "add chain inet hawser forward { policy drop; }",
                "add chain inet hawser more { type filter hook input priority 0; }",
                "add table inet hawser { flags dormant; }",
            ];
            for damage in damages {
                write(&filter()).unwrap();
                nft(damage);
                assert_eq!(read().unwrap(), None, "{damage}");
                write(&filter()).unwrap();
                assert_eq!(read().unwrap(), Some(filter()), "{damage}");
            }
            for set in ["bridges", "spread"] {
                nft(&format!("delete element inet hawser {set} {{ \"br-1\" }}"));
                assert_ne!(read().unwrap(), Some(filter()));
                write(&filter()).unwrap();
                assert_eq!(read().unwrap(), Some(filter()));
            }
            assert_eq!(nft("list table inet other"), others);
        })
        .unwrap();
}

#[test]
fn changes_by_others_are_heard_and_own_ones_are_not() {
    let own = |thread: u32| std::path::Path::new(&format!("/proc/self/task/{thread}")).exists();
    namespace()
        .run(|| {
            let socket = subscribe().unwrap();
            let heard = || {
                let (mut heard, mut transactions) = (Heard::default(), Transactions::default());
                // The kernel queues notifications before it answers the transaction.
                while let Ok((datagram, _)) = socket.recv_from_full() {
                    transactions.note(&datagram, own, &mut heard);
                }
                heard
            };
            let (others, ours) = (
                Heard {
                    any: true,
                    ours: false,
                },
                Heard {
                    any: true,
                    ours: true,
                },
            );
            write(&filter()).unwrap();
            assert_eq!(heard(), Heard::default(), "our own change");
            nft("add table inet other");
            assert_eq!(heard(), others, "somebody else's table");
            nft("add element inet hawser bridges { \"x\" }");
            assert_eq!(heard(), ours, "an element");
            nft("flush ruleset");
            assert_eq!(heard(), ours, "the table");
            assert_eq!(heard(), Heard::default(), "once");
        })
        .unwrap();
}

#[test]
fn a_thousand_networks_fit_one_transaction() {
    let mut filter = Filter::default();
    for n in 0..1000u32 {
        let link = link(&format!("br-{n}"));
        filter.same.insert(link.clone());
        filter.bridges.insert(link);
        let subnet = std::net::Ipv4Addr::from_bits(0x0a00_0000 | n << 8);
        filter
            .masquerade
            .insert(IpNet::new(subnet.into(), 24).unwrap());
    }
    namespace()
        .run(|| {
            write(&filter).unwrap();
            assert_eq!(read().unwrap(), Some(filter.clone()));
        })
        .unwrap();
}
