//! `--filter KEY=VALUE` of the listings and of `prune`.

use std::collections::BTreeMap;

use super::error::CliError;

/// Filters by key. A thing must pass every key; of several values of one key, one is enough, but
/// for labels, which must all be there, or with `label!` all be absent.
#[derive(Debug, Clone, Default)]
pub(crate) struct Filter {
    values: BTreeMap<String, Vec<String>>,
}

impl Filter {
    /// Reads `KEY=VALUE` texts whose keys must be among `keys`; `KEY!=VALUE` has the key `KEY!`.
    ///
    /// # Errors
    /// [`CliError::Filter`] names what is no filter.
    pub(crate) fn parse(texts: &[String], keys: &[&str]) -> Result<Self, CliError> {
        let mut values: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for text in texts {
            match text.split_once('=') {
                Some((key, value)) if keys.contains(&key) => {
                    let values = values.entry(key.to_owned()).or_default();
                    values.push(value.to_owned());
                }
                Some((key, _)) => return Err(CliError::Filter(key.to_owned())),
                None => return Err(CliError::Filter(text.clone())),
            }
        }
        Ok(Self { values })
    }

    /// The values of a key.
    pub(crate) fn get(&self, key: &str) -> &[String] {
        self.values.get(key).map(Vec::as_slice).unwrap_or_default()
    }

    /// The last value of a key that says yes or no.
    ///
    /// # Errors
    /// [`CliError::Filter`] when it says neither.
    pub(crate) fn truth(&self, key: &str) -> Result<Option<bool>, CliError> {
        match self.get(key).last().map(String::as_str) {
            None => Ok(None),
            Some("true" | "1" | "t") => Ok(Some(true)),
            Some("false" | "0" | "f") => Ok(Some(false)),
            Some(text) => Err(CliError::Filter(format!("{key}={text}"))),
        }
    }

    /// Whether a thing with these labels passes; `matches` decides on a key and a value of it.
    pub(crate) fn passes(
        &self,
        labels: &BTreeMap<String, String>,
        matches: impl Fn(&str, &str) -> bool,
    ) -> bool {
        self.values.iter().all(|(key, values)| match key.as_str() {
            "label" => values.iter().all(|label| has_label(labels, label)),
            "label!" => !values.iter().any(|label| has_label(labels, label)),
            key => values.iter().any(|value| matches(key, value)),
        })
    }
}

/// Part of a name; `^` and `$` tie it to the start and the end, as in Docker's expressions.
pub(crate) fn name_matches(name: &str, pattern: &str) -> bool {
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
pub(crate) fn has_label(labels: &BTreeMap<String, String>, wanted: &str) -> bool {
    match wanted.split_once('=') {
        Some((key, value)) => labels.get(key).is_some_and(|found| found == value),
        None => labels.contains_key(wanted),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_must_pass_and_every_label() {
        let labels = BTreeMap::from([("tier".to_owned(), "web".to_owned())]);
        let passes = |texts: &[&str]| {
            let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
            let filter = Filter::parse(&texts, &["name", "id", "label", "label!"]).unwrap();
            filter.passes(&labels, |key, value| key == "name" && value == "a")
        };
        assert!(passes(&[]));
        assert!(passes(&["name=b", "name=a", "label=tier"]));
        assert!(!passes(&["name=a", "id=1"]));
        assert!(!passes(&["label=tier", "label=other"]));
        assert!(passes(&["label!=tier=db"]));
        assert!(!passes(&["label!=tier"]));
    }

    #[test]
    fn a_truth_is_yes_or_no() {
        let filter = |text: &str| Filter::parse(&[text.to_owned()], &["dangling"]).unwrap();
        assert_eq!(filter("dangling=1").truth("dangling").unwrap(), Some(true));
        assert_eq!(filter("dangling=1").truth("other").unwrap(), None);
        let error = filter("dangling=maybe").truth("dangling").unwrap_err();
        assert_eq!(error.to_string(), "invalid filter \"dangling=maybe\"");
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
