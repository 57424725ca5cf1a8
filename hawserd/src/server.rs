//! The API socket and the volume-plugin socket.

use std::sync::Arc;
use std::time::Duration;

use api::{ApiError, ErrorCode};
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{Method, Uri};
use axum::middleware;
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

use crate::daemon::Daemon;
use crate::extract::MAX_BODY_BYTES;
use crate::failure::Failure;
use crate::request_log::{self, Peer};
use crate::{plugin, routes};

/// How long requests may go on after the daemon was told to stop.
pub(crate) const GRACE: Duration = Duration::from_secs(10);

/// Every route of the API socket.
pub(crate) fn api(daemon: Daemon) -> Router {
    let metrics = Arc::clone(&daemon.metrics);
    Router::new()
        .merge(routes::system::routes())
        .merge(routes::traffic::routes())
        .merge(routes::event::routes())
        .merge(routes::network::routes())
        .merge(routes::service::routes())
        .merge(routes::swarm::routes())
        .merge(routes::volume::routes())
        .merge(routes::image::routes())
        .merge(routes::rootfs::routes())
        .merge(routes::storage::routes())
        // What comes after this has a limit of its own.
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .merge(routes::layer::routes())
        .fallback(unknown_route)
        .method_not_allowed_fallback(wrong_method)
        .with_state(daemon)
        .layer(middleware::from_fn_with_state(metrics, request_log::log))
}

/// The volume-plugin protocol.
pub(crate) fn volume_plugin(daemon: Daemon) -> Router {
    let metrics = Arc::clone(&daemon.metrics);
    plugin::routes()
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(daemon)
        .layer(middleware::from_fn_with_state(metrics, request_log::log))
}

async fn unknown_route(method: Method, uri: Uri) -> Failure {
    let message = format!("no such route: {method} {}", uri.path());
    Failure(ApiError::new(ErrorCode::NotFound, message))
}

async fn wrong_method(method: Method, uri: Uri) -> Failure {
    Failure::invalid(format!("{} does not take {method}", uri.path()))
}

/// Serves until `stop`, then until the requests under way are answered.
pub(crate) async fn serve(listener: UnixListener, router: Router, stop: CancellationToken) {
    let service = router.into_make_service_with_connect_info::<Peer>();
    let served = axum::serve(listener, service).with_graceful_shutdown(stop.cancelled_owned());
    if let Err(error) = served.await {
        tracing::error!(%error, "socket is not served any more");
    }
}
