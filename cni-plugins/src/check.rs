//! What `CHECK` compares once the daemon has checked the kernel: is the attachment still the one
//! that the runtime remembers? Pure.

use std::net::IpAddr;

use api::net::Attachment;
use ipnet::IpNet;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::command::Sandbox;
use crate::error::PluginError;

/// The part of a result that this plugin made.
#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Remembered {
    interfaces: Vec<Interface>,
    ips: Vec<Address>,
}

#[derive(Deserialize)]
struct Interface {
    name: String,
    #[serde(default)]
    sandbox: String,
}

#[derive(Deserialize)]
struct Address {
    address: IpNet,
    gateway: Option<IpAddr>,
    interface: Option<usize>,
}

/// Later plugins of a chain may have added to the result and to the sandbox; only what is
/// remembered of this plugin's own interface must still be there.
///
/// # Errors
/// A result that cannot be read, or [`PluginError::Drifted`] with the first difference.
pub(crate) fn compare(
    previous: Option<Map<String, Value>>,
    sandbox: &Sandbox,
    attachment: &Attachment,
) -> Result<(), PluginError> {
    let previous = previous.ok_or_else(|| PluginError::field("prevResult", "CHECK needs it"))?;
    let remembered = Remembered::deserialize(Value::Object(previous))
        .map_err(|error| PluginError::field("prevResult", error))?;
    let name = attachment.ifname.as_str();
    let own = remembered
        .interfaces
        .iter()
        .position(|interface| interface.name == name && interface.sandbox == sandbox.netns)
        .ok_or_else(|| drifted(attachment, "is not in prevResult"))?;
    if attachment.netns != sandbox.netns {
        let difference = format!("is in {}, not in {}", attachment.netns, sandbox.netns);
        return Err(drifted(attachment, difference));
    }
    let lost = remembered
        .ips
        .iter()
        .filter(|ip| ip.interface == Some(own))
        .find(|ip| !has(attachment, ip));
    match lost {
        Some(ip) => {
            let has = attachment
                .addresses
                .iter()
                .map(|entry| entry.address.to_string());
            let has = has.collect::<Vec<_>>().join(", ");
            let difference = format!("had address {}, it now has {has}", ip.address);
            Err(drifted(attachment, difference))
        }
        None => Ok(()),
    }
}

fn has(attachment: &Attachment, ip: &Address) -> bool {
    attachment.addresses.iter().any(|entry| {
        entry.address == ip.address && (ip.gateway.is_none() || entry.gateway == ip.gateway)
    })
}

fn drifted(attachment: &Attachment, difference: impl Into<String>) -> PluginError {
    PluginError::Drifted {
        container: attachment.container_id.clone(),
        ifname: attachment.ifname.to_string(),
        difference: difference.into(),
    }
}
