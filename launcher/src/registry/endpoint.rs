//! Where a registry may be reached: Docker's rules for Docker Hub, mirrors, and registries that
//! nobody vouches for.

use std::net::IpAddr;

use api::daemon::Registries;
use api::reference::DEFAULT_HOST;
use ipnet::IpNet;

/// The server behind `docker.io`.
const HUB_SERVER: &str = "registry-1.docker.io";

/// One way to a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// `https://HOST[:PORT]`, or `http`; a mirror may have a path.
    pub base: String,
    /// Whose logins and certificates count.
    pub host: String,
    pub is_mirror: bool,
    /// The certificate is checked.
    pub is_verified: bool,
}

impl Endpoint {
    fn new(scheme: &str, server: &str, host: &str, is_verified: bool) -> Self {
        Self {
            base: format!("{scheme}://{server}"),
            host: host.to_owned(),
            is_mirror: false,
            is_verified,
        }
    }

    /// Whether what is sent there can be read on the way, or goes to nobody knows whom.
    pub fn is_secure(&self) -> bool {
        self.is_verified && self.base.starts_with("https://")
    }
}

/// The ways to a registry, best first. Mirrors hold what is read only.
pub fn endpoints(host: &str, registries: &Registries, for_push: bool) -> Vec<Endpoint> {
    let mut ways = Vec::new();
    if host == DEFAULT_HOST && !for_push {
        ways.extend(registries.mirrors.iter().map(|url| mirror(url, registries)));
    }
    let server = if host == DEFAULT_HOST {
        HUB_SERVER
    } else {
        host
    };
    if is_insecure(server, &registries.insecure) {
        ways.push(Endpoint::new("https", server, host, false));
        ways.push(Endpoint::new("http", server, host, false));
    } else {
        ways.push(Endpoint::new("https", server, host, true));
    }
    ways
}

fn mirror(url: &str, registries: &Registries) -> Endpoint {
    let base = url.trim_end_matches('/').to_owned();
    let server = base
        .split_once("://")
        .map_or(base.as_str(), |(_, rest)| rest);
    let host = server.split('/').next().unwrap_or_default().to_owned();
    Endpoint {
        is_mirror: true,
        is_verified: !is_insecure(&host, &registries.insecure),
        base,
        host,
    }
}

/// As Docker has it, a registry on loopback is a developer's own.
fn is_insecure(server: &str, listed: &[String]) -> bool {
    let name = match server.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => server,
    };
    let address = name.trim_matches(['[', ']']).parse::<IpAddr>().ok();
    name == "localhost"
        || address.is_some_and(|address| address.is_loopback())
        || listed.iter().any(|entry| {
            entry == server
                || entry == name
                || matches!((entry.parse::<IpNet>(), address), (Ok(net), Some(address)) if net.contains(&address))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bases(host: &str, registries: &Registries, for_push: bool) -> Vec<String> {
        endpoints(host, registries, for_push)
            .into_iter()
            .map(|endpoint| {
                let mark = if endpoint.is_verified {
                    ""
                } else {
                    " unverified"
                };
                format!("{}{mark}", endpoint.base)
            })
            .collect()
    }

    #[test]
    fn a_registry_is_reached_by_https_alone() {
        let plain = Registries::default();
        assert_eq!(bases("r.example", &plain, false), ["https://r.example"]);
        assert_eq!(
            bases("docker.io", &plain, false),
            ["https://registry-1.docker.io"]
        );
    }

    #[test]
    fn loopback_and_what_is_listed_may_speak_http() {
        let registries = Registries {
            insecure: vec![
                "lab:5000".into(),
                "10.1.0.0/16".into(),
                "old.example".into(),
            ],
            mirrors: Vec::new(),
        };
        for host in [
            "localhost",
            "localhost:5000",
            "127.0.0.1:5000",
            "127.3.2.1",
            "lab:5000",
            "10.1.2.3:80",
            "old.example:444",
        ] {
            assert_eq!(
                bases(host, &registries, false),
                [
                    format!("https://{host} unverified"),
                    format!("http://{host} unverified")
                ],
            );
        }
        for host in ["lab:5001", "lab", "10.2.0.1", "localhost.example"] {
            assert_eq!(bases(host, &registries, false), [format!("https://{host}")]);
        }
    }

    #[test]
    fn mirrors_of_docker_hub_come_first_and_are_not_written_to() {
        let registries = Registries {
            insecure: vec!["m2:80".into()],
            mirrors: vec!["https://m1.example/".into(), "http://m2:80".into()],
        };
        assert_eq!(
            bases("docker.io", &registries, false),
            [
                "https://m1.example",
                "http://m2:80 unverified",
                "https://registry-1.docker.io"
            ]
        );
        assert_eq!(
            bases("docker.io", &registries, true),
            ["https://registry-1.docker.io"]
        );
        assert_eq!(
            bases("r.example", &registries, false),
            ["https://r.example"]
        );
    }
}
