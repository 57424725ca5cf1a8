//! The container's `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf`.
//!
//! They are files of the container's directory, bind-mounted. They must exist before the container
//! is created and are filled in once its networks are joined, so they are always written in place:
//! a new inode would not be seen through the mount.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use api::Client;
use api::client::ClientError;
use api::net::{Dns, Network};
use api::path::NETWORKS;

use super::spec::{EtcFiles, hostname};
use crate::container::{Attachments, HostConfig, Record};
use crate::link::{self, Linked};
use crate::store::{ContainerDir, StoreError};

/// Where the host's own resolver is configured.
const HOST_RESOLV_CONF: &str = "/etc/resolv.conf";

/// The word of `--add-host` for the host's address on the default network.
const HOST_GATEWAY: &str = "host-gateway";

/// Why `/etc` could not be filled in.
#[derive(Debug, thiserror::Error)]
pub enum EtcError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("resolve host-gateway: {0}")]
    Gateway(ClientError),
    #[error("write the files for /etc in {}: {source}", dir.display())]
    Write { dir: PathBuf, source: io::Error },
}

/// Hosts that a container knows by name, other than by asking.
#[derive(Debug, Clone, Default)]
pub(crate) struct Known {
    pub(crate) linked: Vec<Linked>,
    /// The addresses that `host-gateway` stands for.
    pub(crate) gateways: Vec<IpAddr>,
}

impl Known {
    /// # Errors
    /// The daemon is asked only by a container that uses `host-gateway`.
    pub(crate) fn of(
        record: &Record,
        linked: Vec<Linked>,
        client: &Client,
    ) -> Result<Self, EtcError> {
        let mut extra = record.host_config.extra_hosts.iter().flatten();
        let gateways = if extra.any(|entry| entry.ends_with(HOST_GATEWAY)) {
            let network: Network = client
                .get(&format!("{NETWORKS}/bridge"))
                .map_err(EtcError::Gateway)?;
            let subnets = network.ipam.config.into_iter();
            subnets.filter_map(|subnet| subnet.gateway).collect()
        } else {
            Vec::new()
        };
        Ok(Self { linked, gateways })
    }
}

impl EtcFiles {
    /// The files of the container whose directory this is.
    pub(crate) fn of(container_dir: &Path) -> Self {
        Self {
            hosts: container_dir.join("hosts"),
            hostname: container_dir.join("hostname"),
            resolv_conf: container_dir.join("resolv.conf"),
        }
    }

    /// Makes the files where they are missing.
    pub(crate) fn create(&self) -> io::Result<()> {
        for path in [&self.hosts, &self.hostname, &self.resolv_conf] {
            open(path)?;
        }
        Ok(())
    }

    /// Fills the files for a container in its own sandbox.
    pub(crate) fn write(
        &self,
        record: &Record,
        joined: &Attachments,
        known: &Known,
    ) -> io::Result<()> {
        replace(&self.hosts, &hosts(record, joined, known))?;
        replace(&self.hostname, &format!("{}\n", hostname(record)))?;
        let settings = resolver(&record.host_config, joined);
        let text = match settings {
            Some(dns) => resolv_conf(&dns),
            None => fs::read_to_string(HOST_RESOLV_CONF).unwrap_or_default(),
        };
        replace(&self.resolv_conf, &text)
    }

    /// Fills the files for a container that shares the host's network.
    pub(crate) fn write_hosts_own(&self, record: &Record, known: &Known) -> io::Result<()> {
        let mut hosts = fs::read_to_string("/etc/hosts").unwrap_or_default();
        hosts.push_str(&extra_hosts(record, known));
        replace(&self.hosts, &hosts)?;
        replace(&self.hostname, &format!("{}\n", hostname(record)))?;
        let text = match resolver(&record.host_config, &Attachments::default()) {
            Some(dns) => resolv_conf(&dns),
            None => fs::read_to_string(HOST_RESOLV_CONF).unwrap_or_default(),
        };
        replace(&self.resolv_conf, &text)
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o644)
        .open(path)
}

fn replace(path: &Path, text: &str) -> io::Result<()> {
    let mut file = open(path)?;
    file.set_len(0)?;
    file.write_all(text.as_bytes())
}

/// Fills the files anew for a running container: it has joined or left a network, or one that it
/// is linked to has started again. To be called with the container's lock held.
///
/// # Errors
/// [`EtcError`]. A link that leads nowhere has no line.
pub(crate) fn refresh(container: &ContainerDir, client: &Client) -> Result<(), EtcError> {
    let record = container.record()?;
    let joined = container.attachments()?;
    let store = container.store();
    let linked = link::resolve(&store, &record).flatten().collect();
    let known = Known::of(&record, linked, client)?;
    EtcFiles::of(container.path())
        .write(&record, &joined, &known)
        .map_err(|source| EtcError::Write {
            dir: container.path().to_owned(),
            source,
        })
}

/// The address of the embedded server, as containers see it.
const EMBEDDED: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 11));

/// The settings of the first network with names, else of the first network, else what was asked
/// for by flags, else none. The embedded server forwards, so that it serves every network.
fn resolver(host: &HostConfig, joined: &Attachments) -> Option<Dns> {
    let all = joined.interfaces.values().map(|attachment| &attachment.dns);
    let mut with_servers = all.filter(|dns| !dns.nameservers.is_empty());
    let first = with_servers.next();
    let with_names = first
        .into_iter()
        .chain(with_servers)
        .find(|dns| dns.nameservers.contains(&EMBEDDED));
    if let Some(dns) = with_names.or(first) {
        return Some(dns.clone());
    }
    let nameservers = host
        .dns
        .iter()
        .filter_map(|server| server.parse().ok())
        .collect();
    let dns = Dns {
        nameservers,
        search: host.dns_search.clone(),
        options: host.dns_options.clone(),
    };
    (!dns.nameservers.is_empty()).then_some(dns)
}

fn resolv_conf(dns: &Dns) -> String {
    let mut text = String::new();
    for server in &dns.nameservers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    // A lone dot asks for no search domain at all, as Docker's `--dns-search .`.
    if !dns.search.is_empty() && dns.search != ["."] {
        text.push_str(&format!("search {}\n", dns.search.join(" ")));
    }
    if !dns.options.is_empty() {
        text.push_str(&format!("options {}\n", dns.options.join(" ")));
    }
    text
}

const LOCAL_HOSTS: &str = "127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::\tip6-localnet
ff00::\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
";

fn hosts(record: &Record, joined: &Attachments, known: &Known) -> String {
    let mut text = LOCAL_HOSTS.to_owned();
    text.push_str(&extra_hosts(record, known));
    text.extend(known.linked.iter().map(Linked::hosts));
    let name = hostname(record);
    let names = match record.config.domainname.as_str() {
        "" => name.to_owned(),
        domain => format!("{name}.{domain} {name}"),
    };
    for attachment in joined.interfaces.values() {
        for address in &attachment.addresses {
            text.push_str(&format!("{}\t{names}\n", address.address.addr()));
        }
    }
    text
}

/// `--add-host NAME:ADDRESS`; an address may hold colons, a name may not.
fn extra_hosts(record: &Record, known: &Known) -> String {
    let mut text = String::new();
    for entry in record.host_config.extra_hosts.iter().flatten() {
        let Some((name, address)) = entry.split_once([':', '=']) else {
            continue;
        };
        if address == HOST_GATEWAY {
            let lines = known.gateways.iter();
            text.extend(lines.map(|gateway| format!("{gateway}\t{name}\n")));
        } else {
            text.push_str(&format!("{}\t{name}\n", address.trim_matches(['[', ']'])));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn host_gateway_stands_for_every_address_of_the_host() {
        let record: Record = serde_json::from_value(json!({
            "schema": 1, "id": "ab".repeat(32), "name": "web", "created": "", "image": "",
            "image_id": format!("sha256:{}", "cd".repeat(32)), "config": {"Hostname": "h"},
            "host_config": {"ExtraHosts": ["up:host-gateway", "gate:192.0.2.9", "six:[::1]"]},
            "mounts": [], "networks": [],
        }))
        .unwrap();
        let known = Known {
            gateways: vec![
                [172, 17, 0, 1].into(),
                IpAddr::V6("fd00::1".parse().unwrap()),
            ],
            ..Known::default()
        };
        assert_eq!(
            extra_hosts(&record, &known),
            "172.17.0.1\tup\nfd00::1\tup\n192.0.2.9\tgate\n::1\tsix\n"
        );
    }
}
