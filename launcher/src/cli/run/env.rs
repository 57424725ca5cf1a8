//! Environment and labels: `-e`, `--env-file`, `--label`, `--label-file`.

use std::collections::BTreeMap;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvError {
    #[error("invalid environment variable: {text:?}: the name is missing")]
    NoName { text: String },
    #[error("{file}: line {line}: {text:?} is no variable: its name is missing or has blanks")]
    FileName {
        file: String,
        line: usize,
        text: String,
    },
    #[error("{file}: line {line}: not UTF-8")]
    FileEncoding { file: String, line: usize },
    #[error("invalid environment variable or label: it holds a NUL byte")]
    Nul,
}

/// `KEY=VALUE` pairs where a later one replaces an earlier one in its place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment {
    pairs: Vec<String>,
}

impl Environment {
    pub fn new(pairs: Vec<String>) -> Self {
        let mut environment = Self::default();
        for pair in pairs {
            environment.set(pair);
        }
        environment
    }

    pub fn set(&mut self, pair: String) {
        let name = name_of(&pair);
        match self.pairs.iter_mut().find(|old| name_of(old) == name) {
            Some(old) => *old = pair,
            None => self.pairs.push(pair),
        }
    }

    pub fn unset(&mut self, name: &str) {
        self.pairs.retain(|pair| name_of(pair) != name);
    }

    pub fn into_pairs(self) -> Vec<String> {
        self.pairs
    }
}

fn name_of(pair: &str) -> &str {
    pair.split_once('=').map_or(pair, |(name, _)| name)
}

/// Applies `-e` values: `KEY=VALUE`, or `KEY` alone for the caller's own value, which unsets the
/// variable when the caller has none.
///
/// # Errors
/// [`EnvError`].
pub fn apply(
    environment: &mut Environment,
    values: &[String],
    own: impl Fn(&str) -> Option<String>,
) -> Result<(), EnvError> {
    for value in values {
        if value.contains('\0') {
            return Err(EnvError::Nul);
        }
        match value.split_once('=') {
            Some(("", _)) => {
                return Err(EnvError::NoName {
                    text: value.clone(),
                });
            }
            None if value.is_empty() => {
                return Err(EnvError::NoName {
                    text: value.clone(),
                });
            }
            Some(_) => environment.set(value.clone()),
            None => match own(value) {
                Some(own) => environment.set(format!("{value}={own}")),
                None => environment.unset(value),
            },
        }
    }
    Ok(())
}

/// The variables of an `--env-file`: one a line as `-e` takes them, `#` starts a comment line.
///
/// # Errors
/// [`EnvError`] names file and line.
pub fn parse_file(file: &str, content: &[u8]) -> Result<Vec<String>, EnvError> {
    let content = content.strip_prefix(b"\xef\xbb\xbf").unwrap_or(content);
    let mut values = Vec::new();
    for (at, line) in content.split(|byte| *byte == b'\n').enumerate() {
        let text = str::from_utf8(line).map_err(|_invalid| EnvError::FileEncoding {
            file: file.to_owned(),
            line: at + 1,
        })?;
        let text = text.strip_suffix('\r').unwrap_or(text).trim_start();
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        let name = name_of(text);
        if name.is_empty() || name.contains(char::is_whitespace) {
            return Err(EnvError::FileName {
                file: file.to_owned(),
                line: at + 1,
                text: text.to_owned(),
            });
        }
        values.push(text.to_owned());
    }
    Ok(values)
}

/// `KEY=VALUE` or `KEY` texts as a map; later ones win.
pub fn labels(values: &[String]) -> BTreeMap<String, String> {
    values
        .iter()
        .map(|value| value.split_once('=').unwrap_or((value, "")))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(name: &str) -> Option<String> {
        (name == "INHERIT").then(|| "host".to_owned())
    }

    #[test]
    fn flags_override_the_file_which_overrides_the_image() {
        let mut environment = Environment::new(vec!["PATH=/bin".into(), "A=image".into()]);
        let file = b"A=from file\n# comment\n\nB=2\nINHERIT\nGONE\r\n";
        let values = parse_file("env", file).unwrap();
        apply(&mut environment, &values, own).unwrap();
        let flags = ["B=override", "C=a=b", "PATH"].map(str::to_owned);
        apply(&mut environment, &flags, own).unwrap();
        assert_eq!(
            environment.into_pairs(),
            ["A=from file", "B=override", "INHERIT=host", "C=a=b"]
        );
    }

    #[test]
    fn nameless_variables_are_refused() {
        let mut environment = Environment::default();
        for bad in ["=x", "", "A=\0"] {
            assert!(apply(&mut environment, &[bad.to_owned()], own).is_err());
        }
        for bad in [&b"=x"[..], b"A B=1", b"\xff=1"] {
            assert!(parse_file("env", bad).is_err());
        }
        let error = parse_file("my.env", b"OK=1\nA B=1").unwrap_err();
        assert!(error.to_string().starts_with("my.env: line 2:"), "{error}");
    }

    #[test]
    fn labels_may_lack_a_value() {
        let labels = labels(&["a=1=2".into(), "b".into(), "a=3".into()]);
        assert_eq!(labels["a"], "3");
        assert_eq!(labels["b"], "");
    }
}
