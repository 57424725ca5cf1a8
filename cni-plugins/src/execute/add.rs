//! `ADD`: an interface of ours, or names and ports for one that an earlier plugin made.

use api::client::Client;
use api::net::Attachment;
use serde_json::Value;
use std::os::unix::process::parent_id;

use super::{Call, attach};
use crate::command::Sandbox;
use crate::config::{Config, decode};
use crate::delegate::Delegate;
use crate::error::PluginError;
use crate::host_link;
use crate::owner;
use crate::previous::Previous;
use crate::reply::{self, Parts};
use crate::request::{self, Caller, Given};

pub(super) fn add(
    daemon: &Client,
    call: &Call<'_>,
    sandbox: &Sandbox,
) -> Result<Value, PluginError> {
    let config: Config = decode(call.text)?;
    config.check_keys()?;
    config.target.check_name()?;
    let delegate = Delegate::of(&config.target, call.text, call.lookup)?;
    let given = given(&config, sandbox, delegate.as_ref())?;
    match connect(daemon, &config, sandbox, &given) {
        Ok(attachment) => Ok(result(config, given, &attachment, call)),
        Err(error) => match delegate {
            Some(delegate) => Err(error.and(delegate.pass_on("DEL"))),
            None => Err(error),
        },
    }
}

fn given(
    config: &Config,
    sandbox: &Sandbox,
    delegate: Option<&Delegate<'_>>,
) -> Result<Given, PluginError> {
    let previous = config.prev_result.as_ref().map(Previous::parse);
    let own = previous.transpose()?.and_then(|p| p.own(sandbox));
    match (own, delegate) {
        (Some(_), Some(_)) => {
            let reason = "the interface is an earlier plugin's, and has its addresses";
            Err(PluginError::field("ipam", reason))
        }
        (Some(own), None) => Ok(Given::Interface(own)),
        // Before anything is asked of the daemon: what cannot be met costs no address.
        (None, Some(delegate)) => {
            request::plain(config, sandbox)?;
            delegate.add().map(Given::Lease)
        }
        (None, None) => Ok(Given::Nothing),
    }
}

fn connect(
    daemon: &Client,
    config: &Config,
    sandbox: &Sandbox,
    given: &Given,
) -> Result<Attachment, PluginError> {
    let caller = Caller {
        owner: owner::of(&config.target, 1),
        process: parent_id(),
    };
    let asked = request::attach(config, sandbox, given, caller)?;
    let create = request::create(config, given)?;
    Ok(attach(daemon, &asked, create)?)
}

fn result(config: Config, given: Given, attachment: &Attachment, call: &Call<'_>) -> Value {
    let previous = config.prev_result;
    if let (Given::Interface(_), Some(previous)) = (&given, &previous) {
        return reply::passed_on(previous.clone(), attachment, &config.dns, call.version);
    }
    let host_links = attachment
        .host_ifname
        .as_ref()
        .map(|name| host_link::read(name.as_str()))
        .unwrap_or_default();
    let parts = Parts {
        attachment,
        host_links: &host_links,
        dns: &config.dns,
        previous,
    };
    reply::result(parts, call.version)
}
