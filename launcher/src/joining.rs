//! What a container's networks mean for each other: what each interface is called, and which
//! network publishes the ports.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use api::net::Network;

use crate::container::NetworkRequest;

/// Docker's option of a network; a number follows in the name of each interface.
const INTERFACE_PREFIX: &str = "com.docker.network.container_iface_prefix";
const DEFAULT_PREFIX: &str = "eth";

/// How one of a container's networks is joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joining {
    pub ifname: String,
    /// Whether the container's ports are published here.
    pub publishes: bool,
}

/// How a container that starts joins its networks, in their order.
pub fn all(asked: &[(&NetworkRequest, &Network)]) -> Vec<Joining> {
    let named = asked.iter().filter_map(|(request, _)| request.ifname());
    let mut taken: BTreeSet<String> = named.map(str::to_owned).collect();
    let publisher = publisher(asked);
    let mut joinings = Vec::new();
    for (index, (request, network)) in asked.iter().enumerate() {
        let ifname = match request.ifname() {
            Some(name) => name.to_owned(),
            None => free_interface(network, &taken),
        };
        taken.insert(ifname.clone());
        joinings.push(Joining {
            ifname,
            publishes: Some(index) == publisher,
        });
    }
    joinings
}

/// The first free name of the network's kind.
pub fn free_interface(network: &Network, taken: &BTreeSet<String>) -> String {
    let prefix = network.options.get(INTERFACE_PREFIX);
    let prefix = prefix.map_or(DEFAULT_PREFIX, String::as_str);
    // One more name than there are taken ones.
    (0..=taken.len())
        .map(|number| format!("{prefix}{number}"))
        .find(|name| !taken.contains(name))
        .unwrap_or_default()
}

/// Whether ports can be published on the network: on those that are made from an interface of the
/// host, containers are reached at their own addresses.
pub fn can_publish(network: &Network) -> bool {
    !matches!(network.driver.as_str(), "macvlan" | "ipvlan")
}

/// The network that publishes ports: the one that will carry the default route, so that answers
/// leave the way the questions came; one without a way out only if there is no other.
fn publisher(asked: &[(&NetworkRequest, &Network)]) -> Option<usize> {
    let fit = asked
        .iter()
        .enumerate()
        .filter(|(_, (_, n))| can_publish(n));
    let rank = |(request, network): &(&NetworkRequest, &Network)| {
        let priority = Reverse(request.gw_priority);
        (network.internal, priority, network.name.clone())
    };
    fit.min_by_key(|(_, joined)| rank(joined))
        .map(|(index, _)| index)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::container::IFNAME_OPTION;

    fn network(name: &str, driver: &str, prefix: Option<&str>) -> Network {
        let options = prefix.map(|prefix| (INTERFACE_PREFIX, prefix));
        let options: serde_json::Map<_, _> = options
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value.into()))
            .collect();
        serde_json::from_value(json!({
            "Name": name, "Id": "ab".repeat(32), "Created": "", "Scope": "local",
            "Driver": driver, "EnableIPv6": false, "IPAM": {}, "Internal": name == "vault",
            "Attachable": false, "Ingress": false, "ConfigFrom": {"Network": ""},
            "ConfigOnly": false, "Containers": {}, "Options": options, "Labels": {},
        }))
        .unwrap()
    }

    fn request(name: &str, gw_priority: i64, ifname: Option<&str>) -> NetworkRequest {
        let named = ifname.map(|ifname| (IFNAME_OPTION.to_owned(), ifname.to_owned()));
        NetworkRequest {
            network: name.to_owned(),
            gw_priority,
            driver_opts: named.into_iter().collect(),
            ..NetworkRequest::default()
        }
    }

    fn shown(asked: &[(NetworkRequest, Network)]) -> String {
        let asked: Vec<_> = asked.iter().map(|(r, n)| (r, n)).collect();
        let words = all(&asked).into_iter().map(|joining| {
            let mark = if joining.publishes { "!" } else { "" };
            format!("{}{mark}", joining.ifname)
        });
        words.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn interfaces_are_counted_by_prefix() {
        let asked = [
            (request("a", 0, None), network("a", "bridge", None)),
            (request("b", 0, None), network("b", "bridge", Some("lan"))),
            (request("c", 0, Some("eth1")), network("c", "bridge", None)),
            (request("d", 0, None), network("d", "bridge", None)),
            (request("e", 0, None), network("e", "bridge", Some("lan"))),
        ];
        assert_eq!(shown(&asked), "eth0! lan0 eth1 eth2 lan1");
    }

    #[test]
    fn ports_are_published_where_the_default_route_goes() {
        let joined = |names: &[(&str, i64, &str)]| {
            let asked: Vec<_> = names
                .iter()
                .map(|(name, priority, driver)| {
                    (request(name, *priority, None), network(name, driver, None))
                })
                .collect();
            shown(&asked)
        };
        let bridges = [("front", 0, "bridge"), ("back", 0, "bridge")];
        assert_eq!(joined(&bridges), "eth0 eth1!", "the first by name");
        let first = [("front", 1, "bridge"), ("back", 0, "bridge")];
        assert_eq!(joined(&first), "eth0! eth1");
        let last = [("front", 0, "bridge"), ("back", -1, "bridge")];
        assert_eq!(joined(&last), "eth0! eth1");
        let mixed = [("front", 9, "macvlan"), ("web", 0, "bridge")];
        assert_eq!(joined(&mixed), "eth0 eth1!");
        let internal = [("vault", 9, "bridge"), ("web", 0, "bridge")];
        assert_eq!(joined(&internal), "eth0 eth1!");
        assert_eq!(joined(&[("lan", 0, "ipvlan")]), "eth0", "nowhere");
    }
}
