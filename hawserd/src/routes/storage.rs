//! The store as a whole: its check, and what everything in it takes.

use api::path;
use api::storage::{StorageCheck, StorageReport, StorageUsage};
use axum::extract::State;
use axum::routing::{get, post};
use axum::{Json, Router};

use super::{Reply, fine};
use crate::daemon::Daemon;
use crate::extract::Content;

pub(crate) fn routes() -> Router<Daemon> {
    Router::new()
        .route(path::STORAGE_CHECK, post(check))
        .route(path::STORAGE_USAGE, get(usage))
}

async fn check(
    State(daemon): State<Daemon>,
    Content(request): Content<StorageCheck>,
) -> Reply<StorageReport> {
    daemon
        .run(move |daemon| daemon.storaged.check(&request))
        .await
        .map(Json)
}

async fn usage(State(daemon): State<Daemon>) -> Reply<StorageUsage> {
    daemon
        .run(|daemon| fine(daemon.storaged.usage()))
        .await
        .map(Json)
}
