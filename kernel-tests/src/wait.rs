//! Waiting for something to become true, with a deadline.

use std::env;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

const STEP: Duration = Duration::from_millis(20);
/// Set on hosts that take ten times as long for everything, as guests do.
const SLOW_ENV: &str = "HAWSER_SLOW_HOST";

fn slowness() -> u16 {
    if env::var_os(SLOW_ENV).is_some() {
        10
    } else {
        1
    }
}

/// How many of `count` this host does in the time that others take for all of them.
pub fn in_time(count: usize) -> usize {
    count / usize::from(slowness())
}

/// What is to this host what `time` is to others.
pub fn slowed(time: Duration) -> Duration {
    time * slowness().into()
}

/// Polls `probe` until it yields a value.
///
/// # Errors
/// When `limit` has passed; the error names `what`.
pub fn until<T>(limit: Duration, what: &str, mut probe: impl FnMut() -> Option<T>) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = probe() {
            return Ok(value);
        }
        if Instant::now() >= deadline {
            bail!("not within {} s: {what}", limit.as_secs());
        }
        std::thread::sleep(STEP);
    }
}
