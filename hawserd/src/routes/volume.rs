//! Volumes.

use api::daemon::Pruned;
use api::path;
use api::storage::{Volume, VolumeCreate, VolumePopulate, VolumePrune};
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};

use super::{Done, Reply, fine};
use crate::daemon::Daemon;
use crate::extract::{Content, Segments};

pub(crate) fn routes() -> Router<Daemon> {
    let volume = format!("{}/{{name}}", path::VOLUMES);
    Router::new()
        .route(path::VOLUMES, get(list))
        .route(path::VOLUMES_CREATE, post(create))
        .route(path::VOLUMES_PRUNE, post(prune))
        .route(&volume, get(inspect).delete(remove))
        .route(
            &format!("{volume}/{}", path::VOLUME_POPULATE),
            post(populate),
        )
        .route(
            &format!("{volume}/{}/{{container}}", path::VOLUME_USERS),
            post(add_user).delete(remove_user),
        )
}

async fn list(State(daemon): State<Daemon>) -> Reply<Vec<Volume>> {
    daemon
        .run(|daemon| fine(daemon.storaged.volumes()))
        .await
        .map(Json)
}

async fn inspect(State(daemon): State<Daemon>, Segments(name): Segments<String>) -> Reply<Volume> {
    daemon
        .run(move |daemon| daemon.storaged.volume(&name))
        .await
        .map(Json)
}

async fn create(
    State(daemon): State<Daemon>,
    Content(request): Content<VolumeCreate>,
) -> Reply<Volume> {
    daemon
        .run(|daemon| daemon.storaged.create_volume(request))
        .await
        .map(Json)
}

async fn remove(State(daemon): State<Daemon>, Segments(name): Segments<String>) -> Done {
    daemon
        .run(move |daemon| daemon.storaged.remove_volume(&name))
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn prune(
    State(daemon): State<Daemon>,
    Content(request): Content<VolumePrune>,
) -> Reply<Pruned> {
    daemon
        .run(|daemon| daemon.storaged.prune_volumes(request))
        .await
        .map(Json)
}

async fn populate(
    State(daemon): State<Daemon>,
    Segments(name): Segments<String>,
    Content(request): Content<VolumePopulate>,
) -> Done {
    daemon
        .run(move |daemon| daemon.storaged.populate_volume(&name, request))
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn add_user(
    State(daemon): State<Daemon>,
    Segments((name, container)): Segments<(String, String)>,
) -> Done {
    daemon
        .run(move |daemon| daemon.storaged.add_volume_user(&name, &container))
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn remove_user(
    State(daemon): State<Daemon>,
    Segments((name, container)): Segments<(String, String)>,
) -> Done {
    daemon
        .run(move |daemon| daemon.storaged.remove_volume_user(&name, &container))
        .await?;
    Ok(StatusCode::NO_CONTENT)
}
