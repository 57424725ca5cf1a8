//! The resolver settings that a sandbox gets.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use api::net::Dns;

const DNS_PORT: u16 = 53;

/// What containers see of the embedded server.
pub(crate) const EMBEDDED: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);

/// On a network with names: the embedded server, which forwards to what was asked for.
pub(crate) fn with_names(asked: &Dns, host: &Dns) -> Dns {
    let mut options = first(&asked.options, &host.options);
    // Names of containers have no dots: unless somebody decided otherwise, they are asked for as
    // they are before any search domain is tried.
    if !options.iter().any(|option| option.starts_with("ndots:")) {
        options.push("ndots:0".to_owned());
    }
    Dns {
        nameservers: vec![EMBEDDED.into()],
        search: search(asked, host),
        options,
    }
}

/// On the default network: the host's servers, as Docker does. A server on the host's loopback
/// means nothing inside a sandbox; where there is no other, the embedded server forwards to it.
pub(crate) fn without_names(asked: &Dns, host: &Dns) -> Dns {
    let reachable: Vec<IpAddr> = host
        .nameservers
        .iter()
        .copied()
        .filter(|server| !server.is_loopback())
        .collect();
    Dns {
        nameservers: first(&asked.nameservers, &first(&reachable, &[EMBEDDED.into()])),
        search: search(asked, host),
        options: first(&asked.options, &host.options),
    }
}

/// `--dns-search .` asks for no search domain at all.
fn search(asked: &Dns, host: &Dns) -> Vec<String> {
    let mut domains = first(&asked.search, &host.search);
    domains.retain(|domain| domain != ".");
    domains
}

/// What the administrator configured takes the place of the host's servers. The C library knows no
/// ports: with one that is not 53, containers ask the embedded server, which does.
pub(crate) fn configured(servers: &[SocketAddr], host: Dns) -> Dns {
    if servers.is_empty() {
        return host;
    }
    let plain = servers.iter().all(|server| server.port() == DNS_PORT);
    let nameservers = match plain {
        true => servers.iter().map(SocketAddr::ip).collect(),
        false => Vec::new(),
    };
    Dns {
        nameservers,
        ..host
    }
}

fn first<T: Clone>(preferred: &[T], other: &[T]) -> Vec<T> {
    if preferred.is_empty() {
        other.to_vec()
    } else {
        preferred.to_vec()
    }
}

/// `resolv.conf(5)`. A server with a scope (`fe80::1%eth0`) is left out: a sandbox has no such
/// link.
pub(crate) fn parse(text: &str) -> Dns {
    let mut dns = Dns::default();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let keyword = words.next();
        match keyword {
            Some("nameserver") => {
                dns.nameservers
                    .extend(words.next().and_then(|word| word.parse::<IpAddr>().ok()));
            }
            // The last of these lines counts, and "." means none.
            Some("search" | "domain") => {
                dns.search = words.filter(|w| *w != ".").map(str::to_owned).collect();
            }
            Some("options") => dns.options.extend(words.map(str::to_owned)),
            _ => {}
        }
    }
    dns
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> Dns {
        parse(text)
    }

    #[test]
    fn resolv_conf_is_read_as_the_c_library_does() {
        let dns = host(
            "# comment\nnameserver 192.0.2.1\nnameserver fe80::1%eth0\nsearch a.example b.example\n\
             search c.example .\noptions edns0 trust-ad\n",
        );
        assert_eq!(dns.nameservers, ["192.0.2.1".parse::<IpAddr>().unwrap()]);
        assert_eq!(dns.search, ["c.example"]);
        assert_eq!(dns.options, ["edns0", "trust-ad"]);
    }

    #[test]
    fn a_loopback_server_of_the_host_is_reached_through_the_embedded_one() {
        let stub = host("nameserver 127.0.0.53\nsearch lan\n");
        let dns = without_names(&Dns::default(), &stub);
        assert_eq!(dns.nameservers, [IpAddr::from(EMBEDDED)]);
        assert_eq!(dns.search, ["lan"]);
        let real = host("nameserver 127.0.0.53\nnameserver 192.0.2.1\n");
        let dns = without_names(&Dns::default(), &real);
        assert_eq!(dns.nameservers, ["192.0.2.1".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn what_was_asked_for_wins() {
        let asked = Dns {
            nameservers: vec!["198.51.100.1".parse().unwrap()],
            search: vec!["example".into()],
            options: vec!["ndots:2".into(), "timeout:1".into()],
        };
        let named = with_names(&asked, &host("search lan\noptions edns0\n"));
        assert_eq!(named.nameservers, [EMBEDDED], "which forwards to it");
        assert_eq!(
            (named.search, named.options),
            (asked.search.clone(), asked.options.clone())
        );
        assert_eq!(without_names(&asked, &Dns::default()), asked);
    }

    #[test]
    fn options_of_the_host_are_kept_and_names_need_no_dot() {
        let host = host("search lan\noptions edns0 trust-ad\n");
        let named = with_names(&Dns::default(), &host);
        assert_eq!(named.options, ["edns0", "trust-ad", "ndots:0"]);
        assert_eq!(without_names(&Dns::default(), &host).options, host.options);
        let asked = Dns {
            options: vec!["timeout:1".into()],
            ..Dns::default()
        };
        assert_eq!(with_names(&asked, &host).options, ["timeout:1", "ndots:0"]);
    }

    #[test]
    fn a_dot_asks_for_no_search_domain() {
        let asked = Dns {
            search: vec![".".into()],
            ..Dns::default()
        };
        let host = host("search lan\n");
        assert!(with_names(&asked, &host).search.is_empty());
        assert!(without_names(&asked, &host).search.is_empty());
    }

    #[test]
    fn configured_servers_replace_those_of_the_host() {
        let check = |servers: &[&str], expected: &[&str]| {
            let servers: Vec<SocketAddr> = servers.iter().map(|s| s.parse().unwrap()).collect();
            let expected: Vec<IpAddr> = expected.iter().map(|s| s.parse().unwrap()).collect();
            let host = configured(&servers, host("nameserver 192.0.2.1\n"));
            let dns = without_names(&Dns::default(), &host);
            assert_eq!(dns.nameservers, expected, "{servers:?}");
        };
        check(&[], &["192.0.2.1"]);
        check(
            &["198.51.100.1:53", "[2001:db8::1]:53"],
            &["198.51.100.1", "2001:db8::1"],
        );
        check(&["198.51.100.1:5353"], &["127.0.0.11"]);
    }
}
