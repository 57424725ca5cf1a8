//! An image's configuration: what OCI and Docker images say of themselves.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::cli::run::health;
use crate::cli::words::words;
use crate::container::{Empty, Healthcheck};

/// The configuration object, as far as it is used.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageConfig {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    pub architecture: String,
    pub os: String,
    #[serde(deserialize_with = "null_is_default")]
    pub config: Section,
    pub rootfs: RootFs,
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_is_default"
    )]
    pub history: Vec<History>,
}

/// What containers of the image start from.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Section {
    pub user: String,
    #[serde(deserialize_with = "null_is_default")]
    pub exposed_ports: BTreeMap<String, Empty>,
    #[serde(deserialize_with = "null_is_default")]
    pub env: Vec<String>,
    pub cmd: Option<Vec<String>>,
    #[serde(deserialize_with = "null_is_default")]
    pub volumes: BTreeMap<String, Empty>,
    pub working_dir: String,
    pub entrypoint: Option<Vec<String>>,
    #[serde(deserialize_with = "null_is_default")]
    pub labels: BTreeMap<String, String>,
    #[serde(deserialize_with = "null_is_default")]
    pub stop_signal: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RootFs {
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(deserialize_with = "null_is_default")]
    pub diff_ids: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct History {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    #[serde(skip_serializing_if = "is_false")]
    pub empty_layer: bool,
}

fn is_false(value: &bool) -> bool {
    !value
}

/// Go writes `null` for an empty list or map.
fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

impl ImageConfig {
    /// # Errors
    /// The text is no image configuration.
    pub fn parse(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }
}

/// Why a `-c` change cannot be applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    #[error(
        "unknown change {text:?}: expected CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, STOPSIGNAL, USER, VOLUME or WORKDIR"
    )]
    Unknown { text: String },
    #[error("change {text:?} has no value")]
    Empty { text: String },
    #[error("change {text:?}: {reason}")]
    Value { text: String, reason: String },
}

impl Section {
    /// Has what `other` says in place of its own.
    pub(crate) fn take_over(&mut self, other: Self) {
        let texts = [
            (&mut self.user, other.user),
            (&mut self.working_dir, other.working_dir),
            (&mut self.stop_signal, other.stop_signal),
        ];
        for (own, text) in texts {
            if !text.is_empty() {
                *own = text;
            }
        }
        for variable in other.env {
            let name = variable.split('=').next().unwrap_or_default();
            self.env.retain(|old| old.split('=').next() != Some(name));
            self.env.push(variable);
        }
        self.exposed_ports.extend(other.exposed_ports);
        self.volumes.extend(other.volumes);
        self.labels.extend(other.labels);
        self.cmd = other.cmd.or(self.cmd.take());
        self.entrypoint = other.entrypoint.or(self.entrypoint.take());
        self.healthcheck = other.healthcheck.or(self.healthcheck.take());
    }

    /// Applies one Dockerfile instruction of `--change`.
    ///
    /// # Errors
    /// [`ChangeError`] names the text.
    pub fn change(&mut self, text: &str) -> Result<(), ChangeError> {
        let (instruction, value) = text
            .trim()
            .split_once(char::is_whitespace)
            .map_or((text.trim(), ""), |(name, value)| (name, value.trim()));
        if value.is_empty() {
            return Err(ChangeError::Empty {
                text: text.to_owned(),
            });
        }
        let invalid = |reason: String| ChangeError::Value {
            text: text.to_owned(),
            reason,
        };
        match instruction.to_ascii_uppercase().as_str() {
            "CMD" => self.cmd = Some(command(value)),
            "ENTRYPOINT" => self.entrypoint = Some(command(value)),
            "ENV" => {
                for (name, value) in pairs(value).map_err(invalid)? {
                    self.env.retain(|old| !old.starts_with(&format!("{name}=")));
                    self.env.push(format!("{name}={value}"));
                }
            }
            "LABEL" => self.labels.extend(pairs(value).map_err(invalid)?),
            "EXPOSE" => {
                let specs: Vec<String> = value.split_whitespace().map(str::to_owned).collect();
                let ports = crate::cli::run::port::exposed(&specs)
                    .map_err(|error| invalid(error.to_string()))?;
                self.exposed_ports.extend(ports);
            }
            "HEALTHCHECK" => {
                self.healthcheck = Some(health::instruction(value, command).map_err(invalid)?);
            }
            "STOPSIGNAL" => {
                crate::cli::run::limit::signal(value)
                    .map_err(|error| invalid(error.to_string()))?;
                value.clone_into(&mut self.stop_signal);
            }
            "USER" => value.clone_into(&mut self.user),
            "VOLUME" => {
                for path in list(value) {
                    self.volumes.insert(path, Empty {});
                }
            }
            "WORKDIR" => {
                let path = std::path::Path::new("/")
                    .join(&self.working_dir)
                    .join(value);
                self.working_dir = path.display().to_string();
            }
            _ => {
                return Err(ChangeError::Unknown {
                    text: text.to_owned(),
                });
            }
        }
        Ok(())
    }
}

/// The exec form, a JSON list, or else the shell form.
fn command(value: &str) -> Vec<String> {
    json_list(value).unwrap_or_else(|| ["/bin/sh", "-c", value].map(str::to_owned).to_vec())
}

fn list(value: &str) -> Vec<String> {
    json_list(value).unwrap_or_else(|| value.split_whitespace().map(str::to_owned).collect())
}

fn json_list(value: &str) -> Option<Vec<String>> {
    serde_json::from_str(value).ok()
}

/// `NAME VALUE…`, or `NAME=VALUE …` with double quotes around blanks.
fn pairs(text: &str) -> Result<Vec<(String, String)>, String> {
    let first = text.split_whitespace().next().unwrap_or_default();
    if !first.contains('=') {
        let (name, value) = text
            .split_once(char::is_whitespace)
            .ok_or_else(|| format!("{text:?} has no value"))?;
        return Ok(vec![(name.to_owned(), value.trim().to_owned())]);
    }
    words(text)?
        .into_iter()
        .map(|word| match word.split_once('=') {
            Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
            _ => Err(format!("{word:?} is not NAME=VALUE")),
        })
        .collect()
}

/// The configuration of an image of one layer.
pub fn of_one_layer(
    diff_id: &str,
    section: Section,
    created: &str,
    message: Option<String>,
) -> ImageConfig {
    ImageConfig {
        created: Some(created.to_owned()),
        author: None,
        comment: message.clone(),
        architecture: api::daemon::host_architecture().to_owned(),
        os: "linux".to_owned(),
        config: section,
        rootfs: RootFs {
            kind: "layers".to_owned(),
            diff_ids: vec![diff_id.to_owned()],
        },
        history: vec![History {
            created: Some(created.to_owned()),
            created_by: None,
            comment: message,
            empty_layer: false,
        }],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_dockerfile_instructions() {
        let mut section = Section::default();
        for change in [
            "CMD [\"nginx\", \"-g\", \"daemon off;\"]",
            "entrypoint /start.sh --now",
            "ENV A=1 B=\"two words\"",
            "ENV A 3 4",
            "EXPOSE 80 53/udp",
            "LABEL tier=front",
            "USER app",
            "VOLUME /data /logs",
            "VOLUME [\"/more\"]",
            "WORKDIR /srv",
            "WORKDIR www",
            "STOPSIGNAL SIGQUIT",
        ] {
            section.change(change).unwrap();
        }
        assert_eq!(section.cmd.unwrap(), ["nginx", "-g", "daemon off;"]);
        assert_eq!(
            section.entrypoint.unwrap(),
            ["/bin/sh", "-c", "/start.sh --now"]
        );
        assert_eq!(section.env, ["B=two words", "A=3 4"]);
        let ports: Vec<_> = section.exposed_ports.into_keys().collect();
        assert_eq!(ports, ["53/udp", "80/tcp"]);
        let volumes: Vec<_> = section.volumes.into_keys().collect();
        assert_eq!(volumes, ["/data", "/logs", "/more"]);
        assert_eq!(section.labels["tier"], "front");
        assert_eq!(
            (section.user.as_str(), section.working_dir.as_str()),
            ("app", "/srv/www")
        );
        assert_eq!(section.stop_signal, "SIGQUIT");
    }

    #[test]
    fn bad_changes_are_named() {
        for (change, part) in [
            ("RUN ls", "unknown change"),
            ("CMD", "has no value"),
            ("ENV A", "has no value"),
            ("ENV A=1 B", "is not NAME=VALUE"),
            ("ENV A=\"1", "not closed"),
            ("EXPOSE http", "\"http\""),
            ("STOPSIGNAL LOUD", "invalid signal"),
        ] {
            let message = Section::default().change(change).unwrap_err().to_string();
            assert!(message.contains(part), "{change}: {message}");
        }
    }

    #[test]
    fn nulls_of_go_are_empty() {
        let text = r#"{"architecture":"amd64","os":"linux","config":{"Env":null,"Cmd":["sh"],
            "Labels":null,"ExposedPorts":null,"Volumes":null,"Unknown":1},
            "rootfs":{"type":"layers","diff_ids":["sha256:a"]},"history":null}"#;
        let config = ImageConfig::parse(text).unwrap();
        assert_eq!(config.config.cmd.unwrap(), ["sh"]);
        assert_eq!(ImageConfig::parse("{}").unwrap(), ImageConfig::default());
    }
}
