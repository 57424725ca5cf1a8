//! Events: told by us and by the launcher, read by whoever asks.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use api::event::{Event, EventQuery};
use api::path;
use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use futures_util::stream;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, timeout_at};

use crate::daemon::Daemon;
use crate::extract::{Content, Params};
use crate::failure::Failure;
use crate::request_log::Reading;

/// What is told is bounded, for it is kept.
const MAX_TEXT: usize = 4096;
/// Far enough: tokio's clock does not reach to the end of time.
const LONG: Duration = Duration::from_secs(30 * 24 * 3600);

pub(crate) fn routes() -> Router<Daemon> {
    Router::new().route(path::EVENTS, get(listen).post(tell))
}

/// What is told has been done already; the log need not say it once more.
async fn tell(
    State(daemon): State<Daemon>,
    Content(event): Content<Event>,
) -> Result<(StatusCode, Extension<Reading>), Failure> {
    let attributes = event.actor.attributes.iter();
    let is_long = attributes
        .flat_map(|(name, value)| [name, value])
        .chain([&event.kind, &event.action, &event.actor.id])
        .any(|text| text.len() > MAX_TEXT);
    if is_long || event.kind.is_empty() || event.action.is_empty() {
        return Err(Failure::invalid(format!(
            "an event has a type, an action, and texts of at most {MAX_TEXT} bytes"
        )));
    }
    daemon.events.record(event);
    Ok((StatusCode::NO_CONTENT, Extension(Reading)))
}

async fn listen(State(daemon): State<Daemon>, Params(query): Params<EventQuery>) -> Response {
    let (past, live) = daemon.events.listen(query.since);
    let past: VecDeque<Event> = past
        .into_iter()
        .filter(|event| query.until.is_none_or(|until| event.time_nano <= until))
        .collect();
    let until = query.until.map_or(LONG, from_now);
    let ends = query.until.is_some();
    let listener = Listener {
        past,
        live: live.filter(|_| !(ends && until.is_zero())),
        deadline: ends.then(|| Instant::now() + until),
    };
    let lines = stream::unfold(listener, async |mut listener| {
        let line = listener.next().await?;
        Some((Ok::<_, io::Error>(line), listener))
    });
    let body = Body::from_stream(lines);
    ([(CONTENT_TYPE, "application/x-ndjson")], body).into_response()
}

/// How long it is until a time; nothing when it has passed.
fn from_now(nanoseconds: i64) -> Duration {
    let since_epoch = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(0));
    let then = UNIX_EPOCH.checked_add(since_epoch).unwrap_or(UNIX_EPOCH);
    let left = then.duration_since(SystemTime::now()).unwrap_or_default();
    left.min(LONG)
}

struct Listener {
    past: VecDeque<Event>,
    live: Option<Receiver<Event>>,
    deadline: Option<Instant>,
}

impl Listener {
    /// The next line; none at the end. A client that goes away ends it by dropping the reply.
    async fn next(&mut self) -> Option<Vec<u8>> {
        if let Some(event) = self.past.pop_front() {
            return Some(line(&event));
        }
        let live = self.live.as_mut()?;
        loop {
            let heard = match self.deadline {
                Some(deadline) => timeout_at(deadline, live.recv()).await.ok()?,
                None => live.recv().await,
            };
            match heard {
                Ok(event) => return Some(line(&event)),
                // It was too slow, and goes on with what is still there.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return None,
            }
        }
    }
}

fn line(event: &Event) -> Vec<u8> {
    // Texts and numbers only, which always serialise.
    let mut line = serde_json::to_vec(event).unwrap_or_default();
    line.push(b'\n');
    line
}
