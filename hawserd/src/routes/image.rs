//! Images.

use api::ApiError;
use api::daemon::Pruned;
use api::path;
use api::storage::{Image, ImageCreate, ImagePrune};
use axum::extract::State;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;

use super::{Reply, fine};
use crate::daemon::Daemon;
use crate::extract::{Content, Params, Segments};

pub(crate) fn routes() -> Router<Daemon> {
    Router::new()
        .route(path::IMAGES, get(list).post(create))
        .route(path::IMAGES_PRUNE, post(prune))
        .route(
            &format!("{}/{{reference}}", path::IMAGES),
            get(inspect).delete(remove),
        )
}

async fn list(State(daemon): State<Daemon>) -> Reply<Vec<Image>> {
    daemon
        .run(|daemon| fine(daemon.storaged.images()))
        .await
        .map(Json)
}

async fn inspect(
    State(daemon): State<Daemon>,
    Segments(reference): Segments<String>,
) -> Reply<Image> {
    daemon
        .run(move |daemon| daemon.storaged.image(&reference))
        .await
        .map(Json)
}

async fn create(
    State(daemon): State<Daemon>,
    Content(request): Content<ImageCreate>,
) -> Reply<Image> {
    daemon
        .run(|daemon| daemon.storaged.create_image(request))
        .await
        .map(Json)
}

async fn prune(
    State(daemon): State<Daemon>,
    Content(request): Content<ImagePrune>,
) -> Reply<Pruned> {
    daemon
        .run(move |daemon| {
            let pruned = daemon.storaged.prune_images(&request)?;
            daemon.told_of_removed_images(&pruned.deleted);
            Ok::<_, ApiError>(pruned)
        })
        .await
        .map(Json)
}

#[derive(Deserialize)]
struct Removal {
    #[serde(default)]
    force: bool,
}

/// Answers what happened, a line each: `Untagged: …`, `Deleted: …`.
async fn remove(
    State(daemon): State<Daemon>,
    Segments(reference): Segments<String>,
    Params(removal): Params<Removal>,
) -> Reply<Vec<String>> {
    let remove = move |daemon: &Daemon| {
        let lines = daemon.storaged.remove_image(&reference, removal.force)?;
        daemon.told_of_removed_images(&lines);
        Ok::<_, ApiError>(lines)
    };
    daemon.run(remove).await.map(Json)
}
