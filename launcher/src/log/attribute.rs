//! Which labels and variables of a container go with its entries.

use std::collections::BTreeMap;

use regex::Regex;

use crate::container::Config;

/// `labels`, `labels-regex`, `env` and `env-regex`.
#[derive(Debug, Clone, Default)]
pub(crate) struct Chosen {
    pub(crate) labels: Names,
    pub(crate) variables: Names,
}

/// Names that are listed, and those that match.
#[derive(Debug, Clone, Default)]
pub(crate) struct Names {
    pub(crate) listed: Vec<String>,
    pub(crate) matching: Option<Regex>,
}

impl Names {
    fn have(&self, name: &str) -> bool {
        let matches = |regex: &Regex| regex.is_match(name);
        self.listed.iter().any(|listed| listed == name)
            || self.matching.as_ref().is_some_and(matches)
    }
}

impl Chosen {
    /// What the container has of them. A variable goes before a label of its name.
    pub(crate) fn of(&self, config: &Config) -> BTreeMap<String, String> {
        let labels = config.labels.iter();
        let labels = labels.filter(|(name, _)| self.labels.have(name));
        let labels = labels.map(|(name, value)| (name.clone(), value.clone()));
        let variables = config.env.iter().filter_map(|pair| pair.split_once('='));
        let variables = variables.filter(|(name, _)| self.variables.have(name));
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        labels.chain(variables).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_listed_or_match() {
        let config = Config {
            labels: [("tier", "web"), ("com.example.a", "1"), ("other", "2")]
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .into(),
            env: ["OS=linux", "PATH=/bin", "EMPTY="]
                .map(str::to_owned)
                .into(),
            ..Config::default()
        };
        let chosen = Chosen {
            labels: Names {
                listed: vec!["tier".to_owned(), "missing".to_owned()],
                matching: Some(Regex::new("^com\\.").unwrap()),
            },
            variables: Names {
                listed: vec!["OS".to_owned(), "EMPTY".to_owned()],
                matching: None,
            },
        };
        let found: Vec<String> = chosen
            .of(&config)
            .into_iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        assert_eq!(found, ["EMPTY=", "OS=linux", "com.example.a=1", "tier=web"]);
        assert!(Chosen::default().of(&config).is_empty());
    }
}
