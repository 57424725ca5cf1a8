//! The environment of a call: which command, for which sandbox.

use api::id::IfName;

use crate::error::PluginError;
use crate::version::Version;

/// Looks up one environment variable; unset and empty mean the same.
pub(crate) type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Command {
    Add(Sandbox),
    Del(Gone),
    Check(Sandbox),
    Gc,
    Status,
    Version,
}

/// One interface of one container: what an attachment is keyed by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Interface {
    pub(crate) container_id: String,
    pub(crate) ifname: IfName,
}

/// What `DEL` is about: its namespace may be gone, or be none of the runtime's business any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Gone {
    pub(crate) interface: Interface,
    pub(crate) netns: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sandbox {
    pub(crate) interface: Interface,
    /// Absolute path of the network namespace.
    pub(crate) netns: String,
    pub(crate) args: Args,
}

/// What is understood of `CNI_ARGS`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Args {
    pub(crate) ip: Option<String>,
    pub(crate) mac: Option<String>,
    pub(crate) pod_name: Option<String>,
    pub(crate) pod_namespace: Option<String>,
}

impl Command {
    /// # Errors
    /// What is missing or malformed, all missing variables at once.
    pub(crate) fn parse(lookup: Lookup<'_>) -> Result<Self, PluginError> {
        let name = lookup("CNI_COMMAND").ok_or(PluginError::NotAPluginCall)?;
        match name.as_str() {
            "ADD" => Ok(Self::Add(Sandbox::parse("ADD", lookup)?)),
            "DEL" => {
                require("DEL", &["CNI_CONTAINERID", "CNI_IFNAME"], lookup)?;
                Ok(Self::Del(Gone {
                    interface: Interface::parse(lookup)?,
                    netns: lookup("CNI_NETNS"),
                }))
            }
            "CHECK" => Ok(Self::Check(Sandbox::parse("CHECK", lookup)?)),
            "GC" => Ok(Self::Gc),
            "STATUS" => Ok(Self::Status),
            "VERSION" => Ok(Self::Version),
            _ => Err(PluginError::UnknownCommand(name.chars().take(64).collect())),
        }
    }

    /// As in `CNI_COMMAND`.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Add(_) => "ADD",
            Self::Del(_) => "DEL",
            Self::Check(_) => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }

    /// The version of the specification that it came with.
    pub(crate) fn since(&self) -> Version {
        match self {
            Self::Add(_) | Self::Del(_) | Self::Version => Version::V0_1_0,
            Self::Check(_) => Version::V0_4_0,
            Self::Gc | Self::Status => Version::V1_1_0,
        }
    }
}

impl Sandbox {
    fn parse(command: &'static str, lookup: Lookup<'_>) -> Result<Self, PluginError> {
        let needed = ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"];
        require(command, &needed, lookup)?;
        let netns = lookup("CNI_NETNS").unwrap_or_default();
        if !netns.starts_with('/') {
            let reason = "expected the absolute path of a network namespace";
            return Err(PluginError::variable("CNI_NETNS", &netns, reason));
        }
        Ok(Self {
            interface: Interface::parse(lookup)?,
            netns,
            args: Args::parse(&lookup("CNI_ARGS").unwrap_or_default())?,
        })
    }
}

fn require(
    command: &'static str,
    variables: &[&'static str],
    lookup: Lookup<'_>,
) -> Result<(), PluginError> {
    let missing = variables
        .iter()
        .copied()
        .filter(|variable| lookup(variable).is_none())
        .collect::<Vec<_>>();
    if missing.is_empty() {
        return Ok(());
    }
    Err(PluginError::MissingVariables {
        command,
        variables: missing,
    })
}

impl Interface {
    fn parse(lookup: Lookup<'_>) -> Result<Self, PluginError> {
        let container_id = lookup("CNI_CONTAINERID").unwrap_or_default();
        if !is_container_id(&container_id) {
            let reason = "expected [a-zA-Z0-9][a-zA-Z0-9_.-]*";
            return Err(PluginError::variable(
                "CNI_CONTAINERID",
                &container_id,
                reason,
            ));
        }
        let ifname = lookup("CNI_IFNAME").unwrap_or_default();
        let ifname = IfName::parse(&ifname)
            .map_err(|error| PluginError::variable("CNI_IFNAME", &ifname, error))?;
        Ok(Self {
            container_id,
            ifname,
        })
    }
}

/// CNI specification, section 2, "Parameters", `CNI_CONTAINERID`.
fn is_container_id(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphanumeric())
        && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

impl Args {
    /// `KEY=VALUE;…`. Keys nobody knows are refused unless `IgnoreUnknown` is set, as in the
    /// reference plugins.
    fn parse(text: &str) -> Result<Self, PluginError> {
        let invalid = |reason: String| PluginError::variable("CNI_ARGS", text, reason);
        let mut args = Self::default();
        let mut ignores_unknown = false;
        let mut unknown = None;
        for pair in text.split(';').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair
                .split_once('=')
                .ok_or_else(|| invalid(format!("{pair:?} is not KEY=VALUE")))?;
            let value = Some(value.to_owned()).filter(|value| !value.is_empty());
            match key {
                "IP" => args.ip = value,
                "MAC" => args.mac = value,
                "K8S_POD_NAME" => args.pod_name = value,
                "K8S_POD_NAMESPACE" => args.pod_namespace = value,
                "IgnoreUnknown" => {
                    ignores_unknown = matches!(value.as_deref(), Some("1" | "true" | "True"));
                }
                _ if key.starts_with("K8S_POD_") => {}
                _ => unknown = unknown.or(Some(key)),
            }
        }
        match unknown {
            Some(key) if !ignores_unknown => Err(invalid(format!(
                "unknown key {key:?}; add IgnoreUnknown=1 to pass it over"
            ))),
            _ => Ok(args),
        }
    }
}
