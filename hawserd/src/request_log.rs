//! Around every request: a span, a line in the log, a count in the metrics, and a net under it.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, MatchedPath, Request, State};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::serve::IncomingStream;
use futures_util::FutureExt;
use tokio::net::UnixListener;
use tracing::{Instrument, Span, debug, error, info, info_span};

use crate::failure::Failure;
use crate::metrics::Metrics;

/// Who is at the other end of a connection, as the kernel says (`SO_PEERCRED`, unix(7)).
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Peer {
    uid: Option<u32>,
    pid: Option<i32>,
}

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        stream
            .io()
            .peer_cred()
            .map_or(Self::default(), |credentials| Self {
                uid: Some(credentials.uid()),
                pid: credentials.pid(),
            })
    }
}

/// Marks the response to a `POST` that changes nothing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reading;

static NEXT_OP: AtomicU64 = AtomicU64::new(1);

/// Middleware of both sockets.
pub(crate) async fn log(
    State(metrics): State<Arc<Metrics>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    request: Request,
    next: Next,
) -> Response {
    let started = Instant::now();
    let method = request.method().clone();
    // What matched, not what was asked: the number of series must not be the client's to choose.
    let matched = request.extensions().get::<MatchedPath>();
    let route = matched.map_or("unknown", MatchedPath::as_str).to_owned();
    let span = info_span!(
        "request",
        op_id = NEXT_OP.fetch_add(1, Ordering::Relaxed),
        op = %format_args!("{method} {}", request.uri().path()),
        peer_uid = peer.uid,
        peer_pid = peer.pid,
    );
    let answered = AssertUnwindSafe(next.run(request).instrument(span.clone()))
        .catch_unwind()
        .await;
    // The panic's own words are in the log, by the panic hook.
    let response = answered.unwrap_or_else(|_panicked| Failure::bug().into_response());
    let elapsed = started.elapsed();
    metrics.count(&method, route, response.status().as_u16(), elapsed);
    report(&span, &method, &response, elapsed.as_micros());
    response
}

/// Readings are `debug`; what changed the world is `info`; a fault is `error`. A refusal is the
/// client's business, whom it has been told.
fn report(span: &Span, method: &Method, response: &Response, micros: u128) {
    let _entered = span.enter();
    let status = response.status().as_u16();
    let refusal = response.extensions().get::<Failure>();
    let reading = *method == Method::GET || response.extensions().get::<Reading>().is_some();
    match refusal.map(|failure| &failure.0) {
        Some(refusal) if refusal.code == api::ErrorCode::Internal => {
            error!(status, micros, error = %refusal, "failed");
        }
        Some(refusal) => debug!(status, micros, error = %refusal, "refused"),
        None if reading => debug!(status, micros, "answered"),
        None => info!(status, micros, "done"),
    }
}

#[cfg(test)]
mod tests {
    use api::{Client, ErrorCode};
    use axum::routing::get;
    use axum::{Router, middleware};

    use super::*;

    #[tokio::test]
    async fn a_panic_costs_one_request() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let metrics = Arc::new(Metrics::new());
        let router = Router::new()
            .route("/panic", get(async || -> () { panic!("a bug") }))
            .route("/fine", get(async || "fine"))
            .layer(middleware::from_fn_with_state(metrics, log));
        let service = router.into_make_service_with_connect_info::<Peer>();
        tokio::spawn(axum::serve(listener, service).into_future());
        let client = tokio::task::spawn_blocking(move || {
            let client = Client::new(path);
            let failed = client.get_text("/panic").unwrap_err();
            assert_eq!(failed.api().unwrap().code, ErrorCode::Internal);
            assert_eq!(client.get_text("/fine").unwrap(), "fine");
        });
        client.await.unwrap();
    }
}
