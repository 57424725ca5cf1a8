//! What systemd is told (sd_notify(3)); nothing where there is no systemd.

use sd_notify::NotifyState;
use tracing::warn;

pub(crate) fn ready() {
    tell(NotifyState::Ready);
}

pub(crate) fn stopping() {
    tell(NotifyState::Stopping);
}

/// Pets the watchdog, if the unit has one, for as long as the event loop turns.
pub(crate) async fn watchdog() {
    let Some(limit) = sd_notify::watchdog_enabled() else {
        return;
    };
    let mut ticks = tokio::time::interval(limit / 2);
    loop {
        ticks.tick().await;
        tell(NotifyState::Watchdog);
    }
}

fn tell(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        warn!(%error, "cannot tell systemd");
    }
}
