//! Image references as users write them.
//!
//! Grammar: the OCI distribution specification's `<name>` and `<reference>`, with Docker's
//! shorthand: no tag means `latest`, and `docker.io/library/` goes without saying.

use std::fmt;

use crate::id::Digest;

/// The registry that a name without a host means.
pub const DEFAULT_HOST: &str = "docker.io";

/// A `repository:tag` or a `repository@digest` that names an image, normalized.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reference {
    repository: String,
    selector: Selector,
}

/// Which image of a repository.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Selector {
    /// The one that has the tag now.
    Tag(String),
    /// The one with this manifest, for ever.
    Digest(Digest),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidReference {
    #[error("invalid reference format: repository name {0:?} must be lowercase")]
    Uppercase(String),
    #[error(
        "invalid reference format: {0:?} is not [HOST[:PORT]/]NAME[:TAG] of [a-z0-9], '.', '_', '-' and '/'"
    )]
    Repository(String),
    #[error("invalid reference format: tag {0:?} is not [A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}}")]
    Tag(String),
    #[error("invalid reference format: {0:?} ends in no digest of the form sha256:…")]
    ManifestDigest(String),
}

const MAX_REPOSITORY: usize = 255;
const MAX_TAG: usize = 128;

impl Reference {
    /// # Errors
    /// [`InvalidReference`] says which part is wrong.
    pub fn parse(text: &str) -> Result<Self, InvalidReference> {
        let (named, digest) = match text.split_once('@') {
            None => (text, None),
            Some((named, digest)) => {
                let digest = Digest::parse(digest)
                    .map_err(|_invalid| InvalidReference::ManifestDigest(excerpt(text)))?;
                (named, Some(digest))
            }
        };
        // A colon after the last slash starts the tag; one before it belongs to a port.
        let name_at = named.rfind('/').map_or(0, |slash| slash + 1);
        let (repository, tag) = match named[name_at..].rfind(':') {
            Some(colon) => (&named[..name_at + colon], &named[name_at + colon + 1..]),
            None => (named, "latest"),
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
            // A digest says more than a tag beside it, which may have moved.
            selector: digest.map_or_else(|| Selector::Tag(tag.to_owned()), Selector::Digest),
        })
    }

    /// As people write it: without the default registry.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    pub fn selector(&self) -> &Selector {
        &self.selector
    }

    /// The same repository's image with this manifest.
    #[must_use]
    pub fn at_digest(&self, digest: Digest) -> Self {
        Self {
            repository: self.repository.clone(),
            selector: Selector::Digest(digest),
        }
    }

    /// The same repository's image with another tag, unless that is none.
    ///
    /// # Errors
    /// [`InvalidReference::Tag`].
    pub fn with_tag(&self, tag: &str) -> Result<Self, InvalidReference> {
        if !is_tag(tag) {
            return Err(InvalidReference::Tag(excerpt(tag)));
        }
        Ok(Self {
            repository: self.repository.clone(),
            selector: Selector::Tag(tag.to_owned()),
        })
    }

    /// The registry, with its port if it has one.
    pub fn host(&self) -> &str {
        split_host(&self.repository).0.unwrap_or(DEFAULT_HOST)
    }

    /// The repository's path in its registry, where official images have a name space too.
    pub fn path(&self) -> String {
        match split_host(&self.repository) {
            (Some(_), path) => path.to_owned(),
            (None, path) if path.contains('/') => path.to_owned(),
            (None, path) => format!("library/{path}"),
        }
    }
}

/// What was typed without the digest beside a tag, for people.
pub fn without_digest(typed: &str) -> &str {
    match typed.split_once('@') {
        Some((named, _)) if names_version(named) => named,
        _ => typed,
    }
}

/// As listings show it: with the tag that stands for none.
pub fn listed(typed: &str) -> String {
    match typed {
        "" => String::new(),
        typed if names_version(typed) => without_digest(typed).to_owned(),
        typed => format!("{typed}:latest"),
    }
}

/// Whether a tag or a digest was typed.
pub fn names_version(typed: &str) -> bool {
    let last = typed.rsplit('/').next().unwrap_or_default();
    last.contains([':', '@'])
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => f.write_str(tag),
            Self::Digest(digest) => write!(f, "{digest}"),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = match self.selector {
            Selector::Tag(_) => ':',
            Selector::Digest(_) => '@',
        };
        write!(f, "{}{mark}{}", self.repository, self.selector)
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
pub fn id_prefix(text: &str) -> Option<&str> {
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
    fn listings_show_the_tag_and_no_digest() {
        for (typed, shown) in [
            ("ubuntu", "ubuntu:latest"),
            ("r.example:5000/team/web", "r.example:5000/team/web:latest"),
            ("web:1", "web:1"),
            ("web:1@sha256:ab", "web:1"),
            ("web@sha256:ab", "web@sha256:ab"),
            ("", ""),
        ] {
            assert_eq!(listed(typed), shown);
        }
    }

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
            "web@",
            "@sha256:00",
            &"a/".repeat(200),
            &format!("a:{}", "t".repeat(129)),
        ] {
            assert!(Reference::parse(text).is_err(), "{text:?}");
        }
        let error = Reference::parse("UPPER:x").unwrap_err().to_string();
        assert!(error.contains("lowercase"), "{error}");
    }

    #[test]
    fn a_digest_says_more_than_a_tag() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        let reference = Reference::parse(&format!("host:5000/a/b:1@{digest}")).unwrap();
        assert_eq!(reference.to_string(), format!("host:5000/a/b@{digest}"));
        let tagged = reference.with_tag("v1").unwrap();
        assert_eq!(tagged.to_string(), "host:5000/a/b:v1");
        assert!(reference.with_tag("v 1").is_err());
    }

    #[test]
    fn a_registry_and_the_path_in_it() {
        for (text, host, path) in [
            ("web", "docker.io", "library/web"),
            ("me/web:1", "docker.io", "me/web"),
            ("localhost:5000/web", "localhost:5000", "web"),
            ("registry.example/a/b", "registry.example", "a/b"),
        ] {
            let reference = Reference::parse(text).unwrap();
            assert_eq!(
                (reference.host(), reference.path().as_str()),
                (host, path),
                "{text}"
            );
        }
    }

    #[test]
    fn a_port_is_no_version() {
        for (typed, expected) in [
            ("web", false),
            ("host:5000/web", false),
            ("host:5000/web:1", true),
            ("web@sha256:00", true),
        ] {
            assert_eq!(names_version(typed), expected, "{typed}");
        }
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
