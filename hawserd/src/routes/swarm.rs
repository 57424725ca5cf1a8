//! The cluster and its nodes.

use api::path;
use api::swarm::{
    Membership, Node, NodeUpdate, Peer, Role, Swarm, SwarmInit, SwarmJoin, SwarmKey, SwarmRotation,
    SwarmUpdate,
};
use api::work::{Work, WorkChange};
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;

use super::{Done, Reply};
use crate::daemon::Daemon;
use crate::extract::{Content, Params, Segments};
use crate::failure::Failure;

/// A claimed address has about 150 bytes.
const LARGEST_BACKUP: usize = 256 << 20;

pub(crate) fn routes() -> Router<Daemon> {
    let node = format!("{}/{{node}}", path::NODES);
    Router::new()
        .route(path::SWARM, get(inspect))
        .route(path::SWARM_MANAGERS, get(managers))
        .route(path::SWARM_INIT, post(init))
        .route(path::SWARM_JOIN, post(join))
        .route(path::SWARM_UPDATE, post(change))
        .route(path::SWARM_LEAVE, post(leave))
        .route(&format!("{}/{{role}}", path::SWARM_ROTATE), post(rotate))
        .route(path::SWARM_CA, post(rotate_authority))
        .route(path::SWARM_UNLOCK_KEY, get(unlock_key))
        .route(path::SWARM_UNLOCK, post(unlock))
        .route(path::SWARM_BACKUP, get(backup))
        .route(
            path::SWARM_RESTORE,
            post(restore).layer(DefaultBodyLimit::max(LARGEST_BACKUP)),
        )
        .route(path::WORK, get(work).post(change_work))
        .route(path::NODES, get(list))
        .route(&node, get(inspect_node).delete(remove))
        .route(&format!("{node}/{}", path::NODE_UPDATE), post(update))
        .route(&format!("{node}/{}", path::NODE_OUTPUT), get(output))
}

#[derive(Deserialize)]
struct Force {
    #[serde(default)]
    force: bool,
}

async fn inspect(State(daemon): State<Daemon>) -> Reply<Swarm> {
    daemon
        .run(|daemon| daemon.cluster.inspect())
        .await
        .map(Json)
}

async fn managers(State(daemon): State<Daemon>) -> Reply<Vec<Peer>> {
    daemon
        .run(|daemon| daemon.cluster.managers())
        .await
        .map(Json)
}

async fn init(
    State(daemon): State<Daemon>,
    Content(asked): Content<SwarmInit>,
) -> Reply<Membership> {
    daemon
        .run(|daemon| daemon.cluster.init(asked))
        .await
        .map(Json)
}

async fn join(
    State(daemon): State<Daemon>,
    Content(asked): Content<SwarmJoin>,
) -> Reply<Membership> {
    daemon
        .run(move |daemon| daemon.cluster.join(&asked))
        .await
        .map(Json)
}

async fn leave(State(daemon): State<Daemon>, Params(asked): Params<Force>) -> Done {
    daemon
        .run(move |daemon| daemon.cluster.leave(asked.force))
        .await
        .map(|()| StatusCode::NO_CONTENT)
}

async fn unlock_key(State(daemon): State<Daemon>) -> Reply<SwarmKey> {
    daemon
        .run(|daemon| daemon.cluster.unlock_key())
        .await
        .map(Json)
}

async fn unlock(State(daemon): State<Daemon>, Content(key): Content<SwarmKey>) -> Done {
    daemon
        .run(move |daemon| daemon.cluster.unlock(&key))
        .await
        .map(|()| StatusCode::NO_CONTENT)
}

async fn backup(State(daemon): State<Daemon>) -> Result<String, Failure> {
    daemon.run(|daemon| daemon.cluster.backup()).await
}

#[derive(Deserialize)]
struct Restore {
    #[serde(default)]
    force: bool,
    advertise: Option<String>,
}

async fn restore(
    State(daemon): State<Daemon>,
    Params(Restore { force, advertise }): Params<Restore>,
    body: String,
) -> Reply<Membership> {
    let restore = move |daemon: &Daemon| {
        let advertise = advertise.as_deref();
        daemon.cluster.restore(&body, advertise, force)
    };
    daemon.run(restore).await.map(Json)
}

async fn change(State(daemon): State<Daemon>, Content(asked): Content<SwarmUpdate>) -> Done {
    daemon
        .run(move |daemon| daemon.cluster.update(&asked))
        .await
        .map(|()| StatusCode::NO_CONTENT)
}

async fn rotate(State(daemon): State<Daemon>, Segments(role): Segments<Role>) -> Done {
    daemon
        .run(move |daemon| daemon.cluster.rotate(role))
        .await
        .map(|()| StatusCode::NO_CONTENT)
}

async fn rotate_authority(
    State(daemon): State<Daemon>,
    Content(asked): Content<SwarmRotation>,
) -> Done {
    daemon
        .run(move |daemon| daemon.cluster.rotate_authority(&asked))
        .await
        .map(|()| StatusCode::NO_CONTENT)
}

#[derive(Deserialize)]
struct All {
    #[serde(default)]
    all: bool,
}

async fn work(State(daemon): State<Daemon>, Params(asked): Params<All>) -> Reply<Option<Work>> {
    daemon
        .run(move |daemon| daemon.cluster.work(asked.all))
        .await
        .map(Json)
}

async fn change_work(State(daemon): State<Daemon>, Content(change): Content<WorkChange>) -> Done {
    daemon
        .run(move |daemon| daemon.cluster.change_work(&change))
        .await
        .map(|()| StatusCode::NO_CONTENT)
}

async fn list(State(daemon): State<Daemon>) -> Reply<Vec<Node>> {
    daemon.run(|daemon| daemon.cluster.nodes()).await.map(Json)
}

async fn inspect_node(
    State(daemon): State<Daemon>,
    Segments(node): Segments<String>,
) -> Reply<Node> {
    daemon
        .run(move |daemon| daemon.cluster.node(&node))
        .await
        .map(Json)
}

async fn update(
    State(daemon): State<Daemon>,
    Segments(node): Segments<String>,
    Content(change): Content<NodeUpdate>,
) -> Done {
    daemon
        .run(move |daemon| daemon.cluster.update_node(&node, change))
        .await
        .map(|()| StatusCode::NO_CONTENT)
}

#[derive(Deserialize)]
struct Wanted {
    request: String,
}

async fn output(
    State(daemon): State<Daemon>,
    Segments(node): Segments<String>,
    Params(Wanted { request }): Params<Wanted>,
) -> Result<Body, Failure> {
    let wanted = serde_json::from_str(&request)
        .map_err(|error| Failure::invalid(format!("request: {error}")))?;
    daemon
        .run(move |daemon| daemon.cluster.output(&node, wanted))
        .await
}

async fn remove(
    State(daemon): State<Daemon>,
    Segments(node): Segments<String>,
    Params(asked): Params<Force>,
) -> Done {
    daemon
        .run(move |daemon| daemon.cluster.remove_node(&node, asked.force))
        .await
        .map(|()| StatusCode::NO_CONTENT)
}
