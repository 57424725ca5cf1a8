//! The result object of `ADD`, in the shape of the version that was asked for. Pure.

use api::net::{Attachment, Route};
use serde_json::{Map, Value, json};

use crate::config::StaticDns;
use crate::lease::CniRoute;
use crate::version::Version;

/// An interface on the host's side of an attachment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostLink {
    pub(crate) name: String,
    pub(crate) mac: Option<String>,
}

/// Everything a result is made of.
#[derive(Debug)]
pub(crate) struct Parts<'a> {
    pub(crate) attachment: &'a Attachment,
    /// The bridge first, then the host's end of the pair; what there is of them.
    pub(crate) host_links: &'a [HostLink],
    pub(crate) dns: &'a StaticDns,
    /// The result of the plugin before this one in the chain.
    pub(crate) previous: Option<Map<String, Value>>,
}

/// Adds the attachment to the previous result, or to none.
pub(crate) fn result(parts: Parts<'_>, version: Version) -> Value {
    if !version.has_interfaces() {
        return by_family(parts.attachment, parts.dns, version);
    }
    let mut result = parts.previous.unwrap_or_default();
    result.insert("cniVersion".to_owned(), Value::from(version.as_str()));
    let interfaces = list(&mut result, "interfaces");
    for link in parts.host_links {
        interfaces.push(host_interface(link));
    }
    let index = interfaces.len();
    interfaces.push(sandbox_interface(parts.attachment, version));
    list(&mut result, "ips").extend(addresses(parts.attachment, Some(index), version));
    list(&mut result, "routes").extend(routes(&parts.attachment.routes, version));
    result.insert("dns".to_owned(), dns(parts.attachment, parts.dns));
    Value::Object(result)
}

/// The result for an interface that an earlier plugin made: as it was, with a resolver if there was
/// none.
pub(crate) fn passed_on(
    mut previous: Map<String, Value>,
    attachment: &Attachment,
    fixed: &StaticDns,
    version: Version,
) -> Value {
    previous.insert("cniVersion".to_owned(), Value::from(version.as_str()));
    let has_resolver = previous
        .get("dns")
        .and_then(|dns| dns.get("nameservers"))
        .and_then(Value::as_array)
        .is_some_and(|servers| !servers.is_empty());
    if !has_resolver && !attachment.dns.nameservers.is_empty() {
        previous.insert("dns".to_owned(), dns(attachment, fixed));
    }
    Value::Object(previous)
}

/// The abbreviated result of a delegated plugin: no interfaces, and no word of one.
pub(crate) fn lease(attachment: &Attachment, fixed: &StaticDns, version: Version) -> Value {
    if !version.has_interfaces() {
        return by_family(attachment, fixed, version);
    }
    json!({
        "cniVersion": version,
        "ips": addresses(attachment, None, version).collect::<Vec<_>>(),
        "routes": routes(&attachment.routes, version).collect::<Vec<_>>(),
        "dns": dns(attachment, fixed),
    })
}

/// Before 0.3.0 a result had one address of each family, with its routes.
fn by_family(attachment: &Attachment, fixed: &StaticDns, version: Version) -> Value {
    let mut result = Map::from_iter([
        ("cniVersion".to_owned(), json!(version)),
        ("dns".to_owned(), dns(attachment, fixed)),
    ]);
    for (key, is_v6) in [("ip4", false), ("ip6", true)] {
        let mut entries = attachment.addresses.iter();
        let Some(entry) = entries.find(|entry| entry.address.addr().is_ipv6() == is_v6) else {
            continue;
        };
        let of_family = attachment.routes.iter();
        let of_family = of_family.filter(|route| route.dst.addr().is_ipv6() == is_v6);
        let of_family: Vec<Route> = of_family.copied().collect();
        let mut ip = Map::from_iter([
            ("ip".to_owned(), json!(entry.address)),
            (
                "routes".to_owned(),
                routes(&of_family, version).collect::<Value>(),
            ),
        ]);
        if let Some(gateway) = entry.gateway {
            ip.insert("gateway".to_owned(), json!(gateway));
        }
        result.insert(key.to_owned(), Value::Object(ip));
    }
    Value::Object(result)
}

/// The list `key` of `result`, made if it is missing or `null`.
fn list<'a>(result: &'a mut Map<String, Value>, key: &str) -> &'a mut Vec<Value> {
    let value = result.entry(key).or_insert(Value::Null);
    if !value.is_array() {
        *value = Value::Array(Vec::new());
    }
    match value {
        Value::Array(items) => items,
        _ => unreachable!("made an array above"),
    }
}

fn host_interface(link: &HostLink) -> Value {
    let mut interface = Map::from_iter([("name".to_owned(), Value::from(link.name.clone()))]);
    if let Some(mac) = &link.mac {
        interface.insert("mac".to_owned(), Value::from(mac.clone()));
    }
    Value::Object(interface)
}

fn sandbox_interface(attachment: &Attachment, version: Version) -> Value {
    let mut interface = Map::from_iter([
        ("name".to_owned(), Value::from(attachment.ifname.as_str())),
        ("sandbox".to_owned(), Value::from(attachment.netns.clone())),
    ]);
    if let Some(mac) = attachment.mac {
        interface.insert("mac".to_owned(), Value::from(mac.to_string()));
    }
    if version.has_details() {
        interface.insert("mtu".to_owned(), Value::from(attachment.mtu));
    }
    Value::Object(interface)
}

fn addresses(
    attachment: &Attachment,
    interface: Option<usize>,
    version: Version,
) -> impl Iterator<Item = Value> + '_ {
    attachment.addresses.iter().map(move |entry| {
        let address = Value::from(entry.address.to_string());
        let mut ip = Map::from_iter([("address".to_owned(), address)]);
        if let Some(interface) = interface {
            ip.insert("interface".to_owned(), Value::from(interface));
        }
        if let Some(gateway) = entry.gateway {
            ip.insert("gateway".to_owned(), Value::from(gateway.to_string()));
        }
        if version.has_address_family() {
            let family = if entry.address.addr().is_ipv4() {
                "4"
            } else {
                "6"
            };
            ip.insert("version".to_owned(), Value::from(family));
        }
        Value::Object(ip)
    })
}

fn routes(routes: &[Route], version: Version) -> impl Iterator<Item = Value> {
    routes.iter().map(CniRoute::from).map(move |route| {
        if version.has_details() {
            json!(route)
        } else {
            json!(route.plain())
        }
    })
}

/// Empty members are left out, as the reference library does.
fn dns(attachment: &Attachment, fixed: &StaticDns) -> Value {
    let dns = &attachment.dns;
    let mut object = Map::new();
    let lists = [
        ("nameservers", json!(dns.nameservers)),
        ("search", json!(dns.search)),
        ("options", json!(dns.options)),
    ];
    for (key, value) in lists {
        if value.as_array().is_some_and(|items| !items.is_empty()) {
            object.insert(key.to_owned(), value);
        }
    }
    if let Some(domain) = &fixed.domain {
        object.insert("domain".to_owned(), Value::from(domain.clone()));
    }
    Value::Object(object)
}
