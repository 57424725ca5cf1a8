//! Root filesystems of containers.

use std::path::PathBuf;

use api::path;
use api::storage::{Layer, Rootfs, RootfsChange, RootfsCreate, RootfsMount, RootfsResize};
use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;

use super::{Done, Reply};
use crate::daemon::Daemon;
use crate::extract::{Content, Params, Segments};
use crate::failure::Failure;
use crate::outgoing;

pub(crate) fn routes() -> Router<Daemon> {
    let rootfs = format!("{}/{{container}}", path::ROOTFS);
    Router::new()
        .route(path::ROOTFS, post(create))
        .route(&rootfs, get(inspect).delete(remove))
        .route(&format!("{rootfs}/{}", path::ROOTFS_CHANGES), get(changes))
        .route(&format!("{rootfs}/{}", path::ROOTFS_ARCHIVE), get(archive))
        .route(&format!("{rootfs}/{}", path::ROOTFS_COMMIT), post(commit))
        .route(&format!("{rootfs}/{}", path::ROOTFS_RESIZE), post(resize))
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

async fn changes(
    State(daemon): State<Daemon>,
    Segments(container): Segments<String>,
) -> Reply<Vec<RootfsChange>> {
    daemon
        .run(move |daemon| daemon.storaged.rootfs_changes(&container))
        .await
        .map(Json)
}

async fn archive(
    State(daemon): State<Daemon>,
    Segments(container): Segments<String>,
) -> Result<Body, Failure> {
    let known = container.clone();
    daemon
        .clone()
        .run(move |daemon| daemon.storaged.rootfs(&known))
        .await?;
    Ok(outgoing::stream(daemon, move |daemon, out| {
        daemon.storaged.export_rootfs(&container, out)
    }))
}

async fn commit(
    State(daemon): State<Daemon>,
    Segments(container): Segments<String>,
) -> Reply<Layer> {
    daemon
        .run(move |daemon| daemon.storaged.commit_rootfs(&container))
        .await
        .map(Json)
}

async fn resize(
    State(daemon): State<Daemon>,
    Segments(container): Segments<String>,
    Content(request): Content<RootfsResize>,
) -> Reply<Rootfs> {
    daemon
        .run(move |daemon| {
            let options = &request.storage_opt;
            daemon.storaged.resize_rootfs(&container, options)
        })
        .await
        .map(Json)
}

/// Whom the files of a mounted root filesystem belong to.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct HowToMount {
    /// The ids that they have on disk, even if the container's users are others on the host.
    as_kept: bool,
    /// Nowhere, but for who listens at this socket.
    hand_to: Option<PathBuf>,
}

async fn mount(
    State(daemon): State<Daemon>,
    Segments(container): Segments<String>,
    Params(how): Params<HowToMount>,
) -> Reply<RootfsMount> {
    daemon
        .run(move |daemon| match how.hand_to {
            Some(socket) => daemon.storaged.hand_rootfs(&container, &socket),
            None if how.as_kept => daemon.storaged.mount_rootfs_as_kept(&container),
            None => daemon.storaged.mount_rootfs(&container),
        })
        .await
        .map(Json)
}

async fn unmount(State(daemon): State<Daemon>, Segments(container): Segments<String>) -> Done {
    daemon
        .run(move |daemon| daemon.storaged.unmount_rootfs(&container))
        .await?;
    Ok(StatusCode::NO_CONTENT)
}
