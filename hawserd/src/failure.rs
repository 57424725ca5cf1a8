//! Every reply that is not a success is an [`ApiError`].

use api::{ApiError, ErrorCode};
use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

/// An error on its way out. The request log finds it in the response's extensions.
#[derive(Debug, Clone)]
pub(crate) struct Failure(pub(crate) ApiError);

impl Failure {
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self(ApiError::new(ErrorCode::InvalidInput, message))
    }

    /// A fault of ours. The details are in the log, where they help somebody.
    pub(crate) fn bug() -> Self {
        let message = "hawserd failed on this request and goes on; its log has the details";
        Self(ApiError::new(ErrorCode::Internal, message))
    }
}

impl<E: Into<ApiError>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.code.http_status());
        let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(&self.0)).into_response();
        response.extensions_mut().insert(self);
        response
    }
}
