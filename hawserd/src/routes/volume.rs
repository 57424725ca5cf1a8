//! Volumes.

use std::io;

use api::daemon::Pruned;
use api::path;
use api::storage::{
    PruneCandidate, Snapshot, SnapshotCreate, TrashedVolume, Volume, VolumeClone, VolumeCreate,
    VolumeImport, VolumePopulate, VolumePrune, VolumeResize, VolumeStats, VolumeUnlock,
};
use api::{ApiError, ErrorCode};
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use futures_util::TryStreamExt;
use serde::Deserialize;
use tokio_util::io::{StreamReader, SyncIoBridge};

use super::{Done, Reply, fine};
use crate::daemon::Daemon;
use crate::extract::{Content, Params, Segments};
use crate::failure::Failure;
use crate::outgoing;

pub(crate) fn routes() -> Router<Daemon> {
    let volume = format!("{}/{{name}}", path::VOLUMES);
    let snapshots = format!("{volume}/{}", path::VOLUME_SNAPSHOTS);
    Router::new()
        .route(path::VOLUMES, get(list))
        .route(path::VOLUMES_CREATE, post(create))
        .route(path::VOLUMES_STATS, get(stats))
        .route(path::VOLUMES_PRUNE, post(prune))
        .route(path::VOLUMES_PRUNE_PLAN, post(plan_prune))
        .route(path::VOLUMES_TRASH, get(trash).delete(empty_trash))
        .route(&format!("{}/{{name}}", path::VOLUMES_TRASH), post(restore))
        .route(path::SNAPSHOTS, get(all_snapshots))
        .route(&snapshots, get(list_snapshots).post(create_snapshot))
        .route(
            &format!("{snapshots}/{{snapshot}}"),
            post(roll_back).delete(remove_snapshot),
        )
        .route(&format!("{volume}/{}", path::VOLUME_CLONE), post(clone))
        .route(
            &format!("{volume}/{}", path::VOLUME_ARCHIVE),
            // storaged limits what may come; it sees how much comes out of a compressed stream.
            get(export).post(import).layer(DefaultBodyLimit::disable()),
        )
        .route(&format!("{volume}/{}", path::VOLUME_UNLOCK), post(unlock))
        .route(&format!("{volume}/{}", path::VOLUME_LOCK), post(lock))
        .route(&format!("{volume}/{}", path::VOLUME_RESIZE), post(resize))
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
        .run(|daemon| {
            let is_new = daemon.storaged.volume(&request.name).is_err();
            let volume = daemon.storaged.create_volume(request)?;
            if is_new {
                daemon.told_of_volume("create", volume.name.as_str(), &volume.driver);
            }
            Ok::<_, ApiError>(volume)
        })
        .await
        .map(Json)
}

async fn remove(State(daemon): State<Daemon>, Segments(name): Segments<String>) -> Done {
    daemon
        .run(move |daemon| {
            let before = daemon.storaged.volume(&name);
            daemon.storaged.remove_volume(&name)?;
            if let Ok(volume) = before {
                daemon.told_of_volume("destroy", &name, &volume.driver);
            }
            Ok::<_, ApiError>(())
        })
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn prune(
    State(daemon): State<Daemon>,
    Content(request): Content<VolumePrune>,
) -> Reply<Pruned> {
    daemon
        .run(move |daemon| {
            let pruned = daemon.storaged.prune_volumes(&request);
            for name in &pruned.deleted {
                daemon.told_of_volume("destroy", name, "local");
            }
            fine(pruned)
        })
        .await
        .map(Json)
}

async fn plan_prune(
    State(daemon): State<Daemon>,
    Content(request): Content<VolumePrune>,
) -> Reply<Vec<PruneCandidate>> {
    daemon
        .run(move |daemon| fine(daemon.storaged.plan_prune(&request)))
        .await
        .map(Json)
}

async fn trash(State(daemon): State<Daemon>) -> Reply<Vec<TrashedVolume>> {
    daemon
        .run(|daemon| fine(daemon.storaged.trashed_volumes()))
        .await
        .map(Json)
}

async fn empty_trash(State(daemon): State<Daemon>) -> Reply<Pruned> {
    daemon
        .run(|daemon| fine(daemon.storaged.empty_trash()))
        .await
        .map(Json)
}

async fn restore(State(daemon): State<Daemon>, Segments(name): Segments<String>) -> Reply<Volume> {
    daemon
        .run(move |daemon| daemon.storaged.restore_volume(&name))
        .await
        .map(Json)
}

async fn all_snapshots(State(daemon): State<Daemon>) -> Reply<Vec<Snapshot>> {
    daemon
        .run(|daemon| daemon.storaged.snapshots(None))
        .await
        .map(Json)
}

async fn list_snapshots(
    State(daemon): State<Daemon>,
    Segments(name): Segments<String>,
) -> Reply<Vec<Snapshot>> {
    daemon
        .run(move |daemon| daemon.storaged.snapshots(Some(&name)))
        .await
        .map(Json)
}

async fn create_snapshot(
    State(daemon): State<Daemon>,
    Segments(name): Segments<String>,
    Content(request): Content<SnapshotCreate>,
) -> Reply<Snapshot> {
    daemon
        .run(move |daemon| daemon.storaged.create_snapshot(&name, &request))
        .await
        .map(Json)
}

async fn roll_back(
    State(daemon): State<Daemon>,
    Segments((name, snapshot)): Segments<(String, String)>,
) -> Done {
    daemon
        .run(move |daemon| daemon.storaged.roll_back(&name, &snapshot))
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn remove_snapshot(
    State(daemon): State<Daemon>,
    Segments((name, snapshot)): Segments<(String, String)>,
) -> Done {
    daemon
        .run(move |daemon| daemon.storaged.remove_snapshot(&name, &snapshot))
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn clone(
    State(daemon): State<Daemon>,
    Segments(name): Segments<String>,
    Content(request): Content<VolumeClone>,
) -> Reply<Volume> {
    daemon
        .run(move |daemon| daemon.storaged.clone_volume(&name, request))
        .await
        .map(Json)
}

#[derive(Deserialize)]
struct Stats {
    #[serde(default)]
    names: String,
}

async fn stats(
    State(daemon): State<Daemon>,
    Params(Stats { names }): Params<Stats>,
) -> Reply<Vec<VolumeStats>> {
    let names = names.split(',').filter(|name| !name.is_empty());
    let names: Vec<String> = names.map(str::to_owned).collect();
    daemon
        .run(move |daemon| daemon.storaged.volume_stats(&names))
        .await
        .map(Json)
}

#[derive(Deserialize)]
struct Export {
    #[serde(default)]
    live: bool,
}

async fn export(
    State(daemon): State<Daemon>,
    Segments(name): Segments<String>,
    Params(Export { live }): Params<Export>,
) -> Result<Body, Failure> {
    let known = name.clone();
    daemon
        .clone()
        .run(move |daemon| daemon.storaged.check_export(&known, live))
        .await?;
    Ok(outgoing::stream(daemon, move |daemon, out| {
        daemon.storaged.export_volume(&name, live, out)
    }))
}

#[derive(Deserialize)]
struct Import {
    /// JSON of a [`VolumeImport`].
    request: Option<String>,
}

async fn import(
    State(daemon): State<Daemon>,
    Segments(name): Segments<String>,
    Params(Import { request }): Params<Import>,
    body: Body,
) -> Reply<Volume> {
    let request: VolumeImport = match request {
        Some(text) => serde_json::from_str(&text).map_err(|error| {
            let message = format!("the parameter \"request\" cannot be read: {error}");
            Failure::from(ApiError::new(ErrorCode::InvalidInput, message))
        })?,
        None => VolumeImport::default(),
    };
    let chunks = body.into_data_stream().map_err(io::Error::other);
    let mut reader = SyncIoBridge::new(StreamReader::new(chunks));
    let import = move |daemon: &Daemon| daemon.storaged.import_volume(&name, request, &mut reader);
    daemon.run(import).await.map(Json)
}

async fn unlock(
    State(daemon): State<Daemon>,
    Segments(name): Segments<String>,
    Content(request): Content<VolumeUnlock>,
) -> Reply<Volume> {
    let unlock = move |daemon: &Daemon| {
        let key = request.key.expose();
        daemon.storaged.unlock_volume(&name, key)
    };
    daemon.run(unlock).await.map(Json)
}

async fn lock(State(daemon): State<Daemon>, Segments(name): Segments<String>) -> Done {
    daemon
        .run(move |daemon| daemon.storaged.lock_volume(&name))
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn resize(
    State(daemon): State<Daemon>,
    Segments(name): Segments<String>,
    Content(request): Content<VolumeResize>,
) -> Reply<Volume> {
    daemon
        .run(move |daemon| daemon.storaged.resize_volume(&name, &request.size))
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

#[derive(Deserialize)]
struct User {
    group: Option<u64>,
}

async fn add_user(
    State(daemon): State<Daemon>,
    Segments((name, container)): Segments<(String, String)>,
    Params(User { group }): Params<User>,
) -> Done {
    daemon
        .run(move |daemon| match group {
            None => daemon.storaged.add_volume_user(&name, &container),
            Some(group) => daemon.storaged.place_volume_user(&name, &container, group),
        })
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
