//! Layers: the one request whose body is a stream of any length.

use std::io;

use api::id::Digest;
use api::path;
use api::storage::Layer;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, State};
use axum::routing::get;
use axum::{Json, Router};
use futures_util::TryStreamExt;
use serde::Deserialize;
use tokio_util::io::{StreamReader, SyncIoBridge};

use super::{Reply, fine};
use crate::daemon::Daemon;
use crate::extract::{Params, Segments};
use crate::failure::Failure;
use crate::outgoing;

pub(crate) fn routes() -> Router<Daemon> {
    // storaged limits what a layer may cost; it sees how much comes out of a compressed stream.
    Router::new()
        .route(path::LAYERS, get(list).post(import))
        .route(
            &format!("{}/{{chain}}/{}", path::LAYERS, path::LAYER_ARCHIVE),
            get(archive),
        )
        .layer(DefaultBodyLimit::disable())
}

async fn list(State(daemon): State<Daemon>) -> Reply<Vec<Layer>> {
    daemon
        .run(|daemon| fine(daemon.storaged.layers()))
        .await
        .map(Json)
}

#[derive(Deserialize)]
struct Import {
    parent: Option<Digest>,
    diff_id: Option<Digest>,
    #[serde(default)]
    meanwhile: bool,
}

/// The stream is read by the thread that unpacks it: a slow disk slows the client down and fills
/// no memory. A client that goes away is a read error in the middle, after which storaged commits
/// nothing.
async fn import(
    State(daemon): State<Daemon>,
    Params(import): Params<Import>,
    body: Body,
) -> Reply<Layer> {
    let chunks = body.into_data_stream().map_err(io::Error::other);
    let mut reader = SyncIoBridge::new(StreamReader::new(chunks));
    daemon
        .run(move |daemon| {
            let parent = import.parent.as_ref();
            match (&import.diff_id, import.meanwhile) {
                (Some(diff_id), true) => {
                    daemon
                        .storaged
                        .import_layer_meanwhile(parent, diff_id, &mut reader)
                }
                (diff_id, _) => daemon
                    .storaged
                    .import_layer(parent, diff_id.as_ref(), &mut reader),
            }
        })
        .await
        .map(Json)
}

async fn archive(
    State(daemon): State<Daemon>,
    Segments(chain): Segments<Digest>,
) -> Result<Body, Failure> {
    let known = chain.clone();
    daemon
        .clone()
        .run(move |daemon| daemon.storaged.layer(&known))
        .await?;
    Ok(outgoing::stream(daemon, move |daemon, out| {
        daemon.storaged.export_layer(&chain, out)
    }))
}
