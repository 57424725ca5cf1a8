//! The result of the plugins before this one, as far as it is about our sandbox. Pure.

use std::net::IpAddr;

use api::net::EndpointAddress;
use ipnet::IpNet;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::command::Sandbox;
use crate::error::PluginError;

/// Programs in Go write empty lists as `null`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Previous {
    interfaces: Option<Vec<Interface>>,
    ips: Option<Vec<Address>>,
}

#[derive(Debug, Deserialize)]
struct Interface {
    name: String,
    #[serde(default)]
    sandbox: String,
    #[serde(default)]
    mac: String,
}

#[derive(Debug, Deserialize)]
struct Address {
    address: IpNet,
    gateway: Option<IpAddr>,
    interface: Option<usize>,
}

/// The interface that the call is about.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Own {
    pub(crate) mac: String,
    pub(crate) addresses: Vec<EndpointAddress>,
}

impl Previous {
    /// # Errors
    /// [`PluginError::InvalidField`] when it is not shaped like a result.
    pub(crate) fn parse(result: &Map<String, Value>) -> Result<Self, PluginError> {
        Self::deserialize(Value::Object(result.clone()))
            .map_err(|error| PluginError::field("prevResult", error))
    }

    /// The interface called `CNI_IFNAME` inside the sandbox, if some plugin made it.
    pub(crate) fn own(&self, sandbox: &Sandbox) -> Option<Own> {
        let interfaces = self.interfaces.as_deref().unwrap_or_default();
        let name = sandbox.interface.ifname.as_str();
        let at = interfaces
            .iter()
            .position(|interface| interface.name == name && interface.sandbox == sandbox.netns)?;
        let addresses = self.ips.iter().flatten().filter_map(|ip| {
            (ip.interface == Some(at)).then_some(EndpointAddress {
                address: ip.address,
                gateway: ip.gateway,
            })
        });
        Some(Own {
            mac: interfaces[at].mac.clone(),
            addresses: addresses.collect(),
        })
    }
}
