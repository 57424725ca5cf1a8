//! The volume-plugin socket: hands path and body to storaged, whatever the media type says.

use api::volume_plugin::{
    ACTIVATE, CAPABILITIES, CREATE, GET, LIST, MEDIA_TYPE, MOUNT, PATH, REMOVE, Reply, UNMOUNT,
};
use axum::Json;
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::post;

use crate::daemon::Daemon;
use crate::failure::Failure;
use crate::request_log::Reading;

/// Verbs that storaged answers from memory. They do not queue for a thread, so that they answer
/// even while every thread waits for a mount that hangs.
const READINGS: [&str; 5] = [ACTIVATE, CAPABILITIES, GET, LIST, PATH];
const CHANGES: [&str; 4] = [CREATE, REMOVE, MOUNT, UNMOUNT];

/// A path that is no verb goes to storaged, too, which refuses it in the protocol's own way.
pub(crate) fn routes() -> Router<Daemon> {
    let mut router = Router::new().fallback(change);
    for verb in READINGS {
        router = router.route(verb, post(read));
    }
    for verb in CHANGES {
        router = router.route(verb, post(change));
    }
    router
}

async fn read(State(daemon): State<Daemon>, uri: Uri, body: Bytes) -> Response {
    let mut response = reply(daemon.storaged.plugin_call(uri.path(), &body));
    response.extensions_mut().insert(Reading);
    response
}

async fn change(State(daemon): State<Daemon>, uri: Uri, body: Bytes) -> Response {
    let call = daemon.run(move |daemon| {
        let answer = daemon.storaged.plugin_call(uri.path(), &body);
        if answer.1.err.is_empty() {
            daemon.told_of_plugin_call(uri.path(), &body);
        }
        Ok::<_, api::ApiError>(answer)
    });
    match call.await {
        Ok(answer) => reply(answer),
        Err(failure) => {
            let err = failure.0.message;
            reply((
                500,
                Reply {
                    err,
                    ..Reply::default()
                },
            ))
        }
    }
}

fn reply((status, reply): (u16, Reply)) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let refusal = (!reply.err.is_empty()).then(|| Failure::invalid(reply.err.clone()));
    let mut response = (status, [(CONTENT_TYPE, MEDIA_TYPE)], Json(reply)).into_response();
    if let Some(refusal) = refusal {
        // For the request log.
        response.extensions_mut().insert(refusal);
    }
    response
}
