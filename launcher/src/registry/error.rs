//! What an exchange with a registry fails with.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use api::id::Digest;

#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error("cannot reach registry {host}: {source}")]
    Reach { host: String, source: ureq::Error },
    #[error("{host}: {op}: {source}")]
    Exchange {
        host: String,
        op: &'static str,
        source: io::Error,
    },
    #[error("{host} answered {status} to {what}{message}")]
    Status {
        host: String,
        what: String,
        status: u16,
        /// Empty, or the registry's own words after a colon.
        message: String,
        /// How long it wants to be left alone.
        retry_after: Option<Duration>,
    },
    #[error("{what} not found in {host}: manifest unknown")]
    NotFound { host: String, what: String },
    #[error("access to {repository} denied: it does not exist, or may require hawser login {host}")]
    Denied { host: String, repository: String },
    #[error("login to {host} refused: incorrect username or password")]
    Login { host: String },
    #[error("{host}: {reason}")]
    Protocol { host: String, reason: String },
    #[error("{what} from {host} is {actual} instead of {wanted}: it is damaged or forged")]
    Digest {
        host: String,
        what: &'static str,
        wanted: Digest,
        actual: Digest,
    },
    #[error("{what} from {host} is larger than {limit} bytes")]
    TooLarge {
        host: String,
        what: &'static str,
        limit: u64,
    },
    #[error("{what} from {host} cannot be read: {source}")]
    Json {
        host: String,
        what: &'static str,
        source: serde_json::Error,
    },
    #[error("{reference}: no image for {platform}; there are: {known}")]
    Platform {
        reference: String,
        platform: String,
        known: String,
    },
    #[error("{reference} is no container image but {kind}")]
    NoImage { reference: String, kind: String },
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{} is no configuration of logins: {source}", path.display())]
    Config {
        path: PathBuf,
        source: serde_json::Error,
    },
    #[error("{}: {reason}", path.display())]
    Certificate { path: PathBuf, reason: String },
    #[error("credential helper {program}: {reason}")]
    Helper { program: String, reason: String },
    #[error("invalid platform {0:?}: expected OS/ARCHITECTURE[/VARIANT], such as linux/arm64")]
    BadPlatform(String),
}

impl RegistryError {
    /// Whether the same again may succeed: the network or the server failed, nobody refused.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Reach { .. } | Self::Exchange { .. } => true,
            Self::Status { status, .. } => is_transient(*status),
            _ => false,
        }
    }

    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// Too many requests, and what servers and the proxies before them answer while they are busy.
pub(super) fn is_transient(status: u16) -> bool {
    matches!(status, 408 | 429 | 500 | 502 | 503 | 504)
}
