//! Links of the default network, whose containers have no names.
//!
//! `run --link server:db` gives one container a name for another: a line in its `/etc/hosts`, and
//! variables that tell the linked container's address, exposed ports and environment, under
//! Docker's names. The line follows the linked container through its restarts: its directory lists
//! who is linked to it. The variables are those of the start, as a process cannot be given others.

use std::net::IpAddr;

use api::id::ContainerName;
use api::net::{Protocol, UnknownProtocol};

use crate::container::{Link, Record, Status};
use crate::store::{Store, StoreError};

/// The network on which links are made this way.
const DEFAULT_NETWORK: &str = "bridge";

#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error("invalid --link {0:?}: expected CONTAINER[:ALIAS]")]
    Text(String),
    #[error("cannot link to a non running container: /{0}; start it first")]
    NotRunning(ContainerName),
    #[error(
        "cannot link to /{0}, as it does not belong to the default network: put both containers \
         on a network of their own, where they have names"
    )]
    Elsewhere(ContainerName),
    #[error("cannot link: {0}")]
    Store(#[from] StoreError),
}

/// `CONTAINER[:ALIAS]` as container and alias.
///
/// # Errors
/// [`LinkError::Text`].
pub fn parse(text: &str) -> Result<(&str, &str), LinkError> {
    let (container, alias) = text.split_once(':').unwrap_or((text, text));
    let alias = alias.trim_start_matches('/');
    let is_name = |name: &str| {
        !name.is_empty()
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    };
    if is_name(container.trim_start_matches('/')) && is_name(alias) {
        Ok((container, alias))
    } else {
        Err(LinkError::Text(text.to_owned()))
    }
}

/// A linked container as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Linked {
    pub alias: String,
    pub name: String,
    pub hostname: String,
    /// IPv4 first.
    pub addresses: Vec<IpAddr>,
    pub exposed: Vec<(u16, Protocol)>,
    /// `KEY=VALUE`.
    pub env: Vec<String>,
}

/// Whether every linked container runs, which a container's start asks for.
///
/// # Errors
/// [`LinkError::NotRunning`] names the first that does not.
pub fn check(store: &Store, record: &Record) -> Result<(), LinkError> {
    for link in &record.links {
        let container = store.container(&link.container);
        if container.state()?.status != Status::Running {
            return Err(LinkError::NotRunning(container.record()?.name));
        }
    }
    Ok(())
}

/// What the links of a container lead to, each with the reason why it leads nowhere. A container
/// on its way to run is there as soon as it has joined the default network.
pub fn resolve<'a>(
    store: &'a Store,
    record: &'a Record,
) -> impl Iterator<Item = Result<Linked, LinkError>> + 'a {
    record.links.iter().map(|link| look(store, link))
}

fn look(store: &Store, link: &Link) -> Result<Linked, LinkError> {
    let container = store.container(&link.container);
    let record = container.record()?;
    let attachments = container.attachments()?.interfaces;
    let endpoint = attachments
        .into_values()
        .find(|endpoint| endpoint.network.as_str() == DEFAULT_NETWORK);
    let Some(endpoint) = endpoint else {
        return Err(LinkError::Elsewhere(record.name));
    };
    let mut addresses: Vec<IpAddr> = endpoint
        .addresses
        .iter()
        .map(|address| address.address.addr())
        .collect();
    addresses.sort_by_key(IpAddr::is_ipv6);
    let hostname = match record.config.hostname.as_str() {
        "" => record.id.short().to_owned(),
        name => name.to_owned(),
    };
    Ok(Linked {
        alias: link.alias.clone(),
        name: record.name.to_string(),
        hostname,
        addresses,
        exposed: exposed(record.config.exposed_ports.keys()),
        env: record.config.env,
    })
}

/// Ports in Docker's order: TCP before others, lower before higher.
fn exposed<'a>(keys: impl Iterator<Item = &'a String>) -> Vec<(u16, Protocol)> {
    let parse = |key: &String| -> Option<(u16, Protocol)> {
        let (port, protocol) = key.split_once('/')?;
        let protocol: Result<Protocol, UnknownProtocol> = protocol.parse();
        Some((port.parse().ok()?, protocol.ok()?))
    };
    let mut ports: Vec<_> = keys.filter_map(parse).collect();
    ports.sort_by_key(|(port, protocol)| (*protocol, *port));
    ports
}

impl Linked {
    /// The lines for `/etc/hosts`.
    pub fn hosts(&self) -> String {
        let mut names = format!("{} {}", self.alias, self.hostname);
        if self.name != self.alias {
            names = format!("{names} {}", self.name);
        }
        self.addresses
            .iter()
            .map(|address| format!("{address}\t{names}\n"))
            .collect()
    }

    /// The variables of the linked container, for the container called `client`.
    pub fn variables(&self, client: &ContainerName) -> Vec<String> {
        let prefix = self.alias.replace('-', "_").to_uppercase();
        let mut variables = vec![format!("{prefix}_NAME=/{client}/{}", self.alias)];
        if let Some(address) = self.addresses.first() {
            self.add_ports(&prefix, *address, &mut variables);
        }
        let env = self.env.iter().filter_map(|pair| pair.split_once('='));
        // Every image sets these two; they say nothing about the container.
        let telling = env.filter(|(name, _)| !matches!(*name, "HOME" | "PATH"));
        variables.extend(telling.map(|(name, value)| format!("{prefix}_ENV_{name}={value}")));
        variables
    }

    fn add_ports(&self, prefix: &str, address: IpAddr, variables: &mut Vec<String>) {
        let host = match address {
            IpAddr::V4(address) => address.to_string(),
            IpAddr::V6(address) => format!("[{address}]"),
        };
        if let Some((port, protocol)) = self.exposed.first() {
            variables.push(format!("{prefix}_PORT={protocol}://{host}:{port}"));
        }
        let mut rest = self.exposed.as_slice();
        while let Some((first, protocol)) = rest.first().copied() {
            let length = (1..=rest.len())
                .take_while(|length| follows(rest, *length))
                .last()
                .unwrap_or(1);
            let (run, others) = rest.split_at(length);
            rest = others;
            let last = run.last().map_or(first, |(port, _)| *port);
            let upper = protocol.as_str().to_uppercase();
            if length > 1 {
                let range = format!("{prefix}_PORT_{first}_{upper}");
                variables.push(format!("{range}_START={protocol}://{host}:{first}"));
                variables.push(format!("{range}_PORT_START={first}"));
                variables.push(format!("{range}_END={protocol}://{host}:{last}"));
                variables.push(format!("{range}_PORT_END={last}"));
            }
            for (port, _) in run {
                let name = format!("{prefix}_PORT_{port}_{upper}");
                variables.push(format!("{name}={protocol}://{host}:{port}"));
                variables.push(format!("{name}_ADDR={address}"));
                variables.push(format!("{name}_PORT={port}"));
                variables.push(format!("{name}_PROTO={protocol}"));
            }
        }
    }
}

/// Whether the first `length` ports are neighbours of one protocol.
fn follows(ports: &[(u16, Protocol)], length: usize) -> bool {
    ports[..length]
        .windows(2)
        .all(|pair| pair[0].1 == pair[1].1 && u32::from(pair[0].0) + 1 == u32::from(pair[1].0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn linked() -> Linked {
        let keys = ["81/tcp", "53/udp", "80/tcp", "443/tcp"].map(str::to_owned);
        Linked {
            alias: "my-db".to_owned(),
            name: "server".to_owned(),
            hostname: "abababababab".to_owned(),
            addresses: vec![[172, 17, 0, 2].into()],
            exposed: exposed(keys.iter()),
            env: vec!["PATH=/bin".into(), "MODE=fast".into()],
        }
    }

    #[test]
    fn a_link_is_a_container_and_an_alias() {
        assert_eq!(parse("server").unwrap(), ("server", "server"));
        assert_eq!(parse("server:db").unwrap(), ("server", "db"));
        assert_eq!(parse("/server:/client/db").ok(), None);
        for bad in ["", ":", "a:", ":b", "a:b:c", "a b"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_hosts_line_has_every_name_once() {
        assert_eq!(linked().hosts(), "172.17.0.2\tmy-db abababababab server\n");
        let plain = Linked {
            alias: "server".to_owned(),
            ..linked()
        };
        assert_eq!(plain.hosts(), "172.17.0.2\tserver abababababab\n");
    }

    #[test]
    fn the_variables_are_dockers() {
        let client = ContainerName::parse("client").unwrap();
        let variables = linked().variables(&client);
        for expected in [
            "MY_DB_NAME=/client/my-db",
            "MY_DB_PORT=tcp://172.17.0.2:80",
            "MY_DB_PORT_80_TCP=tcp://172.17.0.2:80",
            "MY_DB_PORT_80_TCP_ADDR=172.17.0.2",
            "MY_DB_PORT_443_TCP_PORT=443",
            "MY_DB_PORT_53_UDP_PROTO=udp",
            "MY_DB_PORT_80_TCP_START=tcp://172.17.0.2:80",
            "MY_DB_PORT_80_TCP_PORT_END=81",
            "MY_DB_ENV_MODE=fast",
        ] {
            assert!(
                variables.iter().any(|v| v == expected),
                "{expected}: {variables:#?}"
            );
        }
        assert!(!variables.iter().any(|v| v.contains("ENV_PATH")));
        assert!(!variables.iter().any(|v| v.contains("443_TCP_START")));
    }
}
