//! What goes through services and published ports.

use api::path;
use api::traffic::{TraceQuery, Traffic};
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};

use super::Reply;
use crate::daemon::Daemon;
use crate::extract::Params;
use crate::failure::Failure;
use crate::outgoing;

pub(crate) fn routes() -> Router<Daemon> {
    Router::new()
        .route(path::TRAFFIC, get(traffic))
        .route(path::TRACE, get(trace))
}

async fn traffic(State(daemon): State<Daemon>) -> Reply<Traffic> {
    daemon.run(|daemon| daemon.netd.traffic()).await.map(Json)
}

async fn trace(
    State(daemon): State<Daemon>,
    Params(query): Params<TraceQuery>,
) -> Result<Response, Failure> {
    let begin = move |daemon: &Daemon| daemon.netd.trace(&query);
    let tracing = daemon.clone().run(begin).await?;
    let body = outgoing::stream(daemon, move |_daemon, out| tracing.run(out));
    Ok(([(CONTENT_TYPE, "application/x-ndjson")], body).into_response())
}
