//! Root filesystems of containers.

use api::path;
use api::storage::{Rootfs, RootfsCreate, RootfsMount};
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};

use super::{Done, Reply};
use crate::daemon::Daemon;
use crate::extract::{Content, Segments};

pub(crate) fn routes() -> Router<Daemon> {
    let rootfs = format!("{}/{{container}}", path::ROOTFS);
    Router::new()
        .route(path::ROOTFS, post(create))
        .route(&rootfs, get(inspect).delete(remove))
        .route(&format!("{rootfs}/mount"), post(mount))
        .route(&format!("{rootfs}/unmount"), post(unmount))
}

async fn create(
    State(daemon): State<Daemon>,
    Content(request): Content<RootfsCreate>,
) -> Reply<Rootfs> {
    daemon
        .run(|daemon| daemon.storaged.create_rootfs(request))
        .await
        .map(Json)
}

async fn inspect(
    State(daemon): State<Daemon>,
    Segments(container): Segments<String>,
) -> Reply<Rootfs> {
    daemon
        .run(move |daemon| daemon.storaged.rootfs(&container))
        .await
        .map(Json)
}

async fn remove(State(daemon): State<Daemon>, Segments(container): Segments<String>) -> Done {
    daemon
        .run(move |daemon| daemon.storaged.remove_rootfs(&container))
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn mount(
    State(daemon): State<Daemon>,
    Segments(container): Segments<String>,
) -> Reply<RootfsMount> {
    daemon
        .run(move |daemon| daemon.storaged.mount_rootfs(&container))
        .await
        .map(Json)
}

async fn unmount(State(daemon): State<Daemon>, Segments(container): Segments<String>) -> Done {
    daemon
        .run(move |daemon| daemon.storaged.unmount_rootfs(&container))
        .await?;
    Ok(StatusCode::NO_CONTENT)
}
