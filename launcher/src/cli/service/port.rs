//! `--publish` of services.
//!
//! ```text
//! [PORT[-LAST]:]TARGET[-LAST][/PROTOCOL]
//! target=PORT[,published=PORT[-LAST]][,protocol=PROTOCOL][,mode=ingress|host]
//! ```
//!
//! A range of ports for one target leads all of them there.

use api::service::{PublishMode, ServicePort};

use super::ServiceFlagError;
use crate::cli::run::port::{self, Publish};

/// # Errors
/// [`ServiceFlagError`] names what is no port.
pub fn parse(spec: &str) -> Result<Vec<ServicePort>, ServiceFlagError> {
    let publish_mode = mode(spec)?;
    let Publish {
        address,
        host,
        container,
        protocol,
    } = port::parse(spec)?;
    if address.is_some() {
        return Err(ServiceFlagError::Address {
            spec: spec.to_owned(),
        });
    }
    let length = |range: &std::ops::RangeInclusive<u16>| range.end() - range.start() + 1;
    let targets = length(&container);
    let port = |target_port, published_port, count, one_target| ServicePort {
        protocol,
        target_port,
        published_port,
        count,
        one_target,
        publish_mode,
    };
    Ok(match host {
        // Each of them is chosen by itself.
        None => container.map(|target| port(target, 0, 1, false)).collect(),
        Some(host) => {
            let count = length(&host);
            let one_target = targets == 1 && count > 1;
            vec![port(*container.start(), *host.start(), count, one_target)]
        }
    })
}

fn mode(spec: &str) -> Result<PublishMode, ServiceFlagError> {
    let mut fields = spec.split(',').filter_map(|field| field.split_once('='));
    match fields.find(|(name, _)| *name == "mode") {
        None | Some((_, "ingress")) => Ok(PublishMode::Ingress),
        Some((_, "host")) => Ok(PublishMode::Host),
        Some(_) => Err(ServiceFlagError::Mode {
            spec: spec.to_owned(),
        }),
    }
}

/// Those of `ports` that are not what `--publish-rm` says: `TARGET[/PROTOCOL]`, as in Docker.
///
/// # Errors
/// There is none to remove.
pub fn without(
    ports: &[ServicePort],
    text: &str,
    service: &str,
) -> Result<Vec<ServicePort>, ServiceFlagError> {
    let not_published = || ServiceFlagError::NotPublished {
        service: service.to_owned(),
        port: text.to_owned(),
    };
    let [meant] = parse(text)?[..] else {
        return Err(not_published());
    };
    let is_meant = |port: &ServicePort| {
        (port.protocol, port.target_port) == (meant.protocol, meant.target_port)
            && (meant.published_port == 0 || meant.published_port == port.published_port)
    };
    let (gone, kept): (Vec<_>, Vec<_>) = ports.iter().partition(|port| is_meant(port));
    if gone.is_empty() {
        return Err(not_published());
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(spec: &str) -> String {
        match parse(spec) {
            Err(error) => error.to_string(),
            Ok(ports) => {
                let words = ports.iter().map(|port| {
                    let one = if port.one_target { "!" } else { "" };
                    format!("{port}{one} {}", port.publish_mode.as_str())
                });
                words.collect::<Vec<_>>().join(", ")
            }
        }
    }

    #[test]
    fn every_form_of_publish_is_read() {
        for (spec, expected) in [
            ("8080:80", "*:8080->80/tcp ingress"),
            ("80", "*:0->80/tcp ingress"),
            ("53:53/udp", "*:53->53/udp ingress"),
            ("8000-8001:80-81", "*:8000-8001->80-81/tcp ingress"),
            ("8000-9000:80", "*:8000-9000->80/tcp! ingress"),
            ("80-81", "*:0->80/tcp ingress, *:0->81/tcp ingress"),
            (
                "target=80,published=8080,protocol=sctp,mode=host",
                "*:8080->80/sctp host",
            ),
            (
                "published=8080,target=80,mode=ingress",
                "*:8080->80/tcp ingress",
            ),
        ] {
            assert_eq!(shown(spec), expected, "{spec}");
        }
    }

    #[test]
    fn what_is_no_port_of_a_service_is_named() {
        for (spec, part) in [
            ("127.0.0.1:8080:80", "all addresses of the host"),
            ("target=80,mode=swarm", "mode=ingress or mode=host"),
            ("8000-8001:80-82", "2 host ports for 3 container ports"),
            ("published=80", "no port specified"),
        ] {
            assert!(shown(spec).contains(part), "{spec}: {}", shown(spec));
        }
    }

    #[test]
    fn a_port_goes_by_its_target() {
        let ports: Vec<ServicePort> = ["8080:80", "53:53/udp", "8081:80"]
            .iter()
            .flat_map(|spec| parse(spec).unwrap())
            .collect();
        let left = |text: &str| {
            let left = without(&ports, text, "web");
            left.map(|left| {
                left.iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
                    .join(" ")
            })
        };
        assert_eq!(left("80").unwrap(), "*:53->53/udp");
        assert_eq!(left("8081:80").unwrap(), "*:8080->80/tcp *:53->53/udp");
        assert_eq!(
            left("53").unwrap_err().to_string(),
            "service web publishes no port 53"
        );
    }
}
