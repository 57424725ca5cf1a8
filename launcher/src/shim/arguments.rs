//! The shim's command line. Programs write it, so it is strict and small: long flags, each with
//! its value in the next argument.

use std::ffi::OsString;
use std::path::PathBuf;

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UsageError {
    #[error("unknown flag {flag:?}")]
    UnknownFlag { flag: String },
    #[error("{flag} needs a value")]
    NoValue { flag: String },
    #[error("{flag} is required")]
    Missing { flag: &'static str },
    #[error("{flag} {value:?}: expected an absolute path")]
    NotAbsolute { flag: &'static str, value: PathBuf },
    #[error("expected {expected}")]
    Words { expected: &'static str },
    #[error("argument {argument:?} is not valid UTF-8")]
    Encoding { argument: OsString },
}

/// The flags a verb knows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Grammar {
    pub(crate) options: &'static [&'static str],
    pub(crate) switches: &'static [&'static str],
}

#[derive(Debug, Default)]
pub(crate) struct Arguments {
    options: Vec<(&'static str, String)>,
    switches: Vec<&'static str>,
    words: Vec<String>,
}

impl Arguments {
    /// Everything after `--` is words.
    pub(crate) fn parse(
        arguments: impl IntoIterator<Item = OsString>,
        grammar: Grammar,
    ) -> Result<Self, UsageError> {
        let mut parsed = Self::default();
        let mut arguments = arguments.into_iter().map(|raw| {
            raw.into_string()
                .map_err(|argument| UsageError::Encoding { argument })
        });
        while let Some(argument) = arguments.next().transpose()? {
            if argument == "--" {
                for word in arguments.by_ref() {
                    parsed.words.push(word?);
                }
            } else if let Some(switch) = find(grammar.switches, &argument) {
                parsed.switches.push(switch);
            } else if let Some(option) = find(grammar.options, &argument) {
                let value = arguments.next().transpose()?;
                let value = value.ok_or(UsageError::NoValue { flag: argument })?;
                parsed.options.push((option, value));
            } else if argument.starts_with("--") {
                return Err(UsageError::UnknownFlag { flag: argument });
            } else {
                parsed.words.push(argument);
            }
        }
        Ok(parsed)
    }

    pub(crate) fn has(&self, switch: &str) -> bool {
        self.switches.contains(&switch)
    }

    pub(crate) fn value(&self, flag: &'static str) -> Option<&str> {
        self.values(flag).last()
    }

    pub(crate) fn values(&self, flag: &'static str) -> impl Iterator<Item = &str> {
        let given = self.options.iter().filter(move |(name, _)| *name == flag);
        given.map(|(_, value)| value.as_str())
    }

    pub(crate) fn required(&self, flag: &'static str) -> Result<&str, UsageError> {
        self.value(flag).ok_or(UsageError::Missing { flag })
    }

    /// A required absolute path.
    pub(crate) fn path(&self, flag: &'static str) -> Result<PathBuf, UsageError> {
        let value = PathBuf::from(self.required(flag)?);
        if value.is_absolute() {
            Ok(value)
        } else {
            Err(UsageError::NotAbsolute { flag, value })
        }
    }

    pub(crate) fn words(&self) -> &[String] {
        &self.words
    }
}

fn find(known: &[&'static str], argument: &str) -> Option<&'static str> {
    known.iter().copied().find(|flag| *flag == argument)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRAMMAR: Grammar = Grammar {
        options: &["--dir", "--env"],
        switches: &["--tty"],
    };

    fn parse(arguments: &[&str]) -> Result<Arguments, UsageError> {
        Arguments::parse(arguments.iter().map(OsString::from), GRAMMAR)
    }

    #[test]
    fn flags_words_and_the_rest_are_told_apart() {
        let parsed = parse(&[
            "exec", "--env", "A=1", "--tty", "--env", "--", "--", "ls", "--tty",
        ])
        .unwrap();
        assert_eq!(parsed.values("--env").collect::<Vec<_>>(), ["A=1", "--"]);
        assert!(parsed.has("--tty"));
        assert_eq!(parsed.words(), ["exec", "ls", "--tty"]);
    }

    #[test]
    fn mistakes_are_named() {
        let error = |arguments: &[&str]| parse(arguments).unwrap_err().to_string();
        assert_eq!(error(&["--no"]), "unknown flag \"--no\"");
        assert_eq!(error(&["--dir"]), "--dir needs a value");
        let parsed = parse(&["--dir", "x"]).unwrap();
        assert!(matches!(
            parsed.path("--dir"),
            Err(UsageError::NotAbsolute { .. })
        ));
        assert!(matches!(
            parsed.path("--env"),
            Err(UsageError::Missing { flag: "--env" })
        ));
    }
}
