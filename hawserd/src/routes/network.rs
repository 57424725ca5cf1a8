//! Networks and endpoints.

use std::time::{Duration, Instant};

use api::daemon::Pruned;
use api::id::{IfName, MacAddr};
use api::net::{
    AttachRequest, Attachment, EndpointRename, Network, NetworkCreate, NetworkCreated, NetworkPrune,
};
use api::path;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use netd::NetError;
use serde::Deserialize;

use super::{Done, Reply, fine};
use crate::daemon::Daemon;
use crate::extract::{Content, Params, Segments};
use crate::failure::Failure;

/// How long the containers of a service that was removed may take to end: as they are given by default,
/// with their connections, twice.
const ENDING: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(200);

pub(crate) fn routes() -> Router<Daemon> {
    Router::new()
        .route(path::NETWORKS, get(list))
        .route(path::NETWORKS_CREATE, post(create))
        .route(path::NETWORKS_PRUNE, post(prune))
        .route(
            &format!("{}/{{network}}", path::NETWORKS),
            get(inspect).delete(remove),
        )
        .route(
            &format!("{}/{{network}}/{}", path::NETWORKS, path::STATUS),
            get(status),
        )
        .route(path::ENDPOINTS, get(endpoints).post(attach))
        .route(path::ENDPOINTS_RENAME, post(rename))
        .route(
            &format!("{}/{{container}}/{{ifname}}", path::ENDPOINTS),
            get(check).delete(detach),
        )
}

async fn list(State(daemon): State<Daemon>) -> Reply<Vec<Network>> {
    daemon
        .run(|daemon| fine(daemon.netd.networks()))
        .await
        .map(Json)
}

async fn inspect(
    State(daemon): State<Daemon>,
    Segments(network): Segments<String>,
) -> Reply<Network> {
    daemon
        .run(move |daemon| daemon.netd.network(&network))
        .await
        .map(Json)
}

async fn status(
    State(daemon): State<Daemon>,
    Segments(network): Segments<String>,
) -> Reply<Network> {
    daemon
        .run(move |daemon| daemon.netd.ready(&network))
        .await
        .map(Json)
}

async fn create(
    State(daemon): State<Daemon>,
    Content(request): Content<NetworkCreate>,
) -> Reply<NetworkCreated> {
    daemon
        .run_in_turn(|daemon| {
            let created = daemon.netd.create_network(request)?;
            if let Ok(network) = daemon.netd.network(created.id.as_str()) {
                daemon.told_of_network("create", &network);
            }
            Ok::<_, NetError>(created)
        })
        .await
        .map(Json)
}

/// Waits for what ends on the network, and keeps nobody else waiting meanwhile.
async fn remove(State(daemon): State<Daemon>, Segments(network): Segments<String>) -> Done {
    let deadline = Instant::now() + ENDING;
    loop {
        let key = network.clone();
        let ends = daemon
            .clone()
            .run_in_turn(move |daemon| {
                let before = daemon.netd.network(&key);
                match daemon.netd.remove_network(&key) {
                    Err(error) if error.is_ending() && Instant::now() < deadline => Ok(true),
                    removed => removed.map(|()| {
                        if let Ok(network) = before {
                            daemon.told_of_network("destroy", &network);
                        }
                        false
                    }),
                }
            })
            .await?;
        if !ends {
            return Ok(StatusCode::NO_CONTENT);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

async fn prune(
    State(daemon): State<Daemon>,
    Content(which): Content<Option<NetworkPrune>>,
) -> Reply<Pruned> {
    let which = which.unwrap_or_default();
    let deleted = daemon
        .run_in_turn(move |daemon| {
            let before = daemon.netd.networks();
            let deleted = daemon.netd.prune_networks(&which)?;
            for network in &before {
                if deleted.iter().any(|name| network.name.as_str() == name) {
                    daemon.told_of_network("destroy", network);
                }
            }
            Ok::<_, NetError>(deleted)
        })
        .await?;
    Ok(Json(Pruned {
        deleted,
        ..Pruned::default()
    }))
}

#[derive(Deserialize)]
struct OfContainer {
    container: Option<String>,
}

async fn endpoints(
    State(daemon): State<Daemon>,
    Params(of): Params<OfContainer>,
) -> Reply<Vec<Attachment>> {
    let list = move |daemon: &Daemon| fine(daemon.netd.endpoints(of.container.as_deref()));
    daemon.run(list).await.map(Json)
}

async fn attach(
    State(daemon): State<Daemon>,
    Content(request): Content<AttachRequest>,
) -> Reply<Attachment> {
    daemon
        .run_in_turn(|daemon| {
            let attachment = daemon.netd.attach(request)?;
            daemon.told_of_endpoint("connect", &attachment);
            Ok::<_, NetError>(attachment)
        })
        .await
        .map(Json)
}

async fn rename(
    State(daemon): State<Daemon>,
    Content(request): Content<EndpointRename>,
) -> Reply<Vec<Attachment>> {
    daemon
        .run_in_turn(move |daemon| daemon.netd.rename(&request))
        .await
        .map(Json)
}

#[derive(Deserialize)]
struct Expected {
    mac: Option<MacAddr>,
}

async fn check(
    State(daemon): State<Daemon>,
    Segments((container, ifname)): Segments<(String, String)>,
    Params(expected): Params<Expected>,
) -> Reply<Attachment> {
    let ifname = interface(&ifname)?;
    let mac = expected.mac;
    daemon
        .run(move |daemon| daemon.netd.check_with_mac(&container, &ifname, mac))
        .await
        .map(Json)
}

async fn detach(
    State(daemon): State<Daemon>,
    Segments((container, ifname)): Segments<(String, String)>,
) -> Done {
    let ifname = interface(&ifname)?;
    daemon
        .run_in_turn(move |daemon| {
            let of_container = daemon.netd.endpoints(Some(&container));
            let before = of_container.into_iter().find(|one| one.ifname == ifname);
            daemon.netd.detach(&container, &ifname)?;
            if let Some(endpoint) = before {
                daemon.told_of_endpoint("disconnect", &endpoint);
            }
            Ok::<_, NetError>(())
        })
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

fn interface(text: &str) -> Result<IfName, Failure> {
    IfName::parse(text).map_err(|error| Failure::invalid(error.to_string()))
}
