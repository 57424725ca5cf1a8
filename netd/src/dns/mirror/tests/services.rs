//! Names of services have one owner or many, addresses or none.

use super::*;

pub(super) const NAMES: &str = "api tasks.api rr tasks.rr solo tasks.solo idle tasks.idle gone \
    50.0.10.10.in-addr.arpa 60.0.10.10.in-addr.arpa";

/// The entries of services and of their members: `api` has an address of its own and two members,
/// `rr` stands for its two members, `solo` for its one, and `idle` and `gone` have none. Their
/// entries are in no namespace.
pub(super) fn entries() -> Vec<NamedEndpoint> {
    let service = |(digit, text): (char, &str)| NamedEndpoint {
        sandbox: NsId {
            device: 0,
            inode: digit.to_digit(36).unwrap().into(),
        },
        ..named(digit, text)
    };
    let own = [
        ('a', "api@aa 8001 10.10.0.50,fd0a::50"),
        ('b', "tasks.api@aa 8001 -"),
        ('c', "rr@aa 8002 -"),
        ('d', "tasks.rr@aa 8002 -"),
        ('e', "solo@bb 8003 -"),
        ('f', "tasks.solo@bb 8003 -"),
        ('1', "idle@aa 8004 10.10.0.51"),
        ('2', "tasks.idle@aa 8004 -"),
        ('3', "gone@bb 8005 -"),
    ];
    let members = [
        ('4', "m1,tasks.api,rr,tasks.rr@aa 11 10.10.0.60,fd0a::60"),
        ('5', "m2,tasks.api,rr,tasks.rr@aa 12 10.10.0.61"),
        ('6', "m3,solo,tasks.solo@bb 13 10.11.0.60,fd0b::60"),
    ];
    let own = own.into_iter().map(service);
    let members = members.map(|(digit, text)| named(digit, text));
    let all = own.chain(members).enumerate();
    // The ids of the world have one digit.
    let rename = |(number, entry): (usize, NamedEndpoint)| NamedEndpoint {
        endpoint: Id::parse(&format!("{number:064x}")).unwrap(),
        ..entry
    };
    all.map(rename).collect()
}

#[test]
fn names_of_services_are_answered_as_by_the_daemon_or_passed_on() {
    let mut both = Both::new("names-services");
    for entry in entries() {
        both.upsert(entry);
    }
    let (aa, bb) = (('a', "10.10.0.2"), ('b', "10.11.0.2"));
    let addresses = |asker, name, kind| {
        let said = both.daemon(asker, &query(name, kind, &[])).unwrap();
        u16::from_be_bytes([said[6], said[7]])
    };
    for (asker, name, v4, v6) in [
        (aa, "api", 1, 1),
        (aa, "api.aa", 1, 1),
        (aa, "tasks.api", 2, 1),
        (aa, "rr", 2, 1),
        (aa, "tasks.rr", 2, 1),
        (bb, "solo", 1, 1),
        (bb, "tasks.solo", 1, 1),
        (aa, "idle", 1, 0),
        (aa, "tasks.idle", 0, 0),
        (bb, "gone", 0, 0),
    ] {
        assert_eq!(
            (addresses(asker, name, A), addresses(asker, name, AAAA)),
            (v4, v6),
            "{name}"
        );
        for kind in [A, AAAA] {
            both.compare(asker, &query(name, kind, &[]));
        }
    }
    for name in ["api", "API.aa", "idle"] {
        let answered = [A, AAAA].map(|kind| both.compare(aa, &query(name, kind, &OPT)));
        assert_eq!(answered, [true, true], "{name} is one address alone");
    }
    // What rotates, and what names an address, is the daemon's.
    assert_eq!(both.program(aa, &query("rr", A, &[])), None);
    assert_eq!(both.program(aa, &query("tasks.api", A, &[])), None);
    for (address, name) in [("50.0.10.10", "api"), ("60.0.10.10", "m1")] {
        let query = query(&format!("{address}.in-addr.arpa"), PTR, &[]);
        assert_eq!(both.program(aa, &query), None);
        let said = both.daemon(aa, &query).unwrap();
        let answer = crate::dns::name::encode(&format!("{name}.aa")).unwrap();
        assert!(said.ends_with(&answer), "{address}: {said:x?}");
    }
}
