//! Image references as users write them.
//!
//! Grammar: the OCI distribution specification's `<name>` and `<reference>`, with Docker's
//! shorthand: no tag means `latest`, and `docker.io/library/` goes without saying.

use std::fmt;

/// A `repository:tag` that names an image, normalized.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Reference {
    repository: String,
    tag: String,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidReference {
    #[error("invalid reference format: repository name {0:?} must be lowercase")]
    Uppercase(String),
    #[error(
        "invalid reference format: {0:?} is not [HOST[:PORT]/]NAME[:TAG] of [a-z0-9], '.', '_', '-' and '/'"
    )]
    Repository(String),
    #[error("invalid reference format: tag {0:?} is not [A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}}")]
    Tag(String),
    #[error(
        "invalid reference {0:?}: naming an image by manifest digest is not supported; use its tag or id"
    )]
    ManifestDigest(String),
}

const MAX_REPOSITORY: usize = 255;
const MAX_TAG: usize = 128;

impl Reference {
    pub(crate) fn parse(text: &str) -> Result<Self, InvalidReference> {
        if text.contains('@') {
            return Err(InvalidReference::ManifestDigest(excerpt(text)));
        }
        // A colon after the last slash starts the tag; one before it belongs to a port.
        let name_at = text.rfind('/').map_or(0, |slash| slash + 1);
        let (repository, tag) = match text[name_at..].rfind(':') {
            Some(colon) => (&text[..name_at + colon], &text[name_at + colon + 1..]),
            None => (text, "latest"),
        };
        if !is_tag(tag) {
            return Err(InvalidReference::Tag(excerpt(tag)));
        }
        let (host, path) = split_host(repository);
        if repository.len() > MAX_REPOSITORY || !path.split('/').all(is_component) {
            let error = if path.bytes().any(|b| b.is_ascii_uppercase()) {
                InvalidReference::Uppercase
            } else {
                InvalidReference::Repository
            };
            return Err(error(excerpt(repository)));
        }
        if !host.is_none_or(is_host) {
            return Err(InvalidReference::Repository(excerpt(repository)));
        }
        Ok(Self {
            repository: familiar(host, path),
            tag: tag.to_owned(),
        })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.repository, self.tag)
    }
}

/// The first component is a host when it could not be a repository's: with a dot, a colon, or
/// upper case, or `localhost`.
fn split_host(repository: &str) -> (Option<&str>, &str) {
    match repository.split_once('/') {
        Some((host, path))
            if host == "localhost"
                || host
                    .bytes()
                    .any(|b| matches!(b, b'.' | b':') || b.is_ascii_uppercase()) =>
        {
            (Some(host), path)
        }
        _ => (None, repository),
    }
}

fn familiar(host: Option<&str>, path: &str) -> String {
    match host {
        Some("docker.io" | "index.docker.io") | None => path
            .strip_prefix("library/")
            .filter(|rest| !rest.contains('/'))
            .unwrap_or(path)
            .to_owned(),
        Some(host) => format!("{host}/{path}"),
    }
}

fn is_host(host: &str) -> bool {
    let (name, port) = host
        .split_once(':')
        .map_or((host, None), |(name, port)| (name, Some(port)));
    !name.is_empty()
        && name.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-')
        })
        && port.is_none_or(|port| port.parse::<u16>().is_ok())
}

/// Lower-case alphanumerics, parted by one dot, one or two underscores, or any hyphens.
fn is_component(text: &str) -> bool {
    let alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    bytes.first().is_some_and(alphanumeric)
        && bytes.last().is_some_and(alphanumeric)
        && bytes.split(alphanumeric).all(|separator| {
            matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|b| *b == b'-')
        })
}

fn is_tag(text: &str) -> bool {
    let mut bytes = text.bytes();
    text.len() <= MAX_TAG
        && bytes
            .next()
            .is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

/// The hexadecimal digits that `text` could be the start of an image id of.
pub(crate) fn id_prefix(text: &str) -> Option<&str> {
    let digits = text.strip_prefix("sha256:").unwrap_or(text);
    let hex = digits
        .bytes()
        .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    (hex && (1..=64).contains(&digits.len())).then_some(digits)
}

fn excerpt(text: &str) -> String {
    text.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_normalize() {
        for (text, normal) in [
            ("web", "web:latest"),
            ("web:v1", "web:v1"),
            ("library/web", "web:latest"),
            ("docker.io/library/web:1", "web:1"),
            ("docker.io/me/web", "me/web:latest"),
            (
                "registry.example:5000/team/app:v2",
                "registry.example:5000/team/app:v2",
            ),
            ("localhost/app", "localhost/app:latest"),
            ("localhost:5000/app", "localhost:5000/app:latest"),
            ("a-b__c/e.f--g:X_1", "a-b__c/e.f--g:X_1"),
        ] {
            assert_eq!(
                Reference::parse(text).unwrap().to_string(),
                normal,
                "{text}"
            );
        }
    }

    #[test]
    fn bad_references_are_refused() {
        for text in [
            "",
            ":",
            "web:",
            ":v1",
            "UPPER:x",
            "a b",
            "a/",
            "/a",
            "a//b",
            "-a",
            "a-",
            "a..b",
            "../a",
            "a:b:c",
            "a:-x",
            "h.x:99999999/a",
            "a\0",
            "web@sha256:00",
            &"a/".repeat(200),
            &format!("a:{}", "t".repeat(129)),
        ] {
            assert!(Reference::parse(text).is_err(), "{text:?}");
        }
        let error = Reference::parse("UPPER:x").unwrap_err().to_string();
        assert!(error.contains("lowercase"), "{error}");
    }

    #[test]
    fn id_prefixes_are_hexadecimal() {
        assert_eq!(id_prefix("sha256:0a"), Some("0a"));
        assert_eq!(id_prefix("0a"), Some("0a"));
        for text in ["", "sha256:", "xyz", "0A", &"0".repeat(65)] {
            assert_eq!(id_prefix(text), None, "{text}");
        }
    }
}
