//! The one error of the wire, and the only place where HTTP statuses are assigned.

use serde::{Deserialize, Serialize};

/// What kind of refusal this is. Clients branch on it; people read the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The request is malformed or asks for something impossible. Nothing was changed.
    InvalidInput,
    /// The subject does not exist.
    NotFound,
    /// The subject exists already, or clashes with something that does.
    Conflict,
    /// The subject is used by somebody; the message says by whom.
    InUse,
    /// No address, port, space or quota is left.
    Exhausted,
    /// What the request needs is not supported by this host or this version.
    Unsupported,
    /// The daemon cannot do it now; trying again may help.
    Unavailable,
    /// A fault of the daemon or the kernel.
    Internal,
}

impl ErrorCode {
    pub fn http_status(self) -> u16 {
        match self {
            Self::InvalidInput => 400,
            Self::NotFound => 404,
            Self::Conflict | Self::InUse => 409,
            Self::Unsupported => 501,
            Self::Exhausted => 507,
            Self::Unavailable => 503,
            Self::Internal => 500,
        }
    }

    /// The code of a reply that carries none, such as one from a proxy in between.
    pub fn from_http_status(status: u16) -> Self {
        match status {
            404 => Self::NotFound,
            409 => Self::Conflict,
            501 => Self::Unsupported,
            503 => Self::Unavailable,
            507 => Self::Exhausted,
            400..=499 => Self::InvalidInput,
            _ => Self::Internal,
        }
    }
}

/// The body of every reply that is not 2xx.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    pub code: ErrorCode,
    /// One line that names the subject and, where there is one, the way out.
    pub message: String,
}

impl ApiError {
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }
}
