//! The resolver settings that a sandbox gets.

use std::net::{IpAddr, Ipv4Addr};

use api::net::Dns;

/// What containers see of the embedded server.
const EMBEDDED: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);

/// How a sandbox asks the embedded server of its network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Path {
    /// By 127.0.0.11, which the socket hooks lead to it.
    Hooks,
    /// By the gateway's address, where there are no hooks.
    Gateway(IpAddr),
}

impl Path {
    fn server(self) -> IpAddr {
        match self {
            Self::Hooks => EMBEDDED.into(),
            Self::Gateway(address) => address,
        }
    }
}

/// On a network with names: the embedded server, which forwards to what was asked for.
pub(crate) fn with_names(asked: &Dns, host: &Dns, path: Path) -> Dns {
    Dns {
        nameservers: vec![path.server()],
        search: first(&asked.search, &host.search),
        // Names of containers have no dots: they are to be asked for as they are.
        options: first(&asked.options, &["ndots:0".to_owned()]),
    }
}

/// On the default network: the host's servers, as Docker does. A server on the host's loopback
/// means nothing inside a sandbox; where there is no other, the embedded server forwards to it.
pub(crate) fn without_names(asked: &Dns, host: &Dns, path: Path) -> Dns {
    let reachable: Vec<IpAddr> = host
        .nameservers
        .iter()
        .copied()
        .filter(|server| !server.is_loopback())
        .collect();
    Dns {
        nameservers: first(&asked.nameservers, &first(&reachable, &[path.server()])),
        search: first(&asked.search, &host.search),
        options: first(&asked.options, &host.options),
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
        let dns = without_names(&Dns::default(), &stub, Path::Hooks);
        assert_eq!(dns.nameservers, [IpAddr::from(EMBEDDED)]);
        assert_eq!(dns.search, ["lan"]);
        let real = host("nameserver 127.0.0.53\nnameserver 192.0.2.1\n");
        let dns = without_names(&Dns::default(), &real, Path::Hooks);
        assert_eq!(dns.nameservers, ["192.0.2.1".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn what_was_asked_for_wins() {
        let asked = Dns {
            nameservers: vec!["198.51.100.1".parse().unwrap()],
            search: vec!["example".into()],
            options: vec!["ndots:2".into()],
        };
        let gateway: IpAddr = "172.18.0.1".parse().unwrap();
        let named = with_names(&asked, &Dns::default(), Path::Gateway(gateway));
        assert_eq!(named.nameservers, [gateway], "which forwards to it");
        assert_eq!(
            (named.search, named.options),
            (asked.search.clone(), asked.options.clone())
        );
        assert_eq!(without_names(&asked, &Dns::default(), Path::Hooks), asked);
    }
}
