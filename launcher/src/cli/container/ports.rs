//! Published ports: the PORTS column and `hawser port`.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use api::net::{PortBinding, Protocol};

use crate::cli::context::Context;
use crate::cli::error::{CliError, ContainerError};
use crate::cli::output;

use super::view::View;

/// A run of ports published on one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Published {
    pub container_port: u16,
    pub protocol: Protocol,
    pub host_ip: IpAddr,
    pub host_port: u16,
    pub count: u16,
}

/// What a container publishes on the host, by container port. A binding without an address is
/// published on all addresses of both families; one without a port, as on a routed network, on none.
pub fn published(view: &View) -> Vec<Published> {
    let mut published = Vec::new();
    let bindings = view.attachments.iter().flat_map(|a| &a.ports);
    for binding in bindings.filter(|binding| binding.host_port != 0) {
        let any: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
        let addresses = binding
            .host_ip
            .map_or(any.to_vec(), |address| vec![address]);
        published.extend(addresses.into_iter().map(|address| on(binding, address)));
    }
    published.sort_unstable();
    published
}

fn on(binding: &PortBinding, host_ip: IpAddr) -> Published {
    Published {
        container_port: binding.container_port,
        protocol: binding.protocol,
        host_ip,
        host_port: binding.host_port,
        count: binding.count,
    }
}

/// The PORTS column: published ports, and exposed ones that are not.
pub fn column(view: &View) -> String {
    if !view.is_running() {
        return String::new();
    }
    let published = published(view);
    let exposed = view.record.config.exposed_ports.keys();
    let mut texts: Vec<String> = exposed
        .filter(|key| !published.iter().any(|p| covers(p, key)))
        .cloned()
        .collect();
    texts.extend(merged(&published).iter().map(text));
    texts.join(", ")
}

fn covers(published: &Published, key: &str) -> bool {
    let Some((port, protocol)) = key.split_once('/') else {
        return false;
    };
    let first = u32::from(published.container_port);
    let range = first..first + u32::from(published.count);
    protocol == published.protocol.as_str()
        && port.parse().is_ok_and(|port: u32| range.contains(&port))
}

/// Joins neighbours into ranges, so that ten thousand ports are one text.
fn merged(published: &[Published]) -> Vec<Published> {
    let mut sorted = published.to_vec();
    sorted.sort_unstable_by_key(|p| (p.protocol, p.host_ip, p.container_port, p.host_port));
    let mut runs: Vec<Published> = Vec::new();
    for port in sorted {
        if let Some(run) = runs.last_mut()
            && run.protocol == port.protocol
            && run.host_ip == port.host_ip
            && u32::from(run.container_port) + u32::from(run.count)
                == u32::from(port.container_port)
            && u32::from(run.host_port) + u32::from(run.count) == u32::from(port.host_port)
        {
            run.count = run.count.saturating_add(port.count);
        } else {
            runs.push(port);
        }
    }
    runs.sort_unstable();
    runs
}

fn text(port: &Published) -> String {
    format!(
        "{}->{}/{}",
        host_text(port.host_ip, &range(port.host_port, port.count)),
        range(port.container_port, port.count),
        port.protocol
    )
}

fn range(first: u16, count: u16) -> String {
    match count {
        0 | 1 => first.to_string(),
        _ => format!("{first}-{}", u32::from(first) + u32::from(count) - 1),
    }
}

fn host_text(address: IpAddr, port: &str) -> String {
    match address {
        IpAddr::V4(address) => format!("{address}:{port}"),
        IpAddr::V6(address) => format!("[{address}]:{port}"),
    }
}

/// `hawser port`: lines of one container, or of one of its ports.
///
/// # Errors
/// The port that was asked for is not published.
pub fn port(context: &Context, key: &str, wanted: Option<&str>) -> Result<i32, CliError> {
    let view = View::of(&context.container(key)?)?;
    let published = published(&view);
    let lines: BTreeSet<(u16, String, bool, String)> = published
        .iter()
        .flat_map(|port| (0..port.count.max(1)).map(move |offset| line(port, offset)))
        .collect();
    let Some(wanted) = wanted else {
        for (_, port, _, host) in lines {
            output::line(format_args!("{port} -> {host}"))?;
        }
        return Ok(0);
    };
    let wanted = if wanted.contains('/') {
        wanted.to_owned()
    } else {
        format!("{wanted}/tcp")
    };
    let mut found = false;
    for (_, port, _, host) in lines {
        if port == wanted {
            found = true;
            output::line(host)?;
        }
    }
    if found {
        return Ok(0);
    }
    Err(ContainerError::NoPublicPort {
        port: wanted,
        container: key.to_owned(),
    }
    .into())
}

/// Container port for sorting, `80/tcp`, whether IPv6, `0.0.0.0:8080`.
fn line(port: &Published, offset: u16) -> (u16, String, bool, String) {
    let container_port = port.container_port.saturating_add(offset);
    let host_port = port.host_port.saturating_add(offset);
    (
        container_port,
        format!("{container_port}/{}", port.protocol),
        port.host_ip.is_ipv6(),
        host_text(port.host_ip, &host_port.to_string()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on_any4(container_port: u16, host_port: u16, count: u16) -> Published {
        Published {
            container_port,
            protocol: Protocol::Tcp,
            host_ip: Ipv4Addr::UNSPECIFIED.into(),
            host_port,
            count,
        }
    }

    #[test]
    fn neighbours_are_one_range() {
        let ports = [
            on_any4(81, 8001, 1),
            on_any4(80, 8000, 1),
            on_any4(90, 8002, 3),
        ];
        let texts: Vec<String> = merged(&ports).iter().map(text).collect();
        assert_eq!(
            texts,
            [
                "0.0.0.0:8000-8001->80-81/tcp",
                "0.0.0.0:8002-8004->90-92/tcp"
            ]
        );
    }

    #[test]
    fn an_ipv6_address_is_in_brackets() {
        let port = Published {
            host_ip: Ipv6Addr::LOCALHOST.into(),
            protocol: Protocol::Udp,
            ..on_any4(53, 5353, 1)
        };
        assert_eq!(text(&port), "[::1]:5353->53/udp");
    }

    #[test]
    fn a_published_range_covers_exposed_ports() {
        let port = on_any4(80, 8000, 2);
        assert!(covers(&port, "81/tcp"));
        assert!(!covers(&port, "82/tcp"));
        assert!(!covers(&port, "80/udp"));
    }

    #[test]
    fn the_ports_column_has_both_families_and_what_is_only_exposed() {
        let mut view = crate::cli::container::view::samples::running();
        assert_eq!(
            column(&view),
            "443/tcp, 127.0.0.1:5353-5354->53-54/udp, 0.0.0.0:18080->80/tcp, [::]:18080->80/tcp"
        );
        view.state.status = crate::container::Status::Exited;
        assert_eq!(column(&view), "");
    }
}
