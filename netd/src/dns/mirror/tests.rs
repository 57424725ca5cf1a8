//! The same queries to the program and to the daemon's own answer function. Whatever the program
//! answers must be what the daemon would have said, byte for byte.

mod services;

use std::net::SocketAddrV4;

use api::id::{IfName, MacAddr, NetworkName};
use proptest::prelude::*;
use sys::netns::{NetNs, NsId};

use super::*;
use crate::bpf::{self, Edge, Verdict, network_number};
use crate::dns::answer::{self, Style, Transport};
use crate::dns::zone::{Registry, Seat, View};
use crate::dns::{DEFAULT_TTL, NamedEndpoint};

const MAC: [u8; 6] = [2, 0x42, 10, 0, 0, 2];
const GATEWAY_MAC: [u8; 6] = [2, 0x42, 1, 2, 3, 4];
const PORT: u16 = 10053;
/// Ethernet, IPv4 and UDP headers.
const HEADERS: usize = 14 + 20 + 8;

fn id(digit: char) -> Id {
    Id::parse(&digit.to_string().repeat(64)).unwrap()
}

/// An endpoint described as `names@network container address,address`, with links `a=b`.
fn named(digit: char, text: &str) -> NamedEndpoint {
    let (names, rest) = text.split_once('@').unwrap();
    let [network, container, addresses] = rest.split(' ').collect::<Vec<_>>()[..] else {
        panic!("{text}");
    };
    let (links, names): (Vec<&str>, Vec<&str>) = names
        .split(',')
        .filter(|name| !name.is_empty())
        .partition(|name| name.contains('='));
    NamedEndpoint {
        endpoint: id(digit),
        network: id(network.chars().next().unwrap()),
        network_name: NetworkName::parse(network).unwrap(),
        container_id: container.repeat(64),
        sandbox: NsId {
            device: 4,
            inode: container.parse().unwrap(),
        },
        order: u64::from(digit),
        names: names.into_iter().map(str::to_owned).collect(),
        addresses: addresses
            .split(',')
            .filter(|address| *address != "-")
            .map(|address| address.parse().unwrap())
            .collect(),
        ports: Vec::new(),
        links: links
            .into_iter()
            .map(|link| {
                let (container, alias) = link.split_once('=').unwrap();
                api::net::Link {
                    container: container.to_owned(),
                    alias: alias.to_owned(),
                }
            })
            .collect(),
        upstreams: Vec::new(),
        internal: false,
    }
}

const LONG: &str = "a-name-of-so-many-characters-that-it-is-just-too-long.for-the-map";

/// Containers 1 to 7 on networks a to f. The gateway of network `x` is 10.x.0.1.
fn world() -> Vec<NamedEndpoint> {
    [
        ('1', "web,www@aa 1 10.10.0.2,fd0a::2".to_owned()),
        ('2', "app,www,v4only@aa 2 10.10.0.3".to_owned()),
        ('3', "web,shared@bb 1 10.11.0.2".to_owned()),
        ('4', "db,shared@bb 3 10.11.0.3,fd0b::3".to_owned()),
        ('5', "six@aa 4 fd0a::5".to_owned()),
        ('6', format!("{LONG},x@aa 5 10.10.0.6")),
        // On more networks than are looked through.
        ('7', "many@aa 6 10.10.0.7".to_owned()),
        ('8', "many@bb 6 10.11.0.7".to_owned()),
        ('9', "many@cc 6 10.12.0.7".to_owned()),
        ('a', "many@dd 6 10.13.0.7".to_owned()),
        ('b', "many@ee 6 10.14.0.7".to_owned()),
        // Calls app by a name of its own.
        ('c', "linked,app=web@aa 7 10.10.0.8".to_owned()),
        // Knows the other family of a name on its second network.
        ('d', "both@aa 8 10.10.0.9".to_owned()),
        ('e', "both,six@cc 8 10.12.0.9,fd0c::9".to_owned()),
    ]
    .into_iter()
    .map(|(digit, text)| named(digit, &text))
    .collect()
}

/// Who asks: the network and the source address.
const ASKERS: [(char, &str); 9] = [
    ('a', "10.10.0.2"),
    ('b', "10.11.0.2"),
    ('a', "10.10.0.3"),
    ('b', "10.11.0.3"),
    ('a', "10.10.0.7"),
    ('a', "10.10.0.8"),
    ('a', "10.10.0.9"),
    ('c', "10.12.0.9"),
    ('a', "10.10.0.99"),
];

/// A directory, and a data plane that mirrors it. The test's thread is in a namespace of its own,
/// whose loopback is taken for the asker's link.
struct Both {
    registry: Registry,
    mirror: Mirror,
    data_plane: Arc<DataPlane>,
    options: bpf::Options,
}

impl Drop for Both {
    fn drop(&mut self) {
        if let Err(error) = DataPlane::uninstall(&self.options) {
            eprintln!("{}: {error}", self.options.pin_dir.display());
        }
    }
}

impl Both {
    fn empty(name: &str) -> Self {
        let namespace = NetNs::create().expect("root is needed for a namespace");
        namespace.enter().unwrap();
        let instance = format!("test-{}-{name}", std::process::id());
        let options = bpf::Options {
            pin_dir: std::path::Path::new("/sys/fs/bpf/hawser")
                .join(instance)
                .join("v1"),
            cgroup: None,
            sizes: std::collections::BTreeMap::new(),
        };
        let data_plane = Arc::new(DataPlane::open(&options).unwrap());
        let mut mirror = Mirror::new(Arc::clone(&data_plane), DEFAULT_TTL);
        let registry = Registry::default();
        mirror.replace(registry.directory());
        Self {
            registry,
            mirror,
            data_plane,
            options,
        }
    }

    fn new(name: &str) -> Self {
        let mut both = Self::empty(name);
        for endpoint in world() {
            both.upsert(endpoint);
        }
        both
    }

    fn upsert(&mut self, endpoint: NamedEndpoint) {
        let id = endpoint.endpoint.clone();
        let before = self.registry.get(&id);
        self.registry.upsert(Endpoint::new(endpoint).0);
        let after = self.registry.get(&id);
        let changed: Vec<_> = before.into_iter().chain(after).collect();
        self.mirror.update(self.registry.directory(), &changed);
    }

    fn remove(&mut self, digit: char) {
        let before = self.registry.get(&id(digit));
        self.registry.remove(&id(digit));
        self.mirror
            .update(self.registry.directory(), before.as_slice());
    }

    /// What the daemon says, if it answers by itself.
    fn daemon(&self, asker: (char, &str), query: &[u8]) -> Option<Vec<u8>> {
        let seat = Seat::Network(id(asker.0));
        let view = View::new(self.registry.directory(), &seat, asker.1.parse().unwrap());
        let style = Style {
            transport: Transport::Udp,
            ttl: DEFAULT_TTL,
            turn: 0,
        };
        let mut out = Vec::new();
        match answer::answer(query, &view, style, &mut out) {
            answer::Verdict::Reply => Some(out),
            _ => None,
        }
    }

    /// What the program says, if it answers.
    fn program(&self, asker: (char, &str), query: &[u8]) -> Option<Vec<u8>> {
        let source: Ipv4Addr = asker.1.parse().unwrap();
        self.stand_in(asker);
        let resolver = resolver(asker.0);
        let frame = frame((MAC, source, 40_000), (GATEWAY_MAC, resolver, PORT), query);
        let got = self.data_plane.replay_endpoint(&frame).unwrap();
        if got.verdict == Verdict::Pass {
            assert_eq!(got.frame, frame, "what is passed on is untouched");
            return None;
        }
        assert_eq!(got.verdict, Verdict::Redirect);
        let said = got.frame[HEADERS..].to_vec();
        let expected = self::frame((GATEWAY_MAC, resolver, PORT), (MAC, source, 40_000), &said);
        assert_eq!(got.frame, expected, "headers and checksums");
        Some(said)
    }

    /// Lets loopback be the asker's link.
    fn stand_in(&self, (network, source): (char, &str)) {
        let edge = Edge {
            mac: MacAddr(MAC),
            v4: source.parse().ok(),
            v6: None,
            checked: true,
            network: network_number(&id(network)),
            direct_mtu: Some(1500),
            resolver: Some(SocketAddrV4::new(resolver(network), PORT)),
        };
        let lo = IfName::parse("lo").unwrap();
        self.data_plane.attach_endpoint(&lo, &edge).unwrap();
    }

    /// Asks both; returns whether the program answered.
    #[track_caller]
    fn compare(&self, asker: (char, &str), query: &[u8]) -> bool {
        let Some(program) = self.program(asker, query) else {
            return false;
        };
        let daemon = self.daemon(asker, query);
        assert_eq!(Some(program), daemon, "{asker:?} asks {query:x?}");
        true
    }
}

fn resolver(network: char) -> Ipv4Addr {
    Ipv4Addr::new(10, network.to_digit(16).unwrap() as u8, 0, 1)
}

type End = ([u8; 6], Ipv4Addr, u16);

/// A datagram with right checksums.
fn frame(from: End, to: End, payload: &[u8]) -> Vec<u8> {
    let length = (8 + payload.len()) as u16;
    let mut udp = [from.2, to.2, length, 0].map(u16::to_be_bytes).concat();
    udp.extend(payload);
    let mut pseudo = [from.1.octets(), to.1.octets()].concat();
    pseudo.extend([0, 17]);
    pseudo.extend(length.to_be_bytes());
    let sum = match checksum(&[&pseudo[..], &udp].concat()) {
        0 => u16::MAX,
        sum => sum,
    };
    udp[6..8].copy_from_slice(&sum.to_be_bytes());
    let mut ip = vec![0x45, 0];
    ip.extend((20 + length).to_be_bytes());
    ip.extend([0x12, 0x34, 0x40, 0, 64, 17, 0, 0]);
    ip.extend(from.1.octets());
    ip.extend(to.1.octets());
    let sum = checksum(&ip);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    [&to.0[..], &from.0, &[8, 0], &ip, &udp].concat()
}

/// RFC 1071.
fn checksum(data: &[u8]) -> u16 {
    let mut sum: u32 = data
        .chunks(2)
        .map(|pair| u32::from(pair[0]) * 256 + u32::from(pair.get(1).copied().unwrap_or(0)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

const A: u16 = 1;
const PTR: u16 = 12;
const AAAA: u16 = 28;

/// A query as a stub resolver sends it, with `tail` behind the question.
fn query(name: &str, kind: u16, tail: &[u8]) -> Vec<u8> {
    let mut query = vec![
        0xab,
        0xcd,
        1,
        0,
        0,
        1,
        0,
        0,
        0,
        0,
        0,
        u8::from(!tail.is_empty()),
    ];
    query.extend(crate::dns::name::encode(name).unwrap());
    query.extend(kind.to_be_bytes());
    query.extend([0, 1]);
    query.extend(tail);
    query
}

const OPT: [u8; 11] = [0, 0, 41, 4, 0xd0, 0, 0, 0, 0, 0, 0];
const DNSSEC_OK: [u8; 11] = [0, 0, 41, 4, 0xd0, 0, 0, 0x80, 0, 0, 0];
const COOKIE: [u8; 23] = [
    0, 0, 41, 16, 0, 0, 0, 0, 0, 0, 12, 0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8,
];

#[test]
fn plain_names_are_answered_at_the_link_as_the_daemon_would() {
    let both = Both::new("names-plain");
    let web = ('a', "10.10.0.2");
    for tail in [&[][..], &OPT, &COOKIE] {
        for name in [
            "web", "web.aa", "WeB.aA", "app", "v4only", "six", "six.aa", "x",
        ] {
            for kind in [A, AAAA] {
                let query = query(name, kind, tail);
                assert!(both.compare(web, &query), "{name} {kind} {}", tail.len());
            }
        }
    }
    let answers = both.data_plane.answers().unwrap();
    // Of eight names, three have both families and two only IPv6.
    let expected = [("a", 3 * 6), ("aaaa", 3 * 5), ("nodata", 3 * 5)];
    assert_eq!(answers, expected);
}

#[test]
fn names_are_scoped_to_the_askers_networks() {
    let both = Both::new("names-scopes");
    let answered = |asker, name, kind| both.compare(asker, &query(name, kind, &[]));
    // On both networks: each has its own web.
    for asker in [('a', "10.10.0.2"), ('b', "10.11.0.2")] {
        assert!(answered(asker, "web", A) && answered(asker, "web", AAAA));
        assert!(answered(asker, "db", A) && answered(asker, "app", A));
    }
    assert!(!answered(('a', "10.10.0.3"), "db", A), "of another network");
    assert!(!answered(('b', "10.11.0.3"), "app", A));
    // An IPv4 address on one network, an IPv6 address on the other.
    for asker in [('a', "10.10.0.9"), ('c', "10.12.0.9")] {
        assert!(answered(asker, "both", A) && answered(asker, "both", AAAA));
        assert!(answered(asker, "six", A) && answered(asker, "six", AAAA));
    }
}

#[test]
fn everything_else_is_the_daemons() {
    let both = Both::new("names-else");
    let web = ('a', "10.10.0.2");
    let passed = |what: &str, asker, query: &[u8]| {
        assert_eq!(both.program(asker, query), None, "{what}");
    };
    passed("several owners", web, &query("www", A, &[]));
    passed("an unknown name", web, &query("nobody", A, &[]));
    passed("a long name", web, &query(LONG, A, &[]));
    passed("another type", web, &query("web", 15, &[]));
    passed("any type", web, &query("web", 255, &[]));
    passed("a stranger", ('a', "10.10.0.99"), &query("web", A, &[]));
    let many = ('a', "10.10.0.7");
    passed("of many networks", many, &query("web", A, &[]));
    let linked = ('a', "10.10.0.8");
    passed("with a link", linked, &query("web", A, &[]));
    let plain = query("web", A, &[]);
    for (what, at, value) in [
        ("a response", 2, 0x81),
        ("a status query", 2, 0x10),
        ("truncated", 2, 3),
        ("recursion available", 3, 0x80),
        ("a reserved bit", 3, 0x40),
        ("an rcode", 3, 1),
        ("no question", 5, 0),
        ("two questions", 5, 2),
        ("an answer", 7, 1),
        ("an authority", 9, 1),
        ("an additional that is missing", 11, 1),
        ("class CH", plain.len() - 1, 3),
        ("class ANY", plain.len() - 1, 255),
        ("a compressed name", 12, 0xc0),
    ] {
        let mut query = plain.clone();
        query[at] = value;
        passed(what, web, &query);
    }
    for (what, at, value) in [("version 1", 6, 1), ("no OPT", 2, 1), ("a name", 0, 1)] {
        let mut opt = OPT;
        opt[at] = value;
        passed(what, web, &query("web", A, &opt));
    }
    passed("DNSSEC OK", web, &query("web", A, &DNSSEC_OK));
    passed(
        "more than a record",
        web,
        &query("web", A, &[&OPT[..], &[0]].concat()),
    );
    let mut padding = COOKIE;
    padding[14] = 9;
    passed("a broken option", web, &query("web", A, &padding));
}

#[test]
fn cut_off_and_strange_packets_are_untouched() {
    let both = Both::new("names-cut");
    let web = ('a', "10.10.0.2");
    let whole = query("web", A, &OPT);
    for length in 0..whole.len() {
        let answered = both.compare(web, &whole[..length]);
        assert!(!answered, "{length} of {} bytes", whole.len());
    }
    both.stand_in(web);
    let source = (MAC, "10.10.0.2".parse().unwrap(), 40_000);
    let good = frame(source, (GATEWAY_MAC, resolver('a'), PORT), &whole);
    let untouched = |what: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let mut frame = good.clone();
        change(&mut frame);
        let got = both.data_plane.replay_endpoint(&frame).unwrap();
        assert_eq!((got.verdict, got.frame), (Verdict::Pass, frame), "{what}");
    };
    let passed = both.data_plane.replay_endpoint(&good).unwrap();
    assert_eq!(passed.verdict, Verdict::Redirect);
    untouched("to another address", &|f| f[33] = 2);
    untouched("to another port", &|f| f[37] ^= 1);
    untouched("TCP", &|f| f[23] = 6);
    untouched("a fragment", &|f| f[20] = 0x20);
    untouched("a later fragment", &|f| f[21] = 5);
    untouched("a shorter IP packet", &|f| f[17] -= 1);
    untouched("a longer datagram", &|f| f[39] += 1);
    untouched("padded", &|f| f.push(0));
    untouched("cut off in the name", &|f| f.truncate(HEADERS + 14));
}

#[test]
fn a_checksum_that_is_missing_stays_missing() {
    let both = Both::new("names-sum");
    both.stand_in(('a', "10.10.0.2"));
    let source = (MAC, "10.10.0.2".parse().unwrap(), 40_000);
    let query = query("web", AAAA, &[]);
    let mut frame = frame(source, (GATEWAY_MAC, resolver('a'), PORT), &query);
    frame[40..42].fill(0);
    let got = both.data_plane.replay_endpoint(&frame).unwrap();
    assert_eq!(got.verdict, Verdict::Redirect);
    assert_eq!(got.frame[40..42], [0, 0]);
}

#[test]
fn names_follow_every_change() {
    let mut both = Both::new("names-change");
    let app = ('a', "10.10.0.3");
    let ask = |both: &Both, name, expected: Option<&[u8]>| {
        let query = query(name, A, &[]);
        let said = both.program(app, &query);
        both.compare(app, &query);
        let address = said.map(|said| said[said.len() - 4..].to_vec());
        assert_eq!(address.as_deref(), expected, "{name}");
    };
    let old = Some(&[10, 10, 0, 2][..]);
    ask(&both, "web", old);
    // Renamed.
    both.upsert(named('1', "shop,www@aa 1 10.10.0.2,fd0a::2"));
    ask(&both, "web", None);
    ask(&both, "shop", old);
    // A second owner, and the first one's end.
    both.upsert(named('f', "shop@aa 9 10.10.0.20"));
    ask(&both, "shop", None);
    both.remove('1');
    ask(&both, "shop", Some(&[10, 10, 0, 20]));
    ask(&both, "www", Some(&[10, 10, 0, 3]));
    both.remove('f');
    ask(&both, "shop", None);
    // The asker joins another network, and leaves it.
    ask(&both, "db", None);
    both.upsert(named('0', "app@bb 2 10.11.0.30"));
    ask(&both, "db", Some(&[10, 11, 0, 3]));
    both.remove('0');
    ask(&both, "db", None);
    // The asker itself goes.
    both.remove('2');
    ask(&both, "x", None);
    for digit in "3456789abcde".chars() {
        both.remove(digit);
    }
    assert_eq!(both.data_plane.names().unwrap(), (0, 0), "nothing is left");
}

#[test]
fn a_new_daemon_adopts_what_is_there_and_removes_what_is_not() {
    let both = Both::new("names-adopt");
    let before = both.data_plane.names().unwrap();
    let mut registry = Registry::default();
    for endpoint in world().into_iter().skip(1) {
        registry.upsert(Endpoint::new(endpoint).0);
    }
    let mut mirror = Mirror::new(Arc::clone(&both.data_plane), DEFAULT_TTL);
    mirror.replace(registry.directory());
    let after = both.data_plane.names().unwrap();
    // "web", "web.aa" and one address.
    assert_eq!(after, (before.0 - 2, before.1 - 1));
    let web = query("web", A, &[]);
    assert_eq!(both.program(('a', "10.10.0.3"), &web), None);
    assert!(both.program(('b', "10.11.0.2"), &web).is_some());
}

/// Names that exist, in any case, and some that do not.
fn any_name() -> impl Strategy<Value = Vec<u8>> {
    let known = "web www app v4only six both shared db x many linked";
    let known = known.split(' ').chain(services::NAMES.split(' '));
    let known = prop::sample::select(known.chain([LONG]).collect::<Vec<_>>());
    let suffix = prop::sample::select(vec!["", ".aa", ".bb", ".cc", ".example"]);
    let dotted = (known, suffix, any::<u64>()).prop_map(|(name, suffix, cases)| {
        let mut wire = crate::dns::name::encode(&format!("{name}{suffix}")).unwrap();
        for (at, octet) in wire.iter_mut().enumerate() {
            if cases >> (at % 64) & 1 == 1 {
                octet.make_ascii_uppercase();
            }
        }
        wire
    });
    prop_oneof![8 => dotted, 1 => prop::collection::vec(any::<u8>(), 0..80)]
}

fn any_tail() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => Just(Vec::new()),
        3 => Just(OPT.to_vec()),
        2 => Just(COOKIE.to_vec()),
        1 => Just(DNSSEC_OK.to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..40),
    ]
}

/// A query that is plain but for up to three of its bytes.
fn any_query() -> impl Strategy<Value = Vec<u8>> {
    let flags = prop_oneof![9 => (0..2_u8, prop::sample::select(vec![0, 0x20, 0x10])), 1 => any::<(u8, u8)>()];
    let kind = prop_oneof![4 => Just(A), 4 => Just(AAAA), 1 => Just(PTR), 1 => any::<u16>()];
    let class = prop_oneof![9 => Just(1_u16), 1 => any::<u16>()];
    let noise = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3);
    let noise = prop_oneof![3 => Just(Vec::new()), 1 => noise];
    (
        any::<[u8; 2]>(),
        flags,
        any_name(),
        kind,
        class,
        any_tail(),
        noise,
    )
        .prop_map(|(id, (flags, more), name, kind, class, tail, noise)| {
            let mut query = id.to_vec();
            let additional = u8::from(!tail.is_empty());
            query.extend([flags, more, 0, 1, 0, 0, 0, 0, 0, additional]);
            query.extend(name);
            query.extend(kind.to_be_bytes());
            query.extend(class.to_be_bytes());
            query.extend(tail);
            for (at, value) in noise {
                *at.get_mut(&mut query) = value;
            }
            query
        })
}

#[test]
fn any_query_is_answered_as_by_the_daemon_or_passed_on() {
    let mut both = Both::new("names-any");
    for entry in services::entries() {
        both.upsert(entry);
    }
    let asker = prop::sample::select(ASKERS.to_vec());
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 4000,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let answered = std::cell::Cell::new(0);
    runner
        .run(&(asker, any_query()), |(asker, query)| {
            if both.compare(asker, &query) {
                answered.set(answered.get() + 1);
            }
            Ok(())
        })
        .unwrap();
    assert!(
        answered.get() > 100,
        "only {} were answered",
        answered.get()
    );
}
