//! Refusals, and the only place where the specification's error codes are assigned.

use std::io;

use api::ErrorCode;
use api::client::ClientError;
use api::id::InvalidId;
use serde::Serialize;

use crate::version::Version;

#[derive(Debug, thiserror::Error)]
pub(crate) enum PluginError {
    #[error(
        "CNI_COMMAND is not set: this is a hawser CNI plugin, container runtimes run it with a command \
         in CNI_COMMAND and a network configuration on standard input"
    )]
    NotAPluginCall,
    #[error("CNI_COMMAND={0:?} is not a command: expected ADD, DEL, CHECK, GC, STATUS or VERSION")]
    UnknownCommand(String),
    #[error("{command} needs {}", variables.join(", "))]
    MissingVariables {
        command: &'static str,
        variables: Vec<&'static str>,
    },
    #[error("{variable}={value:?}: {reason}")]
    InvalidVariable {
        variable: &'static str,
        value: String,
        reason: String,
    },
    #[error("cannot read the network configuration from standard input: {0}")]
    ReadConfig(#[source] io::Error),
    #[error("the network configuration is not valid: {0}")]
    DecodeConfig(#[source] serde_json::Error),
    #[error(
        "cniVersion {found:?} is not supported: use one of {}",
        Version::SUPPORTED.map(Version::as_str).join(", ")
    )]
    UnsupportedVersion { found: String },
    #[error("{command} needs cniVersion {}, the network configuration says {}", since.as_str(), found.as_str())]
    CommandNeedsNewerVersion {
        command: &'static str,
        since: Version,
        found: Version,
    },
    #[error("network configuration: {key} = {value} is not supported; {way_out}")]
    UnsupportedField {
        key: String,
        value: String,
        way_out: &'static str,
    },
    #[error("network configuration: {key}: {reason}")]
    InvalidField { key: &'static str, reason: String },
    #[error("container {container} has no interface {ifname} on network {network}")]
    NotAttached {
        container: String,
        ifname: String,
        network: String,
    },
    #[error("interface {ifname} of container {container} {difference}")]
    Drifted {
        container: String,
        ifname: String,
        difference: String,
    },
    /// The daemon looked, and says what differs.
    #[error(transparent)]
    NotAsMade(ClientError),
    #[error("{failed} of {tried} stale attachments could not be removed; the first: {first}")]
    Collect {
        tried: usize,
        failed: usize,
        first: ClientError,
    },
    #[error("not ready: {0}")]
    NotReady(#[source] ClientError),
    /// Attachments that exist are concerned as well.
    #[error("not ready, and containers on the network may be cut off: {0}")]
    CutOff(#[source] ClientError),
    #[error(
        "the delegated plugin {plugin:?} is in none of the directories of CNI_PATH={path:?}: \
         install it, or correct ipam.type"
    )]
    NoDelegate { plugin: String, path: String },
    #[error("cannot run the delegated plugin {plugin:?}: {source}")]
    RunDelegate { plugin: String, source: io::Error },
    #[error("the delegated plugin {plugin:?} {reason}")]
    DelegateReply { plugin: String, reason: String },
    /// Its own words under its own code.
    #[error("delegated plugin {plugin:?}: {words}")]
    Delegate {
        plugin: String,
        code: u32,
        words: String,
    },
    /// Both parts of a removal failed.
    #[error("{first}; and {second}")]
    Several {
        first: Box<PluginError>,
        second: Box<PluginError>,
    },
    #[error(transparent)]
    Daemon(#[from] ClientError),
}

impl PluginError {
    pub(crate) fn field(key: &'static str, reason: impl ToString) -> Self {
        Self::InvalidField {
            key,
            reason: reason.to_string(),
        }
    }

    pub(crate) fn variable(variable: &'static str, value: &str, reason: impl ToString) -> Self {
        Self::InvalidVariable {
            variable,
            value: value.chars().take(64).collect(),
            reason: reason.to_string(),
        }
    }

    /// CNI specification 1.1, section 5, "Error"; from 100 on the numbers are our own
    /// (`docs/guides/cni.md` lists them).
    fn code(&self) -> u32 {
        match self {
            Self::UnsupportedVersion { .. } | Self::CommandNeedsNewerVersion { .. } => 1,
            Self::UnsupportedField { .. } => 2,
            Self::NotAttached { .. } => 3,
            Self::NotAPluginCall
            | Self::UnknownCommand(_)
            | Self::MissingVariables { .. }
            | Self::InvalidVariable { .. } => 4,
            Self::NoDelegate { .. } => 4,
            Self::ReadConfig(_) | Self::RunDelegate { .. } => 5,
            Self::DecodeConfig(_) | Self::DelegateReply { .. } => 6,
            Self::InvalidField { .. } => 7,
            Self::NotReady(_) => 50,
            Self::CutOff(_) => 51,
            Self::Delegate { code, .. } => *code,
            Self::Several { first, .. } => first.code(),
            Self::Drifted { .. } | Self::NotAsMade(_) => 105,
            Self::Daemon(error) | Self::Collect { first: error, .. } => daemon_code(error),
        }
    }

    /// A few words; the sentence is in `details`.
    fn title(&self) -> &'static str {
        if let Self::Delegate { .. } = self {
            return "delegated plugin failed";
        }
        match self.code() {
            1 => "incompatible CNI version",
            2 => "unsupported field in network configuration",
            3 => "container unknown",
            4 => "invalid environment variables",
            5 => "input/output error",
            6 => "cannot decode content",
            7 => "invalid network configuration",
            11 => "hawserd is not reachable, try again later",
            50 => "hawserd cannot serve ADD requests",
            51 => "hawserd cannot serve ADD requests, connectivity is limited",
            100 => "conflict",
            101 => "in use",
            102 => "exhausted",
            103 => "not supported on this host",
            105 => "attachment is not as it was made",
            _ => "hawserd failed",
        }
    }

    /// What happened first, and what happened while cleaning up after it.
    pub(crate) fn and(self, second: Result<(), Self>) -> Self {
        match second {
            Ok(()) => self,
            Err(second) => Self::Several {
                first: Box::new(self),
                second: Box::new(second),
            },
        }
    }

    pub(crate) fn to_reply(&self, version: Version) -> ErrorReply {
        ErrorReply {
            cni_version: version,
            code: self.code(),
            msg: self.title(),
            details: one_line(&self.to_string()),
        }
    }
}

/// Errors quote what they were given, keys of the configuration among it: control characters are
/// shown instead of passed on.
fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for character in text.chars() {
        match character.is_control() {
            true => line.extend(character.escape_default()),
            false => line.push(character),
        }
    }
    line
}

fn daemon_code(error: &ClientError) -> u32 {
    match error {
        ClientError::Host { .. } => 4,
        // It restarts or is upgraded; nothing the runtime did is wrong.
        ClientError::Connect { .. } | ClientError::Exchange { .. } => 11,
        ClientError::Reply { .. } => 6,
        ClientError::Api(refusal) => match refusal.code {
            ErrorCode::InvalidInput | ErrorCode::NotFound => 7,
            ErrorCode::Unavailable => 11,
            ErrorCode::Conflict => 100,
            ErrorCode::InUse => 101,
            ErrorCode::Exhausted => 102,
            ErrorCode::Unsupported => 103,
            ErrorCode::Internal => 104,
        },
    }
}

/// The error object of the specification.
#[derive(Debug, Serialize)]
pub(crate) struct ErrorReply {
    #[serde(rename = "cniVersion")]
    cni_version: Version,
    code: u32,
    msg: &'static str,
    details: String,
}

/// The reason part of an [`InvalidId`], which repeats the value itself.
pub(crate) fn invalid_id(key: &'static str) -> impl Fn(InvalidId) -> PluginError {
    move |error| PluginError::field(key, error)
}
