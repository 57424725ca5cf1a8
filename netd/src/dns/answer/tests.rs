use api::id::{Id, NetworkName};
use domain::base::Name as DomainName;
use domain::base::iana::Opcode;
use domain::rdata::AllRecordData;
use proptest::prelude::{any, prop};
use proptest::{prop_assert, proptest};

use super::super::NamedEndpoint;
use super::super::zone::{Directory, Endpoint, Registry, Seat};
use super::*;

fn network() -> Id {
    Id::parse(&"a".repeat(64)).unwrap()
}

fn endpoint(digit: char, names: &[&str], addresses: &[&str], internal: bool) -> Endpoint {
    let id = digit.to_string().repeat(64);
    let named = NamedEndpoint {
        endpoint: Id::parse(&id).unwrap(),
        network: network(),
        network_name: NetworkName::parse("shop").unwrap(),
        container_id: id,
        sandbox: sys::netns::NsId {
            device: 4,
            inode: u64::from(digit.to_digit(16).unwrap()),
        },
        order: 0,
        names: names.iter().map(ToString::to_string).collect(),
        addresses: addresses
            .iter()
            .map(|address| address.parse().unwrap())
            .collect(),
        ports: serde_json::from_str(
            r#"[{"protocol":"tcp","container_port":80,"host_port":8080},
                {"protocol":"udp","container_port":5000,"host_port":5000,"count":10}]"#,
        )
        .unwrap(),
        links: Vec::new(),
        upstreams: Vec::new(),
        internal,
    };
    Endpoint::new(named).0
}

fn seat() -> Seat {
    Seat::Network(network())
}

fn world() -> Directory {
    let mut registry = Registry::default();
    registry.upsert(endpoint(
        '1',
        &["Web", "www"],
        &["10.0.0.2", "fd00::2"],
        false,
    ));
    registry.upsert(endpoint('2', &["app", "www"], &["10.0.0.3"], false));
    registry.upsert(endpoint('3', &["six"], &["fd00::3"], false));
    let many: Vec<_> = (0..200).map(|n| format!("10.9.0.{n}")).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    registry.upsert(endpoint('4', &["many"], &many, false));
    registry
        .upsert(endpoint('5', &["vault"], &["10.0.0.5"], true))
        .clone()
}

/// `name TYPE [CLASS] [+edns=SIZE] [+version=N] [+do] [+option=CODE]`
fn query(text: &str) -> Vec<u8> {
    let mut words = text.split(' ');
    let name: DomainName<Vec<u8>> = words.next().unwrap().parse().unwrap();
    let rtype: Rtype = words.next().unwrap().parse().unwrap();
    let (mut class, mut edns, mut version) = (Class::IN, None, 0);
    let (mut dnssec, mut options) = (false, Vec::new());
    for word in words {
        match word.split_once('=') {
            Some(("+edns", size)) => edns = Some(size.parse().unwrap()),
            Some(("+version", number)) => version = number.parse().unwrap(),
            Some(("+option", code)) => options.push(code.parse::<u16>().unwrap()),
            None if word == "+do" => dnssec = true,
            _ => class = word.parse().unwrap(),
        }
    }
    let mut builder = MessageBuilder::new_vec();
    builder.header_mut().set_id(0x1234);
    builder.header_mut().set_rd(true);
    let mut builder = builder.question();
    builder.push((name, rtype, class)).unwrap();
    let mut builder = builder.additional();
    if let Some(size) = edns {
        let opt = |opt: &mut domain::base::message_builder::OptBuilder<'_, Vec<u8>>| {
            opt.set_udp_payload_size(size);
            opt.set_version(version);
            opt.set_dnssec_ok(dnssec);
            for code in &options {
                let data = [0x5a; 8];
                opt.push_raw_option((*code).into(), 8, |out| {
                    out.extend_from_slice(&data);
                    Ok(())
                })?;
            }
            Ok(())
        };
        builder.opt(opt).unwrap();
    }
    builder.finish()
}

/// A reply as `RCODE flags TYPE data …`.
fn render(reply: &[u8]) -> String {
    let message = Message::from_octets(reply).unwrap();
    let header = message.header();
    assert!(header.qr() && header.ra(), "{reply:x?}");
    let mut text = format!("{}", message.opt_rcode());
    for (flag, set) in [
        ("aa", header.aa()),
        ("tc", header.tc()),
        ("opt", message.opt().is_some()),
        ("do", message.opt().is_some_and(|opt| opt.dnssec_ok())),
    ] {
        if set {
            text += &format!(" {flag}");
        }
    }
    for record in message.answer().unwrap() {
        let record = record
            .unwrap()
            .into_record::<AllRecordData<_, _>>()
            .unwrap()
            .unwrap();
        text += &format!(" {} {}", record.rtype(), record.data());
    }
    text
}

fn ask(query: &[u8], source: &str, transport: Transport) -> (Verdict, Vec<u8>) {
    let (directory, seat) = (world(), seat());
    let view = View::new(&directory, &seat, source.parse().unwrap());
    let mut out = Vec::new();
    let verdict = answer(
        query,
        &view,
        Style {
            transport,
            ttl: 5,
            turn: 0,
        },
        &mut out,
    );
    (verdict, out)
}

#[track_caller]
fn check_from(source: &str, text: &str, expected: &str) {
    let (verdict, reply) = ask(&query(text), source, Transport::Udp);
    let found = match verdict {
        Verdict::Reply => {
            assert_eq!(reply[..2], [0x12, 0x34], "{text}");
            render(&reply)
        }
        Verdict::Forward {
            single_label: true, ..
        } => "forward single".to_owned(),
        Verdict::Forward {
            single_label: false,
            ..
        } => "forward".to_owned(),
        Verdict::Ignore => "ignore".to_owned(),
    };
    assert_eq!(found, expected, "{text}");
}

#[track_caller]
fn check(text: &str, expected: &str) {
    check_from("10.0.0.3", text, expected);
}

#[test]
fn addresses_of_both_families() {
    check("web. A", "NOERROR aa A 10.0.0.2");
    check("web. AAAA", "NOERROR aa AAAA fd00::2");
    check("web. ANY", "NOERROR aa A 10.0.0.2 AAAA fd00::2");
    check("wEB.SHOP. A", "NOERROR aa A 10.0.0.2");
    check("www. A", "NOERROR aa A 10.0.0.2 A 10.0.0.3");
}

#[test]
fn a_name_that_exists_is_never_denied() {
    for rtype in [
        "AAAA",
        "MX",
        "TXT",
        "SRV",
        "HTTPS",
        "SOA",
        "PTR",
        "TYPE65280",
    ] {
        check(&format!("app. {rtype}"), "NOERROR aa");
    }
    check("six. A", "NOERROR aa");
    check("2.0.0.10.in-addr.arpa. A", "NOERROR aa");
}

#[test]
fn reverse_lookups_give_the_primary_name() {
    check("2.0.0.10.in-addr.arpa. PTR", "NOERROR aa PTR Web.shop.");
    check("9.0.0.10.in-addr.arpa. PTR", "forward");
    let zeros = "0.".repeat(27);
    check(&format!("3.0.0.0.{zeros}d.f.ip6.arpa. PTR"), "forward");
    let zeros = "0.".repeat(29);
    check(
        &format!("3.{zeros}d.f.ip6.arpa. PTR"),
        "NOERROR aa PTR six.shop.",
    );
}

#[test]
fn published_ports_have_service_records() {
    check("_80._tcp.web. SRV", "NOERROR aa SRV 0 1 80 Web.shop");
    check("_80._TCP.Web.Shop. SRV", "NOERROR aa SRV 0 1 80 Web.shop");
    check(
        "_80._tcp.www. SRV",
        "NOERROR aa SRV 0 1 80 Web.shop SRV 0 1 80 app.shop",
    );
    check("_5009._udp.app. SRV", "NOERROR aa SRV 0 1 5009 app.shop");
    check("_80._tcp.web. A", "NOERROR aa");
    // What is below a name of ours is ours to deny.
    check("_81._tcp.web. SRV", "NXDOMAIN aa");
    check("_5010._udp.web. SRV", "NXDOMAIN aa");
    check("_80._udp.web. A", "NXDOMAIN aa");
    check("_80._tcp.example.com. SRV", "forward");
    check("_http._tcp.web. SRV", "forward");
}

#[test]
fn what_is_not_here_is_somebody_elses() {
    check("ghost. A", "forward single");
    check("example.com. A", "forward");
    check("web.example. A", "forward");
    check(". NS", "forward");
    check("ghost.shop. A", "forward");
}

#[test]
fn internal_askers_and_strangers_are_not_forwarded_for() {
    check_from("10.0.0.5", "web. A", "NOERROR aa A 10.0.0.2");
    check_from("10.0.0.5", "example.com. A", "NXDOMAIN");
    check_from("192.0.2.1", "web. A", "NOERROR aa A 10.0.0.2");
    check_from("192.0.2.1", "example.com. A", "REFUSED");
}

#[test]
fn edns_is_answered_in_kind() {
    check("web. A +edns=1232", "NOERROR aa opt A 10.0.0.2");
    check("app. AAAA +edns=4096", "NOERROR aa opt");
    check("web. A +edns=1232 +version=1", "BADVERS opt");
    check("example.com. A +edns=1232", "forward");
}

#[test]
fn what_edns_asks_for_besides_is_passed_over() {
    check("web. A +edns=1232 +do", "NOERROR aa opt do A 10.0.0.2");
    check("app. AAAA +edns=1232 +do", "NOERROR aa opt do");
    // A cookie (RFC 7873), padding (RFC 7830), the client's subnet (RFC 7871), the server's name
    // (RFC 5001), keep-alive (RFC 7828), and one that means nothing.
    for code in [10, 12, 8, 3, 11, 65001] {
        let text = format!("web. A +edns=1232 +option={code}");
        check(&text, "NOERROR aa opt A 10.0.0.2");
        let (_, reply) = ask(&query(&text), "10.0.0.3", Transport::Tcp);
        let message = Message::from_octets(&reply).unwrap();
        assert!(message.opt().unwrap().opt().is_empty(), "{code}");
    }
    check(
        "web. A +edns=1232 +option=10 +option=12",
        "NOERROR aa opt A 10.0.0.2",
    );
    check("example.com. A +edns=1232 +do +option=10", "forward");
    let mut cut = query("web. A +edns=1232 +option=10");
    cut.truncate(cut.len() - 1);
    let (_, reply) = ask(&cut, "10.0.0.3", Transport::Udp);
    assert_eq!(render(&reply), "FORMERR");
}

#[test]
fn unusual_classes_types_and_opcodes_are_refused() {
    check("web. A CH", "REFUSED");
    check("version.bind. TXT CH", "REFUSED");
    check("web. A CLASS255", "NOERROR aa A 10.0.0.2");
    for name in ["shop.", "web.", "example.com."] {
        check(&format!("{name} AXFR"), "REFUSED");
        check(&format!("{name} IXFR"), "REFUSED");
    }
    check("hostname.bind. TXT CH", "REFUSED");
    check("web. A HS", "REFUSED");
    check("web. A NONE", "REFUSED");
    check("six. ANY", "NOERROR aa AAAA fd00::3");
    check("2.0.0.10.in-addr.arpa. ANY", "NOERROR aa PTR Web.shop.");
    check("example.com. ANY", "forward");
    let mut update = query("web. A");
    update[2] = Opcode::UPDATE.to_int() << 3;
    let (_, reply) = ask(&update, "10.0.0.3", Transport::Udp);
    assert_eq!(render(&reply), "NOTIMP");
}

#[test]
fn the_spelling_of_the_question_is_kept() {
    let query = query("wEb. A");
    let (_, reply) = ask(&query, "10.0.0.3", Transport::Udp);
    assert_eq!(reply[12..query.len()], query[12..]);
}

#[test]
fn a_reply_that_does_not_fit_says_so() {
    let size_and_count = |text: &str, transport| {
        let (_, reply) = ask(&query(text), "10.0.0.3", transport);
        let message = Message::from_octets(&reply).unwrap();
        (
            reply.len(),
            message.header_counts().ancount(),
            message.header().tc(),
        )
    };
    // Header, question and n records of 16 octets with the owner compressed; then the OPT record.
    assert_eq!(size_and_count("many. A", Transport::Udp), (502, 30, true));
    assert_eq!(
        size_and_count("many. A +edns=100", Transport::Udp),
        (22 + 29 * 16 + 11, 29, true)
    );
    assert_eq!(
        size_and_count("many. A +edns=4096", Transport::Udp),
        (22 + 74 * 16 + 11, 74, true)
    );
    assert_eq!(
        size_and_count("many. A", Transport::Tcp),
        (22 + 200 * 16, 200, false)
    );
}

#[test]
fn a_reply_fills_the_size_exactly() {
    // 12 octets of header, 34 of question, 466 = 29 * 16 + 2 left: one octet more would not help,
    // but a name two octets shorter makes the last record end at the limit.
    let mut registry = Registry::default();
    let addresses: Vec<_> = (0..40).map(|n| format!("10.9.0.{n}")).collect();
    let addresses: Vec<_> = addresses.iter().map(String::as_str).collect();
    let name = "n".repeat(14);
    registry.upsert(endpoint('1', &[&name], &addresses, false));
    let directory = registry
        .upsert(endpoint('2', &["x"], &["10.0.0.3"], false))
        .clone();
    let seat = seat();
    let view = View::new(&directory, &seat, "10.0.0.3".parse().unwrap());
    let mut out = Vec::new();
    let style = Style {
        transport: Transport::Udp,
        ttl: 5,
        turn: 0,
    };
    answer(&query(&format!("{name}. A")), &view, style, &mut out);
    assert_eq!(out.len(), 512);
}

#[test]
fn owners_of_an_alias_take_turns() {
    let (directory, seat) = (world(), seat());
    let view = View::new(&directory, &seat, "10.0.0.3".parse().unwrap());
    let turns: Vec<_> = (0..3)
        .map(|turn| {
            let mut out = Vec::new();
            let style = Style {
                transport: Transport::Udp,
                ttl: 5,
                turn,
            };
            answer(&query("www. A"), &view, style, &mut out);
            render(&out)
        })
        .collect();
    let (first, second) = (
        "NOERROR aa A 10.0.0.2 A 10.0.0.3",
        "NOERROR aa A 10.0.0.3 A 10.0.0.2",
    );
    assert_eq!(turns, [first, second, first]);
}

#[test]
fn malformed_queries_get_formerr_and_replies_get_silence() {
    let check = |message: &[u8], expected: &str| {
        let (verdict, reply) = ask(message, "10.0.0.3", Transport::Udp);
        let found = if verdict == Verdict::Reply {
            render(&reply)
        } else {
            format!("{verdict:?}")
        };
        assert_eq!(found, expected, "{message:x?}");
    };
    let good = query("web. A");
    check(b"", "Ignore");
    check(&good[..11], "Ignore");
    check(&good[..good.len() - 1], "FORMERR");
    check(&good[..12], "FORMERR");
    let with = |change: fn(&mut Vec<u8>)| {
        let mut message = good.clone();
        change(&mut message);
        message
    };
    check(&with(|m| m[2] |= 0x80), "Ignore");
    check(&with(|m| m[5] = 0), "FORMERR");
    check(&with(|m| m[5] = 2), "FORMERR");
    check(&with(|m| m[11] = 1), "FORMERR");
    // A name that points to itself.
    check(
        &with(|m| m.splice(12..16, [0xc0, 12]).for_each(drop)),
        "FORMERR",
    );
    let mut two_opts = query("web. A +edns=512");
    let opt = two_opts[two_opts.len() - 11..].to_vec();
    two_opts.extend(opt);
    two_opts[11] = 2;
    check(&two_opts, "FORMERR");
}

#[test]
fn a_failure_repeats_question_and_edns() {
    let mut out = Vec::new();
    failure(
        &query("example.com. A +edns=1232"),
        Rcode::SERVFAIL,
        Transport::Udp,
        &mut out,
    );
    assert_eq!(render(&out), "SERVFAIL opt");
    failure(b"\x01\x02", Rcode::SERVFAIL, Transport::Udp, &mut out);
    assert_eq!(out.len(), 12);
}

/// Whether a reply repeats the question of its query, octet by octet, where that can be read.
fn echoes(reply: &[u8], query: &[u8]) -> bool {
    let asked = (query.get(4..6) == Some(&[0, 1])).then(|| wire::question_end(query));
    match (reply.get(4..6), asked.flatten()) {
        (Some([0, 1]), Some(end)) => reply.get(12..end) == query.get(12..end),
        (Some([0, 0]), None) => true,
        _ => false,
    }
}

/// Whether all sections of a reply can be read, and nothing follows them.
fn is_well_formed(reply: &[u8]) -> bool {
    let Ok(message) = Message::from_slice(reply) else {
        return false;
    };
    let records = message.question().answer().and_then(|mut section| {
        loop {
            for record in section.by_ref() {
                record?;
            }
            match section.next_section()? {
                Some(next) => section = next,
                None => return Ok(()),
            }
        }
    });
    records.is_ok()
}

/// Any message, and queries with a few octets changed, which get further.
fn check_survives(message: &[u8], tcp: bool) -> bool {
    let transport = if tcp { Transport::Tcp } else { Transport::Udp };
    let (verdict, reply) = ask(message, "10.0.0.3", transport);
    match verdict {
        Verdict::Reply => {
            let belongs = reply[..2] == message[..2] && reply[2] & 0x80 != 0;
            let fits = tcp || reply.len() <= 1232;
            belongs && fits && is_well_formed(&reply) && echoes(&reply, message)
        }
        Verdict::Forward { .. } => wire::question_end(message).is_some(),
        Verdict::Ignore => message.len() < 12 || message[2] & 0x80 != 0,
    }
}

#[test]
fn the_fuzzers_corpus_is_survived() {
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/dns");
    let files: Vec<_> = std::fs::read_dir(corpus).unwrap().collect();
    assert!(files.len() > 20, "the corpus is in {corpus}");
    for file in files {
        let path = file.unwrap().path();
        let message = std::fs::read(&path).unwrap();
        for tcp in [false, true] {
            assert!(check_survives(&message, tcp), "{}", path.display());
        }
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_survived(
        message in prop::collection::vec(any::<u8>(), 0..600),
        tcp in any::<bool>(),
    ) {
        prop_assert!(check_survives(&message, tcp));
    }

    #[test]
    fn damaged_queries_are_survived(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<prop::sample::Index>(),
        long in any::<bool>(),
        tcp in any::<bool>(),
    ) {
        let mut message = query(if long { "many.shop. A +edns=4096" } else { "www. A" });
        for (at, value) in damage {
            let at = at.index(message.len());
            message[at] = value;
        }
        if cut.index(4) == 0 {
            message.truncate(cut.index(message.len()));
        }
        prop_assert!(check_survives(&message, tcp));
    }
}
