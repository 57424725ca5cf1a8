//! What happened lately, and who wants to know of it as it happens.
//!
//! The past is a ring of fixed length that a restart empties: events tell observers when to look,
//! and what is is in the records. Nobody waits for a slow listener: one that falls too far behind
//! misses some.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use api::event::Event;
use tokio::sync::broadcast::{self, Receiver, Sender};

/// Of the past; Docker keeps 256. Each takes more than a kilobyte.
const KEPT: usize = 512;
/// How far a listener may fall behind.
const BEHIND: usize = 1024;
/// Attributes are labels mostly; an event with more is kept without them.
const MAX_ATTRIBUTES: usize = 256;

#[derive(Debug)]
pub(crate) struct Events {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    past: VecDeque<Event>,
    /// None when the daemon stops.
    live: Option<Sender<Event>>,
}

impl Events {
    pub(crate) fn new() -> Self {
        Self {
            state: Mutex::new(State {
                past: VecDeque::new(),
                live: Some(broadcast::channel(BEHIND).0),
            }),
        }
    }

    /// Records what has just happened.
    pub(crate) fn record(&self, event: Event) {
        let mut state = self.lock();
        // Under the lock, so that times rise along the ring.
        let event = stamped(event, SystemTime::now());
        if state.past.len() == KEPT {
            state.past.pop_front();
        }
        state.past.push_back(event.clone());
        if let Some(live) = &state.live {
            // Nobody listens.
            drop(live.send(event));
        }
    }

    /// The events since a time, and those to come: none is missed and none comes twice. No receiver
    /// when the daemon is about to stop.
    pub(crate) fn listen(&self, since: Option<i64>) -> (Vec<Event>, Option<Receiver<Event>>) {
        let state = self.lock();
        let past = since.map_or_else(Vec::new, |since| {
            let wanted = state.past.iter().filter(|event| event.time_nano >= since);
            wanted.cloned().collect()
        });
        (past, state.live.as_ref().map(Sender::subscribe))
    }

    /// Ends what listens, so that nobody waits for it.
    pub(crate) fn close(&self) {
        self.lock().live = None;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // Every change of it is whole.
        self.state
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn stamped(mut event: Event, now: SystemTime) -> Event {
    let passed = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    event.time_nano = i64::try_from(passed.as_nanos()).unwrap_or(i64::MAX);
    event.time = event.time_nano / 1_000_000_000;
    if event.scope.is_empty() {
        "local".clone_into(&mut event.scope);
    }
    while event.actor.attributes.len() > MAX_ATTRIBUTES {
        event.actor.attributes.pop_last();
    }
    event
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(action: &str) -> Event {
        Event::new("container", action, "c1")
    }

    #[test]
    fn the_past_is_bounded_and_keeps_the_newest() {
        let events = Events::new();
        for number in 0..KEPT + 10 {
            events.record(event(&number.to_string()));
        }
        let (past, _) = events.listen(Some(0));
        assert_eq!(past.len(), KEPT);
        assert_eq!(past[0].action, "10");
        assert!(
            past.windows(2)
                .all(|pair| pair[0].time_nano <= pair[1].time_nano)
        );
        let last = past[KEPT - 1].time_nano;
        assert_eq!(events.listen(Some(last + 1)).0, []);
        assert_eq!(
            events.listen(None).0,
            [],
            "nothing of the past unless asked"
        );
    }

    #[test]
    fn a_listener_hears_what_happens_later_once() {
        let events = Events::new();
        events.record(event("before"));
        let (past, live) = events.listen(Some(0));
        events.record(event("after"));
        assert_eq!(past.len(), 1);
        let mut live = live.unwrap();
        assert_eq!(live.try_recv().unwrap().action, "after");
        assert!(live.try_recv().is_err());
        events.close();
        assert!(events.listen(None).1.is_none());
        events.record(event("late"));
    }
}
