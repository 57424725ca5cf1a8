//! Reads requests. Like axum's extractors, but what they refuse is an [`api::ApiError`], and the
//! media type does not matter.

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use crate::failure::Failure;

/// Longest body that is read whole; image configurations and long lists of ports fit.
pub(crate) const MAX_BODY_BYTES: usize = 8 << 20;

/// Segments of the path, unescaped.
pub(crate) struct Segments<T>(pub(crate) T);

/// The query.
pub(crate) struct Params<T>(pub(crate) T);

/// A JSON body; an empty one stands for `null`.
pub(crate) struct Content<T>(pub(crate) T);

impl<T, S> FromRequestParts<S> for Segments<T>
where
    T: DeserializeOwned + Send,
    S: Send + Sync,
{
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let Path(segments) = Path::from_request_parts(parts, state)
            .await
            .map_err(|error| Failure::invalid(format!("request path: {error}")))?;
        Ok(Self(segments))
    }
}

impl<T, S> FromRequestParts<S> for Params<T>
where
    T: DeserializeOwned + Send,
    S: Send + Sync,
{
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let Query(params) = Query::from_request_parts(parts, state)
            .await
            .map_err(|error| Failure::invalid(format!("request query: {error}")))?;
        Ok(Self(params))
    }
}

impl<T, S> FromRequest<S> for Content<T>
where
    T: DeserializeOwned + Send,
    S: Send + Sync,
{
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failure> {
        let body = Bytes::from_request(request, state)
            .await
            .map_err(|error| Failure::invalid(format!("request body: {error}")))?;
        let text = if body.is_empty() {
            b"null"
        } else {
            body.as_ref()
        };
        let content = serde_json::from_slice(text)
            .map_err(|error| Failure::invalid(format!("request body: {error}")))?;
        Ok(Self(content))
    }
}
