//! Services and their members.

use std::collections::BTreeMap;
use std::time::Duration;

use api::path;
use api::service::{Drained, MemberUpdate, Service, ServiceRequest};
use api::storage::Secret;
use api::task::UpdateStatus;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;

use super::{Done, Reply, fine};
use crate::daemon::Daemon;
use crate::extract::{Content, Params, Segments};

pub(crate) fn routes() -> Router<Daemon> {
    let service = format!("{}/{{service}}", path::SERVICES);
    Router::new()
        .route(path::SERVICES, get(list))
        .route(path::SERVICES_CREATE, post(create))
        .route(&service, get(inspect).delete(remove))
        .route(&format!("{service}/{}", path::SERVICE_UPDATE), post(update))
        .route(&format!("{service}/{}", path::SERVICE_LOGINS), get(logins))
        .route(
            &format!("{service}/{}", path::SERVICE_ROLLBACK),
            post(roll_back),
        )
        .route(
            &format!("{service}/{}", path::SERVICE_UPDATE_STATUS),
            post(note_update),
        )
        .route(
            &format!("{service}/{}/{{container}}", path::SERVICE_MEMBERS),
            post(update_member),
        )
        .route(
            &format!("{}/{{container}}/{}", path::ENDPOINTS, path::DRAIN),
            post(drain),
        )
}

async fn list(State(daemon): State<Daemon>) -> Reply<Vec<Service>> {
    daemon
        .run(|daemon| fine(daemon.netd.services()))
        .await
        .map(Json)
}

async fn inspect(
    State(daemon): State<Daemon>,
    Segments(service): Segments<String>,
) -> Reply<Service> {
    daemon
        .run(move |daemon| daemon.netd.service(&service))
        .await
        .map(Json)
}

async fn logins(
    State(daemon): State<Daemon>,
    Segments(service): Segments<String>,
) -> Reply<BTreeMap<String, Secret>> {
    daemon
        .run(move |daemon| daemon.netd.service_logins(&service))
        .await
        .map(Json)
}

async fn create(
    State(daemon): State<Daemon>,
    Content(request): Content<ServiceRequest>,
) -> Reply<Service> {
    daemon
        .run_in_turn(|daemon| {
            let made = daemon.netd.create_service(request.into());
            made.inspect(|service| daemon.told_of_service("create", service))
        })
        .await
        .map(Json)
}

#[derive(Deserialize)]
struct MadeFrom {
    version: Option<u64>,
}

async fn update(
    State(daemon): State<Daemon>,
    Segments(service): Segments<String>,
    Params(made_from): Params<MadeFrom>,
    Content(request): Content<ServiceRequest>,
) -> Reply<Service> {
    let update = move |daemon: &Daemon| {
        let updated = daemon
            .netd
            .update_service(&service, made_from.version, request.into());
        updated.inspect(|service| daemon.told_of_service("update", service))
    };
    daemon.run_in_turn(update).await.map(Json)
}

#[derive(Deserialize)]
struct RollBack {
    version: Option<u64>,
    #[serde(default = "manually")]
    message: String,
}

fn manually() -> String {
    "manually requested rollback".to_owned()
}

async fn roll_back(
    State(daemon): State<Daemon>,
    Segments(service): Segments<String>,
    Params(how): Params<RollBack>,
) -> Reply<Service> {
    let roll_back = move |daemon: &Daemon| {
        let rolled = daemon
            .netd
            .roll_back_service(&service, how.version, &how.message);
        rolled.inspect(|service| daemon.told_of_service("update", service))
    };
    daemon.run_in_turn(roll_back).await.map(Json)
}

async fn note_update(
    State(daemon): State<Daemon>,
    Segments(service): Segments<String>,
    Params(made_from): Params<MadeFrom>,
    Content(status): Content<UpdateStatus>,
) -> Reply<Service> {
    let note = move |daemon: &Daemon| daemon.netd.note_update(&service, made_from.version, status);
    daemon.run_in_turn(note).await.map(Json)
}

#[derive(Deserialize)]
struct Force {
    #[serde(default)]
    force: bool,
}

async fn remove(
    State(daemon): State<Daemon>,
    Segments(service): Segments<String>,
    Params(how): Params<Force>,
) -> Done {
    daemon
        .run_in_turn(move |daemon| {
            let known = daemon.netd.service(&service)?;
            daemon.netd.remove_service(&service, how.force)?;
            daemon.told_of_service("remove", &known);
            Ok::<_, netd::NetError>(())
        })
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn update_member(
    State(daemon): State<Daemon>,
    Segments((service, container)): Segments<(String, String)>,
    Content(change): Content<MemberUpdate>,
) -> Reply<Service> {
    let update = move |daemon: &Daemon| daemon.netd.update_member(&service, &container, &change);
    daemon.run_in_turn(update).await.map(Json)
}

#[derive(Deserialize)]
struct Wait {
    /// Seconds.
    #[serde(default)]
    wait: f64,
}

/// No change waits for its turn behind this one, which may take long.
async fn drain(
    State(daemon): State<Daemon>,
    Segments(container): Segments<String>,
    Params(Wait { wait }): Params<Wait>,
) -> Reply<Drained> {
    let wait = Duration::try_from_secs_f64(wait).unwrap_or_default();
    daemon
        .run(move |daemon| daemon.netd.drain(&container, wait))
        .await
        .map(Json)
}
