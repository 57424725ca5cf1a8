//! What goes through services and published ports.

use api::path;
use api::traffic::Traffic;
use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};

use super::Reply;
use crate::daemon::Daemon;

pub(crate) fn routes() -> Router<Daemon> {
    Router::new().route(path::TRAFFIC, get(traffic))
}

async fn traffic(State(daemon): State<Daemon>) -> Reply<Traffic> {
    daemon.run(|daemon| daemon.netd.traffic()).await.map(Json)
}
