//! `hawser ps --filter`.

use std::collections::BTreeMap;

use crate::cli::error::CliError;
use crate::container::Status;

use super::view::View;

/// Filters by key. A container must pass every key; of several values of one key, one is enough,
/// but for labels, which must all be there.
#[derive(Debug, Clone, Default)]
pub struct Filters {
    values: BTreeMap<String, Vec<String>>,
}

const KEYS: [&str; 11] = [
    "ancestor", "before", "exited", "expose", "id", "label", "name", "network", "since", "status",
    "volume",
];

impl Filters {
    /// # Errors
    /// [`CliError::Filter`] names what is no filter.
    pub fn parse(texts: &[String]) -> Result<Self, CliError> {
        let values = parse_pairs(texts, &KEYS)?;
        for status in values.get("status").into_iter().flatten() {
            let known = [
                "created",
                "running",
                "exited",
                "removing",
                "restarting",
                "paused",
                "dead",
            ];
            if !known.contains(&status.as_str()) {
                return Err(CliError::Filter(format!("status={status}")));
            }
        }
        for code in values.get("exited").into_iter().flatten() {
            if code.parse::<i32>().is_err() {
                return Err(CliError::Filter(format!("exited={code}")));
            }
        }
        Ok(Self { values })
    }

    /// A status or exit code is asked for, so containers that do not run are meant too.
    pub fn imply_all(&self) -> bool {
        self.values.contains_key("status") || self.values.contains_key("exited")
    }

    /// The containers that pass.
    ///
    /// # Errors
    /// `before` or `since` names no container.
    pub fn apply(&self, views: Vec<View>) -> Result<Vec<View>, CliError> {
        let before = self.created_of("before", &views)?;
        let since = self.created_of("since", &views)?;
        Ok(views
            .into_iter()
            .filter(|view| {
                before
                    .as_ref()
                    .is_none_or(|time| view.record.created < *time)
            })
            .filter(|view| {
                since
                    .as_ref()
                    .is_none_or(|time| view.record.created > *time)
            })
            .filter(|view| self.passes(view))
            .collect())
    }

    fn created_of(&self, key: &str, views: &[View]) -> Result<Option<String>, CliError> {
        let Some(wanted) = self.values.get(key).and_then(|values| values.last()) else {
            return Ok(None);
        };
        let found = views.iter().find(|view| {
            view.record.name.as_str() == wanted.trim_start_matches('/')
                || (!wanted.is_empty() && view.record.id.as_str().starts_with(wanted.as_str()))
        });
        match found {
            Some(view) => Ok(Some(view.record.created.clone())),
            None => Err(CliError::NoObject(wanted.clone())),
        }
    }

    fn passes(&self, view: &View) -> bool {
        self.values.iter().all(|(key, values)| match key.as_str() {
            "label" => values
                .iter()
                .all(|label| has_label(&view.record.config.labels, label)),
            "before" | "since" => true,
            _ => values.iter().any(|value| matches(key, value, view)),
        })
    }
}

fn matches(key: &str, value: &str, view: &View) -> bool {
    let record = &view.record;
    match key {
        "ancestor" => is_image(view, value),
        "exited" => {
            view.state.status == Status::Exited && view.state.exit_code.to_string() == value
        }
        "expose" => record
            .config
            .exposed_ports
            .keys()
            .any(|port| port == value || port.strip_suffix("/tcp") == Some(value)),
        "id" => record.id.as_str().starts_with(value),
        "name" => name_matches(record.name.as_str(), value),
        "network" => {
            view.networks().iter().any(|network| network == value)
                || view
                    .attachments
                    .iter()
                    .any(|a| !value.is_empty() && a.network_id.as_str().starts_with(value))
        }
        "status" => super::list::status_word(view.state.status) == value,
        "volume" => record.mounts.iter().any(|mount| {
            mount.name == value || mount.destination == value || mount.source == value
        }),
        _ => false,
    }
}

fn is_image(view: &View, value: &str) -> bool {
    let record = &view.record;
    let bare = |reference: &str| {
        let last = reference.rsplit('/').next().unwrap_or_default();
        if last.contains(':') {
            reference.to_owned()
        } else {
            format!("{reference}:latest")
        }
    };
    bare(&record.image) == bare(value)
        || record.image_id.as_str() == value
        || (value.len() >= 4 && record.image_id.hex().starts_with(value))
}

/// Part of a name; `^` and `$` tie it to the start and the end, as in Docker's expressions.
pub fn name_matches(name: &str, pattern: &str) -> bool {
    let (from_start, pattern) = match pattern.strip_prefix('^') {
        Some(rest) => (true, rest),
        None => (false, pattern),
    };
    let (to_end, pattern) = match pattern.strip_suffix('$') {
        Some(rest) => (true, rest),
        None => (false, pattern),
    };
    let pattern = pattern.strip_prefix('/').unwrap_or(pattern);
    match (from_start, to_end) {
        (true, true) => name == pattern,
        (true, false) => name.starts_with(pattern),
        (false, true) => name.ends_with(pattern),
        (false, false) => name.contains(pattern),
    }
}

/// `KEY`, or `KEY=VALUE`.
pub fn has_label(labels: &BTreeMap<String, String>, wanted: &str) -> bool {
    match wanted.split_once('=') {
        Some((key, value)) => labels.get(key).is_some_and(|found| found == value),
        None => labels.contains_key(wanted),
    }
}

/// Splits `KEY=VALUE` texts whose keys must be among `keys`.
///
/// # Errors
/// [`CliError::Filter`] names what is no filter.
pub fn parse_pairs(
    texts: &[String],
    keys: &[&str],
) -> Result<BTreeMap<String, Vec<String>>, CliError> {
    let mut values: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for text in texts {
        match text.split_once('=') {
            Some((key, value)) if keys.contains(&key) => {
                values
                    .entry(key.to_owned())
                    .or_default()
                    .push(value.to_owned());
            }
            Some((key, _)) => return Err(CliError::Filter(key.to_owned())),
            None => return Err(CliError::Filter(text.clone())),
        }
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_filter_is_named() {
        for (text, named) in [
            ("bogus=1", "\"bogus\""),
            ("name", "\"name\""),
            ("status=asleep", "\"status=asleep\""),
            ("exited=x", "\"exited=x\""),
        ] {
            let error = Filters::parse(&[text.to_owned()]).unwrap_err().to_string();
            assert_eq!(error, format!("invalid filter {named}"));
        }
    }

    #[test]
    fn a_name_filter_is_a_part_unless_tied() {
        for (pattern, expected) in [
            ("eb", true),
            ("^we", true),
            ("^web1$", true),
            ("/web", true),
            ("^eb", false),
            ("web$", false),
        ] {
            assert_eq!(name_matches("web1", pattern), expected, "{pattern}");
        }
    }

    #[test]
    fn a_label_filter_may_ask_for_a_value() {
        let labels = BTreeMap::from([("tier".to_owned(), "web".to_owned())]);
        assert!(has_label(&labels, "tier"));
        assert!(has_label(&labels, "tier=web"));
        assert!(!has_label(&labels, "tier=db"));
        assert!(!has_label(&labels, "web"));
    }
}
