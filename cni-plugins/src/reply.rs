//! The result object of `ADD`, in the shape of the version that was asked for. Pure.

use api::net::Attachment;
use serde_json::{Map, Value, json};

use crate::config::StaticDns;
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
    let mut result = parts.previous.unwrap_or_default();
    result.insert("cniVersion".to_owned(), Value::from(version.as_str()));
    let interfaces = list(&mut result, "interfaces");
    for link in parts.host_links {
        interfaces.push(host_interface(link));
    }
    let index = interfaces.len();
    interfaces.push(sandbox_interface(parts.attachment, version));
    list(&mut result, "ips").extend(addresses(parts.attachment, index, version));
    list(&mut result, "routes").extend(routes(parts.attachment));
    result.insert("dns".to_owned(), dns(parts.attachment, parts.dns));
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
    if version.has_mtu() {
        interface.insert("mtu".to_owned(), Value::from(attachment.mtu));
    }
    Value::Object(interface)
}

fn addresses(
    attachment: &Attachment,
    interface: usize,
    version: Version,
) -> impl Iterator<Item = Value> + '_ {
    attachment.addresses.iter().map(move |entry| {
        let mut ip = Map::from_iter([
            ("address".to_owned(), Value::from(entry.address.to_string())),
            ("interface".to_owned(), Value::from(interface)),
        ]);
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

fn routes(attachment: &Attachment) -> impl Iterator<Item = Value> + '_ {
    attachment.routes.iter().map(|route| match route.gateway {
        Some(gateway) => json!({ "dst": route.dst, "gw": gateway }),
        None => json!({ "dst": route.dst }),
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
