//! The routes of the API socket, one file a noun. `api::path` documents them.

pub(crate) mod event;
pub(crate) mod image;
pub(crate) mod layer;
pub(crate) mod network;
pub(crate) mod rootfs;
pub(crate) mod service;
pub(crate) mod storage;
pub(crate) mod swarm;
pub(crate) mod system;
pub(crate) mod traffic;
pub(crate) mod volume;

use api::ApiError;
use axum::Json;
use axum::http::StatusCode;

use crate::failure::Failure;

/// A JSON reply or a refusal.
type Reply<T> = Result<Json<T>, Failure>;
/// A reply without content.
type Done = Result<StatusCode, Failure>;

/// For readings that cannot fail.
pub(crate) fn fine<T>(value: T) -> Result<T, ApiError> {
    Ok(value)
}
