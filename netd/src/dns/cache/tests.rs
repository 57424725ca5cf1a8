use domain::base::name::Name;
use domain::base::{MessageBuilder, Serial, Ttl};
use domain::rdata::{A, Soa};
use proptest::prelude::{any, prop};
use proptest::{prop_assert_eq, proptest};

use super::*;

const QUERY: &[u8] = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x03wEb\0\0\x01\0\x01";

fn servers(origin: Origin) -> Servers {
    Servers {
        origin,
        addresses: Arc::default(),
    }
}

fn key(query: &[u8]) -> Key {
    let normalized = wire::normalized(query, wire::question_end(query).unwrap());
    Key {
        servers: servers(Origin::Host),
        transport: Transport::Udp,
        query: normalized.into(),
    }
}

/// A reply with an A record of each TTL in `answers`, and a SOA record of (TTL, minimum).
fn reply(rcode: Rcode, answers: &[u32], soa: Option<(u32, u32)>) -> Vec<u8> {
    let query = Message::from_octets(QUERY).unwrap();
    let mut builder = MessageBuilder::new_vec()
        .start_answer(&query, rcode)
        .unwrap();
    let root = Name::root_vec();
    for ttl in answers {
        builder
            .push((&root, *ttl, A::from_octets(192, 0, 2, 1)))
            .unwrap();
    }
    let mut builder = builder.authority();
    if let Some((ttl, minimum)) = soa {
        let [a, b, c] = [Ttl::from_secs(1); 3];
        let data = Soa::new(&root, &root, Serial(1), a, b, c, Ttl::from_secs(minimum));
        builder.push((&root, ttl, data)).unwrap();
    }
    let mut builder = builder.additional();
    builder
        .opt(|opt| {
            opt.set_dnssec_ok(true);
            Ok(())
        })
        .unwrap();
    builder.finish()
}

#[test]
fn replies_live_as_long_as_their_shortest_record() {
    let check = |reply: Vec<u8>, expected: Option<u64>| {
        let found = lifetime(&reply).map(|(ttl, _)| ttl.as_secs());
        assert_eq!(found, expected, "{reply:x?}");
    };
    check(reply(Rcode::NOERROR, &[300, 60, 900], None), Some(60));
    check(reply(Rcode::NOERROR, &[86400], None), Some(3600));
    check(reply(Rcode::NOERROR, &[60, 0], None), None);
    check(reply(Rcode::NOERROR, &[60], Some((5, 5))), Some(60));
    check(reply(Rcode::NXDOMAIN, &[], Some((120, 60))), Some(60));
    check(reply(Rcode::NXDOMAIN, &[], Some((30, 60))), Some(30));
    check(reply(Rcode::NXDOMAIN, &[], Some((86400, 86400))), Some(300));
    check(reply(Rcode::NXDOMAIN, &[20], Some((120, 60))), Some(20));
    check(reply(Rcode::NXDOMAIN, &[], None), None);
    check(reply(Rcode::NOERROR, &[], Some((120, 60))), Some(60));
    check(reply(Rcode::NOERROR, &[], None), None);
    check(reply(Rcode::SERVFAIL, &[60], Some((60, 60))), None);
    let mut truncated = reply(Rcode::NOERROR, &[60], None);
    truncated[2] |= 2;
    check(truncated, None);
    let whole = reply(Rcode::NOERROR, &[60], None);
    check(whole[..whole.len() - 1].to_vec(), None);
}

#[test]
fn hits_carry_the_askers_id_and_spelling_and_the_time_left() {
    let mut cache = Cache::new(10_000);
    let start = Instant::now();
    cache.insert(
        key(QUERY),
        &reply(Rcode::NOERROR, &[60, 90], Some((100, 100))),
        start,
    );
    let mut other = QUERY.to_vec();
    wire::set_id(&mut other, *b"\xab\xcd");
    other[13..16].copy_from_slice(b"WeB");
    let mut expected = reply(Rcode::NOERROR, &[50, 80], Some((90, 100)));
    expected[..2].copy_from_slice(b"\xab\xcd");
    expected[13..16].copy_from_slice(b"WeB");
    let found = cache.get(&key(&other), &other, start + Duration::from_secs(10));
    assert_eq!(found, Lookup::Fresh(expected));
}

#[test]
fn expired_replies_are_stale_for_a_while() {
    let mut cache = Cache::new(10_000);
    let start = Instant::now();
    cache.insert(key(QUERY), &reply(Rcode::NOERROR, &[60], None), start);
    let stale = Lookup::Stale(reply(Rcode::NOERROR, &[STALE_TTL], None));
    assert_eq!(
        cache.get(&key(QUERY), QUERY, start + Duration::from_secs(60)),
        stale
    );
    let over = start + Duration::from_secs(60) + STALE_FOR;
    assert_eq!(cache.get(&key(QUERY), QUERY, over), Lookup::Absent);
}

#[test]
fn other_servers_transports_and_types_are_other_entries() {
    let mut cache = Cache::new(10_000);
    let now = Instant::now();
    cache.insert(key(QUERY), &reply(Rcode::NOERROR, &[60], None), now);
    let mut aaaa = QUERY.to_vec();
    aaaa[18] = 28;
    let elsewhere = Origin::Sandbox(sys::netns::NsId {
        device: 4,
        inode: 1,
    });
    for other in [
        key(&aaaa),
        Key {
            transport: Transport::Tcp,
            ..key(QUERY)
        },
        Key {
            servers: servers(elsewhere),
            ..key(QUERY)
        },
        Key {
            servers: Servers {
                addresses: Arc::from(["192.0.2.1:53".parse().unwrap()]),
                ..servers(Origin::Host)
            },
            ..key(QUERY)
        },
    ] {
        assert_eq!(cache.get(&other, QUERY, now), Lookup::Absent, "{other:?}");
    }
}

#[test]
fn what_a_sandbox_learned_goes_with_it() {
    let mut cache = Cache::new(10_000);
    let now = Instant::now();
    let inside = Origin::Sandbox(sys::netns::NsId {
        device: 4,
        inode: 1,
    });
    let of_sandbox = Key {
        servers: servers(inside),
        ..key(QUERY)
    };
    for key in [key(QUERY), of_sandbox.clone()] {
        cache.insert(key, &reply(Rcode::NOERROR, &[60], None), now);
    }
    cache.forget(inside);
    assert_eq!(cache.get(&of_sandbox, QUERY, now), Lookup::Absent);
    assert_ne!(cache.get(&key(QUERY), QUERY, now), Lookup::Absent);
}

#[test]
fn memory_is_bounded_and_what_is_used_stays() {
    let mut cache = Cache::new(20_000);
    let now = Instant::now();
    let name = |n: usize| {
        let mut query = QUERY.to_vec();
        query[13..16].copy_from_slice(format!("{n:03}").as_bytes());
        query
    };
    for n in 0..500 {
        let query = name(n);
        let reply = reply(Rcode::NOERROR, &[60], None);
        cache.insert(key(&query), &reply, now);
        assert_ne!(
            cache.get(&key(&name(0)), &name(0), now),
            Lookup::Absent,
            "after {n}"
        );
        assert!((cache.young.len() + cache.old.len()) * OVERHEAD < 20_000);
    }
    assert_eq!(cache.get(&key(&name(1)), &name(1), now), Lookup::Absent);
}

proptest! {
    /// Servers send what they like.
    #[test]
    fn replies_of_any_content_are_survived(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut reply = reply(Rcode::NOERROR, &[60, 30], Some((300, 60)));
        for (at, value) in damage {
            let at = at.index(reply.len());
            reply[at] = value;
        }
        reply.truncate(cut.index(reply.len() + 1));
        let now = Instant::now();
        let mut cache = Cache::new(10_000);
        if wire::is_reply_to(&reply, QUERY) {
            cache.insert(key(QUERY), &reply, now);
        }
        if let Lookup::Fresh(kept) = cache.get(&key(QUERY), QUERY, now) {
            prop_assert_eq!(kept.len(), reply.len());
        }
    }
}
