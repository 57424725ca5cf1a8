//! Running a delegated plugin: address management by somebody else's program.
//!
//! It gets the environment and the configuration that we got (CNI specification, section 4).

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde::Deserialize;
use serde_json::Value;

use crate::command::Lookup;
use crate::config::Target;
use crate::error::PluginError;
use crate::lease::Lease;

/// A program that was found, and what it is to read.
#[derive(Debug)]
pub(crate) struct Delegate<'a> {
    plugin: &'a str,
    path: PathBuf,
    text: &'a [u8],
}

impl<'a> Delegate<'a> {
    /// The plugin that the configuration `text` delegates address management to, if it does.
    ///
    /// # Errors
    /// A type that is none, or that names no program in `CNI_PATH`.
    pub(crate) fn of(
        target: &'a Target,
        text: &'a [u8],
        lookup: Lookup<'_>,
    ) -> Result<Option<Self>, PluginError> {
        let Some(plugin) = delegated(target)? else {
            return Ok(None);
        };
        let dirs = lookup("CNI_PATH").unwrap_or_default();
        let path = std::env::split_paths(&dirs)
            .filter(|dir| dir.is_absolute())
            .map(|dir| dir.join(plugin))
            .find(|path| is_program(path))
            .ok_or_else(|| PluginError::NoDelegate {
                plugin: plugin.to_owned(),
                path: dirs,
            })?;
        Ok(Some(Self { plugin, path, text }))
    }

    /// Asks for addresses. What a failure may have left is released again.
    ///
    /// # Errors
    /// The delegate's own, under its own code.
    pub(crate) fn add(&self) -> Result<Lease, PluginError> {
        self.run("ADD")
            .and_then(|reply| self.lease(&reply))
            // The words of a second failure would hide the cause.
            .inspect_err(|_cause| drop(self.run("DEL")))
    }

    /// `DEL`, `CHECK`, `STATUS` and `GC`, which have no result.
    ///
    /// # Errors
    /// The delegate's own, under its own code.
    pub(crate) fn pass_on(&self, command: &'static str) -> Result<(), PluginError> {
        self.run(command).map(drop)
    }

    fn lease(&self, reply: &[u8]) -> Result<Lease, PluginError> {
        Lease::parse(reply).map_err(|error| self.bad_reply(format!("answered nonsense: {error}")))
    }

    fn run(&self, command: &'static str) -> Result<Vec<u8>, PluginError> {
        let output = self
            .execute(command)
            .map_err(|source| PluginError::RunDelegate {
                plugin: self.plugin.to_owned(),
                source,
            })?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        match serde_json::from_slice::<Refusal>(&output.stdout) {
            Ok(refusal) => Err(PluginError::Delegate {
                plugin: self.plugin.to_owned(),
                code: refusal.code,
                words: refusal.words(),
            }),
            Err(_no_error_object) => {
                let reason = format!("failed without saying why: {}", output.status);
                Err(self.bad_reply(reason))
            }
        }
    }

    fn execute(&self, command: &'static str) -> io::Result<Output> {
        let mut child = Command::new(&self.path)
            .env("CNI_COMMAND", command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            match stdin.write_all(self.text) {
                // It may refuse before it has read everything; its reply says why.
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error),
                _ => {}
            }
        }
        child.wait_with_output()
    }

    fn bad_reply(&self, reason: String) -> PluginError {
        PluginError::DelegateReply {
            plugin: self.plugin.to_owned(),
            reason,
        }
    }
}

/// The `ipam.type` of a configuration; an empty `ipam` delegates nothing.
fn delegated(target: &Target) -> Result<Option<&str>, PluginError> {
    let ipam = match &target.ipam {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Object(ipam)) if ipam.is_empty() => return Ok(None),
        Some(ipam) => ipam,
    };
    match ipam.get("type") {
        Some(Value::String(plugin)) => check_type(plugin).map(Some),
        _ => Err(PluginError::field("ipam.type", "missing, or no text")),
    }
}

/// Our own address management needs no delegation, and would give a second address.
const OWN: [&str; 2] = ["hawser", "hawser-ipam"];

fn check_type(plugin: &str) -> Result<&str, PluginError> {
    let refuse = |reason: &str| {
        Err(PluginError::field(
            "ipam.type",
            format!("{plugin:?} {reason}"),
        ))
    };
    if plugin.is_empty() || plugin.contains(['/', '\\', '\0']) || plugin.starts_with('.') {
        return refuse("is no name of a program");
    }
    if OWN.contains(&plugin) {
        return refuse("is what assigns addresses anyway: remove \"ipam\"");
    }
    Ok(plugin)
}

fn is_program(path: &Path) -> bool {
    let metadata = File::open(path).and_then(|file| file.metadata());
    metadata.is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}

#[derive(Deserialize)]
struct Refusal {
    code: u32,
    msg: String,
    #[serde(default)]
    details: String,
}

impl Refusal {
    fn words(self) -> String {
        if self.details.is_empty() {
            return self.msg;
        }
        format!("{}: {}", self.msg, self.details)
    }
}
