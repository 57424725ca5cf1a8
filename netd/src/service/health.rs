//! What the probes of late have found.
//!
//! Verdicts are on record, with the endpoints; what leads to them is not: after a restart of the
//! daemon every member has its next failures and successes counted from zero.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use api::id::Id;
use api::service::{Health, ProbeResult};
use tokio::sync::{Notify, broadcast};

use super::pool;
use crate::error::NetError;
use crate::model::desired::Desired;
use crate::model::endpoint::{Endpoint, EndpointKey};
use crate::model::service::health::Streak;
use crate::model::service::{Member, Service, Verdict};
use crate::netd::Netd;

/// A service and an endpoint's id.
type Which = (Id, Id);

/// How many verdicts a listener may be behind.
const BEHIND: usize = 256;

/// What probes have found of a member, where they had found something else before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    pub service: Id,
    /// The service's name.
    pub name: String,
    pub container: String,
    /// What the last probe said, if the member is down.
    pub error: Option<String>,
}

#[derive(Debug)]
pub(crate) struct HealthNotes {
    notes: Mutex<HashMap<Which, Note>>,
    /// Services or their members are others than before.
    pub(super) changed: Notify,
    judged: broadcast::Sender<Judged>,
}

impl Default for HealthNotes {
    fn default() -> Self {
        Self {
            notes: Mutex::default(),
            changed: Notify::default(),
            judged: broadcast::Sender::new(BEHIND),
        }
    }
}

#[derive(Debug)]
struct Note {
    streak: Streak,
    since: Instant,
    error: String,
}

impl HealthNotes {
    /// What the last probe said, if it failed.
    pub(super) fn error(&self, service: &Id, endpoint: &Endpoint) -> String {
        let which = (service.clone(), endpoint.attachment.endpoint_id.clone());
        let notes = self.notes();
        notes
            .get(&which)
            .map_or_else(String::new, |note| note.error.clone())
    }

    /// Forgets what is not among these.
    pub(super) fn keep(&self, is_there: impl Fn(&Which) -> bool) {
        self.notes().retain(|which, _| is_there(which));
    }

    fn judge(
        &self,
        which: Which,
        health: &Health,
        verdict: Verdict,
        result: &ProbeResult,
    ) -> Verdict {
        let mut notes = self.notes();
        let note = notes.entry(which).or_insert_with(|| Note {
            streak: Streak::default(),
            since: Instant::now(),
            error: String::new(),
        });
        note.error.clone_from(&result.error);
        let age = note.since.elapsed();
        note.streak.judge(health, verdict, result.healthy, age)
    }

    fn notes(&self) -> MutexGuard<'_, HashMap<Which, Note>> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Netd {
    /// Takes what one probe of a member has found. Returns the verdict.
    pub(super) fn probed(
        &self,
        service: &Service,
        health: &Health,
        key: &EndpointKey,
        result: &ProbeResult,
    ) -> Result<Verdict, NetError> {
        let view = self.view();
        let endpoint = view.endpoints.get(key);
        let part = endpoint.and_then(|endpoint| endpoint.membership(&service.id));
        let (Some(endpoint), Some(part)) = (endpoint, part) else {
            return Ok(Verdict::Starting);
        };
        let which = (service.id.clone(), endpoint.attachment.endpoint_id.clone());
        let verdict = self.health_notes.judge(which, health, part.verdict, result);
        if verdict != part.verdict {
            let name = &service.spec.name;
            let member = endpoint.display_name();
            match verdict {
                Verdict::Down => {
                    tracing::warn!(service = %name, %member, error = %result.error, "member is down");
                }
                _ => tracing::info!(service = %name, %member, "member serves"),
            }
            let keys = std::slice::from_ref(key);
            self.change_parts(&service.id, keys, |part| part.verdict = verdict)?;
            // Nobody has to listen.
            drop(self.health_notes.judged.send(Judged {
                service: service.id.clone(),
                name: name.to_string(),
                container: endpoint.attachment.container_id.clone(),
                error: (verdict == Verdict::Down).then(|| result.error.clone()),
            }));
        }
        Ok(verdict)
    }

    /// Verdicts from now on, each after it is on record.
    pub fn verdicts(&self) -> broadcast::Receiver<Judged> {
        self.health_notes.judged.subscribe()
    }

    /// Says once that a service has come to its last resort, and once that it has left it.
    pub(crate) fn note_last_resort(&self, before: &Desired, after: &Desired, service: &Id) {
        let Some(name) = after.services.get(service).map(|s| &s.spec.name) else {
            return;
        };
        match (
            is_last_resort(before, service),
            is_last_resort(after, service),
        ) {
            (false, true) => {
                tracing::warn!(service = %name, "no member is well, all of them are used");
            }
            (true, false) => tracing::info!(service = %name, "a member is well again"),
            _ => {}
        }
    }

    /// Those who probe look again.
    pub(crate) fn service_changed(&self) {
        self.health_notes.changed.notify_one();
    }
}

fn is_last_resort(desired: &Desired, service: &Id) -> bool {
    let Some(service) = desired.services.get(service) else {
        return false;
    };
    let members: Vec<Member<'_>> = desired.members(&service.id).collect();
    let mut places = service.places.iter();
    places.any(|place| pool(&members, place).is_last_resort())
}
