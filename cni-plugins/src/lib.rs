//! The CNI plugin: environment and standard input in, one call of the daemon, a reply out.
//!
//! The specification is at <https://www.cni.dev/docs/spec/>; this implements 0.1.0 to 1.1.0
//! ([`version`]). What the plugin understands of a configuration is in
//! `docs/guides/cni.md`.
//!
//! The plugin holds no state and no privileges of its own: addresses, ports and names are the
//! daemon's. It is started for every container, so start-up cost counts: no runtime, no threads,
//! and no connection beyond those a command needs.
//!
//! Invariants:
//! * Standard output carries the reply and nothing else, refusals included.
//! * `DEL` of what is gone succeeds, whatever else has gone with it.
//! * All decisions are pure ([`command`], [`config`], [`previous`], [`request`], [`lease`],
//!   [`reply`], [`check`]); [`execute`] and [`ipam`] talk to the daemon, [`delegate`] to other
//!   plugins.

mod check;
mod command;
mod config;
mod delegate;
mod error;
mod execute;
mod host_link;
mod ipam;
mod lease;
mod owner;
mod previous;
mod reply;
mod request;
mod version;

#[cfg(test)]
mod tests;

use std::io::{self, Read, Write};
use std::process::ExitCode;

use serde_json::{Value, json};

use command::Command;
use error::PluginError;
use execute::Call;
use version::Version;

/// Longest configuration that is read.
const MAX_INPUT_BYTES: u64 = 16 << 20;

/// What to print and how to exit.
#[derive(Debug)]
pub struct Outcome {
    /// For standard output; may be empty.
    pub reply: String,
    pub success: bool,
}

/// Which plugin this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// `hawser`, which makes interfaces.
    Interface,
    /// `hawser-ipam`, which others delegate address management to.
    AddressManagement,
}

/// The whole program: environment and standard input in, standard output and exit code out.
pub fn main(role: Role) -> ExitCode {
    let lookup = |name: &str| std::env::var(name).ok();
    let outcome = run(role, &lookup, &mut io::stdin().lock());
    let written = match outcome.reply.as_str() {
        "" => Ok(()),
        reply => writeln!(io::stdout().lock(), "{reply}"),
    };
    // A runtime that closed its end must not take a result it never read for a success.
    if outcome.success && written.is_ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Runs one call of the plugin.
///
/// `lookup` reads environment variables, `input` is the configuration.
pub fn run(role: Role, lookup: &dyn Fn(&str) -> Option<String>, input: &mut dyn Read) -> Outcome {
    let set = |name: &str| lookup(name).filter(|value| !value.is_empty());
    let mut version = Version::LATEST;
    match serve(role, &set, input, &mut version) {
        Ok(reply) => Outcome {
            reply: reply.map_or_else(String::new, |reply| reply.to_string()),
            success: true,
        },
        Err(error) => Outcome {
            // An object of texts and numbers always serializes.
            reply: serde_json::to_string(&error.to_reply(version)).unwrap_or_default(),
            success: false,
        },
    }
}

/// `version` becomes the configuration's as soon as it is known, for the error reply.
fn serve(
    role: Role,
    lookup: command::Lookup<'_>,
    input: &mut dyn Read,
    version: &mut Version,
) -> Result<Option<Value>, PluginError> {
    let command = Command::parse(lookup)?;
    let mut text = Vec::new();
    input
        .take(MAX_INPUT_BYTES)
        .read_to_end(&mut text)
        .map_err(PluginError::ReadConfig)?;
    if command == Command::Version {
        return versions(&text).map(Some);
    }
    let found = config::asked_version(&text)?;
    *version = Version::parse(&found).ok_or(PluginError::UnsupportedVersion { found })?;
    if *version < command.since() {
        return Err(PluginError::CommandNeedsNewerVersion {
            command: command.name(),
            since: command.since(),
            found: *version,
        });
    }
    let call = Call {
        text: &text,
        version: *version,
        lookup,
    };
    match role {
        Role::Interface => execute::execute(&command, &call),
        Role::AddressManagement => ipam::execute(&command, &call),
    }
}

/// Echoes the version asked in, whichever it is; runtimes probe with an empty input, too.
fn versions(text: &[u8]) -> Result<Value, PluginError> {
    let mut asked = String::new();
    if !text.trim_ascii().is_empty() {
        asked = config::asked_version(text)?;
    }
    if asked.is_empty() {
        Version::LATEST.as_str().clone_into(&mut asked);
    }
    Ok(json!({ "cniVersion": asked, "supportedVersions": Version::SUPPORTED }))
}
