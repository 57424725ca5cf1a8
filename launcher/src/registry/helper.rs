//! Credential helpers: programs `docker-credential-NAME` that keep secrets, with a verb as argument
//! and JSON on standard input and output (docker/docker-credential-helpers, "Development").

use std::io::Write;
use std::process::{Command, Stdio};

use serde::Deserialize;
use serde_json::json;

use super::credential::{Credential, named};
use super::error::RegistryError;

/// What every helper says of a registry it knows nothing of.
const NOT_FOUND: &str = "credentials not found in native keychain";

#[derive(Debug)]
pub(super) struct Helper {
    program: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

impl Helper {
    /// None if no program can be called so.
    pub(super) fn named(name: &str) -> Option<Self> {
        let is_name = !name.is_empty() && !name.contains(['/', '\0']);
        is_name.then(|| Self {
            program: format!("docker-credential-{name}"),
        })
    }

    pub(super) fn get(&self, key: &str) -> Result<Option<Credential>, RegistryError> {
        let output = match self.ask("get", key) {
            Err(RegistryError::Helper { reason, .. }) if reason.contains(NOT_FOUND) => {
                return Ok(None);
            }
            outcome => outcome?,
        };
        let answer: Answer = serde_json::from_slice(&output)
            .map_err(|error| self.failed(format!("its answer cannot be read: {error}")))?;
        Ok(named(&answer.username, &answer.secret))
    }

    pub(super) fn store(&self, key: &str, credential: &Credential) -> Result<(), RegistryError> {
        let (user, secret) = match credential {
            Credential::Password { user, password } => (user.as_str(), password),
            Credential::Token(token) => ("<token>", token),
        };
        let entry = json!({"ServerURL": key, "Username": user, "Secret": secret});
        self.ask("store", &entry.to_string()).map(drop)
    }

    pub(super) fn erase(&self, key: &str) -> Result<(), RegistryError> {
        match self.ask("erase", key) {
            Err(RegistryError::Helper { reason, .. }) if reason.contains(NOT_FOUND) => Ok(()),
            outcome => outcome.map(drop),
        }
    }

    fn ask(&self, verb: &str, input: &str) -> Result<Vec<u8>, RegistryError> {
        let mut child = Command::new(&self.program)
            .arg(verb)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| self.failed(format!("cannot be started: {error}")))?;
        if let Some(mut stdin) = child.stdin.take() {
            // One that ends without reading says why on its output.
            drop(stdin.write_all(input.as_bytes()));
        }
        let output = child
            .wait_with_output()
            .map_err(|error| self.failed(error.to_string()))?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        // Helpers complain on standard output.
        let complaint = [output.stdout, output.stderr].concat();
        let complaint = String::from_utf8_lossy(&complaint);
        Err(self.failed(complaint.split_whitespace().collect::<Vec<_>>().join(" ")))
    }

    fn failed(&self, reason: String) -> RegistryError {
        RegistryError::Helper {
            program: self.program.clone(),
            reason,
        }
    }
}
