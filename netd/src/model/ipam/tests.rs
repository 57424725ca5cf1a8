//! The rules of the module, one by one and against a model that is too simple to be wrong.

use super::*;
use proptest::prelude::*;

fn taken(range: &str, by: TakenBy) -> Taken {
    Taken {
        range: range.parse().unwrap(),
        by,
    }
}

fn by_network(range: &str) -> Taken {
    taken(range, TakenBy::Network("n1".into()))
}

fn network() -> Id {
    Id::from_bytes([7; 32])
}

fn subnet(text: &str) -> Subnet {
    Subnet::of(text.parse().unwrap()).unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn the_first_clear_pool_is_chosen() {
    let pools = Pool::defaults();
    let check = |taken: &[Taken], expected: &str| {
        let chosen = choose_subnet(&pools, false, taken).unwrap();
        assert_eq!(chosen.to_string(), expected);
    };
    check(&[], "172.17.0.0/16");
    check(&[by_network("172.17.0.0/16")], "172.18.0.0/16");
    // A host route that is wider or narrower than the candidate counts alike.
    check(&[by_network("172.16.0.0/14")], "172.20.0.0/16");
    check(&[by_network("172.17.255.0/24")], "172.18.0.0/16");
    check(&[by_network("172.16.0.0/12")], "192.168.0.0/20");
    check(
        &[by_network("172.16.0.0/12"), by_network("192.168.1.0/24")],
        "192.168.16.0/20",
    );
}

#[test]
fn a_clash_with_a_wide_range_is_one_step() {
    // 2^56 candidates lie in the taken range.
    let pool = Pool {
        base: "fc00::/7".parse().unwrap(),
        size: 64,
    };
    let chosen = choose_subnet(&[pool], true, &[by_network("fc00::/8")]).unwrap();
    assert_eq!(chosen.to_string(), "fd00::/64");
    let error = choose_subnet(&[pool], true, &[by_network("fc00::/6")]).unwrap_err();
    assert!(matches!(error, IpamError::NoFreeSubnet { .. }), "{error}");
    let whole = Pool {
        base: "::/0".parse().unwrap(),
        size: 0,
    };
    let error = choose_subnet(&[whole], true, &[by_network("fd00::/8")]).unwrap_err();
    assert!(matches!(error, IpamError::NoFreeSubnet { .. }), "{error}");
}

#[test]
fn a_pool_smaller_than_its_subnets_is_one_subnet() {
    let pool = Pool {
        base: "10.0.0.0/24".parse().unwrap(),
        size: 16,
    };
    let chosen = choose_subnet(&[pool], false, &[]).unwrap();
    assert_eq!(chosen.to_string(), "10.0.0.0/24");
}

#[test]
fn exhausted_pools_name_the_last_clash() {
    let everything = [
        by_network("172.16.0.0/12"),
        taken("192.168.0.0/16", TakenBy::Route("tun0".into())),
    ];
    let error = choose_subnet(&Pool::defaults(), false, &everything).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("overlaps the host's route 192.168.0.0/16 dev tun0"),
        "{error}"
    );
    let error = choose_subnet(&Pool::defaults(), true, &[]).unwrap_err();
    assert_eq!(error, IpamError::NoPool { family: "IPv6" });
}

#[test]
fn an_overlap_names_both_sides() {
    let network = [taken("10.1.0.0/16", TakenBy::Network("shop".into()))];
    let error = check_clear("10.1.2.0/24".parse().unwrap(), &network).unwrap_err();
    assert_eq!(
        error.to_string(),
        "subnet 10.1.2.0/24 overlaps network shop (10.1.0.0/16): choose another --subnet"
    );
}

/// Gives out `count` addresses that nobody keeps.
fn give(walks: &mut Walks, subnet: &Subnet, count: usize) -> Vec<String> {
    let mut given = Vec::new();
    for _ in 0..count {
        let address = walks.next(&network(), subnet, |_| false).unwrap();
        walks.given(&network(), subnet.subnet, address);
        given.push(address.to_string());
    }
    given
}

#[test]
fn addresses_ascend_and_wrap_past_the_reserved_ones() {
    let mut subnet = subnet("10.0.0.0/29");
    subnet.auxiliary.insert("router".into(), ip("10.0.0.4"));
    // .0 is the network, .1 the gateway, .4 the router, .7 the broadcast address.
    let expected = ["2", "3", "5", "6", "2", "3"].map(|end| format!("10.0.0.{end}"));
    assert_eq!(give(&mut Walks::default(), &subnet, 6), expected);
}

#[test]
fn an_ip_range_limits_what_is_given_out() {
    let mut subnet = subnet("10.0.0.0/24");
    subnet.range = "10.0.0.128/30".parse().unwrap();
    let expected = ["128", "129", "130", "131", "128"].map(|end| format!("10.0.0.{end}"));
    assert_eq!(give(&mut Walks::default(), &subnet, 5), expected);
    // One that was asked for outside of the range does not lead the walk out of it.
    let mut walks = Walks::default();
    walks.given(&network(), subnet.subnet, ip("10.0.0.9"));
    walks.freed(&network(), subnet.subnet, ip("10.0.0.9"));
    assert_eq!(give(&mut walks, &subnet, 1), ["10.0.0.128"]);
    subnet.range = "10.0.0.130/32".parse().unwrap();
    assert_eq!(
        give(&mut Walks::default(), &subnet, 2),
        ["10.0.0.130"; 2],
        "one address"
    );
}

#[test]
fn a_pair_has_room_for_one_container() {
    let pair = subnet("10.0.0.4/31");
    let walks = Walks::default();
    assert_eq!(
        walks.next(&network(), &pair, |_| false),
        Some(ip("10.0.0.5"))
    );
    assert_eq!(walks.next(&network(), &pair, |_| true), None);
}

#[test]
fn a_huge_range_is_not_searched() {
    let huge = subnet("fd00::/16");
    let mut walks = Walks::default();
    assert_eq!(give(&mut walks, &huge, 2), ["fd00::2", "fd00::3"]);
    let last = huge.subnet.broadcast();
    walks.given(&network(), huge.subnet, last);
    assert_eq!(
        walks.next(&network(), &huge, |a| a == ip("fd00::2")),
        Some(ip("fd00::3")),
        "after the top comes the bottom"
    );
}

#[test]
fn a_freed_address_rests_while_others_are_free() {
    let subnet = subnet("10.0.0.0/29");
    let mut walks = Walks::default();
    walks.given(&network(), subnet.subnet, ip("10.0.0.3"));
    // 4 is the next of the walk, but it was freed just now.
    walks.freed(&network(), subnet.subnet, ip("10.0.0.4"));
    assert_eq!(give(&mut walks, &subnet, 1), ["10.0.0.5"]);
    // Only resting ones are left: the one freed first.
    walks.freed(&network(), subnet.subnet, ip("10.0.0.3"));
    let is_used = |address| !["10.0.0.3", "10.0.0.4"].map(ip).contains(&address);
    let next = walks.next(&network(), &subnet, is_used);
    assert_eq!(next, Some(ip("10.0.0.4")));
}

#[test]
fn a_network_that_is_gone_leaves_no_walk() {
    let subnet = subnet("10.0.0.0/29");
    let mut walks = Walks::default();
    give(&mut walks, &subnet, 1);
    walks.freed(&network(), subnet.subnet, ip("10.0.0.3"));
    walks.forget(&network());
    assert!(walks.0.is_empty());
}

#[derive(Debug, Clone)]
enum Operation {
    Take,
    /// By place in the list of those used.
    Free(usize),
    /// The address with this number in the subnet, by name.
    Claim(u8),
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        3 => Just(Operation::Take),
        2 => any::<usize>().prop_map(Operation::Free),
        1 => any::<u8>().prop_map(Operation::Claim),
    ]
}

/// The rules, by looking at every address of the subnet.
#[derive(Default)]
struct Naive {
    used: Vec<IpAddr>,
    freed: Vec<IpAddr>,
    last: Option<IpAddr>,
}

impl Naive {
    fn next(&self, subnet: &Subnet) -> Option<IpAddr> {
        let (low, high) = bounds(subnet.range);
        let all: Vec<IpAddr> = (low..=high)
            .map(|number| from_number(number, subnet.subnet.addr()))
            .filter(|a| subnet.reserved(*a).is_none() && !self.used.contains(a))
            .collect();
        let fresh: Vec<IpAddr> = all
            .iter()
            .copied()
            .filter(|a| !self.freed.contains(a))
            .collect();
        let in_range = self.last.filter(|last| subnet.range.contains(last));
        let after = in_range.and_then(|last| fresh.iter().find(|a| **a > last));
        let oldest = || self.freed.iter().find(|a| all.contains(a));
        after.or(fresh.first()).or_else(oldest).copied()
    }

    fn give(&mut self, address: IpAddr) {
        self.last = Some(address);
        self.freed.retain(|a| *a != address);
        self.used.push(address);
    }
}

proptest! {
    #[test]
    fn the_walk_follows_its_rules(
        prefix in 24u8..=31,
        v6: bool,
        range in proptest::option::of((0u8..8, any::<u8>())),
        gateway: u8,
        auxiliary in proptest::collection::vec(any::<u8>(), 0..3),
        operations in proptest::collection::vec(operation(), 1..120),
    ) {
        let net: IpNet = if v6 {
            format!("fd00::/{}", prefix + 96).parse().unwrap()
        } else {
            format!("10.0.0.0/{prefix}").parse().unwrap()
        };
        let (low, high) = bounds(net);
        let nth = |number: u8| from_number(low + u128::from(number) % (high - low + 1), net.addr());
        let mut subnet = Subnet::of(net).unwrap();
        subnet.gateway = nth(gateway);
        for (number, name) in auxiliary.into_iter().zip(["a", "b", "c"]) {
            subnet.auxiliary.insert(name.into(), nth(number));
        }
        if let Some((longer, at)) = range {
            let length = (net.prefix_len() + longer).min(net.max_prefix_len());
            subnet.range = IpNet::new(nth(at), length).unwrap().trunc();
        }
        let mut walks = Walks::default();
        let mut naive = Naive::default();
        for operation in operations {
            match operation {
                Operation::Take => {
                    let next = walks.next(&network(), &subnet, |a| naive.used.contains(&a));
                    prop_assert_eq!(next, naive.next(&subnet));
                    let Some(address) = next else { continue };
                    prop_assert!(subnet.range.contains(&address));
                    prop_assert_eq!(subnet.reserved(address), None);
                    prop_assert!(!naive.used.contains(&address), "given twice");
                    walks.given(&network(), net, address);
                    naive.give(address);
                }
                Operation::Claim(number) => {
                    let address = nth(number);
                    if subnet.reserved(address).is_none() && !naive.used.contains(&address) {
                        walks.given(&network(), net, address);
                        naive.give(address);
                    }
                }
                Operation::Free(place) if !naive.used.is_empty() => {
                    let address = naive.used.swap_remove(place % naive.used.len());
                    walks.freed(&network(), net, address);
                    naive.freed.push(address);
                }
                Operation::Free(_) => {}
            }
        }
    }
}
